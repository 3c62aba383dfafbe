//! The settings of a broker: what there is, the defaults, and which values make sense together.
//!
//! Unknown keys are errors. [`KEYS`] documents every key but those of `[hazards]`, and is tested to be complete and to hold the defaults.

mod check;
mod delivery;
mod groups;
mod keys;
mod net;
mod retention;
mod size;
mod span;
mod storage;
mod timers;

use std::net::SocketAddr;
use std::path::PathBuf;

use equeue_net::limits;
use equeue_storage::log::Hazards;
use serde::{Deserialize, Serialize};

use check::{check_address, check_name, refuse, resolve, within};

pub use check::ConfigError;
pub use delivery::{DelayConfig, RetryConfig};
pub use groups::GroupsConfig;
pub use keys::{ConfigKey, KEYS, default_toml};
pub use net::NetConfig;
pub use retention::RetentionConfig;
pub use size::{ByteSize, ByteSizeError};
pub use span::{Span, SpanError};
pub use storage::{StorageConfig, StorageMode, SyncPolicy};
pub use timers::TimerConfig;

/// Shards of one broker at the most.
pub const SHARDS_MAX: u16 = 128;
/// Logs of one broker at the most.
pub const LOGS_MAX: u16 = 1024;
/// Queues of one topic at the most, over all brokers.
pub const TOPIC_QUEUES_MAX: u32 = 1024;
/// Bytes of a broker's or cluster's name at the most.
pub const NAME_BYTES_MAX: usize = 64;
/// Nameservers at the most.
pub const NAMESERVERS_MAX: usize = 16;
/// A broker group number has 24 bits: it is the upper part of every queue key.
pub const GROUP_MAX: u32 = (1 << 24) - 1;

// What a broker may have, its peers must be able to read.
const _: () = assert!(TOPIC_QUEUES_MAX as usize <= limits::TOPIC_QUEUES_MAX);
const _: () = assert!(LOGS_MAX as usize <= limits::LOGS_MAX);
const _: () = assert!(NAME_BYTES_MAX <= limits::VALID_NAME_BYTES_MAX);

/// Settings of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// Name of the broker, unique in its cluster.
    pub name: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the broker's group; 0: the one drawn when the data directory was created.
    pub group: u32,
    /// Where the logs lie.
    pub data_dir: PathBuf,
    /// Where clients connect to.
    pub listen: String,
    /// What clients are told to connect to; empty: the address listened on.
    pub advertise: String,
    /// Where metrics and health are served; empty: nowhere.
    pub http_listen: String,
    /// All nameservers of the cluster.
    pub nameservers: Vec<String>,
    /// A first send may create its topic.
    pub auto_create_topics: bool,
    /// Queues of a topic created without a number.
    pub default_queues: u32,
    /// Number of shards; 0: one less than there are CPUs, at least 1.
    pub shards: u16,
    /// Number of logs of a new data directory; 0: one per shard.
    pub logs: u16,
    /// CPU of each shard; empty: chosen by the broker.
    pub pin: Vec<usize>,
    /// Memory.
    pub memory: MemoryConfig,
    /// The logs.
    pub storage: StorageConfig,
    /// How long messages stay.
    pub retention: RetentionConfig,
    /// Connections.
    pub net: NetConfig,
    /// Intervals and deadlines.
    pub timers: TimerConfig,
    /// Delayed messages.
    pub delay: DelayConfig,
    /// Messages that consumers could not handle.
    pub retry: RetryConfig,
    /// Consumer groups.
    pub groups: GroupsConfig,
    /// For tests of tests only.
    pub hazards: Hazards,
}

/// Memory of the whole broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// The broker keeps below this; a quarter of it is cache.
    pub limit: ByteSize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            name: "broker-1".to_owned(),
            cluster: "default".to_owned(),
            group: 0,
            data_dir: PathBuf::from("data/broker"),
            listen: "127.0.0.1:9494".to_owned(),
            advertise: String::new(),
            http_listen: "127.0.0.1:9495".to_owned(),
            nameservers: vec!["127.0.0.1:9493".to_owned()],
            auto_create_topics: false,
            default_queues: 4,
            shards: 0,
            logs: 0,
            pin: Vec::new(),
            memory: MemoryConfig::default(),
            storage: StorageConfig::default(),
            retention: RetentionConfig::default(),
            net: NetConfig::default(),
            timers: TimerConfig::default(),
            delay: DelayConfig::default(),
            retry: RetryConfig::default(),
            groups: GroupsConfig::default(),
            hazards: Hazards::default(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit: ByteSize::gib(1) }
    }
}

