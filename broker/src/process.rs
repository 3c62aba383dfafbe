//! What this process uses, as the kernel counts it.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Use of the process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, user and system, microseconds.
    pub cpu_us: u64,
    /// Memory that is resident now, bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Asks the kernel. What it does not tell is 0.
pub fn usage() -> Usage {
    let cpu_us = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    Usage {
        cpu_us: u64::try_from(cpu_us).unwrap_or(0),
        resident_bytes: resident_pages().unwrap_or(0).saturating_mul(page_bytes()),
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

/// The second number of `/proc/self/statm`.
fn resident_pages() -> Option<u64> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// The time, ms UTC.
pub(crate) fn utc_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_uses_something() {
        let usage = super::usage();
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.cpu_us > 0 && usage.descriptors >= 3, "{usage:?}");
    }
}
