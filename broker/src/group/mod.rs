//! Consumer groups: who belongs to them, who owns which queue, how far they have come. Pure; the shard does the I/O.

mod attendance;
mod expiry;
mod grant;
mod holds;
mod lease_clock;
mod presence;
mod record;
mod registry;
mod shares;

pub use attendance::{Attendance, GroupTopics};
pub use expiry::{Fate, clock_jump, fate};
pub use grant::{Ask, Beat, CommitDecision, EpochCheck, Grant, Rules, epoch_floor};
pub use holds::{GroupId, Hold, HoldTable};
pub use lease_clock::{LOOK_EVERY_MS, LeaseClock};
pub use presence::{Presence, PresenceCounts};
pub use record::{Progress, group_name_is_valid};
pub use registry::{Change, GroupLists, Joined, Link, Member, Registry, View};
