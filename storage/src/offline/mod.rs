//! Reading a data directory without a broker: `equeue log verify` and `equeue log dump`.
//!
//! **Invariants**: nothing is written, nothing is locked; damage is reported and walked around, never fatal; an error
//! of the system is an error, never damage, and names file and position. Files are mapped: meant for a data directory that no broker serves (a
//! running one is seen as after a crash: what is in flight looks like a torn tail), and never used by a broker that serves.
//! `begun`, which tells a log that is missing from a new one, is what a broker asks before it opens any log, and the one
//! place that writes.

mod begun;
mod dump;
mod lock;
mod map;
mod read_only;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use begun::{all_begun, empty_logs, give_up_missing, missing_logs, note_begun};
pub use dump::{DumpItem, DumpOptions, dump};
pub use lock::{LockError, lock};
pub use verify::{Counts, IndexedRun, LogReport, VerifyReport, check_body, index_bytes, read_index, verify};

use crate::types::Position;

/// Something in the data directory is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file, or the folder when a file is missing.
    pub path: PathBuf,
    /// Log position of the flush or segment.
    pub position: Position,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: position {}: {}", self.path.display(), self.position, self.reason)
    }
}

/// Why a data directory could not be read.
#[derive(Debug, Error)]
pub enum OfflineError {
    /// The system said no.
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
    /// The device could not give these bytes; nothing is known to be damaged.
    #[error("{path}: reading at position {position} failed")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where.
        position: Position,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is neither an identity file nor a log.
    #[error("{path} is no data directory: it holds neither an identity file nor logs")]
    NoDataDirectory {
        /// The folder.
        path: PathBuf,
    },
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> OfflineError + 'a {
    move |source| OfflineError::Io { path: path.to_owned(), action, source }
}
