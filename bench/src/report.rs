//! The result of a run: one JSON object with the keys that scripts depend on, and a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

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
    pub lateness_us: Option<Percentiles>,
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
    /// What consumers received while producers sent (both, latency).
    pub consumed: Option<Consumed>,
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

/// One second of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Second {
    /// Its number from the start of the measured time.
    pub second: u32,
    /// Messages acknowledged in it.
    pub acknowledged: u64,
    /// Messages received in it.
    pub received: u64,
    /// Latencies to the acknowledgement in it (latency).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
    /// Latencies end to end in it (latency).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end_us: Option<Percentiles>,
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
            seconds: count.seconds,
            messages: count.messages,
            bytes: count.bytes,
            messages_per_second: count.messages_per_second(),
            mb_per_second: count.mb_per_second(),
            latency_us: None,
            service_us: None,
            lateness_us: None,
            end_to_end_us: None,
            broker_cpu_seconds: None,
            client_cpu_seconds: 0.0,
            lost: None,
            duplicated: None,
            reordered: None,
            corrupted: None,
            errors: BTreeMap::new(),
            others_cpu_seconds: None,
            consumed: None,
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

    /// Adds a warning when the rate went up and down by more than a fifth from second to second.
    pub fn note_steadiness(&mut self) {
        let consumes = self.command == "consume";
        let rates: Vec<u64> = self
            .per_second
            .iter()
            .map(|second| if consumes { second.received } else { second.acknowledged })
            .collect();
        if let Some(spread) = unsteadiness(&rates) {
            self.warnings.push(format!(
                "unsteady: the rate differs by {:.0} % of its mean from second to second",
                spread * 100.0
            ));
        }
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

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<22}{value}");
        };
        line("command", format!("{} ({} {}, {} CPUs)", self.command, self.version, self.git, self.cores));
        line("messages", format!("{} in {:.3} s", thousands(self.messages), self.seconds));
        line(
            "rate",
            format!("{} messages/s, {:.1} MB/s", whole(self.messages_per_second), self.mb_per_second),
        );
        if let Some(consumed) = &self.consumed {
            line(
                "received",
                format!(
                    "{} in {:.3} s, {} messages/s, {:.1} MB/s",
                    thousands(consumed.messages),
                    consumed.seconds,
                    whole(consumed.messages_per_second),
                    consumed.mb_per_second
                ),
            );
        }
        for (name, latencies) in [
            ("latency us", &self.latency_us),
            ("service time us", &self.service_us),
            ("lateness us", &self.lateness_us),
            ("end to end us", &self.end_to_end_us),
        ] {
            if let Some(found) = latencies {
                line(name, percentiles(found));
            }
        }
        if let Some(seconds) = self.broker_cpu_seconds {
            line("broker CPU", self.per_cpu_second(seconds));
        }
        line("generator CPU", self.per_cpu_second(self.client_cpu_seconds));
        if let (Some(lost), Some(duplicated), Some(reordered), Some(corrupted)) =
            (self.lost, self.duplicated, self.reordered, self.corrupted)
        {
            line(
                "verified",
                format!("{lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted"),
            );
        }
        for (code, count) in &self.errors {
            line("failed", format!("{} {code}", thousands(*count)));
        }
        for warning in &self.warnings {
            line("WARNING", warning.clone());
        }
        text
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 messages take a century")]
    fn per_cpu_second(&self, cpu_seconds: f64) -> String {
        let messages = self.messages.max(self.consumed.map_or(0, |consumed| consumed.messages));
        let cores = rate(cpu_seconds * 100.0, self.seconds) / 100.0;
        let per_cpu_second = whole(rate(messages as f64, cpu_seconds));
        format!("{cpu_seconds:.2} s ({cores:.2} cores), {per_cpu_second} messages per CPU second")
    }
}

/// One line of a running latency measurement.
#[must_use]
pub fn second_line(second: &Second) -> String {
    let mut text = format!(
        "{:>5} s  {:>9} acknowledged  {:>9} received",
        second.second, second.acknowledged, second.received
    );
    for (name, latencies) in [("ack", &second.latency_us), ("end to end", &second.end_to_end_us)] {
        if let Some(found) = latencies {
            let _ =
                write!(text, "  {name} us p50 {:.0} p99 {:.0} max {:.0}", found.p50, found.p99, found.max);
        }
    }
    text
}

fn percentiles(found: &Percentiles) -> String {
    format!(
        "p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  p99.99 {:.0}  max {:.0}",
        found.p50, found.p90, found.p99, found.p99_9, found.p99_99, found.max
    )
}

/// Standard deviation over mean of the rates, when it is more than a fifth and there are enough of them to tell.
#[expect(clippy::cast_precision_loss, reason = "an average")]
fn unsteadiness(rates: &[u64]) -> Option<f64> {
    const RATES_MIN: usize = 3;
    const SPREAD_MAX: f64 = 0.2;
    let rates = rates.get(..rates.len().saturating_sub(1)).filter(|whole| whole.len() >= RATES_MIN)?;
    let count = rates.len() as f64;
    let mean = rates.iter().map(|rate| *rate as f64).sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (*rate as f64 - mean).powi(2)).sum::<f64>() / count;
    let spread = if mean > 0.0 { variance.sqrt() / mean } else { 0.0 };
    (spread > SPREAD_MAX).then_some(spread)
}

fn whole(number: f64) -> String {
    let text = format!("{number:.0}");
    text.parse().map_or(text, thousands)
}

/// `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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

    #[test]
    fn an_unsteady_run_says_so() {
        let second = |acknowledged| Second {
            second: 0,
            acknowledged,
            received: 0,
            latency_us: None,
            end_to_end_us: None,
        };
        let mut report = Report::new("produce", Map::new(), Count::default());
        report.per_second = [100, 101, 99, 100, 3].map(second).to_vec();
        report.note_steadiness();
        assert_eq!(report.warnings, Vec::<String>::new(), "the last second is not whole");
        report.per_second = [100, 10, 190, 100, 100].map(second).to_vec();
        report.note_steadiness();
        assert_eq!(report.warnings.len(), 1);
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
