//! Watches a run from outside: starts the clock, looks every second, decides when it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::consuming::ConsumeTally;
use super::ledger::Span;
use super::thread::Part;
use super::{Event, Load, Outcome, Stage};
use crate::histogram::Latencies;
use crate::machine::{all_cpu_ns, now_ns, process_cpu_ns};
use crate::meter::BrokerMeter;
use crate::progress::Progress;
use crate::report::{Consumed, Count, Second};
use crate::schedule::SECOND_NS;

/// How long connecting may take.
const PREPARED_WITHIN: Duration = Duration::from_secs(90);
/// How long the consumers may take until they own their queues.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(30);
/// Nothing received for so long although something is missing: it will not come.
const STALLED_AFTER: Duration = Duration::from_secs(15);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between the start signal and the first message.
const HEAD_START_NS: u64 = 20_000_000;

/// The sums over all threads at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    acknowledged: u64,
    acknowledged_ever: u64,
    bytes: u64,
    received: u64,
    last_acknowledged_ns: u64,
    last_received_ns: u64,
    prefetched: u64,
    first_received_ns: Option<u64>,
    first_fetched_ns: Option<u64>,
}

/// CPU time of both sides.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units come last in names")]
struct Cpu {
    at_ns: u64,
    broker_ns: Option<u64>,
    client_ns: u64,
    all_ns: Option<u64>,
}

impl Cpu {
    /// What neither side used since `before`.
    fn others_ns(&self, before: &Self) -> Option<u64> {
        let ours = self.client_ns - before.client_ns + (self.broker_ns? - before.broker_ns?);
        Some((self.all_ns? - before.all_ns?).saturating_sub(ours))
    }
}

