//! How far the handlers of one queue have come: the lowest offset not yet handled. Pure.

use std::collections::BTreeSet;

use equeue_record::Offset;

/// Offsets at work. **Invariant**: everything before [`Progress::handled`] is handled.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Begun and not done.
    running: BTreeSet<Offset>,
    /// After everything begun.
    next: Offset,
}

impl Progress {
    /// A handler begins. Offsets are begun in their order.
    pub(crate) fn begin(&mut self, offset: Offset) {
        self.running.insert(offset);
        self.next = self.next.max(offset.plus(1));
    }

    /// A handler is done; in any order.
    pub(crate) fn done(&mut self, offset: Offset) {
        self.running.remove(&offset);
    }

    /// Nothing before `next` is left to begin: a filter left the rest out, or another way of receiving took it.
    pub(crate) fn skip_to(&mut self, next: Offset) {
        self.next = self.next.max(next);
    }

    /// The lowest offset that is not handled.
    pub(crate) fn handled(&self) -> Offset {
        self.running.first().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_one_at_work_holds_the_offset() {
        let mut progress = Progress::default();
        assert_eq!(progress.handled(), Offset(0));
        for offset in [5, 6, 9] {
            progress.begin(Offset(offset));
        }
        progress.done(Offset(6));
        progress.done(Offset(9));
        assert_eq!(progress.handled(), Offset(5));
        progress.done(Offset(5));
        assert_eq!(progress.handled(), Offset(10));
        progress.begin(Offset(12));
        progress.skip_to(Offset(20));
        assert_eq!(progress.handled(), Offset(12));
        progress.done(Offset(12));
        assert_eq!(progress.handled(), Offset(20));
    }
}
