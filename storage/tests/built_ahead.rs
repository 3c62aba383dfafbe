//! Full flushes are built while others are written: the device does not wait for the executor, and no header says less, and
//! none more, than if each had been built when its turn came.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::format::FlushHeader;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{CallKind, Fault, MemoryIo, Survivors};
use equeue_storage::log::{AppendError, CommitLog, LogOptions, SyncPolicy};
use equeue_storage::{LogId, Position};

const DIR: &str = "/data/log-0";
const QUEUE: QueueKey = QueueKey(4);
const MESSAGES: u16 = 150;

/// Writes of flushes and their syncs, as they began.
type Calls = Rc<RefCell<Vec<CallKind>>>;

/// A first segment that holds everything, and flushes of 64 KiB.
fn options(flush_depth: usize) -> LogOptions {
    let (segment_bytes_first, flush_bytes_max) = (4 << 20, 64 << 10);
    LogOptions {
        segment_bytes_first,
        segment_bytes_max: segment_bytes_first,
        flush_bytes_max,
        flush_depth,
        ..LogOptions::default()
    }
}

async fn open(io: &MemoryIo, options: LogOptions) -> CommitLog<MemoryIo> {
    let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options).await.unwrap();
    log.open_queue(QUEUE);
    log
}

/// Appends faster than the device writes. Gives the most flushes that were on their way.
async fn flood(io: &MemoryIo, log: &CommitLog<MemoryIo>) -> Result<usize, AppendError> {
    let (mut most, mut ticket) = (0, None);
    for number in 0..MESSAGES {
        ticket = Some(log.append(QUEUE, batch(&[&vec![7; 20_000 + usize::from(number)]]))?.ticket);
        if number % 4 == 0 {
            io.yield_now().await;
        }
        most = most.max(log.stats().in_flight);
    }
    log.wait_durable(ticket.unwrap()).await?;
    Ok(most)
}

/// Notes writes of flushes and the syncs of their files; lets those calls fail for which `fault` says so.
fn note_calls(io: &MemoryIo, mut fault: impl FnMut(CallKind) -> Option<Fault> + 'static) -> Calls {
    let calls = Calls::default();
    let noted = Rc::clone(&calls);
    let mut files = BTreeSet::new();
    io.fault_when(move |call| {
        // Zeros are written in larger pieces, from the beginning on.
        let is_flush = call.kind == CallKind::Write && call.position > 0 && call.len <= 64 << 10;
        if is_flush {
            files.insert(call.path.clone());
        }
        let is_sync = call.kind == CallKind::Sync && files.contains(&call.path);
        if !is_flush && !is_sync {
            return None;
        }
        noted.borrow_mut().push(call.kind);
        fault(call.kind)
    });
    calls
}

/// The headers of a segment's flushes.
fn headers(segment: &[u8]) -> Vec<FlushHeader> {
    let mut headers: Vec<FlushHeader> = Vec::new();
    let mut at = 4096;
    while let Ok(header) = FlushHeader::decode(&segment[at..]) {
        at += header.span as usize;
        headers.push(header);
    }
    headers
}

fn active(io: &MemoryIo) -> Vec<u8> {
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    io.content(io.paths().iter().find(is_segment).unwrap()).unwrap()
}

#[test]
fn a_header_knows_of_all_flushes_but_those_written_beside_it() {
    for depth in [1, 2] {
        for seed in 0..8 {
            let io = MemoryIo::new(seed).with_dir("/data");
            let calls = note_calls(&io, |_| None);
            let machine = io.clone();
            let most = io
                .run(async move {
                    let log = open(&machine, options(depth)).await;
                    flood(&machine, &log).await.unwrap()
                })
                .unwrap();
            assert_eq!(most, depth + 2, "seed {seed}: flushes are built ahead, and no more than two");

            let headers = headers(&active(&io));
            assert!(headers.len() > 40, "{} flushes", headers.len());
            for (index, header) in headers.iter().enumerate().skip(depth) {
                let known = headers[index - depth].next();
                assert!(
                    header.durable_to >= known,
                    "depth {depth}, seed {seed}: {header:?} knows less than {known}"
                );
            }
            // One at a time: nothing is written between a write and its sync.
            if depth == 1 {
                let calls = calls.borrow();
                assert!(!calls.windows(2).any(|pair| pair == [CallKind::Write; 2]), "seed {seed}: {calls:?}");
            }
            io.end();
        }
    }
}

/// Of two that are written side by side the later may end first; one that begins after both knows of both.
#[test]
fn what_was_synced_when_a_write_began_is_in_its_header() {
    let mut exact = 0;
    for seed in 0..8 {
        let io = MemoryIo::new(seed).with_dir("/data");
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine, options(2)).await;
            flood(&machine, &log).await.unwrap();
        })
        .unwrap();
        let headers = headers(&active(&io));
        exact += headers.iter().skip(2).filter(|header| header.durable_to == header.position).count();
        io.end();
    }
    assert!(exact > 40, "{exact} headers know of the flush right before them");
}

