//! The settings of a broker: what there is, the defaults, and which values make sense together.
//!
//! Unknown keys are errors. [`KEYS`] documents every key but those of `[hazards]`, and is tested to be complete and to hold the defaults.

mod groups;
mod keys;
mod size;
mod span;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use equeue_net::frame::FRAME_BYTES_MAX;
use equeue_net::limits;
use equeue_storage::log::Hazards;
use serde::{Deserialize, Serialize};

pub use groups::GroupsConfig;
pub use keys::{ConfigKey, KEYS, default_toml};
pub use size::{ByteSize, ByteSizeError};
pub use span::{Span, SpanError};

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

/// When an acknowledged message is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncPolicy {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// Some time after it was acknowledged.
    Interval,
}

/// Where messages are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageMode {
    /// On the disk.
    #[default]
    Disk,
    /// In memory only: gone when the broker stops.
    Memory,
}

/// Settings of each log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Where messages are kept.
    pub mode: StorageMode,
    /// Bytes of messages in memory, of all logs together, when they are kept there; 0: half of `memory.limit`.
    pub memory_bytes: ByteSize,
    /// When messages are synced.
    pub sync: SyncPolicy,
    /// Longest time between an acknowledgement and its sync, when `sync` is an interval.
    pub sync_interval_ms: u64,
    /// Largest segment.
    pub segment_bytes_max: ByteSize,
    /// First segment of a log, and after a crash.
    pub segment_bytes_first: ByteSize,
    /// Soft cap of one flush.
    pub flush_bytes_max: ByteSize,
    /// Flushes in flight.
    pub flush_depth: usize,
    /// Bytes that wait for a flush before producers are told to wait.
    pub pending_bytes_max: ByteSize,
    /// A snapshot at the latest after so many bytes.
    pub snapshot_bytes: ByteSize,
    /// Quiet time after which a log marks its end.
    pub idle_ms: u64,
    /// Producers remembered per log.
    pub producers_max: usize,
    /// Rate at which sealed segments of a log are read again and checked; 0: never.
    pub scrub_bytes_per_second: ByteSize,
}

/// How long messages stay. Whole segments go, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Messages older than this go; 0: no limit.
    pub age: Span,
    /// Bytes on disk of all logs together; 0: no limit.
    pub bytes: ByteSize,
    /// Segments of each log; 0: no limit.
    pub segments: usize,
    /// The oldest segments go while the file system has less free space; 0: never.
    pub disk_free_min: ByteSize,
    /// Whether messages go that a group has not consumed.
    pub delete_unconsumed: bool,
    /// Time between two looks.
    pub check_ms: u64,
}

/// Limits of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// Connections of the broker.
    pub connections_max: usize,
    /// Largest frame.
    pub frame_bytes_max: ByteSize,
    /// Unacknowledged produce bytes of one connection before its socket is not read any more.
    pub produce_credit_bytes: ByteSize,
    /// Largest answer to one fetch.
    pub answer_bytes_max: ByteSize,
    /// Unsent fetch answers of one connection before its next fetch waits.
    pub answer_queue_bytes_max: ByteSize,
    /// Longest wait of a parked fetch.
    pub fetch_wait_ms_max: u32,
    /// Parked fetches per shard.
    pub parked_fetches_max: usize,
}

/// Intervals and deadlines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimerConfig {
    /// Time between registrations with each nameserver.
    pub register_ms: u64,
    /// Silence after which a producer or consumer is forgotten.
    pub presence_ms: u64,
    /// Time for a connection to say who it is.
    pub hello_ms: u64,
    /// Time for an orderly stop before open connections are cut.
    pub stop_ms: u64,
}

/// Delayed messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelayConfig {
    /// How far ahead a message may be due.
    pub ahead_ms_max: i64,
    /// Messages of one log that may wait.
    pub messages_max: u64,
}

/// Messages that consumers could not handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// A message that was handed back so often becomes a dead letter.
    pub attempts_max: u32,
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

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            mode: StorageMode::Disk,
            memory_bytes: ByteSize(0),
            sync: SyncPolicy::Always,
            sync_interval_ms: 100,
            segment_bytes_max: ByteSize::mib(256),
            segment_bytes_first: ByteSize::mib(16),
            flush_bytes_max: ByteSize::mib(1),
            flush_depth: 2,
            pending_bytes_max: ByteSize::mib(8),
            snapshot_bytes: ByteSize::mib(256),
            idle_ms: 100,
            producers_max: 100_000,
            scrub_bytes_per_second: ByteSize::mib(4),
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            age: Span::days(7),
            bytes: ByteSize(0),
            segments: 0,
            disk_free_min: ByteSize(0),
            delete_unconsumed: true,
            check_ms: 10_000,
        }
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            frame_bytes_max: ByteSize::mib(8),
            produce_credit_bytes: ByteSize::mib(8),
            answer_bytes_max: ByteSize::mib(1),
            answer_queue_bytes_max: ByteSize::mib(2),
            fetch_wait_ms_max: 60_000,
            parked_fetches_max: 100_000,
        }
    }
}

