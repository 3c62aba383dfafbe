//! The kernel and its `io_uring`, tried as a server tries it before it starts.

use std::fs;
use std::io;

use equeue_net::transport::preflight::{self, PreflightError};

use super::Finding;

/// What the runtime asks of the kernel.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Where the rings have all that makes them fast (and their early bugs are gone).
const KERNEL_GOOD: (u32, u32) = (5, 15);

/// Why there is no usable ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoRing {
    /// The kernel was built without, or a seccomp profile pretends so.
    Missing,
    /// `kernel.io_uring_disabled` says so.
    Sysctl(u8),
    /// A seccomp profile or a security module.
    Forbidden,
    /// Anything else.
    Failed,
}

impl NoRing {
    /// From what the system call said, and from the sysctl.
    fn classify(error: &io::Error, sysctl: Option<u8>) -> Self {
        match (error.raw_os_error(), sysctl) {
            (Some(libc::ENOSYS), _) => Self::Missing,
            (Some(libc::EPERM), Some(level)) if level > 0 => Self::Sysctl(level),
            (Some(libc::EPERM), _) => Self::Forbidden,
            _ => Self::Failed,
        }
    }

    fn found(self, error: &io::Error) -> String {
        match self {
            Self::Missing => "the kernel has no io_uring (ENOSYS), or a sandbox hides it".to_owned(),
            Self::Sysctl(level) => format!("switched off by sysctl kernel.io_uring_disabled={level} (EPERM)"),
            Self::Forbidden => "forbidden by a seccomp profile or a security module (EPERM)".to_owned(),
            Self::Failed => format!("cannot be set up: {error}"),
        }
    }

    /// What an operator does about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::Missing => {
                "use Linux 5.15 or later with CONFIG_IO_URING; in a container, allow io_uring_setup, io_uring_enter \
                 and io_uring_register in the seccomp profile"
            }
            Self::Sysctl(2) => "run `sysctl -w kernel.io_uring_disabled=0`",
            Self::Sysctl(_) => {
                "run `sysctl -w kernel.io_uring_disabled=0`, or put the broker's group into kernel.io_uring_group, or \
                 give it CAP_SYS_ADMIN"
            }
            Self::Forbidden => {
                "allow io_uring_setup, io_uring_enter and io_uring_register: `docker run --security-opt \
                 seccomp=PROFILE`, or a security context in Kubernetes"
            }
            Self::Failed => "look at the kernel log (`dmesg`)",
        }
    }
}

/// `kernel.io_uring_disabled`; none where the kernel does not know it (before 6.6).
fn sysctl_disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The kernel's version.
pub(super) fn kernel_version() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    judge_kernel(&release)
}

fn judge_kernel(release: &str) -> Finding {
    let found = format!("Linux {release}");
    let Some(version) = version_of(release) else {
        return Finding::warning("kernel", found, "the version cannot be read; 5.15 or later is wanted");
    };
    if version < KERNEL_MIN {
        Finding::blocking(
            "kernel",
            found,
            "use Linux 5.15 or later: io_uring lacks what a broker needs before 5.8",
        )
    } else if version < KERNEL_GOOD {
        Finding::warning("kernel", found, "use Linux 5.15 or later: io_uring has known errors before")
    } else {
        Finding::ok("kernel", found)
    }
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether a ring can be had.
pub(super) fn finding() -> Finding {
    match preflight::check() {
        Err(PreflightError::IoUring { source }) => {
            let reason = NoRing::classify(&source, sysctl_disabled());
            Finding::blocking("io_uring", reason.found(&source), reason.remedy())
        }
        // What it says of limits is looked at by their own checks.
        Ok(_) | Err(_) => Finding::ok("io_uring", "allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn versions_are_judged_by_number_not_by_text() {
        assert_eq!(judge_kernel("6.1.0-18-amd64").severity, Severity::Ok);
        assert_eq!(judge_kernel("5.15.0").severity, Severity::Ok);
        assert_eq!(judge_kernel("5.10.0-8-amd64").severity, Severity::Warning);
        assert_eq!(judge_kernel("5.4.0-1").severity, Severity::Blocking);
        assert_eq!(judge_kernel("10.2.0").severity, Severity::Ok);
        assert_eq!(judge_kernel("unknown").severity, Severity::Warning);
    }

    #[test]
    fn refusals_are_told_apart() {
        let error = io::Error::from_raw_os_error;
        assert_eq!(NoRing::classify(&error(libc::ENOSYS), None), NoRing::Missing);
        assert_eq!(NoRing::classify(&error(libc::EPERM), Some(2)), NoRing::Sysctl(2));
        assert_eq!(NoRing::classify(&error(libc::EPERM), Some(0)), NoRing::Forbidden);
        assert_eq!(NoRing::classify(&error(libc::EPERM), None), NoRing::Forbidden);
        assert_eq!(NoRing::classify(&error(libc::ENOMEM), Some(0)), NoRing::Failed);
    }
}
