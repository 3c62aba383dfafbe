//! The operator's explicit act on a log that refuses to open.
//!
//! *Cut* ends the log at a position: everything at or behind it is given up. *Quarantine* sets one segment aside and
//! puts a copy in its place that holds what is still whole of it; where something is lost the copy has a GAP. In both
//! cases the next offset of each queue stays ahead of what was given up, as far as that can still be read: no
//! offset is given twice.
//!
//! **Invariants**: nothing is deleted: what is taken out of the log lies in `lost+found/` unchanged. A copy is whole
//! and synced before anything moves. What is to be done is written down and synced first (the *intent*), each step is
//! synced before the next, and each may be done again; so a repair that was interrupted anywhere is finished by
//! [`finish`], and until then the log does not open. The caller holds the data directory's lock.

mod carry;
mod intent;
mod neighbours;
mod plan;
mod rewrite;
mod salvage;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use equeue_record::{Offset, QueueKey};
use thiserror::Error;

pub use self::carry::{carry_out, finish};
pub use self::intent::Intent;
pub use self::plan::{Plan, plan};
use crate::format::FormatError;
use crate::types::{LogId, Position};

/// What is done to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The log ends at this position (at the last whole flush before it).
    Cut(Position),
    /// The segment that begins at this position is set aside; what is whole in it is kept.
    Quarantine(Position),
}

/// What a repair gives up, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Positions that are no part of the log any more.
    pub ranges: Vec<(Position, Position)>,
    /// Whole flushes among them.
    pub flushes: u64,
    /// Messages in these.
    pub messages: u64,
    /// State entries in these (topics, committed offsets, ...).
    pub state_entries: u64,
    /// Offsets known to be given up, by queue: from the first to the one after the last.
    pub queues: BTreeMap<QueueKey, (Offset, Offset)>,
}

impl Loss {
    /// Offsets `from..to` of a queue are given up.
    fn add(&mut self, queue: QueueKey, from: Offset, to: Offset) {
        let range = self.queues.entry(queue).or_insert((from, to));
        *range = (range.0.min(from), range.1.max(to));
    }
}

/// Why a repair was not begun, or has not ended.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The system said no. A repair that was begun is finished with [`finish`].
    #[error("{path}: {action} failed")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file that tells of a repair cannot be read: it was not written by this build, or is damaged.
    #[error("{path}: the repair that was begun cannot be read")]
    Intent {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// Another repair of this log was begun.
    #[error("{path}: another repair of this log was begun; finish it first")]
    Unfinished {
        /// The file that tells.
        path: PathBuf,
    },
    /// There is nothing to be done.
    #[error("{0}")]
    Nothing(String),
    /// It would leave a log that does not open.
    #[error("{0}")]
    Refused(String),
    /// Written by a later build: it must not be touched by this one.
    #[error("{path}: format version {found} is newer than this build's {known}; use the newer build")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Found.
        found: u16,
        /// Known.
        known: u16,
    },
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> RepairError + 'a {
    move |source| RepairError::Io { path: path.to_owned(), action, source }
}

/// A log on disk.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its folder.
    pub dir: PathBuf,
    /// Its number.
    pub log: LogId,
}
