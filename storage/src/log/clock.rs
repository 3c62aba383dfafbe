//! What time it is for the age of messages: a clock that jumped, or may not be set yet, lets nothing go.

use super::CommitLog;
use crate::io::Io;

impl<I: Io> CommitLog<I> {
    /// Looks at both clocks and tells what changed. Now, for what goes when it is older than `age_ms`; `None`: nothing
    /// goes by its age.
    pub(super) fn look_at_clocks(&self, age_ms: Option<i64>) -> Option<i64> {
        let (wall_ms, uptime) = (self.inner.io.wall_ms(), self.inner.io.uptime());
        let mut core = self.inner.core.borrow_mut();
        let was_believed = core.clock.is_believed();
        let is_believed = core.clock.look(wall_ms, uptime);
        if was_believed != is_believed {
            let jumped_ms = core.clock.jumped_ms();
            if is_believed {
                tracing::warn!(log = %core.log, "the clock is right again: retention by age goes on");
            } else {
                tracing::error!(log = %core.log, jumped_ms,
                    "the clock jumped by more than an hour: nothing goes by its age until the clock is set right or the broker is restarted");
            }
        }
        let is_patient = age_ms.is_some_and(|age| core.clock.is_patient(wall_ms, uptime, age));
        if is_patient && !std::mem::replace(&mut core.retiring.told_patience, true) {
            tracing::warn!(log = %core.log, newest_ms = core.clock.found_ms(), now_ms = wall_ms,
                "by the clock even the newest message of before the start is old: in case it is not set yet, nothing goes by its age for ten minutes");
        }
        (is_believed && !is_patient).then_some(wall_ms)
    }
}
