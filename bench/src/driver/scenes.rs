//! What happens in the middle of a run: consumers that begin late, a broker that ends and comes back.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::collector::{Sums, seconds};
use crate::machine::now_ns;
use crate::meter::BrokerMeter;
use crate::report::{Backlog, Outage};

/// When the own broker is ended and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutagePlan {
    /// By SIGKILL; otherwise in order.
    pub killed: bool,
    /// So long after the measured time began.
    pub after: Duration,
}

/// Follows the backlog that consumers have to catch up with. Pure.
#[derive(Debug, Default)]
pub(super) struct BacklogCourse {
    /// The lag when it was looked at last before the consumers began.
    before: u64,
    /// What the consumers found.
    backlog: Option<u64>,
    /// From when they began.
    drained_after_ns: Option<u64>,
}

impl BacklogCourse {
    /// A backlog is drained when less than its hundredth is left.
    const REST: u64 = 100;

    /// Looks at the lag; consumers began at `resume_ns`.
    pub(super) fn look(&mut self, now_ns: u64, resume_ns: u64, lag: u64) {
        if now_ns < resume_ns {
            self.before = lag;
            return;
        }
        // A look that comes late finds a part of it drained.
        let backlog = *self.backlog.get_or_insert(self.before.max(lag));
        if self.drained_after_ns.is_none() && lag <= backlog / Self::REST {
            self.drained_after_ns = Some(now_ns - resume_ns);
        }
    }

    /// What it came to; `None` when consumers never began.
    pub(super) fn told(&self) -> Option<Backlog> {
        let messages = self.backlog?;
        Some(Backlog { messages, drained_after_seconds: self.drained_after_ns.map(seconds) })
    }
}

/// Where an outage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ahead,
    Ending,
    Starting,
    Over { ready_ns: u64 },
}

/// Leads the own broker through its outage. Never waits: it is looked at again and again.
#[derive(Debug)]
pub(super) struct OutageCourse {
    plan: OutagePlan,
    phase: Phase,
    from_ns: u64,
    at_ns: u64,
}

impl OutageCourse {
    pub(super) const fn new(plan: OutagePlan) -> Self {
        Self { plan, phase: Phase::Ahead, from_ns: 0, at_ns: 0 }
    }

    /// Does what is due; the measured time began at `from_ns`.
    pub(super) fn step(&mut self, from_ns: u64, meter: &BrokerMeter) -> Result<()> {
        let now = now_ns();
        let mut broker = meter.own().context("an outage needs a broker of the run's own")?;
        match self.phase {
            Phase::Ahead => {
                let after_ns = u64::try_from(self.plan.after.as_nanos()).unwrap_or(u64::MAX);
                if now >= from_ns.saturating_add(after_ns) {
                    (self.from_ns, self.at_ns) = (from_ns, now);
                    broker.end(self.plan.killed)?;
                    self.phase = Phase::Ending;
                }
            }
            Phase::Ending => {
                if broker.has_ended()? {
                    broker.start_again()?;
                    self.phase = Phase::Starting;
                }
            }
            Phase::Starting => {
                if broker.is_ready()? {
                    self.phase = Phase::Over { ready_ns: now };
                }
            }
            Phase::Over { .. } => {}
        }
        Ok(())
    }

    /// It is under way: the broker is to be looked at often.
    pub(super) const fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Starting)
    }

    /// What it came to; `None` when the run ended before it was over.
    pub(super) fn told(&self, sums: Sums) -> Option<Outage> {
        let Phase::Over { ready_ns } = self.phase else { return None };
        Some(Outage {
            killed: self.plan.killed,
            at_seconds: seconds(self.at_ns - self.from_ns),
            ready_after_ms: seconds(ready_ns - self.at_ns) * 1000.0,
            silence_ms: seconds(sums.silence_ns_max) * 1000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_followed_until_it_is_gone() {
        let mut course = BacklogCourse::default();
        course.look(10, 1_000_000_000, 5);
        assert_eq!(course.told(), None, "consumers have not begun");
        course.look(1_000_000_000, 1_000_000_000, 1000);
        course.look(2_000_000_000, 1_000_000_000, 1500);
        assert_eq!(course.told(), Some(Backlog { messages: 1000, drained_after_seconds: None }));
        course.look(3_500_000_000, 1_000_000_000, 10);
        course.look(4_000_000_000, 1_000_000_000, 700);
        assert_eq!(course.told(), Some(Backlog { messages: 1000, drained_after_seconds: Some(2.5) }));
    }

    #[test]
    fn a_late_look_takes_nothing_off_a_backlog() {
        let mut course = BacklogCourse::default();
        course.look(990_000_000, 1_000_000_000, 1980);
        course.look(1_300_000_000, 1_000_000_000, 600);
        assert_eq!(course.told(), Some(Backlog { messages: 1980, drained_after_seconds: None }));
        course.look(1_500_000_000, 1_000_000_000, 19);
        assert_eq!(course.told(), Some(Backlog { messages: 1980, drained_after_seconds: Some(0.5) }));
    }
}
