//! Fetch, offsets of groups, offsets of queues.

use equeue_record::{Offset, QueueKey};

use super::{DecodeError, Kind, Request, Status};
use crate::Code;
use crate::codec::{Check, root};
use crate::limits::{FETCH_ITEMS_MAX, NAME_BYTES_MAX, TAG_HASHES_MAX};
use crate::schema::wire;

/// One queue of a Fetch request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchItem {
    /// From where.
    pub queue: QueueKey,
    /// First offset wanted.
    pub offset: Offset,
    /// At most so many bytes of this queue (a first batch larger than that is still sent).
    pub bytes_max: u32,
    /// The grant under which the member reads; 0: none.
    pub grant_epoch: u32,
    /// Range in `tag_hashes` that this queue is filtered by: first index and count; count 0: no filter.
    pub tags_start: u16,
    /// See `tags_start`.
    pub tags_count: u16,
}

/// Header of a Fetch request, for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// A newer Fetch with the same id on the same connection replaces a parked one.
    pub fetch_id: u32,
    /// How long to wait for data, ms; 0: not at all.
    pub wait_ms_max: u32,
    /// At most so many bytes over all queues; the broker's own limit is lower or equal.
    pub bytes_max: u32,
    /// The queues; the broker begins with the first and answers as many as fit.
    pub items: Vec<FetchItem>,
    /// Tag hashes that the items refer to.
    pub tag_hashes: Vec<u32>,
    /// The group whose grants the items name; empty: none of them names one.
    pub group: String,
}

/// Header of a Fetch request, borrowed from its frame.
#[derive(Clone, Copy, Debug)]
pub struct FetchRef<'a> {
    table: wire::Fetch<'a>,
}

impl<'a> FetchRef<'a> {
    /// Verifies the header; each item's range of tags lies within the tag hashes, and one that names a grant has a group.
    pub fn decode(header: &'a [u8]) -> Result<Self, DecodeError> {
        let check = Check(Kind::Fetch);
        let table = root::<wire::Fetch<'a>>(Kind::Fetch, header)?;
        let tag_hashes = table.tag_hashes().map_or(0, |hashes| hashes.len());
        check.length("items", table.items().len(), FETCH_ITEMS_MAX)?;
        check.length("tag_hashes", tag_hashes, TAG_HASHES_MAX)?;
        let group = table.group().unwrap_or_default();
        check.length("group", group.len(), NAME_BYTES_MAX)?;
        for item in table.items() {
            if usize::from(item.tags_start()) + usize::from(item.tags_count()) > tag_hashes {
                return Err(check.refuse("item.tags_count"));
            }
            if item.grant_epoch() != 0 && group.is_empty() {
                return Err(check.refuse("group"));
            }
        }
        Ok(Self { table })
    }

    /// See [`Fetch::fetch_id`].
    pub fn fetch_id(&self) -> u32 {
        self.table.fetch_id()
    }

    /// See [`Fetch::wait_ms_max`].
    pub fn wait_ms_max(&self) -> u32 {
        self.table.wait_ms_max()
    }

    /// See [`Fetch::bytes_max`].
    pub fn bytes_max(&self) -> u32 {
        self.table.bytes_max()
    }

    /// The queues.
    pub fn items(&self) -> impl ExactSizeIterator<Item = FetchItem> + use<'a> {
        self.table.items().iter().map(FetchItem::from)
    }

    /// The filter of an item; empty: none.
    pub fn tags(&self, item: &FetchItem) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let mut tags = self.table.tag_hashes().unwrap_or_default().iter();
        if item.tags_start > 0 {
            tags.nth(usize::from(item.tags_start) - 1);
        }
        tags.take(usize::from(item.tags_count))
    }

    /// See [`Fetch::group`].
    pub fn group(&self) -> &'a str {
        self.table.group().unwrap_or_default()
    }

    /// All tag hashes.
    pub(crate) fn tag_hashes(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        self.table.tag_hashes().unwrap_or_default().iter()
    }
}

