//! Opening a log: replaying it, deciding where it goes on. Never modifies a segment.
//!
//! 1. The newest segment with flushes is synced first, so that whatever is read from it is there after the next power
//!    cut as well: decisions about where the log ends do not change.
//! 2. Its last flush names the newest complete snapshot. Replay begins with the segment that the snapshot begins in.
//! 3. After CLEAN the log goes on in the same segment. Otherwise a new segment begins with OPEN, which names the end;
//!    the old rest is ignored for ever. A crash before OPEN is durable changes nothing, so it is harmless.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use equeue_record::MasterEpoch;

use super::core::{Next, Prepared, Stage};
use super::progress::Progress;
use super::replay::{Broken, Replay};
use super::segments::{Segment, Segments};
use super::survey::Survey;
use super::{CommitLog, Core, LogOptions, OpenError, Recovered};
use crate::format::{Chain, FlushKind, OpenBody, OpenCause, SegmentHeader};
use crate::io::Io;
use crate::segment::{EndKind, Ending};
use crate::types::{LogId, Position};

/// Where a log goes on.
struct Outcome {
    replay: Replay,
    chain: Chain,
    epoch: MasterEpoch,
    /// It goes on in the last segment with flushes.
    clean: bool,
    /// Segments with flushes; what follows is prepared.
    used: usize,
    first_replayed: usize,
    /// Where the flushes of each replayed segment end.
    ends: Vec<Position>,
    active_runs: usize,
    found: Recovered,
}

/// See [`CommitLog::open`].
pub(super) async fn open<I: Io>(
    io: I,
    dir: PathBuf,
    log: LogId,
    options: &LogOptions,
) -> Result<(CommitLog<I>, Recovered), OpenError> {
    let begun = io.uptime();
    let mut survey = Survey::begin(io.clone(), dir, log, options.in_range()).await?;
    let outcome = survey.replay().await?;
    let mut found = outcome.found.clone();
    let opened = survey.go_on(outcome).await?;
    opened.serve().await?;
    found.took = io.uptime().saturating_sub(begun);
    Ok((opened, found))
}

/// Whether the log in `dir` would open: everything that [`open`] looks at, up to where it would write. For who looks at a
/// log that nobody serves, with an `io` on which nothing changes.
///
/// # Errors
/// What opening would be refused with.
pub(crate) async fn check<I: Io>(io: I, dir: PathBuf, log: LogId) -> Result<(), OpenError> {
    let mut survey = Survey::begin(io, dir, log, LogOptions::default().in_range()).await?;
    survey.replay().await.map(|_| ())
}

impl<I: Io> Survey<I> {
    /// Reads the log back.
    async fn replay(&mut self) -> Result<Outcome, OpenError> {
        let used = self.used().await?;
        if let Some(active) = used.checked_sub(1).and_then(|last| self.segments.get(last))
            && !self.options.hazards.no_recovery_sync
        {
            self.sync(active.position).await?;
        }
        let outcome = match self.replay_newest(used).await? {
            Some(outcome) => outcome,
            None => self.replay_from_snapshot(used).await?,
        };
        match self.segments.first() {
            Some(oldest) if oldest.position > outcome.replay.kept => Err(self.damaged(
                outcome.replay.kept,
                outcome.replay.kept,
                format!("the segment is missing: the oldest one that is there begins at {}", oldest.position),
            )),
            _ => Ok(outcome),
        }
    }

    /// Replays the newest segment; `None` when that is not enough. Mostly it is, because a snapshot follows each roll, and
    /// then the segment is read once.
    async fn replay_newest(&mut self, used: usize) -> Result<Option<Outcome>, OpenError> {
        let newest = used.checked_sub(1).and_then(|last| Some((last, *self.segments.get(last)?)));
        let Some((last, segment)) = newest else { return Ok(None) };
        let endings = self.endings_from(last).await?;
        let begin = Some(segment.position).filter(|begin| *begin != Position(0));
        let outcome = self.replay_from((last, begin), used, &endings).await?;
        let is_enough = outcome.replay.newest_snapshot.is_some_and(|begin| begin >= segment.position);
        let is_whole = outcome.replay.broken.is_none();
        Ok((is_whole && (is_enough || segment.position == Position(0))).then_some(outcome))
    }