pub(super) struct Watcher<'a> {
    load: &'a Load,
    parts: &'a [Part],
    meter: &'a BrokerMeter,
    progress: &'a Progress,
    span: Span,
    before: Option<(Cpu, Sums)>,
    after: Option<Cpu>,
    end_ns: u64,
    per_second: Vec<Second>,
    last_second: Sums,
    warnings: Vec<String>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(
        load: &'a Load,
        parts: &'a [Part],
        meter: &'a BrokerMeter,
        progress: &'a Progress,
    ) -> Self {
        Self {
            load,
            parts,
            meter,
            progress,
            span: Span::NEVER,
            before: None,
            after: None,
            end_ns: 0,
            per_second: Vec::new(),
            last_second: Sums::default(),
            warnings: Vec::new(),
        }
    }

    /// Leads the run from its first stage to its last.
    pub(super) async fn watch(
        &mut self,
        stage: &watch::Sender<Stage>,
        inbox: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<()> {
        self.prepare(inbox).await?;
        self.go(stage);
        let mut producing = self.parts.len();
        let mut stalled = Stall::new();
        let mut next_second_ns = self.span.from_ns + SECOND_NS;
        loop {
            self.sleep_until_look(next_second_ns).await;
            while let Ok(event) = inbox.try_recv() {
                match event {
                    Event::Produced => producing -= 1,
                    Event::Failed(error) => return Err(error),
                    Event::Prepared => {}
                }
            }
            self.meter.check_alive()?;
            let now = now_ns();
            let sums = self.sums();
            if self.before.is_none() && now >= self.span.from_ns {
                self.before = Some((self.cpu().await, sums));
                self.last_second = sums;
            }
            while now >= next_second_ns {
                self.note_second(sums);
                next_second_ns += SECOND_NS;
            }
            self.progress.show(sums.acknowledged_ever, sums.received, self.per_second.last());
            if self.after.is_none() && (now >= self.span.until_ns || (producing == 0 && !self.load.drains()))
            {
                self.end_ns = now.min(self.span.until_ns);
                self.after = Some(self.cpu().await);
            }
            if self.is_over(producing, sums, &mut stalled) {
                break;
            }
        }
        self.finish().await;
        Ok(())
    }

    async fn prepare(&mut self, inbox: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
        for _ in self.parts {
            match timeout(PREPARED_WITHIN, inbox.recv()).await {
                Ok(Some(Event::Failed(error))) => return Err(error),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => bail!("the generator did not connect within {PREPARED_WITHIN:?}"),
            }
            self.meter.check_alive()?;
        }
        if self.load.consumers == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + ASSIGNED_WITHIN;
        while self.assigned() < self.load.queues as usize {
            if let Ok(Event::Failed(error)) = inbox.try_recv() {
                return Err(error);
            }
            if Instant::now() > deadline {
                let owned = self.assigned();
                let wanted = self.load.queues;
                self.warnings
                    .push(format!("consumers owned only {owned} of {wanted} queues when the run began"));
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn go(&mut self, stage: &watch::Sender<Stage>) {
        let start_ns = now_ns() + HEAD_START_NS;
        let from_ns = start_ns + nanos(self.load.warmup);
        let until_ns = self.load.duration.map_or(u64::MAX, |duration| from_ns + nanos(duration));
        self.span = Span { from_ns, until_ns };
        for part in self.parts {
            lock(&part.ledger).span = self.span;
            lock(&part.tally).span = self.span;
        }
        stage.send_replace(Stage::Go { start_ns, span: self.span });
    }

    /// Sleeps a little, but not past a moment at which something is counted.
    async fn sleep_until_look(&self, next_second_ns: u64) {
        let now = now_ns();
        let moments = [self.span.from_ns, next_second_ns, self.span.until_ns];
        let next_ns = moments.into_iter().filter(|at| *at > now).min().unwrap_or(u64::MAX);
        sleep(Duration::from_nanos(next_ns - now).min(LOOK_EVERY)).await;
    }

    fn is_over(&mut self, producing: usize, sums: Sums, stalled: &mut Stall) -> bool {
        if self.load.consumers == 0 {
            return producing == 0;
        }
        let expected = if self.load.drains() { self.load.backlog } else { sums.acknowledged_ever };
        if producing > 0 && !self.load.drains() {
            return false;
        }
        if sums.received >= expected {
            return true;
        }
        if stalled.since(sums.received) > STALLED_AFTER {
            self.warnings.push(format!(
                "stalled: {} of {expected} messages were received, then none for {STALLED_AFTER:?}",
                sums.received
            ));
            return true;
        }
        false
    }

    /// What is looked at only once the load is through.
    async fn finish(&mut self) {
        let sums = self.sums();
        if self.load.consumers > 0 || self.after.is_none() {
            self.after = Some(self.cpu().await);
        }
        if self.end_ns == 0 || self.load.messages.is_some() {
            self.end_ns = if self.load.drains() { sums.last_received_ns } else { sums.last_acknowledged_ns };
        }
        let open: usize = self.parts.iter().map(|part| lock(&part.ledger).in_flight()).sum();
        if open > 0 {
            self.warnings.push(format!("{open} messages were never answered"));
        }
        self.note_second(sums);
    }

    fn note_second(&mut self, sums: Sums) {
        let by_second = self.load.by_second;
        let recent = |latencies: Option<Latencies>| latencies.and_then(|all| all.percentiles());
        let second = Second {
            second: u32::try_from(self.per_second.len()).unwrap_or(u32::MAX),
            acknowledged: sums.acknowledged_ever - self.last_second.acknowledged_ever,
            received: sums.received - self.last_second.received,
            latency_us: recent(
                by_second.then(|| self.take_recent(|part| lock(&part.ledger).tally.recent.take())),
            ),
            end_to_end_us: recent(
                by_second.then(|| self.take_recent(|part| lock(&part.tally).recent.take())),
            ),
        };
        if by_second {
            for part in self.parts {
                lock(&part.ledger).tally.recent = Some(Latencies::new());
                lock(&part.tally).recent = Some(Latencies::new());
            }
        }
        self.last_second = sums;
        self.per_second.push(second);
    }

    fn take_recent(&self, take: impl Fn(&Part) -> Option<Latencies>) -> Latencies {
        merged(self.parts.iter().filter_map(take))
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for part in self.parts {
            let ledger = lock(&part.ledger);
            sums.acknowledged += ledger.tally.acknowledged;
            sums.acknowledged_ever += ledger.tally.acknowledged_ever;
            sums.bytes += ledger.tally.bytes;
            sums.last_acknowledged_ns = sums.last_acknowledged_ns.max(ledger.tally.last_ns);
            drop(ledger);
            let tally = lock(&part.tally);
            sums.received += tally.received;
            sums.last_received_ns = sums.last_received_ns.max(tally.last_ns);
            sums.prefetched += tally.prefetched;
            sums.first_received_ns = earlier(sums.first_received_ns, tally.first_ns);
            sums.first_fetched_ns = earlier(sums.first_fetched_ns, tally.first_fetched_ns);
        }
        sums
    }

    fn assigned(&self) -> usize {
        self.parts.iter().map(|part| lock(&part.tally).assigned.values().sum::<usize>()).sum()
    }

    async fn cpu(&self) -> Cpu {
        Cpu {
            at_ns: now_ns(),
            broker_ns: self.meter.cpu_ns().await,
            client_ns: process_cpu_ns(),
            all_ns: all_cpu_ns(),
        }
    }

    /// Everything but what only the threads know.
    pub(super) fn outcome(&self) -> Outcome {
        let sums = self.sums();
        let ledgers = || self.parts.iter().map(|part| lock(&part.ledger));
        let mut errors = BTreeMap::new();
        for ledger in ledgers() {
            add(&mut errors, &ledger.tally.errors);
        }
        for part in self.parts {
            add(&mut errors, &lock(&part.tally).errors);
        }
        let spent = self.before.zip(self.after).map(|((before, _), after)| (before, after));
        let open_loop = self.load.rate.is_some();
        Outcome {
            count: self.count(sums),
            consumed: self.consumed(sums),
            latency: merged(ledgers().map(|ledger| ledger.tally.latency.clone())),
            service: open_loop.then(|| merged(ledgers().filter_map(|ledger| ledger.tally.service.clone()))),
            lateness: open_loop.then(|| merged(ledgers().filter_map(|ledger| ledger.tally.lateness.clone()))),
            end_to_end: merged(self.parts.iter().map(|part| lock(&part.tally).end_to_end.clone())),
            errors,
            per_second: self.per_second.clone(),
            sent: self.sent(),
            acknowledged_ever: sums.acknowledged_ever,
            verifier: None,
            broker_cpu_seconds: spent
                .and_then(|(before, after)| Some(seconds(after.broker_ns? - before.broker_ns?))),
            others_cpu_seconds: spent
                .filter(|_| self.meter.is_here())
                .and_then(|(before, after)| after.others_ns(&before).map(seconds)),
            cpu_counted_seconds: spent.map_or(0.0, |(before, after)| seconds(after.at_ns - before.at_ns)),
            client_cpu_seconds: spent
                .map_or(0.0, |(before, after)| seconds(after.client_ns - before.client_ns)),
            busiest: 0.0,
            warnings: self.warnings.clone(),
        }
    }

    fn count(&self, sums: Sums) -> Count {
        if self.load.drains() {
            return self.drained(sums);
        }
        let seconds = seconds(self.end_ns.saturating_sub(self.span.from_ns));
        Count { messages: sums.acknowledged, bytes: sums.bytes, seconds }
    }

    /// What consumers had fetched before the clock started does not count, unless it is most of the backlog.
    fn drained(&self, sums: Sums) -> Count {
        let fetched = sums.received - sums.prefetched;
        let sum =
            |bytes: fn(&ConsumeTally) -> u64| self.parts.iter().map(|part| bytes(&lock(&part.tally))).sum();
        let (messages, bytes, from_ns) = match sums.first_fetched_ns {
            Some(first_ns) if fetched > sums.prefetched => {
                (fetched, sum(|tally| tally.bytes - tally.prefetched_bytes), first_ns)
            }
            _ => {
                (sums.received, sum(|tally| tally.bytes), sums.first_received_ns.unwrap_or(self.span.from_ns))
            }
        };
        Count { messages, bytes, seconds: seconds(sums.last_received_ns.saturating_sub(from_ns)) }
    }

    fn consumed(&self, sums: Sums) -> Option<Consumed> {
        let (_, before) = self.before.filter(|_| self.load.consumers > 0 && !self.load.drains())?;
        let bytes: u64 = self.parts.iter().map(|part| lock(&part.tally).bytes).sum();
        let messages = sums.received - before.received;
        let count = Count {
            messages,
            bytes: bytes.saturating_mul(messages) / sums.received.max(1),
            seconds: seconds(sums.last_received_ns.saturating_sub(self.span.from_ns)),
        };
        Some(Consumed {
            seconds: count.seconds,
            messages,
            messages_per_second: count.messages_per_second(),
            mb_per_second: count.mb_per_second(),
        })
    }

    /// In the order of the producers' numbers.
    fn sent(&self) -> Vec<crate::verify::Sent> {
        let mut sent: Vec<_> = self
            .parts
            .iter()
            .flat_map(|part| {
                let sent = lock(&part.ledger).sent();
                part.producers.iter().copied().zip(sent).collect::<Vec<_>>()
            })
            .collect();
        sent.sort_by_key(|(number, _)| *number);
        sent.into_iter().map(|(_, sent)| sent).collect()
    }
}

/// How long a count has not moved.
struct Stall {
    count: u64,
    at: Instant,
}

impl Stall {
    fn new() -> Self {
        Self { count: 0, at: Instant::now() }
    }

    fn since(&mut self, count: u64) -> Duration {
        if count != self.count {
            *self = Self { count, at: Instant::now() };
        }
        self.at.elapsed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    [one, other].into_iter().flatten().min()
}

fn merged(parts: impl Iterator<Item = Latencies>) -> Latencies {
    let mut sum = Latencies::new();
    for part in parts {
        sum.add(&part);
    }
    sum
}

fn add(sum: &mut BTreeMap<String, u64>, part: &BTreeMap<String, u64>) {
    for (code, count) in part {
        *sum.entry(code.clone()).or_insert(0) += count;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[expect(clippy::cast_precision_loss, reason = "a day in ns needs 47 bits")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
