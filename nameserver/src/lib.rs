//! The nameserver: who is alive, and where each queue lives. In memory only; brokers tell it everything every few
//! seconds, so a nameserver that starts again knows all of it after one such interval.
//!
//! **Invariants**: nothing is persisted; no connection is ever opened; nameservers do not know each other; the rules
//! ([`registry`], [`routes`]) are pure: state and time in, decision out.

mod config;
mod handler;
pub mod registry;
pub mod routes;
mod server;

pub use config::NameserverConfig;
pub use server::{NameserverError, NameserverHandle, start};
