//! Latencies: recorded in nanoseconds, told in microseconds.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart, ns (an hour); longer ones count as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Latencies of one thread. Threads record apart; their histograms are added up at the end.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// 99.99 %.
    pub p99_99: f64,
    /// The longest.
    pub max: f64,
}

impl Latencies {
    /// Nothing recorded; three significant digits from 1 ns to an hour.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants");
        Self { histogram }
    }

    /// Records one latency. Does not allocate.
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns.max(1));
    }

    /// Adds what another thread recorded.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("the bounds are the same");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The histogram itself, in nanoseconds.
    #[must_use]
    pub(crate) const fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// The whole distribution: points (share of all, us), closer together the nearer they are to 1. Empty when nothing
    /// was recorded.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        /// Points until the distance to 1 has halved.
        const TICKS_PER_HALF_DISTANCE: u32 = 4;
        self.histogram
            .iter_quantiles(TICKS_PER_HALF_DISTANCE)
            .map(|step| (step.quantile_iterated_to(), to_us(step.value_iterated_to())))
            .collect()
    }

    /// `None` when nothing was recorded.
    #[must_use]
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| to_us(self.histogram.value_at_quantile(quantile));
        (!self.histogram.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: to_us(self.histogram.max()),
        })
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds with one digit after the point.
#[expect(clippy::cast_precision_loss, reason = "an hour in ns needs 42 bits")]
fn to_us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_three_digits_and_in_us() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentiles(), None);
        for us in 1..=10_000 {
            latencies.record(us * 1000);
        }
        let found = latencies.percentiles().expect("recorded");
        let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 500.0;
        assert!(near(found.p50, 5000.0) && near(found.p90, 9000.0) && near(found.p99, 9900.0), "{found:?}");
        assert!(
            near(found.p99_9, 9990.0) && near(found.p99_99, 9999.0) && near(found.max, 10_000.0),
            "{found:?}"
        );
    }

    #[test]
    fn the_curve_rises_to_the_longest() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.curve(), []);
        for us in 1..=10_000 {
            latencies.record(us * 1000);
        }
        let curve = latencies.curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        let (share, longest) = curve[curve.len() - 1];
        assert!((share - 1.0).abs() < 1e-9 && longest >= 10_000.0, "{curve:?}");
        assert!((20..200).contains(&curve.len()), "{}", curve.len());
    }

    #[test]
    fn threads_add_up_and_clearing_forgets() {
        let (mut one, mut two) = (Latencies::new(), Latencies::new());
        one.record(10);
        two.record(u64::MAX);
        one.add(&two);
        assert_eq!(one.count(), 2);
        let max = one.percentiles().expect("recorded").max;
        assert!((max - 3_600_000_000.0).abs() < 5_000_000.0, "{max}");
        one.clear();
        assert_eq!(one.count(), 0);
    }
}
