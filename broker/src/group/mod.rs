//! Consumer groups: how far they have come, and who is there. Pure; the shard does the I/O.

mod offsets;
mod presence;

pub use offsets::{CommitDecision, OffsetTable, Progress, decide_commit, group_name_is_valid};
pub use presence::{Presence, PresenceCounts};
