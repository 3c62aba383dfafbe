//! What crashes and damaged indexes cost: no larger segments, no lost disk, one rebuilding for all readers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::oracle::{DIR, options, segments};
use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::io::{DmaIo, Io as _};
use equeue_storage::log::{CommitLog, Hazards, LogOptions};

const QUEUE: QueueKey = QueueKey(4);

async fn open(io: &MemoryIo, options: LogOptions) -> CommitLog<MemoryIo> {
    let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options).await.unwrap();
    log.open_queue(QUEUE);
    log
}

async fn fill(log: &CommitLog<MemoryIo>, messages: u64) {
    for _ in 0..messages {
        let appended = log.append(QUEUE, batch(&[&vec![1; 50_000]])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
    }
}

#[test]
fn segments_do_not_grow_with_crashes() {
    let growing = || LogOptions { segment_bytes_max: 64 << 20, ..options(Hazards::default()) };
    let mut io = MemoryIo::new(1).with_dir("/data");
    for round in 0..8_u64 {
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine, growing()).await;
            assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len() as u64, 2 * round);
            fill(&log, 2).await;
            machine.sleep(Duration::from_secs(1)).await;
        })
        .unwrap();
        io = io.after_power_cut(Survivors::All);
    }
    let largest = segments(&io).iter().map(|path| io.content(path).unwrap().len()).max().unwrap();
    assert!(largest <= 2 << 20, "the largest segment has {largest} bytes");
}

/// One life on real files, without an orderly stop; what the log says that it takes.
fn crash(dir: &std::path::Path) -> u64 {
    let dir = dir.to_owned();
    glommio::LocalExecutorBuilder::default()
        .io_memory(8 << 20)
        .spawn(move || async move {
            let io = DmaIo::new(&dir).await.unwrap();
            let opened = CommitLog::open(io.clone(), dir.join("log-0"), LogId(0), common::small()).await;
            let log = opened.unwrap().0;
            log.open_queue(QUEUE);
            let appended = log.append(QUEUE, batch(&[&vec![1; 50_000]])).unwrap();
            log.wait_durable(appended.ticket).await.unwrap();
            // Time for what goes on behind: a tail given back, the next segment prepared.
            io.sleep(Duration::from_secs(1)).await;
            log.stats().stored_bytes
        })
        .unwrap()
        .join()
        .unwrap()
}

#[test]
fn the_unused_end_of_a_segment_is_given_back_after_a_crash() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mut stored = 0;
    for _ in 0..4 {
        stored = crash(dir.path());
    }
    let files =
        std::fs::read_dir(dir.path().join("log-0")).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let files: Vec<_> = files.filter(|file| file.len() >= 1 << 20).collect();
    assert!(files.len() >= 5, "four segments and a prepared one");
    let on_disk: u64 = files.iter().map(|file| file.blocks() * 512).sum();
    let lengths: u64 = files.iter().map(std::fs::Metadata::len).sum();
    assert!(on_disk + (2 << 20) < lengths, "{on_disk} of {lengths} bytes");
    assert!(stored.abs_diff(on_disk) < 256 << 10, "the log says {stored}, the disk {on_disk}");
}

#[test]
fn readers_that_find_the_same_index_damaged_wait_for_one_another() {
    for seed in 0..20 {
        let io = MemoryIo::new(seed).with_dir("/data");
        let machine = io.clone();
        io.run(async move {
            let io = machine;
            let log = open(&io, options(Hazards::default())).await;
            fill(&log, 80).await;
            io.sleep(Duration::from_secs(1)).await;
            log.close().await.unwrap();
            for path in io.paths().into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "idx"))
            {
                io.damage(&path, |bytes| bytes[4096 + 40] ^= 1);
            }
            let log = open(&io, options(Hazards::default())).await;
            let done = Rc::new(Cell::new(0));
            for offset in 0..8 {
                let (log, done) = (log.clone(), Rc::clone(&done));
                io.spawn(async move {
                    log.read(QUEUE, Offset(offset), 1).await.unwrap();
                    log.offset_at_time(QUEUE, 0).await.unwrap();
                    done.set(done.get() + 1);
                });
            }
            io.sleep(Duration::from_secs(5)).await;
            assert_eq!(done.get(), 8);
            let stats = log.stats();
            assert!((1..=8).contains(&stats.index_rebuilds), "{stats:?}");
            let (again, before) = (log.clone(), stats.index_rebuilds);
            read_all(&again, QUEUE, Offset(0), 1 << 20).await;
            let indexes =
                io.paths().iter().filter(|path| path.extension().is_some_and(|ext| ext == "idx")).count();
            assert!(again.stats().index_rebuilds <= indexes as u64, "each once: {before}");
            log.close().await.unwrap();
        })
        .unwrap();
    }
}

#[test]
fn times_are_found_while_the_cache_is_too_small_for_a_window() {
    for seed in 0..10 {
        let io = MemoryIo::new(seed).with_dir("/data");
        let machine = io.clone();
        io.run(async move {
            let io = machine;
            let tiny = LogOptions { cache_bytes: 8 << 10, ..options(Hazards::default()) };
            let log = open(&io, tiny).await;
            let done = Rc::new(Cell::new(0));
            for n in 0..60_u64 {
                let appended = log.append(QUEUE, batch(&[&vec![1; 20_000]])).unwrap();
                log.wait_durable(appended.ticket).await.unwrap();
                for time_ms in [0, appended.append_time_ms] {
                    let (log, done) = (log.clone(), Rc::clone(&done));
                    io.spawn(async move {
                        let found = log.offset_at_time(QUEUE, time_ms).await.unwrap();
                        assert!(found <= Offset(n));
                        done.set(done.get() + 1);
                    });
                }
                io.sleep(Duration::from_micros(seed * 20)).await;
            }
            io.sleep(Duration::from_secs(1)).await;
            assert_eq!(done.get(), 120);
            log.close().await.unwrap();
        })
        .unwrap();
    }
}
