//! What was appended and waits for a flush, and where the next flush may lie. Pure.
//!
//! **Invariants**: appends leave in the order they came, so the durable ticket only grows; the items of one unit (one
//! ticket) leave together, so an atomic append is in one flush; a flush never crosses a window and always leaves room
//! for SEAL at the end of its segment.

use std::collections::VecDeque;

use bytes::Bytes;
use equeue_record::{Offset, QueueKey};

use crate::format::{BLOCK_BYTES, FLUSH_HEADER_LEN, WINDOW_BYTES};
use crate::types::Position;

/// A batch that waits.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) queue: QueueKey,
    pub(crate) batch: Bytes,
    pub(crate) base_offset: Offset,
    pub(crate) append_time_ms: i64,
    pub(crate) record_count: u32,
    /// Checksum of the batch behind the broker's part, checked when it came.
    pub(crate) producer_crc: u32,
    /// The last item of its unit.
    pub(crate) ends_unit: bool,
}

/// Appends in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    items: VecDeque<Item>,
    bytes: usize,
}

/// Where the next flush goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Here, with a body of at most so many bytes.
    Here {
        /// Longest body.
        body_max: usize,
    },
    /// Not in the rest of this window: a flush without a body must span it.
    NextWindow,
    /// Not in the rest of this segment.
    NextSegment,
}

impl Pending {
    pub(crate) fn push(&mut self, item: Item) {
        self.bytes += item.batch.len();
        self.items.push_back(item);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of all batches.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the first unit; `None` when nothing waits.
    pub(crate) fn first_unit_bytes(&self) -> Option<usize> {
        self.unit_at(0).map(|(_, bytes)| bytes)
    }

    /// Moves as many whole units as fit into `body_max` bytes to `out`; gives their number.
    pub(crate) fn take(&mut self, body_max: usize, out: &mut Vec<Item>) -> u64 {
        let (mut units, mut bytes, mut items) = (0, 0, 0);
        while let Some((count, unit_bytes)) = self.unit_at(items)
            && bytes + unit_bytes <= body_max
        {
            units += 1;
            bytes += unit_bytes;
            items += count;
        }
        self.bytes -= bytes;
        out.extend(self.items.drain(..items));
        units
    }

    /// Items and bytes of the unit that begins at item `index`.
    fn unit_at(&self, index: usize) -> Option<(usize, usize)> {
        let mut bytes = 0;
        for (count, item) in self.items.range(index.min(self.items.len())..).enumerate() {
            bytes += item.batch.len();
            if item.ends_unit {
                return Some((count + 1, bytes));
            }
        }
        None
    }
}

/// Bytes that a flush with such a body takes: header, body, padding.
pub(crate) const fn written_len(body_len: usize) -> usize {
    (FLUSH_HEADER_LEN + body_len).next_multiple_of(BLOCK)
}

/// Where a flush whose first unit has `first_unit` bytes may begin, when the log stands at `position` in a segment
/// that ends at `segment_end`.
pub(crate) fn room(position: Position, segment_end: Position, first_unit: usize, flush_max: usize) -> Room {
    let window_end = window_after(position);
    let usable = usable_end(window_end, segment_end).saturating_sub(position.0);
    let needed = written_len(first_unit) as u64;
    if needed <= usable {
        let room = usize::try_from(usable).unwrap_or(usize::MAX).min(flush_max.max(written_len(first_unit)));
        Room::Here { body_max: room - FLUSH_HEADER_LEN }
    } else if window_end < segment_end {
        Room::NextWindow
    } else {
        Room::NextSegment
    }
}

/// Where the flush after one that ends at `end` begins: the next window when what waits (`next_unit`) does not fit into
/// the rest of this one, so that the flush before can span it.
pub(crate) fn next_begin(end: Position, segment_end: Position, next_unit: Option<usize>) -> Position {
    if end.0.is_multiple_of(WINDOW_BYTES) {
        return end;
    }
    match next_unit.map(|bytes| room(end, segment_end, bytes, 0)) {
        Some(Room::NextWindow) => window_after(end),
        _ => end,
    }
}

/// End of the window that `position` lies in.
pub(crate) const fn window_after(position: Position) -> Position {
    Position(position.0 - position.0 % WINDOW_BYTES + WINDOW_BYTES)
}

fn usable_end(window_end: Position, segment_end: Position) -> u64 {
    window_end.0.min(segment_end.0 - BLOCK_BYTES)
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BLOCK: usize = BLOCK_BYTES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = WINDOW_BYTES;

    fn item(bytes: usize, ends_unit: bool) -> Item {
        Item {
            queue: QueueKey(1),
            batch: Bytes::from(vec![0; bytes]),
            base_offset: Offset(0),
            append_time_ms: 0,
            record_count: 1,
            producer_crc: 0,
            ends_unit,
        }
    }

    #[test]
    fn units_are_taken_whole_and_in_order() {
        let mut pending = Pending::default();
        for (bytes, ends) in [(10, true), (20, false), (30, true), (40, true)] {
            pending.push(item(bytes, ends));
        }
        let mut out = Vec::new();
        assert_eq!(pending.take(59, &mut out), 1, "the atomic unit of 50 bytes does not fit in what is left");
        assert_eq!(pending.first_unit_bytes(), Some(50));
        assert_eq!(pending.take(90, &mut out), 2);
        assert_eq!(out.iter().map(|item| item.batch.len()).collect::<Vec<_>>(), [10, 20, 30, 40]);
        assert_eq!((pending.bytes(), pending.is_empty()), (0, true));
    }

    #[test]
    fn a_flush_ends_with_its_window() {
        let end = Position(16 * MIB);
        assert_eq!(room(Position(MIB), end, 1, 1 << 20), Room::Here { body_max: (1 << 20) - 128 });
        assert_eq!(room(Position(MIB + 4096), end, (1 << 20) - 4096, 1 << 20), Room::NextWindow);
        assert_eq!(
            room(Position(MIB), end, (1 << 20) - 4096, 1 << 20),
            Room::Here { body_max: (1 << 20) - 128 }
        );
    }

    #[test]
    fn the_last_block_is_kept_for_seal() {
        let end = Position(2 * MIB);
        assert_eq!(room(Position(2 * MIB - 4096), end, 1, 1 << 20), Room::NextSegment);
        assert_eq!(room(Position(2 * MIB - 8192), end, 1, 1 << 20), Room::Here { body_max: 4096 - 128 });
        assert_eq!(room(Position(2 * MIB - 8192), end, 4096, 1 << 20), Room::NextSegment);
    }

    #[test]
    fn the_cap_is_soft_only_for_a_single_unit() {
        let end = Position(16 * MIB);
        assert_eq!(room(Position(MIB), end, 100, 8192), Room::Here { body_max: 8192 - 128 });
        assert_eq!(room(Position(MIB), end, 9000, 8192), Room::Here { body_max: 12288 - 128 });
    }

    #[test]
    fn the_flush_before_spans_what_the_next_cannot_use() {
        let end = Position(16 * MIB);
        assert_eq!(next_begin(Position(MIB + 8192), end, Some(1 << 20)), Position(2 * MIB));
        assert_eq!(next_begin(Position(MIB + 8192), end, Some(1 << 10)), Position(MIB + 8192));
        assert_eq!(next_begin(Position(MIB + 8192), end, None), Position(MIB + 8192));
        assert_eq!(next_begin(Position(2 * MIB), end, Some(1 << 20)), Position(2 * MIB));
    }
}
