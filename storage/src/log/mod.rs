//! The commit log: the facade that brokers use.

use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use equeue_record::{Offset, QueueKey};

use crate::io::Io;
use crate::types::{LogId, Position, Ticket};

/// Settings of a log. Every one has a default that works on a laptop.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Largest segment, bytes (1 MiB..16 GiB, a multiple of 1 MiB; default 256 MiB).
    pub segment_bytes_max: u64,
    /// First segment of a log and after a crash, bytes (default 16 MiB).
    pub segment_bytes_first: u64,
    /// Soft cap of a flush, bytes with its header (4 KiB..2 MiB; default 1 MiB).
    pub flush_bytes_max: usize,
    /// Flushes in flight (1..2; default 2).
    pub flush_depth: usize,
    /// Bytes of memory for recent and re-read log bytes.
    pub cache_bytes: usize,
    /// Appends that wait for a flush, bytes (default 8 MiB); past it: [`AppendError::Busy`].
    pub pending_bytes_max: usize,
    /// A snapshot at the latest after so many bytes (default 256 MiB).
    pub snapshot_bytes: u64,
    /// An IDLE flush after so long without one, ms (default 100).
    pub idle_ms: u64,
    /// Producers remembered at the most (default 100,000).
    pub producers_max: usize,
    /// Switches that only tests use; [`Hazards::default`] is the only safe value.
    pub hazards: Hazards,
}

/// Mechanisms that a null control switches off, to show that its test can fail. Never set in production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hazards {
    /// Acknowledge without syncing.
    pub no_sync: bool,
    /// Do not sync the active segment before recovery decides where it ends.
    pub no_recovery_sync: bool,
    /// Go on in the next segment before SEAL is synced.
    pub no_roll_barrier: bool,
    /// Take the first invalid flush as the end without looking for evidence behind it.
    pub no_evidence: bool,
    /// Do not check checksums in recovery.
    pub no_crc: bool,
    /// Do not sync the directory after renames.
    pub no_dir_sync: bool,
    /// Answer a duplicate before its original is durable.
    pub early_duplicate: bool,
    /// Serve reads past the durable end.
    pub no_high_watermark: bool,
}

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Durable once [`CommitLog::durable`] reaches it.
    pub ticket: Ticket,
    /// Offset of the batch's first record (of the original, for a duplicate).
    pub base_offset: Offset,
    /// Stamped append time, ms UTC.
    pub append_time_ms: i64,
    /// The batch was stored before; nothing was appended, `ticket` is the original's (or one already durable).
    pub duplicate: bool,
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too many bytes wait for a flush.
    #[error("{pending} bytes wait for a flush, the limit is {limit}")]
    Busy {
        /// Bytes waiting.
        pending: usize,
        /// The limit.
        limit: usize,
    },
    /// No prepared segment and no space for one.
    #[error("the disk is full")]
    DiskFull,
    /// A write or sync failed; the log takes nothing more until it is opened again.
    #[error("the log failed: {reason}")]
    Poisoned {
        /// What failed.
        reason: Rc<str>,
    },
    /// The queue was not opened with [`CommitLog::open_queue`].
    #[error("queue {queue} is not in log {log}")]
    NoQueue {
        /// The queue.
        queue: QueueKey,
        /// The log.
        log: LogId,
    },
    /// Larger than a flush may be.
    #[error("batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a batch, or damaged.
    #[error(transparent)]
    Record(#[from] equeue_record::RecordError),
    /// A batch before this one is missing.
    #[error("sequence {found} came where {expected} was expected")]
    SequenceGap {
        /// Expected.
        expected: i32,
        /// Found.
        found: i32,
    },
    /// First batch of an unknown producer with a sequence other than 0.
    #[error("producer {producer} is not known and begins with sequence {sequence}")]
    UnknownProducer {
        /// Its id.
        producer: i64,
        /// The sequence.
        sequence: i32,
    },
    /// An older producer epoch than the one in force.
    #[error("producer epoch {found} is older than {current}")]
    StaleProducer {
        /// In the batch.
        found: i16,
        /// In force.
        current: i16,
    },
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

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Outside `start..=durable_end`.
    #[error("offset {offset} lies outside {start}..={end} of queue {queue}")]
    OutOfRange {
        /// The queue.
        queue: QueueKey,
        /// Asked for.
        offset: Offset,
        /// First that is there.
        start: Offset,
        /// High watermark.
        end: Offset,
    },
    /// No such queue here.
    #[error("queue {queue} is not in this log")]
    NoQueue {
        /// The queue.
        queue: QueueKey,
    },
    /// The bytes on disk are not what was stored.
    #[error("{path}: damaged at position {position}: {reason}")]
    Damaged {
        /// The segment or index file.
        path: PathBuf,
        /// Where.
        position: Position,
        /// What is wrong.
        reason: String,
    },
    /// The device said no. Never taken for damage.
    #[error("{path}: reading at position {position} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// Where.
        position: Position,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
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
    /// A state entry: `None` removes the key. Last writer wins. See [`CommitLog::state`].
    State {
        /// Key, at most 1 KiB.
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
    /// How long it took.
    pub took: std::time::Duration,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Bytes that were synced are gone or wrong. Nothing was changed.
    #[error("{path}: damaged at position {position}: {reason}. Run `{command}`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        position: Position,
        /// What is wrong.
        reason: String,
        /// What the operator runs.
        command: String,
    },
    /// A later format.
    #[error("{path}: format version {found} is newer than this build's {known}; use the newer build")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Found.
        found: u32,
        /// Known.
        known: u32,
    },
    /// The system said no; nothing is known to be damaged.
    #[error("{path}: {action} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A log, open for appending and reading. Cloning shares it; it belongs to one executor.
