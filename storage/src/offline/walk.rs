//! Through all logs of a data directory, flush by flush, around whatever is damaged.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::begun::{missing_logs, why_missing};
use super::map::MappedFile;
use super::{Damaged, OfflineError, failed};
use crate::format::{
    BLOCK_BYTES, Chain, FLUSH_HEADER_LEN, FileName, FlushHeader, FormatError, IDENTITY_BYTES_MAX,
    IDENTITY_FILE, Identity, SEGMENT_HEADER_LEN, SegmentHeader, parse_log_dir_name,
};
use crate::io::{ALIGN, align_up};
use crate::segment::{
    BodyError, Damage, End, EndKind, Ending, FirstFlush, Step, TAIL_BYTES, TailSearch, Walk, endings,
    header_at, holds_flush,
};
use crate::types::{LogId, Position};

/// Who is told what the walk comes by. `Break` ends it.
pub(super) trait Visitor {
    /// The identity file, if it is there and good.
    fn identity(&mut self, identity: Identity);
    /// A log begins.
    fn log(&mut self, log: LogId) -> ControlFlow<()>;
    /// A segment begins.
    fn segment(&mut self, path: &Path, header: &SegmentHeader) -> ControlFlow<()>;
    /// A whole flush. `Err`: its body is not what it should be.
    fn flush(&mut self, header: &FlushHeader, body: &[u8]) -> Result<ControlFlow<()>, BodyError>;
    /// The log ends at `end`; behind it lie `torn_bytes` of flushes that were never acknowledged.
    fn end(&mut self, end: Position, torn_bytes: u64);
    /// Something is damaged; the walk goes on behind it.
    fn damaged(&mut self, damaged: Damaged);
}

/// Walks through the data directory `dir`.
pub(super) fn walk_data_dir(dir: &Path, visitor: &mut impl Visitor) -> Result<(), OfflineError> {
    let mut logs: Vec<LogId> = names(dir)?.iter().filter_map(|name| parse_log_dir_name(name)).collect();
    logs.sort_unstable();
    let path = dir.join(IDENTITY_FILE);
    let identity = read_identity(&path, visitor)?;
    if identity.is_none() && logs.is_empty() {
        return Err(OfflineError::NoDataDirectory { path: dir.to_owned() });
    }
    let count = identity.as_ref().map_or(0, |identity| identity.logs);
    if let Some(identity) = identity {
        visitor.identity(identity);
    }
    for log in missing_logs(dir, count)? {
        let path = dir.join(crate::format::log_dir_name(log));
        visitor.damaged(Damaged { path, position: Position(0), reason: why_missing(log) });
    }
    for log in logs {
        if visitor.log(log).is_break() || walk_log(dir, log, visitor)?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Walks through one log of the data directory `dir`.
pub(super) fn walk_log(
    dir: &Path,
    log: LogId,
    visitor: &mut impl Visitor,
) -> Result<ControlFlow<()>, OfflineError> {
    LogWalk { dir: dir.join(crate::format::log_dir_name(log)), log, visitor }.run()
}

fn names(dir: &Path) -> Result<Vec<String>, OfflineError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed(dir, "listing"))? {
        let entry = entry.map_err(failed(dir, "listing"))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

fn read_identity(path: &Path, visitor: &mut impl Visitor) -> Result<Option<Identity>, OfflineError> {
    if !path.exists() {
        return Ok(None);
    }
    let mut content = MappedFile::open(path, Position(0))?;
    match Identity::decode(content.at(Position(0), IDENTITY_BYTES_MAX + 1)?) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) => {
            let reason = error.to_string();
            visitor.damaged(Damaged { path: path.to_owned(), position: Position(0), reason });
            Ok(None)
        }
    }
}

struct Segment {
    path: PathBuf,
    header: SegmentHeader,
    first: FirstFlush,
}

struct LogWalk<'a, V> {
    dir: PathBuf,
    log: LogId,
    visitor: &'a mut V,
}

/// What the segments so far lead one to expect.
struct Expected {
    chain: Chain,
    /// The next segment, as SEAL names it.
    sealed: Option<EndKind>,
    snapshot: Option<Position>,
    end: Position,
    torn_bytes: u64,
}

