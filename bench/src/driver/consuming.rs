//! One consumer: pulls batches, counts them, and has every body checked when asked to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use equeue_client::{Consumer, ReceivedBatch};
use equeue_record::RecordError;
use tokio::sync::watch;

use super::ledger::Span;
use super::moments::Moments;
use super::{Stage, outcome_name};
use crate::histogram::Latencies;
use crate::machine::now_ns;
use crate::stamp::Stamp;
use crate::verify::Verifier;

/// How long one pull waits.
const PULL_WAIT: Duration = Duration::from_millis(500);
/// Pause after a failed pull.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes that a consumer may hold that were not pulled: the client's default.
pub(crate) const PREFETCH_BYTES: usize = 8 << 20;
/// Time between two looks at what a consumer owns.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a thread's consumers came to.
#[derive(Debug)]
pub(crate) struct ConsumeTally {
    /// What counts for the end-to-end latency, by send time.
    pub span: Span,
    /// From when a message was due (to be sent, or to be delivered) until it was here, since whoever watches looked last.
    pub end_to_end: Latencies,
    /// Delayed messages that came before their time.
    pub early: u64,
    /// Messages, each once.
    pub received: u64,
    /// Bytes of the bodies of `received`.
    pub bytes: u64,
    /// Of these, the messages that came since the counted time began.
    pub counted: u64,
    /// Bytes of the bodies of `counted`.
    pub counted_bytes: u64,
    /// Of those received, the messages that may have been fetched before the clock started.
    pub prefetched: u64,
    /// Bytes of the bodies of `prefetched`.
    pub prefetched_bytes: u64,
    /// Time of the first batch.
    pub first_ns: Option<u64>,
    /// Time of the first batch that was not prefetched.
    pub first_fetched_ns: Option<u64>,
    /// Time of the last batch.
    pub last_ns: u64,
    /// Queues that the thread's consumers own, by consumer.
    pub assigned: BTreeMap<u32, usize>,
    /// Failed pulls by code.
    pub errors: BTreeMap<String, u64>,
}

