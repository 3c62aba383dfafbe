//! Memory with bytes of the log, keyed by position: the buffers of recent flushes, and windows read from disk.
//!
//! A flush buffer enters as it is once its flush is durable, so readers at the tail need no copy and no disk. Reads
//! from disk bring whole windows. Readers get shares of the memory; what a slow reader holds cannot be freed, so it
//! stays here and stays counted.
//!
//! Which memory goes first: CLOCK, as a queue with one second chance. **Invariant**: `bytes` is what the memory really
//! takes - the allocator rounds to powers of two - for everything in here and everything replaced but still held by
//! a reader.

use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use crate::fast_hash::FastMap;
use crate::format::WINDOW_BYTES;
use crate::types::Position;

/// Shared memory.
pub(crate) type Memory = Rc<dyn AsRef<[u8]>>;

/// Bytes of the log in memory.
#[derive(Clone)]
pub(crate) struct Span {
    /// Where its first byte lies in the log.
    pub(crate) position: Position,
    /// The bytes.
    pub(crate) memory: Memory,
    /// Checksums have been checked up to here.
    pub(crate) checked_to: Position,
}

/// Counters of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes of memory held, rounded as the allocator does.
    pub bytes: usize,
    /// Of these: memory that is in the cache no more, but held by readers.
    pub bytes_orphaned: usize,
    /// Look-ups answered.
    pub hits: u64,
    /// Look-ups not answered.
    pub misses: u64,
    /// Spans dropped to make room.
    pub evicted: u64,
    /// Times that more than the limit was held because readers held it.
    pub over_limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Flush(u64),
    Window(u64),
}

struct Entry {
    span: Span,
    cost: usize,
    used: bool,
}

/// Memory that left the cache while a reader held it, with its cost.
type Orphan = (Weak<dyn AsRef<[u8]>>, usize);

/// See the file's own text.
pub(crate) struct Cache {
    flushes: BTreeMap<u64, Entry>,
    windows: FastMap<u64, Entry>,
    clock: VecDeque<Key>,
    orphans: Vec<Orphan>,
    limit: usize,
    stats: CacheStats,
}

impl Span {
    fn len(&self) -> usize {
        (*self.memory).as_ref().len()
    }

    /// Which bytes of the memory hold `len` bytes from `position`; `None` when not all are here.
    pub(crate) fn range(&self, position: Position, len: usize) -> Option<std::ops::Range<usize>> {
        let begin = usize::try_from(position.0.checked_sub(self.position.0)?).ok()?;
        let end = begin.checked_add(len)?;
        (end <= self.len()).then_some(begin..end)
    }
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            flushes: BTreeMap::new(),
            windows: FastMap::default(),
            clock: VecDeque::new(),
            orphans: Vec::new(),
            limit,
            stats: CacheStats::default(),
        }
    }

    /// Most bytes held, but for what readers hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.stats
    }

    /// A span with all of the `len` bytes from `position`.
    pub(crate) fn get(&mut self, position: Position, len: usize) -> Option<Span> {
        let flush = self.flushes.range_mut(..=position.0).next_back().map(|(_, entry)| entry);
        let found = match flush.filter(|entry| entry.span.range(position, len).is_some()) {
            Some(entry) => Some(entry),
            None => self.windows.get_mut(&window(position)),
        };
        let Some(entry) = found.filter(|entry| entry.span.range(position, len).is_some()) else {
            self.stats.misses += 1;
            return None;
        };
        entry.used = true;
        self.stats.hits += 1;
        Some(entry.span.clone())
    }

    /// Whether [`Cache::get`] would find it; counts nothing.
    pub(crate) fn has(&self, position: Position, len: usize) -> bool {
        let flush = self.flushes.range(..=position.0).next_back().map(|(_, entry)| entry);
        [flush, self.windows.get(&window(position))]
            .into_iter()
            .flatten()
            .any(|entry| entry.span.range(position, len).is_some())
    }

    /// Whether `len` bytes more would stay within the limit after throwing out what nobody holds: read-ahead asks.
    pub(crate) fn has_room_beside_held(&self, len: usize) -> bool {
        self.stats.bytes_orphaned.saturating_add(charge(len)) <= self.limit
    }

    /// Takes in the buffer of a durable flush.
    pub(crate) fn insert_flush(&mut self, span: Span) {
        self.insert(Key::Flush(span.position.0), span);
    }

    /// Takes in a window (or the written part of one) read from disk.
    pub(crate) fn insert_window(&mut self, span: Span) {
        self.insert(Key::Window(window(span.position)), span);
    }

    fn insert(&mut self, key: Key, span: Span) {
        let cost = charge(span.len());
        self.forget_orphans();
        self.make_room(cost);
        self.stats.bytes += cost;
        // A window was read because somebody wants it, at once or, read ahead, soon.
        let entry = Entry { span, cost, used: matches!(key, Key::Window(_)) };
        let replaced = match key {
            Key::Flush(position) => self.flushes.insert(position, entry),
            Key::Window(position) => self.windows.insert(position, entry),
        };
        match replaced {
            Some(old) => self.let_go(&old),
            None => self.clock.push_back(key),
        }
    }

    fn make_room(&mut self, cost: usize) {
        let mut looks = 2 * self.clock.len();
        while self.stats.bytes + cost > self.limit {
            let next = if looks > 0 { self.clock.pop_front() } else { None };
            let Some(key) = next else {
                self.stats.over_limit += 1;
                return;
            };
            looks -= 1;
            let entry = match key {
                Key::Flush(position) => self.flushes.get_mut(&position),
                Key::Window(position) => self.windows.get_mut(&position),
            };
            let Some(entry) = entry else { continue };
            // Memory that a reader holds would not come free: it may as well go on serving others.
            if std::mem::take(&mut entry.used) || Rc::strong_count(&entry.span.memory) > 1 {
                self.clock.push_back(key);
                continue;
            }
            let entry = match key {
                Key::Flush(position) => self.flushes.remove(&position),
                Key::Window(position) => self.windows.remove(&position),
            };
            if let Some(entry) = entry {
                self.stats.evicted += 1;
                self.let_go(&entry);
            }
        }
    }

    fn let_go(&mut self, entry: &Entry) {
        if Rc::strong_count(&entry.span.memory) > 1 {
            self.stats.bytes_orphaned += entry.cost;
            self.orphans.push((Rc::downgrade(&entry.span.memory), entry.cost));
        } else {
            self.stats.bytes -= entry.cost;
        }
    }

    fn forget_orphans(&mut self) {
        let stats = &mut self.stats;
        self.orphans.retain(|(memory, cost)| {
            let held = memory.strong_count() > 0;
            if !held {
                stats.bytes -= cost;
                stats.bytes_orphaned -= cost;
            }
            held
        });
    }
}

