//! How each message becomes a flatbuffers header and is read back: one file per family, as in [`crate::api`].
//!
//! **Invariants**: a header is verified (depth, tables, apparent size) before a field is read; each list and name is
//! checked against [`crate::limits`] before it is copied; a builder is kept per thread, so that encoding a header
//! allocates nothing in the steady state.

mod admin;
mod consume;
mod grants;
mod group_admin;
mod inspect;
mod membership;
mod produce;
mod read;
mod routes;
mod session;
mod topic_settings;
mod write;

pub use consume::put_fetch_answer;
pub use produce::put_produce_answer;
pub(crate) use read::{Check, root};
pub use write::put_failure;
