//! What the tests of a whole log share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

pub(crate) mod oracle;

use std::collections::BTreeMap;

use bytes::Bytes;
use equeue_record::{
    BatchBuilder, BatchView, Codec, Decompressor, Offset, ProducerStamp, QueueKey, RecordFields,
};
use equeue_storage::io::Io;
use equeue_storage::log::{CommitLog, LogOptions, ReadBatches, ReadError};

/// Small segments and flushes, so that a short test rolls.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        segment_bytes_max: 2 << 20,
        segment_bytes_first: 1 << 20,
        flush_bytes_max: 64 << 10,
        cache_bytes: 4 << 20,
        ..LogOptions::default()
    }
}

/// A batch without producer state, a record per body.
pub(crate) fn batch(bodies: &[&[u8]]) -> Bytes {
    stamped(bodies, ProducerStamp::NONE)
}

/// A batch of a producer.
pub(crate) fn stamped(bodies: &[&[u8]], producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 2 << 20);
    for body in bodies {
        builder.push(&RecordFields { body: Some(body), ..RecordFields::default() }).unwrap();
    }
    builder.finish(producer).unwrap()
}

/// Bodies of the records of an answer from `from` on, each checked whole, with their offsets dense.
pub(crate) fn bodies(answer: &ReadBatches, from: Offset) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut next = None;
    for piece in &answer.pieces {
        let mut rest = &(*piece.memory).as_ref()[piece.range.clone()];
        while !rest.is_empty() {
            let view = BatchView::parse(rest).unwrap();
            let mut memory = Decompressor::default();
            for record in view.records(&mut memory).unwrap() {
                let record = record.unwrap();
                assert_eq!(record.offset, next.unwrap_or(record.offset), "offsets are dense");
                next = Some(record.offset.plus(1));
                if record.offset >= from {
                    bodies.push(record.body.unwrap_or_default().to_vec());
                }
            }
            rest = &rest[view.header().len()..];
        }
    }
    assert_eq!(next.unwrap_or(answer.next_offset), answer.next_offset);
    bodies
}

/// Everything that is left in a queue, by offset; offsets that a repair gave up are skipped.
pub(crate) async fn read_left<I: Io>(
    log: &CommitLog<I>,
    queue: QueueKey,
) -> Result<BTreeMap<u64, Vec<u8>>, ReadError> {
    let mut all = BTreeMap::new();
    let bounds = log.bounds(queue).unwrap();
    let mut from = bounds.start;
    while from < bounds.durable_end {
        let answer = match log.read_cached(queue, from, 100_000) {
            Some(answer) => answer?,
            None => log.read(queue, from, 100_000).await?,
        };
        assert!(answer.next_offset > from, "a reader that is not at the end gets on");
        for piece in &answer.pieces {
            let mut rest = &(*piece.memory).as_ref()[piece.range.clone()];
            while !rest.is_empty() {
                let view = BatchView::parse(rest).unwrap();
                assert_eq!(view.header().queue_key, queue);
                let mut memory = Decompressor::default();
                for record in view.records(&mut memory).unwrap() {
                    let record = record.unwrap();
                    let body = record.body.unwrap_or_default().to_vec();
                    assert!(record.offset < from || all.insert(record.offset.0, body).is_none());
                }
                rest = &rest[view.header().len()..];
            }
        }
        from = answer.next_offset;
    }
    Ok(all)
}

/// Everything in a queue from `from` on, read in pieces of about `bytes_max`.
pub(crate) async fn read_all<I: Io>(
    log: &CommitLog<I>,
    queue: QueueKey,
    from: Offset,
    bytes_max: usize,
) -> Vec<Vec<u8>> {
    try_read_all(log, queue, from, bytes_max).await.unwrap()
}

/// Like [`read_all`], with the first error.
pub(crate) async fn try_read_all<I: Io>(
    log: &CommitLog<I>,
    queue: QueueKey,
    mut from: Offset,
    bytes_max: usize,
) -> Result<Vec<Vec<u8>>, ReadError> {
    let mut all = Vec::new();
    loop {
        let answer = match log.read_cached(queue, from, bytes_max) {
            Some(answer) => answer?,
            None => log.read(queue, from, bytes_max).await?,
        };
        if answer.pieces.is_empty() {
            assert_eq!(answer.next_offset, from);
            return Ok(all);
        }
        all.extend(bodies(&answer, from));
        from = answer.next_offset;
    }
}
