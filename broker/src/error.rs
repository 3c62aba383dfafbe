//! Why a broker does not start, or how it ended.

use std::path::PathBuf;

use equeue_net::transport::listener::BindError;
use equeue_net::transport::preflight::PreflightError;
use equeue_storage::log::OpenError;

use crate::catalog::CatalogError;
use crate::config::ConfigError;
use crate::data_dir::DataDirError;

/// What a caller of the broker is told.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine does not allow what is needed.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The address of clients, or of metrics, cannot be listened on.
    #[error("setting `{key}`")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Why.
        #[source]
        source: BindError,
    },
    /// A log cannot be opened.
    #[error("log {log} of shard {shard} cannot be opened")]
    Open {
        /// Number of the log.
        log: u16,
        /// Number of the shard.
        shard: u16,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The catalog in log 0 cannot be read.
    #[error("the catalog in log 0 cannot be read")]
    Catalog(#[from] CatalogError),
    /// A thread or its executor cannot be made.
    #[error("{what} cannot be started")]
    Thread {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Direct I/O does not work in the data directory.
    #[error("{path}: direct I/O is not possible here")]
    DirectIo {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A log failed while the broker ran, or could not be closed in order.
    #[error(
        "log {log} failed ({reason}): what it acknowledged is safe, but its last stop was not an orderly one"
    )]
    LogFailed {
        /// Number of the log.
        log: u16,
        /// What it said.
        reason: String,
    },
    /// A shard ended without a word: a bug, and its panic message is in the log.
    #[error("shard {shard} ended unexpectedly")]
    ShardLost {
        /// Number of the shard.
        shard: u16,
    },
}
