//! The header of a flush, and the chain that ties each flush to the one before it.
//!
//! Two parts with a CRC each. The *replicated* part is the same on every replica of the log; the *local* part
//! belongs to one copy. Each replicated part holds the CRC of the one before it, so the CRCs form a chain: whoever
//! has the link of one flush knows all that came before. The CRC of the local part also covers the CRC of the
//! replicated one: parts of two flushes are never taken together. 128 bytes lie within one sector of any device.
//!
//! The two CRCs stay where they are in all later versions, so that a later version is told apart from damage.

use equeue_record::MasterEpoch;

use super::field::{Field, check_crc, check_len, covers};
use super::{BLOCK_BYTES, FLUSH_SPAN_MAX, FORMAT_VERSION, FormatError, Salt, WINDOW_BYTES};
use crate::types::Position;

/// Bytes of the header of a flush; its body follows.
pub const FLUSH_HEADER_LEN: usize = 128;

/// Where the local part begins: the replicated part is everything before it.
pub const LOCAL_PART_AT: usize = 64;

/// First bytes of a flush.
pub const FLUSH_MAGIC: [u8; 8] = *b"EQFLUSH\x1a";

const WHAT: &str = "flush header";
const WHAT_LOCAL: &str = "local part of a flush header";

const MAGIC: Field = Field::new("magic", 0, 8);
const VERSION: Field = Field::new("version", 8, 2);
const KIND: Field = Field::new("kind", 10, 1);
const RESERVED: Field = Field::new("reserved", 11, 1);
const EPOCH: Field = Field::new("epoch", 12, 4);
const POSITION: Field = Field::new("position", 16, 8);
const BODY_LEN: Field = Field::new("body_len", 24, 4);
const SPAN: Field = Field::new("span", 28, 4);
const BODY_CRC: Field = Field::new("body_crc", 32, 4);
const CHAIN: Field = Field::new("chain", 36, 4);
const SNAPSHOT: Field = Field::new("snapshot", 40, 8);
const TIME: Field = Field::new("time_ms", 48, 8);
const RESERVED_2: Field = Field::new("reserved_2", 56, 4);
const REPLICATED_CRC: Field = Field::new("replicated_crc", 60, 4);
const SALT: Field = Field::new("salt", 64, 8);
const DURABLE_TO: Field = Field::new("durable_to", 72, 8);
const NEXT_SALT: Field = Field::new("next_salt", 80, 8);
const RESERVED_3: Field = Field::new("reserved_3", 88, 36);
const LOCAL_CRC: Field = Field::new("local_crc", 124, 4);

/// Layout of the header of a flush.
pub const FIELDS: &[Field] = &[
    MAGIC,
    VERSION,
    KIND,
    RESERVED,
    EPOCH,
    POSITION,
    BODY_LEN,
    SPAN,
    BODY_CRC,
    CHAIN,
    SNAPSHOT,
    TIME,
    RESERVED_2,
    REPLICATED_CRC,
    SALT,
    DURABLE_TO,
    NEXT_SALT,
    RESERVED_3,
    LOCAL_CRC,
];

const _: () = assert!(covers(FIELDS, FLUSH_HEADER_LEN) && SALT.at == LOCAL_PART_AT);

/// In place of a snapshot's position: there is none.
const NO_SNAPSHOT: u64 = u64::MAX;

/// What a flush is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlushKind {
    /// Record batches.
    Data = 1,
    /// Last flush of a segment; the log goes on in the next one. Body: [`super::SealBody`].
    Seal = 2,
    /// First flush after a start that was not orderly, and of a new log. Body: [`super::OpenBody`].
    Open = 3,
    /// Says that everything before it is durable. No body.
    Idle = 4,
    /// Last flush before an orderly stop. No body.
    Clean = 5,
    /// A slice of a snapshot. Body: [`super::SnapshotPrefix`], then control batches.
    Snapshot = 6,
    /// Written by a repair in place of what is lost: the log goes on further on. Body: [`super::GapPrefix`], then
    /// control batches.
    Gap = 7,
}