impl ConsumeTally {
    pub(crate) fn new() -> Self {
        Self {
            span: Span::NEVER,
            end_to_end: Latencies::new(),
            early: 0,
            received: 0,
            bytes: 0,
            counted: 0,
            counted_bytes: 0,
            prefetched: 0,
            prefetched_bytes: 0,
            first_ns: None,
            first_fetched_ns: None,
            last_ns: 0,
            assigned: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }
}

/// How far each queue was received, by all consumers together: what a second consumer of a queue reads again after a
/// change of hands is not counted twice.
#[derive(Debug)]
pub(crate) struct QueueProgress {
    next: Vec<AtomicU64>,
}

impl QueueProgress {
    pub(crate) fn new(places: usize) -> Self {
        Self { next: (0..places).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Takes the offsets `first..next` of a queue; how many of them are new.
    fn advance(&self, queue: u32, first: u64, next: u64) -> u64 {
        let Some(known) = self.next.get(queue as usize) else { return next.saturating_sub(first) };
        let known = known.fetch_max(next, Ordering::Relaxed);
        next.saturating_sub(known.max(first))
    }
}

/// What all consumers of a run share.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Receiving {
    /// The run whose messages are received.
    pub run: u32,
    /// The topic was filled before: consumers own their queues before the clock starts, but wait for it.
    pub drains: bool,
    /// They begin when they are told to, which is later than producers.
    pub waits: bool,
    /// Messages of other runs do not count.
    pub own_only: bool,
    /// Bodies carry the time at which they were sent, by this run's clock.
    pub timed: bool,
    /// Messages were to be delivered so much after they were due to be sent.
    pub delay_ns: u64,
    /// Numbers of the topics.
    pub topics: BTreeMap<String, u32>,
    /// Queues of each topic.
    pub queues: u32,
    /// When they begin.
    pub moments: Arc<Moments>,
    /// How far each queue was received.
    pub progress: QueueProgress,
    /// Checks every body.
    pub verifier: Option<Mutex<Verifier>>,
}

impl Receiving {
    /// One number for a queue of a topic.
    fn place(&self, batch: &ReceivedBatch) -> u32 {
        let topic = if self.topics.len() > 1 { self.topics.get(&**batch.topic()) } else { None };
        topic.map_or(0, |topic| topic * self.queues) + batch.queue()
    }
}

/// Receives until the task is dropped.
pub(crate) async fn consume(
    mut consumer: Consumer,
    index: u32,
    receiving: Arc<Receiving>,
    tally: Arc<Mutex<ConsumeTally>>,
    mut stage: watch::Receiver<Stage>,
) {
    let mut prefetched = 0;
    if receiving.drains {
        prefetched = PREFETCH_BYTES as u64;
    }
    if receiving.waits {
        wait_for_start(&consumer, index, &receiving.moments, &tally, &mut stage).await;
    }
    loop {
        match consumer.pull_batch(PULL_WAIT).await {
            Ok(Some(mut batch)) => {
                if let Err(error) = take(&mut batch, &receiving, &tally, &mut prefetched) {
                    tracing::warn!(%error, "a batch cannot be read");
                    count_error(&tally, outcome_name(&error));
                }
            }
            Ok(None) => {
                let owned = consumer.positions().len();
                tally.lock().unwrap_or_else(PoisonError::into_inner).assigned.insert(index, owned);
            }
            Err(error) => {
                tracing::debug!(%error, "a pull failed");
                count_error(&tally, outcome_name(&error));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Owns queues, pulls nothing.
async fn wait_for_start(
    consumer: &Consumer,
    index: u32,
    moments: &Moments,
    tally: &Mutex<ConsumeTally>,
    stage: &mut watch::Receiver<Stage>,
) {
    while matches!(*stage.borrow(), Stage::Prepare) || now_ns() < moments.resume_ns() {
        let owned = consumer.positions().len();
        tally.lock().unwrap_or_else(PoisonError::into_inner).assigned.insert(index, owned);
        let _ = tokio::time::timeout(LOOK_EVERY, stage.changed()).await;
    }
}

fn count_error(tally: &Mutex<ConsumeTally>, name: String) {
    *tally.lock().unwrap_or_else(PoisonError::into_inner).errors.entry(name).or_insert(0) += 1;
}

/// Counts, times and checks one batch.
fn take(
    batch: &mut ReceivedBatch,
    receiving: &Receiving,
    tally: &Mutex<ConsumeTally>,
    prefetched: &mut u64,
) -> Result<(), RecordError> {
    let now = now_ns();
    let queue = receiving.place(batch);
    let mut verifier =
        receiving.verifier.as_ref().map(|verifier| verifier.lock().unwrap_or_else(PoisonError::into_inner));
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut first, mut next, mut bytes, mut records, mut own) = (None, 0, 0, 0_u64, true);
    for record in batch.records()? {
        let record = record?;
        let offset = record.offset.0;
        let body = record.body.unwrap_or_default();
        if receiving.own_only && first.is_none() {
            // A batch is one producer's: its first record speaks for all.
            own = Stamp::read(body).is_some_and(|stamp| stamp.run == receiving.run);
        }
        first.get_or_insert(offset);
        next = offset + 1;
        records += 1;
        bytes += body.len() as u64;
        if receiving.timed
            && let Some(stamp) = Stamp::read(body)
            && stamp.run == receiving.run
            && tally.span.contains(stamp.sent_ns)
        {
            let due_ns = stamp.sent_ns + receiving.delay_ns;
            tally.end_to_end.record(now.saturating_sub(due_ns));
            tally.early += u64::from(now < due_ns);
        }
        if let Some(verifier) = &mut verifier {
            verifier.observe(queue, offset, body);
        }
    }
    let Some(first) = first.filter(|_| own) else { return Ok(()) };
    let fresh = receiving.progress.advance(queue, first, next);
    let bytes = if fresh >= records { bytes } else { bytes * fresh / records.max(1) };
    tally.received += fresh;
    tally.bytes += bytes;
    if now >= tally.span.from_ns {
        tally.counted += fresh;
        tally.counted_bytes += bytes;
    }
    tally.first_ns.get_or_insert(now);
    if *prefetched > 0 {
        *prefetched = prefetched.saturating_sub(bytes);
        tally.prefetched += fresh;
        tally.prefetched_bytes += bytes;
    } else {
        tally.first_fetched_ns.get_or_insert(now);
    }
    tally.last_ns = now;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_is_not_new() {
        let progress = QueueProgress::new(5);
        assert_eq!(progress.advance(3, 0, 10), 10);
        assert_eq!(progress.advance(3, 5, 12), 2);
        assert_eq!(progress.advance(3, 0, 10), 0);
        assert_eq!(progress.advance(4, 100, 110), 10, "an old topic begins where it begins");
    }
}
