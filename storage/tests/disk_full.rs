//! A full disk: producers are refused, state entries still find room, reads go on, and it ends by itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::log::{AppendError, AtomicPart, CommitLog, Hazards};

const QUEUE: QueueKey = QueueKey(4);

async fn open(io: &MemoryIo) -> CommitLog<MemoryIo> {
    let (log, _) =
        CommitLog::open(io.clone(), DIR.into(), LogId(0), options(Hazards::default())).await.unwrap();
    log.open_queue(QUEUE);
    log
}

fn state(value: &str) -> Vec<AtomicPart> {
    vec![AtomicPart::State { key: "k".into(), value: Some(value.to_owned().into()) }]
}

/// Appends until the disk is full; gives the number of messages that were acknowledged.
async fn fill(log: &CommitLog<MemoryIo>, mut sent: u64) -> u64 {
    loop {
        match log.append(QUEUE, batch(&[&sent.to_le_bytes(), &vec![1; 50_000]])) {
            Ok(appended) => {
                sent += 1;
                log.wait_durable(appended.ticket).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error, AppendError::DiskFull);
                return sent;
            }
        }
        assert!(sent < 1000, "it never became full");
    }
}

#[test]
fn producers_are_refused_and_the_rest_goes_on_until_space_returns() {
    let io = MemoryIo::new(1).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        // Two segments, an index, and not quite a third one.
        machine.set_capacity(Some((3 << 20) - 4096));
        let sent = fill(&log, 0).await;
        assert!(log.stats().disk_full && !log.stats().poisoned);
        for n in 0..5 {
            let ticket = log.append_atomic(state(&n.to_string())).unwrap();
            log.wait_durable(ticket).await.unwrap();
        }
        assert_eq!(log.state(b"k").unwrap(), "4");
        let with_message = vec![AtomicPart::Batch { queue: QUEUE, batch: batch(&[b"x"]) }];
        assert_eq!(log.append_atomic(with_message), Err(AppendError::DiskFull));
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len() as u64, 2 * sent);

        machine.set_capacity(Some(100 << 20));
        machine.sleep(Duration::from_secs(2)).await;
        assert!(!log.stats().disk_full, "it ends by itself");
        let appended = log.append(QUEUE, batch(&[b"again"])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
        assert_eq!(appended.base_offset, Offset(2 * sent));
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn the_reserve_is_bounded_too() {
    let io = MemoryIo::new(2).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        machine.set_capacity(Some((3 << 20) - 4096));
        fill(&log, 0).await;
        let mut last = 0;
        let refused = loop {
            match log.append_atomic(state(&"v".repeat(20_000))) {
                Ok(ticket) => log.wait_durable(ticket).await.unwrap(),
                Err(error) => break error,
            }
            last += 1;
            assert!(last < 100);
        };
        assert_eq!(refused, AppendError::DiskFull);
        assert!(last > 3, "the reserve holds a few");
        // What is too large for the reserve is refused at once, small ones may still fit.
        machine.set_capacity(None);
        machine.sleep(Duration::from_secs(2)).await;
        let ticket = log.append_atomic(state("after")).unwrap();
        log.wait_durable(ticket).await.unwrap();
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_broker_starts_on_a_full_disk() {
    let io = MemoryIo::new(3).with_dir("/data");
    let machine = io.clone();
    let sent = io
        .run(async move {
            let log = open(&machine).await;
            machine.set_capacity(Some((3 << 20) - 4096));
            fill(&log, 0).await
        })
        .unwrap();
    let io = io.after_power_cut(Survivors::Synced);
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        assert!(log.stats().disk_full);
        assert_eq!(log.append(QUEUE, batch(&[b"x"])), Err(AppendError::DiskFull));
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len() as u64, 2 * sent);
        machine.set_capacity(None);
        machine.sleep(Duration::from_secs(2)).await;
        let appended = log.append(QUEUE, batch(&[b"x"])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
        log.close().await.unwrap();
        let log = open(&machine).await;
        assert_eq!(log.bounds(QUEUE).unwrap().durable_end, Offset(2 * sent + 1));
    })
    .unwrap();
}

#[test]
fn a_full_disk_can_be_left_in_order_and_entered_again() {
    let io = MemoryIo::new(4).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        machine.set_capacity(Some((3 << 20) - 4096));
        let sent = fill(&log, 0).await;
        log.close().await.unwrap();
        let log = open(&machine).await;
        assert_eq!(log.bounds(QUEUE).unwrap().durable_end, Offset(2 * sent));
        machine.sleep(Duration::from_secs(2)).await;
        assert!(log.stats().disk_full);
        assert_eq!(log.append(QUEUE, batch(&[b"x"])), Err(AppendError::DiskFull));
        assert_eq!(log.close().await, Ok(()));
    })
    .unwrap();
}