impl Default for DelayConfig {
    fn default() -> Self {
        Self { ahead_ms_max: 40 * 24 * 3600 * 1000, messages_max: 2_000_000 }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts_max: 16 }
    }
}

impl Default for TimerConfig {
    fn default() -> Self {
        Self { register_ms: 5_000, presence_ms: 10_000, hello_ms: 5_000, stop_ms: 5_000 }
    }
}

/// A setting that makes no sense, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{key}` is {value}: {expected}")]
pub struct ConfigError {
    /// Dotted name of the key.
    pub key: &'static str,
    /// Value found.
    pub value: String,
    /// What is allowed.
    pub expected: String,
}

fn refuse(key: &'static str, value: impl std::fmt::Display, expected: impl Into<String>) -> ConfigError {
    ConfigError { key, value: value.to_string(), expected: expected.into() }
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &'static str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if value < low || value > high {
        return Err(refuse(key, value, format!("it must be within {low}..{high}")));
    }
    Ok(())
}

/// A name that may be printed, used in a metric label and compared byte by byte.
fn check_name(key: &'static str, name: &str) -> Result<(), ConfigError> {
    if name.len() > NAME_BYTES_MAX || !limits::valid_name(name) {
        return Err(refuse(
            key,
            format_args!("`{name}`"),
            format!("it must be 1..{NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`"),
        ));
    }
    Ok(())
}

fn check_address(key: &'static str, address: &str) -> Result<(), ConfigError> {
    let valid =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid { Ok(()) } else { Err(refuse(key, format_args!("`{address}`"), "it must be `host:port`")) }
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

fn resolve(key: &'static str, address: &str) -> Result<SocketAddr, ConfigError> {
    address
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| refuse(key, format_args!("`{address}`"), "its host could not be resolved"))
}

impl StorageConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let mib = ByteSize::mib(1);
        within("storage.segment_bytes_max", self.segment_bytes_max, mib, ByteSize::gib(16))?;
        within("storage.segment_bytes_first", self.segment_bytes_first, mib, self.segment_bytes_max)?;
        for (key, size) in [
            ("storage.segment_bytes_max", self.segment_bytes_max),
            ("storage.segment_bytes_first", self.segment_bytes_first),
        ] {
            if !size.0.is_multiple_of(mib.0) {
                return Err(refuse(key, size, "it must be a multiple of 1MiB"));
            }
        }
        within("storage.flush_bytes_max", self.flush_bytes_max, ByteSize::kib(8), ByteSize::mib(1))?;
        if !self.flush_bytes_max.0.is_multiple_of(4096) {
            return Err(refuse(
                "storage.flush_bytes_max",
                self.flush_bytes_max,
                "it must be a multiple of 4KiB",
            ));
        }
        within("storage.flush_depth", self.flush_depth, 1, 2)?;
        within("storage.sync_interval_ms", self.sync_interval_ms, 1, 60_000)?;
        within("storage.snapshot_bytes", self.snapshot_bytes, ByteSize::mib(1), ByteSize::gib(16))?;
        within("storage.idle_ms", self.idle_ms, 10, 60_000)?;
        within("storage.producers_max", self.producers_max, 1_000, 10_000_000)?;
        within("storage.scrub_bytes_per_second", self.scrub_bytes_per_second, ByteSize(0), ByteSize::gib(1))
    }
}

impl RetentionConfig {
    fn validate(&self, logs: u64, storage: &StorageConfig) -> Result<(), ConfigError> {
        if self.age.0 != 0 {
            within("retention.age", self.age, Span::seconds(60), Span::days(36_500))?;
        }
        // The active segment, the one before it with its snapshots, and the prepared one are always there.
        let least = ByteSize(storage.segment_bytes_max.0.saturating_mul(4).saturating_mul(logs));
        if self.bytes.0 != 0 && self.bytes < least {
            let expected = format!("{logs} logs of four segments each need at least {least}, or 0: no limit");
            return Err(refuse("retention.bytes", self.bytes, expected));
        }
        if self.segments != 0 {
            within("retention.segments", self.segments, 2, 1_000_000)?;
        }
        within("retention.disk_free_min", self.disk_free_min, ByteSize(0), ByteSize::gib(1 << 20))?;
        within("retention.check_ms", self.check_ms, 10, 3_600_000)
    }
}