impl<V: Visitor> LogWalk<'_, V> {
    fn damaged(&mut self, path: &Path, position: Position, reason: &dyn ToString) {
        self.visitor.damaged(Damaged { path: path.to_owned(), position, reason: reason.to_string() });
    }

    fn run(mut self) -> Result<ControlFlow<()>, OfflineError> {
        let segments = self.segments()?;
        let firsts: Vec<_> = segments.iter().map(|segment| (segment.header, segment.first)).collect();
        let endings = endings(&firsts);
        let used =
            firsts.iter().rposition(|(_, first)| *first != FirstFlush::Nothing).map_or(0, |last| last + 1);
        let Some(oldest) = segments.first().map(|segment| segment.header.first_flush()) else {
            return Ok(ControlFlow::Continue(()));
        };
        let is_whole = segments.first().is_some_and(|segment| segment.header.position == Position(0));
        let chain = Chain { position: oldest, link: is_whole.then_some(Chain::START) };
        let mut expected = Expected { chain, sealed: None, snapshot: None, end: oldest, torn_bytes: 0 };
        for (index, (segment, ending)) in segments.iter().zip(endings).enumerate() {
            if self.visitor.segment(&segment.path, &segment.header).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.check_sealed(&expected, segment);
            expected.sealed = None;
            if index < used && self.segment(segment, ending, &mut expected)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.check_end(&segments, &expected);
        self.visitor.end(expected.end, expected.torn_bytes);
        Ok(ControlFlow::Continue(()))
    }

    /// The segments whose header is good, in order.
    fn segments(&mut self) -> Result<Vec<Segment>, OfflineError> {
        let mut positions: Vec<Position> = names(&self.dir)?
            .iter()
            .filter_map(|name| match FileName::parse(name) {
                Some(FileName::Segment(position)) => Some(position),
                _ => None,
            })
            .collect();
        positions.sort_unstable();
        let mut segments: Vec<Segment> = Vec::new();
        for position in positions {
            let path = self.dir.join(crate::format::segment_name(position));
            let mut map = MappedFile::open(&path, position)?;
            let header = match SegmentHeader::decode(map.at(position, SEGMENT_HEADER_LEN)?) {
                Ok(header) if header.position == position && header.log == self.log => header,
                Ok(header) => {
                    let reason = format!("its header says: log {}, position {}", header.log, header.position);
                    self.damaged(&path, position, &reason);
                    continue;
                }
                Err(error) => {
                    self.damaged(&path, position, &error);
                    continue;
                }
            };
            if map.len() as u64 != header.bytes {
                let reason = format!("the file has {} bytes, its header says {}", map.len(), header.bytes);
                self.damaged(&path, position, &reason);
            }
            let expected = segments.last().map(|last| last.header.end());
            if let Some(expected) = expected.filter(|expected| *expected != position) {
                let dir = self.dir.clone();
                self.damaged(&dir, expected, &"the segment that begins here is missing");
            }
            segments.push(Segment { first: first_flush(&header, &mut map)?, path, header });
        }
        Ok(segments)
    }

    fn check_sealed(&mut self, expected: &Expected, segment: &Segment) {
        if let Some(EndKind::Sealed { next, salt }) = expected.sealed
            && next == segment.header.position
            && salt != segment.header.salt
        {
            self.damaged(&segment.path, next, &"it is not the segment that the SEAL before it names");
        }
    }

    fn check_end(&mut self, segments: &[Segment], expected: &Expected) {
        let dir = self.dir.clone();
        if let Some(EndKind::Sealed { next, .. }) = expected.sealed {
            self.damaged(
                &dir,
                next,
                &"the segment that begins here is missing: the log was sealed before it",
            );
        }
        let oldest = segments.first().map_or(Position(0), |segment| segment.header.position);
        if oldest != Position(0) && expected.snapshot.is_none_or(|snapshot| snapshot < oldest) {
            let reason = "there is no complete snapshot, and the beginning of the log is not there";
            self.damaged(&dir, oldest, &reason);
        }
    }

    /// Walks through one segment, and on behind each damage.
    fn segment(
        &mut self,
        segment: &Segment,
        ending: Ending,
        expected: &mut Expected,
    ) -> Result<ControlFlow<()>, OfflineError> {
        let header = segment.header;
        let mut map = MappedFile::open(&segment.path, header.position)?;
        let chain = Chain { position: header.first_flush(), link: expected.chain.link };
        let mut walk = Walk::new(header, chain, ending);
        let mut need = FLUSH_HEADER_LEN;
        loop {
            let position = walk.position();
            let damage = match walk.step(map.at(position, need)?) {
                Step::Short(len) if len > need => {
                    need = len;
                    continue;
                }
                Step::Flush(flush, body) => {
                    need = FLUSH_HEADER_LEN;
                    expected.snapshot = expected.snapshot.max(flush.snapshot);
                    match self.visitor.flush(&flush, body) {
                        Ok(ControlFlow::Continue(())) => {}
                        Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
                        Err(error) => {
                            self.damaged(&segment.path, position, &Damage::Body(error.to_string()));
                        }
                    }
                    continue;
                }
                Step::End(kind) => {
                    expected.take(&walk.end(kind));
                    break;
                }
                Step::Damaged(damage) => damage,
                step => {
                    let search = TailSearch::new(header, position, suspicion(step));
                    match search_tail(&mut map, search)?.decide(ending) {
                        Ok(torn_bytes) => {
                            expected.take(&walk.end(EndKind::Tail { torn_bytes }));
                            break;
                        }
                        Err(damage) => damage,
                    }
                }
            };
            self.damaged(&segment.path, position, &damage);
            let Some(next) = next_flush(&header, &mut map, position, ending)? else {
                expected.chain = Chain::unlinked(position);
                expected.end = position;
                break;
            };
            walk = Walk::new(header, Chain::unlinked(next), ending);
            need = FLUSH_HEADER_LEN;
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Expected {
    fn take(&mut self, end: &End) {
        self.chain = end.chain;
        self.end = end.chain.position;
        self.sealed = matches!(end.kind, EndKind::Sealed { .. }).then_some(end.kind);
        self.torn_bytes = if let EndKind::Tail { torn_bytes } = end.kind { torn_bytes } else { 0 };
    }
}

/// Why there is no flush to read.
fn suspicion(step: Step<'_>) -> FormatError {
    match step {
        Step::Suspect(reason) => reason,
        // The file is shorter than its header says.
        Step::Short(needed) => FormatError::Truncated { what: "flush", needed, have: 0 },
        Step::Flush(..) | Step::End(_) | Step::Damaged(_) => FormatError::Magic { what: "flush" },
    }
}

/// What a segment begins with.
fn first_flush(segment: &SegmentHeader, map: &mut MappedFile) -> Result<FirstFlush, OfflineError> {
    let mut at = segment.first_flush();
    if let Some(found) = FirstFlush::of_block(segment, map.at(at, ALIGN)?) {
        return Ok(found);
    }
    let end = at.plus(TAIL_BYTES).min(segment.end());
    while at < end {
        let bytes = blocks(map, at, end)?;
        if holds_flush(segment, at, bytes) {
            return Ok(FirstFlush::Other);
        }
        if bytes.is_empty() {
            break;
        }
        at = at.plus(align_up(bytes.len() as u64));
    }
    Ok(FirstFlush::Nothing)
}

/// Some blocks at `at`, none behind `end`; nothing at the end of the file.
fn blocks(map: &mut MappedFile, at: Position, end: Position) -> Result<&[u8], OfflineError> {
    let bytes = map.at(at, ALIGN)?;
    let len = usize::try_from(end.0.saturating_sub(at.0)).unwrap_or(usize::MAX);
    Ok(bytes.get(..len).unwrap_or(bytes))
}

fn search_tail(map: &mut MappedFile, mut search: TailSearch) -> Result<TailSearch, OfflineError> {
    let (mut at, end) = search.range();
    while at < end {
        let bytes = blocks(map, at, end)?;
        if bytes.is_empty() {
            break;
        }
        search.look(at, bytes);
        at = at.plus(align_up(bytes.len() as u64));
    }
    Ok(search)
}

/// The next flush behind `damaged` whose header is good.
fn next_flush(
    segment: &SegmentHeader,
    map: &mut MappedFile,
    damaged: Position,
    ending: Ending,
) -> Result<Option<Position>, OfflineError> {
    let end = match ending {
        Ending::At(end) => end.min(segment.end()),
        Ending::Open | Ending::Sealed => segment.end(),
    };
    let mut at = damaged.plus(BLOCK_BYTES);
    while at < end {
        let bytes = blocks(map, at, end)?;
        if bytes.is_empty() {
            break;
        }
        for block in bytes.chunks(ALIGN) {
            if header_at(segment, at, block).is_some() {
                return Ok(Some(at));
            }
            at = at.plus(BLOCK_BYTES);
        }
    }
    Ok(None)
}
