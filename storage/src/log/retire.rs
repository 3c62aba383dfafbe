//! Retiring segments: the oldest go, whole, when the policy says so and nobody needs them.
//!
//! The order makes a crash at any step harmless: two complete snapshots begin behind the segment; what must live on is
//! appended again; where its queues begin afterwards is durable; that the log begins behind it is durable; only then
//! its files go, index first, oldest segment first, the folder synced after each. What a crash leaves of a retired
//! segment is no part of the log any more and is removed by the next pass. A reader that is in the middle of it gets
//! what it asked for, or is told where the queue begins now.

use std::io;
use std::path::PathBuf;

use equeue_record::QueueKey;

use super::core::{Closing, Core};
use super::fact::Fact;
use super::segments::Segment;
use super::{AppendError, CommitLog, ReadError};
use crate::format::{FLUSH_HEADER_LEN, FlushHeader, segment_name};
use crate::index::Entry;
use crate::io::{ALIGN, Io, IoFile};
use crate::retention::{Leaving, RetentionAdvisor, RetentionPolicy, RetireReason, Standing};
use crate::types::Position;

/// Queues that are looked at, or whose new start is appended, at a time.
const QUEUES_PER_TURN: usize = 500;
/// Time between two warnings about backlogs.
const WARN_MS: u64 = 60_000;

/// What a pass of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments retired.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why the next one stays although the policy would let it go.
    pub stays: Option<Stays>,
}

/// Why a segment stays that the policy would let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// A group has not consumed this queue in it, and the policy forbids to delete that.
    Unconsumed(QueueKey),
    /// Its end was not durable yet when the pass began.
    NotDurable,
    /// Its index is not written yet.
    NotIndexed,
    /// There is no room for the snapshots that must follow it.
    NoSnapshot,
    /// The log is being closed, or failed.
    Stopping,
}

/// Why a pass of retention ended early. What was done before holds; the next pass goes on.
#[derive(Debug, thiserror::Error)]
pub enum RetainError {
    /// What the segment holds could not be found out.
    #[error("retention could not read what a segment holds")]
    Read(#[from] ReadError),
    /// The new starts could not be stored, or what must live on could not be appended again.
    #[error("retention could not store where queues begin now")]
    Append(#[from] AppendError),
    /// The system said no.
    #[error("{path}: {action} failed")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What happened to one segment.
enum Step {
    Retired,
    Stays(Stays),
}

/// What groups have still to consume in a segment.
#[derive(Default)]
struct Backlog {
    messages: u64,
    queues: u64,
    first: Option<QueueKey>,
}

/// What retention remembers from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Retiring {
    /// A pass is going on.
    busy: bool,
    /// Retired, but their files are still there; oldest first.
    pub(super) gone: std::collections::VecDeque<Segment>,
    /// Index files without a segment were looked for.
    pub(super) swept: bool,
    /// It was said that retention by age waits for the clock.
    pub(super) told_patience: bool,
    /// Somebody was warned of the backlog in segments up to here.
    warned_to: Position,
    warned_at_ms: Option<u64>,
}

impl Retiring {
    /// A pass is going on.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }
}

/// Ends a pass.
struct Pass<'a, I: Io>(&'a CommitLog<I>);

impl<I: Io> Drop for Pass<'_, I> {
    fn drop(&mut self) {
        self.0.inner.core.borrow_mut().retiring.busy = false;
    }
}

impl<I: Io> Core<I> {
    /// Bytes that the log takes on disk.
    pub(super) fn stored_bytes(&self) -> u64 {
        let prepared = self.next_bytes_stored();
        let spare = self.spare.map_or(0, |spare| spare.bytes);
        self.segments.iter().chain(&self.retiring.gone).map(|segment| segment.stored_bytes).sum::<u64>()
            + prepared
            + spare
            + self.ballast.stored_bytes()
    }

    /// Bytes of the segment behind the prepared one, where the oldest could be used for it and is not the only closed one.
    fn bytes_needed(&self) -> u64 {
        let oldest = self.segments.oldest_closed().map(|(oldest, _)| *oldest);
        let can_give = self.segments.len() > 2 && oldest.is_some_and(|oldest| self.wants_spare(&oldest));
        if can_give { self.bytes_after_next() } else { 0 }
    }

