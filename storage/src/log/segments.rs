//! The segments of an open log, oldest first. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use crate::format::SegmentHeader;
use crate::types::Position;

/// A segment that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// Where its flushes end; what lies behind is no part of the log. Not kept for the active one.
    pub(crate) end: Position,
    /// It has an index file, so its runs need not be in memory.
    pub(crate) indexed: bool,
    /// Append time of its last message, or a later one; `None`: not known yet.
    pub(crate) last_ms: Option<i64>,
    /// Bytes that it takes on disk: less than its size once the blocks behind its end were given back.
    pub(crate) stored_bytes: u64,
}

impl Segment {
    /// Whether blocks of it were given back to the file system.
    pub(crate) const fn is_partial(&self) -> bool {
        self.stored_bytes < self.header.bytes
    }
}

/// All segments that flushes were written to. **Invariant**: each begins where the one before has its last byte.
///
/// Each has a *number* that stays the same when older ones are retired.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: VecDeque<Segment>,
    /// Number of the first.
    retired: usize,
}

impl Segments {
    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(self.list.back().is_none_or(|last| last.header.end() == segment.header.position));
        self.list.push_back(segment);
    }

    pub(crate) fn first(&self) -> Option<&Segment> {
        self.list.front()
    }

    pub(crate) fn last(&self) -> Option<&Segment> {
        self.list.back()
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Segment> {
        self.list.back_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The segment of this number; `None` when it is retired, or not there yet.
    pub(crate) fn get(&self, number: usize) -> Option<&Segment> {
        self.list.get(number.checked_sub(self.retired)?)
    }

    /// The oldest one and the one after it, unless it is the newest.
    pub(crate) fn oldest_closed(&self) -> Option<(&Segment, &Segment)> {
        Some((self.list.front()?, self.list.get(1)?))
    }

    /// The oldest one is retired.
    pub(crate) fn retire(&mut self) -> Option<Segment> {
        let segment = self.list.pop_front()?;
        self.retired += 1;
        Some(segment)
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.list.iter()
    }

    /// The segment at `position`, to change what is known of it.
    pub(crate) fn at_mut(&mut self, position: Position) -> Option<&mut Segment> {
        self.list.iter_mut().find(|segment| segment.header.position == position)
    }

    /// The segment with the byte at `position`.
    pub(crate) fn containing(&self, position: Position) -> Option<&Segment> {
        let after = self.list.partition_point(|segment| segment.header.position <= position);
        let segment = self.list.get(after.checked_sub(1)?)?;
        (position < segment.header.end()).then_some(segment)
    }

    /// Whether offsets of a queue may be missing in front of what lies at `position`: only where a repair gave up
    /// something before it. Anywhere else a hole is damage.
    pub(crate) fn has_gap_before(&self, position: Position) -> bool {
        let before = self.list.iter().take_while(|segment| segment.header.position < position);
        before.into_iter().any(|segment| segment.header.has_gaps)
    }

    /// Segments whose index is still to be written, the active one not counted.
    pub(crate) fn first_unindexed(&self) -> Option<&Segment> {
        let closed = self.list.len().checked_sub(1)?;
        self.list.iter().take(closed).find(|segment| !segment.indexed)
    }

    /// The segment at `position` has its index file now.
    pub(crate) fn set_indexed(&mut self, position: Position) {
        if let Some(segment) = self.at_mut(position) {
            segment.indexed = true;
        }
    }

    /// Numbers of the segments that begin before `position` and have their index file.
    pub(crate) fn before(&self, position: Position) -> Range<usize> {
        let indexed = |segment: &&Segment| segment.indexed && segment.header.position < position;
        self.retired..self.retired + self.list.iter().take_while(indexed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Salt;
    use crate::types::LogId;

    #[test]
    fn the_right_segment_is_found() {
        let mut segments = Segments::default();
        for n in 2..5_u64 {
            let header = SegmentHeader {
                log: LogId(0),
                position: Position(n << 20),
                bytes: 1 << 20,
                salt: Salt::from_bits(n),
                created_ms: 0,
                has_gaps: false,
            };
            segments.push(Segment {
                header,
                end: header.end(),
                indexed: n == 2,
                last_ms: None,
                stored_bytes: header.bytes,
            });
        }
        assert!(segments.containing(Position((2 << 20) - 1)).is_none());
        assert!(segments.containing(Position(5 << 20)).is_none());
        assert_eq!(segments.containing(Position((3 << 20) + 5)).unwrap().header.position, Position(3 << 20));
        assert_eq!(segments.first_unindexed().unwrap().header.position, Position(3 << 20));
        segments.set_indexed(Position(3 << 20));
        assert!(segments.first_unindexed().is_none(), "the active one gets its index once it is sealed");
        assert_eq!(segments.before(Position(u64::MAX)), 0..2);
        assert_eq!(segments.before(Position(3 << 20)), 0..1);
        // Numbers stay when the oldest goes.
        let third = *segments.get(2).unwrap();
        assert_eq!(segments.retire().unwrap().header.position, Position(2 << 20));
        assert_eq!((segments.get(0), segments.get(2)), (None, Some(&third)));
        assert_eq!(segments.before(Position(u64::MAX)), 1..2);
    }
}
