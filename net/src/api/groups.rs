//! Consumer groups: who belongs to one, who owns which queue, and messages that are handed back.
//!
//! A *member* is a client id with an incarnation, as Hello told them; it may have many connections. Membership is told
//! to one shard of the group's coordinator, grants live on the shard of each queue.

use equeue_record::{Offset, QueueKey};

use super::{CommitOutcome, Request, Status};
use crate::Code;

/// The shard of its coordinator that keeps the members of a group.
pub fn group_shard(group: &str, shards: u16) -> u16 {
    let shard = equeue_record::key_hash(group.as_bytes()) % u32::from(shards.max(1));
    u16::try_from(shard).expect("a remainder of a u16 fits it")
}

/// What a member wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Only messages with one of these tags; empty: all.
    pub tags: Vec<String>,
    /// Where the group has other tags for this topic: make these the group's. Otherwise it is a conflict.
    pub replace: bool,
}

/// Joins a group, and stays in it; every second, to shard [`group_shard`] of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group; `group@instance` for an instance of a broadcast group.
    pub group: String,
    /// The newest generation that the member knows; 0: none. Members and topics are told only when it differs.
    pub generation: u64,
    /// Hash of `subscriptions` and `unreachable`; chosen by the member.
    pub hash: u64,
    /// The lists are told here; `None`: as before, with the same hash.
    pub full: Option<Membership>,
}

/// What a member tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// What it wants; a topic at most once.
    pub subscriptions: Vec<Subscription>,
    /// Brokers that it cannot reach: their queues are left out of its share.
    pub unreachable: Vec<String>,
}

/// A member as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Name of the client.
    pub client_id: String,
    /// Its start.
    pub incarnation: u128,
    /// Topics that it is subscribed to without a conflict.
    pub topics: Vec<String>,
    /// Brokers that it cannot reach.
    pub unreachable: Vec<String>,
}

/// A topic of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopic {
    /// Its name.
    pub name: String,
    /// The group's tags for it; empty: all messages.
    pub tags: Vec<String>,
    /// Version of the map; 0: the coordinator does not know the topic.
    pub version: u64,
    /// Which broker has which ordinal; index = ordinal.
    pub map: Vec<String>,
}

/// Answer to [`GroupHeartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHeartbeatAnswer {
    /// What became of it.
    pub status: Status,
    /// The group's generation: raised by each change of members, subscriptions or topics, durable before it is told.
    pub generation: u64,
    /// A member that is silent for so long is no member any more, ms.
    pub session_ms: u32,
    /// How long a grant lasts without a [`LeaseHeartbeat`], ms.
    pub lease_ms: u32,
    /// The hash is not the one known here: tell the lists.
    pub want_full: bool,
    /// The lists below are those of `generation`; otherwise the member's generation is the newest and they are empty.
    pub changed: bool,
    /// By client id and incarnation.
    pub members: Vec<GroupMember>,
    /// By name.
    pub topics: Vec<GroupTopic>,
    /// Topics for which the group has other tags than this member: it gets none of their queues.
    pub conflicts: Vec<String>,
}

/// Leaves a group: to the coordinator, and to every broker that granted something. Grants of the member on that broker
/// end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveGroup {
    /// The group.
    pub group: String,
}

/// Answer to [`LeaveGroup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaveGroupAnswer {
    /// OK also when it was no member.
    pub status: Status,
}

/// A queue that a member owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldQueue {
    /// Which queue.
    pub queue: QueueKey,
    /// The grant.
    pub grant_epoch: u32,
}

/// Extends the leases of the grants that a member holds on one shard; every second, on the consume connection there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHeartbeat {
    /// The group.
    pub group: String,
    /// The newest generation that the member knows: its grants count as wanted in it.
    pub generation: u64,
    /// Hash of `held`; chosen by the member.
    pub hash: u64,
    /// The queues to keep; `None`: as told before on this connection for this group, with the same hash.
    pub held: Option<Vec<HeldQueue>>,
}

/// An offset that was reset while a member owns the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetReset {
    /// Which queue.
    pub queue: QueueKey,
    /// Where to go on; what is in flight is dropped.
    pub offset: Offset,
    /// The grant is this from now on.
    pub grant_epoch: u32,
}

