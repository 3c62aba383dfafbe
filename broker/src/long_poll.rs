//! Parked fetches: those that found nothing and wait for it.
//!
//! **Invariants**: waking a queue costs in proportion to the fetches that wait for *it*, whatever else is parked; a
//! fetch is in the table once, under (owner, fetch id), and a newer one replaces it; every fetch leaves by being woken,
//! replaced, taken, expired or closed, and then nothing of it is left; the number of entries is bounded.
//!
//! Pure: time comes in as milliseconds of any steady clock. Deadlines lie on a wheel of 10 ms ticks; each link from a
//! list to an entry has a link back, so that an entry is unlinked from all its lists without a search.

use std::collections::HashMap;

use equeue_record::QueueKey;
use slab::Slab;
use smallvec::SmallVec;

/// Width of a tick of the wheel, ms.
pub const TICK_MS: u64 = 10;
const WHEEL_SLOTS: u64 = 1024;

/// Who parked a fetch: a connection of this shard.
pub type OwnerId = u64;

/// A place in the list of a queue's waiters.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    slot: usize,
    /// Which of the entry's links this is.
    link: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    queue: QueueKey,
    /// Where in the queue's list.
    position: usize,
}

#[derive(Debug)]
struct Entry<T> {
    owner: OwnerId,
    fetch_id: u32,
    links: SmallVec<[Link; 4]>,
    deadline_tick: u64,
    /// Where in the wheel slot's list.
    wheel_position: usize,
    value: T,
}

/// The table.
#[derive(Debug)]
pub struct ParkTable<T> {
    entries: Slab<Entry<T>>,
    by_queue: HashMap<QueueKey, Vec<Waiter>>,
    by_owner: HashMap<OwnerId, SmallVec<[(u32, usize); 2]>>,
    wheel: Vec<Vec<usize>>,
    /// Ticks up to here have been looked at.
    tick: u64,
    entries_max: usize,
}

fn wheel_slot(tick: u64) -> usize {
    usize::try_from(tick % WHEEL_SLOTS).expect("a remainder of 1024 fits a usize")
}

impl<T> ParkTable<T> {
    /// An empty table for at most `entries_max` fetches, at time `now_ms`.
    pub fn new(entries_max: usize, now_ms: u64) -> Self {
        Self {
            entries: Slab::new(),
            by_queue: HashMap::new(),
            by_owner: HashMap::new(),
            wheel: (0..WHEEL_SLOTS).map(|_| Vec::new()).collect(),
            tick: now_ms / TICK_MS,
            entries_max,
        }
    }

    /// Number of parked fetches.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is parked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Parks a fetch. One of the same owner and id must have been taken out before, see [`ParkTable::take`].
    ///
    /// # Errors
    /// The table is full; the value comes back.
    pub fn park(
        &mut self,
        owner: OwnerId,
        fetch_id: u32,
        queues: impl Iterator<Item = QueueKey>,
        deadline_ms: u64,
        value: T,
    ) -> Result<(), T> {
        if self.entries.len() >= self.entries_max {
            return Err(value);
        }
        debug_assert!(self.find(owner, fetch_id).is_none(), "a newer fetch replaces the older one");
        // Never in a tick already looked at: it would wait for a whole turn of the wheel.
        let deadline_tick = deadline_ms.div_ceil(TICK_MS).max(self.tick + 1);
        let slot = self.entries.vacant_key();
        let links = queues
            .enumerate()
            .map(|(link, queue)| {
                let list = self.by_queue.entry(queue).or_default();
                list.push(Waiter { slot, link });
                Link { queue, position: list.len() - 1 }
            })
            .collect();
        let spoke = self.wheel.get_mut(wheel_slot(deadline_tick)).expect("a wheel slot is below WHEEL_SLOTS");
        spoke.push(slot);
        let wheel_position = spoke.len() - 1;
        self.by_owner.entry(owner).or_default().push((fetch_id, slot));
        self.entries.insert(Entry { owner, fetch_id, links, deadline_tick, wheel_position, value });
        Ok(())
    }

    fn find(&self, owner: OwnerId, fetch_id: u32) -> Option<usize> {
        let fetches = self.by_owner.get(&owner)?;
        fetches.iter().find(|(id, _)| *id == fetch_id).map(|(_, slot)| *slot)
    }

    /// Takes out the fetch with this id, if it is parked: because a newer one replaces it, or nobody wants it any more.
    pub fn take(&mut self, owner: OwnerId, fetch_id: u32) -> Option<T> {
        let slot = self.find(owner, fetch_id)?;
        Some(self.unlink(slot))
    }

    /// Takes out every fetch that waits for `queue`, in the order of `out`'s end.
    pub fn wake(&mut self, queue: QueueKey, out: &mut Vec<T>) {
        while let Some(waiter) = self.by_queue.get(&queue).and_then(|list| list.last()).copied() {
            let value = self.unlink(waiter.slot);
            out.push(value);
        }
    }

    /// Like [`ParkTable::wake`], for a queue that is gone for ever.
    pub fn forget_queue(&mut self, queue: QueueKey, out: &mut Vec<T>) {
        self.wake(queue, out);
        self.by_queue.remove(&queue);
    }

