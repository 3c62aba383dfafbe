//! One shard: a thread with its logs, its connections and its parked fetches.

pub(crate) mod answers;
pub(crate) mod call;
pub(crate) mod catalog;
pub(crate) mod complete;
pub(crate) mod generations;
pub(crate) mod group_sweep;
pub(crate) mod holds;
pub mod mesh;
pub(crate) mod router;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod signal;
pub(crate) mod state;
