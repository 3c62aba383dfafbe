//! The data directory: whose it is, and that nobody else uses it.
//!
//! **Invariants**: an identity is written once, whole and synced, and never beside logs that have none; one process at a
//! time holds the lock; a directory of another broker or cluster is refused before any log is touched.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use equeue_storage::LogId;
use equeue_storage::format::{BEGUN_FILE, FormatError, Identity};
use equeue_storage::offline::{self, LockError, OfflineError};
use uuid::Uuid;

use crate::config::{BrokerConfig, StorageMode};

const IDENTITY_FILE: &str = "identity";
const IDENTITY_NEW: &str = "identity.tmp";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system said no.
    #[error("{path}: {action} failed")]
    Io {
        /// What it was done to.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process uses it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// It belongs to somebody else.
    #[error("{path}: the data directory belongs to {what} `{found}`, the configuration says `{expected}`")]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Broker, cluster or broker group.
        what: &'static str,
        /// In the identity file.
        found: String,
        /// In the configuration.
        expected: String,
    },
    /// Logs without an identity.
    #[error("{path}: there are logs but no identity file; restore it from a copy, or move the logs away")]
    IdentityMissing {
        /// The directory.
        path: PathBuf,
    },
    /// A log holds nothing any more. Nothing was changed.
    #[error(
        "{path}: log {log} is missing: it was begun, and no segment of it is there. Mount it, or restore the folder from a \
         copy; to give up all that it held, {act}"
    )]
    LogMissing {
        /// Its folder.
        path: PathBuf,
        /// Its number.
        log: LogId,
        /// What the operator does who gives it up.
        act: String,
    },
    /// There was no space to begin a log: the first start needs it.
    #[error("{path}: there is no space for the first segment of log {log}")]
    LogNotBegun {
        /// Its folder.
        path: PathBuf,
        /// Its number.
        log: LogId,
    },
    /// What the directory holds cannot be told.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The identity file is damaged, or of a newer build.
    #[error("{path}: the identity file cannot be used")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
}

/// An open data directory. The lock is held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Opens the directory of `config`, or makes it. Blocking; done before the shards start.
    ///
    /// # Errors
    /// See [`DataDirError`]; nothing is changed then, but an empty directory may be left.
    pub fn open(config: &BrokerConfig) -> Result<Self, DataDirError> {
        let path = config.data_dir.clone();
        std::fs::create_dir_all(&path).map_err(at(&path, "creating it"))?;
        let lock = offline::lock(&path)?;
        let identity = match read_identity(&path)? {
            Some(identity) => identity,
            None => create_identity(&path, config)?,
        };
        check(&path, &identity, config)?;
        if config.storage.mode == StorageMode::Disk {
            check_logs(&path, &identity)?;
        }
        if config.logs != 0 && config.logs != identity.logs {
            tracing::warn!(
                configured = config.logs,
                there = identity.logs,
                "the number of logs was fixed when the data directory was created"
            );
        }
        Ok(Self { path, identity, _lock: lock })
    }

    /// Writes down that all logs were begun, once each is open and before anything is stored: from then on one that holds
    /// nothing is missing.
    ///
    /// # Errors
    /// There was no space for a log's first segment. Without space for the note alone it is left to the next start.
    pub(crate) fn note_begun(&self) -> Result<(), DataDirError> {
        let logs = self.identity.logs;
        if let Some(log) = offline::empty_logs(&self.path, logs)?.first().copied() {
            return Err(DataDirError::LogNotBegun { path: self.log_dir(log.0), log });
        }
        if let Err(error) = offline::note_begun(&self.path, logs) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%error, cause = error.source().map(tracing::field::display),
                "that all logs were begun could not be written down; it is tried again at the next start");
        }
        Ok(())
    }

    /// The folder of a log.
    pub fn log_dir(&self, log: u16) -> PathBuf {
        log_dir(&self.path, log)
    }
}

/// The folder of a log in a data directory.
pub(crate) fn log_dir(path: &Path, log: u16) -> PathBuf {
    path.join(format!("log-{log}"))
}

fn at(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { path, action, source }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(IDENTITY_FILE);
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path, "reading the identity file")(error)),
    };
    Identity::decode(&content).map(Some).map_err(|source| DataDirError::Identity { path, source })
}

