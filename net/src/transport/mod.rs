//! Frames over TCP on a glommio executor: the only place of this crate that names glommio.
//!
//! A connection's way: [`listener`] accepts it, reads exactly the preamble and gives the bare descriptor to a callback;
//! whoever is to serve it (this executor or another one) gives it to its [`Connections`], which runs one task that reads
//! and one that writes. [`dialer`] is the other side: requests from a server to another server.
//!
//! **Invariants**: no borrow of a cell is held across an await; a descriptor has one owner at any time and is closed
//! when that owner is dropped; every buffer, queue and wait has a limit; no task is started per request.

mod connection;
mod connections;
pub mod dialer;
pub mod listener;
mod outgoing;
pub mod preflight;
mod readiness;
mod socket;
mod wake;

pub use connection::{CloseReason, Connection, Handler, Hold, Shared};
pub use connections::{ConnectionLimits, Connections};
