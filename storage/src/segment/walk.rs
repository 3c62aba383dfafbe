//! From flush to flush through a segment. Pure: bytes in, flushes out.

use equeue_record::RecordError;
use thiserror::Error;

use super::tail::{Damage, Ending};
use crate::format::{
    BLOCK_BYTES, Chain, FLUSH_HEADER_LEN, FlushHeader, FlushKind, FormatError, GapPrefix, Salt, SealBody,
    SegmentHeader,
};
use crate::types::Position;

/// What the body of a whole flush has wrong with it, for whoever reads bodies.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Not the structure that the kind of flush has.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Not record batches.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// How the flushes of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// With SEAL: the log goes on at `next`, in a segment of this salt.
    Sealed {
        /// Position of the next segment.
        next: Position,
        /// Its salt.
        salt: Salt,
    },
    /// With nothing that can be read, and nothing that was acknowledged.
    Tail {
        /// Bytes behind the end, up to the end of the last flush that a header tells of. 0: none was in flight.
        torn_bytes: u64,
    },
    /// Where a later OPEN says.
    Opened,
    /// At the end of the segment, without SEAL. Possible only when the log crashed right there.
    Full,
}

/// Where the flushes of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How.
    pub kind: EndKind,
    /// Where the next flush of the log lies, or would: after SEAL the first of the next segment.
    pub chain: Chain,
    /// The last flush; `None` when there was none after the beginning of the walk.
    pub last: Option<FlushHeader>,
    /// Flushes walked over.
    pub flushes: u64,
    /// The furthest that one of them says was synced.
    pub durable_to: Position,
}

/// What comes next in a segment.
#[derive(Debug)]
pub enum Step<'a> {
    /// A whole flush, with its body.
    Flush(FlushHeader, &'a [u8]),
    /// Give so many bytes to go on (or all there are up to the end of the segment).
    Short(usize),
    /// A flush that cannot be read: ask [`super::TailSearch`].
    Suspect(FormatError),
    /// No more flushes.
    End(EndKind),
    /// Something that no crash leaves.
    Damaged(Damage),
}

/// A walk through a segment.
#[derive(Clone, Debug)]
pub struct Walk {
    segment: SegmentHeader,
    ending: Ending,
    check_bodies: bool,
    chain: Chain,
    last: Option<FlushHeader>,
    sealed: Option<EndKind>,
    flushes: u64,
    durable_to: Position,
}

impl Walk {
    /// Begins at `from`.
    pub const fn new(segment: SegmentHeader, from: Chain, ending: Ending) -> Self {
        Self {
            segment,
            ending,
            check_bodies: true,
            chain: from,
            last: None,
            sealed: None,
            flushes: 0,
            durable_to: Position(0),
        }
    }

    /// Does not check the CRC of bodies. Only for showing that a test notices.
    #[must_use]
    pub const fn without_body_checks(mut self) -> Self {
        self.check_bodies = false;
        self
    }

    /// Position of the next flush.
    pub const fn position(&self) -> Position {
        self.chain.position
    }

    /// Where the walk ended.
    pub const fn end(&self, kind: EndKind) -> End {
        End { kind, chain: self.chain, last: self.last, flushes: self.flushes, durable_to: self.durable_to }
    }

    /// Takes the bytes at [`Walk::position`], and goes on to the next flush when there is one.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        if let Some(end) = self.ended() {
            return Step::End(end);
        }
        let at = self.chain.position;
        let rest = usize::try_from(self.segment.end().0 - at.0).unwrap_or(usize::MAX);
        if bytes.len() < FLUSH_HEADER_LEN.min(rest) {
            return Step::Short(FLUSH_HEADER_LEN);
        }
        let header = match self.header(bytes) {
            Ok(header) => header,
            Err(step) => return step,
        };
        let body_len = header.body_len as usize;
        let Some(body) = bytes.get(FLUSH_HEADER_LEN..FLUSH_HEADER_LEN + body_len) else {
            return Step::Short(FLUSH_HEADER_LEN + body_len);
        };
        if self.check_bodies
            && let Err(error) = header.check_body(body)
        {
            return Step::Suspect(error);
        }
        match self.take(&header, body) {
            Ok(()) => Step::Flush(header, body),
            Err(damage) => Step::Damaged(damage),
        }
    }

    /// The end, when it is reached without reading on.
    fn ended(&self) -> Option<EndKind> {
        let at = self.chain.position;
        match self.ending {
            _ if self.sealed.is_some() => self.sealed,
            Ending::At(end) if at >= end => Some(EndKind::Opened),
            Ending::Open if at >= self.segment.end() => Some(EndKind::Full),
            _ => None,
        }
    }

    /// The header of the next flush, or why there is none.
    fn header(&self, bytes: &[u8]) -> Result<FlushHeader, Step<'static>> {
        let at = self.chain.position;
        let header = match FlushHeader::decode(bytes) {
            Ok(header) => header,
            Err(error @ FormatError::NewerVersion { .. }) => {
                return Err(Step::Damaged(Damage::Impossible(error)));
            }
            Err(error) => return Err(Step::Suspect(error)),
        };
        // Of another life of the file, or the body of a record that looks like a flush: nothing was written here.
        if header.salt != self.segment.salt || header.position != at {
            return Err(Step::Suspect(FormatError::Magic { what: "flush" }));
        }
        self.chain.check(&header).map_err(|error| Step::Damaged(Damage::Impossible(error)))?;
        let end = match self.ending {
            Ending::At(end) => end.min(self.segment.end()),
            Ending::Open | Ending::Sealed => self.segment.end(),
        };
        if header.next() > end {
            return Err(Step::Damaged(Damage::TooLong { next: header.next(), end }));
        }
        Ok(header)
    }

    /// Goes over a flush.
    fn take(&mut self, header: &FlushHeader, body: &[u8]) -> Result<(), Damage> {
        let mut chain = Chain::after(header);
        match header.kind {
            FlushKind::Seal => {
                let next = SealBody::decode(body).map_err(Damage::Impossible)?.next;
                if next != self.segment.end() {
                    return Err(impossible("body of a SEAL", "next_position", next));
                }
                self.go_on_in_next(header, &mut chain)?;
            }
            FlushKind::Gap => {
                let gap = GapPrefix::split(body).map_err(Damage::Impossible)?.0;
                if let Some(resume) = gap.resume {
                    if resume < header.next() || resume > self.segment.end() {
                        return Err(impossible("body of a GAP", "resume", resume));
                    }
                    chain = Chain { position: resume, link: Some(gap.resume_link) };
                }
                if header.next_salt.is_some() {
                    if chain.position != self.segment.end() {
                        return Err(impossible("body of a GAP", "resume", chain.position));
                    }
                    self.go_on_in_next(header, &mut chain)?;
                }
            }
            _ => {}
        }
        self.chain = chain;
        self.last = Some(*header);
        self.flushes += 1;
        self.durable_to = self.durable_to.max(header.durable_to);
        Ok(())
    }

    /// The flush says that the log goes on in the next segment.
    fn go_on_in_next(&mut self, header: &FlushHeader, chain: &mut Chain) -> Result<(), Damage> {
        let next = self.segment.end();
        let salt = header.next_salt.ok_or_else(|| impossible("flush header", "next_salt", Position(0)))?;
        self.sealed = Some(EndKind::Sealed { next, salt });
        chain.position = next.plus(BLOCK_BYTES);
        Ok(())
    }
}

fn impossible(what: &'static str, field: &'static str, value: Position) -> Damage {
    Damage::Impossible(FormatError::Field { what, field, value: value.0 })
}
