//! Torn tail or damage: what the first flush that cannot be read means. Pure.
//!
//! A crash may leave any part of the flushes that were in flight: at most `depth` of them lie beyond what was synced.
//! So a flush that cannot be read may be one that nobody was told of (a *torn tail*: the log ends there), or one
//! that was acknowledged and is lost (*damage*: somebody must know). What tells them apart is evidence behind it:
//! every header says with `durable_to` up to where the log was known to be synced when it was written. A header
//! counts with a bad body: more evidence never hurts, because no header is written before what it claims is true.
//! And a later segment only has flushes after the SEAL of this one was synced, so that nothing in this one can be
//! torn.

use thiserror::Error;

use crate::format::{
    BLOCK_BYTES, FLUSH_DEPTH_MAX, FLUSH_HEADER_LEN, FLUSH_SPAN_MAX, FlushHeader, FlushKind, FormatError,
    GapPrefix, OpenBody, OpenCause, SegmentHeader,
};
use crate::io::ALIGN;
use crate::types::Position;

/// Bytes behind a suspect in which evidence is looked for: nothing that was in flight with it lies further away.
pub const TAIL_BYTES: u64 = (FLUSH_DEPTH_MAX + 1) * FLUSH_SPAN_MAX;

/// How a segment must end, as far as later segments tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No later segment has flushes: the log ends in this one, perhaps with a torn tail.
    Open,
    /// The log goes on in the next segment: this one ends with SEAL.
    Sealed,
    /// A later OPEN says that the log ended here before it: what lies behind is ignored.
    At(Position),
}

/// Bytes that were synced are gone or wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// A later flush of the segment was written when this one was synced.
    #[error("{reason}; but the flush at {evidence} says that everything before {durable_to} was synced")]
    SyncedBefore {
        /// Why it cannot be read.
        reason: FormatError,
        /// The flush that says so.
        evidence: Position,
        /// What it says.
        durable_to: Position,
    },
    /// The log goes on in a later segment, which it never does before all of this one is synced.
    #[error("{reason}; but the log goes on in a later segment")]
    NotLast {
        /// Why it cannot be read.
        reason: FormatError,
    },
    /// A later OPEN says that the log went on to there.
    #[error("{reason}; but the log was opened later with {end} as its end")]
    BeforeEnd {
        /// Why it cannot be read.
        reason: FormatError,
        /// The end that the OPEN names.
        end: Position,
    },
    /// The flush is whole, but no log is written so.
    #[error("{0}")]
    Impossible(FormatError),
    /// The flush reaches past the end of its segment, or past the end of the log that a later OPEN names.
    #[error("the flush ends at {next}, past {end}")]
    TooLong {
        /// Its end.
        next: Position,
        /// The end of the segment or log.
        end: Position,
    },
    /// The body is whole, but not what its kind of flush has.
    #[error("body of the flush: {0}")]
    Body(String),
}

/// Looks for evidence behind a flush that cannot be read.
///
/// Feed [`TailSearch::look`] with the bytes of [`TailSearch::range`], in any pieces of whole blocks, then ask
/// [`TailSearch::decide`].
#[derive(Clone, Debug)]
pub struct TailSearch {
    segment: SegmentHeader,
    suspect: Position,
    reason: FormatError,
    evidence: Option<(Position, Position)>,
    written_to: Position,
}

impl TailSearch {
    /// Begins a search behind the flush at `suspect`, which could not be read because of `reason`.
    pub const fn new(segment: SegmentHeader, suspect: Position, reason: FormatError) -> Self {
        Self { segment, suspect, reason, evidence: None, written_to: suspect }
    }

    /// Where evidence may lie: the suspect itself, and what follows.
    pub fn range(&self) -> (Position, Position) {
        (self.suspect, self.suspect.plus(TAIL_BYTES).min(self.segment.end()))
    }

    /// Takes the bytes at `position` (a multiple of 4 KiB).
    pub fn look(&mut self, position: Position, bytes: &[u8]) {
        let mut at = position;
        for block in bytes.chunks(ALIGN) {
            if let Some(header) = header_at(&self.segment, at, block) {
                self.take(at, header.durable_to);
                // Bytes without a header of this segment tell nothing: a file that was used before is full of them.
                self.written_to = self.written_to.max(at.plus(header.written_len()).min(self.segment.end()));
            }
            at = at.plus(BLOCK_BYTES);
        }
    }

