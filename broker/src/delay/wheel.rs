//! When messages are due: a timer wheel of two levels. Pure; time is given.
//!
//! A message takes 16 bytes here, at most a quarter more with what its slot keeps free: about 20 bytes. Near slots are
//! 1,024 ms wide, far ones 4,194,304 ms (70 minutes); 40 days are 824 far slots and the near ones of two of them.
//!
//! **Invariants**: what was inserted comes out once; nothing comes out before the slot that it is due in is asked for;
//! one call moves a bounded number of messages, whatever falls on one moment. Order within a slot is not kept:
//! [`super::ready`] sorts.

use std::collections::BTreeMap;

/// Width of a near slot: 2^10 ms.
const NEAR_BITS: u32 = 10;
/// Width of a far slot: 2^22 ms.
const FAR_BITS: u32 = 22;
/// A far slot is spread over near ones so long before it begins, ms: its messages are moved in small portions.
const OPEN_AHEAD_MS: i64 = 60_000;
/// Messages moved from a far slot to near ones in one call.
const MOVES_MAX: usize = 8192;

/// A message that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiting {
    /// When it is due, ms UTC.
    pub due_ms: i64,
    /// Which delay queue, by its number in the table of them.
    pub queue: u32,
    /// Its offset there.
    pub offset: u64,
}

/// A message in a slot: when it is due is told from the beginning of the slot on.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    queue: u32,
    late_ms: u32,
}

/// Messages by the time at which they are due.
#[derive(Debug)]
pub struct Wheel {
    near: BTreeMap<i64, Vec<Entry>>,
    far: BTreeMap<i64, Vec<Entry>>,
    /// Number of the first near slot that was not taken out.
    next_near: i64,
    /// Number of the first far slot that is not spread over near ones; those before are, or are about to be.
    next_far: i64,
    len: usize,
}

impl Wheel {
    /// An empty one at this time.
    pub fn new(now_ms: i64) -> Self {
        Self {
            near: BTreeMap::new(),
            far: BTreeMap::new(),
            next_near: now_ms >> NEAR_BITS,
            next_far: (now_ms >> FAR_BITS) + 1,
            len: 0,
        }
    }

    /// Messages in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a message. Gives it back when its slot was taken out already: it is due soon.
    pub fn insert(&mut self, waiting: Waiting) -> Option<Waiting> {
        if waiting.due_ms >> NEAR_BITS < self.next_near {
            return Some(waiting);
        }
        self.len += 1;
        if waiting.due_ms >> FAR_BITS < self.next_far {
            add(&mut self.near, NEAR_BITS, waiting);
        } else {
            add(&mut self.far, FAR_BITS, waiting);
        }
        None
    }

    /// Takes out what is due before `to_ms` (and the rest of its slot), about `max` messages at the most; true: that is
    /// all of it.
    pub fn take(&mut self, to_ms: i64, max: usize, out: &mut Vec<Waiting>) -> bool {
        if !self.open_far(to_ms.saturating_add(OPEN_AHEAD_MS)) {
            // Near slots of the far one that is being spread are not complete: what lies before it may go.
            let complete_to = self.far.first_key_value().map_or(i64::MAX, |(slot, _)| *slot << FAR_BITS);
            return self.take_near(to_ms.min(complete_to.saturating_sub(1)), max, out) && to_ms < complete_to;
        }
        self.take_near(to_ms, max, out)
    }

    fn take_near(&mut self, to_ms: i64, max: usize, out: &mut Vec<Waiting>) -> bool {
        let last = to_ms >> NEAR_BITS;
        while let Some(mut first) = self.near.first_entry() {
            let slot = *first.key();
            if slot > last {
                break;
            }
            let room = max.saturating_sub(out.len());
            let entries = first.get_mut();
            let from = entries.len().saturating_sub(room);
            self.len -= entries.len() - from;
            out.extend(entries.drain(from..).map(|entry| entry.waiting(slot, NEAR_BITS)));
            if !entries.is_empty() {
                self.next_near = self.next_near.max(slot);
                return false;
            }
            first.remove();
        }
        self.next_near = self.next_near.max(last + 1);
        true
    }

    /// Spreads far slots that begin before `to_ms` over near ones; true: all of them.
    fn open_far(&mut self, to_ms: i64) -> bool {
        let last = to_ms >> FAR_BITS;
        self.next_far = self.next_far.max(last + 1);
        let mut moves = MOVES_MAX;
        while let Some(mut first) = self.far.first_entry() {
            let slot = *first.key();
            if slot > last {
                break;
            }
            let entries = first.get_mut();
            let from = entries.len().saturating_sub(moves);
            moves -= entries.len() - from;
            for entry in entries.drain(from..) {
                add(&mut self.near, NEAR_BITS, entry.waiting(slot, FAR_BITS));
            }
            if !entries.is_empty() {
                return false;
            }
            first.remove();
        }
        true
    }

    /// The clock was set back: slots from `now_ms` on take messages again.
    pub fn rewind(&mut self, now_ms: i64) {
        self.next_near = self.next_near.min(now_ms >> NEAR_BITS);
    }

