//! Figures at scale: a long log with many queues opens fast, an idle queue costs little, many queues cost little more
//! than few. For a release build and a quiet machine:
//!
//! ```text
//! cargo test --release -p equeue-storage --test scale -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `EQUEUE_SCALE_DIR` is a folder on the disk to measure (default: beside the test), `EQUEUE_SCALE_GIB` the length of the
//! log (default 100). The long log is made of real segment files of 256 MiB that are sparse: header, one flush, SEAL; the
//! newest ones are written by the log itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]
#![allow(clippy::print_stdout, reason = "its figures are what this is for")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::batch;
use equeue_record::{MasterEpoch, QueueKey};
use equeue_storage::format::{
    Chain, FLUSH_HEADER_LEN, FlushHeader, FlushKind, OpenBody, OpenCause, Salt, SealBody, SegmentHeader,
    segment_name,
};
use equeue_storage::io::{DmaIo, Io as _};
use equeue_storage::log::{AppendError, CommitLog, LogOptions};
use equeue_storage::{LogId, Position, Ticket};

const QUEUES: u64 = 100_000;
const SEGMENT_BYTES: u64 = 256 << 20;

fn folder() -> tempfile::TempDir {
    let dir = std::env::var_os("EQUEUE_SCALE_DIR")
        .map_or_else(|| std::env::current_exe().unwrap().parent().unwrap().to_owned(), PathBuf::from);
    tempfile::tempdir_in(dir).unwrap()
}

