//! From one segment to the next: preparing ahead, the switch, the index of what was sealed.
//!
//! A background task keeps one segment prepared, at a pace that follows the log: zeros written in bursts would stand in
//! the way of flushes, zeros written too late would make the log wait. When the log needs the segment long before it is
//! zeroed to its end, the task hands over what it has; such segments are counted. When the space is not there, the last prepared
//! segment is a reserve: once it is the active one, messages are refused and the space is asked for every second.

use std::rc::Rc;
use std::time::Duration;

use super::CommitLog;
use super::core::{Closing, Core, Next, Prepared, RUNS_MAX, Stage};
use super::segments::Segment;
use crate::format::{BLOCK_BYTES, OpenCause, Salt, SegmentHeader, prep_name, segment_name};
use crate::io::{Access, Io, IoFile};
use crate::segment::{Fill, Pace, Preparation, PrepareError, prepare_ahead, reuse_segment};
use crate::types::Position;

/// How long to wait before a segment that could not be prepared is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The part of a segment that is worth giving back when it is not used.
const WORTH_GIVING_BACK: u64 = 8;

/// Zeros that the log waits for rather than go on in a segment without them: about 50 ms, where flushes into blocks
/// that were never written take three times as long as others for the rest of the segment.
const WORTH_WAITING_BYTES: u64 = 64 << 20;

impl<I: Io> Core<I> {
    /// Size of the segment after the active one.
    pub(super) fn next_bytes(&self) -> u64 {
        match &self.active {
            // A crash uses up a segment: it must not double the next one too.
            Some((header, _)) if self.after_crash => header.bytes.min(self.options.segment_bytes_max),
            Some((header, _)) => header.bytes.saturating_mul(2).min(self.options.segment_bytes_max),
            None => self.options.segment_bytes_first,
        }
    }

    /// Size of the next segment to be made: the one after the active one, or after that when that is there.
    pub(super) fn bytes_after_next(&self) -> u64 {
        match &self.next {
            Next::Ready(prepared) => {
                prepared.header.bytes.saturating_mul(2).min(self.options.segment_bytes_max)
            }
            Next::Preparing { .. } => self.next_bytes().saturating_mul(2).min(self.options.segment_bytes_max),
        }
    }

    /// Whether a retired segment can be used again: it is as large as the next one must be, its blocks are all there,
    /// and there is no other.
    pub(super) fn wants_spare(&self, retired: &Segment) -> bool {
        let bytes = retired.header.bytes;
        let fits = bytes >= self.bytes_after_next() && bytes <= self.options.segment_bytes_max;
        self.spare.is_none() && fits && !retired.is_partial()
    }

    /// Bytes of the segment that is prepared, or is being made of new space.
    pub(super) fn next_bytes_stored(&self) -> u64 {
        match &self.next {
            Next::Ready(prepared) => prepared.header.bytes,
            Next::Preparing { .. } if self.disk_full || self.spare.is_some() => 0,
            Next::Preparing { .. } => self.next_bytes(),
        }
    }

    /// Position of the segment after the newest one.
    fn next_position(&self) -> Position {
        self.segments.last().map_or(Position(0), |last| last.header.end())
    }

    /// How urgently the next segment, of `bytes` bytes, is zeroed when `zeroed` bytes of it are.
    ///
    /// While the log writes, the zeros stay a little ahead of its own progress: less, and they are not ready in time;
    /// more, and they stand in the way of flushes for nothing. They hurry only when they fall behind.
    fn pace(&self, zeroed: u64, bytes: u64) -> Pace {
        if self.closing != Closing::No || self.poison.is_some() {
            return Pace::Abandon;
        }
        if self.waits_for_segment() {
            let is_soon = bytes - zeroed <= WORTH_WAITING_BYTES;
            return if is_soon { Pace::Hurry } else { Pace::Abandon };
        }
        let Some((active, _)) = &self.active else { return Pace::Hurry };
        if self.in_flight.is_empty() {
            return Pace::Ahead;
        }
        let used = self.position.0 - active.position.0;
        // A segment with too many runs is sealed early.
        let by_runs = active.bytes / RUNS_MAX as u64 * self.active_runs as u64;
        // In KiB: a segment has at most 16 GiB, so the product fits.
        let progress = (used.max(by_runs) >> 10) * bytes / (active.bytes >> 10);
        if zeroed > progress + progress / 4 + bytes / 64 {
            Pace::Wait
        } else if zeroed < progress {
            Pace::Hurry
        } else {
            Pace::Ahead
        }
    }