impl NetConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        within("net.connections_max", self.connections_max, 1, 1_000_000)?;
        within(
            "net.frame_bytes_max",
            self.frame_bytes_max,
            ByteSize::mib(2),
            ByteSize(FRAME_BYTES_MAX as u64),
        )?;
        within(
            "net.produce_credit_bytes",
            self.produce_credit_bytes,
            self.frame_bytes_max,
            ByteSize::gib(1),
        )?;
        within("net.answer_bytes_max", self.answer_bytes_max, ByteSize::kib(4), self.frame_bytes_max)?;
        within(
            "net.answer_queue_bytes_max",
            self.answer_queue_bytes_max,
            self.answer_bytes_max,
            ByteSize::gib(1),
        )?;
        within("net.fetch_wait_ms_max", self.fetch_wait_ms_max, 0, 600_000)?;
        within("net.parked_fetches_max", self.parked_fetches_max, 1, 10_000_000)
    }
}

impl TimerConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        within("timers.register_ms", self.register_ms, 100, 60_000)?;
        within("timers.presence_ms", self.presence_ms, 1_000, 600_000)?;
        within("timers.hello_ms", self.hello_ms, 100, 60_000)?;
        within("timers.stop_ms", self.stop_ms, 100, 600_000)
    }
}

impl DelayConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        within("delay.ahead_ms_max", self.ahead_ms_max, 1_000, 365 * 24 * 3600 * 1000)?;
        within("delay.messages_max", self.messages_max, 1_000, 100_000_000)
    }
}

