//! Moments of a run that every thread looks at, and that may change while it lasts.

use std::sync::atomic::{AtomicU64, Ordering};

/// In ns of the run's clock.
#[derive(Debug)]
pub(crate) struct Moments {
    until: AtomicU64,
    resume: AtomicU64,
}

impl Moments {
    /// Nothing is known yet.
    pub(crate) const fn new() -> Self {
        Self { until: AtomicU64::new(u64::MAX), resume: AtomicU64::new(u64::MAX) }
    }

    /// Nothing is sent from here on.
    pub(crate) fn until_ns(&self) -> u64 {
        self.until.load(Ordering::Relaxed)
    }

    /// Sets, or moves, the end.
    pub(crate) fn set_until(&self, until_ns: u64) {
        self.until.store(until_ns, Ordering::Relaxed);
    }

    /// Consumers that were to wait begin here.
    pub(crate) fn resume_ns(&self) -> u64 {
        self.resume.load(Ordering::Relaxed)
    }

    /// Sets when consumers begin.
    pub(crate) fn set_resume(&self, resume_ns: u64) {
        self.resume.store(resume_ns, Ordering::Relaxed);
    }
}
