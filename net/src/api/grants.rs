//! Consumer groups: who owns which queue, and messages that are handed back. Grants live on the shard of each queue.

use equeue_record::{Offset, QueueKey};

use super::{CommitOutcome, Request, Status, Tries};
use crate::Code;

/// A queue that a member owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldQueue {
    /// Which queue.
    pub queue: QueueKey,
    /// The grant.
    pub grant_epoch: u32,
}

/// What a member has fetched of a queue and not handled yet, as a number of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedQueue {
    /// Which queue.
    pub queue: QueueKey,
    /// How many messages.
    pub messages: u32,
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
    /// What waits in the client now, for people; queues with nothing are left out.
    pub cached: Vec<CachedQueue>,
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
    /// Of the message at the committed offset.
    pub tries: Tries,
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
    /// Of the message at that offset.
    pub tries: Tries,
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
    /// How often it was tried in vain, this time included; none: the broker counts by what the message itself tells.
    pub tries: Tries,
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
