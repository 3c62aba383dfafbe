//! What lies around a segment: what its beginning must follow, and how it must end.

use std::path::PathBuf;

use super::salvage::{Salvage, salvage};
use super::{Place, RepairError, failed};
use crate::format::{
    BLOCK_BYTES, Chain, FileName, FlushHeader, FormatError, SEGMENT_BYTES_MIN, SEGMENT_HEADER_LEN, Salt,
    SegmentHeader, WINDOW_BYTES, segment_name,
};
use crate::io::{ALIGN, Access, Io, IoFile};
use crate::segment::{EndKind, Ending, FirstFlush, ScanError, find_flush, header_at};
use crate::types::Position;

/// Segment files of a log, oldest first, with their lengths.
pub(super) async fn segment_files<I: Io>(io: &I, place: &Place) -> Result<Vec<(Position, u64)>, RepairError> {
    let entries = io.list(&place.dir).await.map_err(failed(&place.dir, "listing the folder"))?;
    let mut files: Vec<_> = entries
        .iter()
        .filter_map(|entry| match FileName::parse(&entry.name) {
            Some(FileName::Segment(position)) => Some((position, entry.bytes)),
            _ => None,
        })
        .collect();
    files.sort_unstable();
    Ok(files)
}

impl Place {
    pub(super) fn path(&self, segment: Position) -> PathBuf {
        self.dir.join(segment_name(segment))
    }

    pub(super) async fn open<I: Io>(&self, io: &I, segment: Position) -> Result<I::File, RepairError> {
        let path = self.path(segment);
        io.open(&path, Access::Read).await.map_err(failed(&path, "opening"))
    }

    /// The header block of a segment; `None` when it is damaged or of another segment.
    pub(super) async fn header<I: Io>(
        &self,
        file: &I::File,
        segment: Position,
    ) -> Result<Option<SegmentHeader>, RepairError> {
        let path = self.path(segment);
        let block = file.read_at(0, SEGMENT_HEADER_LEN).await.map_err(failed(&path, "reading"))?;
        match SegmentHeader::decode(block.as_ref()) {
            Ok(header) => {
                Ok(Some(header).filter(|header| header.position == segment && header.log == self.log))
            }
            Err(FormatError::NewerVersion { found, known, .. }) => {
                Err(RepairError::NewerFormat { path, found, known })
            }
            Err(_) => Ok(None),
        }
    }

    pub(super) fn scan_error(&self, segment: Position, error: ScanError) -> RepairError {
        let path = self.path(segment);
        match error {
            ScanError::Io { source, .. } => RepairError::Io { path, action: "reading", source },
            ScanError::Header(error) => RepairError::Refused(format!("{}: {error}", path.display())),
            ScanError::Damaged { position, damage } => {
                RepairError::Refused(format!("{}: damaged at {position}: {damage}", path.display()))
            }
        }
    }
}

/// What the segment's beginning follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// Link of its first flush, if it is known.
    pub(super) link: Option<u32>,
    /// Salt that the SEAL before it names.
    pub(super) salt: Option<Salt>,
    /// Where the log ended before it, when that was not with SEAL.
    pub(super) previous_end: Option<Position>,
    /// The last flush before it.
    pub(super) last: Option<FlushHeader>,
}

/// Looks at what is before `segment`.
pub(super) async fn before<I: Io>(
    io: &I,
    place: &Place,
    files: &[(Position, u64)],
    segment: Position,
) -> Result<Before, RepairError> {
    let mut before = Before { link: None, salt: None, previous_end: None, last: None };
    let mut begin = segment;
    for (position, _) in files.iter().rev().filter(|(position, _)| *position < segment) {
        let file = place.open(io, *position).await?;
        let Some(header) = place.header::<I>(&file, *position).await? else {
            return Err(RepairError::Refused(format!(
                "the header of the segment before it, at {position}, is damaged: quarantine that one first"
            )));
        };
        if header.end() != begin {
            return Err(RepairError::Refused(format!(
                "the segment that begins at {} is missing: quarantine that position first",
                header.end()
            )));
        }
        begin = *position;
        let from = Chain::unlinked(header.first_flush());
        let Salvage { end, last, .. } =
            salvage(io, place, &file, (&header, from), Ending::Open, None).await?;
        if last.is_none() {
            continue;
        }
        before.last = last;
        match end.map(|end| (end.kind, end.chain)) {
            Some((EndKind::Sealed { salt, .. }, chain)) => {
                (before.link, before.salt) = (chain.link, Some(salt));
            }
            Some((_, chain)) => (before.link, before.previous_end) = (chain.link, Some(chain.position)),
            None => {}
        }
        return Ok(before);
    }
    if segment == Position(0) {
        before.link = Some(Chain::START);
        before.previous_end = Some(Position(0));
    }
    Ok(before)
}

