//! The kernel's coarse clocks, read for each message: a few nanoseconds, where an exact clock takes twenty to thirty, more
//! than all else that a small message needs in the client. They are behind by a tick at the most (`CONFIG_HZ`: 1 to 10 ms).

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine was started.
pub(crate) fn uptime() -> Duration {
    read(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// Now, ms UTC.
pub(crate) fn wall_ms() -> i64 {
    i64::try_from(read(ClockId::CLOCK_REALTIME_COARSE).as_millis()).unwrap_or(i64::MAX)
}

/// Every Linux has these clocks; a time before 1970 counts as 1970.
fn read(clock: ClockId) -> Duration {
    let Ok(time) = clock_gettime(clock) else { return Duration::ZERO };
    match (u64::try_from(time.tv_sec()), u32::try_from(time.tv_nsec())) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_behind_by_a_tick_at_the_most() {
        for _ in 0..100 {
            let before = crate::message::wall_ms();
            let (coarse, uptime_before) = (wall_ms(), uptime());
            let after = crate::message::wall_ms();
            assert!((before - 20..=after).contains(&coarse), "{before} {coarse} {after}");
            assert!(uptime() >= uptime_before && uptime_before > Duration::ZERO);
        }
    }
}
