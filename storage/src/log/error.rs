//! What can go wrong with a log, by what the caller does next.

use std::path::PathBuf;
use std::rc::Rc;

use equeue_record::{Offset, QueueKey};

use crate::types::{LogId, Position};

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
    /// The queue was not opened with [`CommitLog::open_queue`](super::CommitLog::open_queue).
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
    /// A repair was begun and has not ended. Nothing was changed.
    #[error("{path}: a repair of this log was begun and has not ended. Run `{command}`")]
    RepairUnfinished {
        /// The file that tells.
        path: PathBuf,
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
