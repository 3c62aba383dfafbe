//! What each producer last stored in each queue, so that a batch sent twice is stored once. Pure.
//!
//! State per (producer id, queue): the last batches in order of offset, each with epoch, sequence and offset. Exactly
//! the next sequence is appended; a remembered batch is answered with its original offset; anything else is refused.
//!
//! **Invariants**: at most [`IN_FLIGHT_MAX`] batches of one producer and queue are appended and not yet durable, and
//! one more is remembered, so the newest *durable* batch is always known: snapshots are made of durable state only.
//! The number of producers is bounded; the one that appended longest ago is forgotten first.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::num::NonZeroUsize;

use equeue_record::{BatchHeader, Offset, QueueKey};
use lru::LruCache;
use smallvec::SmallVec;

use crate::types::Ticket;

/// Batches of one producer in one queue that may wait for durability at the same time.
pub(crate) const IN_FLIGHT_MAX: usize = 5;
/// Batches remembered of one producer in one queue.
pub(crate) const REMEMBERED: usize = IN_FLIGHT_MAX + 1;
/// Bytes of one batch in a snapshot.
pub(crate) const STORED_LEN: usize = 26;

/// Names the state of a producer in a queue. The id is random and chosen by the producer.
pub(crate) type ProducerKey = (i64, QueueKey);

/// A stored batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredBatch {
    pub(crate) epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: u32,
    pub(crate) base_offset: Offset,
    pub(crate) append_time_ms: i64,
    /// 0 for what was there when the log was opened.
    pub(crate) ticket: Ticket,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    Append,
    /// It was stored before.
    Duplicate(StoredBatch),
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A batch before this one is missing, or it is older than what is remembered.
    SequenceGap { expected: i32, found: i32 },
    /// An unknown producer begins with a sequence other than 0.
    Unknown { sequence: i32 },
    /// A newer epoch is in force.
    StaleEpoch { found: i16, current: i16 },
    /// [`IN_FLIGHT_MAX`] batches are not durable yet.
    InFlight,
    /// The table is full of producers whose batches are not durable yet.
    TooMany,
}

#[derive(Debug, Default)]
struct Producer {
    batches: SmallVec<[StoredBatch; REMEMBERED]>,
}

/// The producers of one log.
#[derive(Debug)]
pub(crate) struct ProducerTable {
    producers: LruCache<ProducerKey, Producer, RandomState>,
}

impl StoredBatch {
    /// The sequence that follows it. Sequences wrap as `i32` does.
    const fn next_sequence(&self) -> i32 {
        self.base_sequence.wrapping_add(self.record_count.cast_signed())
    }
}

impl ProducerTable {
    pub(crate) fn new(producers_max: usize) -> Self {
        let limit = NonZeroUsize::new(producers_max).unwrap_or(NonZeroUsize::MIN);
        // Unbounded and bounded by hand: a producer whose batches are not durable must not be forgotten.
        let mut producers = LruCache::unbounded_with_hasher(RandomState::new());
        producers.resize(limit);
        Self { producers }
    }

    /// One for a replay, which meets producers in another order than they appended in; see [`Self::replayed`].
    pub(crate) fn replaying(producers_max: usize) -> Self {
        Self::new(producers_max.saturating_mul(2))
    }

    /// The table after a replay: who appended longest ago is forgotten first.
    pub(crate) fn replayed(mut self, producers_max: usize) -> Self {
        let mut all: Vec<_> = std::iter::from_fn(|| self.producers.pop_lru()).collect();
        // Stable: where times are equal, the order of the replay counts.
        all.sort_by_key(|(_, producer)| producer.batches.last().map(|last| last.append_time_ms));
        let mut table = Self::new(producers_max);
        for (key, producer) in all {
            table.producers.put(key, producer);
        }
        table
    }

    /// Whether one more batch may be on its way beside `more` that are about to be recorded.
    pub(crate) fn has_room(&self, key: &ProducerKey, more: usize, durable: Ticket) -> bool {
        let known = self.producers.peek(key);
        known.map_or(0, |producer| producer.in_flight(durable)) + more < IN_FLIGHT_MAX
    }