impl FlushKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Data, Self::Seal, Self::Open, Self::Idle, Self::Clean, Self::Snapshot, Self::Gap];

    fn from_code(code: u8) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code).ok_or(FormatError::Field {
            what: WHAT,
            field: KIND.name,
            value: u64::from(code),
        })
    }

    /// Such a flush has no body.
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::Idle | Self::Clean)
    }
}

/// The header of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushHeader {
    /// What the flush is for.
    pub kind: FlushKind,
    /// Epoch of the master that wrote it.
    pub epoch: MasterEpoch,
    /// Log position of its first byte; a multiple of 4 KiB.
    pub position: Position,
    /// Bytes of the body, which follows the header.
    pub body_len: u32,
    /// Bytes from its beginning to the next flush: padding and the skipped rest of a window counted. No multiple of
    /// 1 MiB lies inside, unless the flush begins at one.
    pub span: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// [`FlushHeader::link`] of the flush before it; [`Chain::START`]'s for the first of a log.
    pub chain: u32,
    /// Position of the first flush of the newest snapshot that is complete and durable.
    pub snapshot: Option<Position>,
    /// Append time of its batches, ms UTC; never goes back within a log.
    pub time_ms: i64,
    /// Salt of its segment.
    pub salt: Salt,
    /// End of the gap-free prefix of flushes known to be durable when the write of this one began; at most `position`.
    pub durable_to: Position,
    /// Salt of the next segment; `Some` in each [`FlushKind::Seal`], and in a [`FlushKind::Gap`] up to the end of its
    /// segment.
    pub next_salt: Option<Salt>,
}

impl FlushHeader {
    /// Where the next flush begins.
    pub const fn next(&self) -> Position {
        self.position.plus(self.span as u64)
    }

    /// Bytes that are written: header and body, padded to whole blocks. At most the span.
    pub const fn written_len(&self) -> u64 {
        written_len(self.body_len)
    }

    /// What the next flush has as its `chain`: the CRC of the replicated part.
    pub fn link(&self) -> u32 {
        let mut out = [0; FLUSH_HEADER_LEN];
        self.put_replicated(&mut out)
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; FLUSH_HEADER_LEN] {
        debug_assert_eq!(
            self.check(FORMAT_VERSION),
            Ok(()),
            "a header that could not be read is never written"
        );
        let mut out = [0; FLUSH_HEADER_LEN];
        self.put_replicated(&mut out);
        SALT.put(&mut out, self.salt.to_bits().to_le_bytes());
        DURABLE_TO.put(&mut out, self.durable_to.0.to_le_bytes());
        NEXT_SALT.put(&mut out, self.next_salt.map_or(0, Salt::to_bits).to_le_bytes());
        let crc = crc32c::crc32c(out.get(REPLICATED_CRC.at..LOCAL_CRC.at).unwrap_or_default());
        LOCAL_CRC.put(&mut out, crc.to_le_bytes());
        out
    }

