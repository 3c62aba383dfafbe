//! Flushes of one file in the order of their positions: which may begin, and up to where all are synced. Pure.
//!
//! A flush says after which position it begins: when everything before that is synced. So it can be built and handed over
//! while those before it are under way, and whoever ends one goes on with the next at once. What its header says of those
//! before it is known only when it begins.
//! **Invariants**: `synced_to` is the end of the gap-free prefix of flushes whose own syncs ended well; nothing begins before
//! its `after` is reached; after a failure nothing begins any more.

use std::collections::VecDeque;
use std::io;

use super::FlushWrite;
use crate::types::Position;

/// Where a flush stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Everything before this is synced when it begins.
    after: Position,
    /// Where the next flush begins; no other flush of the log has the same.
    next: Position,
    /// Its end says something of what is synced.
    sync: bool,
}

impl Place {
    pub(super) fn of<B>(flush: &FlushWrite<B>) -> Self {
        Self { after: flush.after, next: flush.header.next(), sync: flush.sync }
    }
}

/// A flush whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn<J> {
    pub(super) place: Place,
    pub(super) job: J,
    /// Everything before this is synced.
    pub(super) synced_to: Position,
}

/// See the file's own text. `J`: what begins.
#[derive(Debug)]
pub(super) struct Line<J> {
    /// The first of them, if any, has not ended well.
    begun: VecDeque<Begun>,
    waiting: VecDeque<(Place, J)>,
    synced_to: Position,
    failed: bool,
}

#[derive(Debug)]
struct Begun {
    place: Place,
    ended: bool,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Self { begun: VecDeque::new(), waiting: VecDeque::new(), synced_to: Position(0), failed: false }
    }
}

impl<J> Line<J> {
    /// Takes its place behind all others.
    pub(super) fn join(&mut self, place: Place, job: J) {
        self.waiting.push_back((place, job));
    }

    /// The next one that may begin now, and is begun with that.
    pub(super) fn begin(&mut self) -> Option<Turn<J>> {
        if self.failed || self.waiting.front().is_none_or(|(place, _)| place.after > self.synced_to) {
            return None;
        }
        let (place, job) = self.waiting.pop_front()?;
        self.begun.push_back(Begun { place, ended: false });
        Some(Turn { place, job, synced_to: self.synced_to })
    }

    /// One that was begun ended; `whole`: all of it was written, and synced where it was to be. Whether that is believed:
    /// two syncs of one file may be under way, and an error is told to one of them, so after a failure none is.
    pub(super) fn end(&mut self, ended: Place, whole: bool) -> bool {
        if !whole || self.failed {
            self.failed = true;
            return false;
        }
        if let Some(begun) = self.begun.iter_mut().find(|begun| begun.place == ended) {
            begun.ended = true;
        }
        while self.begun.front().is_some_and(|begun| begun.ended) {
            if let Some(Begun { place, .. }) = self.begun.pop_front()
                && place.sync
            {
                self.synced_to = place.next;
            }
        }
        true
    }

    /// Those that never begin, once one failed.
    pub(super) fn refused(&mut self) -> impl Iterator<Item = J> {
        let refused = if self.failed { std::mem::take(&mut self.waiting) } else { VecDeque::new() };
        refused.into_iter().map(|(_, job)| job)
    }
}

/// Why one that waited was not written.
pub(super) fn not_begun() -> io::Error {
    io::Error::other("not begun, because a flush before it failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(after: u64, next: u64) -> Place {
        Place { after: Position(after), next: Position(next), sync: true }
    }

    fn line(places: &[(Place, char)]) -> Line<char> {
        let mut line = Line::default();
        for (place, job) in places {
            line.join(*place, *job);
        }
        line
    }

    /// What may begin, all of it, and what it is told.
    fn begin_all(line: &mut Line<char>) -> Vec<(char, u64)> {
        std::iter::from_fn(|| line.begin()).map(|turn| (turn.job, turn.synced_to.0)).collect()
    }

    #[test]
    fn one_after_the_other() {
        let (a, b, c) = (place(0, 10), place(10, 20), place(20, 30));
        let mut line = line(&[(a, 'a')]);
        assert_eq!(begin_all(&mut line), [('a', 0)]);
        line.join(b, 'b');
        line.join(c, 'c');
        assert_eq!(begin_all(&mut line), []);
        line.end(a, true);
        assert_eq!(begin_all(&mut line), [('b', 10)]);
        line.end(b, true);
        assert_eq!(begin_all(&mut line), [('c', 20)]);
    }

    #[test]
    fn one_that_ends_before_its_predecessor_lets_nobody_begin() {
        let (a, b, c, d) = (place(0, 10), place(0, 20), place(10, 30), place(20, 40));
        let mut line = line(&[(a, 'a'), (b, 'b'), (c, 'c'), (d, 'd')]);
        assert_eq!(begin_all(&mut line), [('a', 0), ('b', 0)]);
        line.end(b, true);
        assert_eq!(begin_all(&mut line), [], "the sync of b does not speak for a");
        line.end(a, true);
        assert_eq!(begin_all(&mut line), [('c', 20), ('d', 20)], "both know of b");
    }

    #[test]
    fn one_that_was_not_synced_says_nothing() {
        let unsynced = |next| Place { sync: false, ..place(0, next) };
        let mut line = line(&[(unsynced(10), 'a'), (place(0, 20), 'b')]);
        assert_eq!(begin_all(&mut line), [('a', 0), ('b', 0)]);
        line.end(unsynced(10), true);
        line.join(unsynced(30), 'c');
        assert_eq!(begin_all(&mut line), [('c', 0)]);
        line.end(place(0, 20), true);
        line.join(unsynced(40), 'd');
        assert_eq!(begin_all(&mut line), [('d', 20)]);
    }

    #[test]
    fn nothing_begins_after_one_that_failed() {
        let (a, b, c, d) = (place(0, 10), place(0, 20), place(10, 30), place(20, 40));
        for (failed, other) in [(a, b), (b, a)] {
            let mut line = line(&[(a, 'a'), (b, 'b'), (c, 'c'), (d, 'd')]);
            assert_eq!(begin_all(&mut line), [('a', 0), ('b', 0)]);
            assert_eq!(line.refused().count(), 0);
            line.end(failed, false);
            line.end(other, true);
            assert_eq!(begin_all(&mut line), []);
            assert_eq!(line.refused().collect::<String>(), "cd");
            line.join(place(0, 50), 'e');
            assert_eq!(begin_all(&mut line), []);
            assert_eq!(line.refused().collect::<String>(), "e");
        }
    }
}
