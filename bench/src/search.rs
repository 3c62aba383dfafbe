//! The search for the highest rate that a broker holds, and what holding a rate means. Pure.

use crate::report::{Report, Second};
use crate::schedule::SECOND_NS;

/// How one run at a fixed rate went.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The rate was held.
    Held,
    /// It was not, and why.
    Missed(String),
    /// The generator could not send so fast: nothing is known about the broker.
    GeneratorLimited(String),
}

impl Verdict {
    /// Why it was not held.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Held => None,
            Self::Missed(reason) | Self::GeneratorLimited(reason) => Some(reason),
        }
    }
}

/// Share of the rate that must have been acknowledged.
const ACKNOWLEDGED_MIN: f64 = 0.98;
/// What waits may grow by this share of the rate each second before it counts as growing.
const GROWTH_MAX: f64 = 0.01;

/// Judges a run at a fixed rate: nothing failed, it was all acknowledged, nothing piled up, and p99 of the time from when
/// a message was due to its acknowledgement stayed under the bound, where there is one.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate")]
pub fn judge(rate: u64, report: &Report, p99_us_max: Option<f64>) -> Verdict {
    let failed: u64 = report.errors.values().sum();
    if failed > 0 {
        return Verdict::Missed(format!("{failed} failures"));
    }
    let p99 = report.latency_us.map_or(f64::INFINITY, |latency| latency.p99);
    let delay = report.publish_delay_us.map_or(0.0, |delay| delay.p99);
    let share = report.messages_per_second / rate as f64;
    let growth = growth_per_second(&report.per_second);
    let missed = if share < ACKNOWLEDGED_MIN {
        Some(format!("only {:.1} % of the rate was acknowledged", share * 100.0))
    } else if growth > GROWTH_MAX * rate as f64 {
        Some(format!("what waits grew by {growth:.0} messages a second"))
    } else {
        let bound = p99_us_max.filter(|bound| p99 >= *bound);
        bound.map(|bound| format!("p99 is {p99:.0} us, not under {bound:.0}"))
    };
    match missed {
        None => Verdict::Held,
        // Most of the time was lost before the client got the message.
        Some(reason) if delay > p99 / 2.0 && !waits_for_broker(&report.per_second) => {
            Verdict::GeneratorLimited(format!("{reason}; the generator itself was late (p99 {delay:.0} us)"))
        }
        Some(reason) => Verdict::Missed(reason),
    }
}

/// Messages pile up on the way: a full window makes a generator late that could do more.
fn waits_for_broker(seconds: &[Second]) -> bool {
    let service = seconds.iter().filter_map(|second| second.service_us).map(|service| service.p99);
    let delay = seconds.iter().filter_map(|second| second.publish_delay_us).map(|delay| delay.p99);
    service.sum::<f64>() > delay.sum::<f64>() / 2.0
}

/// By how many messages a second what is unanswered or not yet received grew, from the first half of a run to its second.
#[expect(clippy::cast_precision_loss, reason = "messages in flight")]
fn growth_per_second(seconds: &[Second]) -> f64 {
    let waiting: Vec<f64> = seconds
        .get(..seconds.len().saturating_sub(1))
        .unwrap_or_default()
        .iter()
        .map(|second| (second.in_flight + second.lag) as f64)
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (first, second) = waiting.split_at(waiting.len() / 2);
    if first.is_empty() {
        return 0.0;
    }
    (mean(second) - mean(first)) / (waiting.len() as f64 / 2.0)
}

/// Doubles until a rate is missed, then halves the gap.
#[derive(Clone, Debug)]
pub struct Search {
    start: u64,
    held: Option<u64>,
    missed: Option<u64>,
    /// The rate was missed once: it is tried again before it counts.
    doubted: Option<u64>,
    runs: u32,
}

impl Search {
    /// Runs at the most.
    const RUNS_MAX: u32 = 40;
    /// The gap that is small enough: a thirtieth.
    const GAP: u64 = 30;

    /// Begins with this rate.
    #[must_use]
    pub const fn new(start: u64) -> Self {
        Self { start, held: None, missed: None, doubted: None, runs: 0 }
    }

    /// The rate to try next; `None` when the search is over.
    #[must_use]
    pub fn next_rate(&self) -> Option<u64> {
        if self.runs >= Self::RUNS_MAX {
            return None;
        }
        if self.doubted.is_some() {
            return self.doubted;
        }
        match (self.held, self.missed) {
            (None, None) => Some(self.start),
            (Some(held), None) => held.checked_mul(2).filter(|rate| *rate <= SECOND_NS),
            (None, Some(missed)) => Some(missed / 2).filter(|rate| *rate > 0),
            (Some(held), Some(missed)) => {
                (missed > held + (held / Self::GAP).max(1)).then(|| u64::midpoint(held, missed))
            }
        }
    }

