//! Makes the append that delivers messages: due messages of one target queue become one batch, together with the marks
//! that they are delivered. Pure.
//!
//! **Invariant**: the parts that a delivery consists of are appended all or none, so each message is delivered once.

use std::collections::BTreeMap;

use bytes::Bytes;
use equeue_record::{
    BatchBuilder, Codec, HEADERS_MAX, MessageId, Offset, ProducerStamp, QueueKey, Record, RecordError,
    RecordFields, system,
};
use equeue_storage::log::AtomicPart;
use smallvec::SmallVec;

use super::marks::{BLOCK_VALUE_LEN, MarkPlan, encode_floor};
use super::ready::Loaded;
use super::table::{DelayQueue, DelayTable};
use super::wheel::Waiting;
use crate::state_key;

/// Bytes that a delivered message may have more than the delayed one: the header with its id, wider time deltas.
const MESSAGE_GROWTH: usize = 96;
/// Bytes that a batch, or a state entry with its key, may take beside what it holds.
const PART_BYTES: usize = 160;
/// Bytes that a record of a delayed batch must leave free of the largest batch, so that it can be delivered.
pub(super) const RESERVED_BYTES: usize = MESSAGE_GROWTH + 4 * (PART_BYTES + BLOCK_VALUE_LEN);

/// Name and value of a header.
type HeaderField<'a> = (&'a str, Option<&'a [u8]>);

/// An append that delivers.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// What is appended.
    pub(super) parts: Vec<AtomicPart>,
    /// The messages in it.
    pub(super) messages: Vec<Waiting>,
    /// The marks to be applied once it is appended, and how many messages each stands for.
    pub(super) marks: Vec<(u32, MarkPlan, u64)>,
    /// Messages whose bytes are no record.
    pub(super) malformed: Vec<(Waiting, RecordError)>,
}

/// Bytes that a message takes in an append at the most.
pub(super) fn cost(loaded: &Loaded) -> usize {
    loaded.encoded.len() + MESSAGE_GROWTH + 2 * PART_BYTES + BLOCK_VALUE_LEN
}

/// Makes one append of messages in the order given. The sum of their [`cost`]s is within what the log takes.
pub(super) fn build(table: &DelayTable, due: Vec<(Waiting, Loaded)>, cluster_check: u16) -> Delivery {
    let mut delivery = Delivery::default();
    let mut by_queue: BTreeMap<u32, Vec<(Waiting, Loaded)>> = BTreeMap::new();
    for message in due {
        by_queue.entry(message.0.queue).or_default().push(message);
    }
    for (number, messages) in by_queue {
        if let Some(queue) = table.queue(number) {
            delivery.add(number, queue, messages, cluster_check);
        }
    }
    delivery
}

impl Delivery {
    fn add(&mut self, number: u32, queue: &DelayQueue, messages: Vec<(Waiting, Loaded)>, cluster_check: u16) {
        let mut batch = BatchBuilder::new(Codec::None, usize::MAX);
        let first = self.messages.len();
        for (waiting, loaded) in messages {
            let id = MessageId { cluster_check, queue: queue.target.delay_queue(), offset: loaded.id_offset };
            match push(&mut batch, &loaded, id) {
                Ok(()) => self.messages.push(waiting),
                Err(error) => self.malformed.push((waiting, error)),
            }
        }
        let delivered = self.messages.get(first..).unwrap_or_default();
        if delivered.is_empty() {
            return;
        }
        let plan = queue.marks.plan(delivered.iter().map(|message| message.offset), queue.marks.full_to());
        self.marks.push((number, plan.clone(), delivered.len() as u64));
        match batch.finish(ProducerStamp::NONE) {
            Ok(batch) => self.parts.push(AtomicPart::Batch { queue: queue.target, batch }),
            Err(error) => {
                // Never with records and without a codec; and then nothing may be marked.
                self.marks.pop();
                let failed = self.messages.drain(first..);
                self.malformed.extend(failed.map(|waiting| (waiting, error.clone())));
                return;
            }
        }
        self.parts.extend(mark_parts(queue.target, &plan));
    }
}

