//! From what a load came to, to the result of the command.

use serde_json::{Map, Value};

use super::Kind;
use crate::cli::LoadArgs;
use crate::driver::Outcome;
use crate::histogram::Latencies;
use crate::report::{Delayed, Disk, Report};

/// Delay of the generator that is worth a warning, us (p99).
const PUBLISH_DELAY_US_MAX: f64 = 1000.0;
/// Share of its CPU at which a generator thread is the bottleneck.
const BUSY_MAX: f64 = 0.95;

/// The result, with what limits its worth.
pub(super) fn report(
    kind: Kind,
    args: &LoadArgs,
    config: Map<String, Value>,
    outcome: Outcome,
    warnings: Vec<String>,
) -> Report {
    let rate = config.get("rate").and_then(Value::as_u64).filter(|_| kind != Kind::Consume);
    let mut report = Report::new(kind.name(), config, outcome.count);
    report.warnings = warnings;
    let times = &outcome.times;
    report.latency_us = times.sent.response.percentiles();
    report.service_us = times.service().and_then(Latencies::percentiles);
    report.publish_delay_us = times.publish_delay().and_then(Latencies::percentiles);
    report.end_to_end_us = times.end_to_end.percentiles();
    report.curves = times.named().map(|(name, latencies)| (name, latencies.curve())).collect();
    report.interrupted = outcome.interrupted;
    report.backlog = outcome.backlog;
    report.outage = outcome.outage;
    report.disk = outcome.disk.map(|disk| disk_figures(disk, outcome.count.bytes));
    report.delayed = (args.delay_ms > 0).then_some(Delayed { delay_ms: args.delay_ms, early: outcome.early });
    report.broker_cpu_seconds = outcome.broker_cpu_seconds;
    report.client_cpu_seconds = outcome.client_cpu_seconds;
    if let Some(verifier) = &outcome.verifier {
        let sent = (!outcome.sent.is_empty()).then_some(outcome.sent.as_slice());
        report.set_findings(&verifier.finish(sent));
    }
    report.set_others(outcome.others_cpu_seconds, outcome.cpu_counted_seconds);
    report.errors = outcome.errors;
    report.consumed = outcome.consumed;
    report.per_second = outcome.per_second;
    report.warnings.extend(outcome.warnings);
    report.note_steadiness();
    note_generator(&mut report, rate, outcome.busiest);
    report
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn disk_figures((read_bytes, write_bytes): (u64, u64), body_bytes: u64) -> Disk {
    let written_per_byte = (body_bytes > 0).then(|| write_bytes as f64 / body_bytes as f64);
    Disk { read_bytes, write_bytes, written_per_byte }
}

/// Says when the figures are the generator's and not the broker's.
fn note_generator(report: &mut Report, rate: Option<u64>, busiest: f64) {
    if busiest > BUSY_MAX {
        let percent = busiest * 100.0;
        report.warnings.push(format!(
            "the generator is the bottleneck: a thread of it was busy for {percent:.0} % of the time (see --threads)"
        ));
    }
    if let Some(delay) = report.publish_delay_us.filter(|delay| delay.p99 > PUBLISH_DELAY_US_MAX) {
        report.warnings.push(format!(
            "the generator fell behind its timetable: p99 {:.0} us, max {:.0} us (latency counts from the timetable)",
            delay.p99, delay.max
        ));
    }
    if report.delayed.is_some_and(|delayed| delayed.early > 0) {
        report.warnings.push("delayed messages were delivered before their time".to_owned());
    }
    if report.interrupted {
        report.warnings.push("interrupted: these are the figures so far".to_owned());
    }
    if let Some(rate) = rate {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let share = report.messages_per_second / rate as f64;
        if share < 0.99 {
            let percent = share * 100.0;
            report.warnings.push(format!("only {percent:.1} % of the rate asked for was acknowledged"));
        }
    }
    if cfg!(debug_assertions) {
        report.warnings.push("a debug build: the figures say nothing".to_owned());
    }
}
