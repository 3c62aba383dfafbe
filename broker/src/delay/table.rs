//! The delayed messages of one log: its delay queues with their marks, the wheel, and what is due soon. Pure.
//!
//! **Invariants**: a message waits exactly as long as its mark is not set, whatever wheel and ready list still hold of it;
//! marks change only together with an append.

use std::collections::{BTreeMap, HashMap};

use equeue_record::{Offset, QueueKey};

use super::marks::{MarkPlan, Marks};
use super::ready::Ready;
use super::wheel::{Waiting, Wheel};

/// A delay queue.
#[derive(Debug)]
pub struct DelayQueue {
    /// The queue that its messages are for.
    pub target: QueueKey,
    /// Which of its messages are delivered, cancelled or carried forward.
    pub marks: Marks,
    /// Messages that were carried forward: offset in their id, and where they are now.
    pub carried: BTreeMap<u64, u64>,
    /// Messages that wait.
    pub waiting: u64,
    /// The queue is deleted: its messages are dropped when their time comes.
    pub gone: bool,
}

/// The delayed messages of one log.
#[derive(Debug)]
pub struct DelayTable {
    queues: Vec<DelayQueue>,
    numbers: HashMap<QueueKey, u32>,
    /// Far from due.
    pub wheel: Wheel,
    /// Due soon.
    pub ready: Ready,
    waiting: u64,
    waiting_max: u64,
}

impl DelayTable {
    /// An empty one that takes at most so many messages.
    pub fn new(now_ms: i64, waiting_max: u64) -> Self {
        Self {
            queues: Vec::new(),
            numbers: HashMap::new(),
            wheel: Wheel::new(now_ms),
            ready: Ready::default(),
            waiting: 0,
            waiting_max,
        }
    }

    /// The number of the delay queue for `target`.
    pub fn number(&self, target: QueueKey) -> Option<u32> {
        self.numbers.get(&target).copied()
    }

    /// The same, made when it is not there.
    pub fn open(&mut self, target: QueueKey) -> u32 {
        let next = u32::try_from(self.queues.len()).expect("a broker has at most 100,000 queues at a time");
        let number = *self.numbers.entry(target).or_insert(next);
        if number == next {
            let (marks, carried) = (Marks::default(), BTreeMap::new());
            self.queues.push(DelayQueue { target, marks, carried, waiting: 0, gone: false });
        }
        number
    }

    /// A delay queue.
    pub fn queue(&self, number: u32) -> Option<&DelayQueue> {
        self.queues.get(number as usize)
    }

    /// A delay queue, to be changed.
    pub fn queue_mut(&mut self, number: u32) -> Option<&mut DelayQueue> {
        self.queues.get_mut(number as usize)
    }

    /// All delay queues by number.
    pub fn queues(&self) -> impl Iterator<Item = (u32, &DelayQueue)> {
        (0..).zip(&self.queues)
    }

    /// Messages that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Whether so many more may wait.
    pub fn has_room(&self, messages: u64) -> bool {
        self.waiting.saturating_add(messages) <= self.waiting_max
    }

    /// A message waits from now on.
    pub fn insert(&mut self, waiting: Waiting) {
        let Some(queue) = self.queue_mut(waiting.queue) else { return };
        if queue.marks.is_done(waiting.offset) {
            return;
        }
        queue.waiting += 1;
        self.waiting += 1;
        self.place(waiting);
    }

    fn place(&mut self, waiting: Waiting) {
        if let Some(soon) = self.wheel.insert(waiting) {
            self.ready.insert(soon);
        }
    }

    /// Whether a message still waits.
    pub fn waits(&self, waiting: &Waiting) -> bool {
        let queue = self.queue(waiting.queue);
        queue.is_some_and(|queue| !queue.gone && !queue.marks.is_done(waiting.offset))
    }

    /// Messages of a queue that were appended as done: their marks are set, and they count no more.
    pub fn done(&mut self, number: u32, plan: &MarkPlan, messages: u64) {
        if let Some(queue) = self.queue_mut(number) {
            queue.marks.apply(plan);
            let messages = messages.min(queue.waiting);
            queue.waiting -= messages;
            self.waiting -= messages;
        }
    }