/// What one queue gave; its batches follow those of the outcomes before it in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchOutcome {
    /// Which queue.
    pub queue: QueueKey,
    /// OK, `OFFSET_OUT_OF_RANGE`, `QUEUE_NOT_FOUND`, `STALE_EPOCH`, `OFFSET_RESET` (go on at `next_offset` with
    /// `grant_epoch`), ...
    pub code: Code,
    /// With `OFFSET_RESET` and `STALE_EPOCH`: the epoch in force; otherwise 0.
    pub grant_epoch: u32,
    /// Bytes of its batches in the payload. The first batch may begin before the offset asked for.
    pub bytes: u32,
    /// First offset that is still there.
    pub start_offset: Offset,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
    /// Where to go on: past what was sent, and past what the tag filter left out.
    pub next_offset: Offset,
}

/// Answer to [`Fetch`]. Queues that had nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// The request's.
    pub fetch_id: u32,
    /// Of each queue that has something to tell.
    pub outcomes: Vec<FetchOutcome>,
}

/// Failed attempts to handle one message. The default: none that is known of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tries {
    /// How many.
    pub count: u32,
    /// When the first of them failed, ms UTC.
    pub since_ms: i64,
}

/// One queue's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitItem {
    /// Which queue.
    pub queue: QueueKey,
    /// The offset to go on with: everything before it is done.
    pub offset: Offset,
    /// The grant it was consumed under; 0: none.
    pub grant_epoch: u32,
    /// Of the message at `offset`, for which the queue waits.
    pub tries: Tries,
}

/// Stores how far a group has come. Answered once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    /// The group.
    pub group: String,
    /// Its queues on the shard asked.
    pub items: Vec<CommitItem>,
}

/// What is stored for one queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Which queue.
    pub queue: QueueKey,
    /// OK, `STALE_EPOCH`, `OFFSET_RESET` (the member keeps the queue: go on with the offset and epoch told),
    /// `QUEUE_HELD` (named no epoch while a grant is live), `OFFSET_OUT_OF_RANGE`, `QUEUE_NOT_FOUND`, ...
    pub code: Code,
    /// The committed offset now in force; `None`: the group has none here.
    pub committed: Option<Offset>,
    /// The epoch in force; 0: none was ever granted.
    pub grant_epoch: u32,
}

/// Answer to [`CommitOffsets`] and [`FetchOffsets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOffsetsAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each queue, in the order of the request.
    pub outcomes: Vec<CommitOutcome>,
}

/// Asks how far a group has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsets {
    /// The group.
    pub group: String,
    /// Queues on the shard asked.
    pub queues: Vec<QueueKey>,
}

/// Answer to [`FetchOffsets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOffsetsAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each queue, in the order of the request.
    pub outcomes: Vec<CommitOutcome>,
}

/// Which offset is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first that is still there.
    First,
    /// The high watermark: what comes next.
    Last,
    /// The first whose append time is at or after this, ms UTC.
    Time(i64),
}

/// Asks for offsets of queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsets {
    /// Which queues, and what of each.
    pub items: Vec<(QueueKey, OffsetAt)>,
}

/// One queue's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetsOutcome {
    /// Which queue.
    pub queue: QueueKey,
    /// OK or `QUEUE_NOT_FOUND`, ...
    pub code: Code,
    /// The offset asked for.
    pub offset: Offset,
}

/// Answer to [`ListOffsets`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOffsetsAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each queue, in the order of the request.
    pub outcomes: Vec<ListOffsetsOutcome>,
}

impl Request for Fetch {
    type Answer = FetchAnswer;
}
impl Request for CommitOffsets {
    type Answer = CommitOffsetsAnswer;
}
impl Request for FetchOffsets {
    type Answer = FetchOffsetsAnswer;
}
impl Request for ListOffsets {
    type Answer = ListOffsetsAnswer;
}
