//! Watches a run from outside: starts the clock, looks every second, decides when it is over.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::collector::{Collector, Sums, lock, seconds};
use super::ledger::Span;
use super::part::Part;
use super::scenes::{BacklogCourse, OutageCourse};
use super::{Event, Load, Outcome, Stage, Stand};
use crate::machine::{all_cpu_ns, now_ns, process_cpu_ns};
use crate::progress::Goal;
use crate::report::{Consumed, Count};
use crate::stop::StopRequest;

/// How long connecting may take.
const PREPARED_WITHIN: Duration = Duration::from_secs(90);
/// How long the consumers may take until they own their queues.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(30);
/// Nothing received for so long although something is missing: it will not come.
const STALLED_AFTER: Duration = Duration::from_secs(15);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time between two looks while the broker is away.
const LOOK_EVERY_IN_OUTAGE: Duration = Duration::from_millis(2);
/// Between the start signal and the first message.
const HEAD_START_NS: u64 = 20_000_000;

/// CPU time of both sides.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    at_ns: u64,
    broker_ns: Option<u64>,
    client_ns: u64,
    all_ns: Option<u64>,
    disk_bytes: Option<(u64, u64)>,
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
    stand: &'a Stand,
    stop: StopRequest,
    collector: Collector<'a>,
    span: Span,
    start_ns: u64,
    backlog: BacklogCourse,
    outage: Option<OutageCourse>,
    before: Option<Cpu>,
    after: Option<Cpu>,
    end_ns: u64,
    interrupted: bool,
    warnings: Vec<String>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(load: &'a Load, parts: &'a [Part], stand: &'a Stand, collector: Collector<'a>) -> Self {
        Self {
            load,
            parts,
            stand,
            stop: stand.stop.clone(),
            collector,
            span: Span::NEVER,
            start_ns: 0,
            backlog: BacklogCourse::default(),
            outage: load.outage.map(OutageCourse::new),
            before: None,
            after: None,
            end_ns: 0,
            interrupted: false,
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
        loop {
            self.sleep_until_look().await;
            while let Ok(event) = inbox.try_recv() {
                match event {
                    Event::Produced => producing -= 1,
                    Event::Failed(error) => return Err(error),
                    Event::Prepared => {}
                }
            }
            self.stand.meter.check_alive()?;
            let now = now_ns();
            let sums = Sums::of(self.parts);
            self.mark_times(now, sums).await?;
            if self.after.is_none() && (now >= self.span.until_ns || (producing == 0 && !self.load.drains()))
            {
                self.end_ns = now.min(self.span.until_ns);
                self.after = Some(self.cpu().await);
            }
            if self.is_over(producing, sums, &mut stalled) {
                break;
            }
        }
        self.finish().await
    }

    /// What begins, what is due each second, and what is to happen in the middle.
    async fn mark_times(&mut self, now: u64, sums: Sums) -> Result<()> {
        if self.before.is_none() && now >= self.span.from_ns {
            self.before = Some(self.cpu().await);
            self.collector.begin(self.load.what, sums)?;
            self.stop.measuring();
        }
        if now >= self.collector.next_second_ns() {
            self.collector.second(sums)?;
        }
        self.stand.progress.show(sums.acknowledged_ever, sums.received, self.collector.per_second.last());
        if self.load.pause.is_some() {
            self.backlog.look(now, self.moments().resume_ns(), sums.lag());
        }
        if let Some(outage) = self.outage.as_mut().filter(|_| self.before.is_some()) {
            outage.step(self.span.from_ns, &self.stand.meter)?;
        }
        if self.stop.is_asked() && !self.interrupted {
            self.interrupt(now)?;
        }
        Ok(())
    }

    /// The measured time ends now.
    fn interrupt(&mut self, now: u64) -> Result<()> {
        if self.before.is_none() {
            bail!("stopped before anything was measured");
        }
        self.interrupted = true;
        self.span.until_ns = self.span.until_ns.min(now);
        for part in self.parts {
            lock(&part.ledger).span = self.span;
            lock(&part.tally).span = self.span;
        }
        self.moments().set_until(self.span.until_ns);
        self.moments().set_resume(0);
        Ok(())
    }

    fn moments(&self) -> &super::moments::Moments {
        &self.stand.moments
    }

    async fn prepare(&mut self, inbox: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
        for _ in self.parts {
            match timeout(PREPARED_WITHIN, inbox.recv()).await {
                Ok(Some(Event::Failed(error))) => return Err(error),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => bail!("the generator did not connect within {PREPARED_WITHIN:?}"),
            }
            self.stand.meter.check_alive()?;
        }
        if self.load.consumers == 0 {
            return Ok(());
        }
        let deadline = Instant::now() + ASSIGNED_WITHIN;
        while self.assigned() < self.load.places() {
            if let Ok(Event::Failed(error)) = inbox.try_recv() {
                return Err(error);
            }
            if Instant::now() > deadline {
                let owned = self.assigned();
                let wanted = self.load.places();
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
        self.start_ns = start_ns;
        self.span = Span { from_ns, until_ns };
        for part in self.parts {
            lock(&part.ledger).span = self.span;
            lock(&part.tally).span = self.span;
        }
        self.moments().set_until(until_ns);
        self.moments().set_resume(from_ns + self.load.pause.map_or(0, nanos));
        self.stand.progress.begin(self.goal());
        stage.send_replace(Stage::Go { start_ns, span: self.span });
    }

    fn goal(&self) -> Goal {
        match (self.load.messages, self.load.duration) {
            _ if self.load.drains() => Goal::Messages(self.load.backlog),
            (Some(messages), _) => Goal::Messages(messages),
            (None, duration) => Goal::Time(self.load.warmup + duration.unwrap_or_default()),
        }
    }

    /// Sleeps a little, but not past a moment at which something is counted.
    async fn sleep_until_look(&self) {
        let now = now_ns();
        let moments = [self.span.from_ns, self.collector.next_second_ns(), self.span.until_ns];
        let next_ns = moments.into_iter().filter(|at| *at > now).min().unwrap_or(u64::MAX);
        let in_outage = self.outage.as_ref().is_some_and(OutageCourse::is_under_way);
        let longest = if in_outage { LOOK_EVERY_IN_OUTAGE } else { LOOK_EVERY };
        sleep(Duration::from_nanos(next_ns - now).min(longest)).await;
    }

    fn is_over(&mut self, producing: usize, sums: Sums, stalled: &mut Stall) -> bool {
        if self.interrupted && self.load.drains() {
            return true;
        }
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
        if stalled.since(sums.received)
            > STALLED_AFTER + self.load.delay + self.load.pause.unwrap_or_default()
        {
            self.warnings.push(format!(
                "stalled: {} of {expected} messages were received, then none for {STALLED_AFTER:?}",
                sums.received
            ));
            return true;
        }
        false
    }

    /// What is looked at only once the load is through.
    async fn finish(&mut self) -> Result<()> {
        let sums = Sums::of(self.parts);
        if self.load.consumers > 0 || self.after.is_none() {
            self.after = Some(self.cpu().await);
        }
        if self.end_ns == 0 || (self.load.messages.is_some() && !self.interrupted) {
            self.end_ns = if self.load.drains() { sums.last_received_ns } else { sums.last_acknowledged_ns };
        }
        if sums.in_flight > 0 {
            self.warnings.push(format!("{} messages were never answered", sums.in_flight));
        }
        if self.outage.as_ref().is_some_and(|outage| outage.told(sums).is_none()) {
            self.warnings.push("the run ended before its outage was over".to_owned());
        }
        self.collector.second(sums)
    }

    fn assigned(&self) -> usize {
        self.parts.iter().map(|part| lock(&part.tally).assigned.values().sum::<usize>()).sum()
    }

    async fn cpu(&self) -> Cpu {
        Cpu {
            at_ns: now_ns(),
            broker_ns: self.stand.meter.cpu_ns().await,
            client_ns: process_cpu_ns(),
            all_ns: all_cpu_ns(),
            disk_bytes: self.stand.meter.disk_bytes(),
        }
    }

    /// Everything but what only the threads know.
    pub(super) fn outcome(mut self) -> Outcome {
        self.collector.finish();
        let sums = Sums::of(self.parts);
        let spent = self.before.zip(self.after);
        let disk = spent.and_then(|(before, after)| {
            let ((read, written), (read_before, written_before)) = (after.disk_bytes?, before.disk_bytes?);
            Some((read.saturating_sub(read_before), written.saturating_sub(written_before)))
        });
        Outcome {
            count: self.count(sums),
            consumed: self.consumed(sums),
            errors: self.collector.errors(),
            sent: self.sent(),
            acknowledged_ever: sums.acknowledged_ever,
            early: sums.early,
            backlog: self.backlog.told(),
            outage: self.outage.as_ref().and_then(|outage| outage.told(sums)),
            disk,
            interrupted: self.interrupted,
            verifier: None,
            broker_cpu_seconds: spent
                .and_then(|(before, after)| Some(seconds(after.broker_ns? - before.broker_ns?))),
            others_cpu_seconds: spent
                .filter(|_| self.stand.meter.is_here())
                .and_then(|(before, after)| after.others_ns(&before).map(seconds)),
            cpu_counted_seconds: spent.map_or(0.0, |(before, after)| seconds(after.at_ns - before.at_ns)),
            client_cpu_seconds: spent
                .map_or(0.0, |(before, after)| seconds(after.client_ns - before.client_ns)),
            busiest: 0.0,
            times: self.collector.total,
            per_second: self.collector.per_second,
            warnings: self.warnings,
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
        let (messages, bytes, from_ns) = match sums.first_fetched_ns {
            Some(first_ns) if fetched > sums.prefetched => {
                (fetched, sums.received_bytes - sums.prefetched_bytes, first_ns)
            }
            _ => (sums.received, sums.received_bytes, sums.first_received_ns.unwrap_or(self.span.from_ns)),
        };
        Count { messages, bytes, seconds: seconds(sums.last_received_ns.saturating_sub(from_ns)) }
    }

    fn consumed(&self, sums: Sums) -> Option<Consumed> {
        if self.before.is_none() || self.load.consumers == 0 || self.load.drains() {
            return None;
        }
        let count = Count {
            messages: sums.counted,
            bytes: sums.counted_bytes,
            seconds: seconds(sums.last_received_ns.saturating_sub(self.span.from_ns)),
        };
        Some(Consumed {
            seconds: count.seconds,
            messages: count.messages,
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
