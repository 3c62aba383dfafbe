//! The keys of the broker's state entries in its logs: one kind byte in front, so that kinds never meet.
//!
//! Numbers are never used again; a kind that this build does not know is left alone.

use equeue_record::QueueKey;

/// Log 0: the counter that the next queue key is made of.
pub(crate) const QUEUE_COUNTER: u8 = 0x01;
/// Log 0: one topic, by name.
pub(crate) const TOPIC: u8 = 0x02;
/// Any log: progress of a group in a queue of that log, by queue and group.
pub(crate) const GROUP_OFFSET: u8 = 0x10;

/// The key of the queue counter.
pub(crate) fn queue_counter() -> Vec<u8> {
    vec![QUEUE_COUNTER]
}

/// The key of a topic.
pub(crate) fn topic(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(TOPIC);
    key.extend_from_slice(name.as_bytes());
    key
}

/// What the keys of all groups' offsets in a queue begin with.
pub(crate) fn group_offsets(queue: QueueKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(GROUP_OFFSET);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key
}

/// The key of a group's offset in a queue.
pub(crate) fn group_offset(queue: QueueKey, group: &str) -> Vec<u8> {
    let mut key = group_offsets(queue);
    key.extend_from_slice(group.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_queue_share_a_prefix_of_their_own() {
        let one = group_offset(QueueKey(7), "billing");
        assert!(one.starts_with(&group_offsets(QueueKey(7))));
        assert!(!one.starts_with(&group_offsets(QueueKey(8))));
        assert_ne!(topic("a"), group_offset(QueueKey(0), "a"));
    }
}
