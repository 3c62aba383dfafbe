//! The keys of the broker's state entries in its logs: one kind byte in front, so that kinds never meet.
//!
//! Numbers are never used again; a kind that this build does not know is left alone.

use equeue_record::QueueKey;

/// Log 0: the counter that the next queue key is made of.
pub(crate) const QUEUE_COUNTER: u8 = 0x01;
/// Log 0: one topic, by name.
pub(crate) const TOPIC: u8 = 0x02;
/// Log 0: settings of a topic, by name.
pub(crate) const TOPIC_SETTINGS: u8 = 0x08;
/// Any log: progress of a group in a queue of that log, by queue and group.
pub(crate) const GROUP_OFFSET: u8 = 0x10;

/// Log 0: the newest generation of a group that this broker coordinates or has coordinated, by name.
pub(crate) const GROUP_GENERATION: u8 = 0x11;
/// Any log: marks of delayed messages, by target queue and block.
pub(crate) const DELAY_BLOCK: u8 = 0x20;
/// Any log: up to where all delayed messages for a queue are done, by target queue. There is one for each delay queue.
pub(crate) const DELAY_FLOOR: u8 = 0x21;
/// Any log: marks of messages that a group handed back, by queue, group and block.
pub(crate) const HANDED_BACK: u8 = 0x22;

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

/// The key of a topic's settings.
pub(crate) fn topic_settings(name: &str) -> Vec<u8> {
    let mut key = topic(name);
    if let Some(kind) = key.first_mut() {
        *kind = TOPIC_SETTINGS;
    }
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

/// Reads the key of a group's offset.
pub(crate) fn read_group_offset(key: &[u8]) -> Option<(QueueKey, &str)> {
    let (queue, group) = key.strip_prefix(&[GROUP_OFFSET])?.split_first_chunk::<8>()?;
    Some((QueueKey(u64::from_be_bytes(*queue)), std::str::from_utf8(group).ok()?))
}

/// The key of a group's generation.
pub(crate) fn group_generation(group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + group.len());
    key.push(GROUP_GENERATION);
    key.extend_from_slice(group.as_bytes());
    key
}

/// Reads the key of a group's generation.
pub(crate) fn read_group_generation(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.strip_prefix(&[GROUP_GENERATION])?).ok()
}

/// What the keys of a target queue's delay marks begin with.
pub(crate) fn delay_blocks(target: QueueKey) -> Vec<u8> {
    of_queue(DELAY_BLOCK, target)
}

/// The key of a block of delay marks.
pub(crate) fn delay_block(target: QueueKey, block: u64) -> Vec<u8> {
    let mut key = delay_blocks(target);
    key.extend_from_slice(&block.to_be_bytes());
    key
}

/// The key of the floor of a target queue's delay marks.
pub(crate) fn delay_floor(target: QueueKey) -> Vec<u8> {
    of_queue(DELAY_FLOOR, target)
}

/// Reads the target queue off the rest of a key of [`DELAY_FLOOR`].
pub(crate) fn read_queue(rest: &[u8]) -> Option<QueueKey> {
    rest.try_into().ok().map(|bytes| QueueKey(u64::from_be_bytes(bytes)))
}

/// Reads the block off the end of a key.
pub(crate) fn read_block(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// What the keys of all groups' hand-back marks in a queue begin with.
pub(crate) fn handed_back_in(queue: QueueKey) -> Vec<u8> {
    of_queue(HANDED_BACK, queue)
}

/// What the keys of a group's hand-back marks in a queue begin with.
pub(crate) fn handed_back_by(queue: QueueKey, group: &str) -> Vec<u8> {
    let mut key = handed_back_in(queue);
    key.push(u8::try_from(group.len()).expect("a group's name is checked to be shorter than 256 bytes"));
    key.extend_from_slice(group.as_bytes());
    key
}

/// The key of a block of a group's hand-back marks.
pub(crate) fn handed_back(queue: QueueKey, group: &str, block: u64) -> Vec<u8> {
    let mut key = handed_back_by(queue, group);
    key.extend_from_slice(&block.to_be_bytes());
    key
}

fn of_queue(kind: u8, queue: QueueKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.push(kind);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = include_str!("../../docs/storage-format.md");

    /// The key that a row of the document makes: numbers are 7, names `text`.
    fn key_of(kind: &str, words: &str) -> Vec<u8> {
        let mut key = vec![u8::from_str_radix(kind, 16).unwrap()];
        for word in words.split(", ").filter(|word| !word.is_empty()) {
            match word.rsplit(' ').next() {
                Some("u64") => key.extend_from_slice(&7_u64.to_be_bytes()),
                Some("u8") => key.push(4),
                _ => key.extend_from_slice(b"text"),
            }
        }
        key
    }

    #[test]
    fn the_document_has_these_kinds_and_keys() {
        let (_, table) = DOC.split_once("### The broker's entries").unwrap();
        let rows = table.lines().skip_while(|line| !line.starts_with('|')).skip(2);
        let said: Vec<_> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
            .map(|row| key_of(row[0], row[1]))
            .collect();
        let queue = QueueKey(7);
        let is = [
            queue_counter(),
            topic("text"),
            topic_settings("text"),
            group_offset(queue, "text"),
            group_generation("text"),
            delay_block(queue, 7),
            delay_floor(queue),
            handed_back(queue, "text", 7),
        ];
        assert_eq!(said, is);
        // Every kind that there is has a row.
        let own =
            include_str!("state_key.rs").lines().filter_map(|line| line.strip_prefix("pub(crate) const "));
        let kinds =
            own.filter_map(|line| line.split_once(": u8 = 0x")).map(|(_, kind)| kind.trim_end_matches(';'));
        let kinds: Vec<_> = kinds.map(|kind| u8::from_str_radix(kind, 16).unwrap()).collect();
        assert_eq!(kinds, is.map(|key| key[0]));
    }

    #[test]
    fn keys_of_a_queue_share_a_prefix_of_their_own() {
        let one = group_offset(QueueKey(7), "billing");
        assert!(one.starts_with(&group_offsets(QueueKey(7))));
        assert!(!one.starts_with(&group_offsets(QueueKey(8))));
        assert_ne!(topic("a"), group_offset(QueueKey(0), "a"));
        assert_eq!(read_group_offset(&one), Some((QueueKey(7), "billing")));
        assert_eq!(read_group_offset(&one[..8]), None);
        assert_eq!(read_group_offset(&group_generation("billing and more")), None);
        assert_eq!(read_group_generation(&group_generation("billing")), Some("billing"));
        assert_eq!(read_group_generation(&one), None);
    }
}
