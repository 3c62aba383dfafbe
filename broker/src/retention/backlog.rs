//! What groups have still to consume of what goes by the ages of topics: counted, and warned of now and then. What goes
//! with segments is the log's to count.

use std::cell::Cell;

use equeue_record::Offset;

/// Time between two warnings of a kind, ms.
const WARN_MS: u64 = 60_000;

/// The counts of one log.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Messages that went.
    pub(crate) deleted: Cell<u64>,
    /// Messages that were near the end of their topic's age.
    pub(crate) near: Cell<u64>,
    deleted_warned: Cell<Option<u64>>,
    near_warned: Cell<Option<u64>>,
}

impl Backlog {
    /// Counts what goes; whether a warning is due.
    pub(super) fn add_deleted(&self, messages: u64, now_ms: u64) -> bool {
        add(&self.deleted, &self.deleted_warned, messages, now_ms)
    }

    /// Counts what will go soon; whether a warning is due.
    pub(super) fn add_near(&self, messages: u64, now_ms: u64) -> bool {
        add(&self.near, &self.near_warned, messages, now_ms)
    }
}

fn add(count: &Cell<u64>, warned: &Cell<Option<u64>>, messages: u64, now_ms: u64) -> bool {
    count.set(count.get().saturating_add(messages));
    let is_due = messages > 0 && warned.get().is_none_or(|at| now_ms.saturating_sub(at) >= WARN_MS);
    if is_due {
        warned.set(Some(now_ms));
    }
    is_due
}

/// Messages of `from..to` that a group has still to consume which has consumed everything before `first`.
pub(super) fn unconsumed(from: Offset, to: Offset, first: Option<Offset>) -> u64 {
    first.map_or(0, |first| to.0.saturating_sub(first.max(from).0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_consumed_or_gone_is_not_counted() {
        let count = |from, to, first: Option<u64>| unconsumed(Offset(from), Offset(to), first.map(Offset));
        assert_eq!(count(2, 10, None), 0);
        assert_eq!(count(2, 10, Some(0)), 8);
        assert_eq!(count(2, 10, Some(7)), 3);
        assert_eq!((count(2, 10, Some(10)), count(2, 10, Some(99)), count(10, 2, Some(0))), (0, 0, 0));
    }

    #[test]
    fn everything_is_counted_and_a_warning_comes_once_a_minute() {
        let backlog = Backlog::default();
        assert!(!backlog.add_deleted(0, 0), "nothing to warn of");
        assert!(backlog.add_deleted(5, 10));
        assert!(!backlog.add_deleted(5, 59_999));
        assert!(backlog.add_near(1, 59_999), "of its own kind");
        assert!(backlog.add_deleted(1, 60_010));
        assert_eq!((backlog.deleted.get(), backlog.near.get()), (11, 1));
    }
}
