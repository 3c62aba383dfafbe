//! Syncing at intervals: a kill loses nothing, a loss of power only what was acknowledged last, and nothing looks like
//! damage.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{CallKind, Fault, MemoryIo, Survivors};
use equeue_storage::log::{AppendError, CommitLog, Hazards, LogOptions, OpenError, SyncPolicy};

const QUEUE: QueueKey = QueueKey(4);
const INTERVAL_MS: u64 = 50;

type Log = CommitLog<MemoryIo>;

async fn try_open(io: &MemoryIo) -> Result<Log, OpenError> {
    let options = LogOptions { sync: SyncPolicy::Interval(INTERVAL_MS), ..options(Hazards::default()) };
    let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options).await?;
    log.open_queue(QUEUE);
    Ok(log)
}

/// What was appended, how much of it was acknowledged, and how much of that so long ago that it must be synced.
#[derive(Clone, Default)]
struct Seen {
    bodies: Vec<Vec<u8>>,
    acknowledged: usize,
    safe: usize,
}

type Shared = Rc<RefCell<Seen>>;

async fn work(io: &MemoryIo, seen: &Shared) -> Result<(), AppendError> {
    let log = try_open(io).await.unwrap();
    for round in 0..12_u64 {
        for n in 0..8_u64 {
            let bytes = [100, 60_000, 5_000][usize::try_from((round + n) % 3).unwrap()];
            let mut body = (round * 100 + n).to_le_bytes().to_vec();
            body.resize(bytes, 7);
            let appended = log.append(QUEUE, batch(&[&body]))?;
            seen.borrow_mut().bodies.push(body);
            if n % 2 == 0 {
                log.wait_durable(appended.ticket).await?;
                let mut seen = seen.borrow_mut();
                seen.acknowledged = seen.bodies.len();
            }
        }
        if round % 3 == 0 {
            let acknowledged = seen.borrow().acknowledged;
            // A sync takes its time too.
            io.sleep(Duration::from_millis(2 * INTERVAL_MS)).await;
            seen.borrow_mut().safe = acknowledged;
        }
    }
    log.close().await?;
    let mut seen = seen.borrow_mut();
    seen.safe = seen.bodies.len();
    Ok(())
}

async fn check(io: &MemoryIo, seen: &Seen, least: usize) {
    let log = try_open(io).await.unwrap();
    let found = read_all(&log, QUEUE, Offset(0), 150_000).await;
    assert!(seen.bodies.starts_with(&found), "what is there is what was sent, in order");
    assert!(found.len() >= least, "{} are there, {least} must be", found.len());
    let appended = log.append(QUEUE, batch(&[b"on"])).unwrap();
    log.wait_durable(appended.ticket).await.unwrap();
    log.close().await.unwrap();
}

fn life(number: u64, fault: Option<(u64, Fault)>) -> (MemoryIo, Seen, Result<(), AppendError>) {
    let io = MemoryIo::new(number).with_dir("/data");
    let seen = Shared::default();
    if let Some((call, fault)) = fault {
        io.fault_at(call, fault);
    }
    let ended = io.run({
        let (io, seen) = (io.clone(), Rc::clone(&seen));
        async move { work(&io, &seen).await }
    });
    let seen = seen.borrow().clone();
    (io, seen, ended.unwrap_or(Ok(())))
}

#[test]
fn a_kill_loses_nothing_and_a_power_cut_only_the_last() {
    for seed in 0..2 {
        let (whole, seen, ended) = life(seed, None);
        ended.unwrap();
        assert!(seen.bodies.len() == 96 && seen.safe == 96);
        for cut in (30..whole.calls()).step_by(3) {
            let (io, seen, _) = life(seed, Some((cut, Fault::PowerCut)));
            let (least, survivors) = (seen.safe, [Survivors::Synced, Survivors::Random(cut)]);
            for survivors in survivors {
                let after = io.after_power_cut(survivors);
                let (machine, seen) = (after.clone(), seen.clone());
                after.run(async move { check(&machine, &seen, least).await }).unwrap();
            }
            let killed = io.after_kill();
            let machine = killed.clone();
            killed.run(async move { check(&machine, &seen, seen.acknowledged).await }).unwrap();
        }
    }
}

#[test]
fn there_are_fewer_syncs_and_a_failed_one_is_the_end() {
    let io = MemoryIo::new(3).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let log = try_open(&io).await.unwrap();
        let before = log.stats();
        for _ in 0..50 {
            let appended = log.append(QUEUE, batch(&[b"x"])).unwrap();
            log.wait_durable(appended.ticket).await.unwrap();
        }
        let after = log.stats();
        assert!(after.flushes - before.flushes >= 50 && after.syncs - before.syncs < 10, "{after:?}");
        io.fault_when(|call| (call.kind == CallKind::Sync).then_some(Fault::Error(libc::EIO)));
        let appended = log.append(QUEUE, batch(&[b"x"])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
        io.sleep(Duration::from_millis(3 * INTERVAL_MS)).await;
        assert!(log.stats().poisoned);
        assert!(matches!(log.append(QUEUE, batch(&[b"x"])), Err(AppendError::Poisoned { .. })));
    })
    .unwrap();
}
