//! The record batch of EQueue: one byte layout for wire, disk and client.

mod error;
mod ids;

pub use error::RecordError;
pub use ids::{MasterEpoch, Offset, QueueKey};
