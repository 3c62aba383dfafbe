//! Reading a segment through [`Io`]: the thin part around [`Walk`] and [`TailSearch`].
//!
//! Never writes. An error of the system is an error of the system, never damage.

use std::io;

use thiserror::Error;

use super::tail::{Damage, Ending, FirstFlush, TAIL_BYTES, TailSearch, holds_flush};
use super::walk::{BodyError, End, EndKind, Step, Walk};
use crate::format::{
    BLOCK_BYTES, Chain, FLUSH_HEADER_LEN, FlushHeader, FormatError, SEGMENT_HEADER_LEN, SegmentHeader,
    WINDOW_BYTES,
};
use crate::io::{ALIGN, Io, IoFile, align_up};
use crate::types::Position;

/// Why a segment could not be read to its end.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The system said no; nothing is known to be damaged.
    #[error("reading at position {position} failed")]
    Io {
        /// Where.
        position: Position,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Bytes that were synced are gone or wrong.
    #[error("damaged at position {position}: {damage}")]
    Damaged {
        /// The flush.
        position: Position,
        /// What is wrong.
        damage: Damage,
    },
    /// The header block cannot be read: damage, because a file gets its name after the block is synced. A later
    /// format is among these.
    #[error("segment header: {0}")]
    Header(#[from] FormatError),
}

/// Mechanisms that a test switches off to show that it notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRules {
    /// Look for evidence behind a flush that cannot be read.
    pub evidence: bool,
    /// Check the CRC of bodies.
    pub body_crc: bool,
}

impl Default for ScanRules {
    fn default() -> Self {
        Self { evidence: true, body_crc: true }
    }
}

/// Reads the header block of a segment.
pub async fn read_header<I: Io>(file: &I::File) -> Result<SegmentHeader, ScanError> {
    let block = file
        .read_at(0, SEGMENT_HEADER_LEN)
        .await
        .map_err(|source| ScanError::Io { position: Position(0), source })?;
    Ok(SegmentHeader::decode(block.as_ref())?)
}

/// Looks at the beginning of a segment for what [`super::endings`] asks.
pub async fn find_flush<I: Io>(file: &I::File, segment: &SegmentHeader) -> Result<FirstFlush, ScanError> {
    let position = segment.first_flush();
    let block =
        file.read_at(BLOCK_BYTES, ALIGN).await.map_err(|source| ScanError::Io { position, source })?;
    if let Some(first) = FirstFlush::of_block(segment, block.as_ref()) {
        return Ok(first);
    }
    drop(block);
    let mut window = Window::<I>::new(file, *segment);
    let end = position.plus(TAIL_BYTES).min(segment.end());
    let mut at = position.plus(BLOCK_BYTES);
    while at < end {
        let bytes = window.at(at, ALIGN).await?;
        if bytes.is_empty() {
            break;
        }
        if holds_flush(segment, at, bytes) {
            return Ok(FirstFlush::Other);
        }
        at = at.plus(align_up(bytes.len() as u64));
    }
    Ok(FirstFlush::Nothing)
}

/// Walks over the flushes of a segment from `from`, giving each whole one to `each`, to the end of the log in it.
///
/// Yields after each window of 1 MiB.
///
/// # Errors
/// [`ScanError::Damaged`] also when `each` refuses a body: its CRC was good, so it was written like this.
pub async fn scan_segment<I: Io>(
    io: &I,
    file: &I::File,
    segment: &SegmentHeader,
    from: Chain,
    ending: Ending,
    rules: ScanRules,
    each: impl FnMut(&FlushHeader, &[u8]) -> Result<(), BodyError>,
) -> Result<End, ScanError> {
    let between = async |_| {
        io.yield_now().await;
        true
    };
    scan_segment_paced::<I>(file, (segment, from, ending), rules, each, between).await
}

