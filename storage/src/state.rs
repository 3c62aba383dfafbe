//! State entries: keys and values that live in the log beside the messages. Pure.
//!
//! A state entry is a record of a *control* batch under [`QueueKey::STATE`]: its key is a class byte and the entry's
//! key, its body the value, no body removes the key. Snapshots hold the same entries, and the log's own facts (bounds
//! of queues, producers) under classes of their own, so that there is one encoding for all of it.
//!
//! **Invariants**: [`StateTable`] holds durable entries only. The last writer in the log wins, *by position*: what a
//! snapshot says of a key counts only where no record at or after the slice's `as_of` said something else, so
//! [`StateReplay`] remembers removed keys, with positions, until the replay is over.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use equeue_record::{BATCH_HEADER_LEN, BatchView, Decompressor, QueueKey, RecordError};

use crate::format::{self, StateBatchBuilder, read_state};
use crate::producer_state::ProducerKey;
use crate::types::Position;

/// Longest key of a state entry, bytes: one less than a key on disk, which has a class in front.
pub(crate) const STATE_KEY_BYTES_MAX: usize = format::STATE_KEY_BYTES_MAX - 1;

/// Bytes that a record may have beside its key and body.
const RECORD_OVERHEAD: usize = 32;

const CLASS_STATE: u8 = b's';
const CLASS_QUEUE: u8 = b'q';
const CLASS_PRODUCER: u8 = b'p';
const CLASS_START: u8 = b't';
const CLASS_KEPT: u8 = b'k';
const CLASS_DEAD: u8 = b'd';

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKey<'a> {
    /// An entry of the log's user.
    State(&'a [u8]),
    /// Bounds of a queue. Value: start and next offset.
    Queue(QueueKey),
    /// The last batches of a producer in a queue.
    Producer(ProducerKey),
    /// Where a queue begins. Value: the offset.
    Start(QueueKey),
    /// Where the log begins. Value: the position.
    Kept,
    /// A queue that is no more. Value: empty.
    Dead(QueueKey),
}

impl<'a> EntryKey<'a> {
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::State(key) => {
                out.push(CLASS_STATE);
                out.extend_from_slice(key);
            }
            Self::Queue(queue) => put_queue(out, CLASS_QUEUE, queue),
            Self::Producer((producer, queue)) => {
                out.push(CLASS_PRODUCER);
                out.extend_from_slice(&queue.0.to_be_bytes());
                out.extend_from_slice(&producer.to_be_bytes());
            }
            Self::Start(queue) => put_queue(out, CLASS_START, queue),
            Self::Kept => out.push(CLASS_KEPT),
            Self::Dead(queue) => put_queue(out, CLASS_DEAD, queue),
        }
    }

    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (class, rest) = bytes.split_first()?;
        match *class {
            CLASS_STATE => Some(Self::State(rest)),
            CLASS_QUEUE => read_queue(rest).map(Self::Queue),
            CLASS_START => read_queue(rest).map(Self::Start),
            CLASS_KEPT => rest.is_empty().then_some(Self::Kept),
            CLASS_DEAD => read_queue(rest).map(Self::Dead),
            CLASS_PRODUCER => {
                let (queue, producer) = rest.split_first_chunk::<8>()?;
                let producer = i64::from_be_bytes(producer.try_into().ok()?);
                Some(Self::Producer((producer, QueueKey(u64::from_be_bytes(*queue)))))
            }
            _ => None,
        }
    }
}

fn put_queue(out: &mut Vec<u8>, class: u8, queue: QueueKey) {
    out.push(class);
    out.extend_from_slice(&queue.0.to_be_bytes());
}

fn read_queue(bytes: &[u8]) -> Option<QueueKey> {
    bytes.try_into().ok().map(|key| QueueKey(u64::from_be_bytes(key)))
}

/// Builds the control batch of some entries.
pub(crate) struct EntryBatch {
    builder: StateBatchBuilder,
    key: Vec<u8>,
}

impl EntryBatch {
    /// An empty one that holds at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { builder: StateBatchBuilder::new(bytes_max), key: Vec::new() }
    }

    /// Adds an entry; `false` when it does not fit.
    pub(crate) fn push(&mut self, key: EntryKey<'_>, value: Option<&[u8]>) -> bool {
        self.key.clear();
        key.put(&mut self.key);
        self.builder.push(&self.key, value).is_ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// The batch.
    pub(crate) fn finish(self) -> Result<Bytes, RecordError> {
        self.builder.finish()
    }
}

/// Bytes that a batch of these entries has at the most.
pub(crate) fn batch_bytes_max<'a>(entries: impl Iterator<Item = (&'a [u8], usize)>) -> usize {
    entries.fold(BATCH_HEADER_LEN, |sum, (key, value)| {
        sum.saturating_add(key.len()).saturating_add(value).saturating_add(RECORD_OVERHEAD)
    })
}

