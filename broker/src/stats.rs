//! Figures of a shard: plain numbers that only its own thread writes and anyone may read.
//!
//! A relaxed load and store instead of an atomic addition: there is one writer, and a counter costs what a field does.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that its shard writes.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Adds. Only for the one thread that writes.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes away. Only for the one thread that writes.
    pub fn sub(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(amount), Ordering::Relaxed);
    }

    /// Sets.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of [`Histogram`], in microseconds; one more bucket holds the rest.
pub const BUCKETS_US: [u64; 16] = [
    50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000,
    2_000_000,
];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Figure; BUCKETS_US.len() + 1],
    sum_us: Figure,
}

impl Histogram {
    /// Counts one that took `us` microseconds.
    pub fn observe(&self, us: u64) {
        let index = BUCKETS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.add(1);
        }
        self.sum_us.add(us);
    }

    /// Count per bucket, and the sum in microseconds.
    pub fn read(&self) -> ([u64; BUCKETS_US.len() + 1], u64) {
        (std::array::from_fn(|index| self.buckets.get(index).map_or(0, Figure::get)), self.sum_us.get())
    }
}

/// Figures of one log.
#[derive(Debug, Default)]
pub struct LogStats {
    /// First position that is kept.
    pub start_position: Figure,
    /// End of what is durable.
    pub durable_position: Figure,
    /// 1: a write or sync failed.
    pub failed: Figure,
    /// 1: producers are refused for want of space.
    pub disk_full: Figure,
    /// Flushes that became durable.
    pub flushes: Figure,
    /// Bytes written, headers and padding counted.
    pub written_bytes: Figure,
    /// Bytes of padding.
    pub padding_bytes: Figure,
    /// Time from the start of a write to the end of its sync, all flushes, us.
    pub flush_us: Figure,
    /// Segments that were not prepared in time.
    pub segments_late: Figure,
    /// Snapshots completed.
    pub snapshots: Figure,
    /// Windows read from disk.
    pub disk_reads: Figure,
    /// Bytes on disk.
    pub stored_bytes: Figure,
    /// Segments with messages.
    pub segments: Figure,
    /// Segments retired.
    pub segments_retired: Figure,
    /// Retired segments used again.
    pub segments_recycled: Figure,
    /// Messages deleted that a group had still to consume.
    pub unconsumed_deleted: Figure,
    /// Messages near the end of their retention that a group had still to consume.
    pub unconsumed_near: Figure,
    /// 1: the oldest segment stays because a group has not consumed it.
    pub retention_blocked: Figure,
    /// 1: the clock jumped, so nothing goes by its age.
    pub clock_jumped: Figure,
    /// Offsets that readers were led past: a repair gave them up.
    pub offsets_skipped: Figure,
    /// Bytes of sealed segments read again and checked.
    pub scrubbed_bytes: Figure,
    /// Times that all of them were checked.
    pub scrub_passes: Figure,
    /// When that was last done, ms UTC.
    pub scrub_last_pass_ms: Figure,
    /// Damaged segments that the last pass found.
    pub scrub_damaged: Figure,
    /// Segments that the device could not read.
    pub scrub_errors: Figure,
    /// Bytes that wait for a flush.
    pub pending_bytes: Figure,
    /// Delayed messages that wait.
    pub delayed: Figure,
    /// Reads answered by the cache.
    pub cache_hits: Figure,
    /// Reads that needed the disk.
    pub cache_misses: Figure,
    /// From the append of a request to its durability.
    pub durable_wait: Histogram,
    /// From when a delayed message was due to the append that delivered it.
    pub delay_late: Histogram,
}

/// Figures of one shard.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Its logs, in the order of their numbers.
    pub logs: Vec<LogStats>,
    /// Messages appended.
    pub messages_produced: Figure,
    /// Bytes of batches appended.
    pub bytes_produced: Figure,
    /// Batches appended.
    pub batches_produced: Figure,
    /// Produce requests.
    pub produce_requests: Figure,
    /// Batches that were there before.
    pub batches_duplicate: Figure,
    /// Batches refused.
    pub batches_refused: Figure,
    /// One-way batches that could not be stored.
    pub one_way_dropped: Figure,
    /// Requests in which the reading of a socket had to wait for appends before it.
    pub produce_waits: Figure,
    /// Fetch requests.
    pub fetch_requests: Figure,
    /// Bytes of batches given to fetches.
    pub bytes_fetched: Figure,
    /// Fetches that needed the disk.
    pub fetches_cold: Figure,
    /// Fetches that wait for messages now.
    pub fetches_parked: Figure,
    /// Parked fetches woken by messages.
    pub fetches_woken: Figure,
    /// Parked fetches answered because their time was over.
    pub fetches_expired: Figure,
    /// Bytes of batches left out by tag filters.
    pub bytes_filtered: Figure,
    /// Commits of offsets, queues counted.
    pub offsets_committed: Figure,
    /// Messages taken to be delivered later.
    pub delayed_accepted: Figure,
    /// Delayed messages delivered.
    pub delayed_delivered: Figure,
    /// Delayed messages cancelled.
    pub delayed_cancelled: Figure,
    /// Delayed messages that could not be read or delivered.
    pub delayed_stuck: Figure,
    /// Messages that groups handed back.
    pub handed_back: Figure,
    /// Of them, those that became dead letters.
    pub dead_letters: Figure,
    /// Open connections.
    pub connections: Figure,
    /// Connections served so far.
    pub connections_opened: Figure,
    /// Connections refused at the limit.
    pub connections_refused: Figure,
    /// Connections closed because of what they sent.
    pub protocol_errors: Figure,
    /// Requests sent on to another shard.
    pub requests_forwarded: Figure,
    /// Requests answered BUSY for want of a credit to another shard.
    pub forwards_refused: Figure,
    /// Live producers.
    pub producers: Figure,
    /// Live consumers.
    pub consumers: Figure,
    /// Grants given to members of groups.
    pub grants: Figure,
    /// Commits, releases and fetches refused because of their epoch.
    pub stale_epochs: Figure,
    /// Groups with an entry in a queue of the shard.
    pub groups: Figure,
    /// Queues of groups that are there, owned by nobody for three rebalance intervals.
    pub queues_unowned: Figure,
    /// Groups that will be forgotten soon.
    pub groups_expiring: Figure,
    /// Times that the shard stood still.
    pub stalls: Figure,
}

impl ShardStats {
    /// For a shard with so many logs.
    pub fn new(logs: usize) -> Self {
        Self { logs: (0..logs).map(|_| LogStats::default()).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for us in [0, 50, 51, 2_000_000, 2_000_001, u64::MAX / 2] {
            histogram.observe(us);
        }
        let (buckets, _) = histogram.read();
        assert_eq!((buckets[0], buckets[1], buckets[15], buckets[16]), (2, 1, 1, 2));
        assert_eq!(buckets.iter().sum::<u64>(), 6);
    }
}