#[derive(Clone)]
pub struct CommitLog<I: Io> {
    _inner: Rc<I>,
}

impl<I: Io> CommitLog<I> {
    /// Opens (or creates) the log in `dir`, recovering what is there.
    pub async fn open(
        _io: I,
        _dir: PathBuf,
        _log: LogId,
        _options: LogOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        todo!()
    }

    /// Who is told of durable flushes; at most one.
    pub fn listen(&self, _listener: Rc<dyn DurableListener>) {
        todo!()
    }

    /// Makes a queue known; one that the log has records of goes on where it was. Writes nothing.
    pub fn open_queue(&self, _queue: QueueKey) {
        todo!()
    }

    /// Appends one batch to a queue: checks it (structure and checksum), assigns offsets and time, applies the
    /// producer's sequence rules. Takes part in the next flush. The memory of `batch` is held until then.
    pub fn append(&self, _queue: QueueKey, _batch: Bytes) -> Result<Appended, AppendError> {
        todo!()
    }

    /// Appends all parts in one flush, recovered whole or not at all.
    pub fn append_atomic(&self, _parts: Vec<AtomicPart>) -> Result<Ticket, AppendError> {
        todo!()
    }

    /// Everything at or below is synced.
    pub fn durable(&self) -> Ticket {
        todo!()
    }

    /// Resolves when `ticket` is durable, or with the reason when the log failed before.
    pub async fn wait_durable(&self, _ticket: Ticket) -> Result<(), AppendError> {
        todo!()
    }

    /// Durable state entries: value of a key. Only durable values are seen.
    pub fn state(&self, _key: &[u8]) -> Option<Bytes> {
        todo!()
    }

    /// Durable state entries whose key begins with `prefix`, in order of keys.
    pub fn state_with_prefix(&self, _prefix: &[u8], _each: &mut dyn FnMut(&[u8], &[u8])) {
        todo!()
    }

    /// Bounds of a queue.
    pub fn bounds(&self, _queue: QueueKey) -> Option<QueueBounds> {
        todo!()
    }

    /// Reads whole batches from `offset`, about `bytes_max` (the first batch is given whatever its size), never past
    /// the durable end. At the end: no pieces, `next_offset == offset`.
    pub async fn read(
        &self,
        _queue: QueueKey,
        _offset: Offset,
        _bytes_max: usize,
    ) -> Result<ReadBatches, ReadError> {
        todo!()
    }

    /// Like [`CommitLog::read`] but only from memory: `None` when a disk read is needed. For answering without a task.
    pub fn read_cached(
        &self,
        _queue: QueueKey,
        _offset: Offset,
        _bytes_max: usize,
    ) -> Option<Result<ReadBatches, ReadError>> {
        todo!()
    }

    /// First offset whose append time is at or after `time_ms`; the durable end when there is none.
    pub async fn offset_at_time(&self, _queue: QueueKey, _time_ms: i64) -> Result<Offset, ReadError> {
        todo!()
    }

    /// Positions for people: first kept, durable end.
    pub fn positions(&self) -> (Position, Position) {
        todo!()
    }

    /// Orderly stop: flushes what waits, writes CLEAN, syncs, closes the files.
    pub async fn close(&self) -> Result<(), AppendError> {
        todo!()
    }
}
