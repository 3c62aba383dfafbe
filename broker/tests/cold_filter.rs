//! A tag filter on a backlog that lies on disk: everything is read once, and what was passed is never read again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a test fails where it would panic"
)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Client, batch_of, config, start_with, stop};
use equeue_broker::BrokerConfig;
use equeue_broker::config::ByteSize;
use equeue_record::{ProducerStamp, QueueKey, tag_hash};

const QUEUES: u32 = 4;
/// Messages of a batch, of 1,000 bytes each.
const MESSAGES: usize = 100;
/// One batch of so many bears the tag.
const ONE_OF: usize = 101;
const WINDOW: u64 = 1 << 20;

/// What a filtered reader came to.
struct Scan {
    messages: usize,
    took: Duration,
    windows: u64,
    bytes_received: u64,
}

fn settings(dir: &std::path::Path) -> BrokerConfig {
    let mut settings = config(dir, 1);
    settings.storage.segment_bytes_max = ByteSize::mib(64);
    // The scrubber would read the disk as well.
    settings.storage.scrub_bytes_per_second = ByteSize(0);
    settings
}

/// Stores so many batches, stops the broker, and starts it with a cold cache.
fn filtered(batches: usize) -> Scan {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = start_with(settings(dir.path()));
    let mut client = Client::connect(broker.address());
    let queues: Vec<QueueKey> =
        client.create_topic("t", QUEUES).queues.iter().map(|entry| entry.key).collect();
    let bodies: Vec<Vec<u8>> = (0..MESSAGES as u64).map(|number| common::body(number, 1_000)).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let [wanted, other] = ["wanted", "other"].map(|tag| batch_of(&bodies, Some(tag), ProducerStamp::NONE));
    for first in (0..batches).step_by(8) {
        let batch = |number: usize| -> (QueueKey, Bytes) {
            let batch = if number % ONE_OF == 42 { &wanted } else { &other };
            (queues[number % queues.len()], batch.clone())
        };
        client.produce_ok(&(first..batches.min(first + 8)).map(batch).collect::<Vec<_>>());
    }
    drop(client);
    stop(broker);

    let broker = start_with(settings(dir.path()));
    let mut client = Client::connect(broker.address());
    let mut next: BTreeMap<QueueKey, u64> = queues.iter().map(|queue| (*queue, 0)).collect();
    let mut scan = Scan { messages: 0, took: Duration::ZERO, windows: 0, bytes_received: 0 };
    let begun = Instant::now();
    let mut front = 0;
    loop {
        let mut asked: Vec<(QueueKey, u64)> = next.iter().map(|(queue, offset)| (*queue, *offset)).collect();
        asked.rotate_left(front);
        let correlation = client.send_fetch(1, 0, &asked, &[tag_hash("wanted")]);
        let (answer, found) = client.fetched(correlation);
        if answer.outcomes.is_empty() {
            break;
        }
        scan.messages += found.iter().map(|batch| batch.bodies.len()).sum::<usize>();
        // As a consumer does: the queue behind the last one that gave something comes first.
        if let Some(last) = answer.outcomes.iter().rfind(|outcome| outcome.bytes > 0) {
            front = (next.keys().position(|queue| *queue == last.queue).unwrap() + 1) % queues.len();
        }
        for outcome in answer.outcomes {
            assert!(outcome.next_offset.0 > next[&outcome.queue], "each answer brings its queue on");
            next.insert(outcome.queue, outcome.next_offset.0);
            scan.bytes_received += u64::from(outcome.bytes);
        }
    }
    scan.took = begun.elapsed();
    let each = (batches / queues.len() * MESSAGES) as u64;
    assert!(next.values().all(|offset| *offset == each), "{next:?}");
    scan.windows = windows_read(&broker);
    stop(broker);
    scan
}

/// Windows read from disk, once that figure is up to date.
fn windows_read(broker: &equeue_broker::BrokerHandle) -> u64 {
    let figure = &broker.broker().stats[0].logs[0].disk_reads;
    loop {
        let before = figure.get();
        std::thread::sleep(Duration::from_millis(1_500));
        if figure.get() == before {
            return before;
        }
    }
}

fn look(batches: usize) -> Scan {
    let scan = filtered(batches);
    let stored = (batches * (MESSAGES * 1_020 + 600)) as u64;
    println!(
        "{} MB in {:?}: {:.0} MB/s; {} windows read, {} bytes received",
        stored / 1_000_000,
        scan.took,
        stored as f64 / 1e6 / scan.took.as_secs_f64(),
        scan.windows,
        scan.bytes_received
    );
    assert_eq!(scan.messages, batches / ONE_OF * MESSAGES);
    // Half a batch per window stays unwritten.
    let windows = stored / (WINDOW - 64 * 1024) + 1;
    assert!(scan.windows <= windows + windows / 20 + 2, "{} windows for {windows}", scan.windows);
    assert!(scan.bytes_received < stored / 50, "what nobody wants is not sent");
    scan
}

#[test]
fn what_a_filter_passed_is_never_read_again() {
    look(2_020);
}

/// Run with `--release`: `cargo nextest run --release -p equeue-broker --run-ignored all -E 'test(five_gigabytes)'`.
#[test]
#[ignore = "a measurement"]
fn a_filter_goes_through_five_gigabytes_at_the_speed_of_the_disk() {
    look(50_500);
}
