//! The printable name of a stored message.
//!
//! Twenty bytes - two of the cluster's check, eight of the queue key, eight of the offset, two of a check over the
//! rest - as 32 digits of Crockford's base 32: URL-safe, no case, none of the letters that look like digits.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::ids::{Offset, QueueKey};

/// Names a message in a cluster. Found in O(log n): the queue key names the broker and the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// Check of the cluster's name ([`MessageId::cluster_check`]): an id of another cluster is refused.
    pub cluster_check: u16,
    /// Its queue.
    pub queue: QueueKey,
    /// Its place in the queue.
    pub offset: Offset,
}

/// Why a text is not a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageIdError {
    /// Too short or too long.
    #[error("a message id has {ID_CHARS} characters, this text has {found}")]
    Length {
        /// Characters found.
        found: usize,
    },
    /// A character that no id has.
    #[error("character {character:?} at place {place} belongs to no message id")]
    Character {
        /// The character.
        character: char,
        /// Its place, from 0.
        place: usize,
    },
    /// The check does not match.
    #[error("the check of this message id does not match: it was mistyped")]
    Check,
}

/// Characters of an id.
pub const ID_CHARS: usize = 32;
const ID_BYTES: usize = 20;
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl MessageId {
    /// The check of a cluster's name.
    pub fn cluster_check(cluster: &str) -> u16 {
        fold(crc32c::crc32c(cluster.as_bytes()))
    }

    fn to_bytes(self) -> [u8; ID_BYTES] {
        let mut bytes = [0; ID_BYTES];
        bytes[0..2].copy_from_slice(&self.cluster_check.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.queue.0.to_be_bytes());
        bytes[10..18].copy_from_slice(&self.offset.0.to_be_bytes());
        let check = fold(crc32c::crc32c(&bytes[..18]));
        bytes[18..20].copy_from_slice(&check.to_be_bytes());
        bytes
    }
}

fn fold(crc: u32) -> u16 {
    let [a, b, c, d] = crc.to_be_bytes();
    u16::from_be_bytes([a ^ c, b ^ d])
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(ID_CHARS);
        for five in self.to_bytes().as_chunks::<5>().0 {
            let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            for shift in (0..40).step_by(5).rev() {
                let digit = DIGITS.get((bits >> shift & 31) as usize).copied().unwrap_or_default();
                text.push(char::from(digit));
            }
        }
        f.pad(&text)
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, MessageIdError> {
        let found = text.chars().count();
        if found != ID_CHARS {
            return Err(MessageIdError::Length { found });
        }
        let mut bytes = [0_u8; ID_BYTES];
        let mut bits = 0_u64;
        let mut out = bytes.as_chunks_mut::<5>().0.iter_mut();
        for (place, character) in text.chars().enumerate() {
            let digit = DIGITS
                .iter()
                .position(|digit| char::from(*digit) == character.to_ascii_lowercase())
                .ok_or(MessageIdError::Character { character, place })?;
            bits = bits << 5 | digit as u64;
            if place % 8 == 7
                && let Some(five) = out.next()
            {
                let [_, _, _, rest @ ..] = bits.to_be_bytes();
                *five = rest;
                bits = 0;
            }
        }
        let id = Self {
            cluster_check: u16::from_be_bytes([bytes[0], bytes[1]]),
            queue: QueueKey(be_u64(&bytes, 2)),
            offset: Offset(be_u64(&bytes, 10)),
        };
        if id.to_bytes() == bytes { Ok(id) } else { Err(MessageIdError::Check) }
    }
}

fn be_u64(bytes: &[u8; ID_BYTES], at: usize) -> u64 {
    bytes.iter().skip(at).take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MessageId = MessageId {
        cluster_check: 0xbeef,
        queue: QueueKey(0x00ab_cdef_0000_0001),
        offset: Offset(123_456_789),
    };

    #[test]
    fn round_trips_and_is_golden() {
        let text = ID.to_string();
        assert_eq!(text, "qvqg1aydxw00000100000007bf6hbky8");
        assert_eq!(text.parse(), Ok(ID));
        assert_eq!(text.to_uppercase().parse(), Ok(ID));
    }

    #[test]
    fn every_mistyped_character_is_refused() {
        let text = ID.to_string();
        for place in 0..text.len() {
            for digit in DIGITS {
                let mut other = text.clone().into_bytes();
                if other[place] == *digit {
                    continue;
                }
                other[place] = *digit;
                let other = String::from_utf8(other).unwrap();
                assert!(other.parse::<MessageId>().is_err(), "{other}");
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!("".parse::<MessageId>(), Err(MessageIdError::Length { found: 0 }));
        assert_eq!(
            "u".repeat(32).parse::<MessageId>(),
            Err(MessageIdError::Character { character: 'u', place: 0 })
        );
        assert_eq!(
            "é".repeat(32).parse::<MessageId>(),
            Err(MessageIdError::Character { character: 'é', place: 0 })
        );
        assert_eq!("1".repeat(32).parse::<MessageId>(), Err(MessageIdError::Check));
    }
}
