//! What must hold before an executor is created, told as errors: glommio 0.9.0 panics or exits instead.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use thiserror::Error;

/// Memory that glommio wants to be allowed to lock for one executor.
pub const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Why no executor can be created here.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// The kernel, or a sandbox such as the default seccomp profile of Docker, refuses io_uring.
    #[error(
        "io_uring is not available ({source}): the kernel is too old, it is switched off by sysctl \
         kernel.io_uring_disabled, or the container's seccomp profile forbids it"
    )]
    IoUring {
        /// What the system call said.
        source: io::Error,
    },
    /// The limit on locked memory is too low and may not be raised.
    #[error(
        "the limit on locked memory is {limit} bytes, {needed} are needed: raise it (ulimit -l, LimitMEMLOCK)"
    )]
    Memlock {
        /// The hard limit.
        limit: u64,
        /// What is needed.
        needed: u64,
    },
    /// A limit could not be read or set.
    #[error("the limit on {what} could not be read or raised")]
    Limit {
        /// Which.
        what: &'static str,
        /// What the system call said.
        source: io::Error,
    },
}

/// Limits of this process, after they were raised as far as the system allows. `u64::MAX`: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be locked.
    pub memlock_bytes: u64,
    /// Descriptors that may be open.
    pub descriptors: u64,
}

/// Checks io_uring and raises the limits on locked memory and descriptors to what the system allows.
///
/// Call it once per process, before the first executor is created.
pub fn check() -> Result<Limits, PreflightError> {
    probe_io_uring().map_err(|source| PreflightError::IoUring { source })?;
    let memlock_bytes = raise(libc::RLIMIT_MEMLOCK)
        .map_err(|source| PreflightError::Limit { what: "locked memory", source })?;
    if memlock_bytes < MEMLOCK_BYTES_MIN {
        return Err(PreflightError::Memlock { limit: memlock_bytes, needed: MEMLOCK_BYTES_MIN });
    }
    let descriptors = raise(libc::RLIMIT_NOFILE)
        .map_err(|source| PreflightError::Limit { what: "open descriptors", source })?;
    Ok(Limits { memlock_bytes, descriptors })
}

/// `struct io_uring_params` is 120 bytes that may all be 0.
const PARAMS_LEN: usize = 120;
/// `struct io_uring_probe` with room for 256 operations: 16 bytes and 8 per operation.
const PROBE_OPERATIONS: u32 = 256;
const PROBE_LEN: usize = 16 + 8 * PROBE_OPERATIONS as usize;
const IORING_REGISTER_PROBE: libc::c_uint = 8;

/// Sets up a ring of two entries and asks what it can do, as glommio will.
#[expect(unsafe_code, reason = "two system calls without a wrapper")]
fn probe_io_uring() -> io::Result<()> {
    let mut params = [0_u64; PARAMS_LEN / 8];
    // SAFETY: the kernel reads and writes PARAMS_LEN bytes at this address, which is aligned to 8.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2_u32, params.as_mut_ptr()) };
    let Ok(fd) = RawFd::try_from(fd) else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut probe = [0_u64; PROBE_LEN / 8];
    // SAFETY: the kernel writes at most PROBE_LEN bytes, what PROBE_OPERATIONS operations take.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd,
            IORING_REGISTER_PROBE,
            probe.as_mut_ptr(),
            PROBE_OPERATIONS,
        )
    };
    let outcome = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    drop(ring);
    outcome
}

/// Raises the soft limit to the hard one and returns it.
#[expect(unsafe_code, reason = "two system calls without a wrapper")]
fn raise(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours and of the type that the call writes.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: the structure is ours and of the type that the call reads.
        if unsafe { libc::setrlimit(resource, &raw const wanted) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_to_the_hard_ones_and_no_descriptor_stays() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let limits = check().expect("tests need io_uring");
        assert!(limits.memlock_bytes >= MEMLOCK_BYTES_MIN);
        assert!(limits.descriptors >= 64);
        assert_eq!(check().unwrap(), limits);
        assert_eq!(open(), before);
    }
}