/// Like [`scan_segment`], with `between` called with the number of bytes after each read; the walk ends when that gives
/// `false`.
///
/// # Errors
/// Then with an error of the system, [`io::ErrorKind::Interrupted`].
pub async fn scan_segment_paced<I: Io>(
    file: &I::File,
    (segment, from, ending): (&SegmentHeader, Chain, Ending),
    rules: ScanRules,
    mut each: impl FnMut(&FlushHeader, &[u8]) -> Result<(), BodyError>,
    mut between: impl AsyncFnMut(u64) -> bool,
) -> Result<End, ScanError> {
    let mut window = Window::<I>::new(file, *segment);
    let mut walk = Walk::new(*segment, from, ending);
    if !rules.body_crc {
        walk = walk.without_body_checks();
    }
    let mut need = FLUSH_HEADER_LEN;
    loop {
        let position = walk.position();
        let read_bytes = window.read_bytes;
        let bytes = window.at(position, need).await?;
        let step = match walk.step(bytes) {
            // The file is shorter than its header says.
            Step::Short(len) if len <= need => {
                Step::Suspect(FormatError::Truncated { what: "flush", needed: len, have: bytes.len() })
            }
            step => step,
        };
        match step {
            Step::Flush(header, body) => {
                each(&header, body).map_err(|error| ScanError::Damaged {
                    position,
                    damage: Damage::Body(error.to_string()),
                })?;
                need = FLUSH_HEADER_LEN;
            }
            Step::Short(len) => need = len,
            Step::End(kind) => return Ok(walk.end(kind)),
            Step::Damaged(damage) => return Err(ScanError::Damaged { position, damage }),
            Step::Suspect(reason) if rules.evidence => {
                let search = TailSearch::new(*segment, position, reason);
                return match search_tail(&mut window, search).await?.decide(ending) {
                    Ok(torn_bytes) => Ok(walk.end(EndKind::Tail { torn_bytes })),
                    Err(damage) => Err(ScanError::Damaged { position, damage }),
                };
            }
            Step::Suspect(_) => return Ok(walk.end(EndKind::Tail { torn_bytes: BLOCK_BYTES })),
        }
        if window.read_bytes != read_bytes && !between(window.read_bytes - read_bytes).await {
            return Err(ScanError::Io { position, source: io::ErrorKind::Interrupted.into() });
        }
    }
}

async fn search_tail<I: Io>(
    window: &mut Window<'_, I>,
    mut search: TailSearch,
) -> Result<TailSearch, ScanError> {
    let (mut at, end) = search.range();
    while at < end {
        let bytes = window.at(at, ALIGN).await?;
        let len = bytes.len() - bytes.len() % ALIGN;
        if len == 0 {
            break;
        }
        let bytes = bytes.get(..len).unwrap_or_default();
        search.look(at, bytes);
        at = at.plus(len as u64);
    }
    Ok(search)
}

/// The bytes read last.
struct Window<'a, I: Io> {
    file: &'a I::File,
    segment: SegmentHeader,
    bytes: Option<(Position, I::ReadBuffer)>,
    read_bytes: u64,
}

impl<'a, I: Io> Window<'a, I> {
    const fn new(file: &'a I::File, segment: SegmentHeader) -> Self {
        Self { file, segment, bytes: None, read_bytes: 0 }
    }

    fn held(&self, position: Position, len: usize) -> bool {
        self.bytes.as_ref().is_some_and(|(begin, bytes)| {
            let end = begin.plus(bytes.as_ref().len() as u64);
            *begin <= position && position.plus(len as u64) <= end
        })
    }

    /// At least `len` bytes at `position` (a multiple of 4 KiB); fewer at the end of the segment or file.
    async fn at(&mut self, position: Position, len: usize) -> Result<&[u8], ScanError> {
        if !self.held(position, len) && position < self.segment.end() {
            let window_end = (position.0 / WINDOW_BYTES + 1) * WINDOW_BYTES;
            let end = align_up(position.0 + len as u64).max(window_end).min(self.segment.end().0);
            let len = usize::try_from(end - position.0).unwrap_or(usize::MAX);
            // The old memory is given back before new is asked for.
            self.bytes = None;
            let bytes = self.file.read_at(position.0 - self.segment.position.0, len).await;
            self.bytes = Some((position, bytes.map_err(|source| ScanError::Io { position, source })?));
            self.read_bytes += len as u64;
        }
        let slice = self.bytes.as_ref().and_then(|(begin, bytes)| {
            let skip = usize::try_from(position.0.checked_sub(begin.0)?).ok()?;
            bytes.as_ref().get(skip..)
        });
        Ok(slice.unwrap_or_default())
    }
}
