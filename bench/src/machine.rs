//! What the generator asks of the machine: time, CPU time, CPUs, and what it is.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::cli::CpuList;

/// The clock of a run: monotonic, the same for all threads and processes of the machine, ns.
#[must_use]
pub fn now_ns() -> u64 {
    clock_ns(ClockId::CLOCK_MONOTONIC).expect("every kernel has a monotonic clock")
}

/// Turns times of the run's clock into times of the wall's.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// What the wall's clock is ahead of the run's.
    ahead_ns: u64,
}

impl WallClock {
    /// As the two stand now.
    #[must_use]
    pub fn now() -> Self {
        let wall = clock_ns(ClockId::CLOCK_REALTIME).unwrap_or(0);
        Self { ahead_ns: wall.saturating_sub(now_ns()) }
    }

    /// The first millisecond, UTC, that is at least so long after a time of the run's clock.
    #[must_use]
    pub fn ms_after(&self, at_ns: u64, delay: Duration) -> i64 {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let wall_ns = self.ahead_ns.saturating_add(at_ns).saturating_add(delay_ns);
        i64::try_from(wall_ns.div_ceil(1_000_000)).unwrap_or(i64::MAX)
    }
}

/// CPU time of this thread, ns.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of this process, its ended threads included, ns.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of another process, its ended threads and the kernel's workers for its I/O included, ns; `None` when it is
/// gone.
#[must_use]
pub fn process_cpu_ns_of(pid: Pid) -> Option<u64> {
    ClockId::pid_cpu_clock_id(pid).ok().and_then(clock_ns)
}

/// Bytes that a process read from and wrote to disk so far; `None` when it is gone or may not be asked.
#[must_use]
pub fn process_io_of(pid: Pid) -> Option<(u64, u64)> {
    disk_bytes(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

/// Most memory that a process held at once (resident), bytes; `None` when it is gone.
#[must_use]
pub fn process_memory_peak_of(pid: Pid) -> Option<u64> {
    peak_bytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn disk_bytes(io: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let value = io.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

fn clock_ns(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
}

/// CPU time of everything on this machine (idle time and waiting for disks left out), ns; `None` when the kernel does
/// not tell.
#[must_use]
pub fn all_cpu_ns() -> Option<u64> {
    busy_ticks(&fs::read_to_string("/proc/stat").ok()?).map(|ticks| ticks * TICK_NS)
}

/// The unit of `/proc/stat` on Linux: a hundredth of a second.
const TICK_NS: u64 = 10_000_000;

/// user, nice, system, irq, softirq and steal of the first line of `/proc/stat`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(str::parse::<u64>);
    let mut next = || fields.next()?.ok();
    let (user, nice, system, _idle, _iowait) = (next()?, next()?, next()?, next()?, next()?);
    let (irq, softirq, steal) = (next()?, next()?, next().unwrap_or(0));
    Some(user + nice + system + irq + softirq + steal)
}

/// The CPUs that this thread may run on, in order.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("asking for the CPUs allowed")?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Binds this thread, and the threads and processes that it starts from now on, to these CPUs.
pub fn bind_to(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu).with_context(|| format!("there is no CPU {cpu}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("binding to CPUs {cpus:?}"))
}

/// Release of the kernel.
#[must_use]
pub fn kernel() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/osrelease");
    read.map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned())
}

/// Model of the CPU.
#[must_use]
pub fn cpu_model() -> String {
    let model = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"))?;
        line.split_once(':').map(|(_, model)| model.trim().to_owned())
    };
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .as_deref()
        .and_then(model)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Number of CPUs on line, whichever of them this thread is bound to.
#[must_use]
pub fn cores() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let online = online.and_then(|list| list.trim().parse::<CpuList>().ok());
    online.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        |CpuList(cpus)| cpus.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run() {
        let (now, cpu) = (now_ns(), process_cpu_ns());
        let mut sum = 0_u64;
        while thread_cpu_ns() < 5_000_000 {
            sum = sum.wrapping_add(now_ns());
        }
        assert!(now_ns() > now && process_cpu_ns() > cpu && sum > 0);
        let of_this_process = process_cpu_ns_of(Pid::this()).expect("it lives");
        assert!(of_this_process >= cpu);
    }

    #[test]
    fn the_machine_tells_its_busy_time() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 2000 4 5 6 70 80\ncpu0 9"), Some(21));
        for nonsense in ["", "intr 1", "cpu  1 2", "cpu  1 2 x 4 5 6 7 8"] {
            assert_eq!(busy_ticks(nonsense), None, "{nonsense}");
        }
        assert!(all_cpu_ns().expect("this machine tells") > 0);
    }

    #[test]
    fn a_delivery_is_never_before_its_time() {
        let wall = WallClock { ahead_ns: 999 };
        assert_eq!(wall.ms_after(1, Duration::from_millis(3)), 4);
        assert_eq!(wall.ms_after(999_001, Duration::ZERO), 1);
        assert!(WallClock::now().ms_after(now_ns(), Duration::ZERO) > 1_700_000_000_000);
    }

    #[test]
    fn a_process_tells_what_it_wrote() {
        let io =
            "rchar: 9\nwchar: 8\nsyscr: 1\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n";
        assert_eq!(disk_bytes(io), Some((4096, 8192)));
        assert_eq!(disk_bytes("read_bytes: 1\n"), None);
        assert!(process_io_of(Pid::this()).is_some());
        assert_eq!(peak_bytes("Name: x\nVmHWM:\t    12 kB\n"), Some(12_288));
        assert!(process_memory_peak_of(Pid::this()) > Some(4096));
    }

    #[test]
    fn a_thread_is_bound() {
        std::thread::spawn(|| {
            let last = *allowed_cpus().expect("known").last().expect("at least one");
            bind_to(&[last]).expect("allowed");
            assert_eq!(allowed_cpus().expect("known"), [last]);
            assert!(cores() > last, "those of the machine, not of the thread");
            assert!(bind_to(&[100_000]).is_err());
        })
        .join()
        .expect("no panic");
    }
}
