//! Answering a read from memory, or telling what is missing. No I/O, no waiting.
//!
//! **Invariants**: nothing past the durable end is given; each batch given has the queue and the offset that the index
//! promised; bytes that came from disk are under a checksum that was compared.

use equeue_record::{BatchHeader, BatchView, Offset, QueueKey, split_first};
use smallvec::SmallVec;

use super::core::Core;
use super::pending::window_after;
use super::{LogSlice, ReadBatches, ReadError};
use crate::cache::Span;
use crate::format::WINDOW_BYTES;
use crate::index::{Run, Search};
use crate::io::Io;
use crate::types::Position;

/// A read that has this part of what was asked for does not wait for the disk once more.
const ENOUGH_PART: usize = 4;
/// Windows read ahead of a sequential reader.
const READ_AHEAD_WINDOWS: usize = 4;
/// Runs looked at for read-ahead.
const READ_AHEAD_RUNS: usize = 256;

/// Windows by the position of their first byte.
pub(super) type Windows = SmallVec<[Position; READ_AHEAD_WINDOWS]>;

/// How far an answer has come.
pub(super) enum Gathered {
    /// The answer, and windows that a sequential reader will want next.
    Done(ReadBatches, Windows),
    /// The window that begins here must be read first.
    Window(Position),
    /// An index file must be asked where the offset lies.
    Index,
}

/// What a read brought into memory so far.
#[derive(Default)]
pub(super) struct Found {
    /// Windows, so that progress does not depend on the cache keeping them.
    pub(super) spans: Vec<Span>,
    /// Runs from an index file, in order.
    pub(super) runs: Vec<Run>,
    /// No index file knows the offset, or one behind it; true as long as this is the first run in memory.
    pub(super) not_indexed: Option<Position>,
}

struct Piece {
    slice: LogSlice,
    next: Offset,
}

impl<I: Io> Core<I> {
    /// Answers a read of `queue` from `offset` as far as memory goes.
    pub(super) fn gather(
        &mut self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
        found: &Found,
    ) -> Result<Gathered, ReadError> {
        let known = self.queues.open_mut(queue).ok_or(ReadError::NoQueue { queue })?;
        let (start, end) = (known.start, known.durable_end);
        if offset < start || offset > end {
            return Err(ReadError::OutOfRange { queue, offset, start, end });
        }
        let mut answer = ReadBatches { pieces: Vec::new(), bytes: 0, next_offset: offset };
        if offset == end {
            return Ok(Gathered::Done(answer, Windows::new()));
        }
        let is_sequential = known.read_to == offset;
        let search = Search::Offset(offset);
        // Taken out so that cache and queue can be used side by side; nothing in between looks at it.
        let in_memory = std::mem::take(&mut known.runs);
        let from_index = found.runs.get(found.runs.partition_point(|run| run.is_before(search))..);
        let gathered = match (in_memory.from(search), from_index) {
            (Some(runs), _) => self.gather_runs(queue, runs.copied(), bytes_max, found, &mut answer),
            (None, Some(runs)) if runs.first().is_some_and(|run| self.leads_to(run, offset)) => {
                self.gather_runs(queue, runs.iter().copied(), bytes_max, found, &mut answer)
            }
            // Runs that were in memory may have gone into an index meanwhile.
            (None, _) if found.not_indexed == Some(in_memory.first_position()) => {
                let runs = in_memory.in_memory_from(search).copied();
                self.gather_runs(queue, runs, bytes_max, found, &mut answer)
            }
            _ => Ok(Some(Gathered::Index)),
        };
        let mut ahead = Windows::new();
        if is_sequential && matches!(gathered, Ok(None)) {
            let next = Search::Offset(answer.next_offset);
            if let Some(runs) = in_memory.from(next) {
                self.windows_ahead(runs.copied(), &mut ahead);
            } else {
                let at = found.runs.partition_point(|run| run.is_before(next));
                self.windows_ahead(found.runs.iter().skip(at).copied(), &mut ahead);
            }
        }
        if let Some(known) = self.queues.get_mut(queue) {
            known.runs = in_memory;
            if matches!(gathered, Ok(None)) {
                known.read_to = answer.next_offset;
            }
        }
        if let Some(missing) = gathered? {
            return Ok(missing);
        }
        if answer.pieces.is_empty() {
            // Up to the end all was given up, and nothing came since.
            self.skip(answer.next_offset, end, self.durable_end)?;
            answer.next_offset = end;
        }
        Ok(Gathered::Done(answer, ahead))
    }

    /// Whether the run is what a reader of `offset` gets next: it has it, or what lay before it was given up.
    pub(super) fn leads_to(&self, run: &Run, offset: Offset) -> bool {
        run.base_offset <= offset || self.segments.has_gap_before(run.position)
    }

