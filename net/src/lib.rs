//! The wire protocol between clients, brokers and nameservers, and (feature `server`) its glommio transport.
//!
//! **Invariants**: everything outside `transport` is pure - bytes in, values out; no file is ever touched here; a
//! length from the wire is checked against a named limit before memory is allocated for it; no input makes it panic.

pub mod api;
mod code;
mod codec;
pub mod frame;
pub mod hidden;
pub mod limits;
pub mod preamble;
mod schema;
#[cfg(feature = "server")]
pub mod transport;

pub use code::{Code, Remedy};
pub use codec::{put_failure, put_fetch_answer, put_produce_answer};