    /// Takes out every fetch of an owner that is gone.
    pub fn close(&mut self, owner: OwnerId, out: &mut Vec<T>) {
        while let Some(slot) = self.by_owner.get(&owner).and_then(|list| list.last()).map(|(_, slot)| *slot) {
            let value = self.unlink(slot);
            out.push(value);
        }
    }

    /// Takes out every fetch; time does not move.
    pub fn take_all(&mut self, out: &mut Vec<T>) {
        while let Some(slot) = self.entries.iter().next().map(|(slot, _)| slot) {
            let value = self.unlink(slot);
            out.push(value);
        }
    }

    /// Takes out every fetch whose deadline is reached.
    pub fn expire(&mut self, now_ms: u64, out: &mut Vec<T>) {
        let now_tick = now_ms / TICK_MS;
        let first = (self.tick + 1).max(now_tick.saturating_sub(WHEEL_SLOTS - 1));
        for tick in first..=now_tick {
            let mut position = 0;
            while let Some(slot) =
                self.wheel.get(wheel_slot(tick)).and_then(|spoke| spoke.get(position)).copied()
            {
                if self.entries.get(slot).is_some_and(|entry| entry.deadline_tick <= now_tick) {
                    let value = self.unlink(slot); // swaps another one into this position
                    out.push(value);
                } else {
                    position += 1;
                }
            }
        }
        self.tick = self.tick.max(now_tick);
    }

