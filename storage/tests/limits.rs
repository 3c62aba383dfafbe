//! Every limit is reached, and what lies at it works.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{batch, read_all, small};
use equeue_record::{BATCH_HEADER_LEN, Offset, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::log::{AppendError, AtomicPart, CommitLog, DurableListener, LogOptions, ReadError};
use equeue_storage::{LogId, Ticket};

const DIR: &str = "/data/log-0";
const QUEUE: QueueKey = QueueKey(4);
const OTHER: QueueKey = QueueKey(5);

async fn open(io: &MemoryIo, options: LogOptions) -> CommitLog<MemoryIo> {
    let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options).await.unwrap();
    log.open_queue(QUEUE);
    log.open_queue(OTHER);
    log
}

fn on_machine(seed: u64, test: impl AsyncFnOnce(MemoryIo) + 'static) -> MemoryIo {
    let io = MemoryIo::new(seed).with_dir("/data");
    let machine = io.clone();
    io.run(async move { test(machine).await }).unwrap();
    io
}

/// A batch of exactly so many bytes.
fn batch_of(bytes: usize) -> bytes::Bytes {
    let overhead = batch(&[&vec![1; 100_000]]).len() - 100_000;
    let whole = batch(&[&vec![1; bytes - overhead]]);
    // The length of a record is a varint: a byte less for a shorter one.
    let missing = bytes - whole.len();
    let whole = if missing == 0 { whole } else { batch(&[&vec![1; bytes - overhead + missing]]) };
    assert_eq!(whole.len(), bytes);
    whole
}

#[test]
fn the_largest_batch_is_stored_and_one_byte_more_is_refused() {
    for first in [1_u64 << 20, 2 << 20, 16 << 20] {
        let options =
            LogOptions { segment_bytes_first: first, segment_bytes_max: first, ..LogOptions::default() };
        let limit = options.batch_bytes_max();
        let kept = options.clone();
        let io = on_machine(first, async move |io| {
            let log = open(&io, kept).await;
            for _ in 0..20 {
                // A small one between them leaves no window whole.
                while let Err(error) = log.append(OTHER, batch(&[b"small"])) {
                    // It is not known yet whether there is space for the next segment.
                    assert!(matches!(error, AppendError::Busy { .. }), "{error}");
                    io.yield_now().await;
                }
                let appended = log.append(QUEUE, batch_of(limit)).unwrap();
                log.wait_durable(appended.ticket).await.unwrap();
            }
            let refused = log.append(QUEUE, batch_of(limit + 1)).unwrap_err();
            assert_eq!(refused, AppendError::TooLarge { bytes: limit + 1, limit });
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1).await.len(), 20);
        });
        assert_eq!(LogOptions::default().batch_bytes_max(), (1 << 20) - 4096);
        let io = io.after_power_cut(Survivors::Synced);
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine, options).await;
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), 20);
            assert_eq!(read_all(&log, OTHER, Offset(0), 1 << 20).await.len(), 20);
        })
        .unwrap();
    }
}

#[test]
fn what_waits_is_bounded() {
    on_machine(1, async |io| {
        let log = open(&io, LogOptions { pending_bytes_max: 100_000, ..small() }).await;
        let refused = loop {
            if let Err(error) = log.append(QUEUE, batch(&[&[7; 1000]])) {
                break error;
            }
        };
        assert!(
            matches!(refused, AppendError::Busy { pending: 98_000..=100_000, limit: 100_000 }),
            "{refused}"
        );
        io.sleep(Duration::from_millis(10)).await;
        assert!(log.append(QUEUE, batch(&[&[7; 1000]])).is_ok(), "room again once it is flushed");
    });
}

