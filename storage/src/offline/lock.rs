//! The lock of a data directory: one process at a time, broker or repair.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{OfflineError, failed};
use crate::format::LOCK_FILE;

/// Why the lock was not given.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process uses the directory.
    #[error("{path}: another process uses this data directory")]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// The system said no.
    #[error(transparent)]
    Offline(#[from] OfflineError),
}

/// Locks a data directory for as long as the file is open. The lock is the system's: it ends with the process, however
/// that ends.
///
/// # Errors
/// At once, when another process holds it.
pub fn lock(data_dir: &Path) -> Result<File, LockError> {
    let path = data_dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed(&path, "opening the lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Held { path: data_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(&path, "locking")(source).into()),
    }
}