    /// It is being closed, or failed.
    pub(super) fn stops(&self) -> bool {
        self.closing != Closing::No || self.poison.is_some()
    }

    /// A warning about a backlog is due.
    fn may_warn(&mut self, now_ms: u64) -> bool {
        let due = self.retiring.warned_at_ms.is_none_or(|at| now_ms.saturating_sub(at) >= WARN_MS);
        if due {
            self.retiring.warned_at_ms = Some(now_ms);
        }
        due
    }
}

impl<I: Io> CommitLog<I> {
    /// One pass of retention. Nothing is done while another pass goes on.
    pub(super) async fn retain_pass(
        &self,
        policy: &RetentionPolicy,
        advisor: &dyn RetentionAdvisor,
    ) -> Result<Retained, RetainError> {
        if std::mem::replace(&mut self.inner.core.borrow_mut().retiring.busy, true) {
            return Ok(Retained::default());
        }
        let _pass = Pass(self);
        let _busy = self.busy();
        self.remove_gone(false).await?;
        self.sweep().await?;
        self.retire_all(policy, advisor).await
    }

    async fn retire_all(
        &self,
        policy: &RetentionPolicy,
        advisor: &dyn RetentionAdvisor,
    ) -> Result<Retained, RetainError> {
        let mut done = Retained::default();
        // What is carried forward is written behind: a pass must not follow it for ever.
        let begun_at = {
            let mut core = self.inner.core.borrow_mut();
            core.stats.retention_blocked = false;
            core.durable_end
        };
        loop {
            let oldest = {
                let core = self.inner.core.borrow();
                let oldest = core.segments.oldest_closed().map(|(oldest, _)| *oldest);
                oldest.filter(|_| !core.stops())
            };
            let Some(oldest) = oldest else { return Ok(done) };
            let was_durable = oldest.header.end() <= begun_at;
            let standing = self.standing(policy).await?;
            let Some(reason) = policy.reason(&standing) else {
                // Looking at the backlog takes time, in which the log may have grown.
                if was_durable && policy.is_near(&standing) && self.warn_ahead(&oldest, advisor).await? {
                    continue;
                }
                return Ok(done);
            };
            if !was_durable {
                done.stays = Some(Stays::NotDurable);
                return Ok(done);
            }
            match self.retire(&oldest, reason, policy, advisor).await? {
                Step::Retired => {
                    done.segments += 1;
                    done.bytes += oldest.stored_bytes;
                    let full = self.inner.core.borrow().disk_full;
                    self.remove_gone(full || !policy.lacks_space(standing.disk_free)).await?;
                }
                Step::Stays(stays) => {
                    // What would only have been used again is not missed.
                    let is_due = policy.reason(&Standing { needed: 0, ..standing }).is_some();
                    self.inner.core.borrow_mut().stats.retention_blocked =
                        is_due && matches!(stays, Stays::Unconsumed(_));
                    done.stays = Some(stays);
                    return Ok(done);
                }
            }
        }
    }

    /// How the log stands.
    async fn standing(&self, policy: &RetentionPolicy) -> Result<Standing, RetainError> {
        let disk_free = if policy.disk_free_min > 0 {
            // A file system that cannot tell is not taken for a full one.
            self.inner.io.free_bytes(&self.inner.dir).await.ok()
        } else {
            None
        };
        let oldest_ms = if policy.age_ms.is_some() { self.oldest_ms().await? } else { None };
        let now_ms = self.look_at_clocks(policy.age_ms);
        let core = self.inner.core.borrow();
        Ok(Standing {
            segments: core.segments.len(),
            bytes: core.stored_bytes(),
            needed: core.bytes_needed(),
            oldest_ms,
            now_ms,
            disk_free,
            disk_full: core.disk_full,
        })
    }