    /// The prepared segment becomes the active one; gives the file of the one before.
    fn activate(&mut self) -> Option<Rc<I::File>> {
        let Next::Ready(prepared) = std::mem::replace(&mut self.next, Next::Preparing { promised: false })
        else {
            return None;
        };
        let Prepared { header, file, late } = prepared;
        if let Some(last) = self.segments.last_mut()
            && self.active.is_some()
        {
            last.end = self.position;
            last.last_ms = Some(self.last_time_ms);
        }
        let (end, last_ms, stored_bytes) = (header.first_flush(), None, header.bytes);
        self.segments.push(Segment { header, end, indexed: false, last_ms, stored_bytes });
        let before = self.active.replace((header, file));
        self.position = header.first_flush();
        self.active_runs = 0;
        self.stage = Stage::Running;
        self.after_crash = self.open_body.as_ref().is_some_and(|open| open.cause == OpenCause::Crash);
        self.stats.segments += 1;
        self.stats.segments_late += u64::from(late);
        if self.segments.len() > 1 {
            self.snapshot.request();
        }
        before.map(|(_, file)| file)
    }
}

impl<I: Io> CommitLog<I> {
    /// Goes on in the prepared segment.
    pub(super) fn switch(&self) {
        let before = self.inner.core.borrow_mut().activate();
        if let Some(file) = before {
            self.close_later(file);
        }
        self.inner.io.spawn(self.clone().prepare_next());
        self.inner.rolled.notify();
        self.begin_indexing();
    }

    /// Prepares the next segment, however long it takes to get the space for it.
    pub(super) async fn prepare_next(self) {
        loop {
            let (position, bytes) = {
                let core = self.inner.core.borrow();
                let needs_none = core.pending.is_empty() && !core.waits_for_segment();
                if core.poison.is_some()
                    || self.inner.stopped.get()
                    || core.closing == Closing::Clean
                    || core.closing == Closing::Asked && needs_none
                {
                    return;
                }
                (core.next_position(), core.next_bytes())
            };
            let error = match self.prepare_at(position, bytes).await {
                Ok(prepared) => {
                    self.is_prepared(prepared);
                    return self.keep_ballast().await;
                }
                Err(error) => error,
            };
            // Half-made files would be in the way; most often this one is removed already.
            let _ = self.inner.io.remove(&self.inner.dir.join(prep_name(position.0))).await;
            if error.is_full()
                && let Some(prepared) = self.use_ballast(position).await
            {
                return self.is_prepared(prepared);
            }
            self.could_not_prepare(position, &error);
            // What this log can free itself, and then what others freed, is for the ballast first.
            self.clone().restore_ballast().await;
            self.inner.io.sleep(RETRY).await;
            self.clone().restore_ballast().await;
        }
    }

    /// The next segment is there.
    fn is_prepared(&self, prepared: Prepared<I>) {
        let mut core = self.inner.core.borrow_mut();
        core.next = Next::Ready(prepared);
        if std::mem::take(&mut core.disk_full) {
            tracing::info!(log = %core.log, "there is space for a segment again");
        }
        drop(core);
        self.inner.work.notify();
    }

    async fn prepare_at(&self, position: Position, bytes: u64) -> Result<Prepared<I>, PrepareError> {
        let _busy = self.busy();
        let (log, sync_dir) = {
            let core = self.inner.core.borrow();
            (core.log, !core.options.hazards.no_dir_sync)
        };
        let created_ms = self.inner.io.wall_ms();
        let header =
            SegmentHeader { log, position, bytes, salt: Salt::random(), created_ms, has_gaps: false };
        let spare = self.inner.core.borrow_mut().spare.take();
        if let Some(spare) = spare {
            if spare.bytes >= bytes
                && let Some(file) = self.reuse(&spare, SegmentHeader { bytes: spare.bytes, ..header }).await
            {
                return Ok(file);
            }
            // Of another size now, or not usable: its space may be what is wanted.
            let _ = self.inner.io.remove(&self.inner.dir.join(prep_name(spare.position.0))).await;
        }
        let pace = |zeroed| {
            // It is asked for as soon as the blocks are reserved.
            let mut core = self.inner.core.borrow_mut();
            if !core.next.is_promised() {
                core.next = Next::Preparing { promised: true };
                self.inner.work.notify();
            }
            core.pace(zeroed, bytes)
        };
        let how = Preparation { pace: &pace, sync_dir };
        let (file, content) = prepare_ahead(&self.inner.io, &self.inner.dir, &header, how).await?;
        Ok(Prepared { header, file: Rc::new(file), late: content == Fill::Reserved })
    }

    /// Makes the next segment out of a retired one.
    async fn reuse(&self, spare: &SegmentHeader, header: SegmentHeader) -> Option<Prepared<I>> {
        let sync_dir = !self.inner.core.borrow().options.hazards.no_dir_sync;
        let retired = self.inner.dir.join(prep_name(spare.position.0));
        match reuse_segment(&self.inner.io, &self.inner.dir, &retired, &header, sync_dir).await {
            Ok(file) => {
                self.inner.core.borrow_mut().stats.segments_recycled += 1;
                Some(Prepared { header, file: Rc::new(file), late: false })
            }
            Err(error) => {
                tracing::warn!(%error, cause = %error.source, "a retired segment could not be used again");
                None
            }
        }
    }

