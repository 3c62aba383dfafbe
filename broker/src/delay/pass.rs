//! Reads the bytes of many messages of many delay queues in one go through the log.
//!
//! Messages that are due at about the same time lie anywhere, and those of several queues lie side by side. So the queues
//! are read in step, in the order of append times, which is about that of the log: a window of the log that holds messages
//! of many of them comes from disk once. Where little lies between two messages it is read as well, because the log reads
//! ahead for who reads on and on.
//!
//! **Invariants**: each read of the log brings a queue on, or ends it; a message that could not be read is told.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use equeue_record::{Offset, QueueKey};
use equeue_storage::log::{ReadBatches, ReadError};

use super::load::{self, LoadError};
use super::ready::Loaded;
use super::wheel::Waiting;
use crate::shard::state::Log;

/// Bytes that a record is thought to take before any was read.
const MEAN_BYTES_FIRST: u64 = 1_000;
/// So many bytes between two messages are read as well: to leave out less than a window saves no read.
const GAP_BYTES: u64 = 1 << 20;
/// No offset that something was read up to.
const NOWHERE: Offset = Offset(u64::MAX);

/// What became of a message; those not told of are not durable yet, or are on disk where that was not to be asked.
pub(crate) type LoadedOne = (Waiting, Result<Loaded, LoadError>);

/// Messages wanted of one delay queue, and how far the pass has come with them.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    queue: QueueKey,
    /// Still to be read, in order of offsets.
    wanted: &'a [Waiting],
    /// What was read last ended here.
    next: Offset,
    /// Append time of the last batch of it.
    time_ms: i64,
    /// Bytes of a record, in the mean.
    mean_bytes: u64,
}

/// See the file's own text.
pub(crate) struct Pass<'a> {
    lanes: Vec<Lane<'a>>,
    /// Those with something left, by the append time that they have come to.
    order: BinaryHeap<Reverse<(i64, usize)>>,
    read_bytes: usize,
    ask_disk: bool,
}

impl<'a> Pass<'a> {
    /// A pass through these queues. Without the disk, what is not in memory is left out.
    pub(crate) fn new(lanes: Vec<Lane<'a>>, ask_disk: bool) -> Self {
        let order = (0..lanes.len()).map(|lane| Reverse((i64::MIN, lane))).collect();
        let read_bytes = load::turn_bytes(lanes.len());
        Self { lanes, order, read_bytes, ask_disk }
    }

    /// Reads on; `None`: through.
    pub(crate) async fn next(&mut self, log: &Log) -> Option<Vec<LoadedOne>> {
        let Reverse((_, number)) = self.order.pop()?;
        let lane = self.lanes.get_mut(number)?;
        let told = lane.read(log, self.read_bytes, self.ask_disk).await;
        if !lane.wanted.is_empty() {
            self.order.push(Reverse((lane.time_ms, number)));
        }
        Some(told)
    }
}

impl<'a> Lane<'a> {
    /// Messages of a queue, in order of their offsets.
    pub(crate) fn new(queue: QueueKey, wanted: &'a [Waiting]) -> Self {
        Self { queue, wanted, next: NOWHERE, time_ms: i64::MIN, mean_bytes: MEAN_BYTES_FIRST }
    }

    async fn read(&mut self, log: &Log, bytes_max: usize, ask_disk: bool) -> Vec<LoadedOne> {
        let Some(first) = self.wanted.first() else { return Vec::new() };
        let wanted = Offset(first.offset);
        if log.bounds(self.queue).is_none_or(|bounds| wanted >= bounds.durable_end) {
            self.wanted = &[]; // not durable yet, and neither is what follows
            return Vec::new();
        }
        let from = self.begin_for(wanted);
        let bytes_max = bytes_max.min(self.bytes_from(from)).max(load::READ_BYTES_MIN);
        let read = match log.read_cached(self.queue, from, bytes_max) {
            Some(read) => read,
            None if ask_disk => log.read(self.queue, from, bytes_max).await,
            None => {
                self.wanted = self.wanted.get(1..).unwrap_or_default();
                return Vec::new();
            }
        };
        self.take(from, wanted, read)
    }

    /// Where to read for a message: from it on, or from the end of what was read last when that is near.
    fn begin_for(&self, wanted: Offset) -> Offset {
        let gap = wanted.0.checked_sub(self.next.0);
        let is_near = gap.is_some_and(|records| records.saturating_mul(self.mean_bytes) <= GAP_BYTES);
        if is_near { self.next } else { wanted }
    }

    /// Bytes from there to the last message wanted, about.
    fn bytes_from(&self, from: Offset) -> usize {
        let records = self.wanted.last().map_or(0, |last| last.offset.saturating_sub(from.0) + 1);
        usize::try_from(records.saturating_mul(self.mean_bytes)).unwrap_or(usize::MAX)
    }

    /// What a read from `from` says of what is wanted from `wanted` on.
    fn take(&mut self, from: Offset, wanted: Offset, read: Result<ReadBatches, ReadError>) -> Vec<LoadedOne> {
        match read {
            Ok(batches) => self.pick(from, &batches),
            Err(_) if from < wanted => {
                self.next = NOWHERE; // what lies between may be gone: once more from the message itself
                Vec::new()
            }
            Err(error) => {
                let mut told = Vec::new();
                self.give_up(error.into(), &mut told);
                told
            }
        }
    }

