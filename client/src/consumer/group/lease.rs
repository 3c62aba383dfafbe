//! The clock of leases: it counts the time in which the machine slept and in which this process was stopped.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// No handler starts in the last part of a lease: what is begun before shall be done, or at least noticed, inside it.
pub(crate) const MARGIN: Duration = Duration::from_secs(1);

/// A moment of `CLOCK_BOOTTIME`, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(i64);

impl Moment {
    /// Never reached.
    #[cfg(test)]
    pub(crate) const LAST: Self = Self(i64::MAX);

    /// Now.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
        Self(time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
    }

    /// So much later.
    pub(crate) fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }

    /// When a lease ends that was asked for now: no handler starts after it.
    pub(crate) fn lease_end(self, lease: Duration) -> Self {
        self.plus(lease.saturating_sub(MARGIN))
    }

    /// Time since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Until when a queue may be worked on. It only ever grows, but for its end.
#[derive(Debug)]
pub(crate) struct Lease(AtomicI64);

impl Lease {
    /// Not given yet.
    pub(crate) const fn none() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    /// For ever: what needs no grant.
    #[cfg(test)]
    pub(crate) const fn endless() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }

    /// The broker extended it for `lease`, as asked for at `sent`. Whether it had lapsed.
    pub(crate) fn extend(&self, sent: Moment, lease: Duration) -> bool {
        let until = sent.lease_end(lease).0;
        self.0.fetch_max(until, Ordering::AcqRel) < Moment::now().0
    }

    /// Whether a handler may start.
    pub(crate) fn holds(&self) -> bool {
        Moment::now().0 < self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for_and_ends_early() {
        let lease = Lease::none();
        assert!(!lease.holds());
        let now = Moment::now();
        assert!(lease.extend(now, Duration::from_secs(5)), "it had lapsed");
        assert!(lease.holds());
        // An answer that comes late takes nothing away.
        assert!(!lease.extend(Moment(now.0 - 60_000), Duration::from_secs(5)));
        assert!(lease.holds());
        let lease = Lease::none();
        lease.extend(Moment(now.0 - 4_100), Duration::from_secs(5));
        assert!(!lease.holds(), "the last second is not used");
        assert!(Lease::endless().holds());
    }
}