const fn window(position: Position) -> u64 {
    position.0 / WINDOW_BYTES * WINDOW_BYTES
}

/// What an allocation of `len` bytes takes from a buddy allocator.
const fn charge(len: usize) -> usize {
    len.next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(position: u64, len: usize) -> Span {
        Span { position: Position(position), memory: Rc::new(vec![7_u8; len]), checked_to: Position(0) }
    }

    #[test]
    fn flushes_and_windows_are_found_side_by_side() {
        let mut cache = Cache::new(1 << 30);
        cache.insert_flush(span(WINDOW_BYTES + 8192, 4096));
        cache.insert_window(span(WINDOW_BYTES, 1 << 20));
        for position in [WINDOW_BYTES, WINDOW_BYTES + 8192, WINDOW_BYTES + 12288, 2 * WINDOW_BYTES - 1] {
            assert!(cache.get(Position(position), 1).is_some(), "position {position}");
        }
        assert!(cache.get(Position(2 * WINDOW_BYTES - 1), 2).is_none());
        assert!(cache.get(Position(WINDOW_BYTES - 1), 1).is_none());
        assert!(
            cache.get(Position(WINDOW_BYTES + 8192), 8192).is_some(),
            "longer than the flush: the window has it"
        );
        assert_eq!((cache.stats().hits, cache.stats().misses), (5, 2));
    }

    #[test]
    fn the_limit_counts_what_the_allocator_takes() {
        let mut cache = Cache::new(3 * 8192);
        for n in 0..10 {
            cache.insert_flush(span(n * 8192, 5000));
        }
        assert_eq!(cache.stats().bytes, 3 * 8192);
        assert_eq!(cache.stats().evicted, 7);
        assert!(cache.has(Position(9 * 8192), 5000) && !cache.has(Position(6 * 8192), 1));
    }

    #[test]
    fn what_was_used_gets_a_second_chance() {
        let mut cache = Cache::new(2 * 4096);
        cache.insert_flush(span(0, 4096));
        cache.insert_flush(span(4096, 4096));
        cache.get(Position(0), 1).unwrap();
        cache.insert_flush(span(8192, 4096));
        assert!(cache.has(Position(0), 1) && !cache.has(Position(4096), 1));
    }

    #[test]
    fn what_readers_hold_stays_and_stays_counted() {
        let mut cache = Cache::new(4096);
        cache.insert_flush(span(0, 4096));
        let held = cache.get(Position(0), 1).unwrap();
        cache.insert_flush(span(4096, 4096));
        assert_eq!((cache.stats().bytes, cache.stats().over_limit), (8192, 1));
        assert!(cache.has(Position(0), 1));
        drop(held);
        cache.insert_flush(span(8192, 4096));
        cache.insert_flush(span(12288, 4096));
        assert_eq!(cache.stats().bytes, 4096);
    }

    #[test]
    fn replaced_memory_is_counted_until_its_reader_is_gone() {
        let mut cache = Cache::new(1 << 20);
        cache.insert_window(span(0, 4096));
        let held = cache.get(Position(0), 1).unwrap();
        cache.insert_window(span(0, 8192));
        assert_eq!((cache.stats().bytes, cache.stats().bytes_orphaned), (4096 + 8192, 4096));
        drop(held);
        cache.insert_flush(span(1 << 20, 4096));
        assert_eq!((cache.stats().bytes, cache.stats().bytes_orphaned), (8192 + 4096, 0));
    }
}
