//! Queue keys and the log of each queue: given once, at creation, for ever.

use equeue_record::QueueKey;
use equeue_storage::LogId;

/// Bits of a queue key below the broker group's number.
pub const QUEUE_COUNTER_BITS: u32 = 40;

/// A queue of this broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueHome {
    /// Its number in the topic.
    pub ordinal: u32,
    /// Its key.
    pub key: QueueKey,
    /// The log that it lives in.
    pub log: LogId,
    /// Sending is allowed.
    pub writable: bool,
    /// Consuming is allowed.
    pub readable: bool,
}

/// The shard that serves a log. Holds for every number of shards, so that it may change between restarts.
pub const fn shard_of(log: LogId, shards: u16) -> u16 {
    log.0 % shards
}

// The highest bit of the counter says that a key is that of a delay queue.
const _: () = assert!(QueueKey::DELAY_BIT == 1 << (QUEUE_COUNTER_BITS - 1));

/// The key that `counter` stands for; `None`: the counter is used up (never, at a thousand queues a second for 30 years).
pub(super) fn key_of(group: u32, counter: u64) -> Option<QueueKey> {
    (counter < QueueKey::DELAY_BIT).then_some(QueueKey((u64::from(group) << QUEUE_COUNTER_BITS) | counter))
}

/// The log of a new queue: round-robin, so that the queues of a topic are spread over all logs.
pub(super) fn log_of(counter: u64, logs: u16) -> LogId {
    LogId(u16::try_from(counter % u64::from(logs.max(1))).expect("a remainder of a u16 fits it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_group_and_never_meet() {
        assert_eq!(key_of(1, 5), Some(QueueKey((1 << 40) | 5)));
        assert_ne!(key_of(1, 5), key_of(2, 5));
        assert_eq!(key_of(1, 1 << 39), None);
        let last = key_of(0x00ff_ffff, (1 << 39) - 1).unwrap();
        assert_eq!((last.is_delay_queue(), last.delay_queue().target()), (false, last));
    }

    #[test]
    fn logs_take_turns_and_shards_cover_all_logs() {
        let logs: Vec<u16> = (0..6).map(|counter| log_of(counter, 3).0).collect();
        assert_eq!(logs, [0, 1, 2, 0, 1, 2]);
        assert_eq!(shard_of(LogId(5), 2), 1);
        assert_eq!(shard_of(LogId(5), 1), 0);
    }
}
