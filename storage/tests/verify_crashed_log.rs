//! The offline tools on what a real log leaves: sound after every power cut, before and after recovery, and damage
//! only where there is some.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use common::{batch, small};
use equeue_record::QueueKey;
use equeue_storage::LogId;
use equeue_storage::io::memory::{Fault, MemoryIo, Survivors};
use equeue_storage::log::{AtomicPart, CommitLog};
use equeue_storage::offline::{self, VerifyReport};

const LOG_DIR: &str = "/data/log-0";

/// Appends and waits, over some segments; tells how many records were acknowledged.
async fn fill(io: MemoryIo, rounds: u32, acknowledged: Rc<Cell<u64>>) {
    let (log, _) = CommitLog::open(io, PathBuf::from(LOG_DIR), LogId(0), small()).await.unwrap();
    for n in 0..rounds {
        let mut last = log.durable();
        for (queue, len) in [(1, 40_000), (2, 30_000), (3, 20_000)] {
            log.open_queue(QueueKey(queue));
            let body = vec![n.to_le_bytes()[0]; len];
            last = log.append(QueueKey(queue), batch(&[&body, b"second"])).unwrap().ticket;
        }
        let state = AtomicPart::State { key: "round".into(), value: Some(n.to_le_bytes().to_vec().into()) };
        last = last.max(log.append_atomic(vec![state]).unwrap());
        log.wait_durable(last).await.unwrap();
        acknowledged.set(acknowledged.get() + 6);
    }
    log.close().await.unwrap();
}

/// The files of the machine in memory, in a folder on disk.
fn export(io: &MemoryIo) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log-0")).unwrap();
    for path in io.paths() {
        let name = path.strip_prefix("/data").unwrap();
        std::fs::write(dir.path().join(name), io.content(&path).unwrap()).unwrap();
    }
    dir
}

fn verified(io: &MemoryIo) -> VerifyReport {
    offline::verify(export(io).path()).unwrap()
}

fn run(io: &MemoryIo, rounds: u32) -> (bool, u64) {
    let acknowledged = Rc::new(Cell::new(0));
    let ended = io.run(fill(io.clone(), rounds, Rc::clone(&acknowledged)));
    (ended.is_ok(), acknowledged.get())
}

#[test]
fn a_log_is_sound_after_any_power_cut() {
    let whole = MemoryIo::new(1).with_dir("/data");
    let (ended, all) = run(&whole, 25);
    assert!(ended && all == 150);
    let report = verified(&whole);
    assert!(report.is_sound(), "{:?}", report.damaged);
    assert_eq!(report.totals().records, 150);
    assert!(report.totals().segments >= 2);

    for (seed, call) in (1..).zip((0..whole.calls()).step_by(3)) {
        let io = MemoryIo::new(seed).with_dir("/data");
        io.fault_at(call, Fault::PowerCut);
        let (_, acknowledged) = run(&io, 25);
        let after = io.after_power_cut(Survivors::Random(seed));
        if !after.paths().iter().any(|path| path.starts_with(LOG_DIR)) {
            assert_eq!(acknowledged, 0);
            continue;
        }
        let report = verified(&after);
        assert!(report.is_sound(), "call {call}, seed {seed}: {:?}", report.damaged);
        assert!(report.totals().records >= acknowledged, "call {call}, seed {seed}");
        // The log itself agrees, and what it makes of it is sound again.
        let (ended, _) = run(&after, 3);
        assert!(ended, "call {call}, seed {seed}");
        let again = verified(&after);
        assert!(again.is_sound(), "after recovery, call {call}, seed {seed}: {:?}", again.damaged);
        assert_eq!(again.totals().records, report.totals().records + 18, "call {call}, seed {seed}");
    }
}

#[test]
fn a_flipped_byte_in_an_acknowledged_flush_is_found() {
    let io = MemoryIo::new(1).with_dir("/data");
    run(&io, 10);
    let dir = export(&io);
    let sound = offline::verify(dir.path()).unwrap();
    let mut flushes = Vec::new();
    offline::dump(dir.path(), &offline::DumpOptions::default(), |item| {
        if let offline::DumpItem::Flush(header) = item {
            flushes.push(*header);
        }
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(flushes.len() as u64, sound.totals().flushes);
    // Nothing tells of the last one.
    for header in &flushes[..flushes.len() - 1] {
        let path = segment_of(dir.path(), header.position.0);
        let at = header.position.0 - begin_of(&path) + 64;
        flip(&path, at);
        let report = offline::verify(dir.path()).unwrap();
        let found: Vec<_> = report.damaged.iter().map(|damaged| damaged.position).collect();
        assert_eq!(found.first(), Some(&header.position), "{:?}", report.damaged);
        flip(&path, at);
    }
    assert_eq!(offline::verify(dir.path()).unwrap(), sound);
}

fn begin_of(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn segment_of(dir: &Path, position: u64) -> PathBuf {
    let files = std::fs::read_dir(dir.join("log-0")).unwrap().map(|entry| entry.unwrap().path());
    let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.filter(|path| begin_of(path) <= position).max_by_key(|path| begin_of(path)).unwrap()
}

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