    /// When the last message of the oldest closed segment was appended; `None` when that cannot be told.
    async fn oldest_ms(&self) -> Result<Option<i64>, RetainError> {
        let found = self.inner.core.borrow().segments.oldest_closed().map(|(oldest, next)| (*oldest, *next));
        let Some((oldest, next)) = found else { return Ok(None) };
        if oldest.last_ms.is_some() {
            return Ok(oldest.last_ms);
        }
        // Times never go back in a log: the first flush of the next segment has one that is as late.
        let position = next.header.first_flush();
        let path = self.inner.dir.join(segment_name(next.header.position));
        let failed = |source| RetainError::Read(ReadError::Io { path: path.clone(), position, source });
        let file = self.file_of(&next).await.map_err(failed)?;
        let block = file.read_at(ALIGN as u64, ALIGN).await.map_err(failed)?;
        let bytes: &[u8] = block.as_ref();
        let header = FlushHeader::decode(bytes.get(..FLUSH_HEADER_LEN).unwrap_or_default()).ok();
        let time = header
            .filter(|flush| flush.position == position && flush.salt == next.header.salt)
            .map(|flush| flush.time_ms);
        if let Some(segment) = self.inner.core.borrow_mut().segments.at_mut(oldest.header.position) {
            segment.last_ms = time;
        }
        Ok(time)
    }

    /// Retires the oldest segment, up to the point where only its files are left.
    async fn retire(
        &self,
        segment: &Segment,
        reason: RetireReason,
        policy: &RetentionPolicy,
        advisor: &dyn RetentionAdvisor,
    ) -> Result<Step, RetainError> {
        if !segment.indexed {
            return Ok(Step::Stays(Stays::NotIndexed));
        }
        let leaving = self.leaving(segment).await?;
        let forbids = |backlog: &Backlog| backlog.first.filter(|_| !policy.delete_unconsumed);
        if let Some(queue) = forbids(&self.backlog(&leaving, advisor).await) {
            return Ok(Step::Stays(Stays::Unconsumed(queue)));
        }
        if let Some(stays) = self.two_snapshots_after(segment.header.end()).await {
            return Ok(Step::Stays(stays));
        }
        advisor.carry_forward(&leaving).await?;
        // A group may have come, or gone back, meanwhile.
        let backlog = self.backlog(&leaving, advisor).await;
        if let Some(queue) = forbids(&backlog) {
            return Ok(Step::Stays(Stays::Unconsumed(queue)));
        }
        self.tell_lost(segment, &backlog);
        for some in leaving.chunks(QUEUES_PER_TURN) {
            let starts: Vec<_> = {
                let core = self.inner.core.borrow();
                // One that was removed meanwhile must not be spoken of again.
                let known = some.iter().filter(|one| core.queues.get(one.queue).is_some());
                known.map(|one| Fact::Start(one.queue, one.before)).collect()
            };
            self.store(&starts).await?;
        }
        if segment.header.has_gaps {
            self.begin_past_gaps().await?;
        }
        self.store(&[Fact::Kept(segment.header.end())]).await?;
        self.until_synced().await?;
        let mut core = self.inner.core.borrow_mut();
        if let Some(gone) = core.segments.retire() {
            core.retiring.gone.push_back(gone);
        }
        core.stats.segments_retired += 1;
        core.stats.retired_bytes += segment.stored_bytes;
        tracing::info!(log = %core.log, position = %segment.header.position, bytes = segment.header.bytes, ?reason,
            "segment retired");
        Ok(Step::Retired)
    }

    async fn store(&self, facts: &[Fact]) -> Result<(), AppendError> {
        let wall_ms = self.inner.io.wall_ms();
        let ticket = self.inner.core.borrow_mut().append_facts(facts, wall_ms)?;
        self.inner.work.notify();
        self.wait_durable(ticket).await
    }

    /// The segment in which a repair gave something up is about to go, and with it the knowledge that offsets may be
    /// missing: queues begin at something that is stored, or at their end.
    async fn begin_past_gaps(&self) -> Result<(), RetainError> {
        let queues = self.inner.core.borrow().queues.keys();
        for some in queues.chunks(QUEUES_PER_TURN) {
            let mut starts = Vec::new();
            for queue in some {
                let bounds = self.inner.core.borrow().queues.get(*queue).map(super::queue::Queue::bounds);
                let Some(bounds) = bounds.filter(|bounds| bounds.start < bounds.durable_end) else {
                    continue;
                };
                let next = match self.next_stored(*queue, bounds.start).await {
                    Ok(next) => next.unwrap_or(bounds.durable_end),
                    // Whoever reads it meets the same; that must not keep retention from going on.
                    Err(error) => {
                        tracing::warn!(%queue, start = %bounds.start, %error, "where the queue goes on behind a gap cannot be found out");
                        continue;
                    }
                };
                if next > bounds.start {
                    starts.push(Fact::Start(*queue, next.min(bounds.durable_end)));
                }
            }
            self.store(&starts).await?;
            self.inner.io.yield_now().await;
        }
        Ok(())
    }