impl BrokerConfig {
    /// Checks every value and those that belong together.
    ///
    /// # Errors
    /// Names the first key whose value is not allowed, and what is.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name("name", &self.name)?;
        check_name("cluster", &self.cluster)?;
        within("group", self.group, 0, GROUP_MAX)?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(refuse("data_dir", "empty", "it must name a folder"));
        }
        check_address("listen", &self.listen)?;
        if !self.advertise.is_empty() {
            check_address("advertise", &self.advertise)?;
        }
        if !self.http_listen.is_empty() {
            check_address("http_listen", &self.http_listen)?;
        }
        within("nameservers", self.nameservers.len(), 0, NAMESERVERS_MAX)?;
        for address in &self.nameservers {
            check_address("nameservers", address)?;
        }
        within("default_queues", self.default_queues, 1, 256)?;
        within("shards", self.shards, 0, SHARDS_MAX)?;
        within("logs", self.logs, 0, LOGS_MAX)?;
        if !self.pin.is_empty() && self.pin.len() != usize::from(self.shard_count()) {
            return Err(refuse(
                "pin",
                format_args!("{:?}", self.pin),
                format!("it must name one CPU for each of the {} shards, or none", self.shard_count()),
            ));
        }
        within("memory.limit", self.memory.limit, ByteSize::mib(64), ByteSize::gib(1024))?;
        self.storage.validate()?;
        self.retention.validate(u64::from(self.log_count()), &self.storage)?;
        self.net.validate()?;
        // One request must fit what a log lets wait, or it could never be taken whole.
        within(
            "storage.pending_bytes_max",
            self.storage.pending_bytes_max,
            self.net.frame_bytes_max,
            ByteSize::gib(1),
        )?;
        self.timers.validate()?;
        self.delay.validate()?;
        self.retry.validate()?;
        self.groups.validate()?;
        self.validate_memory()
    }

    /// What the shards take together must fit below the limit.
    fn validate_memory(&self) -> Result<(), ConfigError> {
        if self.storage.mode == StorageMode::Memory {
            let logs = self.log_count();
            // Segments of at least 1 MiB, eight of them.
            let least = ByteSize::mib(8 * u64::from(logs));
            if self.memory_bytes_per_log(logs) < ByteSize::mib(8).0
                || self.storage.memory_bytes.0 > self.memory.limit.0 / 2
            {
                let expected = format!(
                    "{logs} logs need at least {least}, and half of memory.limit ({}) at the most; or 0: that half",
                    self.memory.limit
                );
                return Err(refuse("storage.memory_bytes", self.storage.memory_bytes, expected));
            }
        }
        let shards = u64::from(self.shard_count());
        let cache = self.cache_bytes_per_shard() as u64;
        let least = self.storage.flush_bytes_max.0 * 8;
        if cache < least {
            return Err(refuse(
                "memory.limit",
                self.memory.limit,
                format!(
                    "a quarter of it, shared by {shards} shards, must hold 8 flushes of {} each: use at least {}",
                    self.storage.flush_bytes_max,
                    ByteSize(least * shards * 4)
                ),
            ));
        }
        Ok(())
    }

    /// Number of shards, with 0 resolved.
    pub fn shard_count(&self) -> u16 {
        if self.shards != 0 {
            return self.shards;
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u16::try_from(cpus.saturating_sub(1)).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX)
    }

    /// Number of logs of a new data directory, with 0 resolved.
    pub fn log_count(&self) -> u16 {
        if self.logs != 0 { self.logs } else { self.shard_count() }
    }

    /// Cache of one shard, bytes: its part of a quarter of the limit, in whole MiB.
    pub fn cache_bytes_per_shard(&self) -> usize {
        let part = self.memory.limit.0 / 4 / u64::from(self.shard_count());
        ByteSize(part & !((1 << 20) - 1)).as_usize()
    }

    /// Bytes of messages that each of `logs` logs keeps when they are kept in memory.
    pub fn memory_bytes_per_log(&self, logs: u16) -> u64 {
        let all = match self.storage.memory_bytes.0 {
            0 => self.memory.limit.0 / 2,
            bytes => bytes,
        };
        all / u64::from(logs.max(1))
    }

    /// The address to listen on, resolved.
    ///
    /// # Errors
    /// Names the key when the host is not known.
    pub fn listen_address(&self) -> Result<SocketAddr, ConfigError> {
        resolve("listen", &self.listen)
    }

    /// The address of metrics and health; `None`: switched off.
    ///
    /// # Errors
    /// Names the key when the host is not known.
    pub fn http_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        if self.http_listen.is_empty() {
            Ok(None)
        } else {
            resolve("http_listen", &self.http_listen).map(Some)
        }
    }
}

#[cfg(test)]
mod tests;
