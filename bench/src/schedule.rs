//! When each message of an open loop is to be sent. Pure.
//!
//! The producers of a run share one timetable: message n of all is due `n / rate` after the start, and producer p of P
//! sends the messages p, p + P, p + 2P... So the load is even whatever the number of producers, and a time that was missed
//! stays in the timetable: latency is counted from it (no coordinated omission).

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// One producer's part of the timetable.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    rate: u64,
    producer: u64,
    producers: u64,
}

impl Schedule {
    /// `rate` messages per second of all `producers` together, from `start_ns` on.
    ///
    /// # Panics
    /// When rate or producers is 0; both come from options with a lower bound.
    #[must_use]
    pub fn new(start_ns: u64, rate: u64, producer: u32, producers: u32) -> Self {
        assert!(rate > 0 && producers > 0, "the options have lower bounds");
        Self { start_ns, rate, producer: u64::from(producer), producers: u64::from(producers) }
    }

    /// When this producer's message `sequence` is due.
    #[must_use]
    pub fn due_ns(&self, sequence: u64) -> u64 {
        let overall = u128::from(sequence) * u128::from(self.producers) + u128::from(self.producer);
        let after_ns = overall * u128::from(SECOND_NS) / u128::from(self.rate);
        self.start_ns.saturating_add(u64::try_from(after_ns).unwrap_or(u64::MAX))
    }
}

/// Shares `total` out so that the parts differ by at most one.
#[must_use]
pub fn share(total: u64, part: u32, parts: u32) -> u64 {
    let (part, parts) = (u64::from(part), u64::from(parts.max(1)));
    total / parts + u64::from(part < total % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_together_send_evenly_at_the_rate() {
        let (rate, producers) = (3000, 7);
        let schedules: Vec<_> = (0..producers).map(|p| Schedule::new(500, rate, p, producers)).collect();
        let mut due: Vec<u64> = schedules
            .iter()
            .flat_map(|schedule| (0..3000).map(|sequence| schedule.due_ns(sequence)))
            .collect();
        due.sort_unstable();
        assert_eq!(due[0], 500);
        assert_eq!(due[3000], 500 + SECOND_NS);
        assert!(due.windows(2).all(|pair| (333_333..=333_334).contains(&(pair[1] - pair[0]))));
    }

    #[test]
    fn rounding_does_not_add_up() {
        let schedule = Schedule::new(0, 3, 0, 1);
        assert_eq!(schedule.due_ns(3_000_000), 1_000_000 * SECOND_NS);
    }

    #[test]
    fn shares_add_up() {
        for (total, parts) in [(10, 3), (2, 5), (0, 4), (7, 7)] {
            assert_eq!((0..parts).map(|part| share(total, part, parts)).sum::<u64>(), total);
        }
        assert_eq!((0..3).map(|part| share(10, part, 3)).collect::<Vec<_>>(), [4, 3, 3]);
    }
}
