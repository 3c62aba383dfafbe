//! A full disk: producers are refused, state entries still find room, for long, reads go on, also after a crash, and it
//! ends by itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{Fault, MemoryIo, Survivors};
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

/// Room for two segments, an index, the ballast, and not quite a third segment.
const WITH_BALLAST: usize = (4 << 20) - 4096;

#[test]
fn messages_leave_half_of_the_last_segment_however_fast_they_come() {
    for seed in 0..20 {
        let io = MemoryIo::new(seed).with_dir("/data");
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine).await;
            machine.set_capacity(Some(WITH_BALLAST));
            let mut last = None;
            let mut sent = 0;
            loop {
                match log.append(QUEUE, batch(&[&vec![2; 10_000]])) {
                    Ok(appended) => (last, sent) = (Some(appended.ticket), sent + 1),
                    Err(AppendError::Busy { .. }) => machine.yield_now().await,
                    Err(error) => break assert_eq!(error, AppendError::DiskFull),
                }
                assert!(sent < 1000, "it never became full");
            }
            // Nothing that was accepted waits for space.
            log.wait_durable(last.unwrap()).await.unwrap();
            // Half, one batch more, the padding of both, and what the log itself writes there.
            let used = log.positions().1.0 % (1 << 20);
            assert!(used <= 640 << 10, "seed {seed}: {used} bytes of the reserve are messages");
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), sent);
        })
        .unwrap();
        io.end();
    }
}

#[test]
fn commits_rest_so_that_the_reserve_lasts() {
    let io = MemoryIo::new(5).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        machine.set_capacity(Some(WITH_BALLAST));
        fill(&log, 0).await;
        let (begun, before) = (machine.now(), log.stats());
        // Eight groups commit as fast as they are answered.
        let mut commits = 0_u64;
        'full: loop {
            let mut last = None;
            for group in 0..8 {
                match log.append_atomic(state(&format!("{group} {commits}"))) {
                    Ok(ticket) => last = Some(ticket),
                    Err(error) => break 'full assert_eq!(error, AppendError::DiskFull),
                }
                commits += 1;
            }
            log.wait_durable(last.unwrap()).await.unwrap();
        }
        let (took, after) = (machine.now().saturating_sub(begun), log.stats());
        assert!(took > Duration::from_mins(1), "{commits} commits, {took:?}");
        assert!(after.flushes - before.flushes < commits / 4, "{commits} commits, {after:?}");
        // What frees space still has room.
        let trimmed = log.trim(&[(QUEUE, Offset(3))]).unwrap();
        log.wait_durable(trimmed).await.unwrap();
        assert_eq!(log.bounds(QUEUE).unwrap().start, Offset(3));
    })
    .unwrap();
}

/// A machine that lost its power with a full disk; gives the number of messages that were acknowledged.
fn cut_while_full(seed: u64) -> (MemoryIo, u64) {
    let io = MemoryIo::new(seed).with_dir("/data");
    let machine = io.clone();
    let sent = io
        .run(async move {
            let log = open(&machine).await;
            // The ballast is made when there is nothing more urgent.
            machine.sleep(Duration::from_millis(100)).await;
            machine.set_capacity(Some(WITH_BALLAST));
            fill(&log, 0).await
        })
        .unwrap();
    (io.after_power_cut(Survivors::Synced), sent)
}

#[test]
fn commits_go_on_after_a_crash_on_a_full_disk() {
    let (io, sent) = cut_while_full(6);
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        for n in 0..20 {
            let ticket = log.append_atomic(state(&n.to_string())).unwrap();
            log.wait_durable(ticket).await.unwrap();
        }
        assert!(log.stats().disk_full);
        assert_eq!(log.append(QUEUE, batch(&[b"x"])), Err(AppendError::DiskFull));
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len() as u64, 2 * sent);
        // There is space again: a new ballast is made, and serves the next time.
        machine.set_capacity(None);
        machine.sleep(Duration::from_secs(3)).await;
        let appended = log.append(QUEUE, batch(&[b"again"])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
    })
    .unwrap();
    let io = io.after_power_cut(Survivors::Synced);
    let used: usize = io.paths().iter().map(|path| io.content(path).unwrap().len()).sum();
    io.set_capacity(Some(used));
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        assert_eq!(log.state(b"k").unwrap(), "19");
        let ticket = log.append_atomic(state("after")).unwrap();
        log.wait_durable(ticket).await.unwrap();
        assert_eq!(log.bounds(QUEUE).unwrap().durable_end, Offset(2 * sent + 1));
    })
    .unwrap();
}

#[test]
fn a_crash_at_any_call_of_a_start_on_a_full_disk_is_harmless() {
    let mut crashes = 0;
    for call in 0.. {
        let (io, sent) = cut_while_full(7);
        io.fault_at(call, Fault::PowerCut);
        let machine = io.clone();
        let ended = io.run(async move {
            let log = open(&machine).await;
            let ticket = log.append_atomic(state("first")).unwrap();
            log.wait_durable(ticket).await.unwrap();
        });
        let io = io.after_power_cut(Survivors::Random(call));
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine).await;
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len() as u64, 2 * sent, "call {call}");
            if ended.is_ok() {
                assert_eq!(log.state(b"k").unwrap(), "first");
            }
            machine.set_capacity(None);
            machine.sleep(Duration::from_secs(2)).await;
            let ticket = log.append_atomic(state("second")).unwrap();
            log.wait_durable(ticket).await.unwrap();
        })
        .unwrap();
        io.end();
        if ended.is_ok() {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 20, "{crashes} crashes");
}