fn create_identity(dir: &Path, config: &BrokerConfig) -> Result<Identity, DataDirError> {
    for entry in std::fs::read_dir(dir).map_err(at(dir, "listing it"))? {
        let entry = entry.map_err(at(dir, "listing it"))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b"log-") || name == BEGUN_FILE {
            return Err(DataDirError::IdentityMissing { path: dir.to_owned() });
        }
    }
    let created_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let identity = Identity {
        cluster_name: config.cluster.clone(),
        cluster: Uuid::new_v4(),
        broker_name: config.name.clone(),
        broker_id: 0,
        broker_group: if config.group == 0 { random_group() } else { config.group },
        incarnation: Uuid::new_v4(),
        created_ms: i64::try_from(created_ms).unwrap_or(i64::MAX),
        logs: config.log_count(),
    };
    let path = dir.join(IDENTITY_FILE);
    let text = identity.encode().map_err(|source| DataDirError::Identity { path: path.clone(), source })?;
    let new = dir.join(IDENTITY_NEW);
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(at(&path, "writing the identity file"))?;
    tracing::info!(path = %dir.display(), logs = identity.logs, group = identity.broker_group, "data directory created");
    Ok(identity)
}

/// 24 random bits, not all 0.
pub(crate) fn random_group() -> u32 {
    loop {
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        let group = u32::from_le_bytes([a, b, c, 0]);
        if group != 0 {
            return group;
        }
    }
}

fn check(dir: &Path, identity: &Identity, config: &BrokerConfig) -> Result<(), DataDirError> {
    let differs = |what, found: &dyn ToString, expected: &dyn ToString| {
        Err(DataDirError::NotOurs {
            path: dir.to_owned(),
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        })
    };
    if identity.cluster_name != config.cluster {
        return differs("cluster", &identity.cluster_name, &config.cluster);
    }
    if identity.broker_name != config.name {
        return differs("broker", &identity.broker_name, &config.name);
    }
    if config.group != 0 && identity.broker_group != config.group {
        return differs("broker group", &identity.broker_group, &config.group);
    }
    Ok(())
}

/// A log that holds nothing is opened only where it never held anything: its offsets would be given twice.
fn check_logs(dir: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let Some(log) = offline::missing_logs(dir, identity.logs)?.first().copied() else { return Ok(()) };
    let act = if log == LogId(0) {
        // A new catalog would give the keys of old queues, whose messages the other logs still have, to new ones.
        "begin with another data directory: without its catalog this one is of no use".to_owned()
    } else {
        format!("run `equeue log repair {} --log {log} --begin-anew`", dir.display())
    };
    Err(DataDirError::LogMissing { path: log_dir(dir, log.0), log, act })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> BrokerConfig {
        BrokerConfig { data_dir: dir.to_owned(), shards: 2, ..BrokerConfig::default() }
    }

    #[test]
    fn an_identity_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(&config(dir.path())).unwrap();
        assert_eq!(first.identity.logs, 2);
        let identity = first.identity.clone();
        drop(first);
        let again = DataDir::open(&BrokerConfig { shards: 4, ..config(dir.path()) }).unwrap();
        assert_eq!(again.identity, identity);
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(&config(dir.path())).unwrap();
        assert!(matches!(
            DataDir::open(&config(dir.path())),
            Err(DataDirError::Locked(LockError::Held { .. }))
        ));
        drop(first);
        DataDir::open(&config(dir.path())).unwrap();
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(&config(dir.path())).unwrap());
        let refused = |change: fn(&mut BrokerConfig)| {
            let mut config = config(dir.path());
            change(&mut config);
            match DataDir::open(&config) {
                Err(DataDirError::NotOurs { what, .. }) => what,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(|config| config.name = "other".into()), "broker");
        assert_eq!(refused(|config| config.cluster = "other".into()), "cluster");
        // A drawn group is below 2^24; any other number of 24 bits is another group.
        let drawn = DataDir::open(&config(dir.path())).unwrap().identity.broker_group;
        let other = BrokerConfig { group: drawn ^ 1 | 2, ..config(dir.path()) };
        assert!(other.group == drawn || DataDir::open(&other).is_err());
    }

    #[test]
    fn logs_without_an_identity_are_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log-0")).unwrap();
        let refused = DataDir::open(&config(dir.path()));
        assert!(matches!(refused, Err(DataDirError::IdentityMissing { .. })), "{refused:?}");
        std::fs::rename(dir.path().join("log-0"), dir.path().join(BEGUN_FILE)).unwrap();
        let refused = DataDir::open(&config(dir.path()));
        assert!(matches!(refused, Err(DataDirError::IdentityMissing { .. })), "{refused:?}");
    }

    #[test]
    fn a_damaged_identity_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(&config(dir.path())).unwrap());
        let path = dir.path().join(IDENTITY_FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace("logs = 2", "logs = 3");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(DataDir::open(&config(dir.path())), Err(DataDirError::Identity { .. })));
    }
}
