//! Bodies of flushes that say something of the log itself: SEAL, OPEN, and the front of a SNAPSHOT slice.
//!
//! The CRC of the flush covers them; they have none of their own.

use equeue_record::MasterEpoch;

use super::field::{Field, check_len, covers};
use super::{BLOCK_BYTES, FormatError};
use crate::types::Position;

/// Bytes of the body of a SEAL.
pub const SEAL_BODY_LEN: usize = 8;
/// Bytes of the body of an OPEN.
pub const OPEN_BODY_LEN: usize = 16;
/// Bytes in front of the batches of a SNAPSHOT.
pub const SNAPSHOT_PREFIX_LEN: usize = 24;
/// Bytes in front of the batches of a GAP.
pub const GAP_PREFIX_LEN: usize = 24;

const NEXT: Field = Field::new("next_position", 0, 8);
/// Layout of the body of a SEAL.
pub const SEAL_FIELDS: &[Field] = &[NEXT];

const PREVIOUS_END: Field = Field::new("previous_end", 0, 8);
const NEW_EPOCH: Field = Field::new("new_epoch", 8, 4);
const CAUSE: Field = Field::new("cause", 12, 1);
const OPEN_RESERVED: Field = Field::new("reserved", 13, 3);
/// Layout of the body of an OPEN.
pub const OPEN_FIELDS: &[Field] = &[PREVIOUS_END, NEW_EPOCH, CAUSE, OPEN_RESERVED];

const BEGIN: Field = Field::new("begin", 0, 8);
const AS_OF: Field = Field::new("as_of", 8, 8);
const INDEX: Field = Field::new("index", 16, 4);
const FLAGS: Field = Field::new("flags", 20, 1);
const SNAPSHOT_RESERVED: Field = Field::new("reserved", 21, 3);
/// Layout of the front of a SNAPSHOT's body.
pub const SNAPSHOT_FIELDS: &[Field] = &[BEGIN, AS_OF, INDEX, FLAGS, SNAPSHOT_RESERVED];

const RESUME: Field = Field::new("resume", 0, 8);
const GAP_PREVIOUS_END: Field = Field::new("previous_end", 8, 8);
const RESUME_LINK: Field = Field::new("resume_link", 16, 4);
const GAP_RESERVED: Field = Field::new("reserved", 20, 4);
/// Layout of the front of a GAP's body.
pub const GAP_FIELDS: &[Field] = &[RESUME, GAP_PREVIOUS_END, RESUME_LINK, GAP_RESERVED];

/// In place of a position: there is none.
const NO_POSITION: u64 = u64::MAX;

const FLAG_BEGIN: u8 = 1;
const FLAG_END: u8 = 2;

const _: () = assert!(
    covers(SEAL_FIELDS, SEAL_BODY_LEN)
        && covers(OPEN_FIELDS, OPEN_BODY_LEN)
        && covers(SNAPSHOT_FIELDS, SNAPSHOT_PREFIX_LEN)
        && covers(GAP_FIELDS, GAP_PREFIX_LEN)
);

fn check_exact(what: &'static str, bytes: &[u8], len: usize) -> Result<(), FormatError> {
    check_len(what, bytes, len)?;
    if bytes.len() == len {
        Ok(())
    } else {
        Err(FormatError::Field { what, field: "body_len", value: bytes.len() as u64 })
    }
}

/// Says where the log goes on. The salt of that segment is in the header of the flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealBody {
    /// Position of the next segment: always the end of this one.
    pub next: Position,
}

impl SealBody {
    /// The body's bytes.
    pub fn encode(&self) -> [u8; SEAL_BODY_LEN] {
        let mut out = [0; SEAL_BODY_LEN];
        NEXT.put(&mut out, self.next.0.to_le_bytes());
        out
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        check_exact("body of a SEAL", bytes, SEAL_BODY_LEN)?;
        Ok(Self { next: Position(NEXT.get_u64(bytes)?) })
    }
}

/// Why a log was opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpenCause {
    /// There was no log before.
    New = 1,
    /// The stop before was not orderly.
    Crash = 2,
    /// A slave became master.
    Promotion = 3,
}

impl OpenCause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::New, Self::Crash, Self::Promotion];
}

