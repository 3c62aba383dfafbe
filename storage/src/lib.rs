//! The commit log of a shard: one log for all its queues, on direct I/O, with group commit.
//!
//! **Invariants**: nothing is acknowledged before it is synced; acknowledged bytes are never overwritten; recovery
//! never modifies a segment; nothing is deleted because something else is missing or unreadable; this crate never
//! sees a socket, and only [`io`] names glommio.

mod cache;
mod crc;
mod fast_hash;
pub mod format;
#[cfg(test)]
mod format_doc;
mod index;
pub mod io;
pub mod log;
pub mod offline;
mod producer_state;
pub mod repair;
pub mod retention;
pub mod segment;
mod state;
pub mod types;

pub use types::{LogId, Position, Ticket};
