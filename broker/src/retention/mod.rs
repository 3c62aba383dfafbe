//! How long messages stay: the settings as a policy of each log, and a task per log that carries it out.
//!
//! What a log must ask - which group has still to consume what - is answered from the groups' offsets, which are state
//! of the same log. **Invariant**: nothing is deleted here; the log decides and keeps the order that a crash needs.

mod advice;
mod backlog;
mod policy;
mod task;
mod trim;

pub(crate) use backlog::Backlog;
pub(crate) use policy::log_policy;
pub(crate) use task::run;
