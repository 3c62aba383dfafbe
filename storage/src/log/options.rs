//! Settings of a log.

use serde::{Deserialize, Serialize};

use super::SyncPolicy;
use crate::format::{BLOCK_BYTES, FLUSH_DEPTH_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, WINDOW_BYTES};

/// Settings of a log. Every one has a default that works on a laptop.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Largest segment, bytes (1 MiB..16 GiB, a multiple of 1 MiB; default 256 MiB).
    pub segment_bytes_max: u64,
    /// First segment of a log and after a crash, bytes (default 16 MiB).
    pub segment_bytes_first: u64,
    /// Largest flush, bytes with its header (8 KiB..1 MiB, a multiple of 4 KiB; default 1 MiB). A flush never crosses
    /// a window of 1 MiB, so more would not be used. Segments of less than 3 MiB have no window for a whole MiB:
    /// with them it is at most 1 MiB - 8 KiB.
    pub flush_bytes_max: usize,
    /// Flushes written at a time (1..2; default 2). Up to two more, full ones, are built ahead.
    pub flush_depth: usize,
    /// Bytes of memory for recent and re-read log bytes (default 256 MiB).
    pub cache_bytes: usize,
    /// Appends that wait for a flush, bytes (default 8 MiB); past it: [`super::AppendError::Busy`]. Of messages fewer,
    /// where segments are so small that this could take up the last one.
    pub pending_bytes_max: usize,
    /// A snapshot at the latest after so many bytes (default 256 MiB).
    pub snapshot_bytes: u64,
    /// An IDLE flush after so long without one, at the latest after twice as long, ms (default 100).
    pub idle_ms: u64,
    /// Sealed segments are read again and checked at so many bytes a second (default 4 MiB; 0: never).
    pub scrub_bytes_per_second: u64,
    /// Producers remembered at the most (default 100,000).
    pub producers_max: usize,
    /// Keep the space for the segment that a start after a crash begins with, also on a full disk (default). Of no use for
    /// files in memory.
    pub ballast: bool,
    /// When acknowledged messages are synced (default: before).
    pub sync: SyncPolicy,
    /// Switches that only tests use; [`Hazards::default`] is the only safe value.
    pub hazards: Hazards,
}

/// Mechanisms that a null control switches off, to show that its test can fail. Never set in production.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Hazards {
    /// Acknowledge without syncing.
    pub no_sync: bool,
    /// Do not sync the active segment before recovery decides where it ends.
    pub no_recovery_sync: bool,
    /// Go on in the next segment before SEAL is synced.
    pub no_roll_barrier: bool,
    /// Take the first invalid flush as the end without looking for evidence behind it.
    pub no_evidence: bool,
    /// Do not check checksums in recovery.
    pub no_crc: bool,
    /// Do not sync the directory after renames.
    pub no_dir_sync: bool,
    /// Answer a duplicate before its original is durable.
    pub early_duplicate: bool,
    /// Serve reads past the durable end.
    pub no_high_watermark: bool,
    /// Take commits, releases and fetches under any grant. The broker's own; here, so that there is one table.
    pub no_grant_epoch: bool,
}

impl Hazards {
    /// Whether any mechanism is switched off.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes_max: 256 << 20,
            segment_bytes_first: 16 << 20,
            flush_bytes_max: 1 << 20,
            flush_depth: 2,
            cache_bytes: 256 << 20,
            pending_bytes_max: 8 << 20,
            snapshot_bytes: 256 << 20,
            idle_ms: 100,
            scrub_bytes_per_second: 4 << 20,
            producers_max: 100_000,
            ballast: true,
            sync: SyncPolicy::Always,
            hazards: Hazards::default(),
        }
    }
}

impl LogOptions {
    /// Largest batch (and largest sum of an atomic append), bytes: what a flush holds beside its header and padding.
    pub fn batch_bytes_max(&self) -> usize {
        self.in_range().flush_bytes_max - BLOCK
    }

    /// The settings with every number in its range.
    pub(crate) fn in_range(&self) -> Self {
        let whole = |bytes: u64| (bytes / SEGMENT_BYTES_MIN * SEGMENT_BYTES_MIN).max(SEGMENT_BYTES_MIN);
        let segment_bytes_max = whole(self.segment_bytes_max.min(SEGMENT_BYTES_MAX));
        let segment_bytes_first = whole(self.segment_bytes_first.min(segment_bytes_max));
        // The first block of a segment is its header, the last one is kept for SEAL: only windows between are whole.
        let window = if segment_bytes_first < 3 * SEGMENT_BYTES_MIN { WINDOW - 2 * BLOCK } else { WINDOW };
        Self {
            segment_bytes_max,
            segment_bytes_first,
            flush_bytes_max: (self.flush_bytes_max / BLOCK * BLOCK).clamp(2 * BLOCK, window),
            flush_depth: self.flush_depth.clamp(1, FLUSH_DEPTH),
            snapshot_bytes: self.snapshot_bytes.max(SEGMENT_BYTES_MIN),
            idle_ms: self.idle_ms.max(1),
            ..self.clone()
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BLOCK: usize = BLOCK_BYTES as usize;
#[expect(clippy::cast_possible_truncation, reason = "1 MiB")]
const WINDOW: usize = WINDOW_BYTES as usize;
#[expect(clippy::cast_possible_truncation, reason = "2")]
const FLUSH_DEPTH: usize = FLUSH_DEPTH_MAX as usize;