    /// No message is due before; `None`: there are none.
    pub fn next_ms(&self) -> Option<i64> {
        let near = self.near.first_key_value().map(|(slot, _)| *slot << NEAR_BITS);
        let far = self.far.first_key_value().map(|(slot, _)| *slot << FAR_BITS);
        near.into_iter().chain(far).min()
    }

    /// Bytes of memory that the messages take.
    pub fn memory_bytes(&self) -> usize {
        let slots = self.near.values().chain(self.far.values());
        slots.map(|entries| entries.capacity() * size_of::<Entry>()).sum()
    }
}

impl Entry {
    fn waiting(self, slot: i64, bits: u32) -> Waiting {
        Waiting { due_ms: (slot << bits) + i64::from(self.late_ms), queue: self.queue, offset: self.offset }
    }
}

fn add(slots: &mut BTreeMap<i64, Vec<Entry>>, bits: u32, waiting: Waiting) {
    let slot = waiting.due_ms >> bits;
    let entries = slots.entry(slot).or_default();
    if entries.len() == entries.capacity() {
        // A quarter more, not twice as much: the messages are many and wait long.
        entries.reserve_exact(entries.len() / 4 + 1);
    }
    let late_ms = u32::try_from(waiting.due_ms - (slot << bits)).expect("a slot is shorter than 2^32 ms");
    entries.push(Entry { offset: waiting.offset, queue: waiting.queue, late_ms });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_000_000_123;
    const DAY: i64 = 24 * 3600 * 1000;

    fn waiting(due_ms: i64, offset: u64) -> Waiting {
        Waiting { due_ms, queue: 1, offset }
    }

    fn drain(wheel: &mut Wheel, to_ms: i64) -> Vec<Waiting> {
        let mut out = Vec::new();
        while !wheel.take(to_ms, usize::MAX, &mut out) {}
        out
    }

    #[test]
    fn a_million_messages_take_twenty_bytes_each_and_come_out_in_portions() {
        let mut wheel = Wheel::new(NOW);
        for offset in 0..1_000_000_u64 {
            let due_ms = NOW + (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).cast_signed() % (40 * DAY);
            assert_eq!(wheel.insert(waiting(due_ms.max(NOW), offset)), None);
        }
        assert!(wheel.memory_bytes() <= 21_000_000, "{}", wheel.memory_bytes());
        let (mut out, mut all) = (Vec::new(), 0);
        loop {
            let done = wheel.take(NOW + 41 * DAY, 1000, &mut out);
            assert!(out.len() <= 1000);
            all += out.len();
            out.clear();
            if done {
                break;
            }
        }
        assert_eq!((all, wheel.len()), (1_000_000, 0));
    }

    #[test]
    fn many_messages_of_one_moment_are_taken_in_portions() {
        let mut wheel = Wheel::new(NOW);
        for offset in 0..10_000 {
            wheel.insert(waiting(NOW + 5, offset));
        }
        let mut out = Vec::new();
        assert!(!wheel.take(NOW + 10, 100, &mut out));
        assert_eq!(out.len(), 100);
        // A slot that is being taken out still takes messages.
        assert_eq!(wheel.insert(waiting(NOW + 5, 77_777)), None);
        assert_eq!(drain(&mut wheel, NOW + 10).len(), 9_901);
        assert_eq!(wheel.insert(waiting(NOW + 5, 1)), Some(waiting(NOW + 5, 1)));
    }

    #[test]
    fn a_clock_set_back_gives_slots_back() {
        let mut wheel = Wheel::new(NOW);
        assert!(drain(&mut wheel, NOW + 30 * DAY).is_empty());
        assert!(wheel.insert(waiting(NOW + DAY, 1)).is_some());
        wheel.rewind(NOW);
        assert!(wheel.insert(waiting(NOW + DAY, 1)).is_none());
        assert!(drain(&mut wheel, NOW + DAY - 2000).is_empty());
        assert_eq!(drain(&mut wheel, NOW + DAY).len(), 1);
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_time(
            dues in proptest::collection::vec((0_i64..3 * DAY, 0_u8..4), 1..400),
            step in 1_i64..DAY,
            max in 1_usize..50,
        ) {
            let mut wheel = Wheel::new(NOW);
            let mut inserted = Vec::new();
            let mut taken = Vec::new();
            let (mut now, mut next) = (NOW, dues.iter().enumerate());
            let mut out = Vec::new();
            loop {
                for (offset, (delay, _)) in next.by_ref().take(50) {
                    let one = waiting(now + delay, offset as u64);
                    inserted.push(one);
                    taken.extend(wheel.insert(one));
                }
                prop_assert!(wheel.next_ms().is_none_or(|next| next <= inserted.iter().filter(|one| !taken.contains(one)).map(|one| one.due_ms).min().unwrap()));
                while !wheel.take(now, max, &mut out) {
                    out.truncate(out.len());
                    for one in &out {
                        prop_assert!(one.due_ms < now + 1024);
                    }
                    taken.append(&mut out);
                }
                taken.append(&mut out);
                prop_assert!(inserted.iter().all(|one| one.due_ms > now || taken.contains(one)));
                if next.len() == 0 && wheel.is_empty() {
                    break;
                }
                now += step;
            }
            taken.sort_unstable();
            inserted.sort_unstable();
            prop_assert_eq!(taken, inserted);
        }
    }
}
