//! The segments of an open log, oldest first. Pure.

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
}

/// All segments that flushes were written to. **Invariant**: each begins where the one before has its last byte.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    list: Vec<Segment>,
}

impl Segments {
    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(self.list.last().is_none_or(|last| last.header.end() == segment.header.position));
        self.list.push(segment);
    }

    pub(crate) fn first(&self) -> Option<&Segment> {
        self.list.first()
    }

    pub(crate) fn last(&self) -> Option<&Segment> {
        self.list.last()
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut Segment> {
        self.list.last_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Segment> {
        self.list.get(index)
    }

    /// The segment with the byte at `position`.
    pub(crate) fn containing(&self, position: Position) -> Option<&Segment> {
        let after = self.list.partition_point(|segment| segment.header.position <= position);
        let segment = self.list.get(after.checked_sub(1)?)?;
        (position < segment.header.end()).then_some(segment)
    }

    /// Segments whose index is still to be written, the active one not counted.
    pub(crate) fn first_unindexed(&self) -> Option<&Segment> {
        let (_, closed) = self.list.split_last()?;
        closed.iter().find(|segment| !segment.indexed)
    }

    /// The segment at `position` has its index file now.
    pub(crate) fn set_indexed(&mut self, position: Position) {
        if let Some(segment) = self.list.iter_mut().find(|segment| segment.header.position == position) {
            segment.indexed = true;
        }
    }

    /// Number of segments that begin before `position` and have their index file.
    pub(crate) fn before(&self, position: Position) -> usize {
        self.list.iter().take_while(|segment| segment.indexed && segment.header.position < position).count()
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
            };
            segments.push(Segment { header, end: header.end(), indexed: n == 2 });
        }
        assert!(segments.containing(Position((2 << 20) - 1)).is_none());
        assert!(segments.containing(Position(5 << 20)).is_none());
        assert_eq!(segments.containing(Position((3 << 20) + 5)).unwrap().header.position, Position(3 << 20));
        assert_eq!(segments.first_unindexed().unwrap().header.position, Position(3 << 20));
        segments.set_indexed(Position(3 << 20));
        assert!(segments.first_unindexed().is_none(), "the active one gets its index once it is sealed");
        assert_eq!(segments.before(Position(u64::MAX)), 2);
        assert_eq!(segments.before(Position(3 << 20)), 1);
    }
}
