//! A start that takes long tells how far it is, within a segment too, and how long it took in the end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::batch;
use common::oracle::DIR;
use equeue_record::QueueKey;
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{CallKind, Fault, MemoryIo, Survivors};
use equeue_storage::log::{CommitLog, LogOptions};
use tracing::field::{Field, Visit};
use tracing::span;

const QUEUE: QueueKey = QueueKey(1);

/// What was told: the bytes read and those there are, each time.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(u64, u64)>>>);

#[derive(Default)]
struct Fields {
    message: String,
    bytes: u64,
    of: u64,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "bytes" => self.bytes = value,
            "of" => self.of = value,
            _ => {}
        }
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.message == "reading the log back" {
            self.0.lock().unwrap().push((fields.bytes, fields.of));
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn large() -> LogOptions {
    LogOptions { segment_bytes_max: 16 << 20, segment_bytes_first: 16 << 20, ..common::small() }
}

#[test]
fn progress_is_told_within_a_segment() {
    let io = MemoryIo::new(1).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let (log, _) = CommitLog::open(machine, DIR.into(), LogId(0), large()).await.unwrap();
        log.open_queue(QUEUE);
        for _ in 0..200 {
            let appended = log.append(QUEUE, batch(&[&vec![1; 50_000]])).unwrap();
            log.wait_durable(appended.ticket).await.unwrap();
        }
    })
    .unwrap();
    let io = io.after_power_cut(Survivors::All);
    // A window of the segment takes two seconds, a sync three.
    io.fault_when(|call| match call.kind {
        CallKind::Read if call.len == 1 << 20 => Some(Fault::Slow(Duration::from_secs(2))),
        CallKind::Sync => Some(Fault::Slow(Duration::from_secs(3))),
        _ => None,
    });
    let (told, machine) = (Told::default(), io.clone());
    let recovered = tracing::subscriber::with_default(told.clone(), || {
        io.run(async move {
            let begun = machine.uptime();
            let opened = CommitLog::open(machine.clone(), DIR.into(), LogId(0), large()).await;
            let (log, recovered) = opened.unwrap();
            let took = machine.uptime().saturating_sub(begun);
            assert!(!recovered.clean && recovered.took.abs_diff(took) < Duration::from_millis(1), "{took:?}");
            log.close().await.unwrap();
            recovered
        })
    })
    .unwrap();
    let told = told.0.lock().unwrap().clone();
    assert!((3..=6).contains(&told.len()), "{told:?}");
    assert!(told.is_sorted() && told.iter().all(|(bytes, of)| bytes < of && *of < 16 << 20), "{told:?}");
    assert!(recovered.took > Duration::from_secs(20), "{recovered:?}");
}
