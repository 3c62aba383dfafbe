//! Messages that are due soon, in order, some of them with their bytes. Pure.
//!
//! **Invariant**: the bytes held are counted; who loads ahead of time stops at a limit.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use equeue_record::Offset;

use super::wheel::Waiting;

/// A message as it lies in its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The encoded record.
    pub encoded: Bytes,
    /// What its times are counted from.
    pub base_create_time_ms: i64,
    /// The offset that its id names: another one than its own when it was carried forward.
    pub id_offset: Offset,
}

/// Messages in order of the time at which they are due.
#[derive(Debug, Default)]
pub struct Ready {
    /// Without their bytes.
    bare: BTreeSet<Waiting>,
    loaded: BTreeMap<Waiting, Loaded>,
    loaded_bytes: usize,
}

/// Bytes that a loaded message is counted with beside its own.
const OVERHEAD: usize = 128;

impl Ready {
    /// Adds a message.
    pub fn insert(&mut self, waiting: Waiting) {
        if !self.loaded.contains_key(&waiting) {
            self.bare.insert(waiting);
        }
    }

    /// Adds the bytes of a message, if it is still here without them.
    pub fn load(&mut self, waiting: Waiting, loaded: Loaded) {
        if self.bare.remove(&waiting) {
            self.loaded_bytes += cost(&loaded);
            self.loaded.insert(waiting, loaded);
        }
    }

    /// Takes a message out.
    pub fn remove(&mut self, waiting: &Waiting) {
        self.bare.remove(waiting);
        if let Some(loaded) = self.loaded.remove(waiting) {
            self.loaded_bytes -= cost(&loaded);
        }
    }

    /// Messages due at or before `now_ms` whose bytes are here, the first ones first.
    pub fn due(&self, now_ms: i64) -> impl Iterator<Item = (&Waiting, &Loaded)> {
        self.loaded.iter().take_while(move |(waiting, _)| waiting.due_ms <= now_ms)
    }

    /// Messages without their bytes, the first ones first.
    pub fn bare(&self) -> impl Iterator<Item = &Waiting> {
        self.bare.iter()
    }

    /// How many have no bytes.
    pub fn bare_len(&self) -> usize {
        self.bare.len()
    }

    /// When the first one is due.
    pub fn next_ms(&self) -> Option<i64> {
        let first = self.bare.first().into_iter().chain(self.loaded.keys().next());
        first.map(|waiting| waiting.due_ms).min()
    }

    /// Takes out what is due at `from_ms` or later: the clock was set back.
    pub fn split_off(&mut self, from_ms: i64) -> Vec<Waiting> {
        let from = Waiting { due_ms: from_ms, queue: 0, offset: 0 };
        let loaded = self.loaded.split_off(&from);
        self.loaded_bytes -= loaded.values().map(cost).sum::<usize>();
        self.bare.split_off(&from).into_iter().chain(loaded.into_keys()).collect()
    }

    /// Messages.
    pub fn len(&self) -> usize {
        self.bare.len() + self.loaded.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the loaded ones take.
    pub fn loaded_bytes(&self) -> usize {
        self.loaded_bytes
    }
}

/// Bytes that a loaded message is counted with.
pub(super) fn cost(loaded: &Loaded) -> usize {
    loaded.encoded.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(due_ms: i64) -> Waiting {
        Waiting { due_ms, queue: 0, offset: due_ms.unsigned_abs() }
    }

    fn loaded(len: usize) -> Loaded {
        Loaded { encoded: Bytes::from(vec![1; len]), base_create_time_ms: 0, id_offset: Offset(0) }
    }

    #[test]
    fn bytes_are_counted_whatever_happens_to_them() {
        let mut ready = Ready::default();
        for due_ms in [30, 10, 20] {
            ready.insert(waiting(due_ms));
        }
        ready.load(waiting(10), loaded(100));
        ready.load(waiting(10), loaded(50)); // loaded twice
        ready.load(waiting(30), loaded(7));
        ready.load(waiting(40), loaded(1_000)); // gone meanwhile
        ready.insert(waiting(10));
        assert_eq!(ready.loaded_bytes(), 107 + 2 * OVERHEAD);
        assert_eq!(ready.due(20).map(|(waiting, _)| waiting.due_ms).collect::<Vec<_>>(), [10]);
        assert_eq!(ready.bare().map(|waiting| waiting.due_ms).collect::<Vec<_>>(), [20]);
        ready.remove(&waiting(10));
        assert_eq!((ready.next_ms(), ready.len()), (Some(20), 2));
        assert_eq!(ready.split_off(25), [waiting(30)]);
        assert_eq!((ready.loaded_bytes(), ready.len()), (0, 1));
    }
}
