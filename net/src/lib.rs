//! The wire protocol between clients, brokers and nameservers, and (feature `server`) its glommio transport.
//!
//! **Invariants**: everything outside [`transport`] is pure - bytes in, values out; no file is ever touched here; a
//! length from the wire is checked against a named limit before memory is allocated for it; no input makes it panic.
#![allow(clippy::todo, reason = "contract skeleton: bodies follow")]

pub mod api;
mod code;
pub mod frame;
pub mod preamble;

pub use code::{Code, Remedy};
