//! The 16 clear bytes that open a connection and name the shard it wants.
//!
//! ```text
//! 0..4   magic "EQUE"
//! 4      major version of the protocol
//! 5      purpose: 0 produce, 1 consume, 2 admin
//! 6      flags: bit 0 TLS follows; the others are 0
//! 7      reserved, 0
//! 8..10  wanted shard, little endian; 65535: any
//! 10..16 reserved, 0
//! ```

use thiserror::Error;

/// Length of the preamble in bytes.
pub const PREAMBLE_LEN: usize = 16;
/// `EQUE` in ASCII, then the protocol's major version.
pub const PREAMBLE_MAGIC: [u8; 4] = *b"EQUE";
/// Major version of the protocol.
pub const PROTOCOL_MAJOR: u8 = 1;

/// Oldest minor version, agreed on by Hello, that this build speaks.
pub const PROTOCOL_MINOR_MIN: u8 = 1;
/// Newest.
pub const PROTOCOL_MINOR_MAX: u8 = 1;

/// The newest minor version that both sides speak, when there is one.
pub fn agree_on_version(peer_min: u8, peer_max: u8) -> Option<u8> {
    let newest = peer_max.min(PROTOCOL_MINOR_MAX);
    (newest >= peer_min.max(PROTOCOL_MINOR_MIN)).then_some(newest)
}

/// What the connection is for: keeps produce, consume and admin traffic apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Produce requests.
    Produce = 0,
    /// Fetch, grants, commits, heartbeat.
    Consume = 1,
    /// Topics, groups, inspection; also every connection to a nameserver.
    Admin = 2,
}

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Shard that shall serve the connection; `None`: whichever accepts it.
    pub shard: Option<u16>,
    /// What the connection is for.
    pub purpose: Purpose,
    /// TLS follows.
    pub tls: bool,
}

/// Why the first bytes are not ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreambleError {
    /// Not an EQueue client.
    #[error("the peer does not speak the EQueue protocol: its first bytes are {first:02x?}")]
    Magic {
        /// First four bytes.
        first: [u8; 4],
    },
    /// A later protocol.
    #[error("the peer speaks major version {found} of the protocol, this build {known}")]
    Version {
        /// The peer's.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// A flag or purpose this build does not know.
    #[error("preamble field {field} has the value {value}, which is not allowed")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

/// On the wire: no shard in particular.
const ANY_SHARD: u16 = u16::MAX;
/// Flag bit 0: TLS follows.
const FLAG_TLS: u8 = 1;

impl Preamble {
    /// The bytes to send. A wanted shard of 65535 is sent as "any".
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let [m0, m1, m2, m3] = PREAMBLE_MAGIC;
        let [s0, s1] = self.shard.unwrap_or(ANY_SHARD).to_le_bytes();
        let flags = if self.tls { FLAG_TLS } else { 0 };
        [m0, m1, m2, m3, PROTOCOL_MAJOR, self.purpose as u8, flags, 0, s0, s1, 0, 0, 0, 0, 0, 0]
    }

    /// Checks and reads the bytes received.
    pub fn decode(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let [m0, m1, m2, m3, major, purpose, flags, reserved, s0, s1, rest @ ..] = *bytes;
        if [m0, m1, m2, m3] != PREAMBLE_MAGIC {
            return Err(PreambleError::Magic { first: [m0, m1, m2, m3] });
        }
        if major != PROTOCOL_MAJOR {
            return Err(PreambleError::Version { found: major, known: PROTOCOL_MAJOR });
        }
        let purpose = match purpose {
            0 => Purpose::Produce,
            1 => Purpose::Consume,
            2 => Purpose::Admin,
            value => return Err(PreambleError::Field { field: "purpose", value }),
        };
        if flags & !FLAG_TLS != 0 {
            return Err(PreambleError::Field { field: "flags", value: flags });
        }
        if let Some(&value) = [reserved].iter().chain(&rest).find(|byte| **byte != 0) {
            return Err(PreambleError::Field { field: "reserved", value });
        }
        let shard = u16::from_le_bytes([s0, s1]);
        Ok(Self { shard: (shard != ANY_SHARD).then_some(shard), purpose, tls: flags & FLAG_TLS != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let preamble = Preamble { shard: Some(0x0203), purpose: Purpose::Consume, tls: true };
        let bytes = *b"EQUE\x01\x01\x01\x00\x03\x02\x00\x00\x00\x00\x00\x00";
        assert_eq!(preamble.encode(), bytes);
        assert_eq!(Preamble::decode(&bytes), Ok(preamble));
    }

    #[test]
    fn versions() {
        assert_eq!(agree_on_version(1, 1), Some(1));
        assert_eq!(agree_on_version(0, 9), Some(1));
        assert_eq!(agree_on_version(2, 9), None);
        assert_eq!(agree_on_version(0, 0), None);
    }

    #[test]
    fn round_trip() {
        for purpose in [Purpose::Produce, Purpose::Consume, Purpose::Admin] {
            for shard in [None, Some(0), Some(1), Some(65534)] {
                for tls in [false, true] {
                    let preamble = Preamble { shard, purpose, tls };
                    assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
                }
            }
        }
    }

    #[test]
    fn each_flipped_bit_is_refused_or_means_another_preamble() {
        let preamble = Preamble { shard: Some(1), purpose: Purpose::Produce, tls: false };
        for bit in 0..PREAMBLE_LEN * 8 {
            let mut bytes = preamble.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match Preamble::decode(&bytes) {
                Ok(other) => {
                    assert_ne!(other, preamble);
                    assert_eq!(other.encode(), bytes);
                }
                Err(_) => assert!(!(64..80).contains(&bit), "the shard may have any value"),
            }
        }
    }

    #[test]
    fn refusals_say_what_was_found() {
        let good = Preamble { shard: None, purpose: Purpose::Admin, tls: false }.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Preamble::decode(&bytes)
        };
        assert_eq!(with(0, b'G'), Err(PreambleError::Magic { first: *b"GQUE" }));
        assert_eq!(with(4, 2), Err(PreambleError::Version { found: 2, known: 1 }));
        assert_eq!(with(5, 3), Err(PreambleError::Field { field: "purpose", value: 3 }));
        assert_eq!(with(6, 2), Err(PreambleError::Field { field: "flags", value: 2 }));
        assert_eq!(with(15, 9), Err(PreambleError::Field { field: "reserved", value: 9 }));
    }
}
