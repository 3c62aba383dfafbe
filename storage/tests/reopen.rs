//! What was acknowledged is there after a restart, orderly or not: on real files and in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::{Path, PathBuf};

use common::{batch, read_all, small};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::io::{DmaIo, Io};
use equeue_storage::log::{AtomicPart, CommitLog, LogOptions};

async fn fill<I: Io>(log: &CommitLog<I>, queues: u64, from: u32, to: u32) {
    let mut last = log.durable();
    for n in from..to {
        let queue = QueueKey(1 + u64::from(n) % queues);
        log.open_queue(queue);
        let body = [n.to_le_bytes().as_slice(), &vec![7; n as usize * 37 % 9000]].concat();
        loop {
            match log.append(queue, batch(&[&body, b"second"])) {
                Ok(appended) => {
                    last = appended.ticket;
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, equeue_storage::log::AppendError::Busy { .. }), "{error}");
                    log.wait_durable(last).await.unwrap();
                }
            }
        }
    }
    log.wait_durable(last).await.unwrap();
}

async fn check<I: Io>(log: &CommitLog<I>, queues: u64, to: u32) {
    for queue in 1..=queues {
        log.open_queue(QueueKey(queue));
        let expected: Vec<u32> = (0..to).filter(|n| 1 + u64::from(*n) % queues == queue).collect();
        let bounds = log.bounds(QueueKey(queue)).unwrap();
        assert_eq!(bounds.durable_end, Offset(2 * expected.len() as u64));
        let found = read_all(log, QueueKey(queue), Offset(0), 100_000).await;
        let found: Vec<u32> =
            found.iter().step_by(2).map(|body| u32::from_le_bytes(body[..4].try_into().unwrap())).collect();
        assert_eq!(found, expected, "queue {queue}");
    }
}

async fn scenario<I: Io>(io: I, dir: PathBuf, options: LogOptions) {
    let (log, found) = CommitLog::open(io.clone(), dir.clone(), LogId(3), options.clone()).await.unwrap();
    assert!(found.clean);
    fill(&log, 5, 0, 700).await;
    let state = |key: &'static str, value: Option<&'static str>| AtomicPart::State {
        key: key.into(),
        value: value.map(Into::into),
    };
    log.append_atomic(vec![state("a", Some("1")), state("b", Some("2"))]).unwrap();
    let ticket = log.append_atomic(vec![state("a", None), state("c", Some("3"))]).unwrap();
    log.wait_durable(ticket).await.unwrap();
    check(&log, 5, 700).await;
    log.close().await.unwrap();
    assert!(log.append(QueueKey(1), batch(&[b"x"])).is_err(), "closed");

    let (log, found) = CommitLog::open(io.clone(), dir.clone(), LogId(3), options.clone()).await.unwrap();
    assert!(found.clean, "{found:?}");
    check(&log, 5, 700).await;
    fill(&log, 5, 700, 1000).await;
    check(&log, 5, 1000).await;
    assert_eq!(
        (log.state(b"a"), log.state(b"b"), log.state(b"c")),
        (None, Some("2".into()), Some("3".into()))
    );
    log.close().await.unwrap();
}

#[test]
fn on_real_files() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().to_owned();
    let data_dir = path.clone();
    glommio::LocalExecutorBuilder::default()
        .io_memory(8 << 20)
        .spawn(move || async move {
            let io = DmaIo::new(&path).await.unwrap();
            scenario(io, path.join("log-3"), small()).await;
        })
        .unwrap()
        .join()
        .unwrap();
    // What the log writes is what the tools for operators read.
    let report = equeue_storage::offline::verify(&data_dir).unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    assert_eq!((report.logs[0].counts.records, report.logs[0].torn_bytes), (2000, 0), "{report:?}");
    assert!(report.logs[0].counts.segments > 2, "{report:?}");
}

#[test]
fn in_memory() {
    for seed in 0..5 {
        let io = MemoryIo::new(seed);
        io.run(scenario(io.clone(), "/data/log-3".into(), small())).unwrap();
    }
}

/// Many segments, a cache too small for them, and queues that are in some segments only.
async fn old_segments(io: MemoryIo, dir: PathBuf, lose_indexes: bool) {
    let options = LogOptions { cache_bytes: 1 << 20, segment_bytes_max: 1 << 20, ..small() };
    let (log, _) = CommitLog::open(io.clone(), dir.clone(), LogId(0), options.clone()).await.unwrap();
    let rare = QueueKey(77);
    log.open_queue(rare);
    let mut times = Vec::new();
    for round in 0..10_u32 {
        let append_time_ms = log.append(rare, batch(&[&round.to_le_bytes()])).unwrap().append_time_ms;
        times.push(append_time_ms);
        fill(&log, 5, round * 400, (round + 1) * 400).await;
        if round == 4 {
            io.sleep(std::time::Duration::from_secs(1)).await;
        }
    }
    assert!(log.stats().segments > 8, "{:?}", log.stats());
    io.sleep(std::time::Duration::from_secs(1)).await;
    let runs = log.stats().runs;
    log.close().await.unwrap();
    if lose_indexes {
        for path in io.paths().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "idx")) {
            if path.to_str().unwrap().contains("00000.idx") {
                io.take(&path);
            } else {
                io.damage(&path, |bytes| bytes[5000] ^= 1);
            }
        }
    }
    let (log, found) = CommitLog::open(io.clone(), dir, LogId(0), options).await.unwrap();
    assert!(found.clean && found.from > equeue_storage::Position(0), "{found:?}");
    assert!(log.stats().runs <= runs + 2000, "only the last segments' runs are in memory");
    check(&log, 5, 4000).await;
    log.open_queue(rare);
    assert_eq!(read_all(&log, rare, Offset(0), 1).await.len(), 10);
    assert_eq!(read_all(&log, rare, Offset(7), 1 << 20).await.len(), 3);
    for (n, time_ms) in (0..).zip(&times) {
        let found = log.offset_at_time(rare, *time_ms).await.unwrap();
        assert!(found <= Offset(n) && times[usize::try_from(found.0).unwrap()] == *time_ms);
        assert_eq!(log.offset_at_time(rare, i64::MAX).await.unwrap(), Offset(10));
        assert_eq!(log.offset_at_time(rare, 0).await.unwrap(), Offset(0));
    }
    let stats = log.stats();
    assert!(stats.disk_reads > 0 && stats.read_aheads > 0 && stats.index_reads > 0, "{stats:?}");
    assert_eq!(stats.index_rebuilds > 0, lose_indexes, "{stats:?}");
    log.close().await.unwrap();
}

#[test]
fn old_segments_are_read_through_their_indexes() {
    let io = MemoryIo::new(3);
    io.run(old_segments(io.clone(), "/data/log-0".into(), false)).unwrap();
}

#[test]
fn lost_and_damaged_indexes_are_made_again() {
    let io = MemoryIo::new(3);
    io.run(old_segments(io.clone(), "/data/log-0".into(), true)).unwrap();
}

#[test]
fn after_power_cuts() {
    let dir = Path::new("/data/log-0");
    let mut io = MemoryIo::new(1);
    for round in 0..6 {
        io.run({
            let io = io.clone();
            async move {
                let (log, found) = CommitLog::open(io, dir.into(), LogId(0), small()).await.unwrap();
                assert_eq!(found.clean, round == 0, "{found:?}");
                check(&log, 3, round * 200).await;
                fill(&log, 3, round * 200, (round + 1) * 200).await;
            }
        })
        .unwrap();
        io = io.after_power_cut(Survivors::Random(u64::from(round)));
    }
}