    /// Producers remembered.
    pub(crate) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Decides about a batch of a producer; changes nothing.
    pub(crate) fn check(
        &self,
        queue: QueueKey,
        header: &BatchHeader,
        durable: Ticket,
    ) -> Result<Verdict, Refusal> {
        let Some(producer) = self.producers.peek(&(header.producer_id, queue)) else {
            return self.check_unknown(header, durable);
        };
        let Some(last) = producer.batches.last() else {
            return self.check_unknown(header, durable);
        };
        if header.producer_epoch < last.epoch {
            return Err(Refusal::StaleEpoch { found: header.producer_epoch, current: last.epoch });
        }
        if let Some(known) = producer.known(header) {
            return Ok(Verdict::Duplicate(known));
        }
        let expected = if header.producer_epoch > last.epoch { 0 } else { last.next_sequence() };
        if header.base_sequence != expected {
            return Err(Refusal::SequenceGap { expected, found: header.base_sequence });
        }
        if producer.in_flight(durable) >= IN_FLIGHT_MAX {
            return Err(Refusal::InFlight);
        }
        Ok(Verdict::Append)
    }

    fn check_unknown(&self, header: &BatchHeader, durable: Ticket) -> Result<Verdict, Refusal> {
        if header.base_sequence != 0 {
            return Err(Refusal::Unknown { sequence: header.base_sequence });
        }
        if self.producers.len() >= self.producers.cap().get()
            && self.producers.peek_lru().is_some_and(|(_, oldest)| !oldest.is_durable(durable))
        {
            return Err(Refusal::TooMany);
        }
        Ok(Verdict::Append)
    }

    /// Remembers a batch that was appended, or that replay found in the log.
    pub(crate) fn record(
        &mut self,
        queue: QueueKey,
        header: &BatchHeader,
        at: (Offset, i64),
        ticket: Ticket,
    ) {
        let batch = StoredBatch {
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            record_count: header.record_count,
            base_offset: at.0,
            append_time_ms: at.1,
            ticket,
        };
        self.producers.get_or_insert_mut((header.producer_id, queue), Producer::default).remember(batch);
    }

    /// Takes over what a snapshot says of a producer: batches that replay found already are kept, the rest is added.
    pub(crate) fn merge(&mut self, key: ProducerKey, stored: &[StoredBatch]) {
        let producer = self.producers.get_or_insert_mut(key, Producer::default);
        for batch in stored {
            producer.remember(*batch);
        }
    }

    /// Forgets producers whose last batch is durable and was appended before `oldest_ms`.
    pub(crate) fn forget_idle(&mut self, oldest_ms: i64, durable: Ticket) {
        let is_idle = |last: &StoredBatch| last.append_time_ms < oldest_ms && last.ticket <= durable;
        while self
            .producers
            .peek_lru()
            .is_some_and(|(_, producer)| producer.batches.last().is_none_or(is_idle))
        {
            self.producers.pop_lru();
        }
    }

    /// Forgets all producers of queues that are no more.
    pub(crate) fn forget_queues(&mut self, dead: &[QueueKey]) {
        if dead.is_empty() {
            return;
        }
        let dead: HashSet<_> = dead.iter().collect();
        let keys = self.producers.iter().map(|(key, _)| *key);
        let gone: Vec<_> = keys.filter(|(_, queue)| dead.contains(queue)).collect();
        for key in gone {
            self.producers.pop(&key);
        }
    }

    /// Keys of all producers, for a snapshot to walk along.
    pub(crate) fn keys(&self) -> Vec<ProducerKey> {
        // Oldest first, so that replaying a snapshot restores who is forgotten first.
        self.producers.iter().rev().map(|(key, _)| *key).collect()
    }

    /// The durable batches of a producer as stored in a snapshot; `false` when there are none.
    pub(crate) fn encode_durable(&self, key: &ProducerKey, durable: Ticket, out: &mut Vec<u8>) -> bool {
        let Some(producer) = self.producers.peek(key) else { return false };
        let before = out.len();
        for batch in producer.batches.iter().filter(|batch| batch.ticket <= durable) {
            out.extend_from_slice(&batch.epoch.to_le_bytes());
            out.extend_from_slice(&batch.base_sequence.to_le_bytes());
            out.extend_from_slice(&batch.record_count.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.0.to_le_bytes());
            out.extend_from_slice(&batch.append_time_ms.to_le_bytes());
        }
        out.len() > before
    }
}

impl Producer {
    /// The remembered batch that this one repeats.
    fn known(&self, header: &BatchHeader) -> Option<StoredBatch> {
        self.batches
            .iter()
            .find(|batch| {
                batch.epoch == header.producer_epoch
                    && batch.base_sequence == header.base_sequence
                    && batch.record_count == header.record_count
            })
            .copied()
    }

    fn is_durable(&self, durable: Ticket) -> bool {
        self.in_flight(durable) == 0
    }

    /// Batches that are not durable.
    fn in_flight(&self, durable: Ticket) -> usize {
        self.batches.iter().filter(|batch| batch.ticket > durable).count()
    }