/// Begins a new life of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenBody {
    /// Where the log ended before: what lies between here and the OPEN is ignored for ever.
    pub previous_end: Position,
    /// Epoch in force from this flush on.
    pub epoch: MasterEpoch,
    /// Why.
    pub cause: OpenCause,
}

impl OpenBody {
    /// The body's bytes.
    pub fn encode(&self) -> [u8; OPEN_BODY_LEN] {
        let mut out = [0; OPEN_BODY_LEN];
        PREVIOUS_END.put(&mut out, self.previous_end.0.to_le_bytes());
        NEW_EPOCH.put(&mut out, self.epoch.0.to_le_bytes());
        CAUSE.put(&mut out, [self.cause as u8]);
        out
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "body of an OPEN";
        check_exact(WHAT, bytes, OPEN_BODY_LEN)?;
        OPEN_RESERVED.check_zero(WHAT, bytes)?;
        let code = CAUSE.get_u8(bytes)?;
        let cause = OpenCause::ALL.into_iter().find(|cause| *cause as u8 == code);
        Ok(Self {
            previous_end: Position(PREVIOUS_END.get_u64(bytes)?),
            epoch: MasterEpoch(NEW_EPOCH.get_u32(bytes)?),
            cause: cause.ok_or(FormatError::Field {
                what: WHAT,
                field: CAUSE.name,
                value: u64::from(code),
            })?,
        })
    }
}

/// Front of a slice of a snapshot; control batches with state entries follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPrefix {
    /// Position of the snapshot's first slice.
    pub begin: Position,
    /// The slice holds the state as it was after every flush before this position.
    pub as_of: Position,
    /// Number of the slice, from 0.
    pub index: u32,
    /// The first slice.
    pub is_begin: bool,
    /// The last slice: with it the snapshot is complete.
    pub is_end: bool,
}

impl SnapshotPrefix {
    /// The bytes.
    pub fn encode(&self) -> [u8; SNAPSHOT_PREFIX_LEN] {
        let mut out = [0; SNAPSHOT_PREFIX_LEN];
        BEGIN.put(&mut out, self.begin.0.to_le_bytes());
        AS_OF.put(&mut out, self.as_of.0.to_le_bytes());
        INDEX.put(&mut out, self.index.to_le_bytes());
        let begin = if self.is_begin { FLAG_BEGIN } else { 0 };
        let end = if self.is_end { FLAG_END } else { 0 };
        FLAGS.put(&mut out, [begin | end]);
        out
    }

    /// Reads the front of the body of a SNAPSHOT; gives the rest too.
    pub fn split(body: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        const WHAT: &str = "slice of a snapshot";
        let Some((bytes, rest)) = body.split_at_checked(SNAPSHOT_PREFIX_LEN) else {
            return Err(FormatError::Truncated { what: WHAT, needed: SNAPSHOT_PREFIX_LEN, have: body.len() });
        };
        SNAPSHOT_RESERVED.check_zero(WHAT, bytes)?;
        let flags = FLAGS.get_u8(bytes)?;
        let prefix = Self {
            begin: Position(BEGIN.get_u64(bytes)?),
            as_of: Position(AS_OF.get_u64(bytes)?),
            index: INDEX.get_u32(bytes)?,
            is_begin: flags & FLAG_BEGIN != 0,
            is_end: flags & FLAG_END != 0,
        };
        if flags & !(FLAG_BEGIN | FLAG_END) != 0 || prefix.is_begin != (prefix.index == 0) {
            return Err(FormatError::Field { what: WHAT, field: FLAGS.name, value: u64::from(flags) });
        }
        Ok((prefix, rest))
    }
}

/// Front of the body of a GAP: a repair gave up what lay here. Control batches may follow, with the next offset of each
/// queue that lost records, so that no offset is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapPrefix {
    /// Where the log goes on, in this segment or at its end. `None`: right behind the GAP, linked to it like any flush.
    pub resume: Option<Position>,
    /// When the GAP is the first of its segment, and the segment before does not end with SEAL: where that one ends, as
    /// an OPEN would say.
    pub previous_end: Option<Position>,
    /// What the flush at `resume` has as its `chain`; 0 without `resume`.
    pub resume_link: u32,
}