    /// Leads a reader past offsets that are not there any more; an error when none were given up before `position`.
    fn skip(&mut self, from: Offset, to: Offset, position: Position) -> Result<(), ReadError> {
        if !self.segments.has_gap_before(position) {
            return Err(self.damaged(position, format!("offsets {from}..{to} are missing")));
        }
        self.stats.offsets_skipped += to.0.saturating_sub(from.0);
        Ok(())
    }

    /// Adds the batches of run after run; `Some` when something must be brought into memory first.
    fn gather_runs(
        &mut self,
        queue: QueueKey,
        runs: impl Iterator<Item = Run>,
        bytes_max: usize,
        found: &Found,
        answer: &mut ReadBatches,
    ) -> Result<Option<Gathered>, ReadError> {
        for run in runs {
            let room = bytes_max.saturating_sub(answer.bytes);
            if room == 0 && answer.bytes > 0 {
                break;
            }
            let held = found.spans.iter().find(|span| span.range(run.position, run.bytes as usize).is_some());
            let span = held.cloned().or_else(|| self.cache.get(run.position, run.bytes as usize));
            let Some(span) = span else {
                if answer.bytes > bytes_max / ENOUGH_PART {
                    break;
                }
                return Ok(Some(Gathered::Window(window_of(run.position))));
            };
            let piece = cut(&span, queue, &run, answer.next_offset, room, answer.bytes == 0)
                .map_err(|reason| self.damaged(run.position, reason))?;
            let Some(piece) = piece else { break };
            if run.base_offset > answer.next_offset {
                self.skip(answer.next_offset, run.base_offset, run.position)?;
            }
            answer.bytes += piece.slice.range.len();
            answer.next_offset = piece.next;
            answer.pieces.push(piece.slice);
            if piece.next < run.next_offset() {
                break;
            }
        }
        Ok(None)
    }

    /// The next windows that hold these runs and are not in memory.
    fn windows_ahead(&self, runs: impl Iterator<Item = Run>, ahead: &mut Windows) {
        for run in runs.take(READ_AHEAD_RUNS) {
            let window = window_of(run.position);
            if ahead.len() == READ_AHEAD_WINDOWS {
                break;
            }
            if ahead.last() != Some(&window) && !self.cache.has(run.position, run.bytes as usize) {
                ahead.push(window);
            }
        }
    }

    pub(super) fn damaged(&self, position: Position, reason: String) -> ReadError {
        let segment = self.segments.containing(position).map_or(position, |segment| segment.header.position);
        ReadError::Damaged { path: self.dir.join(crate::format::segment_name(segment)), position, reason }
    }
}

/// The window that `position` lies in.
pub(super) fn window_of(position: Position) -> Position {
    Position(window_after(position).0 - WINDOW_BYTES)
}

/// The first batch of what is left of a run, and its length: the queue and offset that the index promised, under a
/// checksum that was compared, now or before.
pub(super) fn batch_of(
    rest: &[u8],
    (queue, next): (QueueKey, Offset),
    is_checked: bool,
) -> Result<(BatchHeader, usize), String> {
    let (header, len) = split_first(rest).map_err(|error| error.to_string())?;
    if !is_checked {
        BatchView::parse(rest).map_err(|error| error.to_string())?;
    }
    if header.queue_key != queue || header.base_offset != next {
        return Err(format!(
            "a batch of queue {} at offset {} where the index has queue {queue} at offset {next}",
            header.queue_key, header.base_offset
        ));
    }
    Ok((header, len))
}

/// The batches of a run from the one with offset `from` on, as many as fit into `room`; at least one if `at_least_one`.
fn cut(
    span: &Span,
    queue: QueueKey,
    run: &Run,
    from: Offset,
    room: usize,
    at_least_one: bool,
) -> Result<Option<Piece>, String> {
    let whole = span.range(run.position, run.bytes as usize).ok_or("bytes are not in memory")?;
    let memory = (*span.memory).as_ref();
    let is_checked = run.end() <= span.checked_to;
    let (mut begin, mut at, mut next) = (whole.start, whole.start, run.base_offset);
    while at < whole.end {
        let rest = memory.get(at..whole.end).unwrap_or_default();
        let (header, len) = batch_of(rest, (queue, next), is_checked)?;
        if header.next_offset() <= from {
            begin = at + len;
        } else if at + len - begin > room && !(at_least_one && at == begin) {
            break;
        }
        at += len;
        next = header.next_offset();
    }
    let slice = LogSlice { memory: std::rc::Rc::clone(&span.memory), range: begin..at };
    Ok((begin < at).then_some(Piece { slice, next }))
}