/// Copies a record behind those of the batch, with its id.
pub(super) fn push(batch: &mut BatchBuilder, loaded: &Loaded, id: MessageId) -> Result<(), RecordError> {
    let record = Record::from_encoded(&loaded.encoded, Offset(0), loaded.base_create_time_ms)?;
    let id = id.to_string();
    let mut headers: SmallVec<[HeaderField<'_>; 16]> = SmallVec::new();
    headers.extend(
        record.headers().filter(|header| header.name != system::ID).map(|header| (header.name, header.value)),
    );
    if headers.len() < HEADERS_MAX {
        headers.push((system::ID, Some(id.as_bytes())));
    }
    let fields = RecordFields {
        key: record.key,
        tag: record.tag,
        code: record.code,
        create_time_ms: record.create_time_ms,
        deliver_at_ms: record.deliver_at_ms,
        headers: &headers,
        body: record.body,
    };
    let pushed = batch.push(&fields);
    pushed.map(|_| ()).map_err(|_| RecordError::Record { index: 0, what: "size" })
}

/// The state entries of a change of a delay queue's marks.
pub(super) fn mark_parts(target: QueueKey, plan: &MarkPlan) -> Vec<AtomicPart> {
    let state = |key: Vec<u8>, value: Option<Bytes>| AtomicPart::State { key: Bytes::from(key), value };
    let blocks = plan
        .blocks
        .iter()
        .map(|(block, bits)| state(state_key::delay_block(target, *block), Some(bits.encode())));
    let removed = plan.removed.iter().map(|block| state(state_key::delay_block(target, *block), None));
    let floor = plan.floor.map(|floor| state(state_key::delay_floor(target), Some(encode_floor(floor))));
    blocks.chain(removed).chain(floor).collect()
}

#[cfg(test)]
mod tests {
    use equeue_record::{BatchView, Decompressor};

    use super::*;

    fn loaded(body: &[u8], headers: &[(&str, Option<&[u8]>)], id_offset: u64) -> Loaded {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
        let fields = RecordFields {
            body: Some(body),
            headers,
            create_time_ms: 1_000,
            deliver_at_ms: Some(5_000),
            tag: Some("t"),
            ..RecordFields::default()
        };
        builder.push(&fields).unwrap();
        let bytes = builder.finish(ProducerStamp::NONE).unwrap();
        let view = BatchView::of_checked(&bytes).unwrap();
        let mut memory = Decompressor::default();
        let record = view.records(&mut memory).unwrap().next().unwrap().unwrap();
        Loaded {
            encoded: Bytes::copy_from_slice(record.encoded()),
            base_create_time_ms: view.header().base_create_time_ms,
            id_offset: Offset(id_offset),
        }
    }

    #[test]
    fn messages_become_a_batch_per_queue_with_their_ids_and_marks() {
        let mut table = DelayTable::new(0, 100);
        let (one, two) = (table.open(QueueKey(1)), table.open(QueueKey(2)));
        let at = |queue, offset| Waiting { due_ms: 5_000, queue, offset };
        let due = vec![
            (at(two, 700), loaded(b"c", &[], 700)),
            (at(one, 3), loaded(b"b", &[("%id", Some(b"forged")), ("mine", None)], 3)),
            (at(one, 1), loaded(b"a", &[], 0)),
        ];
        let most: usize = due.iter().map(|(_, loaded)| cost(loaded)).sum();
        let delivery = build(&table, due, 7);
        assert!(delivery.malformed.is_empty());
        let mut bytes = 0;
        let mut bodies = Vec::new();
        let mut keys = Vec::new();
        for part in &delivery.parts {
            match part {
                AtomicPart::State { key, value } => {
                    bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + 32;
                    keys.push(key.to_vec());
                }
                AtomicPart::Batch { queue, batch } => {
                    bytes += batch.len();
                    let view = BatchView::of_checked(batch).unwrap();
                    let mut memory = Decompressor::default();
                    for record in view.records(&mut memory).unwrap().map(Result::unwrap) {
                        let headers: Vec<_> = record.headers().collect();
                        let id: MessageId = std::str::from_utf8(headers.last().unwrap().value.unwrap())
                            .unwrap()
                            .parse()
                            .unwrap();
                        assert_eq!((id.queue, id.cluster_check), (queue.delay_queue(), 7));
                        assert_eq!((record.deliver_at_ms, record.create_time_ms), (Some(5_000), 1_000));
                        bodies.push((queue.0, record.body.unwrap().to_vec(), id.offset.0, headers.len()));
                    }
                }
            }
        }
        assert_eq!(bodies, [(1, b"b".to_vec(), 3, 2), (1, b"a".to_vec(), 0, 1), (2, b"c".to_vec(), 700, 1)]);
        assert_eq!(keys, [state_key::delay_block(QueueKey(1), 0), state_key::delay_block(QueueKey(2), 1)]);
        assert!(bytes <= most, "{bytes} {most}");
        for (number, plan, messages) in &delivery.marks {
            table.done(*number, plan, *messages);
        }
        assert!(!table.waits(&at(one, 1)) && !table.waits(&at(two, 700)) && table.waits(&at(one, 2)));
    }

    #[test]
    fn bytes_that_are_no_record_are_told_and_not_marked() {
        let mut table = DelayTable::new(0, 100);
        let queue = table.open(QueueKey(1));
        let bad =
            Loaded { encoded: Bytes::from_static(&[0xff]), base_create_time_ms: 0, id_offset: Offset(0) };
        let delivery = build(&table, vec![(Waiting { due_ms: 1, queue, offset: 0 }, bad)], 7);
        assert!(delivery.parts.is_empty() && delivery.marks.is_empty());
        assert_eq!(delivery.malformed.len(), 1);
    }
}