impl GapPrefix {
    /// The bytes.
    pub fn encode(&self) -> [u8; GAP_PREFIX_LEN] {
        let mut out = [0; GAP_PREFIX_LEN];
        let bits =
            |position: Option<Position>| position.map_or(NO_POSITION, |position| position.0).to_le_bytes();
        RESUME.put(&mut out, bits(self.resume));
        GAP_PREVIOUS_END.put(&mut out, bits(self.previous_end));
        RESUME_LINK.put(&mut out, self.resume_link.to_le_bytes());
        out
    }

    /// Reads the front of the body of a GAP; gives the rest too.
    pub fn split(body: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        const WHAT: &str = "body of a GAP";
        let Some((bytes, rest)) = body.split_at_checked(GAP_PREFIX_LEN) else {
            return Err(FormatError::Truncated { what: WHAT, needed: GAP_PREFIX_LEN, have: body.len() });
        };
        GAP_RESERVED.check_zero(WHAT, bytes)?;
        let position = |field: Field| match field.get_u64(bytes)? {
            NO_POSITION => Ok(None),
            value if value.is_multiple_of(BLOCK_BYTES) => Ok(Some(Position(value))),
            value => Err(FormatError::Field { what: WHAT, field: field.name, value }),
        };
        let prefix = Self {
            resume: position(RESUME)?,
            previous_end: position(GAP_PREVIOUS_END)?,
            resume_link: RESUME_LINK.get_u32(bytes)?,
        };
        Ok((prefix, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal() {
        let body = SealBody { next: Position(0x0102_0000) };
        assert_eq!(body.encode(), [0, 0, 2, 1, 0, 0, 0, 0]);
        assert_eq!(SealBody::decode(&body.encode()), Ok(body));
        assert!(SealBody::decode(&[0; 7]).is_err() && SealBody::decode(&[0; 9]).is_err());
    }

    #[test]
    fn open() {
        for cause in OpenCause::ALL {
            let body = OpenBody { previous_end: Position(4096), epoch: MasterEpoch(2), cause };
            let bytes = body.encode();
            assert_eq!(bytes, [0, 16, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, cause as u8, 0, 0, 0]);
            assert_eq!(OpenBody::decode(&bytes), Ok(body));
            assert!(OpenBody::decode(&bytes[..15]).is_err());
        }
        let mut bytes =
            OpenBody { previous_end: Position(0), epoch: MasterEpoch(0), cause: OpenCause::New }.encode();
        bytes[12] = 77;
        assert!(matches!(
            OpenBody::decode(&bytes),
            Err(FormatError::Field { field: "cause", value: 77, .. })
        ));
        bytes[12] = 1;
        bytes[15] = 1;
        assert!(OpenBody::decode(&bytes).is_err());
    }

    #[test]
    fn snapshot() {
        let begin = SnapshotPrefix {
            begin: Position(8192),
            as_of: Position(8192),
            index: 0,
            is_begin: true,
            is_end: false,
        };
        let end = SnapshotPrefix { index: 5, is_begin: false, is_end: true, as_of: Position(16384), ..begin };
        for prefix in [begin, end] {
            let mut body = prefix.encode().to_vec();
            body.extend_from_slice(b"batches");
            assert_eq!(SnapshotPrefix::split(&body), Ok((prefix, &b"batches"[..])));
            for len in 0..SNAPSHOT_PREFIX_LEN {
                assert!(SnapshotPrefix::split(&body[..len]).is_err());
            }
        }
        assert!(SnapshotPrefix::split(&SnapshotPrefix { index: 1, ..begin }.encode()).is_err());
        assert!(SnapshotPrefix::split(&SnapshotPrefix { index: 0, ..end }.encode()).is_err());
    }

    #[test]
    fn gap() {
        for previous_end in [None, Some(Position(4096))] {
            let prefix = GapPrefix { resume: Some(Position(1 << 20)), previous_end, resume_link: 7 };
            let mut body = prefix.encode().to_vec();
            body.extend_from_slice(b"batches");
            assert_eq!(GapPrefix::split(&body), Ok((prefix, &b"batches"[..])));
            for len in 0..GAP_PREFIX_LEN {
                assert!(GapPrefix::split(&body[..len]).is_err());
            }
            for at in [0, 20] {
                let mut bad = body.clone();
                bad[at] ^= 1;
                assert!(GapPrefix::split(&bad).is_err());
            }
        }
    }
}
