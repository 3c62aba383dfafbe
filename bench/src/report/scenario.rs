//! What a run found out beyond rate and latency: rates that were held, backlogs, outages, delays.

use serde::Serialize;

use crate::histogram::Percentiles;

/// One of several rates that were tried.
#[derive(Clone, Debug, Serialize)]
pub struct RunAtRate {
    /// Messages per second that were to be sent.
    pub rate: u64,
    /// Messages per second that were acknowledged.
    pub messages_per_second: f64,
    /// The rate was held: latency under the bound, nothing piled up, the generator kept pace.
    pub held: bool,
    /// Why not.
    pub reason: Option<String>,
    /// From when messages were due to their acknowledgement.
    pub latency_us: Option<Percentiles>,
    /// From the send to the acknowledgement.
    pub service_us: Option<Percentiles>,
    /// How late the generator was.
    pub publish_delay_us: Option<Percentiles>,
    /// Until a consumer had it.
    pub end_to_end_us: Option<Percentiles>,
    /// CPU time of the broker.
    pub broker_cpu_seconds: Option<f64>,
}

/// What `--find-max` found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MaxRate {
    /// Highest rate that was held; `None` when none was.
    pub rate: Option<u64>,
    /// Lowest rate that was not; `None` when the generator's own limit ended the search.
    pub above: Option<u64>,
    /// The bound that p99 was to stay under, us.
    pub p99_us_max: f64,
    /// What ended the search was the generator and not the broker.
    pub generator_limited: bool,
}

/// Consumers that began late.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Backlog {
    /// Messages that waited when consumers began.
    pub messages: u64,
    /// From then until less than a hundredth of it was left, with producers going on; `None`: not before the end.
    pub drained_after_seconds: Option<f64>,
}

/// The own broker was ended and started again while the load was on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outage {
    /// By SIGKILL; otherwise in order.
    pub killed: bool,
    /// When, from the start of the measured time.
    pub at_seconds: f64,
    /// From the signal until a broker was ready again.
    pub ready_after_ms: f64,
    /// Longest time without an acknowledgement in the run, as producers saw it.
    pub silence_ms: f64,
}

/// Messages that were to be delivered later.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delayed {
    /// By so much.
    pub delay_ms: u64,
    /// Messages that came too early.
    pub early: u64,
}

/// What the broker read and wrote in the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes written for each byte of the bodies that were acknowledged.
    pub written_per_byte: Option<f64>,
}