/// Hands out the entries of a control batch, in order.
///
/// # Errors
/// When the batch or an entry is not well formed.
pub(crate) fn for_each_entry(
    batch: &[u8],
    mut each: impl FnMut(EntryKey<'_>, Option<&[u8]>),
) -> Result<(), RecordError> {
    let view = BatchView::parse(batch)?;
    let mut unknown = false;
    read_state(&view, &mut Decompressor::default(), |key, value| match EntryKey::parse(key) {
        Some(key) => each(key, value),
        None => unknown = true,
    })?;
    if unknown { Err(RecordError::Field { field: "key", value: 0 }) } else { Ok(()) }
}

/// The durable state entries.
#[derive(Debug, Default)]
pub(crate) struct StateTable {
    entries: BTreeMap<Bytes, Bytes>,
}

impl StateTable {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.entries.get(key)
    }

    /// Applies an entry that became durable. Copies, so that no receive buffer is kept alive by a small entry.
    pub(crate) fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        match (value, self.entries.get_mut(key)) {
            (Some(value), Some(known)) => *known = Bytes::copy_from_slice(value),
            (Some(value), None) => {
                self.entries.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            }
            (None, _) => {
                self.entries.remove(key);
            }
        }
    }

    /// Entries whose key begins with `prefix`, in order of keys.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        self.entries
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Entries after `key` (from the first one for `None`), in order of keys.
    pub(crate) fn after<'a>(&'a self, key: Option<&[u8]>) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<[u8], _>((from, Bound::Unbounded))
    }
}

/// State entries while the log is replayed.
#[derive(Debug, Default)]
pub(crate) struct StateReplay {
    entries: BTreeMap<Bytes, Written>,
}

#[derive(Debug)]
struct Written {
    at: Position,
    value: Option<Bytes>,
}

impl StateReplay {
    /// A record at `at` set or removed a key.
    pub(crate) fn record(&mut self, at: Position, key: &[u8], value: Option<&[u8]>) {
        let written = Written { at, value: value.map(Bytes::copy_from_slice) };
        if let Some(known) = self.entries.get_mut(key) {
            *known = written;
        } else {
            self.entries.insert(Bytes::copy_from_slice(key), written);
        }
    }

    /// A slice of a snapshot says what a key was before position `as_of`.
    pub(crate) fn snapshot(&mut self, as_of: Position, key: &[u8], value: Option<&[u8]>) {
        if self.entries.get(key).is_none_or(|known| known.at < as_of) {
            // As if written just before `as_of`: whatever comes at or after it wins.
            self.record(Position(as_of.0.saturating_sub(1)), key, value);
        }
    }

    /// The replay is over: removed keys are forgotten.
    pub(crate) fn finish(self) -> StateTable {
        let entries = self.entries.into_iter();
        StateTable { entries: entries.filter_map(|(key, written)| Some((key, written.value?))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use equeue_record::{BROKER_PART_LEN, BrokerStamp, MasterEpoch, Offset, stamp};

    use super::*;

    fn stamped(batch: EntryBatch) -> Vec<u8> {
        let mut bytes = batch.finish().unwrap().to_vec();
        let broker = BrokerStamp {
            base_offset: Offset(0),
            append_time_ms: 1,
            queue_key: QueueKey::STATE,
            master_epoch: MasterEpoch(1),
        };
        stamp(bytes.first_chunk_mut::<BROKER_PART_LEN>().unwrap(), &broker);
        bytes
    }

    #[test]
    fn entries_of_every_class_round_trip() {
        let keys = [
            (EntryKey::State(b"topic/a"), Some(&b"value"[..])),
            (EntryKey::State(b""), None),
            (EntryKey::Queue(QueueKey(u64::MAX)), Some(b"")),
            (EntryKey::Producer((-5, QueueKey(9))), Some(b"x")),
        ];
        let mut batch = EntryBatch::new(1 << 16);
        for (key, value) in keys {
            assert!(batch.push(key, value));
        }
        let mut found = 0;
        for_each_entry(&stamped(batch), |key, value| {
            assert_eq!((key, value), keys[found]);
            found += 1;
        })
        .unwrap();
        assert_eq!(found, keys.len());
    }

    #[test]
    fn the_bound_on_a_batch_holds() {
        let (key, value) = (vec![1; STATE_KEY_BYTES_MAX], vec![2; format::STATE_VALUE_BYTES_MAX]);
        let mut batch = EntryBatch::new(batch_bytes_max([(&key[..], value.len())].into_iter()));
        assert!(batch.push(EntryKey::State(&key), Some(&value)));
    }

    #[test]
    fn unknown_classes_are_refused() {
        for key in [&b"x"[..], b"", b"q1234567", b"p123456789012345"] {
            assert_eq!(EntryKey::parse(key), None, "{key:?}");
        }
    }

    #[test]
    fn a_record_at_or_after_as_of_wins_over_the_snapshot() {
        let mut replay = StateReplay::default();
        replay.record(Position(100), b"kept", Some(b"new"));
        replay.record(Position(100), b"removed", None);
        replay.record(Position(50), b"older", Some(b"old"));
        for key in [&b"kept"[..], b"removed", b"older", b"only"] {
            replay.snapshot(Position(100), key, Some(b"snapshot"));
        }
        replay.record(Position(100), b"late", Some(b"late"));
        let table = replay.finish();
        assert_eq!(table.get(b"kept").unwrap(), "new");
        assert_eq!(table.get(b"removed"), None);
        assert_eq!(table.get(b"older").unwrap(), "snapshot");
        assert_eq!(table.get(b"only").unwrap(), "snapshot");
        assert_eq!(table.get(b"late").unwrap(), "late");
    }

    #[test]
    fn prefixes_and_walking_on() {
        let mut table = StateTable::default();
        for key in ["a", "b1", "b2", "c"] {
            table.apply(key.as_bytes(), Some(b"v"));
        }
        table.apply(b"c", None);
        let keys: Vec<_> = table.with_prefix(b"b").map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, ["b1", "b2"]);
        let keys: Vec<_> = table.after(Some(b"b1")).map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, ["b2"]);
        assert_eq!(table.after(None).count(), 3);
    }
}
