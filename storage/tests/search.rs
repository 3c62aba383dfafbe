//! Looking for a time, and reading files that are not what they were: the right offset or an error, never another offset,
//! never without an end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::batch;
use common::oracle::{DIR, options};
use equeue_record::{Offset, QueueKey, split_first};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::MemoryIo;
use equeue_storage::log::{CommitLog, Hazards, ReadError};

const QUEUE: QueueKey = QueueKey(4);
const OTHER: QueueKey = QueueKey(5);
/// Batches of three records in each queue.
const BATCHES: u64 = 60;

async fn open(io: &MemoryIo) -> CommitLog<MemoryIo> {
    let (log, _) =
        CommitLog::open(io.clone(), DIR.into(), LogId(0), options(Hazards::default())).await.unwrap();
    log.open_queue(QUEUE);
    log.open_queue(OTHER);
    log
}

/// Some sealed segments; the time and the first offset of each batch.
async fn written(io: &MemoryIo) -> Vec<(i64, u64)> {
    let log = open(io).await;
    let mut times = Vec::new();
    for _ in 0..BATCHES {
        io.sleep(Duration::from_millis(10)).await;
        times.push((io.wall_ms(), log.bounds(QUEUE).unwrap().end.0));
        for queue in [OTHER, QUEUE] {
            let ticket = log.append(queue, batch(&[&vec![7; 20_000], b"x", b"y"])).unwrap().ticket;
            log.wait_durable(ticket).await.unwrap();
        }
    }
    log.close().await.unwrap();
    times
}

fn run(test: impl AsyncFnOnce(MemoryIo) + 'static) {
    let io = MemoryIo::new(7).with_dir("/data");
    let machine = io.clone();
    io.run(async move { test(machine).await }).unwrap();
}

fn first_segment() -> PathBuf {
    Path::new(DIR).join("00000000000000000000.seg")
}

/// Where the batches of a queue begin in the first segment, with their first offsets.
fn batches_of(io: &MemoryIo, queue: QueueKey) -> Vec<(usize, u64)> {
    let content = io.content(first_segment()).unwrap();
    let mut found = Vec::new();
    let mut at = 4096;
    while at + 128 < content.len() {
        match split_first(&content[at + 128..]) {
            Ok((header, _)) if header.queue_key == queue => found.push((at + 128, header.base_offset.0)),
            _ => {}
        }
        at += 4096;
    }
    found
}

#[test]
fn the_first_offset_at_or_after_a_time_is_found() {
    run(async |io| {
        let times = written(&io).await;
        let log = open(&io).await;
        let first = |time_ms: i64| {
            let found = times.iter().find(|(at, _)| *at >= time_ms).map(|(_, offset)| *offset);
            Offset(found.unwrap_or(3 * BATCHES))
        };
        let (begin, end) = (times[0].0, times[times.len() - 1].0);
        for time_ms in begin - 3..end + 3 {
            let found = log.offset_at_time(QUEUE, time_ms).await.unwrap();
            // A flush waits for nobody here: a batch is stored in the moment that it was sent, or some ms later.
            let (earliest, latest) = (first(time_ms - 5), first(time_ms + 5));
            assert!((earliest..=latest).contains(&found), "{time_ms}: {found} not in {earliest}..={latest}");
        }
        log.close().await.unwrap();
    });
}

#[test]
fn a_search_by_time_believes_no_byte_that_is_under_no_checksum() {
    run(async |io| {
        let times = written(&io).await;
        let places = batches_of(&io, QUEUE);
        assert!(places.len() > 3, "{places:?}");
        let (at, offset) = places[2];
        let time_ms = times.iter().find(|(_, first)| *first == offset).unwrap().0;
        let whole = io.content(first_segment()).unwrap();
        let mut damaged = 0;
        // The header of a batch: offset, times, queue and all.
        for bit in 0..8 * 64 {
            io.put(first_segment(), whole.clone());
            io.damage(first_segment(), |bytes| bytes[at + bit / 8] ^= 1 << (bit % 8));
            let log = open(&io).await;
            match log.offset_at_time(QUEUE, time_ms).await {
                Ok(found) => assert_eq!(found, Offset(offset), "bit {bit}"),
                Err(ReadError::Damaged { .. }) => damaged += 1,
                Err(other) => panic!("bit {bit}: {other}"),
            }
            log.close().await.unwrap();
        }
        assert!(damaged > 100, "{damaged}");
    });
}

#[test]
fn a_file_that_became_shorter_is_damage_and_not_waited_for() {
    run(async |io| {
        written(&io).await;
        let log = open(&io).await;
        let (at, offset) = batches_of(&io, QUEUE)[2];
        io.damage(first_segment(), |bytes| bytes.truncate(at - 128));
        let reading = log.read(QUEUE, Offset(offset), 1 << 20);
        assert!(matches!(reading.await, Err(ReadError::Damaged { .. } | ReadError::Io { .. })));
        assert!(log.stats().disk_reads < 20, "{:?}", log.stats());
        log.close().await.unwrap();
    });
}
