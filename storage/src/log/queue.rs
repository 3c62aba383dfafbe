//! The queues of a log: their bounds and the runs in memory. Pure.

use equeue_record::{Offset, QueueKey};

use super::QueueBounds;
use crate::fast_hash::FastMap;
use crate::index::{QueueRuns, Run};
use crate::types::Position;

/// One queue. `start <= durable_end <= end`.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Known to the log's user: only then it takes appends and answers reads.
    pub(crate) open: bool,
    pub(crate) start: Offset,
    pub(crate) durable_end: Offset,
    pub(crate) end: Offset,
    pub(crate) runs: QueueRuns,
    /// Where the last read ended: one that begins here is sequential and gets read-ahead.
    pub(crate) read_to: Offset,
}

/// All queues of a log.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: FastMap<QueueKey, Queue>,
    /// Runs of all queues.
    runs: usize,
}

impl Queue {
    pub(crate) fn bounds(&self) -> QueueBounds {
        QueueBounds { start: self.start, durable_end: self.durable_end, end: self.end }
    }
}

impl Queues {
    #[inline]
    pub(crate) fn get(&self, queue: QueueKey) -> Option<&Queue> {
        self.queues.get(&queue)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, queue: QueueKey) -> Option<&mut Queue> {
        self.queues.get_mut(&queue)
    }

    /// One that the user may append to and read from.
    #[inline]
    pub(crate) fn open_mut(&mut self, queue: QueueKey) -> Option<&mut Queue> {
        self.queues.get_mut(&queue).filter(|known| known.open)
    }

    pub(crate) fn open(&mut self, queue: QueueKey) {
        self.queues.entry(queue).or_default().open = true;
    }

    /// The user knows it no more.
    pub(crate) fn close(&mut self, queue: QueueKey) {
        if let Some(known) = self.queues.get_mut(&queue) {
            known.open = false;
        }
    }

    /// Runs in memory.
    pub(crate) fn run_count(&self) -> usize {
        self.runs
    }

    /// A run became durable (or was found by replay): it can be read from now on.
    pub(crate) fn add_durable(&mut self, queue: QueueKey, run: Run) {
        let known = self.queues.entry(queue).or_default();
        known.durable_end = known.durable_end.max(run.next_offset());
        known.end = known.end.max(known.durable_end);
        known.runs.push(run);
        self.runs += 1;
    }

    /// What a snapshot says of a queue; bounds only grow.
    pub(crate) fn merge(&mut self, queue: QueueKey, start: Offset, next: Offset) {
        let known = self.queues.entry(queue).or_default();
        known.start = known.start.max(start);
        known.durable_end = known.durable_end.max(next).max(known.start);
        known.end = known.end.max(known.durable_end);
    }

    /// Everything before `offset` is gone.
    pub(crate) fn raise_start(&mut self, queue: QueueKey, offset: Offset) {
        if let Some(known) = self.queues.get_mut(&queue) {
            known.start = known.start.max(offset.min(known.durable_end));
        }
    }

    /// The queue is no more.
    pub(crate) fn remove(&mut self, queue: QueueKey) {
        if let Some(gone) = self.queues.remove(&queue) {
            self.runs -= gone.runs.len();
        }
    }

    /// Queues known.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Keys of all queues, in order.
    pub(crate) fn keys(&self) -> Vec<QueueKey> {
        let mut keys: Vec<_> = self.queues.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Keys of the queues that have runs in memory in `from..to`, in order.
    pub(crate) fn keys_with_runs(&self, from: Position, to: Position) -> Vec<QueueKey> {
        let with_runs = self.queues.iter().filter(|(_, known)| known.runs.within(from, to).next().is_some());
        let mut keys: Vec<_> = with_runs.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Forgets the runs of a queue before `position`: their segment has an index file.
    pub(crate) fn forget_runs(&mut self, queue: QueueKey, position: Position) {
        if let Some(known) = self.queues.get_mut(&queue) {
            self.runs -= known.runs.forget_before(position);
        }
    }
}

/// Value of a queue's entry in a snapshot.
pub(crate) fn encode_bounds(queue: &Queue) -> [u8; 16] {
    let mut value = [0; 16];
    let (start, next) = value.split_at_mut(8);
    start.copy_from_slice(&queue.start.0.to_le_bytes());
    next.copy_from_slice(&queue.durable_end.0.to_le_bytes());
    value
}

/// Reads [`encode_bounds`]; `None` when it is not that.
pub(crate) fn decode_bounds(value: &[u8]) -> Option<(Offset, Offset)> {
    let (start, next) = value.split_first_chunk::<8>()?;
    let next: &[u8; 8] = next.try_into().ok()?;
    let (start, next) = (Offset(u64::from_le_bytes(*start)), Offset(u64::from_le_bytes(*next)));
    (start <= next).then_some((start, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_round_trip_and_only_grow() {
        let mut queues = Queues::default();
        let key = QueueKey(5);
        queues.merge(key, Offset(3), Offset(10));
        queues.merge(key, Offset(1), Offset(7));
        let value = encode_bounds(queues.get(key).unwrap());
        assert_eq!(decode_bounds(&value), Some((Offset(3), Offset(10))));
        assert_eq!(decode_bounds(&value[..15]), None);
        assert!(queues.open_mut(key).is_none(), "not opened yet");
        queues.open(key);
        assert_eq!(queues.open_mut(key).unwrap().end, Offset(10));
    }
}
