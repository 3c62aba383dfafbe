//! Several runs at fixed rates on one broker: a sweep, or the search for the highest rate that is held.

use anyhow::{Context as _, Result};

use super::bench::Bench;
use super::setup;
use crate::report::{MaxRate, Report, RunAtRate, whole};
use crate::search::{Search, Verdict, judge};

/// Bound of p99 for a search, unless one is given, us.
const P99_US_MAX: f64 = 10_000.0;

/// Runs at the rates asked for, or at those that the search wants; the result is that of the highest rate that was held,
/// or of the lowest one tried, with all runs in it.
pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report> {
    let mut rates = Rates::new(bench);
    if bench.args.find_max {
        let mut search = Search::new(bench.args.rate.unwrap_or(setup::RATE));
        while let Some(rate) = search.next_rate() {
            let Some(held) = rates.run(rate).await? else { break };
            search.note(rate, held);
        }
        let max = MaxRate {
            rate: search.highest_held(),
            above: search.lowest_missed(),
            p99_us_max: rates.p99_us_max.unwrap_or(P99_US_MAX),
            generator_limited: rates.generator_limited(search.lowest_missed()),
        };
        return rates.result(Some(max));
    }
    for rate in &bench.args.sweep {
        if rates.run(*rate).await?.is_none() {
            break;
        }
    }
    rates.result(None)
}

struct Rates<'a> {
    bench: &'a Bench<'a>,
    p99_us_max: Option<f64>,
    runs: Vec<(RunAtRate, Verdict, Report)>,
}

impl<'a> Rates<'a> {
    fn new(bench: &'a Bench<'a>) -> Self {
        let given = bench.args.p99_max.map(f64::from);
        let p99_us_max = if bench.args.find_max { Some(given.unwrap_or(P99_US_MAX)) } else { given };
        Self { bench, p99_us_max, runs: Vec::new() }
    }

    /// Whether the rate was held; `None` when the whole is to end.
    async fn run(&mut self, rate: u64) -> Result<Option<bool>> {
        if self.bench.stand.stop.is_asked() {
            return Ok(None);
        }
        let report = self.bench.run(Some(rate)).await.with_context(|| format!("at {rate} messages/s"))?;
        if report.interrupted && !self.runs.is_empty() {
            return Ok(None);
        }
        let verdict = judge(rate, &report, self.p99_us_max);
        let p99 = report.latency_us.map_or(f64::NAN, |latency| latency.p99);
        let reason = verdict.reason().map_or_else(String::new, |reason| format!(": {reason}"));
        let held = verdict == Verdict::Held;
        let word = if held { "held" } else { "NOT held" };
        eprintln!(
            "{:>12} messages/s  p99 {:>9} us  {word}{reason}",
            crate::report::thousands(rate),
            whole(p99)
        );
        let run = RunAtRate {
            rate,
            messages_per_second: report.messages_per_second,
            held,
            reason: verdict.reason().map(str::to_owned),
            latency_us: report.latency_us,
            service_us: report.service_us,
            publish_delay_us: report.publish_delay_us,
            end_to_end_us: report.end_to_end_us,
            broker_cpu_seconds: report.broker_cpu_seconds,
        };
        self.runs.push((run, verdict, report));
        Ok(Some(held))
    }

    /// What ended the search at this rate was the generator.
    fn generator_limited(&self, missed: Option<u64>) -> bool {
        let limited = |verdict: &Verdict| matches!(verdict, Verdict::GeneratorLimited(_));
        self.runs.iter().any(|(run, verdict, _)| Some(run.rate) == missed && limited(verdict))
    }

    fn result(mut self, max_rate: Option<MaxRate>) -> Result<Report> {
        self.runs.sort_by_key(|(run, _, _)| run.rate);
        let runs = self.runs.iter().map(|(run, _, _)| run.clone()).collect();
        let highest = self.runs.iter().rposition(|(run, _, _)| run.held).unwrap_or(0);
        let interrupted = self.bench.stand.stop.is_asked();
        let (_, _, mut report) = self.runs.into_iter().nth(highest).context("nothing was measured")?;
        report.runs = runs;
        report.max_rate = max_rate;
        report.interrupted |= interrupted;
        if max_rate.is_some_and(|max| max.generator_limited) {
            report.warnings.push("the generator, not the broker, ended the search: see --threads".to_owned());
        }
        Ok(report)
    }
}
