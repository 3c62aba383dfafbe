//! From what a load came to, to the result of the command.

use serde_json::{Map, Value};

use super::Kind;
use crate::cli::LoadArgs;
use crate::driver::Outcome;
use crate::histogram::Latencies;
use crate::report::Report;

/// Lateness of the generator that is worth a warning, us (p99).
const LATENESS_US_MAX: f64 = 1000.0;
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
    let mut report = Report::new(kind.name(), config, outcome.count);
    report.warnings = warnings;
    report.latency_us = outcome.latency.percentiles();
    report.service_us = outcome.service.as_ref().and_then(Latencies::percentiles);
    report.lateness_us = outcome.lateness.as_ref().and_then(Latencies::percentiles);
    report.end_to_end_us = outcome.end_to_end.percentiles();
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
    note_generator(&mut report, args, outcome.busiest);
    report
}

/// Says when the figures are the generator's and not the broker's.
fn note_generator(report: &mut Report, args: &LoadArgs, busiest: f64) {
    if busiest > BUSY_MAX {
        let percent = busiest * 100.0;
        report.warnings.push(format!(
            "the generator is the bottleneck: a thread of it was busy for {percent:.0} % of the time (see --threads)"
        ));
    }
    if let Some(lateness) = report.lateness_us.filter(|lateness| lateness.p99 > LATENESS_US_MAX) {
        report.warnings.push(format!(
            "the generator fell behind its timetable: p99 {:.0} us, max {:.0} us (latency counts from the timetable)",
            lateness.p99, lateness.max
        ));
    }
    if let Some(rate) = args.rate {
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
