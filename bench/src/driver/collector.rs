//! Collects what the threads of a run counted and timed: every second, and in all.
//!
//! Threads record into histograms of the current second alone; here they are taken away (swapped for empty ones, so that
//! a thread is kept for no longer than that takes), written to the histogram log, and added up.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::Load;
use super::part::Part;
use crate::histogram::Latencies;
use crate::hlog::Hlog;
use crate::machine::{now_ns, process_cpu_ns};
use crate::meter::BrokerMeter;
use crate::report::Second;
use crate::schedule::SECOND_NS;
use crate::times::Times;

/// The sums over all threads at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) acknowledged: u64,
    pub(super) acknowledged_ever: u64,
    pub(super) bytes: u64,
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) counted: u64,
    pub(super) counted_bytes: u64,
    pub(super) in_flight: u64,
    pub(super) early: u64,
    pub(super) silence_ns_max: u64,
    pub(super) last_acknowledged_ns: u64,
    pub(super) last_received_ns: u64,
    pub(super) prefetched: u64,
    pub(super) prefetched_bytes: u64,
    pub(super) first_received_ns: Option<u64>,
    pub(super) first_fetched_ns: Option<u64>,
}

impl Sums {
    /// Adds all threads up.
    pub(super) fn of(parts: &[Part]) -> Self {
        let mut sums = Self::default();
        for part in parts {
            let ledger = lock(&part.ledger);
            sums.acknowledged += ledger.tally.acknowledged;
            sums.acknowledged_ever += ledger.tally.acknowledged_ever;
            sums.bytes += ledger.tally.bytes;
            sums.in_flight += ledger.in_flight() as u64;
            sums.silence_ns_max = sums.silence_ns_max.max(ledger.tally.silence_ns_max);
            sums.last_acknowledged_ns = sums.last_acknowledged_ns.max(ledger.tally.last_ns);
            drop(ledger);
            let tally = lock(&part.tally);
            sums.received += tally.received;
            sums.received_bytes += tally.bytes;
            sums.counted += tally.counted;
            sums.counted_bytes += tally.counted_bytes;
            sums.early += tally.early;
            sums.last_received_ns = sums.last_received_ns.max(tally.last_ns);
            sums.prefetched += tally.prefetched;
            sums.prefetched_bytes += tally.prefetched_bytes;
            sums.first_received_ns = earlier(sums.first_received_ns, tally.first_ns);
            sums.first_fetched_ns = earlier(sums.first_fetched_ns, tally.first_fetched_ns);
        }
        sums
    }

    /// Acknowledged and not yet received.
    pub(super) const fn lag(&self) -> u64 {
        self.acknowledged_ever.saturating_sub(self.received)
    }
}

/// What was used up to one moment.
#[derive(Clone, Copy, Debug)]
struct Used {
    at_ns: u64,
    broker_ns: Option<u64>,
    client_ns: u64,
    disk: Option<(u64, u64)>,
}

impl Used {
    fn now(meter: &BrokerMeter) -> Self {
        Self {
            at_ns: now_ns(),
            broker_ns: meter.cpu_ns_here(),
            client_ns: process_cpu_ns(),
            disk: meter.disk_bytes(),
        }
    }
}

/// The seconds of a run so far.
pub(super) struct Collector<'a> {
    parts: &'a [Part],
    meter: &'a BrokerMeter,
    hlog: Option<&'a mut Hlog>,
    /// Of the whole measured time.
    pub(super) total: Times,
    /// Second by second.
    pub(super) per_second: Vec<Second>,
    interval: Times,
    spare: Times,
    last: Option<(Sums, Used)>,
    begun_ns: u64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        load: &Load,
        parts: &'a [Part],
        meter: &'a BrokerMeter,
        hlog: Option<&'a mut Hlog>,
    ) -> Self {
        let times = || Times::new(load.rate.is_some());
        Self {
            parts,
            meter,
            hlog,
            total: times(),
            interval: times(),
            spare: times(),
            per_second: Vec::new(),
            last: None,
            begun_ns: 0,
        }
    }

    /// The measured time begins.
    pub(super) fn begin(&mut self, what: &str, sums: Sums) -> Result<()> {
        let used = Used::now(self.meter);
        self.begun_ns = used.at_ns;
        self.last = Some((sums, used));
        self.hlog.as_mut().map_or(Ok(()), |hlog| hlog.begin(what, SystemTime::now()))
    }

    /// A second is over, or the run is.
    pub(super) fn second(&mut self, sums: Sums) -> Result<()> {
        let Some((last, before)) = self.last else { return Ok(()) };
        let used = Used::now(self.meter);
        self.take_interval();
        let length_ns = used.at_ns - before.at_ns;
        if let Some(hlog) = &mut self.hlog {
            let begun = Duration::from_nanos(before.at_ns - self.begun_ns);
            hlog.interval(&self.interval, begun, Duration::from_nanos(length_ns))?;
        }
        let since = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        let of_disk = |part: fn((u64, u64)) -> u64| since(used.disk.map(part), before.disk.map(part));
        self.per_second.push(Second {
            second: u32::try_from(self.per_second.len()).unwrap_or(u32::MAX),
            seconds: seconds(length_ns),
            acknowledged: sums.acknowledged_ever - last.acknowledged_ever,
            received: sums.received - last.received,
            in_flight: sums.in_flight,
            lag: sums.lag(),
            latency_us: self.interval.sent.response.percentiles(),
            service_us: self.interval.service().and_then(Latencies::percentiles),
            publish_delay_us: self.interval.publish_delay().and_then(Latencies::percentiles),
            end_to_end_us: self.interval.end_to_end.percentiles(),
            broker_cpu_seconds: since(used.broker_ns, before.broker_ns).map(seconds),
            client_cpu_seconds: Some(seconds(used.client_ns - before.client_ns)),
            disk_read_bytes: of_disk(|(read, _)| read),
            disk_write_bytes: of_disk(|(_, written)| written),
        });
        self.last = Some((sums, used));
        Ok(())
    }

    /// Where the next whole second ends.
    pub(super) fn next_second_ns(&self) -> u64 {
        match self.last {
            Some(_) => self.begun_ns + (self.per_second.len() as u64 + 1) * SECOND_NS,
            None => u64::MAX,
        }
    }

    /// What came in after the last second was noted.
    pub(super) fn finish(&mut self) {
        self.take_interval();
    }

    /// Takes what the threads timed since the last time into `interval`, and adds it to `total`.
    fn take_interval(&mut self) {
        self.interval.clear();
        for part in self.parts {
            self.spare.clear();
            mem::swap(&mut lock(&part.ledger).tally.times, &mut self.spare.sent);
            mem::swap(&mut lock(&part.tally).end_to_end, &mut self.spare.end_to_end);
            self.interval.add(&self.spare);
        }
        self.total.add(&self.interval);
    }

    /// Failures of all threads by code.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for part in self.parts {
            add(&mut errors, &lock(&part.ledger).tally.errors);
            add(&mut errors, &lock(&part.tally).errors);
        }
        errors
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    [one, other].into_iter().flatten().min()
}

fn add(sum: &mut BTreeMap<String, u64>, part: &BTreeMap<String, u64>) {
    for (code, count) in part {
        *sum.entry(code.clone()).or_insert(0) += count;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a day in ns needs 47 bits")]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