    /// Replays from the newest complete snapshot on.
    async fn replay_from_snapshot(&mut self, used: usize) -> Result<Outcome, OpenError> {
        let mut snapshot = self.newest_snapshot(used).await?;
        loop {
            let first = self.first_to_replay(snapshot)?;
            let endings = self.endings_from(first).await?;
            let outcome = self.replay_from((first, snapshot), used, &endings).await?;
            // Part of the snapshot was lost, and given up by a repair: an older one is begun with.
            let Some(Broken { older }) = outcome.replay.broken else { return Ok(outcome) };
            if older >= snapshot {
                let position = snapshot.unwrap_or_default();
                let reason = "a repair gave up part of this snapshot, and there is no older one";
                return Err(self.damaged(position, position, reason.to_owned()));
            }
            snapshot = older;
        }
    }

    /// The newest complete snapshot that the newest flushes name.
    async fn newest_snapshot(&mut self, used: usize) -> Result<Option<Position>, OpenError> {
        for index in (0..used).rev() {
            let ending = self.endings_from(index).await?.first().copied().unwrap_or(Ending::Open);
            let Some(segment) = self.segments.get(index).copied() else { break };
            let mut snapshot = None;
            let mut progress = Progress::new(self.io.uptime(), segment.position, segment.end());
            let from = Chain::unlinked(segment.first_flush());
            let end = self
                .scan(&segment, from, ending, |header, _| {
                    snapshot = snapshot.max(header.snapshot);
                    self.tell(&mut progress, header.next(), "looking for the newest snapshot");
                    Ok(())
                })
                .await?;
            if snapshot.is_some() {
                return Ok(snapshot);
            }
            if end.flushes > 0 {
                break;
            }
        }
        Ok(None)
    }

    /// The segment that the snapshot begins in.
    fn first_to_replay(&self, snapshot: Option<Position>) -> Result<usize, OpenError> {
        if let Some(snapshot) = snapshot {
            let after = self.segments.partition_point(|segment| segment.position <= snapshot);
            let reason = "the segment with the newest snapshot is missing";
            return after.checked_sub(1).ok_or_else(|| self.damaged(snapshot, snapshot, reason.to_owned()));
        }
        match self.segments.first() {
            Some(first) if first.position != Position(0) => Err(self.damaged(
                first.position,
                first.position,
                "there is no complete snapshot, and the beginning of the log is not there".to_owned(),
            )),
            _ => Ok(0),
        }
    }

    async fn replay_from(
        &self,
        (first, snapshot): (usize, Option<Position>),
        used: usize,
        endings: &[Ending],
    ) -> Result<Outcome, OpenError> {
        let mut replay = Replay::new(&self.options, snapshot);
        let from = self.segments.get(first).map_or(Position(0), SegmentHeader::first_flush);
        let is_whole = self.segments.get(first).is_none_or(|segment| segment.position == Position(0));
        let mut chain = Chain { position: from, link: is_whole.then_some(Chain::START) };
        let (mut flushes, mut torn_bytes, mut epoch) = (0, 0, MasterEpoch(0));
        let mut ends = Vec::new();
        let mut clean = used == 0;
        let last = used.checked_sub(1).and_then(|last| self.segments.get(last));
        let mut progress = Progress::new(self.io.uptime(), from, last.map_or(from, SegmentHeader::end));
        let replayed = self.segments.iter().enumerate().take(used).skip(first);
        for ((index, segment), ending) in replayed.zip(endings) {
            let begin = Chain { position: segment.first_flush(), link: chain.link };
            replay.segment_runs = 0;
            let end = self
                .scan(segment, begin, *ending, |header, body| {
                    epoch = epoch.max(header.epoch);
                    self.tell(&mut progress, header.next(), "reading the log back");
                    replay.flush(header, body)
                })
                .await?;
            self.check_sealed(&end, index)?;
            flushes += end.flushes;
            if let EndKind::Tail { torn_bytes: torn } = end.kind {
                torn_bytes += torn;
            }
            clean = end.kind == (EndKind::Tail { torn_bytes: 0 })
                && end.last.is_some_and(|last| last.kind == FlushKind::Clean);
            ends.push(end.chain.position);
            chain = end.chain;
        }
        let took = Duration::ZERO;
        let (gaps, offsets_missing) =
            (replay.gaps_met, replay.offsets.holes.iter().map(|(_, from, to)| to.0 - from.0).sum());
        let found =
            Recovered { clean, from, end: chain.position, flushes, torn_bytes, gaps, offsets_missing, took };
        let (active_runs, clean) = (replay.segment_runs, clean && used > 0);
        Ok(Outcome { replay, chain, epoch, clean, used, first_replayed: first, ends, active_runs, found })
    }