    fn put_replicated(&self, out: &mut [u8; FLUSH_HEADER_LEN]) -> u32 {
        MAGIC.put(out, FLUSH_MAGIC);
        VERSION.put(out, FORMAT_VERSION.to_le_bytes());
        KIND.put(out, [self.kind as u8]);
        EPOCH.put(out, self.epoch.0.to_le_bytes());
        POSITION.put(out, self.position.0.to_le_bytes());
        BODY_LEN.put(out, self.body_len.to_le_bytes());
        SPAN.put(out, self.span.to_le_bytes());
        BODY_CRC.put(out, self.body_crc.to_le_bytes());
        CHAIN.put(out, self.chain.to_le_bytes());
        SNAPSHOT.put(out, self.snapshot.map_or(NO_SNAPSHOT, |position| position.0).to_le_bytes());
        TIME.put(out, self.time_ms.to_le_bytes());
        let crc = crc32c::crc32c(out.get(..REPLICATED_CRC.at).unwrap_or_default());
        REPLICATED_CRC.put(out, crc.to_le_bytes());
        crc
    }

    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// Whatever is not exactly a header that [`FlushHeader::encode`] wrote. Salt, position and chain are the
    /// caller's to compare.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        check_len(WHAT, bytes, FLUSH_HEADER_LEN)?;
        if MAGIC.get(bytes)? != FLUSH_MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        check_crc(WHAT, bytes, 0, REPLICATED_CRC)?;
        check_crc(WHAT_LOCAL, bytes, REPLICATED_CRC.at, LOCAL_CRC)?;
        let version = VERSION.get_u16(bytes)?;
        if version > FORMAT_VERSION {
            return Err(FormatError::NewerVersion { what: WHAT, found: version, known: FORMAT_VERSION });
        }
        let snapshot = SNAPSHOT.get_u64(bytes)?;
        let next_salt = NEXT_SALT.get_u64(bytes)?;
        let header = Self {
            kind: FlushKind::from_code(KIND.get_u8(bytes)?)?,
            epoch: MasterEpoch(EPOCH.get_u32(bytes)?),
            position: Position(POSITION.get_u64(bytes)?),
            body_len: BODY_LEN.get_u32(bytes)?,
            span: SPAN.get_u32(bytes)?,
            body_crc: BODY_CRC.get_u32(bytes)?,
            chain: CHAIN.get_u32(bytes)?,
            snapshot: (snapshot != NO_SNAPSHOT).then_some(Position(snapshot)),
            time_ms: TIME.get_i64(bytes)?,
            salt: Salt::from_bits(SALT.get_u64(bytes)?),
            durable_to: Position(DURABLE_TO.get_u64(bytes)?),
            next_salt: (next_salt != 0).then_some(Salt::from_bits(next_salt)),
        };
        header.check(version)?;
        for reserved in [RESERVED, RESERVED_2, RESERVED_3] {
            reserved.check_zero(WHAT, bytes)?;
        }
        Ok(header)
    }

    fn check(&self, version: u16) -> Result<(), FormatError> {
        let bad = |field: Field, value| Err(FormatError::Field { what: WHAT, field: field.name, value });
        let span = u64::from(self.span);
        if version == 0 {
            return bad(VERSION, 0);
        }
        if !self.position.0.is_multiple_of(BLOCK_BYTES) || self.position.0.checked_add(span).is_none() {
            return bad(POSITION, self.position.0);
        }
        if span == 0 || span > FLUSH_SPAN_MAX || !span.is_multiple_of(BLOCK_BYTES) {
            return bad(SPAN, span);
        }
        let windows = |position: u64| position / WINDOW_BYTES;
        if windows(self.position.0) != windows(self.next().0 - 1)
            && !self.position.0.is_multiple_of(WINDOW_BYTES)
        {
            return bad(SPAN, span);
        }
        if self.written_len() > span || (self.kind.is_empty() != (self.body_len == 0)) {
            return bad(BODY_LEN, u64::from(self.body_len));
        }
        if self.durable_to > self.position {
            return bad(DURABLE_TO, self.durable_to.0);
        }
        if self.snapshot.is_some_and(|snapshot| snapshot >= self.position) {
            return bad(SNAPSHOT, self.snapshot.map_or(0, |position| position.0));
        }
        if self.kind != FlushKind::Gap && (self.kind == FlushKind::Seal) != self.next_salt.is_some() {
            return bad(NEXT_SALT, u64::from(self.next_salt.is_some()));
        }
        Ok(())
    }

    /// Compares the CRC of a whole body.
    ///
    /// # Errors
    /// When it is not the body that the header was written for.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FormatError> {
        let computed = crc32c::crc32c(body);
        if body.len() as u64 == u64::from(self.body_len) && computed == self.body_crc {
            Ok(())
        } else {
            Err(FormatError::Checksum { what: "body of a flush", found: self.body_crc, computed })
        }
    }
}