    fn could_not_prepare(&self, position: Position, error: &PrepareError) {
        let mut core = self.inner.core.borrow_mut();
        core.next = Next::Preparing { promised: false };
        core.stats.prepare_failures += 1;
        if !std::mem::replace(&mut core.disk_full, true) {
            tracing::error!(
                log = %core.log, %position, %error, cause = %error.source,
                "no segment could be prepared: producers are refused until it works, it is tried every second"
            );
        }
        drop(core);
        self.inner.work.notify();
    }

    /// Gives the blocks behind the end of segments that a crash ended back to the file system. OPEN is durable: whatever
    /// lies there is no part of the log for ever. A file system that cannot do it keeps them until retention.
    pub(super) async fn give_back_tails(&self) {
        let _busy = self.busy();
        loop {
            let ended = {
                let core = self.inner.core.borrow();
                let active = core.active.as_ref().map(|(header, _)| header.position);
                let ended = |segment: &&Segment| {
                    let tail = segment.header.end().0.saturating_sub(segment.end.0);
                    let is_worth_it = tail >= segment.header.bytes / WORTH_GIVING_BACK;
                    is_worth_it && !segment.is_partial() && Some(segment.header.position) != active
                };
                let may = active.is_some() && core.is_open() && core.closing == Closing::No;
                core.segments.iter().find(ended).copied().filter(|_| may)
            };
            let Some(segment) = ended else { return };
            // Before it is begun: a segment that is retired meanwhile must not be used again.
            let begin = segment.end.0.next_multiple_of(BLOCK_BYTES) - segment.header.position.0;
            if !self.set_stored_bytes(&segment, begin) {
                continue;
            }
            if let Err(error) = self.give_back_tail(&segment, begin).await {
                tracing::debug!(segment = %segment.header.position, %error, "the unused end of a segment stays");
                self.set_stored_bytes(&segment, segment.header.bytes);
                return;
            }
        }
    }

    /// Notes what a segment takes on disk; `false` when it is retired.
    fn set_stored_bytes(&self, segment: &Segment, stored_bytes: u64) -> bool {
        let mut core = self.inner.core.borrow_mut();
        let known = core.segments.at_mut(segment.header.position);
        known.map(|known| known.stored_bytes = stored_bytes).is_some()
    }

    async fn give_back_tail(&self, segment: &Segment, begin: u64) -> std::io::Result<()> {
        let path = self.inner.dir.join(segment_name(segment.header.position));
        let file = self.inner.io.open(&path, Access::ReadWrite).await?;
        let given = file.give_back(begin, segment.header.bytes - begin).await;
        let closed = file.close().await;
        given.and(closed)
    }

    /// Writes the index files of sealed segments that have none, oldest first, unless that is going on already.
    pub(super) fn begin_indexing(&self) {
        if !self.inner.indexing.replace(true) {
            self.inner.io.spawn(self.clone().index_sealed());
        }
    }

    /// Sleeps, then looks whether an IDLE flush is due; for as long as something is to be covered.
    pub(super) fn watch_idle(&self) {
        let mut core = self.inner.core.borrow_mut();
        if core.idle_watched || core.covered_to >= core.worth_covering || core.poison.is_some() {
            return;
        }
        core.idle_watched = true;
        let pause = Duration::from_millis(core.options.idle_ms);
        drop(core);
        let log = self.clone();
        self.inner.io.spawn(async move {
            let mut seen = 0;
            loop {
                log.inner.io.sleep(pause).await;
                let mut core = log.inner.core.borrow_mut();
                if core.poison.is_some()
                    || core.closing != Closing::No
                    || core.covered_to >= core.worth_covering
                {
                    core.idle_watched = false;
                    return;
                }
                if core.idle_is_due() && core.next_flush == seen {
                    core.idle_asked = true;
                    drop(core);
                    log.inner.work.notify();
                } else {
                    seen = core.next_flush;
                }
            }
        });
    }

    /// Closes the files of a log that stopped.
    pub(super) async fn close_files(&self) {
        let (active, next) = {
            let mut core = self.inner.core.borrow_mut();
            (core.active.take(), std::mem::replace(&mut core.next, Next::Preparing { promised: false }))
        };
        let mut files = self.inner.reads.take_files();
        files.extend(active.map(|(_, file)| file));
        if let Next::Ready(prepared) = next {
            files.push(prepared.file);
        }
        for file in files {
            if let Ok(file) = Rc::try_unwrap(file)
                && let Err(error) = file.close().await
            {
                tracing::warn!(%error, "closing a segment failed");
            }
        }
    }
}