    /// Everything before `position` is read: tells so every now and then.
    fn tell(&self, progress: &mut Progress, position: Position, what: &str) {
        if let Some((bytes, of)) = progress.at(self.io.uptime(), position) {
            tracing::info!(log = %self.log, %position, bytes, of, "{what}");
        }
    }

    /// Makes the log go on where it ended.
    async fn go_on(self, outcome: Outcome) -> Result<CommitLog<I>, OpenError> {
        let Outcome { replay, chain, epoch, clean, used, first_replayed, ends, active_runs, found } = outcome;
        let mut segments = Segments::default();
        let mut gone = VecDeque::new();
        for (index, header) in self.segments.iter().copied().enumerate().take(used) {
            let replayed = index.checked_sub(first_replayed);
            let end = replayed.and_then(|index| ends.get(index)).copied().unwrap_or(header.end());
            let stored = self.stored.get(index).copied().unwrap_or(header.bytes);
            let (last_ms, stored_bytes) = (None, stored.min(header.bytes));
            let segment = Segment { header, end, indexed: replayed.is_none(), last_ms, stored_bytes };
            if header.end() <= replay.kept {
                // The last life ended before it had removed them.
                gone.push_back(segment);
            } else {
                segments.push(segment);
            }
        }
        let mut active = None;
        if let Some(last) = segments.last().filter(|_| clean) {
            active = Some((last.header, Rc::new(self.open(last.header.position).await?)));
        }
        let mut next = Next::Preparing { promised: false };
        if let Some(header) = self.segments.get(used).copied() {
            let file = Rc::new(self.open(header.position).await?);
            next = Next::Ready(Prepared { header, file, late: false });
        }
        let cause = if used == 0 { OpenCause::New } else { OpenCause::Crash };
        let open_body =
            OpenBody { previous_end: chain.position, epoch: MasterEpoch(epoch.0.saturating_add(1)), cause };
        let Self { io, dir, log, options, ballast, .. } = self;
        let mut core = Core::new(&dir, log, options, replay).going_on(
            (chain, epoch),
            (segments, active, next),
            (!clean).then_some(open_body),
            (active_runs, found.torn_bytes),
        );
        core.retiring.gone = gone;
        core.ballast = ballast;
        Ok(CommitLog::assemble(io, dir, core))
    }
}

impl<I: Io> Core<I> {
    /// The OPEN of this life, if there must be one, is durable.
    pub(super) fn is_open(&self) -> bool {
        let opening = self.in_flight.iter().any(|flight| flight.header.kind == FlushKind::Open);
        self.stage != Stage::Opening && self.open_body.is_none() && !opening
    }
}

impl<I: Io> CommitLog<I> {
    /// Starts the tasks; ends when the log can serve.
    async fn serve(&self) -> Result<(), OpenError> {
        let must_prepare = matches!(self.inner.core.borrow().next, Next::Preparing { .. });
        if must_prepare {
            self.inner.io.spawn(self.clone().prepare_next());
        }
        self.inner.io.spawn(self.clone().run());
        self.inner.io.spawn(self.clone().scrub());
        let ready = || {
            let core = self.inner.core.borrow();
            if let Some(reason) = &core.poison {
                return Some(Err(OpenError::Io {
                    path: self.inner.dir.clone(),
                    action: "opening the log anew",
                    source: io::Error::other(reason.to_string()),
                }));
            }
            // Messages are not taken before it is known whether there is space behind this segment.
            let is_known = core.next.is_promised() || core.disk_full;
            let has_none = core.active.is_none() && core.disk_full;
            (core.is_open() && is_known || has_none).then_some(Ok(()))
        };
        self.inner.work.until(ready).await?;
        self.begin_indexing();
        // On a full disk OPEN is not written yet: the old end may still be asked for.
        let is_open = self.inner.core.borrow().is_open();
        if is_open {
            self.inner.io.spawn(self.clone().restore_ballast());
        }
        Ok(())
    }
}