/// How a segment ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct After {
    pub(super) ending: Ending,
    /// Of the next segment with flushes: its first flush's `chain`, and its salt.
    pub(super) next: Option<(Option<u32>, Salt)>,
    /// Where the next segment file begins.
    pub(super) position: Option<Position>,
}

/// Looks at what is behind `segment`.
pub(super) async fn after<I: Io>(
    io: &I,
    place: &Place,
    files: &[(Position, u64)],
    segment: Position,
) -> Result<After, RepairError> {
    let mut after = After { ending: Ending::Open, next: None, position: None };
    for (position, _) in files.iter().filter(|(position, _)| *position > segment) {
        after.position.get_or_insert(*position);
        let file = place.open(io, *position).await?;
        let Some(header) = place.header::<I>(&file, *position).await? else {
            return Err(RepairError::Refused(format!(
                "the header of a segment behind it, at {position}, is damaged: quarantine that one first"
            )));
        };
        let first =
            find_flush::<I>(&file, &header).await.map_err(|error| place.scan_error(*position, error))?;
        after.ending = match first {
            FirstFlush::Nothing => continue,
            FirstFlush::Other => Ending::Sealed,
            FirstFlush::Open(open) => Ending::At(open.previous_end.max(segment)),
        };
        let path = place.path(*position);
        let block = file.read_at(BLOCK_BYTES, ALIGN).await.map_err(failed(&path, "reading"))?;
        let link = header_at(&header, header.first_flush(), block.as_ref()).map(|flush| flush.chain);
        after.next = Some((link, header.salt));
        break;
    }
    Ok(after)
}

/// The header that a segment has, or had: from its block, else from its flushes and what is around it.
pub(super) async fn header_or_guess<I: Io>(
    io: &I,
    place: &Place,
    file: Option<&I::File>,
    (segment, bytes): (Position, Option<u64>),
    (before, after): (&Before, &After),
) -> Result<(SegmentHeader, bool), RepairError> {
    if let Some(file) = file
        && let Some(header) = place.header::<I>(file, segment).await?
        && after.position.is_none_or(|next| next == header.end())
    {
        return Ok((header, true));
    }
    let salt = match file {
        Some(file) => salt_of_flushes::<I>(io, place, file, segment).await?,
        None => None,
    };
    let whole = |bytes: u64| bytes / SEGMENT_BYTES_MIN * SEGMENT_BYTES_MIN;
    let bytes = match after.position {
        Some(next) => next.0 - segment.0,
        None => bytes.map_or(0, whole).max(LAST_SEGMENT_BYTES),
    };
    let salt = salt.or(before.salt).unwrap_or_else(Salt::random);
    let header = SegmentHeader {
        log: place.log,
        position: segment,
        bytes,
        salt,
        created_ms: io.wall_ms(),
        has_gaps: false,
    };
    Ok((header, false))
}

/// Size of the last segment of a log when nothing tells it.
const LAST_SEGMENT_BYTES: u64 = 16 << 20;

/// The salt that the flushes in a file have, if there is any.
async fn salt_of_flushes<I: Io>(
    io: &I,
    place: &Place,
    file: &I::File,
    segment: Position,
) -> Result<Option<Salt>, RepairError> {
    let path = place.path(segment);
    let mut at = 0;
    loop {
        let bytes = file.read_at(at, ALIGN << 8).await.map_err(failed(&path, "reading"))?;
        for (block, offset) in bytes.as_ref().chunks(ALIGN).zip((at..).step_by(ALIGN)) {
            if let Ok(flush) = FlushHeader::decode(block)
                && flush.position == segment.plus(offset)
            {
                return Ok(Some(flush.salt));
            }
        }
        if bytes.as_ref().len() < ALIGN << 8 {
            return Ok(None);
        }
        at += WINDOW_BYTES;
        io.yield_now().await;
    }
}

const _: () = assert!((ALIGN << 8) as u64 == WINDOW_BYTES);