    fn take(&mut self, at: Position, durable_to: Position) {
        if self.evidence.is_none_or(|(_, best)| durable_to > best) {
            self.evidence = Some((at, durable_to));
        }
    }

    /// `Ok` with the bytes of a torn tail, up to the end of the last flush that a header tells of (0: no flush was
    /// written, and what of others is there has no header, so it can be written over), or what is damaged.
    ///
    /// # Errors
    /// The damage.
    pub fn decide(self, ending: Ending) -> Result<u64, Damage> {
        let reason = self.reason;
        match (ending, self.evidence) {
            (Ending::Sealed, _) => Err(Damage::NotLast { reason }),
            (Ending::At(end), _) if end > self.suspect => Err(Damage::BeforeEnd { reason, end }),
            (Ending::Open, Some((evidence, durable_to))) if durable_to > self.suspect => {
                Err(Damage::SyncedBefore { reason, evidence, durable_to })
            }
            _ => Ok(self.written_to.0 - self.suspect.0),
        }
    }
}

/// The header at the front of `bytes` if it was written there, into this segment: both CRCs, salt and position.
pub fn header_at(segment: &SegmentHeader, position: Position, bytes: &[u8]) -> Option<FlushHeader> {
    let header = FlushHeader::decode(bytes).ok()?;
    (header.salt == segment.salt && header.position == position).then_some(header)
}

/// What lies at the beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstFlush {
    /// No flush in the first [`TAIL_BYTES`]: prepared, never used.
    Nothing,
    /// Some flush, but the first is none of those that follow.
    Other,
    /// The log was opened anew here.
    Open(OpenBody),
}

impl FirstFlush {
    /// What the block of the first flush tells; `None` when it tells nothing and what follows must be looked at.
    pub fn of_block(segment: &SegmentHeader, block: &[u8]) -> Option<Self> {
        let header = header_at(segment, segment.first_flush(), block)?;
        if header.kind == FlushKind::Gap {
            // A repair put it where an OPEN was lost; its front lies in the header's block.
            let gap = GapPrefix::split(block.get(FLUSH_HEADER_LEN..)?).ok()?.0;
            let open = |previous_end| OpenBody { previous_end, epoch: header.epoch, cause: OpenCause::Crash };
            return Some(gap.previous_end.map_or(Self::Other, |end| Self::Open(open(end))));
        }
        if header.kind != FlushKind::Open {
            return Some(Self::Other);
        }
        // An OPEN that is not whole was never synced: the log did not go on here, unless others follow.
        let body = block.get(FLUSH_HEADER_LEN..)?.get(..header.body_len as usize)?;
        header.check_body(body).ok()?;
        OpenBody::decode(body).ok().map(Self::Open)
    }
}

/// Whether there is a flush of this segment at any block of `bytes`, which lie at `position`.
pub fn holds_flush(segment: &SegmentHeader, position: Position, bytes: &[u8]) -> bool {
    let positions = (0..).map(|index| position.plus(index * BLOCK_BYTES));
    positions.zip(bytes.chunks(ALIGN)).any(|(at, block)| header_at(segment, at, block).is_some())
}

/// How each segment of a log ends, from what the next ones begin with; `segments` in order of positions.
pub fn endings(segments: &[(SegmentHeader, FirstFlush)]) -> Vec<Ending> {
    let mut ending = Ending::Open;
    let mut endings: Vec<_> = segments
        .iter()
        .rev()
        .map(|(segment, first)| {
            let own = match ending {
                // Ended before this segment began: nothing in it counts.
                Ending::At(end) if end < segment.position => Ending::At(segment.position),
                other => other,
            };
            ending = match (first, ending) {
                (FirstFlush::Open(open), _) if own != Ending::At(segment.position) => {
                    Ending::At(open.previous_end)
                }
                (FirstFlush::Other, _) if own != Ending::At(segment.position) => Ending::Sealed,
                // Nothing here that counts: the one before ends as this one would.
                _ => ending,
            };
            own
        })
        .collect();
    endings.reverse();
    endings
}
