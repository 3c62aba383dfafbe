//! The clock that leases and memberships are counted by: it stands still while the shard does.
//!
//! A shard that was stopped (SIGSTOP, a frozen virtual machine, a disk that blocked its thread) did not read the
//! heartbeats of that time. So a gap between two looks at the clock counts as nothing, and neither does the time after
//! it in which what has come meanwhile is read; and neither does the time before the broker serves, in which one shard may
//! wait for another that opens its logs. The clock runs at most as fast as real time: a lease lasts here at least as long as
//! its holder believes. Pure: the real time comes in.

/// A longer gap between two looks means that the shard stood still. Somebody looks every [`LOOK_EVERY_MS`].
const GAP_MS_MAX: u64 = 250;
/// Time between two looks, at the most, of a shard that runs.
pub const LOOK_EVERY_MS: u64 = 50;
/// After a gap the clock stands still for so long: everything that came meanwhile is read first.
const SETTLE_MS: u64 = 500;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseClock {
    looked_ms: u64,
    still_until_ms: u64,
    lease_ms: u64,
    gaps: u64,
}

impl LeaseClock {
    /// The time of leases, given the real (steady) time.
    pub fn read(&mut self, real_ms: u64) -> u64 {
        let passed = real_ms.saturating_sub(self.looked_ms);
        self.looked_ms = self.looked_ms.max(real_ms);
        if passed > GAP_MS_MAX {
            self.gaps += 1;
            self.still_until_ms = real_ms + SETTLE_MS;
        } else if real_ms >= self.still_until_ms {
            self.lease_ms += passed;
        }
        self.lease_ms
    }

    /// The time of leases while nobody is served.
    pub fn hold(&mut self, real_ms: u64) -> u64 {
        self.looked_ms = self.looked_ms.max(real_ms);
        self.lease_ms
    }

    /// How often the shard stood still.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pause_and_the_time_to_catch_up_count_as_nothing() {
        let mut clock = LeaseClock::default();
        for real_ms in (0..=1_000).step_by(50) {
            assert_eq!(clock.read(real_ms), real_ms);
        }
        assert_eq!(clock.read(16_000), 1_000);
        for real_ms in (16_000..16_500).step_by(50) {
            assert_eq!(clock.read(real_ms), 1_000);
        }
        assert_eq!(clock.read(16_550), 1_100);
        assert_eq!((clock.read(16_600), clock.gaps()), (1_150, 1));
    }

    #[test]
    fn what_passes_before_anybody_is_served_counts_as_nothing() {
        let mut clock = LeaseClock::default();
        assert_eq!((clock.hold(10), clock.hold(9_000)), (0, 0));
        assert_eq!((clock.read(9_040), clock.gaps()), (40, 0));
    }

    proptest! {
        /// It never goes back, and never runs faster than real time.
        #[test]
        fn it_is_slower_than_real_time(steps in prop::collection::vec(0..2_000_u64, 0..100)) {
            let (mut clock, mut real_ms, mut before) = (LeaseClock::default(), 0, 0);
            for step in steps {
                real_ms += step;
                let now = clock.read(real_ms);
                prop_assert!(now >= before && now - before <= step);
                before = now;
            }
        }
    }
}
