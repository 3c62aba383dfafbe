//! What a log takes and gives besides errors.

use std::rc::Rc;

use bytes::Bytes;
use equeue_record::{Offset, QueueKey};

use crate::types::{Position, Ticket};

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Durable once [`CommitLog::durable`](super::CommitLog::durable) reaches it.
    pub ticket: Ticket,
    /// Offset of the batch's first record (of the original, for a duplicate).
    pub base_offset: Offset,
    /// Stamped append time, ms UTC.
    pub append_time_ms: i64,
    /// The batch was stored before; nothing was appended, `ticket` is the original's (or one already durable).
    pub duplicate: bool,
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// First offset that is still there.
    pub start: Offset,
    /// High watermark: the next offset that will become readable.
    pub durable_end: Offset,
    /// The next offset that will be assigned.
    pub end: Offset,
}

/// What a read gives: whole batches of one queue, in order, each in memory that is shared with the cache.
#[derive(Debug)]
pub struct ReadBatches {
    /// Pieces of log memory; each holds one or more whole batches. The first batch may begin before the offset asked.
    pub pieces: Vec<LogSlice>,
    /// Sum of the pieces' lengths.
    pub bytes: usize,
    /// The offset after the last record given.
    pub next_offset: Offset,
}

/// A piece of log memory; cloning shares it.
#[derive(Clone)]
pub struct LogSlice {
    /// The memory: an extent of the cache, or a copy.
    pub memory: Rc<dyn AsRef<[u8]>>,
    /// Which bytes of it.
    pub range: std::ops::Range<usize>,
}

impl std::fmt::Debug for LogSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSlice").field("range", &self.range).finish_non_exhaustive()
    }
}

/// Told after each flush that became durable; runs inside the log: no awaiting, no calling back into the log's
/// mutating functions.
pub trait DurableListener {
    /// Everything up to `ticket` is durable; `queues` got records (each once).
    fn durable(&self, ticket: Ticket, queues: &[QueueKey]);
    /// The log failed; nothing more will become durable.
    fn poisoned(&self, reason: &str);
}

/// One part of an atomic append.
#[derive(Clone, Debug)]
pub enum AtomicPart {
    /// A batch of a queue, as built by a producer.
    Batch {
        /// Where to.
        queue: QueueKey,
        /// The bytes.
        batch: Bytes,
    },
    /// A state entry: `None` removes the key. Last writer wins. See [`CommitLog::state`](super::CommitLog::state).
    State {
        /// Key, at most 1,023 bytes.
        key: Bytes,
        /// Value, at most 32 KiB.
        value: Option<Bytes>,
    },
}

/// What opening a log found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The last stop was orderly.
    pub clean: bool,
    /// Where the replay began.
    pub from: Position,
    /// Where the log ended.
    pub end: Position,
    /// Flushes replayed.
    pub flushes: u64,
    /// Bytes of a torn tail that was cut off (never acknowledged).
    pub torn_bytes: u64,
    /// Places in what was replayed where a repair gave up what was lost.
    pub gaps: u64,
    /// Offsets found missing behind them.
    pub offsets_missing: u64,
    /// How long it took until the log could serve, OPEN and the space behind it counted.
    pub took: std::time::Duration,
}
