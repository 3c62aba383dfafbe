//! The header block of a segment, and the salt that makes its flushes its own.
//!
//! Written once, while the file is still called `prep-*.tmp`, and synced before the file gets its name: a `.seg`
//! whose header is bad is damage, never "unfinished".

use std::fmt;

use super::field::{Field, check_crc, check_len, covers};
use super::{BLOCK_BYTES, FORMAT_VERSION, FormatError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::types::{LogId, Position};

/// Bytes of the header block.
pub const SEGMENT_HEADER_LEN: usize = 4096;

/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"EQSEGMNT";

const WHAT: &str = "segment header";

const MAGIC: Field = Field::new("magic", 0, 8);
const VERSION: Field = Field::new("version", 8, 2);
const LOG: Field = Field::new("log", 10, 2);
const FLAGS: Field = Field::new("flags", 12, 4);
const POSITION: Field = Field::new("position", 16, 8);
const BYTES: Field = Field::new("bytes", 24, 8);
const SALT: Field = Field::new("salt", 32, 8);
const CREATED: Field = Field::new("created_ms", 40, 8);
const ZEROS: Field = Field::new("zeros", 48, 4044);
const CRC: Field = Field::new("crc", 4092, 4);

/// Bit 0 of the flags.
const FLAG_GAPS: u32 = 1;

/// Layout of the header block.
pub const FIELDS: &[Field] = &[MAGIC, VERSION, LOG, FLAGS, POSITION, BYTES, SALT, CREATED, ZEROS, CRC];

const _: () = assert!(covers(FIELDS, SEGMENT_HEADER_LEN));

/// Random number of a segment, repeated in each of its flushes: what a recycled file held before, or a record whose
/// body imitates a flush, does not have it.
///
/// Who knows it can forge a flush inside a record. So it is never printed: its `Debug` shows dots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(u64);

impl Salt {
    /// A new one from the system's random numbers; never 0.
    pub fn random() -> Self {
        loop {
            let salt = rand::random();
            if salt != 0 {
                return Self(salt);
            }
        }
    }

    /// The one that was stored as `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// For storing.
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// What the header block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log: LogId,
    /// Log position of its first byte (of this header); a multiple of 1 MiB.
    pub position: Position,
    /// Its size with this header; a multiple of 1 MiB. The next segment begins right after it.
    pub bytes: u64,
    /// Repeated in each flush.
    pub salt: Salt,
    /// When it was made, ms UTC. For people.
    pub created_ms: i64,
    /// A repair made it: it has GAPs, and offsets may be missing behind them.
    pub has_gaps: bool,
}

impl SegmentHeader {
    /// Position of its first flush.
    pub const fn first_flush(&self) -> Position {
        self.position.plus(BLOCK_BYTES)
    }

    /// Position after its last byte: where the next segment begins.
    pub const fn end(&self) -> Position {
        self.position.plus(self.bytes)
    }

    /// The header block.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        MAGIC.put(&mut out, SEGMENT_MAGIC);
        VERSION.put(&mut out, FORMAT_VERSION.to_le_bytes());
        LOG.put(&mut out, self.log.0.to_le_bytes());
        POSITION.put(&mut out, self.position.0.to_le_bytes());
        BYTES.put(&mut out, self.bytes.to_le_bytes());
        SALT.put(&mut out, self.salt.0.to_le_bytes());
        CREATED.put(&mut out, self.created_ms.to_le_bytes());
        FLAGS.put(&mut out, (if self.has_gaps { FLAG_GAPS } else { 0 }).to_le_bytes());
        let crc = crc32c::crc32c(out.get(..CRC.at).unwrap_or_default());
        CRC.put(&mut out, crc.to_le_bytes());
        out
    }

    /// Reads a header block from the front of `bytes`.
    ///
    /// # Errors
    /// Whatever is not exactly a header that [`SegmentHeader::encode`] of this or an earlier version wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        check_len(WHAT, bytes, SEGMENT_HEADER_LEN)?;
        if MAGIC.get(bytes)? != SEGMENT_MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_crc(WHAT, bytes, 0, CRC)?;
        let version = VERSION.get_u16(bytes)?;
        if version > FORMAT_VERSION {
            return Err(FormatError::NewerVersion { what: WHAT, found: version, known: FORMAT_VERSION });
        }
        let flags = FLAGS.get_u32(bytes)?;
        if flags & !FLAG_GAPS != 0 {
            return Err(FormatError::Field { what: WHAT, field: FLAGS.name, value: u64::from(flags) });
        }
        let header = Self {
            log: LogId(LOG.get_u16(bytes)?),
            position: Position(POSITION.get_u64(bytes)?),
            bytes: BYTES.get_u64(bytes)?,
            salt: Salt(SALT.get_u64(bytes)?),
            created_ms: CREATED.get_i64(bytes)?,
            has_gaps: flags & FLAG_GAPS != 0,
        };
        header.check(version)?;
        ZEROS.check_zero(WHAT, bytes)?;
        Ok(header)
    }

    fn check(&self, version: u16) -> Result<(), FormatError> {
        let bad = |field: Field, value| Err(FormatError::Field { what: WHAT, field: field.name, value });
        if version == 0 {
            return bad(VERSION, 0);
        }
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if !sizes.contains(&self.bytes) || !self.bytes.is_multiple_of(SEGMENT_BYTES_MIN) {
            return bad(BYTES, self.bytes);
        }
        let end = self.position.0.checked_add(self.bytes);
        if end.is_none() || !self.position.0.is_multiple_of(SEGMENT_BYTES_MIN) {
            return bad(POSITION, self.position.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log: LogId(3),
            position: Position(64 << 20),
            bytes: 16 << 20,
            salt: Salt::from_bits(0x1122_3344_5566_7788),
            created_ms: 1_795_000_000_000,
            has_gaps: false,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = header().encode();
        assert_eq!(&bytes[..16], b"EQSEGMNT\x01\0\x03\0\0\0\0\0");
        assert_eq!(&bytes[16..32], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&bytes[32..40], &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert!(bytes[48..4092].iter().all(|b| *b == 0));
    }

    #[test]
    fn round_trip_and_every_flip_noticed() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "flip of bit {bit} was not noticed");
        }
        for len in 0..bytes.len() {
            assert!(matches!(SegmentHeader::decode(&bytes[..len]), Err(FormatError::Truncated { .. })));
        }
    }

    #[test]
    fn values_never_written_are_refused() {
        for bad in [
            SegmentHeader { bytes: 0, ..header() },
            SegmentHeader { bytes: (1 << 20) + 4096, ..header() },
            SegmentHeader { bytes: 17 << 30, ..header() },
            SegmentHeader { position: Position(4096), ..header() },
            SegmentHeader { position: Position(u64::MAX - (1 << 20) + 1), ..header() },
        ] {
            assert!(
                matches!(SegmentHeader::decode(&bad.encode()), Err(FormatError::Field { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        let mut bytes = header().encode();
        VERSION.put(&mut bytes, 2_u16.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC.at]);
        CRC.put(&mut bytes, crc.to_le_bytes());
        assert_eq!(
            SegmentHeader::decode(&bytes),
            Err(FormatError::NewerVersion { what: WHAT, found: 2, known: 1 })
        );
    }

    #[test]
    fn the_salt_is_not_printed() {
        assert!(!format!("{:?}", header()).contains(&0x1122_3344_5566_7788_u64.to_string()));
    }
}