#[test]
fn what_is_no_batch_or_for_no_queue_is_refused() {
    on_machine(1, async |io| {
        let log = open(&io, small()).await;
        let unknown = QueueKey(99);
        assert!(matches!(log.append(unknown, batch(&[b"x"])), Err(AppendError::NoQueue { .. })));
        assert!(matches!(log.read(unknown, Offset(0), 1).await, Err(ReadError::NoQueue { .. })));
        assert!(matches!(log.append(QUEUE, bytes::Bytes::new()), Err(AppendError::Record(_))));
        let mut damaged = batch(&[b"body"]).to_vec();
        damaged[BATCH_HEADER_LEN + 5] ^= 1;
        assert!(matches!(log.append(QUEUE, damaged.into()), Err(AppendError::Record(_))));
        let state = |key: usize, value: usize| {
            vec![AtomicPart::State { key: vec![1; key].into(), value: Some(vec![1; value].into()) }]
        };
        assert!(matches!(log.append_atomic(state(1024, 1)), Err(AppendError::TooLarge { .. })));
        assert!(matches!(log.append_atomic(state(1, (32 << 10) + 1)), Err(AppendError::TooLarge { .. })));
        let ticket = log.append_atomic(state(1023, 32 << 10)).unwrap();
        log.wait_durable(ticket).await.unwrap();
        let half = vec![
            AtomicPart::Batch { queue: QUEUE, batch: batch(&[b"x"]) },
            AtomicPart::Batch { queue: unknown, batch: batch(&[b"x"]) },
        ];
        assert!(log.append_atomic(half).is_err());
        assert_eq!(log.bounds(QUEUE).unwrap().end, Offset(0), "a unit is taken whole or not at all");
        let ticket = log.append_atomic(Vec::new()).unwrap();
        log.wait_durable(ticket).await.unwrap();
        assert!(matches!(log.read(QUEUE, Offset(1), 1).await, Err(ReadError::OutOfRange { .. })));
    });
}

#[derive(Default)]
struct Told {
    tickets: RefCell<Vec<Ticket>>,
    queues: RefCell<Vec<Vec<QueueKey>>>,
    poisoned: RefCell<Vec<String>>,
}

impl DurableListener for Told {
    fn durable(&self, ticket: Ticket, queues: &[QueueKey]) {
        self.tickets.borrow_mut().push(ticket);
        self.queues.borrow_mut().push(queues.to_vec());
    }

    fn poisoned(&self, reason: &str) {
        self.poisoned.borrow_mut().push(reason.to_owned());
    }
}

#[test]
fn the_listener_is_told_in_order_of_each_queue_once_and_of_the_end() {
    on_machine(9, async |io| {
        let segment_bytes = 16 << 20; // all of it may wait
        let options =
            LogOptions { segment_bytes_first: segment_bytes, segment_bytes_max: segment_bytes, ..small() };
        let log = open(&io, options).await;
        let told = Rc::new(Told::default());
        log.listen(Rc::clone(&told) as Rc<dyn DurableListener>);
        let mut last = Ticket(0);
        for n in 0..200 {
            last = log.append(if n % 3 == 0 { OTHER } else { QUEUE }, batch(&[&[1; 5000]])).unwrap().ticket;
        }
        log.wait_durable(last).await.unwrap();
        assert!(told.tickets.borrow().is_sorted());
        assert_eq!(told.tickets.borrow().last(), Some(&last));
        for queues in told.queues.borrow().iter() {
            assert!(queues.len() <= 2 && queues.is_sorted() && queues.first() != queues.get(1), "{queues:?}");
        }
        io.fault_when(|call| {
            let is_write = call.kind == equeue_storage::io::memory::CallKind::Write;
            is_write.then_some(equeue_storage::io::memory::Fault::Error(libc::EIO))
        });
        let ticket = log.append(QUEUE, batch(&[b"x"])).unwrap().ticket;
        assert!(matches!(log.wait_durable(ticket).await, Err(AppendError::Poisoned { .. })));
        assert_eq!(told.poisoned.borrow().len(), 1);
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), 133, "reads go on");
        assert!(log.close().await.is_err());
    });
}

#[test]
fn an_idle_log_says_that_everything_is_durable() {
    // Without it, damage of the last flushes before a stop would look like a torn tail.
    let io = on_machine(3, async |io| {
        let log = open(&io, small()).await;
        let ticket = log.append(QUEUE, batch(&[b"precious"])).unwrap().ticket;
        log.wait_durable(ticket).await.unwrap();
        io.sleep(Duration::from_millis(400)).await;
        let flushes = log.stats().flushes;
        io.sleep(Duration::from_secs(2)).await;
        assert_eq!(log.stats().flushes, flushes, "one is enough");
    });
    let io = io.after_power_cut(Survivors::Synced);
    let segment = io.paths().into_iter().find(|path| path.ends_with("00000000000000000000.seg")).unwrap();
    // OPEN is at 4096, the message's flush at 8192.
    io.damage(&segment, |bytes| bytes[8192 + 150] ^= 1);
    let machine = io.clone();
    let opened = io
        .run(async move { CommitLog::open(machine, DIR.into(), LogId(0), small()).await.map(|_| ()) })
        .unwrap();
    assert!(opened.unwrap_err().to_string().contains("damaged at position 8192"));
}