#[test]
fn what_waits_for_a_flush_that_failed_is_never_written() {
    let io_error = Fault::Error(libc::EIO);
    let faults =
        [(CallKind::Write, io_error), (CallKind::Sync, io_error), (CallKind::Write, Fault::ShortWrite(4096))];
    for (kind, fault) in faults {
        for depth in [1_i32, 2] {
            let io = MemoryIo::new(3).with_dir("/data");
            let left = Rc::new(Cell::new(20_i32));
            let counted = Rc::clone(&left);
            let calls = note_calls(&io, move |of| {
                if of == kind {
                    counted.set(counted.get() - 1);
                }
                (of == kind && counted.get() == 0).then_some(fault)
            });
            let machine = io.clone();
            let flush_depth = usize::try_from(depth).unwrap();
            let (error, durable) = io
                .run(async move {
                    let log = open(&machine, options(flush_depth)).await;
                    let error = flood(&machine, &log).await.unwrap_err();
                    (error, log.bounds(QUEUE).unwrap().durable_end)
                })
                .unwrap();
            // What was written beside it goes on.
            assert!((-depth..=0).contains(&left.get()), "{} calls after the fault", -left.get());
            let AppendError::Poisoned { reason } = error else { panic!("{error}") };
            let expected = if matches!(fault, Fault::ShortWrite(_)) { "4096 of" } else { "os error 5" };
            assert!(reason.contains(expected) && !reason.contains("not begun"), "{reason}");
            assert!(Offset(0) < durable && durable < Offset(MESSAGES.into()));
            let writes = calls.borrow().iter().filter(|kind| **kind == CallKind::Write).count();
            assert!(writes <= 20 + flush_depth, "{writes} writes: what waited began");
            io.end();
        }
    }
}

/// The power goes while flushes are built ahead, at many calls: what was acknowledged is there, and no crash looks like damage.
#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let mut most_lost = 0;
    for depth in [1, 2] {
        let calls = {
            let io = MemoryIo::new(9).with_dir("/data");
            let machine = io.clone();
            io.run(async move {
                let log = open(&machine, options(depth)).await;
                flood(&machine, &log).await.unwrap();
            })
            .unwrap();
            let calls = io.calls();
            io.end();
            calls
        };
        for cut in (20..calls).step_by(3) {
            let io = MemoryIo::new(9).with_dir("/data");
            io.fault_at(cut, Fault::PowerCut);
            let durable = Rc::new(Cell::new(Offset(0)));
            let (machine, told) = (io.clone(), Rc::clone(&durable));
            let ended = io.run(async move {
                let log = open(&machine, options(depth)).await;
                let watcher = (log.clone(), machine.clone());
                machine.spawn(async move {
                    let (log, io) = watcher;
                    loop {
                        told.set(log.bounds(QUEUE).map_or(Offset(0), |bounds| bounds.durable_end));
                        io.yield_now().await;
                    }
                });
                flood(&machine, &log).await.unwrap();
            });
            if ended.is_ok() {
                io.end();
                break;
            }
            let what = if cut.is_multiple_of(2) { Survivors::Synced } else { Survivors::Random(cut) };
            let after = io.after_power_cut(what);
            let machine = after.clone();
            let found = after
                .run(async move {
                    let log = open(&machine, options(depth)).await;
                    let found = log.bounds(QUEUE).unwrap().durable_end;
                    let bodies = read_all(&log, QUEUE, Offset(0), 100_000).await;
                    assert_eq!(bodies.len() as u64, found.0);
                    for (number, body) in bodies.iter().enumerate() {
                        assert_eq!(body.len(), 20_000 + number, "messages are in order");
                    }
                    found
                })
                .unwrap();
            assert!(
                found >= durable.get(),
                "cut at {cut}, depth {depth}: {found} of {} are there",
                durable.get()
            );
            most_lost = most_lost.max(u64::from(MESSAGES) - durable.get().0);
            after.end();
        }
    }
    assert!(most_lost > 100, "the power went early, too");
}

/// Messages that are acknowledged before they are synced say nothing of what is durable.
#[test]
fn nothing_is_built_ahead_where_flushes_do_not_sync_themselves() {
    let io = MemoryIo::new(1).with_dir("/data");
    let machine = io.clone();
    let most = io
        .run(async move {
            let options = LogOptions { sync: SyncPolicy::Interval(20), ..options(2) };
            let log = open(&machine, options).await;
            flood(&machine, &log).await.unwrap()
        })
        .unwrap();
    assert!(most <= 2, "{most}");
    let headers = headers(&active(&io));
    let first = headers.first().map_or(Position(0), FlushHeader::next);
    assert!(
        headers.iter().skip(2).any(|header| header.durable_to <= first),
        "some know only of what was synced"
    );
}