fn on_executor<T: Send + 'static>(
    cache: usize,
    test: impl AsyncFnOnce(&Path) -> T + Send + 'static,
    path: PathBuf,
) -> T {
    glommio::LocalExecutorBuilder::default()
        .io_memory(cache)
        .preempt_timer(Duration::from_millis(5))
        .spawn(move || async move { test(&path).await })
        .unwrap()
        .join()
        .unwrap()
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Sparse sealed segments, and one more that is prepared.
fn make_long_log(dir: &Path, segments: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let salt = |number: u64| Salt::from_bits(number + 1);
    let mut chain = Chain { position: Position(4096), link: Some(Chain::START) };
    for number in 0..=segments {
        let header = SegmentHeader {
            log: LogId(0),
            position: Position(number * SEGMENT_BYTES),
            bytes: SEGMENT_BYTES,
            salt: salt(number),
            created_ms: 0,
            has_gaps: false,
        };
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(dir.join(segment_name(header.position)))
            .unwrap();
        file.set_len(SEGMENT_BYTES).unwrap();
        file.write_all_at(&header.encode(), 0).unwrap();
        if number < segments {
            let open = OpenBody { previous_end: Position(0), epoch: MasterEpoch(1), cause: OpenCause::New };
            let seal = SealBody { next: header.end() };
            chain.position = header.first_flush();
            if number == 0 {
                chain = put(&file, &header, &chain, (FlushKind::Open, &open.encode()), None);
            }
            chain = put(&file, &header, &chain, (FlushKind::Seal, &seal.encode()), Some(salt(number + 1)));
        }
        file.sync_all().unwrap();
    }
}

fn put(
    file: &std::fs::File,
    segment: &SegmentHeader,
    chain: &Chain,
    (kind, body): (FlushKind, &[u8]),
    next_salt: Option<Salt>,
) -> Chain {
    let flush = FlushHeader {
        kind,
        epoch: MasterEpoch(1),
        position: chain.position,
        body_len: u32::try_from(body.len()).unwrap(),
        span: 4096,
        body_crc: crc32c::crc32c(body),
        chain: chain.link.unwrap(),
        snapshot: None,
        time_ms: 1,
        salt: segment.salt,
        durable_to: chain.position,
        next_salt,
    };
    let mut block = [0; 4096];
    block[..FLUSH_HEADER_LEN].copy_from_slice(&flush.encode());
    block[FLUSH_HEADER_LEN..][..body.len()].copy_from_slice(body);
    file.write_all_at(&block, chain.position.0 - segment.position.0).unwrap();
    Chain::after(&flush)
}

type Log = CommitLog<DmaIo>;

async fn append(log: &Log, queue: u64, bytes: &bytes::Bytes) -> Ticket {
    loop {
        match log.append(QueueKey(queue), bytes.clone()) {
            Ok(appended) => return appended.ticket,
            Err(AppendError::Busy { .. }) => {
                let next = Ticket(log.durable().0 + 1);
                log.wait_durable(next).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Opens the log, appends `bytes` in all over the queues, and stops in order or not at all.
async fn live(dir: &Path, megabytes: u64, in_order: bool) -> (Duration, String) {
    let io = DmaIo::new(dir).await.unwrap();
    let begun = Instant::now();
    let (log, found) =
        CommitLog::open(io.clone(), dir.join("log-0"), LogId(0), LogOptions::default()).await.unwrap();
    for queue in 1..=QUEUES {
        log.open_queue(QueueKey(queue));
    }
    let took = begun.elapsed();
    let body = vec![7; 1000];
    let bytes = batch(&[&body]);
    let mut last = log.durable();
    for n in 0..megabytes * 1000 {
        last = append(&log, 1 + n % QUEUES, &bytes).await;
        if n % 500 == 0 {
            io.yield_now().await;
        }
    }
    log.wait_durable(last).await.unwrap();
    io.sleep(Duration::from_millis(300)).await;
    if in_order {
        log.close().await.unwrap();
    }
    (
        took,
        format!("clean {}, {} flushes replayed, {} torn bytes", found.clean, found.flushes, found.torn_bytes),
    )
}

#[test]
#[ignore = "measures; takes a while and some hundred MB of disk"]
fn a_long_log_with_many_queues_opens_fast() {
    let dir = folder();
    let gib: u64 = std::env::var("EQUEUE_SCALE_GIB").map_or(100, |gib| gib.parse().unwrap());
    make_long_log(&dir.path().join("log-0"), gib * 4);
    let run = |megabytes, in_order| {
        on_executor(64 << 20, async move |dir| live(dir, megabytes, in_order).await, dir.path().to_owned())
    };
    let (took, found) = run(400, true);
    println!("{gib} GiB, {QUEUES} queues: first open {took:?} ({found})");
    let (took, found) = run(200, false);
    println!("after an orderly stop: {took:?} ({found})");
    assert!(took < Duration::from_secs(2));
    let (took, found) = run(1, true);
    println!("after a crash: {took:?} ({found})");
    assert!(took < Duration::from_secs(5));
}

#[test]
#[ignore = "measures"]
fn an_idle_queue_costs_little() {
    let dir = folder();
    on_executor(
        16 << 20,
        async |dir| {
            let io = DmaIo::new(dir).await.unwrap();
            let options = LogOptions { cache_bytes: 8 << 20, ..LogOptions::default() };
            let (log, _) = CommitLog::open(io.clone(), dir.join("log-0"), LogId(0), options).await.unwrap();
            let before = resident();
            let bytes = batch(&[b"x"]);
            let mut last = log.durable();
            for queue in 1..=QUEUES {
                log.open_queue(QueueKey(queue));
                last = append(&log, queue, &bytes).await;
            }
            log.wait_durable(last).await.unwrap();
            let cost = (resident() - before).saturating_sub(8 << 20) / QUEUES;
            println!("an idle queue with one message: {cost} bytes of memory");
            assert!(cost < 1024);
            log.close().await.unwrap();
        },
        dir.path().to_owned(),
    );
}

/// Files in memory: the disk, which would hide what the processor does, is left out.
async fn rate(dir: &Path, queues: u64) -> f64 {
    let io = DmaIo::in_memory(2 << 30);
    let name = format!("log-{queues}");
    let options =
        LogOptions { cache_bytes: 64 << 20, segment_bytes_first: 256 << 20, ..LogOptions::default() };
    let (log, _) = CommitLog::open(io.clone(), dir.join(name), LogId(0), options).await.unwrap();
    for queue in 1..=queues {
        log.open_queue(QueueKey(queue));
    }
    // The next segment is being zeroed meanwhile.
    io.sleep(Duration::from_secs(2)).await;
    let body = vec![7; 1000];
    let bytes = batch(&[&body]);
    let begun = Instant::now();
    let mut last = log.durable();
    let count = 400_000_u64;
    for n in 0..count {
        last = append(&log, 1 + n.wrapping_mul(7919) % queues, &bytes).await;
    }
    log.wait_durable(last).await.unwrap();
    let took = begun.elapsed().as_secs_f64();
    log.close().await.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "200,000")]
    let count = count as f64;
    count / took
}

#[test]
#[ignore = "measures"]
fn many_queues_cost_little_more_than_few() {
    let dir = folder();
    let mut best = [0.0_f64; 2];
    for _ in 0..3 {
        for (best, queues) in best.iter_mut().zip([8, 10_000]) {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            let run = async move |dir: &Path| rate(dir, queues).await;
            let found = on_executor(80 << 20, run, dir.path().to_owned());
            println!("{queues} queues: {found:.0} batches of 1 KB a second");
            *best = best.max(found);
        }
    }
    println!("10,000 queues: {:.1} % of 8 queues", 100.0 * best[1] / best[0]);
    assert!(best[1] >= 0.85 * best[0]);
}