    /// A time before which no deadline is reached: when to call [`ParkTable::expire`]. `None`: nothing is parked.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let due = |tick: &u64| self.wheel.get(wheel_slot(*tick)).is_some_and(|spoke| !spoke.is_empty());
        (self.tick + 1..=self.tick + WHEEL_SLOTS).find(due).map(|tick| tick * TICK_MS)
    }

    fn unlink(&mut self, slot: usize) -> T {
        let links = self.entries.get(slot).map_or(0, |entry| entry.links.len());
        for index in 0..links {
            self.unlink_queue(slot, index);
        }
        let entry = self.entries.remove(slot);
        if let Some(spoke) = self.wheel.get_mut(wheel_slot(entry.deadline_tick)) {
            spoke.swap_remove(entry.wheel_position);
            if let Some(moved) = spoke.get(entry.wheel_position).copied() {
                self.entries.get_mut(moved).expect("the wheel names live entries").wheel_position =
                    entry.wheel_position;
            }
        }
        if let Some(fetches) = self.by_owner.get_mut(&entry.owner) {
            fetches.retain(|(id, _)| *id != entry.fetch_id);
            if fetches.is_empty() {
                self.by_owner.remove(&entry.owner);
            }
        }
        entry.value
    }

    /// Takes one link of an entry out of its queue's list; the list stays (its memory is used again).
    fn unlink_queue(&mut self, slot: usize, index: usize) {
        let Some(link) = self.entries.get(slot).and_then(|entry| entry.links.get(index)).copied() else {
            return;
        };
        let Some(list) = self.by_queue.get_mut(&link.queue) else { return };
        list.swap_remove(link.position);
        if let Some(moved) = list.get(link.position).copied() {
            let entry = self.entries.get_mut(moved.slot).expect("a queue's list names live entries");
            entry.links.get_mut(moved.link).expect("a waiter names a link of its entry").position =
                link.position;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn keys(keys: &[u64]) -> impl Iterator<Item = QueueKey> {
        keys.iter().copied().map(QueueKey).collect::<Vec<_>>().into_iter()
    }

    fn woken(table: &mut ParkTable<u32>, queue: u64) -> Vec<u32> {
        let mut out = Vec::new();
        table.wake(QueueKey(queue), &mut out);
        out.sort_unstable();
        out
    }

    #[test]
    fn only_the_waiters_of_a_queue_wake() {
        let mut table = ParkTable::new(10, 0);
        table.park(1, 1, keys(&[10, 11]), 1000, 100).unwrap();
        table.park(1, 2, keys(&[11, 12, 11]), 1000, 101).unwrap();
        table.park(2, 1, keys(&[12]), 1000, 102).unwrap();
        assert_eq!(woken(&mut table, 13), Vec::<u32>::new());
        assert_eq!(woken(&mut table, 11), [100, 101]);
        assert_eq!(woken(&mut table, 10), Vec::<u32>::new());
        assert_eq!(woken(&mut table, 12), [102]);
        assert!(table.is_empty() && table.by_owner.is_empty() && table.wheel.iter().all(Vec::is_empty));
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = ParkTable::new(1, 0);
        table.park(1, 1, keys(&[1]), 10, 'a').unwrap();
        assert_eq!(table.park(1, 2, keys(&[1]), 10, 'b'), Err('b'));
        assert_eq!(table.take(1, 1), Some('a'));
        assert_eq!(table.take(1, 1), None);
        table.park(1, 2, keys(&[1]), 10, 'b').unwrap();
    }

    #[test]
    fn deadlines_are_reached_in_time_and_not_before() {
        let mut table = ParkTable::new(10, 5);
        let mut out = Vec::new();
        table.park(1, 1, keys(&[1]), 25, 1).unwrap();
        table.park(1, 2, keys(&[1]), 60_000, 2).unwrap();
        table.park(1, 3, keys(&[1]), 3, 3).unwrap(); // already over
        assert_eq!(table.next_deadline_ms(), Some(10));
        table.expire(10, &mut out);
        assert_eq!(out, [3]);
        table.expire(24, &mut out);
        assert_eq!(out, [3]);
        assert_eq!(table.next_deadline_ms(), Some(30));
        table.expire(30, &mut out);
        assert_eq!(out, [3, 1]);
        // One turn of the wheel is shorter than the wait: it is passed over until its time.
        for now_ms in (40..60_000).step_by(500) {
            table.expire(now_ms, &mut out);
        }
        assert_eq!(out, [3, 1]);
        table.expire(120_000, &mut out);
        assert_eq!(out, [3, 1, 2]);
        assert_eq!(table.next_deadline_ms(), None);
    }

    #[test]
    fn closing_an_owner_takes_its_fetches_only() {
        let mut table = ParkTable::new(10, 0);
        table.park(1, 1, keys(&[1]), 10, 'a').unwrap();
        table.park(2, 1, keys(&[1]), 10, 'b').unwrap();
        table.park(1, 2, keys(&[2]), 10, 'c').unwrap();
        let mut out = Vec::new();
        table.close(1, &mut out);
        out.sort_unstable();
        assert_eq!((out, table.len()), (vec!['a', 'c'], 1));
    }

    #[test]
    fn a_queue_that_is_gone_wakes_its_waiters_and_leaves_nothing() {
        let mut table = ParkTable::new(10, 0);
        table.park(1, 1, keys(&[1, 2]), 10, 'a').unwrap();
        let mut out = Vec::new();
        table.forget_queue(QueueKey(1), &mut out);
        assert_eq!(out, ['a']);
        assert!(!table.by_queue.contains_key(&QueueKey(1)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Park(u64, u32, Vec<u64>, u64),
        Take(u64, u32),
        Wake(u64),
        Close(u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4_u64, 0..3_u32, prop::collection::vec(0..6_u64, 0..5), 0..20_000_u64)
                .prop_map(|(owner, id, queues, wait)| Step::Park(owner, id, queues, wait)),
            1 => (0..4_u64, 0..3_u32).prop_map(|(owner, id)| Step::Take(owner, id)),
            2 => (0..6_u64).prop_map(Step::Wake),
            1 => (0..4_u64).prop_map(Step::Close),
            2 => (0..15_000_u64).prop_map(Step::Pass),
        ]
    }

    type Model = BTreeMap<(u64, u32), (Vec<u64>, u64)>;
    type Which<'a> = &'a dyn Fn(&(u64, u32), &(Vec<u64>, u64)) -> bool;

    proptest! {
        /// Against a plain map: whatever happens, the table holds and gives exactly what the map does.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(step(), 0..200)) {
            let mut table = ParkTable::new(8, 0);
            let mut model = Model::new();
            let mut now = 0;
            for step in steps {
                let mut out = Vec::new();
                let mut expected = Vec::new();
                let mut leave = |model: &mut Model, which: Which<'_>| {
                    model.retain(|key, value| {
                        let leaves = which(key, value);
                        if leaves {
                            expected.push(*key);
                        }
                        !leaves
                    });
                };
                match step {
                    Step::Park(owner, id, queues, wait) => {
                        let replaced = table.take(owner, id);
                        prop_assert_eq!(replaced.is_some(), model.remove(&(owner, id)).is_some());
                        let parked = table.park(owner, id, keys(&queues), now + wait, (owner, id));
                        prop_assert_eq!(parked.is_ok(), model.len() < 8);
                        if parked.is_ok() {
                            let tick = (now + wait).div_ceil(TICK_MS).max(now / TICK_MS + 1);
                            model.insert((owner, id), (queues, tick));
                        }
                    }
                    Step::Take(owner, id) => {
                        out.extend(table.take(owner, id));
                        leave(&mut model, &|key, _| *key == (owner, id));
                    }
                    Step::Wake(queue) => {
                        table.wake(QueueKey(queue), &mut out);
                        leave(&mut model, &|_, (queues, _)| queues.contains(&queue));
                    }
                    Step::Close(owner) => {
                        table.close(owner, &mut out);
                        leave(&mut model, &|key, _| key.0 == owner);
                    }
                    Step::Pass(ms) => {
                        now += ms;
                        table.expire(now, &mut out);
                        leave(&mut model, &|_, (_, tick)| *tick <= now / TICK_MS);
                    }
                }
                out.sort_unstable();
                prop_assert_eq!(out, expected);
                prop_assert_eq!(table.len(), model.len());
                let links: usize = table.by_queue.values().map(Vec::len).sum();
                prop_assert_eq!(links, model.values().map(|(queues, _)| queues.len()).sum::<usize>());
                if let Some(next) = table.next_deadline_ms() {
                    prop_assert!(model.values().all(|(_, tick)| next <= tick * TICK_MS));
                }
            }
        }
    }
}
