//! What a topic has of its own beside its queues. Pure.
//!
//! ```text
//! value   u8 version (1), u8 flags (bit 0: there is a retention), u64 retention in ms (0: for ever)
//! ```

use bytes::{Buf as _, BufMut as _};
use equeue_net::api::TopicRetention;

const VERSION: u8 = 1;
const FLAG_RETENTION: u8 = 1;
const VALUE_LEN: usize = 10;

/// Settings of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicSettings {
    /// How long its messages stay.
    pub retention: TopicRetention,
}

impl TopicSettings {
    /// As they are stored; `None`: there is nothing to store.
    pub(crate) fn encode(self) -> Option<Vec<u8>> {
        let TopicRetention::Ms(ms) = self.retention else { return None };
        let mut out = Vec::with_capacity(VALUE_LEN);
        out.put_u8(VERSION);
        out.put_u8(FLAG_RETENTION);
        out.put_u64_le(ms);
        Some(out)
    }

    /// Reads what is stored; `None`: not in a layout that this build knows.
    pub(crate) fn decode(mut value: &[u8]) -> Option<Self> {
        if value.len() != VALUE_LEN || value.get_u8() != VERSION || value.get_u8() != FLAG_RETENTION {
            return None;
        }
        Some(Self { retention: TopicRetention::Ms(value.get_u64_le()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_refused() {
        assert_eq!(TopicSettings::default().encode(), None);
        for ms in [0, 1, u64::MAX] {
            let settings = TopicSettings { retention: TopicRetention::Ms(ms) };
            let bytes = settings.encode().unwrap();
            assert_eq!(TopicSettings::decode(&bytes), Some(settings));
            assert!((0..bytes.len()).all(|len| TopicSettings::decode(&bytes[..len]).is_none()));
            for at in [0, 1] {
                let mut other = bytes.clone();
                other[at] ^= 2;
                assert_eq!(TopicSettings::decode(&other), None);
            }
        }
    }
}
