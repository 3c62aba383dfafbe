//! What is stored of a group in a queue: how far it has come, and who may go on.
//!
//! ```text
//! value   u8 version (2), u8 flags (bit 0: there is a committed offset), u64 committed, u32 grant_epoch,
//!         u128 member (0: none), i64 stored at, ms UTC; of the message at the committed offset: u32 failed
//!         attempts, i64 the first of them, ms UTC. Version 1 ends before the attempts.
//! ```

use bytes::{Buf, BufMut};
use equeue_net::api::Tries;
use equeue_net::limits;
use equeue_record::Offset;

const VERSION: u8 = 2;
const FLAG_COMMITTED: u8 = 1;
const VALUE_LEN: usize = 50;
const VALUE_LEN_1: usize = 38;

/// Whether a name can be a group's: like any other, or `group@instance` for one of a broadcast group's instances.
pub fn group_name_is_valid(name: &str) -> bool {
    let (group, instance) = name.split_once('@').unwrap_or((name, name));
    limits::valid_name(group) && limits::valid_name(instance) && name.len() <= limits::NAME_BYTES_MAX
}

/// What is stored of a group in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Everything before it is done; `None`: nothing was committed yet.
    pub committed: Option<Offset>,
    /// Epoch of the newest grant; 0: none was ever given.
    pub grant_epoch: u32,
    /// Incarnation of the member that the grant belongs to; 0: none.
    pub member: u128,
    /// When it was stored, ms UTC.
    pub stored_ms: i64,
    /// Of the message at the committed offset, for which its queue waits.
    pub tries: Tries,
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
        out.put_i64_le(self.stored_ms);
        out.put_u32_le(self.tries.count);
        out.put_i64_le(self.tries.since_ms);
        out
    }

    /// Reads what is stored; `None`: not in a layout that this build knows.
    pub fn decode(mut value: &[u8]) -> Option<Self> {
        let tries_follow = match (value.try_get_u8().ok()?, value.remaining() + 1) {
            (VERSION, VALUE_LEN) => true,
            (1, VALUE_LEN_1) => false,
            _ => return None,
        };
        let flags = value.get_u8();
        let committed = Offset(value.get_u64_le());
        let known = flags & !FLAG_COMMITTED == 0 && (flags != 0 || committed == Offset(0));
        known.then(|| Self {
            committed: (flags & FLAG_COMMITTED != 0).then_some(committed),
            grant_epoch: value.get_u32_le(),
            member: value.get_u128_le(),
            stored_ms: value.get_i64_le(),
            tries: if tries_follow {
                Tries { count: value.get_u32_le(), since_ms: value.get_i64_le() }
            } else {
                Tries::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_refused() {
        let at = |committed| Progress { committed: Some(Offset(committed)), ..Progress::default() };
        let tries = Tries { count: 3, since_ms: 70 };
        let granted = Progress { grant_epoch: 9, member: 77, stored_ms: -5, tries, ..at(u64::MAX) };
        for progress in [Progress::default(), at(0), granted] {
            let bytes = progress.encode();
            assert_eq!(Progress::decode(&bytes), Some(progress));
            for len in 0..bytes.len() {
                assert_eq!(Progress::decode(&bytes[..len]), None);
            }
            let mut first = bytes[..VALUE_LEN_1].to_vec();
            first[0] = 1;
            assert_eq!(Progress::decode(&first), Some(Progress { tries: Tries::default(), ..progress }));
            let mut newer = bytes.clone();
            newer[0] = 3;
            assert_eq!(Progress::decode(&newer), None);
            let mut flagged = bytes;
            flagged[1] |= 2;
            assert_eq!(Progress::decode(&flagged), None);
        }
    }

    #[test]
    fn group_names() {
        assert!(group_name_is_valid("billing") && group_name_is_valid("prices@host-1"));
        for name in ["", "a b", "a/b", "@", "a@", "a@b@c", &"x".repeat(limits::VALID_NAME_BYTES_MAX + 1)] {
            assert!(!group_name_is_valid(name), "{name}");
        }
    }
}
