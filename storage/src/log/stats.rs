//! Counters of a log, for metrics.

use crate::cache::CacheStats;

/// What a log did since it was opened, and how it stands. Cheap to take; counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of one another")]
pub struct LogStats {
    /// Flushes that became durable.
    pub flushes: u64,
    /// Bytes written, headers and padding counted.
    pub written_bytes: u64,
    /// Bytes of padding and skipped rests of windows.
    pub padding_bytes: u64,
    /// Batches that became durable.
    pub batches: u64,
    /// Syncs that ended well.
    pub syncs: u64,
    /// Time from the start of a write to the end of its sync, all flushes, us.
    pub flush_us: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments that were not zeroed in time: their flushes cost about twice as much.
    pub segments_late: u64,
    /// Attempts to prepare a segment that failed.
    pub prepare_failures: u64,
    /// Snapshots completed.
    pub snapshots: u64,
    /// Bytes of snapshots.
    pub snapshot_bytes: u64,
    /// Batches answered as duplicates.
    pub duplicates: u64,
    /// Windows read from disk.
    pub disk_reads: u64,
    /// Bytes read from disk.
    pub disk_read_bytes: u64,
    /// Windows read ahead of a reader.
    pub read_aheads: u64,
    /// Offsets that readers were led past: a repair gave them up.
    pub offsets_skipped: u64,
    /// Blocks of index files read.
    pub index_reads: u64,
    /// Index files made again because they were missing or damaged.
    pub index_rebuilds: u64,
    /// Bytes of sealed segments that were read again and checked.
    pub scrubbed_bytes: u64,
    /// Times that all sealed segments were checked.
    pub scrub_passes: u64,
    /// When that was last done, ms UTC; 0: never.
    pub scrub_last_pass_ms: i64,
    /// Damaged segments that the last pass found.
    pub scrub_damaged: u64,
    /// Segments that the device could not read.
    pub scrub_errors: u64,
    /// Index files that did not say what their segment says, and were made again.
    pub scrub_indexes_mended: u64,
    /// Bytes of a torn tail that were cut when the log was opened.
    pub torn_bytes: u64,
    /// Bytes that wait for a flush now.
    pub pending_bytes: usize,
    /// Flushes that are not durable yet: written now, or built ahead.
    pub in_flight: usize,
    /// Runs in memory now.
    pub runs: usize,
    /// Producers remembered now.
    pub producers: usize,
    /// Segments retired.
    pub segments_retired: u64,
    /// Bytes of retired segments.
    pub retired_bytes: u64,
    /// Retired segments that were used again.
    pub segments_recycled: u64,
    /// Messages deleted that a group had still to consume.
    pub unconsumed_deleted: u64,
    /// Messages near the end of their retention that a group had still to consume.
    pub unconsumed_near: u64,
    /// A segment stays because a group has not consumed it.
    pub retention_blocked: bool,
    /// The clock jumped: no segment goes by its age.
    pub clock_jumped: bool,
    /// Segments with messages now.
    pub segments_kept: usize,
    /// Bytes on disk now, prepared segments counted.
    pub stored_bytes: u64,
    /// Queues known now.
    pub queues: usize,
    /// Producers are refused for want of space now.
    pub disk_full: bool,
    /// The log failed.
    pub poisoned: bool,
    /// The cache.
    pub cache: CacheStats,
}
