//! Offsets of groups: the rules of a commit, the layout of what is stored, and what is on its way to the disk.
//!
//! ```text
//! value   u8 version (1), u8 flags (bit 0: there is a committed offset), u64 committed, u32 grant_epoch,
//!         u128 member (0: none)
//! ```
//! **Invariants**: a committed offset never goes back and never passes the high watermark; an answer never tells of a
//! value that is not durable.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, BufMut};
use equeue_net::api::CommitItem;
use equeue_net::{Code, limits};
use equeue_record::Offset;
use equeue_storage::Ticket;
use equeue_storage::log::QueueBounds;

const VERSION: u8 = 1;
const FLAG_COMMITTED: u8 = 1;
const VALUE_LEN: usize = 30;

/// Whether a name can be a group's: like any other, or `group@instance` for one of a broadcast group's instances.
pub fn group_name_is_valid(name: &str) -> bool {
    let (group, instance) = name.split_once('@').unwrap_or((name, name));
    limits::valid_name(group) && limits::valid_name(instance) && name.len() <= limits::NAME_BYTES_MAX
}

/// What is stored of a group in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is done; `None`: nothing was committed yet.
    pub committed: Option<Offset>,
    /// Epoch of the newest grant; 0: none was ever given.
    pub grant_epoch: u32,
    /// Incarnation of the member that the grant belongs to; 0: none.
    pub member: u128,
}

impl Progress {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(VALUE_LEN);
        out.put_u8(VERSION);
        out.put_u8(if self.committed.is_some() { FLAG_COMMITTED } else { 0 });
        out.put_u64_le(self.committed.unwrap_or_default().0);
        out.put_u32_le(self.grant_epoch);
        out.put_u128_le(self.member);
        out
    }

    /// Reads what is stored; `None`: not in a layout that this build knows.
    pub fn decode(mut value: &[u8]) -> Option<Self> {
        if value.len() != VALUE_LEN || value.get_u8() != VERSION {
            return None;
        }
        let flags = value.get_u8();
        let committed = Offset(value.get_u64_le());
        let known = flags & !FLAG_COMMITTED == 0 && (flags != 0 || committed == Offset(0));
        known.then(|| Self {
            committed: (flags & FLAG_COMMITTED != 0).then_some(committed),
            grant_epoch: value.get_u32_le(),
            member: value.get_u128_le(),
        })
    }
}

/// What a commit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitDecision {
    /// To be stored; OK once it is durable.
    Store(Progress),
    /// OK; what is there already says as much or more.
    Keep,
    /// Not allowed.
    Refuse(Code),
}

/// Decides on a commit, given what is stored (or on its way) and the bounds of the queue.
pub fn decide_commit(current: Option<Progress>, item: &CommitItem, bounds: QueueBounds) -> CommitDecision {
    let current = current.unwrap_or_default();
    if item.grant_epoch != 0 && item.grant_epoch != current.grant_epoch {
        return CommitDecision::Refuse(Code::StaleEpoch);
    }
    if item.offset > bounds.durable_end {
        return CommitDecision::Refuse(Code::OffsetOutOfRange);
    }
    if current.committed.is_some_and(|committed| item.offset <= committed) {
        return CommitDecision::Keep;
    }
    CommitDecision::Store(Progress { committed: Some(item.offset), ..current })
}

/// What was appended and is not durable yet, by state key. Bounded by what the log lets wait.
#[derive(Debug, Default)]
pub struct OffsetTable {
    pending: HashMap<Vec<u8>, (Progress, Ticket)>,
    order: VecDeque<(Ticket, Vec<u8>)>,
}

impl OffsetTable {
    /// What was appended last under `key` and is not durable yet.
    pub fn pending(&self, key: &[u8]) -> Option<(Progress, Ticket)> {
        self.pending.get(key).copied()
    }

    /// Remembers an append. Tickets come in order.
    pub fn appended(&mut self, key: Vec<u8>, progress: Progress, ticket: Ticket) {
        self.order.push_back((ticket, key.clone()));
        self.pending.insert(key, (progress, ticket));
    }

