//! What is stored of a group in a queue: how far it has come, and who may go on.
//!
//! ```text
//! value   u8 version (1), u8 flags (bit 0: there is a committed offset), u64 committed, u32 grant_epoch,
//!         u128 member (0: none), i64 stored at, ms UTC
//! ```

use bytes::{Buf, BufMut};
use equeue_net::limits;
use equeue_record::Offset;

const VERSION: u8 = 1;
const FLAG_COMMITTED: u8 = 1;
const VALUE_LEN: usize = 38;

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
            stored_ms: value.get_i64_le(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_refused() {
        let at = |committed| Progress { committed: Some(Offset(committed)), ..Progress::default() };
        let granted = Progress { grant_epoch: 9, member: 77, stored_ms: -5, ..at(u64::MAX) };
        for progress in [Progress::default(), at(0), granted] {
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
    fn group_names() {
        assert!(group_name_is_valid("billing") && group_name_is_valid("prices@host-1"));
        for name in ["", "a b", "a/b", "@", "a@", "a@b@c", &"x".repeat(limits::VALID_NAME_BYTES_MAX + 1)] {
            assert!(!group_name_is_valid(name), "{name}");
        }
    }
}
