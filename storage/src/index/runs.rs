//! The runs of one queue that are in memory. Pure.
//!
//! **Invariant**: runs are in order of offsets, so also in order of positions and times. Offsets are missing between them
//! only where a repair gave them up.

use std::collections::VecDeque;

use equeue_record::{BatchHeader, Offset};

use crate::types::Position;

/// The batches of one queue in one flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Offset of the first record.
    pub(crate) base_offset: Offset,
    /// Where the first batch begins.
    pub(crate) position: Position,
    /// Append time of the last batch.
    pub(crate) last_time_ms: i64,
    /// Records in all batches.
    pub(crate) record_count: u32,
    /// Bytes of all batches.
    pub(crate) bytes: u32,
}

/// What a run is looked for by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// The run that holds this offset.
    Offset(Offset),
    /// The first run whose last batch was appended at or after this time.
    Time(i64),
}

impl Run {
    /// A run with one batch so far.
    pub(crate) fn begin(header: &BatchHeader, position: Position) -> Self {
        Self {
            base_offset: header.base_offset,
            position,
            last_time_ms: header.append_time_ms,
            record_count: header.record_count,
            bytes: header.length,
        }
    }

    /// Adds the batch that follows. A run lies within a flush, so its sums do not overflow.
    pub(crate) fn extend(&mut self, header: &BatchHeader) {
        self.last_time_ms = header.append_time_ms;
        self.record_count = self.record_count.saturating_add(header.record_count);
        self.bytes = self.bytes.saturating_add(header.length);
    }

    /// The offset after the last record.
    pub(crate) const fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.record_count as u64)
    }

    /// The position after the last batch.
    pub(crate) const fn end(&self) -> Position {
        self.position.plus(self.bytes as u64)
    }

    /// Whether the run looked for lies further on.
    pub(crate) fn is_before(&self, search: Search) -> bool {
        match search {
            Search::Offset(offset) => self.next_offset() <= offset,
            Search::Time(time_ms) => self.last_time_ms < time_ms,
        }
    }
}

/// The runs of a queue in memory.
#[derive(Debug, Default)]
pub(crate) struct QueueRuns {
    runs: VecDeque<Run>,
}

impl QueueRuns {
    /// Adds the newest run.
    pub(crate) fn push(&mut self, run: Run) {
        debug_assert!(self.runs.back().is_none_or(|last| last.next_offset() <= run.base_offset));
        self.runs.push_back(run);
    }

    /// Runs in memory.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// The first run, if any.
    pub(crate) fn first(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Where the first run lies; behind everything when there is none.
    pub(crate) fn first_position(&self) -> Position {
        self.runs.front().map_or(Position(u64::MAX), |run| run.position)
    }

    /// The runs from the one looked for on. `None` when it may lie before those in memory.
    pub(crate) fn from(&self, search: Search) -> Option<impl Iterator<Item = &Run>> {
        let at = self.runs.partition_point(|run| run.is_before(search));
        let reaches_back = match search {
            Search::Offset(offset) => self.runs.front().is_some_and(|first| first.base_offset <= offset),
            Search::Time(_) => at > 0,
        };
        reaches_back.then(|| self.runs.range(at..))
    }

    /// All runs in memory from the one looked for on, whatever lies before them.
    pub(crate) fn in_memory_from(&self, search: Search) -> impl Iterator<Item = &Run> {
        let at = self.runs.partition_point(|run| run.is_before(search));
        self.runs.range(at..)
    }

    /// The runs that lie in `from..to`.
    pub(crate) fn within(&self, from: Position, to: Position) -> impl Iterator<Item = &Run> {
        let begin = self.runs.partition_point(|run| run.position < from);
        let end = self.runs.partition_point(|run| run.position < to);
        self.runs.range(begin..end.max(begin))
    }

    /// Forgets the runs before `position`: their segment has an index file. Gives their number.
    pub(crate) fn forget_before(&mut self, position: Position) -> usize {
        let count = self.runs.partition_point(|run| run.position < position);
        self.runs.drain(..count);
        if self.runs.is_empty() {
            self.runs = VecDeque::new();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> QueueRuns {
        let mut runs = QueueRuns::default();
        for n in 0..4_u64 {
            runs.push(Run {
                base_offset: Offset(100 + n * 10),
                position: Position(n * 1000),
                last_time_ms: 50 + i64::try_from(n).unwrap() * 10,
                record_count: 10,
                bytes: 500,
            });
        }
        runs
    }

    /// What is found: the offset of a run, nothing (`-`), or that it may lie before what is in memory (`?`).
    fn found(runs: &QueueRuns, search: Search) -> String {
        match runs.from(search).map(|mut found| found.next().map(|run| run.base_offset)) {
            Some(Some(offset)) => offset.to_string(),
            Some(None) => "-".to_owned(),
            None => "?".to_owned(),
        }
    }

    #[test]
    fn by_offset() {
        let runs = runs();
        let offset = |offset| found(&runs, Search::Offset(Offset(offset)));
        assert_eq!([offset(99), offset(100), offset(119), offset(140)], ["?", "100", "110", "-"]);
        assert!(QueueRuns::default().from(Search::Offset(Offset(0))).is_none());
    }

    #[test]
    fn by_time() {
        let runs = runs();
        let time = |time_ms| found(&runs, Search::Time(time_ms));
        assert_eq!(
            [time(50), time(51), time(81)],
            ["?", "110", "-"],
            "an older segment may end with time 50 too"
        );
    }

    #[test]
    fn by_segment() {
        let mut runs = runs();
        let within: Vec<_> = runs.within(Position(1000), Position(3000)).map(|run| run.position.0).collect();
        assert_eq!(within, [1000, 2000]);
        assert_eq!(runs.forget_before(Position(3000)), 3);
        assert_eq!(runs.first().unwrap().position, Position(3000));
    }
}
