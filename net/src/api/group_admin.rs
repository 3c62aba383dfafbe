//! What operators ask about groups, and do to them. Each broker answers for its own queues.

use equeue_record::{Offset, QueueKey};

use super::{GroupMember, Request, Status};
use crate::Code;

/// Asks for the groups that this broker knows, online or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListGroups {}

/// One group, as far as one broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// Members that heartbeat this broker or hold grants here; 0: offline here.
    pub members: u32,
    /// Queues here that it has an offset or a grant in.
    pub queues: u32,
    /// Messages of those queues that it has not consumed.
    pub lag: u64,
    /// Generation, where this broker coordinates it; otherwise 0.
    pub generation: u64,
    /// When it last had a member or a commit here, ms UTC; 0: not known.
    pub active_ms: i64,
    /// When it is forgotten unless a member comes, ms UTC; 0: it has members.
    pub expires_ms: i64,
}

/// Answer to [`ListGroups`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListGroupsAnswer {
    /// What became of it.
    pub status: Status,
    /// By name.
    pub groups: Vec<GroupSummary>,
}

/// Asks for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeGroup {
    /// Its name.
    pub group: String,
}

/// A member that heartbeats this broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Who, and what it wants.
    pub member: GroupMember,
    /// Address of its connection.
    pub address: String,
    /// Time since its last heartbeat, ms.
    pub seen_ms_ago: u64,
}

/// Who holds a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantHolder {
    /// Its client id; empty: not known any more (the broker was restarted).
    pub client_id: String,
    /// Its start.
    pub incarnation: u128,
}

/// Where a group is in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupQueueState {
    /// Which queue.
    pub queue: QueueKey,
    /// Its topic: index into [`DescribeGroupAnswer::topics`].
    pub topic: u16,
    /// Its number in the topic.
    pub ordinal: u32,
    /// Who owns it: index into [`DescribeGroupAnswer::holders`].
    pub holder: Option<u16>,
    /// Epoch of the newest grant.
    pub grant_epoch: u32,
    /// How long the lease lasts still, ms.
    pub lease_left_ms: u32,
    /// Where the group is.
    pub committed: Option<Offset>,
    /// When it committed last, ms UTC; 0: not since the broker started.
    pub committed_ms: i64,
    /// Messages committed per 1000 s, over the last seconds.
    pub rate_milli: u64,
    /// Messages that its owner has fetched and not handled, as it told last.
    pub cached: u32,
    /// First offset that is still there.
    pub start_offset: Offset,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
}

/// Answer to [`DescribeGroup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeGroupAnswer {
    /// OK, or `GROUP_NOT_FOUND`.
    pub status: Status,
    /// Generation, where this broker coordinates it; otherwise 0.
    pub generation: u64,
    /// Members that heartbeat this broker.
    pub members: Vec<MemberState>,
    /// Names of topics that queues refer to.
    pub topics: Vec<String>,
    /// Members that queues refer to.
    pub holders: Vec<GrantHolder>,
    /// By topic and ordinal.
    pub queues: Vec<GroupQueueState>,
}

/// Forgets a group: its offsets on this broker. Refused while it has members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteGroup {
    /// Its name.
    pub group: String,
}

/// Answer to [`DeleteGroup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteGroupAnswer {
    /// OK, `GROUP_ACTIVE`, `GROUP_NOT_FOUND`.
    pub status: Status,
}

/// Sets offsets of a group. A member that owns the queue keeps it under a new epoch, and is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOffsets {
    /// The group.
    pub group: String,
    /// Change nothing, tell what would change.
    pub dry_run: bool,
    /// Queues, each once, with the offset to go on with.
    pub items: Vec<(QueueKey, Offset)>,
}

/// What a reset did to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetOutcome {
    /// Which queue.
    pub queue: QueueKey,
    /// OK, `OFFSET_OUT_OF_RANGE` (outside what the queue holds), `QUEUE_NOT_FOUND`, ...
    pub code: Code,
    /// Where the group was.
    pub before: Option<Offset>,
    /// Where it goes on.
    pub after: Offset,
    /// The grant's epoch from now on.
    pub grant_epoch: u32,
    /// First offset that is still there.
    pub start_offset: Offset,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
}

/// Answer to [`ResetOffsets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetOffsetsAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each queue, in the order of the request.
    pub outcomes: Vec<ResetOutcome>,
}

impl Request for ListGroups {
    type Answer = ListGroupsAnswer;
}
impl Request for DescribeGroup {
    type Answer = DescribeGroupAnswer;
}
impl Request for DeleteGroup {
    type Answer = DeleteGroupAnswer;
}
impl Request for ResetOffsets {
    type Answer = ResetOffsetsAnswer;
}