    /// Takes the messages wanted out of a read.
    fn pick(&mut self, from: Offset, batches: &ReadBatches) -> Vec<LoadedOne> {
        let (queue, mut rest, mut told) = (self.queue, self.wanted, Vec::new());
        let mut records = 0;
        let walked = load::for_each(batches, &mut |delayed| {
            records += 1;
            self.time_ms = delayed.append_time_ms;
            let offset = delayed.record.offset;
            while let [first, others @ ..] = rest
                && first.offset <= offset.0
            {
                let missing = LoadError::Missing { queue, offset: Offset(first.offset) };
                let found = if first.offset == offset.0 { Ok(delayed.loaded()) } else { Err(missing) };
                told.push((*first, found));
                rest = others;
            }
        });
        self.wanted = rest;
        self.mean_bytes = (batches.bytes as u64).checked_div(records).unwrap_or(1).max(1);
        self.next = batches.next_offset;
        if let Err(error) = walked {
            // It may be another message's batch that is bad: then this one is read by itself next.
            self.next = NOWHERE;
            if self.wanted.first().is_some_and(|first| first.offset < batches.next_offset.0) {
                self.give_up(error.into(), &mut told);
            }
        } else {
            // A read that brings nothing on says of the first one that it is not there.
            let end = if self.next > from { self.next.0 } else { from.0.saturating_add(1) };
            while let [first, ..] = self.wanted
                && first.offset < end
            {
                let missing = LoadError::Missing { queue, offset: Offset(first.offset) };
                self.give_up(missing, &mut told);
            }
        }
        told
    }

    /// The next one cannot be read.
    fn give_up(&mut self, error: LoadError, told: &mut Vec<LoadedOne>) {
        if let [first, others @ ..] = self.wanted {
            told.push((*first, Err(error)));
            self.wanted = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use equeue_record::{BatchBuilder, BrokerStamp, Codec, MasterEpoch, ProducerStamp, RecordFields, stamp};
    use equeue_storage::log::LogSlice;

    use super::*;

    const QUEUE: QueueKey = QueueKey(7);

    fn wanted(offsets: &[u64]) -> Vec<Waiting> {
        offsets.iter().map(|offset| Waiting { due_ms: 1, queue: 0, offset: *offset }).collect()
    }

    /// A read of batches of ten records each, as the log gives them.
    fn read(batches: &[u64], next: u64) -> ReadBatches {
        let mut memory = Vec::new();
        for base in batches {
            let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
            for number in 0..10_u64 {
                let body = (base + number).to_le_bytes();
                builder.push(&RecordFields { body: Some(&body), ..RecordFields::default() }).unwrap();
            }
            let mut batch = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
            let assigned = BrokerStamp {
                base_offset: Offset(*base),
                append_time_ms: 1_000 + i64::try_from(*base).unwrap(),
                queue_key: QUEUE,
                master_epoch: MasterEpoch::default(),
            };
            stamp(batch.first_chunk_mut().unwrap(), &assigned);
            memory.extend_from_slice(&batch);
        }
        let range = 0..memory.len();
        let bytes = memory.len();
        let pieces = vec![LogSlice { memory: Rc::new(memory), range }];
        ReadBatches { pieces, bytes, next_offset: Offset(next) }
    }

    fn offsets(told: &[LoadedOne]) -> Vec<(u64, bool)> {
        told.iter().map(|(waiting, result)| (waiting.offset, result.is_ok())).collect()
    }

    #[test]
    fn a_read_gives_what_is_wanted_and_tells_what_is_missing() {
        let all = wanted(&[3, 12, 15, 25, 31, 47]);
        let mut lane = Lane::new(QUEUE, &all);
        // Offsets 10..20 were given up by a repair.
        let told = lane.take(Offset(3), Offset(3), Ok(read(&[0, 20], 30)));
        assert_eq!(offsets(&told), [(3, true), (12, false), (15, false), (25, true)]);
        assert_eq!((lane.next, lane.time_ms, lane.wanted.len()), (Offset(30), 1_020, 2));
        assert_eq!(lane.begin_for(Offset(31)), Offset(30), "what lies between is little");
        assert_eq!(lane.begin_for(Offset(1 << 20)), Offset(1 << 20), "what lies between is much");
        assert_eq!(lane.begin_for(Offset(29)), Offset(29), "it lies before");
        let left = lane.bytes_from(Offset(30));
        assert_eq!(left as u64, 18 * lane.mean_bytes, "no more is read than what is wanted");
        // A read that gives nothing ends, too.
        let told = lane.take(Offset(31), Offset(31), Ok(read(&[], 31)));
        assert_eq!(offsets(&told), [(31, false)]);
        assert_eq!(offsets(&lane.take(Offset(47), Offset(47), Ok(read(&[40], 50)))), [(47, true)]);
        assert!(lane.wanted.is_empty());
    }

    #[test]
    fn an_error_before_the_message_is_not_the_messages() {
        let all = wanted(&[35, 36]);
        let mut lane = Lane::new(QUEUE, &all);
        lane.next = Offset(30);
        let gone =
            || ReadError::OutOfRange { queue: QUEUE, offset: Offset(30), start: Offset(33), end: Offset(90) };
        assert!(lane.take(Offset(30), Offset(35), Err(gone())).is_empty());
        assert_eq!(lane.begin_for(Offset(35)), Offset(35));
        assert_eq!(offsets(&lane.take(Offset(35), Offset(35), Err(gone()))), [(35, false)]);
        assert_eq!(lane.wanted.len(), 1);
    }
}
