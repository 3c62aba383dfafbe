//! How far the handlers of one queue have come: the lowest offset not yet handled. Pure.

use std::collections::BTreeMap;

use equeue_record::Offset;

/// Offsets at work. **Invariants**: everything before [`Progress::handled`] is handled; the holes lie apart, below
/// `next`. Memory grows with the number of holes (handlers at work), not of messages.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Begun and not done: first offset and the one after the last.
    holes: BTreeMap<Offset, Offset>,
    /// After everything begun.
    next: Offset,
}

impl Progress {
    /// Everything before `start` is handled.
    pub(crate) fn from(start: Offset) -> Self {
        Self { holes: BTreeMap::new(), next: start }
    }

    /// Handlers begin with everything from here to before `end`; ranges are begun in their order.
    pub(crate) fn begin(&mut self, first: Offset, end: Offset) {
        let first = first.max(self.next);
        if first < end {
            self.holes.insert(first, end);
            self.next = end;
        }
    }

    /// Handlers are done with these; in any order.
    pub(crate) fn done(&mut self, first: Offset, end: Offset) {
        // The holes that the range touches, from the last one that begins before its end.
        while let Some((&hole, &hole_end)) = self.holes.range(..end).next_back() {
            if hole_end <= first {
                break;
            }
            self.holes.remove(&hole);
            if hole_end > end {
                self.holes.insert(end, hole_end);
            }
            if hole < first {
                self.holes.insert(hole, first);
                break;
            }
        }
    }

    /// Nothing before `next` is left to begin: a filter left the rest out, or another way of receiving took it.
    pub(crate) fn skip_to(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// The lowest offset that is not handled.
    pub(crate) fn handled(&self) -> Offset {
        self.holes.first_key_value().map_or(self.next, |(first, _)| *first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn one(offset: u64) -> (Offset, Offset) {
        (Offset(offset), Offset(offset + 1))
    }

    #[test]
    fn the_lowest_one_at_work_holds_the_offset() {
        let mut progress = Progress::default();
        assert_eq!(progress.handled(), Offset(0));
        for offset in [5, 6, 9] {
            progress.begin(one(offset).0, one(offset).1);
        }
        progress.done(one(6).0, one(6).1);
        progress.done(one(9).0, one(9).1);
        assert_eq!(progress.handled(), Offset(5));
        progress.done(one(5).0, one(5).1);
        assert_eq!(progress.handled(), Offset(10));
        progress.begin(one(12).0, one(12).1);
        progress.skip_to(Offset(20));
        assert_eq!(progress.handled(), Offset(12));
        progress.done(one(12).0, one(12).1);
        assert_eq!(progress.handled(), Offset(20));
    }

    proptest! {
        /// Against a set of offsets.
        #[test]
        fn ranges_are_sets_of_offsets(steps in prop::collection::vec((any::<bool>(), 0_u64..30, 1_u64..8), 1..60)) {
            let (mut progress, mut open, mut next) = (Progress::default(), BTreeSet::new(), 0);
            for (begin, first, length) in steps {
                if begin {
                    // From a few after the last one begun on.
                    let (from, to) = (next + first % 3, next + first % 3 + length);
                    progress.begin(Offset(from), Offset(to));
                    open.extend(from..to);
                    next = to;
                } else {
                    let from = next.saturating_sub(first);
                    progress.done(Offset(from), Offset(from + length));
                    open.retain(|offset| !(from..from + length).contains(offset));
                }
                prop_assert_eq!(progress.handled().0, open.first().copied().unwrap_or(next));
            }
        }
    }
}
