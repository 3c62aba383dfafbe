//! One second of a run, and whether the seconds were alike. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::histogram::Percentiles;

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Its number from the start of the measured time.
    pub second: u32,
    /// How long it was: the last one of a run is cut short.
    pub seconds: f64,
    /// Messages acknowledged in it.
    pub acknowledged: u64,
    /// Messages received in it.
    pub received: u64,
    /// Messages without an answer at its end.
    pub in_flight: u64,
    /// Messages acknowledged and not yet received at its end.
    pub lag: u64,
    /// To the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
    /// Open loop: from the send to the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_us: Option<Percentiles>,
    /// Open loop: how late the generator was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_delay_us: Option<Percentiles>,
    /// Until a consumer had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_to_end_us: Option<Percentiles>,
    /// CPU time of the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_cpu_seconds: Option<f64>,
    /// CPU time of the generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cpu_seconds: Option<f64>,
    /// Bytes that the broker read from disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<u64>,
    /// Bytes that the broker wrote to disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_bytes: Option<u64>,
}

/// How alike the seconds of a run were.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Steadiness {
    /// Standard deviation of the rates of the seconds over their mean.
    pub spread: f64,
    /// What the second half of the run was faster than the first, over the mean: negative when it slowed down.
    pub drift: f64,
}

impl Steadiness {
    /// Rates that differ more than this are told.
    const SPREAD_MAX: f64 = 0.2;
    /// Halves that differ more than this are told.
    const DRIFT_MAX: f64 = 0.1;

    /// Of the messages of each second. The last second is not whole and does not count; `None` when fewer than three
    /// are left.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an average")]
    pub fn of(rates: &[u64]) -> Option<Self> {
        const RATES_MIN: usize = 3;
        let whole = rates.get(..rates.len().saturating_sub(1))?;
        if whole.len() < RATES_MIN {
            return None;
        }
        let mean = |rates: &[u64]| rates.iter().map(|rate| *rate as f64).sum::<f64>() / rates.len() as f64;
        let all = mean(whole);
        if all <= 0.0 {
            return None;
        }
        let variance =
            whole.iter().map(|rate| (*rate as f64 - all).powi(2)).sum::<f64>() / whole.len() as f64;
        let (first, second) = whole.split_at(whole.len() / 2);
        Some(Self { spread: variance.sqrt() / all, drift: (mean(second) - mean(first)) / all })
    }

    /// What is to be told of it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.0} %", share.abs() * 100.0);
        if self.spread > Self::SPREAD_MAX {
            return Some(format!(
                "unsteady: the rate differs by {} of its mean from second to second",
                percent(self.spread)
            ));
        }
        (self.drift.abs() > Self::DRIFT_MAX).then(|| {
            let way = if self.drift < 0.0 { "slower" } else { "faster" };
            format!(
                "not settled: the second half was {} {way} than the first (a longer --warmup or run helps)",
                percent(self.drift)
            )
        })
    }
}

/// One line of a running measurement.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(rates: &[u64]) -> Option<String> {
        Steadiness::of(rates).and_then(|steadiness| steadiness.warning())
    }

    #[test]
    fn an_unsteady_run_says_so() {
        assert_eq!(warning(&[100, 101, 99, 100, 3]), None, "the last second is not whole");
        assert!(warning(&[100, 10, 190, 100, 100]).is_some_and(|text| text.starts_with("unsteady")));
        assert_eq!(warning(&[100, 10]), None, "too few to tell");
        assert_eq!(warning(&[0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn a_run_that_gets_slower_says_so() {
        let text = warning(&[100, 100, 100, 100, 85, 85, 85, 85, 1]).expect("not settled");
        assert!(text.contains("16 % slower"), "{text}");
        assert_eq!(warning(&[100, 98, 97, 99, 100, 98, 1]), None);
    }
}