impl RetryConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        within("retry.attempts_max", self.attempts_max, 1, 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut BrokerConfig)) -> &'static str {
        let mut config = BrokerConfig { shards: 1, ..BrokerConfig::default() };
        change(&mut config);
        config.validate().expect_err("must be refused").key
    }

    #[test]
    fn defaults_are_valid() {
        BrokerConfig::default().validate().unwrap();
    }

    #[test]
    fn each_limit_is_enforced_and_named() {
        assert_eq!(refused(|c| c.name = String::new()), "name");
        assert_eq!(refused(|c| c.name = "a b".into()), "name");
        assert_eq!(refused(|c| c.cluster = "x".repeat(NAME_BYTES_MAX + 1)), "cluster");
        assert_eq!(refused(|c| c.group = GROUP_MAX + 1), "group");
        assert_eq!(refused(|c| c.data_dir = PathBuf::new()), "data_dir");
        assert_eq!(refused(|c| c.listen = "9494".into()), "listen");
        assert_eq!(refused(|c| c.listen = "host:99999".into()), "listen");
        assert_eq!(refused(|c| c.advertise = ":1".into()), "advertise");
        assert_eq!(refused(|c| c.http_listen = "x".into()), "http_listen");
        assert_eq!(refused(|c| c.nameservers = vec!["a:1".into(); NAMESERVERS_MAX + 1]), "nameservers");
        assert_eq!(refused(|c| c.nameservers = vec!["a".into()]), "nameservers");
        assert_eq!(refused(|c| c.default_queues = 0), "default_queues");
        assert_eq!(refused(|c| c.shards = SHARDS_MAX + 1), "shards");
        assert_eq!(refused(|c| c.logs = LOGS_MAX + 1), "logs");
        assert_eq!(refused(|c| c.pin = vec![0, 1]), "pin");
        assert_eq!(refused(|c| c.memory.limit = ByteSize(1)), "memory.limit");
        assert_eq!(refused(|c| c.shards = 64), "memory.limit");
        assert_eq!(refused(|c| c.storage.segment_bytes_max = ByteSize(1)), "storage.segment_bytes_max");
        assert_eq!(
            refused(|c| c.storage.segment_bytes_first = ByteSize::gib(1)),
            "storage.segment_bytes_first"
        );
        assert_eq!(
            refused(|c| c.storage.segment_bytes_first = ByteSize((1 << 20) + 4096)),
            "storage.segment_bytes_first"
        );
        assert_eq!(refused(|c| c.storage.flush_bytes_max = ByteSize::mib(2)), "storage.flush_bytes_max");
        assert_eq!(refused(|c| c.storage.flush_bytes_max = ByteSize(10_000)), "storage.flush_bytes_max");
        assert_eq!(refused(|c| c.storage.sync_interval_ms = 0), "storage.sync_interval_ms");
        let in_memory = |c: &mut BrokerConfig| {
            c.storage.mode = StorageMode::Memory;
            c.storage.memory_bytes = ByteSize::gib(2);
        };
        assert_eq!(refused(in_memory), "storage.memory_bytes");
        assert_eq!(refused(|c| c.storage.flush_depth = 3), "storage.flush_depth");
        assert_eq!(refused(|c| c.storage.pending_bytes_max = ByteSize(1)), "storage.pending_bytes_max");
        assert_eq!(refused(|c| c.storage.snapshot_bytes = ByteSize(1)), "storage.snapshot_bytes");
        assert_eq!(refused(|c| c.storage.idle_ms = 0), "storage.idle_ms");
        assert_eq!(refused(|c| c.storage.producers_max = 0), "storage.producers_max");
        assert_eq!(refused(|c| c.retention.age = Span(1)), "retention.age");
        assert_eq!(refused(|c| c.retention.bytes = ByteSize(1)), "retention.bytes");
        assert_eq!(refused(|c| c.retention.segments = 1), "retention.segments");
        assert_eq!(refused(|c| c.retention.disk_free_min = ByteSize(u64::MAX)), "retention.disk_free_min");
        assert_eq!(refused(|c| c.retention.check_ms = 1), "retention.check_ms");
        assert_eq!(
            refused(|c| c.storage.scrub_bytes_per_second = ByteSize::gib(2)),
            "storage.scrub_bytes_per_second"
        );
        assert_eq!(refused(|c| c.net.connections_max = 0), "net.connections_max");
        assert_eq!(refused(|c| c.net.frame_bytes_max = ByteSize(1)), "net.frame_bytes_max");
        assert_eq!(refused(|c| c.net.produce_credit_bytes = ByteSize(1)), "net.produce_credit_bytes");
        assert_eq!(refused(|c| c.net.answer_bytes_max = ByteSize::mib(9)), "net.answer_bytes_max");
        assert_eq!(refused(|c| c.net.answer_queue_bytes_max = ByteSize(1)), "net.answer_queue_bytes_max");
        assert_eq!(refused(|c| c.net.fetch_wait_ms_max = 600_001), "net.fetch_wait_ms_max");
        assert_eq!(refused(|c| c.net.parked_fetches_max = 0), "net.parked_fetches_max");
        assert_eq!(refused(|c| c.timers.register_ms = 1), "timers.register_ms");
        assert_eq!(refused(|c| c.timers.presence_ms = 1), "timers.presence_ms");
        assert_eq!(refused(|c| c.timers.hello_ms = 1), "timers.hello_ms");
        assert_eq!(refused(|c| c.timers.stop_ms = 1), "timers.stop_ms");
        assert_eq!(refused(|c| c.delay.ahead_ms_max = 1), "delay.ahead_ms_max");
        assert_eq!(refused(|c| c.delay.messages_max = 1), "delay.messages_max");
        assert_eq!(refused(|c| c.retry.attempts_max = 0), "retry.attempts_max");
        assert_eq!(refused(|c| c.groups.lease_ms = 1), "groups.lease_ms");
        assert_eq!(refused(|c| c.groups.session_ms = 4_999), "groups.session_ms");
        assert_eq!(refused(|c| c.groups.retention_hours = 0), "groups.retention_hours");
        assert_eq!(refused(|c| c.groups.broadcast_retention_hours = 0), "groups.broadcast_retention_hours");
    }

    #[test]
    fn the_switches_of_null_controls_are_read_but_not_offered() {
        let read: BrokerConfig = toml::from_str("[hazards]\nno_sync = true").unwrap();
        assert_eq!(read.hazards, Hazards { no_sync: true, ..Hazards::default() });
        assert!(read.hazards.any() && !BrokerConfig::default().hazards.any());
        assert!(!default_toml().contains("hazards"));
        assert!(toml::from_str::<BrokerConfig>("[hazards]\nno_synk = true").is_err());
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(toml::from_str::<BrokerConfig>("sharts = 2").is_err());
        assert!(toml::from_str::<BrokerConfig>("[storage]\nflush_dept = 2").is_err());
        let read: BrokerConfig = toml::from_str("[memory]\nlimit = \"2GiB\"").unwrap();
        assert_eq!(read.memory.limit, ByteSize::gib(2));
    }
}