    /// Inserts in order of offset, once, keeping the newest.
    fn remember(&mut self, batch: StoredBatch) {
        let at = self.batches.partition_point(|known| known.base_offset < batch.base_offset);
        if self.batches.get(at).is_some_and(|known| known.base_offset == batch.base_offset) {
            return;
        }
        if self.batches.len() == REMEMBERED {
            if at == 0 {
                return;
            }
            self.batches.remove(0);
            self.batches.insert(at - 1, batch);
        } else {
            self.batches.insert(at, batch);
        }
    }
}

/// Reads what [`ProducerTable::encode_durable`] wrote; `None` when it is not that.
pub(crate) fn decode_stored(bytes: &[u8]) -> Option<SmallVec<[StoredBatch; REMEMBERED]>> {
    if !bytes.len().is_multiple_of(STORED_LEN) || bytes.len() > STORED_LEN * REMEMBERED {
        return None;
    }
    bytes
        .chunks_exact(STORED_LEN)
        .map(|mut field| {
            Some(StoredBatch {
                epoch: i16::from_le_bytes(take(&mut field)?),
                base_sequence: i32::from_le_bytes(take(&mut field)?),
                record_count: u32::from_le_bytes(take(&mut field)?),
                base_offset: Offset(u64::from_le_bytes(take(&mut field)?)),
                append_time_ms: i64::from_le_bytes(take(&mut field)?),
                ticket: Ticket(0),
            })
        })
        .collect()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use equeue_record::{BatchBuilder, Codec, ProducerStamp, RecordFields};

    use super::*;

    const QUEUE: QueueKey = QueueKey(7);

    fn header(epoch: i16, sequence: i32, records: u32) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 16);
        for _ in 0..records {
            builder.push(&RecordFields { body: Some(b"x"), ..RecordFields::default() }).unwrap();
        }
        let batch = builder
            .finish(ProducerStamp { producer_id: 42, producer_epoch: epoch, base_sequence: sequence })
            .unwrap();
        BatchHeader::parse(&batch).unwrap()
    }

    /// Checks and, when it is the next, records at `offset` under `ticket`.
    fn append(
        table: &mut ProducerTable,
        header: &BatchHeader,
        offset: u64,
        ticket: u64,
        durable: u64,
    ) -> Result<Verdict, Refusal> {
        let verdict = table.check(QUEUE, header, Ticket(durable))?;
        if verdict == Verdict::Append {
            table.record(QUEUE, header, (Offset(offset), 1000), Ticket(ticket));
        }
        Ok(verdict)
    }

    #[test]
    fn exactly_the_next_sequence_is_appended() {
        let mut table = ProducerTable::new(10);
        assert_eq!(append(&mut table, &header(0, 0, 3), 0, 1, 0), Ok(Verdict::Append));
        assert_eq!(
            append(&mut table, &header(0, 4, 1), 3, 2, 0),
            Err(Refusal::SequenceGap { expected: 3, found: 4 })
        );
        assert_eq!(append(&mut table, &header(0, 3, 1), 3, 2, 0), Ok(Verdict::Append));
    }

    #[test]
    fn a_repeated_batch_gets_its_original_offset_and_ticket() {
        let mut table = ProducerTable::new(10);
        append(&mut table, &header(0, 0, 2), 10, 5, 0).unwrap();
        append(&mut table, &header(0, 2, 2), 12, 6, 0).unwrap();
        let Ok(Verdict::Duplicate(original)) = append(&mut table, &header(0, 0, 2), 99, 7, 0) else {
            panic!("not seen as a duplicate")
        };
        assert_eq!((original.base_offset, original.ticket), (Offset(10), Ticket(5)));
        // Same sequence with another count is another batch: batches are frozen once sent.
        assert_eq!(
            append(&mut table, &header(0, 0, 1), 99, 7, 0),
            Err(Refusal::SequenceGap { expected: 4, found: 0 })
        );
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_shuts_out_the_old_one() {
        let mut table = ProducerTable::new(10);
        append(&mut table, &header(0, 0, 2), 0, 1, 0).unwrap();
        assert_eq!(
            append(&mut table, &header(1, 2, 1), 2, 2, 0),
            Err(Refusal::SequenceGap { expected: 0, found: 2 })
        );
        append(&mut table, &header(1, 0, 1), 2, 2, 0).unwrap();
        assert_eq!(
            append(&mut table, &header(0, 2, 1), 3, 3, 0),
            Err(Refusal::StaleEpoch { found: 0, current: 1 })
        );
    }

    #[test]
    fn an_unknown_producer_must_begin_at_zero() {
        let mut table = ProducerTable::new(10);
        assert_eq!(append(&mut table, &header(3, 9, 1), 0, 1, 0), Err(Refusal::Unknown { sequence: 9 }));
    }

    #[test]
    fn no_more_than_five_wait_for_durability() {
        let mut table = ProducerTable::new(10);
        for n in 0..5_i32 {
            let offset = u64::from(n.unsigned_abs());
            append(&mut table, &header(0, n, 1), offset, offset + 1, 0).unwrap();
        }
        assert_eq!(append(&mut table, &header(0, 5, 1), 5, 6, 0), Err(Refusal::InFlight));
        assert_eq!(append(&mut table, &header(0, 5, 1), 5, 6, 1), Ok(Verdict::Append));
    }

    #[test]
    fn snapshots_hold_durable_batches_only_and_merge_with_what_replay_found() {
        let mut table = ProducerTable::new(10);
        for n in 0..3_i32 {
            let offset = u64::from(n.unsigned_abs());
            append(&mut table, &header(0, n, 1), offset, offset + 1, 0).unwrap();
        }
        let mut bytes = Vec::new();
        assert!(!table.encode_durable(&(42, QUEUE), Ticket(0), &mut bytes), "nothing durable yet");
        assert!(table.encode_durable(&(42, QUEUE), Ticket(2), &mut bytes));
        let stored = decode_stored(&bytes).unwrap();
        assert_eq!(stored.len(), 2);

        let mut replayed = ProducerTable::new(10);
        replayed.record(QUEUE, &header(0, 1, 1), (Offset(1), 1000), Ticket(0));
        replayed.record(QUEUE, &header(0, 2, 1), (Offset(2), 1000), Ticket(0));
        replayed.merge((42, QUEUE), &stored);
        assert_eq!(
            append(&mut replayed, &header(0, 4, 1), 3, 1, 0),
            Err(Refusal::SequenceGap { expected: 3, found: 4 })
        );
        assert!(matches!(append(&mut replayed, &header(0, 0, 1), 3, 1, 0), Ok(Verdict::Duplicate(_))));
    }

    #[test]
    fn damaged_stored_state_is_refused() {
        assert!(decode_stored(&[0; STORED_LEN - 1]).is_none());
        assert!(decode_stored(&[0; STORED_LEN * (REMEMBERED + 1)]).is_none());
    }

    #[test]
    fn the_oldest_durable_producer_is_forgotten_first() {
        let mut table = ProducerTable::new(2);
        for (queue, ticket) in [(1, 1), (2, 2)] {
            table.record(QueueKey(queue), &header(0, 0, 1), (Offset(0), 0), Ticket(ticket));
        }
        assert_eq!(table.check(QueueKey(3), &header(0, 0, 1), Ticket(0)), Err(Refusal::TooMany));
        assert_eq!(table.check(QueueKey(3), &header(0, 0, 1), Ticket(1)), Ok(Verdict::Append));
        table.record(QueueKey(3), &header(0, 0, 1), (Offset(0), 0), Ticket(3));
        assert_eq!(table.len(), 2);
        assert_eq!(
            table.check(QueueKey(1), &header(0, 1, 1), Ticket(3)),
            Err(Refusal::Unknown { sequence: 1 })
        );
    }

    #[test]
    fn a_replay_forgets_in_the_order_of_appends() {
        let mut table = ProducerTable::replaying(2);
        let at = |time_ms| (Offset(0), time_ms);
        // Found in the log behind BEGIN, newer than what the slices say afterwards.
        table.record(QueueKey(3), &header(0, 0, 1), at(30), Ticket(0));
        let mut older = ProducerTable::new(2);
        for (queue, time_ms) in [(1, 10), (2, 20)] {
            older.record(QueueKey(queue), &header(0, 0, 1), at(time_ms), Ticket(0));
            let mut stored = Vec::new();
            older.encode_durable(&(42, QueueKey(queue)), Ticket(0), &mut stored);
            table.merge((42, QueueKey(queue)), &decode_stored(&stored).unwrap());
        }
        let table = table.replayed(2);
        assert_eq!(table.keys(), [(42, QueueKey(2)), (42, QueueKey(3))]);
    }

    #[test]
    fn sequences_wrap() {
        let mut table = ProducerTable::new(2);
        table.record(QUEUE, &header(0, i32::MAX, 2), (Offset(0), 0), Ticket(1));
        assert_eq!(append(&mut table, &header(0, i32::MIN + 1, 1), 2, 2, 1), Ok(Verdict::Append));
    }
}