    /// Forgets what has become durable.
    pub fn settle(&mut self, durable: Ticket) {
        while let Some((_, key)) = self.order.pop_front_if(|(ticket, _)| *ticket <= durable) {
            if self.pending.get(&key).is_some_and(|(_, ticket)| *ticket <= durable) {
                self.pending.remove(&key);
            }
        }
    }

    /// Number of keys on their way.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use equeue_record::QueueKey;

    use super::*;

    const BOUNDS: QueueBounds = QueueBounds { start: Offset(10), durable_end: Offset(100), end: Offset(120) };

    fn item(offset: u64, grant_epoch: u32) -> CommitItem {
        CommitItem { queue: QueueKey(1), offset: Offset(offset), grant_epoch }
    }

    fn at(committed: u64) -> Progress {
        Progress { committed: Some(Offset(committed)), ..Progress::default() }
    }

    #[test]
    fn commits_are_monotonic_and_bounded() {
        assert_eq!(decide_commit(None, &item(50, 0), BOUNDS), CommitDecision::Store(at(50)));
        assert_eq!(decide_commit(None, &item(0, 0), BOUNDS), CommitDecision::Store(at(0)));
        assert_eq!(decide_commit(Some(at(50)), &item(51, 0), BOUNDS), CommitDecision::Store(at(51)));
        assert_eq!(decide_commit(Some(at(50)), &item(50, 0), BOUNDS), CommitDecision::Keep);
        assert_eq!(decide_commit(Some(at(50)), &item(49, 0), BOUNDS), CommitDecision::Keep);
        assert_eq!(decide_commit(Some(at(50)), &item(100, 0), BOUNDS), CommitDecision::Store(at(100)));
        let beyond = CommitDecision::Refuse(Code::OffsetOutOfRange);
        assert_eq!(decide_commit(Some(at(50)), &item(101, 0), BOUNDS), beyond);
    }

    #[test]
    fn another_epoch_is_stale_even_for_an_old_offset() {
        let granted = Progress { grant_epoch: 3, ..at(50) };
        let stale = CommitDecision::Refuse(Code::StaleEpoch);
        assert_eq!(decide_commit(Some(granted), &item(60, 2), BOUNDS), stale);
        assert_eq!(decide_commit(Some(granted), &item(40, 4), BOUNDS), stale);
        assert_eq!(decide_commit(None, &item(60, 1), BOUNDS), stale);
        let stored = Progress { grant_epoch: 3, ..at(60) };
        assert_eq!(decide_commit(Some(granted), &item(60, 3), BOUNDS), CommitDecision::Store(stored));
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_refused() {
        for progress in [Progress::default(), at(0), Progress { grant_epoch: 9, member: 77, ..at(u64::MAX) }]
        {
            let bytes = progress.encode();
            assert_eq!(Progress::decode(&bytes), Some(progress));
            for len in 0..bytes.len() {
                assert_eq!(Progress::decode(&bytes[..len]), None);
            }
            let mut newer = bytes.clone();
            newer[0] = 2;
            assert_eq!(Progress::decode(&newer), None);
            let mut flagged = bytes;
            flagged[1] |= 2;
            assert_eq!(Progress::decode(&flagged), None);
        }
    }

    #[test]
    fn pending_values_are_seen_until_durable() {
        let mut table = OffsetTable::default();
        table.appended(b"a".to_vec(), at(1), Ticket(1));
        table.appended(b"a".to_vec(), at(2), Ticket(3));
        table.appended(b"b".to_vec(), at(9), Ticket(3));
        table.settle(Ticket(2));
        assert_eq!(table.pending(b"a"), Some((at(2), Ticket(3))));
        table.settle(Ticket(3));
        assert!(table.is_empty() && table.order.is_empty());
    }

    #[test]
    fn group_names() {
        assert!(group_name_is_valid("billing") && group_name_is_valid("prices@host-1"));
        for name in ["", "a b", "a/b", "@", "a@", "a@b@c", &"x".repeat(limits::VALID_NAME_BYTES_MAX + 1)] {
            assert!(!group_name_is_valid(name), "{name}");
        }
    }
}
