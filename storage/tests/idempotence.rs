//! A batch of a producer that is sent twice is stored once: at once, after a restart, after a crash, and when only a
//! snapshot still knows of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use common::oracle::{DIR, options};
use common::{batch, read_all, stamped};
use equeue_record::{Offset, ProducerStamp, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::log::{AppendError, Appended, AtomicPart, CommitLog, Hazards};

const QUEUE: QueueKey = QueueKey(4);
const OTHER: QueueKey = QueueKey(5);

async fn open(io: &MemoryIo) -> CommitLog<MemoryIo> {
    let (log, _) =
        CommitLog::open(io.clone(), DIR.into(), LogId(0), options(Hazards::default())).await.unwrap();
    log.open_queue(QUEUE);
    log.open_queue(OTHER);
    log
}

/// Two records of producer 7.
fn send(log: &CommitLog<MemoryIo>, epoch: i16, sequence: i32) -> Result<Appended, AppendError> {
    let stamp = ProducerStamp { producer_id: 7, producer_epoch: epoch, base_sequence: sequence };
    log.append(QUEUE, stamped(&[b"one", b"two"], stamp))
}

/// Appends and waits; `n` batches from `sequence` on.
async fn send_some(log: &CommitLog<MemoryIo>, sequence: i32, n: i32) {
    for batch in 0..n {
        let appended = send(log, 0, sequence + 2 * batch).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
    }
}

async fn check_duplicates(log: &CommitLog<MemoryIo>) {
    for batch in 1..6 {
        let again = send(log, 0, 2 * batch).unwrap();
        assert!(
            again.duplicate && again.base_offset == Offset(2 * u64::try_from(batch).unwrap()),
            "{again:?}"
        );
        log.wait_durable(again.ticket).await.unwrap();
    }
    let refused = send(log, 0, 14).unwrap_err();
    assert_eq!(refused, AppendError::SequenceGap { expected: 12, found: 14 });
    assert_eq!(log.bounds(QUEUE).unwrap().end, Offset(12));
}

#[test]
fn across_restarts_crashes_and_snapshots() {
    let mut io = MemoryIo::new(1).with_dir("/data");
    for life in 0..4 {
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine).await;
            if life == 0 {
                send_some(&log, 0, 6).await;
            }
            check_duplicates(&log).await;
            if life == 1 {
                log.close().await.unwrap();
                check_duplicates(&open(&machine).await).await;
            } else if life == 2 {
                // Segments later only snapshots know of it.
                for _ in 0..80 {
                    let appended = log.append(OTHER, batch(&[&vec![0; 60_000]])).unwrap();
                    log.wait_durable(appended.ticket).await.unwrap();
                }
                machine.sleep(std::time::Duration::from_secs(1)).await;
                let stats = log.stats();
                assert!(stats.segments > 3 && stats.snapshots > 3, "{stats:?}");
            }
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), 12);
        })
        .unwrap();
        io = io.after_power_cut(Survivors::Synced);
    }
}

#[test]
fn the_answer_to_a_duplicate_waits_for_the_original() {
    let io = MemoryIo::new(2).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        let first = send(&log, 0, 0).unwrap();
        let again = send(&log, 0, 0).unwrap();
        assert!(again.duplicate && again.ticket == first.ticket && log.durable() < again.ticket);
        log.wait_durable(again.ticket).await.unwrap();
    })
    .unwrap();
}

#[test]
fn epochs_and_unknown_producers() {
    let io = MemoryIo::new(3).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        let unknown = send(&log, 0, 5).unwrap_err();
        assert_eq!(unknown, AppendError::UnknownProducer { producer: 7, sequence: 5 });
        send_some(&log, 0, 1).await;
        send(&log, 1, 0).unwrap();
        assert_eq!(send(&log, 0, 2).unwrap_err(), AppendError::StaleProducer { found: 0, current: 1 });
    })
    .unwrap();
}

#[test]
fn atomic_appends_keep_to_the_limit_of_batches_in_flight() {
    let io = MemoryIo::new(9);
    let machine = io.clone();
    io.run(async move {
        let (log, _) =
            CommitLog::open(machine, "/data/log-0".into(), LogId(0), common::small()).await.unwrap();
        let queue = QueueKey(1);
        log.open_queue(queue);
        let part = |sequence| AtomicPart::Batch {
            queue,
            batch: stamped(
                &[b"x"],
                ProducerStamp { producer_id: 5, producer_epoch: 0, base_sequence: sequence },
            ),
        };
        log.append_atomic(vec![part(0), part(1)]).unwrap();
        let ticket = log.append_atomic((2..5).map(part).collect()).unwrap();
        let busy = log.append_atomic(vec![part(5)]).unwrap_err();
        assert!(matches!(busy, AppendError::Busy { .. }), "{busy}");
        log.wait_durable(ticket).await.unwrap();
        log.append_atomic(vec![part(5)]).unwrap();
        log.close().await.unwrap();
    })
    .unwrap();
}

/// A producer sends ahead; one of its batches is refused for want of room. What it sent behind must not be stored in its
/// place, and what it sends again is stored once, in order.
#[test]
fn a_batch_refused_in_the_middle_of_a_pipeline_leaves_no_hole_and_no_double() {
    let io = MemoryIo::new(4).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let log = open(&machine).await;
        let mut stored = Vec::new();
        // Sent ahead until the log says BUSY.
        let refused = loop {
            let sequence = 2 * i32::try_from(stored.len()).unwrap();
            match send(&log, 0, sequence) {
                Ok(appended) => stored.push(appended),
                Err(error) => break (sequence, error),
            }
            assert!(stored.len() < 100, "there is a limit");
        };
        let (sequence, error) = refused;
        assert!(matches!(error, AppendError::Busy { .. }), "{error}");
        // Two more were on their way behind it.
        for behind in [sequence + 2, sequence + 4] {
            let error = send(&log, 0, behind).unwrap_err();
            assert!(
                matches!(error, AppendError::Busy { .. } | AppendError::SequenceGap { .. }),
                "sequence {behind}: {error}"
            );
        }
        let last = stored.last().unwrap();
        assert_eq!(
            log.bounds(QUEUE).unwrap().end,
            last.base_offset.plus(2),
            "nothing was stored behind the hole"
        );
        log.wait_durable(last.ticket).await.unwrap();
        // The client sends again from the last one it has an answer for, as after a connection that was lost.
        for again in [sequence - 2, sequence, sequence + 2, sequence + 4] {
            let appended = send(&log, 0, again).unwrap();
            assert_eq!(appended.duplicate, again < sequence, "sequence {again}");
            assert_eq!(appended.base_offset, Offset(u64::try_from(again).unwrap()));
            log.wait_durable(appended.ticket).await.unwrap();
        }
        let count = usize::try_from(sequence + 6).unwrap();
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), count);
    })
    .unwrap();
}
