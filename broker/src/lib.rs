//! The broker: joins the commit log and the wire protocol, one shard per core.
//!
//! [`start`] runs a broker inside this process. A *shard* is a thread with its own logs, connections and timers; shards
//! talk only through [`shard::mesh`]. Rules (catalog, commits, long polling, gathering of answers) are pure and apart
//! from what reads sockets and logs.
//!
//! **Invariants**: nothing is acknowledged before it is as safe as was asked for; what is told of offsets and topics is
//! durable; every queue, list and wait has a limit; brokers never call brokers.

mod bootstrap;
pub mod broker;
pub mod catalog;
pub mod config;
mod control;
pub mod data_dir;
pub mod delay;
mod error;
pub mod fetch;
pub mod group;
mod handler;
mod http;
pub mod long_poll;
mod metrics;
mod nudge;
pub mod process;
mod register;
mod retention;
pub mod retry;
pub mod shard;
mod state_key;
pub mod stats;

pub use bootstrap::{BrokerHandle, start};
pub use config::{BrokerConfig, ConfigError};
pub use error::BrokerError;
