//! Sealed segments are read again at the rate that was set: damage is told before a reader meets it, and nothing that is
//! sound is called damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{CallKind, Fault, MemoryIo};
use equeue_storage::log::{CommitLog, Hazards, LogOptions};
use equeue_storage::retention::{NoAdvisor, RetentionPolicy};

const QUEUE: QueueKey = QueueKey(4);
const RATE: u64 = 1 << 20;

fn scrubbing() -> LogOptions {
    LogOptions { scrub_bytes_per_second: RATE, ..options(Hazards::default()) }
}

/// A log with some sealed segments of 1 MiB, opened again.
async fn open_with_segments(io: &MemoryIo, options: LogOptions) -> CommitLog<MemoryIo> {
    for life in 0..2 {
        let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options.clone()).await.unwrap();
        log.open_queue(QUEUE);
        if life == 1 {
            return log;
        }
        for _ in 0..60 {
            let ticket = log.append(QUEUE, batch(&[&vec![7; 80_000]])).unwrap().ticket;
            log.wait_durable(ticket).await.unwrap();
        }
        log.close().await.unwrap();
    }
    unreachable!("the second life is given")
}

fn run(test: impl AsyncFnOnce(MemoryIo) + 'static) {
    let io = MemoryIo::new(5).with_dir("/data");
    let machine = io.clone();
    io.run(async move { test(machine).await }).unwrap();
}

fn first_segment() -> PathBuf {
    Path::new(DIR).join("00000000000000000000.seg")
}

#[test]
fn a_sound_log_is_read_at_its_rate_and_found_sound() {
    run(async |io| {
        let log = open_with_segments(&io, scrubbing()).await;
        let reads = log.stats().disk_reads;
        io.sleep(Duration::from_secs(33)).await;
        let after_three_seconds = log.stats().scrubbed_bytes;
        assert!((RATE..=4 * RATE).contains(&after_three_seconds), "{after_three_seconds}");
        io.sleep(Duration::from_mins(1)).await;
        let stats = log.stats();
        assert_eq!((stats.scrub_passes, stats.scrub_damaged, stats.scrub_errors), (1, 0, 0), "{stats:?}");
        assert!(stats.scrub_last_pass_ms > 0 && stats.scrub_indexes_mended == 0, "{stats:?}");
        assert_eq!(stats.disk_reads, reads, "the cache has no part in it");
        io.sleep(Duration::from_hours(1)).await;
        assert_eq!(log.stats().scrub_passes, 2);
        // A log that is being scrubbed closes at once.
        let begun = io.now();
        log.close().await.unwrap();
        assert!(io.now().saturating_sub(begun) < Duration::from_secs(1));
    });
}

#[test]
fn damage_is_told_before_anybody_reads_it() {
    run(async |io| {
        let log = open_with_segments(&io, scrubbing()).await;
        io.damage_in_place(first_segment(), |bytes| bytes[300_000] ^= 1);
        io.sleep(Duration::from_mins(1)).await;
        assert_eq!(log.stats().scrub_damaged, 1);
        io.damage_in_place(first_segment(), |bytes| bytes[300_000] ^= 1);
        io.sleep(Duration::from_hours(1)).await;
        assert_eq!(log.stats().scrub_damaged, 0, "a file that was put right is sound again");
        log.close().await.unwrap();
    });
}

#[test]
fn an_index_that_does_not_fit_its_segment_is_made_again() {
    run(async |io| {
        let log = open_with_segments(&io, scrubbing()).await;
        let index = Path::new(DIR).join("00000000000000000000.idx");
        let right = io.content(&index).unwrap();
        io.damage(&index, |bytes| bytes[5000] ^= 1);
        io.sleep(Duration::from_mins(1)).await;
        let stats = log.stats();
        assert_eq!((stats.scrub_indexes_mended, stats.scrub_damaged), (1, 0), "{stats:?}");
        assert_eq!(io.content(&index).unwrap(), right);
        assert_eq!(read_all(&log, QUEUE, Offset(0), 1 << 20).await.len(), 60);
        log.close().await.unwrap();
    });
}

#[test]
fn a_device_that_cannot_read_is_no_damage() {
    run(async |io| {
        let log = open_with_segments(&io, scrubbing()).await;
        io.fault_when(|call| {
            let is_it = call.kind == CallKind::Read && call.path == first_segment() && call.position > 0;
            is_it.then_some(Fault::Error(libc::EIO))
        });
        io.sleep(Duration::from_mins(1)).await;
        let stats = log.stats();
        assert_eq!((stats.scrub_damaged, stats.scrub_errors, stats.poisoned), (0, 1, false), "{stats:?}");
        io.clear_faults();
        log.close().await.unwrap();
    });
}

#[test]
fn a_rate_of_nothing_switches_it_off() {
    run(async |io| {
        let log = open_with_segments(&io, options(Hazards::default())).await;
        io.sleep(Duration::from_secs(10_000)).await;
        assert_eq!((log.stats().scrubbed_bytes, log.stats().scrub_passes), (0, 0));
        log.close().await.unwrap();
    });
}

/// What a process has retired must not be taken for what is left.
#[test]
fn after_segments_were_retired_the_others_are_still_read() {
    run(async |io| {
        let log = open_with_segments(&io, scrubbing()).await;
        let before = log.stats().segments_kept;
        let policy =
            RetentionPolicy { segments_max: Some(before - 2), age_ms: None, ..RetentionPolicy::default() };
        while log.stats().segments_kept > before - 2 {
            log.retain(&policy, &NoAdvisor).await.unwrap();
        }
        let newest_sealed = {
            let mut paths: Vec<PathBuf> = io
                .paths()
                .into_iter()
                .filter(|path| path.extension().is_some_and(|kind| kind == "seg"))
                .collect();
            paths.sort();
            let used = log.stats().segments_kept;
            paths.truncate(used);
            paths[used - 2].clone()
        };
        io.damage_in_place(&newest_sealed, |bytes| bytes[300_000] ^= 1);
        io.sleep(Duration::from_mins(5)).await;
        assert_eq!(log.stats().scrub_damaged, 1, "{newest_sealed:?} {:?}", log.stats());
        io.damage_in_place(&newest_sealed, |bytes| bytes[300_000] ^= 1);
        // The block in front decides whether the log opens again.
        io.damage_in_place(&newest_sealed, |bytes| bytes[40] ^= 1);
        io.sleep(Duration::from_hours(1)).await;
        assert_eq!(log.stats().scrub_damaged, 1, "{:?}", log.stats());
        log.close().await.unwrap();
    });
}
