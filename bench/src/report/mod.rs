//! The result of a run: one JSON object with the keys that scripts depend on, and a table for people.

mod scenario;
mod second;
mod table;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

pub use scenario::{Backlog, Delayed, Disk, MaxRate, Outage, RunAtRate};
pub use second::{Second, Steadiness, second_line};
pub(crate) use table::{thousands, whole};

use crate::environment::Environment;
use crate::histogram::Percentiles;
use crate::machine;
use crate::verify::Findings;

/// Everything that a run found out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Subcommand.
    pub command: &'static str,
    /// Version of the software.
    pub version: &'static str,
    /// Commit it was built from.
    pub git: &'static str,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs of the machine.
    pub cores: usize,
    /// What was asked for, with the defaults that were chosen.
    pub config: Map<String, Value>,
    /// What else it takes to repeat the run.
    pub environment: Environment,
    /// A stop signal ended the run before its time: these are the figures so far.
    pub interrupted: bool,
    /// Measured time.
    pub seconds: f64,
    /// Messages acknowledged in it (consume: received).
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Messages over seconds.
    pub messages_per_second: f64,
    /// Bytes over seconds, in 1,000,000 bytes.
    pub mb_per_second: f64,
    /// From the send (open loop: from when it was due) to the acknowledgement.
    pub latency_us: Option<Percentiles>,
    /// Open loop: from the actual send to the acknowledgement.
    pub service_us: Option<Percentiles>,
    /// Open loop: how late the generator itself was.
    pub publish_delay_us: Option<Percentiles>,
    /// From the send (open loop: from when it was due) until a consumer had it.
    pub end_to_end_us: Option<Percentiles>,
    /// CPU time of the broker's process in the measured time.
    pub broker_cpu_seconds: Option<f64>,
    /// CPU time of the generator's process in the measured time.
    pub client_cpu_seconds: f64,
    /// Acknowledged and never received; `null` when not checked, like the three after it.
    pub lost: Option<u64>,
    /// Received again at another place.
    pub duplicated: Option<u64>,
    /// Received after a later message of the same producer in the same queue.
    pub reordered: Option<u64>,
    /// Not what was sent.
    pub corrupted: Option<u64>,
    /// Failed sends and pulls by code.
    pub errors: BTreeMap<String, u64>,
    /// CPU time of everything else on this machine in the measured time: it was not there for broker and generator.
    pub others_cpu_seconds: Option<f64>,
    /// Most memory that the broker held at once; `null` when it does not tell.
    pub broker_memory_peak_bytes: Option<u64>,
    /// What the broker read from and wrote to disk in the measured time; `null` when it does not tell.
    pub disk: Option<Disk>,
    /// What consumers received while producers sent (both, latency).
    pub consumed: Option<Consumed>,
    /// The rates that were tried, in the order of rates (`--sweep`, `--find-max`); the figures above are those of the
    /// highest one that was held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<RunAtRate>,
    /// `--find-max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<MaxRate>,
    /// `--backlog`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
    /// `--outage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
    /// `--delay-ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// How alike the seconds were; `null` when there were too few.
    pub steadiness: Option<Steadiness>,
    /// The distributions by name: points (share of all messages, us).
    pub curves: BTreeMap<&'static str, Vec<(f64, f64)>>,
    /// Second by second, to see whether the run was steady.
    pub per_second: Vec<Second>,
    /// What limits the worth of the figures.
    pub warnings: Vec<String>,
}

/// The receiving side of a run that sends and receives.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Consumed {
    /// From the start of the measured time until the last message was received.
    pub seconds: f64,
    /// Messages received, each once.
    pub messages: u64,
    /// Messages over seconds.
    pub messages_per_second: f64,
    /// Bytes of their bodies over seconds, in 1,000,000 bytes.
    pub mb_per_second: f64,
}

/// What was counted over the measured time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Measured time.
    pub seconds: f64,
}

impl Count {
    /// Messages over seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "2^53 messages take a century")]
    pub fn messages_per_second(&self) -> f64 {
        rate(self.messages as f64, self.seconds)
    }

    /// Bytes over seconds, in 1,000,000 bytes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an average")]
    pub fn mb_per_second(&self) -> f64 {
        rate(self.bytes as f64 / 1e6, self.seconds)
    }
}

fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { (amount / seconds * 10.0).round() / 10.0 } else { 0.0 }
}

impl Report {
    /// A result with the machine described and nothing measured but a count.
    #[must_use]
    pub fn new(command: &'static str, config: Map<String, Value>, count: Count) -> Self {
        Self {
            command,
            version: env!("CARGO_PKG_VERSION"),
            git: env!("EQUEUE_GIT"),
            kernel: machine::kernel(),
            cpu: machine::cpu_model(),
            cores: machine::cores(),
            config,
            environment: Environment::here(),
            interrupted: false,
            seconds: count.seconds,
            messages: count.messages,
            bytes: count.bytes,
            messages_per_second: count.messages_per_second(),
            mb_per_second: count.mb_per_second(),
            latency_us: None,
            service_us: None,
            publish_delay_us: None,
            end_to_end_us: None,
            broker_cpu_seconds: None,
            client_cpu_seconds: 0.0,
            lost: None,
            duplicated: None,
            reordered: None,
            corrupted: None,
            errors: BTreeMap::new(),
            others_cpu_seconds: None,
            broker_memory_peak_bytes: None,
            disk: None,
            consumed: None,
            runs: Vec::new(),
            max_rate: None,
            backlog: None,
            outage: None,
            delayed: None,
            steadiness: None,
            curves: BTreeMap::new(),
            per_second: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes over what the verifier found.
    pub fn set_findings(&mut self, findings: &Findings) {
        self.lost = Some(findings.lost);
        self.duplicated = Some(findings.duplicated);
        self.reordered = Some(findings.reordered);
        self.corrupted = Some(findings.corrupted);
    }

    /// The verifier found something wrong.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        [self.lost, self.duplicated, self.reordered, self.corrupted]
            .iter()
            .any(|count| count.is_some_and(|n| n > 0))
    }

    /// Looks whether the seconds were alike, with a warning when they were not.
    pub fn note_steadiness(&mut self) {
        let consumes = self.command == "consume";
        let rates: Vec<u64> = self
            .per_second
            .iter()
            .map(|second| if consumes { second.received } else { second.acknowledged })
            .collect();
        self.steadiness = Steadiness::of(&rates);
        self.warnings.extend(self.steadiness.and_then(|steadiness| steadiness.warning()));
    }

    /// Takes what everything else on the machine computed, with a warning when it was much.
    #[expect(clippy::cast_precision_loss, reason = "a number of CPUs")]
    pub fn set_others(&mut self, cpu_seconds: Option<f64>, over_seconds: f64) {
        const SHARE_MAX: f64 = 0.05;
        self.others_cpu_seconds = cpu_seconds;
        let cores = cpu_seconds.map_or(0.0, |cpu_seconds| cpu_seconds / over_seconds.max(1e-3));
        if cores > SHARE_MAX * self.cores as f64 {
            self.warnings.push(format!(
                "the machine was not quiet: other processes used {cores:.2} of its {} CPUs",
                self.cores
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_has_the_keys_that_scripts_read() {
        let count = Count { messages: 1000, bytes: 1_000_000, seconds: 0.5 };
        let mut report = Report::new("produce", Map::new(), count);
        report.latency_us =
            Some(Percentiles { p50: 1.0, p90: 2.0, p99: 3.0, p99_9: 4.0, p99_99: 5.0, max: 6.0 });
        report.set_findings(&Findings { duplicated: 1, ..Findings::default() });
        assert!(report.is_wrong());
        let value = serde_json::to_value(&report).expect("serializes");
        for key in "command version git kernel cpu cores config seconds messages bytes messages_per_second mb_per_second \
                    latency_us end_to_end_us broker_cpu_seconds client_cpu_seconds lost duplicated reordered corrupted \
                    errors per_second"
            .split_whitespace()
        {
            assert!(value.get(key).is_some(), "{key}");
        }
        for key in crate::assertion::PERCENTILES {
            assert!(value["latency_us"][key].is_f64(), "{key}");
        }
        assert_eq!(value["messages_per_second"], 2000.0);
        assert_eq!(value["mb_per_second"], 2.0);
        assert!(report.table().contains("2,000 messages/s"), "{}", report.table());
    }
}
