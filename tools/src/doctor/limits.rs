//! Resource limits: locked memory, open files, memory.

use std::fs;

use equeue_net::transport::preflight::MEMLOCK_BYTES_MIN;
use nix::sys::resource::{Resource, getrlimit};

use super::Finding;

/// Enough for the rings and a few registered buffers of eight executors.
const MEMLOCK_GOOD: u64 = 8 << 20;
/// Enough for a broker with few clients.
const OPEN_FILES_MIN: u64 = 1024;
/// Enough for a broker with many.
const OPEN_FILES_GOOD: u64 = 65_536;
/// Free memory for a broker with the default `memory.limit` and its process.
const MEMORY_GOOD: u64 = 1536 << 20;

/// Locked memory, open files, free memory.
pub(super) fn findings() -> Vec<Finding> {
    let hard = |resource| getrlimit(resource).map(|(_, hard)| hard);
    let mut findings = Vec::new();
    match hard(Resource::RLIMIT_MEMLOCK) {
        Ok(hard) => findings.push(judge_memlock(hard)),
        Err(error) => findings.push(unreadable("locked memory", error)),
    }
    match hard(Resource::RLIMIT_NOFILE) {
        Ok(hard) => findings.push(judge_open_files(hard)),
        Err(error) => findings.push(unreadable("open files", error)),
    }
    if let Some(available) = available_memory() {
        findings.push(judge_memory(available));
    }
    findings
}

fn unreadable(check: &'static str, error: nix::Error) -> Finding {
    Finding::warning(
        check,
        format!("the limit cannot be read: {error}"),
        "look at `ulimit -a` of the broker's user",
    )
}

fn judge_memlock(hard: u64) -> Finding {
    let found = format!("limit {}", bytes_or_unlimited(hard));
    let remedy = "set LimitMEMLOCK=infinity in the systemd unit, `--ulimit memlock=-1` for docker, or memlock in \
                  /etc/security/limits.conf";
    if hard < MEMLOCK_BYTES_MIN {
        Finding::blocking("locked memory", format!("{found}, each shard needs 512 KiB"), remedy)
    } else if hard < MEMLOCK_GOOD {
        Finding::warning("locked memory", format!("{found}, 8 MiB or more is wanted"), remedy)
    } else {
        Finding::ok("locked memory", found)
    }
}

fn judge_open_files(hard: u64) -> Finding {
    let found = format!("limit {}", if hard == u64::MAX { "unlimited".to_owned() } else { hard.to_string() });
    let remedy = "set LimitNOFILE=1048576 in the systemd unit, `--ulimit nofile=1048576` for docker, or nofile in \
                  /etc/security/limits.conf";
    if hard < OPEN_FILES_MIN {
        Finding::blocking("open files", format!("{found}, at least {OPEN_FILES_MIN} are needed"), remedy)
    } else if hard < OPEN_FILES_GOOD {
        let found =
            format!("{found}: one per connection and per segment, {OPEN_FILES_GOOD} or more are wanted");
        Finding::warning("open files", found, remedy)
    } else {
        Finding::ok("open files", found)
    }
}

fn judge_memory(available: u64) -> Finding {
    let found = format!("{} available", bytes_or_unlimited(available));
    if available < MEMORY_GOOD {
        Finding::warning("memory", found, "set `memory.limit` of the broker below what is free")
    } else {
        Finding::ok("memory", found)
    }
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

pub(super) fn bytes_or_unlimited(bytes: u64) -> String {
    if bytes == u64::MAX { "unlimited".to_owned() } else { indicatif::BinaryBytes(bytes).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn the_limit_of_docker_blocks_and_that_of_a_desktop_does_not() {
        assert_eq!(judge_memlock(64 << 10).severity, Severity::Blocking);
        assert_eq!(judge_memlock(1 << 20).severity, Severity::Warning);
        assert_eq!(judge_memlock(8 << 20).severity, Severity::Ok);
        assert_eq!(judge_memlock(u64::MAX).severity, Severity::Ok);
    }

    #[test]
    fn open_files_are_judged() {
        assert_eq!(judge_open_files(256).severity, Severity::Blocking);
        assert_eq!(judge_open_files(4096).severity, Severity::Warning);
        assert_eq!(judge_open_files(u64::MAX).severity, Severity::Ok);
    }
}
