//! What the last segment of a full disk is for: the log's own facts, commits and other state, for as long as possible.
//!
//! When no space can be had for the next segment, the active one is all that is left. Three rules make it last:
//! - messages leave half of it free, or 8 MiB: none is taken that would get in there, but for one batch, before the space
//!   of the segment behind it is promised (what was accepted cannot be refused any more, and goes first);
//! - state leaves a rest to the facts of retention, which alone can free space;
//! - flushes rest: each takes a whole block, so commits of some time share one. The less is left, the longer they rest.
//!
//! The decisions here are pure.

use std::time::Duration;

use super::CommitLog;
use super::core::{Closing, Core, Next, Step};
use super::pending::written_len;
use crate::format::BLOCK_BYTES;
use crate::io::Io;

/// Of a segment: what messages leave free; of a small one half.
const RESERVE_BYTES: u64 = 8 << 20;
/// Largest atomic append of state entries that is taken while the disk is full.
const UNIT_BYTES_MAX: usize = 64 << 10;
/// Kept for what frees space, the log's own facts and snapshots; at most a part of the segment.
const FACTS_BYTES: u64 = 4 << 20;
const FACTS_SHARE: u64 = 8;
/// Longest rest between two flushes, when nothing is left.
const REST_MAX: Duration = Duration::from_secs(1);

/// What an append holds, which decides whether a full disk takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// Refused.
    Messages,
    /// Taken while the reserve lasts.
    State,
    /// Taken as long as there is any room at all.
    Facts,
}

/// What messages may take of the last segment, and what of them may wait.
fn messages_share(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(RESERVE_BYTES).max(segment_bytes / 2)
}

impl<I: Io> Core<I> {
    /// Whether messages may be taken: neither too many wait, nor would they get into what is reserved for state.
    pub(super) fn messages_have_room(&self) -> bool {
        let Some((header, _)) = &self.active else { return true };
        let waiting = written_len(self.pending.bytes()) as u64;
        let next_bytes = match &self.next {
            Next::Ready(prepared) => prepared.header.bytes,
            Next::Preparing { promised: true } => self.next_bytes(),
            Next::Preparing { promised: false } => {
                let used = self.position.0 - header.position.0;
                return used + waiting < messages_share(header.bytes);
            }
        };
        // The next segment may be the last one.
        let rest = header.end().0 - self.position.0;
        waiting < rest + messages_share(next_bytes)
    }

    /// Whether the rest of the active segment holds what waits and `bytes` more, each in a flush of its own.
    pub(super) fn reserve_has_room(&self, bytes: usize, what: Intake) -> bool {
        let Some((header, _)) = &self.active else { return false };
        // Nothing else can free space, so commits must not take the last of it.
        let kept_back = if what == Intake::Facts { 0 } else { FACTS_BYTES.min(header.bytes / FACTS_SHARE) };
        // What waits is counted twice: a unit that does not fit into a window leaves less than its own size unused.
        let waiting = 2 * written_len(self.pending.bytes()) as u64;
        let needed = written_len(bytes) as u64 + waiting + kept_back + 2 * BLOCK_BYTES;
        bytes <= UNIT_BYTES_MAX && self.position.plus(needed) <= header.end()
    }

    /// Whether this step waits because the last flush was a moment ago. What frees space, and the end, do not wait.
    pub(super) fn rests(&self, step: Step) -> bool {
        let can_rest = matches!(step, Step::Data { .. } | Step::Idle);
        can_rest && self.resting && self.disk_full && self.closing == Closing::No && !self.retiring.is_busy()
    }

    /// A flush was built: how long the next one rests; `None` when it need not.
    fn begin_rest(&mut self) -> Option<Duration> {
        let (header, _) = self.active.as_ref().filter(|_| self.disk_full && !self.resting)?;
        self.resting = true;
        let used = self.position.0.saturating_sub(header.position.0).min(header.bytes);
        // In blocks: a segment has at most 2^22 of them.
        let [used, all] =
            [used, header.bytes].map(|bytes| u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX));
        Some(REST_MAX * used / all.max(1))
    }
}

impl<I: Io> Next<I> {
    /// The space for it is there.
    pub(super) fn is_promised(&self) -> bool {
        match self {
            Self::Preparing { promised } => *promised,
            Self::Ready(_) => true,
        }
    }
}

impl<I: Io> CommitLog<I> {
    /// On a full disk: lets the flusher rest after a flush.
    pub(super) fn rest(&self) {
        let Some(rest) = self.inner.core.borrow_mut().begin_rest() else { return };
        let log = self.clone();
        self.inner.io.spawn(async move {
            log.inner.io.sleep(rest).await;
            log.inner.core.borrow_mut().resting = false;
            log.inner.work.notify();
        });
    }
}