/// Bytes written for a body of `body_len` bytes: header and body, padded to whole blocks.
pub(super) const fn written_len(body_len: u32) -> u64 {
    (FLUSH_HEADER_LEN as u64 + body_len as u64).next_multiple_of(BLOCK_BYTES)
}

/// Where a log goes on: the position of its next flush, and the link to the flush before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Position of the next flush.
    pub position: Position,
    /// What the next flush has as its `chain`; `None` when the flush before is not known (it may be retired).
    pub link: Option<u32>,
}

impl Chain {
    /// The link of a log's very first flush.
    pub const START: u32 = 0;

    /// Goes on after `flush` in the same segment.
    pub fn after(flush: &FlushHeader) -> Self {
        Self { position: flush.next(), link: Some(flush.link()) }
    }

    /// Goes on at `position`, where the flush before is not known.
    pub const fn unlinked(position: Position) -> Self {
        Self { position, link: None }
    }

    /// Checks that `flush` is the next one.
    ///
    /// # Errors
    /// When its position or its link to the flush before is another.
    pub fn check(&self, flush: &FlushHeader) -> Result<(), FormatError> {
        if flush.position != self.position {
            return Err(FormatError::Field { what: WHAT, field: POSITION.name, value: flush.position.0 });
        }
        match self.link {
            Some(expected) if expected != flush.chain => {
                Err(FormatError::Chain { found: flush.chain, expected })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> FlushHeader {
        FlushHeader {
            kind: FlushKind::Data,
            epoch: MasterEpoch(7),
            position: Position(0x0012_3000),
            body_len: 5000,
            span: 12_288,
            body_crc: crc32c::crc32c(&[9; 5000]),
            chain: 0xdead_beef,
            snapshot: Some(Position(0x0010_1000)),
            time_ms: 1_795_000_000_123,
            salt: Salt::from_bits(0x0102_0304_0506_0708),
            durable_to: Position(0x0012_0000),
            next_salt: None,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = header().encode();
        assert_eq!(&bytes[..16], b"EQFLUSH\x1a\x01\0\x01\0\x07\0\0\0");
        assert_eq!(&bytes[16..32], &[0, 0x30, 0x12, 0, 0, 0, 0, 0, 0x88, 0x13, 0, 0, 0, 0x30, 0, 0]);
        assert_eq!(&bytes[36..40], &[0xef, 0xbe, 0xad, 0xde]);
        assert_eq!(&bytes[64..72], &[8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn every_flip_and_truncation_noticed() {
        let bytes = header().encode();
        assert_eq!(FlushHeader::decode(&bytes), Ok(header()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FlushHeader::decode(&bad).is_err(), "flip of bit {bit} was not noticed");
        }
        for len in 0..bytes.len() {
            assert!(matches!(FlushHeader::decode(&bytes[..len]), Err(FormatError::Truncated { .. })));
        }
    }

    #[test]
    fn parts_of_two_flushes_are_not_taken_together() {
        let (one, mut two) = (header().encode(), FlushHeader { body_crc: 1, ..header() }.encode());
        two[LOCAL_PART_AT..].copy_from_slice(&one[LOCAL_PART_AT..]);
        assert!(matches!(FlushHeader::decode(&two), Err(FormatError::Checksum { what: WHAT_LOCAL, .. })));
    }

    #[test]
    fn values_never_written_are_refused() {
        let seal = FlushHeader { kind: FlushKind::Seal, next_salt: Some(Salt::from_bits(1)), ..header() };
        let idle = FlushHeader { kind: FlushKind::Idle, body_len: 0, ..header() };
        assert!(seal.check(1).is_ok() && idle.check(1).is_ok());
        for bad in [
            FlushHeader { position: Position(5), ..header() },
            FlushHeader { position: Position(u64::MAX - 4095), ..header() },
            FlushHeader { span: 0, ..header() },
            FlushHeader { span: 4096, ..header() },
            FlushHeader { span: 8193, ..header() },
            FlushHeader { span: (2 << 20) + 4096, ..header() },
            FlushHeader { position: Position((2 << 20) - 8192), ..header() },
            FlushHeader { body_len: 0, ..header() },
            FlushHeader { body_len: u32::MAX, ..header() },
            FlushHeader { durable_to: Position(0x0012_4000), ..header() },
            FlushHeader { snapshot: Some(header().position), ..header() },
            FlushHeader { next_salt: Some(Salt::from_bits(1)), ..header() },
            FlushHeader { next_salt: None, ..seal },
            FlushHeader { body_len: 1, ..idle },
        ] {
            assert!(matches!(bad.check(1), Err(FormatError::Field { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_later_version_is_told_apart_from_damage() {
        let mut bytes = header().encode();
        VERSION.put(&mut bytes, 9_u16.to_le_bytes());
        assert!(matches!(FlushHeader::decode(&bytes), Err(FormatError::Checksum { .. })));
        let crc = crc32c::crc32c(&bytes[..REPLICATED_CRC.at]);
        REPLICATED_CRC.put(&mut bytes, crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[REPLICATED_CRC.at..LOCAL_CRC.at]);
        LOCAL_CRC.put(&mut bytes, crc.to_le_bytes());
        assert!(matches!(FlushHeader::decode(&bytes), Err(FormatError::NewerVersion { found: 9, .. })));
    }

    #[test]
    fn the_chain_covers_the_replicated_part_and_not_the_local_one() {
        let first = header();
        let chain = Chain::after(&first);
        let second = FlushHeader { position: first.next(), chain: first.link(), ..first };
        assert_eq!(chain.check(&second), Ok(()));
        assert!(matches!(chain.check(&first), Err(FormatError::Field { field: "position", .. })));
        let other = FlushHeader { body_crc: first.body_crc ^ 1, ..first };
        assert!(matches!(Chain::after(&other).check(&second), Err(FormatError::Chain { .. })));
        let restamped = FlushHeader { salt: Salt::from_bits(99), durable_to: Position(0), ..first };
        assert_eq!(restamped.link(), first.link());
        assert_eq!(Chain::unlinked(second.position).check(&second), Ok(()));
    }

    #[test]
    fn a_body_is_checked_whole() {
        assert_eq!(header().check_body(&[9; 5000]), Ok(()));
        assert!(header().check_body(&[9; 4999]).is_err());
        let mut bad = [9; 5000];
        bad[2500] = 8;
        assert!(header().check_body(&bad).is_err());
    }

    proptest! {
        #[test]
        fn bytes_give_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = FlushHeader::decode(&bytes);
        }

        #[test]
        fn round_trip(
            kind in prop::sample::select(&FlushKind::ALL[..]), epoch: u32, window in 1_u64..1 << 40, body in 1_u32..1 << 20,
            chain: u32, time_ms: i64, salt: u64, behind in 0_u64..1 << 20, skip in 0_u32..100, with_snapshot: bool,
        ) {
            let body_len = if kind.is_empty() { 0 } else { body };
            let position = Position(window * WINDOW_BYTES);
            let header = FlushHeader {
                kind,
                epoch: MasterEpoch(epoch),
                position,
                body_len,
                span: u32::try_from(written_len(body_len)).unwrap() + skip * 4096,
                body_crc: chain.rotate_left(3),
                chain,
                snapshot: with_snapshot.then(|| Position(position.0.saturating_sub(behind + 1))),
                time_ms,
                salt: Salt::from_bits(salt),
                durable_to: Position(position.0.saturating_sub(behind)),
                next_salt: (kind == FlushKind::Seal).then_some(Salt::from_bits(salt | 1)),
            };
            prop_assert_eq!(FlushHeader::decode(&header.encode()), Ok(header));
        }
    }
}
