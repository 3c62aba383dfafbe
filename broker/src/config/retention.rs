//! Settings of how long messages stay.

use serde::{Deserialize, Serialize};

use super::check::{refuse, within};
use super::{ByteSize, ConfigError, Span, StorageConfig};

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

impl RetentionConfig {
    pub(super) fn validate(&self, logs: u64, storage: &StorageConfig) -> Result<(), ConfigError> {
        if self.age.0 != 0 {
            within("retention.age", self.age, Span::seconds(60), Span::days(36_500))?;
        }
        // The active segment, the one before it with its snapshots, the prepared one, one to be used after that, and the
        // ballast are always there.
        let four = storage.segment_bytes_max.0.saturating_mul(4);
        let least = ByteSize(four.saturating_add(storage.segment_bytes_first.0).saturating_mul(logs));
        if self.bytes.0 != 0 && self.bytes < least {
            let expected = format!(
                "{logs} logs of four segments and the first one's size each need at least {least}, or 0: no limit"
            );
            return Err(refuse("retention.bytes", self.bytes, expected));
        }
        if self.segments != 0 {
            within("retention.segments", self.segments, 2, 1_000_000)?;
        }
        within("retention.disk_free_min", self.disk_free_min, ByteSize(0), ByteSize::gib(1 << 20))?;
        within("retention.check_ms", self.check_ms, 10, 3_600_000)
    }
}
