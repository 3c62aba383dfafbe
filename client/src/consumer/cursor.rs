//! Where the fetching of one queue stands. Pure.
//!
//! The next fetch leaves before the answer to the last one was checked and handed on, and a queue may meanwhile be
//! moved to another fetcher, sought or reset. **Invariant**: what is accepted is dense from `handed` on: an answer
//! counts only when nothing has changed the course since it was asked for.

use equeue_record::Offset;

/// A fetch of a queue, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// First offset wanted.
    pub offset: Offset,
    course: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Where the next fetch begins.
    next: Offset,
    /// After everything that was handed on.
    handed: Offset,
    /// Raised by each change of the course: answers to fetches of an older one are dropped.
    course: u32,
}

impl Cursor {
    /// Begins here.
    pub(crate) const fn at(offset: Offset) -> Self {
        Self { next: offset, handed: offset, course: 0 }
    }

    /// A fetch leaves.
    pub(crate) const fn ask(&self) -> Asked {
        Asked { offset: self.next, course: self.course }
    }

    /// An answer came that reaches to `next`; the next fetch may leave from there. Whether it counts.
    pub(crate) fn answered(&mut self, asked: Asked, next: Offset) -> bool {
        let counts = self.counts(asked);
        if counts {
            self.next = self.next.max(next);
        }
        counts
    }

    /// Something that was asked for is handed on, up to `end`; whether it counts.
    pub(crate) fn hand(&mut self, asked: Asked, end: Offset) -> bool {
        let counts = self.counts(asked) && end > self.handed;
        if counts {
            self.handed = end;
            self.next = self.next.max(end);
        }
        counts
    }

    /// Whether the course is still the one that this was asked on.
    pub(crate) const fn counts(&self, asked: Asked) -> bool {
        self.course == asked.course
    }

    /// What is on the way is dropped; fetching goes on after what was handed on.
    pub(crate) fn back(&mut self) {
        self.turn_to(self.handed);
    }

    /// What is on the way is dropped; fetching goes on here.
    pub(crate) fn turn_to(&mut self, offset: Offset) {
        self.next = offset;
        self.handed = offset;
        self.course = self.course.wrapping_add(1);
    }

    /// After everything that was handed on.
    pub(crate) const fn handed(&self) -> Offset {
        self.handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_an_older_course_are_dropped() {
        let mut cursor = Cursor::at(Offset(10));
        let first = cursor.ask();
        assert!(cursor.answered(first, Offset(20)));
        // The next one leaves before the first is handed on.
        let second = cursor.ask();
        assert_eq!(second.offset, Offset(20));
        // A batch of the first is damaged after 15: the second must not leave a gap.
        assert!(cursor.hand(first, Offset(15)));
        cursor.back();
        assert!(!cursor.answered(second, Offset(30)) && !cursor.hand(second, Offset(30)));
        assert_eq!(cursor.ask().offset, Offset(15));
    }

    #[test]
    fn a_queue_that_moves_repeats_nothing_and_leaves_nothing_out() {
        let mut cursor = Cursor::at(Offset(0));
        let old = cursor.ask();
        assert!(cursor.answered(old, Offset(9)));
        cursor.back();
        let new = cursor.ask();
        assert_eq!(new.offset, Offset(0), "what was not handed on is asked for again");
        assert!(!cursor.hand(old, Offset(9)), "and counts only once");
        assert!(cursor.answered(new, Offset(9)) && cursor.hand(new, Offset(9)));
        assert!(!cursor.hand(new, Offset(9)), "an offset is handed on once");
        cursor.turn_to(Offset(4));
        assert_eq!((cursor.ask().offset, cursor.handed()), (Offset(4), Offset(4)));
    }
}
