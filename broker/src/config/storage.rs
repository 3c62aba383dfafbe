//! Settings of the logs.

use serde::{Deserialize, Serialize};

use super::check::{refuse, within};
use super::{ByteSize, ConfigError};

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
    /// Flushes written at a time.
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

impl StorageConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
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
