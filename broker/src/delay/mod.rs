//! Delayed messages: stored at once, delivered when they are due.
//!
//! ```text
//! Produce -> accept -> delay queue of the target queue (same log, same flush)      wheel: what is due when
//!                                                                                   |  a few seconds ahead
//!            append_atomic { batch in the target queue, marks } <- deliver <- pass <- ready
//! ```
//! Each queue may have a hidden *delay queue* in its log; its key is the queue's with one bit more, so it needs no entry
//! in the catalog, and a delayed message has an id from the start. A delayed message is delivered as a new record of
//! its target queue, in one append with the mark that it is done.
//!
//! **Invariants**: a message waits as long as its mark is not set, so it is delivered exactly once whatever crashes;
//! what is in memory is made again from the log; no message is looked at between its arrival and its time.

mod accept;
mod ahead;
mod cancel;
mod carry;
mod deliver;
mod find;
mod host;
pub(crate) mod load;
pub mod marks;
mod pass;
pub mod ready;
mod run;
pub mod table;
pub mod wheel;

pub(crate) use accept::{append, open_queue};
pub(crate) use cancel::{CancelError, cancel};
pub(crate) use carry::carry_forward;
pub(crate) use host::{DelayHost, forget};
pub(crate) use run::run;