    /// The target of a delay queue is deleted: nothing waits for it any more.
    pub fn forget(&mut self, target: QueueKey) -> Option<Marks> {
        let number = self.numbers.remove(&target)?;
        let queue = self.queues.get_mut(number as usize)?;
        queue.gone = true;
        self.waiting -= std::mem::take(&mut queue.waiting);
        queue.carried.clear();
        Some(std::mem::take(&mut queue.marks))
    }

    /// Where the message of an id is now.
    pub fn place_of(&self, number: u32, id_offset: Offset) -> Offset {
        let carried = self.queue(number).and_then(|queue| queue.carried.get(&id_offset.0));
        carried.map_or(id_offset, |offset| Offset(*offset))
    }

    /// Moves what is due before `to_ms` from the wheel to the ready list, at most about `max`; true: all of it.
    pub fn advance(&mut self, to_ms: i64, max: usize) -> bool {
        let mut out = Vec::new();
        let all = self.wheel.take(to_ms, max, &mut out);
        for waiting in out {
            if self.waits(&waiting) {
                self.ready.insert(waiting);
            }
        }
        all
    }

    /// The clock was set back to `now_ms`.
    pub fn rewind(&mut self, now_ms: i64) {
        self.wheel.rewind(now_ms);
        for waiting in self.ready.split_off(now_ms) {
            self.place(waiting);
        }
    }

    /// No message is due before.
    pub fn next_ms(&self) -> Option<i64> {
        self.wheel.next_ms().into_iter().chain(self.ready.next_ms()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: QueueKey = QueueKey(9);

    fn table() -> (DelayTable, u32) {
        let mut table = DelayTable::new(0, 3);
        let number = table.open(TARGET);
        assert_eq!((table.open(TARGET), table.number(TARGET)), (number, Some(number)));
        (table, number)
    }

    fn at(queue: u32, due_ms: i64, offset: u64) -> Waiting {
        Waiting { due_ms, queue, offset }
    }

    #[test]
    fn what_is_marked_neither_counts_nor_comes() {
        let (mut table, queue) = table();
        for offset in 0..3 {
            table.insert(at(queue, 10_000 + i64::try_from(offset).unwrap(), offset));
        }
        assert!(!table.has_room(1) && table.has_room(0));
        let plan = table.queue(queue).unwrap().marks.plan([1], 0);
        table.done(queue, &plan, 1);
        assert_eq!((table.waiting(), table.next_ms().is_some()), (2, true));
        assert!(table.advance(20_000, 100));
        let due: Vec<u64> = table.ready.bare().map(|waiting| waiting.offset).collect();
        assert_eq!(due, [0, 2]);
        table.insert(at(queue, 5, 1));
        assert_eq!((table.waiting(), table.ready.len()), (2, 2), "marked before it was found again");
    }

    #[test]
    fn messages_of_a_deleted_queue_are_dropped() {
        let (mut table, queue) = table();
        table.insert(at(queue, 10_000, 0));
        assert!(table.forget(TARGET).is_some() && table.forget(TARGET).is_none());
        assert_eq!(table.waiting(), 0);
        table.advance(20_000, 100);
        assert!(table.ready.is_empty());
        assert_ne!(table.open(TARGET), queue, "a new queue has nothing to do with it");
    }

    #[test]
    fn a_clock_set_back_delays_and_nothing_gets_lost() {
        let (mut table, queue) = table();
        table.insert(at(queue, 50_000, 0));
        table.insert(at(queue, 1_000_000, 1));
        table.advance(2_000_000, 100);
        assert_eq!(table.ready.len(), 2);
        table.rewind(60_000);
        assert_eq!((table.ready.len(), table.wheel.len()), (1, 1));
        assert!(table.advance(1_000_000, 100));
        assert_eq!(table.ready.bare().count(), 2);
    }
}