    /// What became of a rate.
    pub fn note(&mut self, rate: u64, held: bool) {
        self.runs += 1;
        if held {
            self.doubted = None;
            self.held = Some(self.held.map_or(rate, |before| before.max(rate)));
        } else if self.doubted == Some(rate) {
            self.doubted = None;
            self.missed = Some(self.missed.map_or(rate, |before| before.min(rate)));
        } else {
            self.doubted = Some(rate);
        }
    }

    /// The highest rate that was held.
    #[must_use]
    pub const fn highest_held(&self) -> Option<u64> {
        self.held
    }

    /// The lowest rate that was missed, twice.
    #[must_use]
    pub const fn lowest_missed(&self) -> Option<u64> {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::histogram::Percentiles;
    use crate::report::Count;

    fn search(start: u64, limit: u64) -> (Option<u64>, Option<u64>, u32) {
        let mut search = Search::new(start);
        while let Some(rate) = search.next_rate() {
            search.note(rate, rate <= limit);
        }
        (search.highest_held(), search.lowest_missed(), search.runs)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for (start, limit) in [(10_000, 123_456), (1_000_000, 123_456), (10, 10), (1, 1_000_000)] {
            let (held, missed, runs) = search(start, limit);
            let (held, missed) = (held.expect("one is held"), missed.expect("one is missed"));
            assert!(
                held <= limit && limit < missed && missed <= held + (held / 30).max(1),
                "{held} {missed}"
            );
            assert!(runs <= Search::RUNS_MAX, "{runs}");
        }
        assert_eq!(search(8, 0).0, None, "none is held");
        assert!(search(1000, u64::MAX).1.is_none(), "none is missed: it ends all the same");
    }

    #[test]
    fn one_bad_run_does_not_end_the_search() {
        let mut search = Search::new(1000);
        let mut bad_once = true;
        while let Some(rate) = search.next_rate() {
            let unlucky = rate == 4000 && std::mem::take(&mut bad_once);
            search.note(rate, rate <= 50_000 && !unlucky);
        }
        assert!(search.highest_held().expect("held") > 48_000);
    }

    fn percentiles(p99: f64) -> Percentiles {
        Percentiles { p50: p99, p90: p99, p99, p99_9: p99, p99_99: p99, max: p99 }
    }

    fn run(messages: u64, p99: f64, delay: f64, waiting: &[u64]) -> Report {
        let mut report = Report::new("latency", Map::new(), Count { messages, bytes: 0, seconds: 1.0 });
        report.latency_us = Some(percentiles(p99));
        report.publish_delay_us = Some(percentiles(delay));
        let second = |lag: &u64| Second {
            lag: *lag,
            service_us: Some(percentiles(p99 - delay)),
            publish_delay_us: Some(percentiles(delay)),
            ..Second::default()
        };
        report.per_second = waiting.iter().map(second).collect();
        report
    }

    #[test]
    fn a_rate_is_held_or_there_is_a_reason() {
        let level = [10, 12, 9, 11, 0];
        assert_eq!(judge(1000, &run(1000, 500.0, 5.0, &level), Some(1000.0)), Verdict::Held);
        let missed = |report: &Report, text: &str| match judge(1000, report, Some(1000.0)) {
            Verdict::Missed(reason) => assert!(reason.contains(text), "{reason}"),
            other => panic!("{other:?}"),
        };
        missed(&run(900, 500.0, 5.0, &level), "90.0 %");
        missed(&run(1000, 1000.0, 5.0, &level), "not under 1000");
        missed(&run(1000, 500.0, 5.0, &[10, 100, 200, 300, 0]), "grew");
        let mut failed = run(1000, 500.0, 5.0, &level);
        failed.errors.insert("Busy".to_owned(), 3);
        missed(&failed, "3 failures");
        assert_eq!(judge(1000, &run(1000, 9000.0, 5.0, &level), None), Verdict::Held, "without a bound");
    }

    #[test]
    fn a_late_generator_is_not_the_broker() {
        let verdict = judge(1000, &run(1000, 5000.0, 4900.0, &[1, 1, 1, 1]), Some(1000.0));
        assert!(matches!(verdict, Verdict::GeneratorLimited(_)), "{verdict:?}");
        let verdict = judge(1000, &run(1000, 5000.0, 3000.0, &[1, 1, 1, 1]), Some(1000.0));
        assert!(matches!(verdict, Verdict::Missed(_)), "the broker was slow as well: {verdict:?}");
    }
}
