//! Sleeping until a message is due, to a few tens of microseconds: the runtime's own timers tick in milliseconds, which
//! would show as latency.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Alarms go off at multiples of this, ns: arming and taking a timer interrupt costs 5-6 us on a virtual machine, so one for
/// each of 100,000 messages a second would keep the generator's core busy with nothing else. Latency counts from the
/// timetable, so what a message waits for the next multiple (half of this on average) is in it.
pub(crate) const TICK_NS: u64 = 50_000;

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A timer of the kernel on the run's clock.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: AsyncFd<Timer>,
}

impl Alarm {
    /// Must be called inside the runtime.
    pub(crate) fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context("making a timer")?;
        #[expect(unsafe_code, reason = "the runtime cannot see that a type keeps its descriptor open")]
        // SAFETY: `Timer` owns its descriptor, which stays open, and the same, for as long as the `AsyncFd` owns it.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) };
        let timer = timer.context("watching a timer")?;
        Ok(Self { timer })
    }

    /// Sleeps until the first multiple of [`TICK_NS`] at or after this time of the run's clock. The alarms of a thread so
    /// go off together, with one interrupt.
    pub(crate) async fn at(&mut self, at_ns: u64) -> Result<()> {
        let due = TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1).next_multiple_of(TICK_NS)));
        self.timer
            .get_ref()
            .0
            .set(Expiration::OneShot(due), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .context("setting a timer")?;
        loop {
            let mut guard = self.timer.readable().await.context("waiting for a timer")?;
            let read = guard.try_io(|timer| {
                let mut expirations = [0; 8];
                nix::unistd::read(timer.get_ref().0.as_fd(), &mut expirations)
                    .map_err(|errno: Errno| io::Error::from(errno))
            });
            if let Ok(read) = read {
                read.context("reading a timer")?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::now_ns;

    #[test]
    fn it_wakes_at_the_time_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut alarm = Alarm::new().expect("a timer");
            alarm.at(now_ns().saturating_sub(1)).await.expect("the past is due at once");
            for _ in 0..20 {
                let due = now_ns() + 300_000;
                alarm.at(due).await.expect("wakes");
                assert!(now_ns() >= due);
            }
        });
    }
}