/// Answer to [`LeaseHeartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseHeartbeatAnswer {
    /// What became of it.
    pub status: Status,
    /// The leases of the queues told last so long from now, ms, except those that are `lost`.
    pub lease_ms: u32,
    /// The hash is not the one known here: nothing was extended, tell the list.
    pub want_full: bool,
    /// Queues that another member of a newer generation waits for: drain, commit, release.
    pub release: Vec<QueueKey>,
    /// Queues whose offset was reset under an older grant than the member's.
    pub reset: Vec<OffsetReset>,
    /// Queues that this member does not own under the epoch told.
    pub lost: Vec<QueueKey>,
}

/// Asks for queues of the shard asked. A queue that the member holds already is granted again with the same epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantQueues {
    /// The group.
    pub group: String,
    /// The generation in which the queues fell to this member.
    pub generation: u64,
    /// How long to wait for queues that are held, when all are; ms. 0: not at all.
    pub wait_ms_max: u32,
    /// The queues, each once.
    pub queues: Vec<QueueKey>,
}

/// What became of one wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantOutcome {
    /// Which queue.
    pub queue: QueueKey,
    /// OK: granted, durably. `QUEUE_HELD`: not yet, ask again. `STALE_GENERATION`, `QUEUE_HIDDEN`, `QUEUE_NOT_FOUND`, ...
    pub code: Code,
    /// The grant; 0: none.
    pub grant_epoch: u32,
    /// Where the group is; `None`: it has committed nothing here.
    pub committed: Option<Offset>,
    /// First offset that is still there.
    pub start_offset: Offset,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
}

/// Answer to [`GrantQueues`]: as soon as one queue is granted or refused, or when the time to wait is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantQueuesAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// How long the grants last without a [`LeaseHeartbeat`], ms, from when the request was sent.
    pub lease_ms: u32,
    /// Of each queue, in the order of the request.
    pub outcomes: Vec<GrantOutcome>,
}

/// A queue to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseItem {
    /// Which queue.
    pub queue: QueueKey,
    /// The grant that ends.
    pub grant_epoch: u32,
    /// Commit this first.
    pub commit: Option<Offset>,
}

/// Gives queues up. Who waits for them gets them once this is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseQueues {
    /// The group.
    pub group: String,
    /// The queues, each once.
    pub items: Vec<ReleaseItem>,
}

/// Answer to [`ReleaseQueues`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseQueuesAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each queue, in the order of the request; `STALE_EPOCH`: it was not the member's any more.
    pub outcomes: Vec<CommitOutcome>,
}

/// A message that could not be handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandBackItem {
    /// Where it was read.
    pub queue: QueueKey,
    /// Its offset there.
    pub offset: Offset,
    /// The grant it was read under.
    pub grant_epoch: u32,
    /// When it shall come again, ms from now.
    pub delay_ms: u64,
    /// Why, for people; at most [`crate::limits::REASON_BYTES_MAX`] bytes.
    pub reason: String,
}

/// Hands messages back: they come again from the group's retry queue, or become dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandBack {
    /// The group.
    pub group: String,
    /// A message that was handed back so often becomes a dead letter; 0: the broker's default.
    pub attempts_max: u32,
    /// The messages.
    pub items: Vec<HandBackItem>,
}

/// What became of one message that was handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandBackOutcome {
    /// Where it was read.
    pub queue: QueueKey,
    /// Its offset there.
    pub offset: Offset,
    /// OK (durable), `STALE_EPOCH`, `OFFSET_OUT_OF_RANGE`, ...
    pub code: Code,
    /// How often it has been handed back, this time included.
    pub attempt: u32,
    /// It became a dead letter.
    pub dead: bool,
    /// It had been handed back before; nothing was stored.
    pub repeated: bool,
}

/// Answer to [`HandBack`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandBackAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each message, in the order of the request.
    pub outcomes: Vec<HandBackOutcome>,
}

impl Request for GroupHeartbeat {
    type Answer = GroupHeartbeatAnswer;
}
impl Request for LeaveGroup {
    type Answer = LeaveGroupAnswer;
}
impl Request for LeaseHeartbeat {
    type Answer = LeaseHeartbeatAnswer;
}
impl Request for GrantQueues {
    type Answer = GrantQueuesAnswer;
}
impl Request for ReleaseQueues {
    type Answer = ReleaseQueuesAnswer;
}
impl Request for HandBack {
    type Answer = HandBackAnswer;
}