    /// The queues that have records in a segment which are not gone yet, and where they begin without it.
    async fn leaving(&self, segment: &Segment) -> Result<Vec<Leaving>, ReadError> {
        let add = |leaving: &mut Vec<Leaving>, entry: &Entry| {
            let (queue, before) = (entry.queue, entry.run.next_offset());
            match leaving.last_mut().filter(|last| last.queue == queue) {
                Some(last) => last.before = last.before.max(before),
                None => leaving.push(Leaving { queue, before }),
            }
        };
        let mut leaving = self.fold_index(segment, add).await?;
        let core = self.inner.core.borrow();
        leaving.retain(|one| core.queues.get(one.queue).is_some_and(|known| known.start < one.before));
        Ok(leaving)
    }

    /// What groups have still to consume of what leaves.
    async fn backlog(&self, leaving: &[Leaving], advisor: &dyn RetentionAdvisor) -> Backlog {
        let mut backlog = Backlog::default();
        for some in leaving.chunks(QUEUES_PER_TURN) {
            for one in some {
                let start = self.inner.core.borrow().queues.get(one.queue).map(|known| known.start);
                let (Some(start), Some(first)) = (start, advisor.first_unconsumed(one.queue)) else {
                    continue;
                };
                if first < one.before {
                    backlog.messages += one.before.0 - first.max(start).0.min(one.before.0);
                    backlog.queues += 1;
                    backlog.first.get_or_insert(one.queue);
                }
            }
            self.inner.io.yield_now().await;
        }
        backlog
    }

    fn tell_lost(&self, segment: &Segment, backlog: &Backlog) {
        let now_ms = u64::try_from(self.inner.io.uptime().as_millis()).unwrap_or(u64::MAX);
        let mut core = self.inner.core.borrow_mut();
        core.stats.unconsumed_deleted += backlog.messages;
        if let Some(queue) = backlog.first
            && core.may_warn(now_ms)
        {
            tracing::warn!(log = %core.log, segment = %segment.header.position, messages = backlog.messages,
                queues = backlog.queues, first_queue = %queue,
                "messages are deleted that a group has not consumed");
        }
    }

    /// Warns once a segment of a backlog that will be deleted soon; whether it had to look for one.
    async fn warn_ahead(
        &self,
        segment: &Segment,
        advisor: &dyn RetentionAdvisor,
    ) -> Result<bool, RetainError> {
        let end = segment.header.end();
        if !segment.indexed || self.inner.core.borrow().retiring.warned_to >= end {
            return Ok(false);
        }
        let leaving = self.leaving(segment).await?;
        let backlog = self.backlog(&leaving, advisor).await;
        let mut core = self.inner.core.borrow_mut();
        core.retiring.warned_to = end;
        core.stats.unconsumed_near += backlog.messages;
        if let Some(queue) = backlog.first {
            tracing::warn!(log = %core.log, segment = %segment.header.position, messages = backlog.messages,
                queues = backlog.queues, first_queue = %queue,
                "messages that a group has not consumed are near the end of their retention");
        }
        Ok(true)
    }

    /// Sees to it that two complete snapshots begin at or after `end`; why there are none.
    async fn two_snapshots_after(&self, end: Position) -> Option<Stays> {
        loop {
            let before = {
                let mut core = self.inner.core.borrow_mut();
                if core.older_snapshot.is_some_and(|older| older >= end) {
                    return None;
                }
                if core.stops() {
                    return Some(Stays::Stopping);
                }
                core.snapshot.request_one();
                core.stats.snapshots
            };
            self.inner.work.notify();
            let ended = || {
                let core = self.inner.core.borrow();
                if core.stats.snapshots > before {
                    return Some(None);
                }
                if core.stops() {
                    return Some(Some(Stays::Stopping));
                }
                (core.disk_full && !core.slice_has_place()).then_some(Some(Stays::NoSnapshot))
            };
            if let Some(stays) = self.inner.work.until(ended).await {
                return Some(stays);
            }
        }
    }
}
