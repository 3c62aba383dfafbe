//! How many blocking threads an executor with logs needs, and where they run.

use glommio::{CpuSet, Placement, PoolPlacement};

use crate::format::FLUSH_DEPTH_MAX;

/// Threads for what else may block: listing folders, asking for free space.
const OTHERS: usize = 2;
/// Most threads for flushes of an executor, however many logs it holds; flushes wait for one another then.
const FLUSH_THREADS_MAX: usize = 16;

/// The threads of an executor that may block, on its CPU where it has one: the flushes of `logs` logs are written and
/// synced there, and what else `io_uring` has no operation for. glommio's default is a single thread.
pub fn blocking_threads(placement: &Placement, logs: usize) -> PoolPlacement {
    #[expect(clippy::cast_possible_truncation, reason = "2")]
    let flushes = logs.saturating_mul(FLUSH_DEPTH_MAX as usize);
    let threads = flushes.min(FLUSH_THREADS_MAX) + OTHERS;
    let Placement::Fixed(own) = placement else { return PoolPlacement::Unbound(threads) };
    match CpuSet::online() {
        Ok(online) => PoolPlacement::Fenced(threads, online.filter(|place| place.cpu == *own)),
        Err(_) => PoolPlacement::Unbound(threads),
    }
}
