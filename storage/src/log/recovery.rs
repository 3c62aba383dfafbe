//! Opening a log: finding its segments, replaying them, deciding where it goes on. Never modifies a segment.
//!
//! 1. The newest segment with flushes is synced first, so that whatever is read from it is there after the next power
//!    cut as well: decisions about where the log ends do not change.
//! 2. Its last flush names the newest complete snapshot. Replay begins with the segment that the snapshot begins in.
//! 3. After CLEAN the log goes on in the same segment. Otherwise a new segment begins with OPEN, which names the end;
//!    the old rest is ignored for ever. A crash before OPEN is durable changes nothing, so it is harmless.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use equeue_record::MasterEpoch;

use super::core::{Next, Prepared, Stage};
use super::replay::Replay;
use super::segments::{Segment, Segments};
use super::{CommitLog, Core, LogOptions, OpenError, Recovered};
use crate::format::{
    Chain, FileName, FlushHeader, FlushKind, FormatError, OpenBody, OpenCause, SegmentHeader, segment_name,
};
use crate::io::{Access, Io, IoFile};
use crate::segment::{
    End, EndKind, Ending, FirstFlush, ScanError, ScanRules, endings, find_flush, read_header,
    remove_leftovers, scan_segment,
};
use crate::types::{LogId, Position};

/// A segment file as found.
struct Found<I: Io> {
    header: SegmentHeader,
    file: I::File,
}

/// What the files say, before anything is decided.
struct Files<I: Io> {
    io: I,
    dir: PathBuf,
    log: LogId,
    options: LogOptions,
    /// Oldest first, each beginning where the one before has its last byte.
    segments: Vec<Found<I>>,
}

/// Where a log goes on.
struct Outcome {
    replay: Replay,
    chain: Chain,
    epoch: MasterEpoch,
    clean: bool,
    /// Segments with flushes; what follows is prepared.
    used: usize,
    /// Where the flushes of each of them end, as far as known: else the end of the segment.
    ends: Vec<Position>,
    first_replayed: usize,
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
    let begun = Instant::now();
    let mut files = Files { io, dir, log, options: options.in_range(), segments: Vec::new() };
    files.find().await?;
    let mut outcome = files.replay().await?;
    outcome.found.took = begun.elapsed();
    let found = outcome.found.clone();
    let opened = files.begin(outcome).await?;
    opened.serve().await?;
    tracing::info!(
        %log, clean = found.clean, from = %found.from, end = %found.end, flushes = found.flushes,
        torn_bytes = found.torn_bytes, took_ms = found.took.as_millis(), "log opened"
    );
    Ok((opened, found))
}

impl<I: Io> Files<I> {
    fn path(&self, position: Position) -> PathBuf {
        self.dir.join(segment_name(position))
    }

    fn damaged(&self, position: Position, reason: String) -> OpenError {
        let segment = self.segments.iter().rev().find(|found| found.header.position <= position);
        let path = segment.map_or_else(|| self.dir.clone(), |found| self.path(found.header.position));
        let command = format!("equeue log verify {}", self.dir.display());
        OpenError::Damaged { path, position, reason, command }
    }

    fn scan_error(&self, segment: Position, error: ScanError) -> OpenError {
        let path = self.path(segment);
        let newer = |found: u16, known: u16| OpenError::NewerFormat {
            path: path.clone(),
            found: u32::from(found),
            known: u32::from(known),
        };
        match error {
            ScanError::Io { source, .. } => OpenError::Io { path, action: "reading", source },
            ScanError::Header(FormatError::NewerVersion { found, known, .. })
            | ScanError::Damaged {
                damage: crate::segment::Damage::Impossible(FormatError::NewerVersion { found, known, .. }),
                ..
            } => newer(found, known),
            ScanError::Header(error) => self.damaged_in(segment, segment, error.to_string()),
            ScanError::Damaged { position, damage } => self.damaged_in(segment, position, damage.to_string()),
        }
    }

    fn damaged_in(&self, segment: Position, position: Position, reason: String) -> OpenError {
        let command = format!("equeue log verify {}", self.dir.display());
        OpenError::Damaged { path: self.path(segment), position, reason, command }
    }

    /// Finds the segments and checks that they follow one another.
    async fn find(&mut self) -> Result<(), OpenError> {
        let Self { io, dir, .. } = self;
        io.create_dir(dir).await.map_err(failed(dir, "creating the folder"))?;
        if let Some(parent) = dir.parent() {
            io.sync_dir(parent).await.map_err(failed(parent, "syncing the folder"))?;
        }
        remove_leftovers(io, dir).await.map_err(|error| OpenError::Io {
            path: error.path,
            action: error.action,
            source: error.source,
        })?;
        let entries = io.list(dir).await.map_err(failed(dir, "listing the folder"))?;
        let mut names: Vec<_> = entries
            .iter()
            .filter_map(|entry| match FileName::parse(&entry.name) {
                Some(FileName::Segment(position)) => Some((position, entry.bytes)),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        for (position, bytes) in names {
            self.add(position, bytes).await?;
        }
        Ok(())
    }

    async fn add(&mut self, position: Position, bytes: u64) -> Result<(), OpenError> {
        let path = self.path(position);
        let file = self.io.open(&path, Access::ReadWrite).await.map_err(failed(&path, "opening"))?;
        let header = match read_header::<I>(&file).await {
            Ok(header) => header,
            Err(error) => return Err(self.scan_error(position, error)),
        };
        if header.position != position || header.log != self.log {
            let reason = format!("its header says: log {}, position {}", header.log, header.position);
            return Err(self.damaged_in(position, position, reason));
        }
        if header.bytes != bytes {
            let reason = format!("the file has {bytes} bytes, its header says {}", header.bytes);
            return Err(self.damaged_in(position, position, reason));
        }
        if let Some(last) = self.segments.last()
            && last.header.end() != position
        {
            let reason = format!("the segment at {} is missing", last.header.end());
            return Err(self.damaged_in(last.header.position, last.header.end(), reason));
        }
        self.segments.push(Found { header, file });
        Ok(())
    }

    /// Reads the log back.
    async fn replay(&self) -> Result<Outcome, OpenError> {
        let mut firsts = Vec::with_capacity(self.segments.len());
        for found in &self.segments {
            let first = find_flush::<I>(&found.file, &found.header).await;
            firsts
                .push((found.header, first.map_err(|error| self.scan_error(found.header.position, error))?));
        }
        let used =
            firsts.iter().rposition(|(_, first)| *first != FirstFlush::Nothing).map_or(0, |last| last + 1);
        if let Some(active) = used.checked_sub(1).and_then(|last| self.segments.get(last))
            && !self.options.hazards.no_recovery_sync
        {
            let path = self.path(active.header.position);
            active.file.sync().await.map_err(failed(&path, "syncing"))?;
        }
        let endings = endings(&firsts);
        let first = self.first_to_replay(used, &endings).await?;
        self.replay_from(first, used, &endings).await
    }

    /// The segment that the newest complete snapshot begins in.
    async fn first_to_replay(&self, used: usize, endings: &[Ending]) -> Result<usize, OpenError> {
        for (found, ending) in self.segments.iter().zip(endings).take(used).rev() {
            let mut snapshot = None;
            let from = Chain::unlinked(found.header.first_flush());
            let mut any = false;
            self.scan(found, from, *ending, |header, _| {
                any = true;
                snapshot = snapshot.max(header.snapshot);
                Ok(())
            })
            .await?;
            if let Some(snapshot) = snapshot {
                let after = self.segments.partition_point(|found| found.header.position <= snapshot);
                return after.checked_sub(1).ok_or_else(|| {
                    self.damaged(snapshot, "the segment with the snapshot is missing".to_owned())
                });
            }
            if any {
                break;
            }
        }
        match self.segments.first() {
            Some(first) if first.header.position != Position(0) => Err(self.damaged(
                first.header.position,
                "there is no complete snapshot, and the beginning of the log is not there".to_owned(),
            )),
            _ => Ok(0),
        }
    }

    async fn replay_from(&self, first: usize, used: usize, endings: &[Ending]) -> Result<Outcome, OpenError> {
        let mut replay = Replay::new(&self.options);
        // What is not replayed ends with SEAL, or where a later OPEN says.
        let before = self.segments.iter().zip(endings).take(first);
        let mut ends: Vec<_> = before
            .map(|(found, ending)| match ending {
                Ending::At(end) => *end,
                Ending::Open | Ending::Sealed => found.header.end(),
            })
            .collect();
        let mut last: Option<FlushHeader> = None;
        let mut epoch = MasterEpoch(0);
        let from = self.segments.get(first).map_or(Position(0), |found| found.header.first_flush());
        let is_whole = self.segments.get(first).is_none_or(|found| found.header.position == Position(0));
        let mut chain = Chain { position: from, link: is_whole.then_some(Chain::START) };
        let mut found = Recovered {
            clean: used == 0,
            from,
            end: Position(0),
            flushes: 0,
            torn_bytes: 0,
            took: std::time::Duration::ZERO,
        };
        let mut kind = None;
        for (index, segment) in self.segments.iter().enumerate().take(used).skip(first) {
            let begin = Chain { position: segment.header.first_flush(), link: chain.link };
            replay.segment_runs = 0;
            let ending = endings.get(index).copied().unwrap_or(Ending::Open);
            let end = self
                .scan(segment, begin, ending, |header, body| {
                    epoch = epoch.max(header.epoch);
                    replay.flush(header, body)
                })
                .await?;
            self.check_sealed(&end, index)?;
            found.flushes += end.flushes;
            if let EndKind::Tail { torn_bytes } = end.kind {
                found.torn_bytes += torn_bytes;
            }
            ends.push(end.chain.position);
            last = end.last;
            chain = end.chain;
            kind = Some(end.kind);
        }
        let is_tail = matches!(kind, Some(EndKind::Tail { torn_bytes: 0 }));
        found.clean = used == 0 || is_tail && last.is_some_and(|last| last.kind == FlushKind::Clean);
        found.end = chain.position;
        let active_runs = replay.segment_runs;
        let clean = found.clean && used > 0;
        Ok(Outcome { replay, chain, epoch, clean, used, ends, first_replayed: first, active_runs, found })
    }

    async fn scan(
        &self,
        found: &Found<I>,
        from: Chain,
        ending: Ending,
        each: impl FnMut(&FlushHeader, &[u8]) -> Result<(), crate::segment::BodyError>,
    ) -> Result<End, OpenError> {
        let hazards = self.options.hazards;
        let rules = ScanRules { evidence: !hazards.no_evidence, body_crc: !hazards.no_crc };
        scan_segment(&self.io, &found.file, &found.header, from, ending, rules, each)
            .await
            .map_err(|error| self.scan_error(found.header.position, error))
    }

    /// SEAL is written when the next segment is there, so that segment cannot be missing.
    fn check_sealed(&self, end: &End, index: usize) -> Result<(), OpenError> {
        let EndKind::Sealed { next, salt } = end.kind else { return Ok(()) };
        match self.segments.get(index + 1) {
            Some(found) if found.header.position == next && found.header.salt == salt => Ok(()),
            Some(_) => Err(self.damaged(next, "it is not the segment that the one before names".to_owned())),
            None => Err(self.damaged(end.chain.position, format!("the next segment, at {next}, is missing"))),
        }
    }

    /// Makes the log go on where it ended.
    async fn begin(self, outcome: Outcome) -> Result<CommitLog<I>, OpenError> {
        let Outcome { replay, chain, epoch, clean, used, ends, first_replayed, active_runs, found } = outcome;
        let cause = if used == 0 { OpenCause::New } else { OpenCause::Crash };
        let open_epoch = MasterEpoch(epoch.0.saturating_add(1));
        let Self { io, dir, log, options, segments: files } = self;
        let mut segments = Segments::default();
        let mut active = None;
        let mut next = Next::Preparing;
        for (index, Found { header, file }) in files.into_iter().enumerate() {
            if index >= used {
                match next {
                    Next::Preparing if index == used => {
                        next = Next::Ready(Prepared { header, file: Rc::new(file), late: false });
                    }
                    _ => close(&dir, file).await?,
                }
                continue;
            }
            let end = ends.get(index).copied().unwrap_or(header.end());
            segments.push(Segment { header, end, indexed: index < first_replayed });
            if clean && index + 1 == used {
                active = Some((header, Rc::new(file)));
            } else {
                close(&dir, file).await?;
            }
        }
        let open_body = OpenBody { previous_end: chain.position, epoch: open_epoch, cause };
        let core = Core::new(&dir, log, options, replay).going_on(
            (chain, epoch),
            (segments, active, next),
            (!clean).then_some(open_body),
            (active_runs, found.torn_bytes),
        );
        Ok(CommitLog::assemble(io, dir, core))
    }
}

async fn close<F: IoFile>(path: &Path, file: F) -> Result<(), OpenError> {
    file.close().await.map_err(failed(path, "closing a segment"))
}

impl<I: Io> CommitLog<I> {
    /// Starts the tasks; ends when the log can serve.
    async fn serve(&self) -> Result<(), OpenError> {
        let must_prepare = matches!(self.inner.core.borrow().next, Next::Preparing);
        if must_prepare {
            self.inner.io.spawn(self.clone().prepare_next());
        }
        self.inner.io.spawn(self.clone().run());
        let ready = || {
            let core = self.inner.core.borrow();
            if let Some(reason) = &core.poison {
                return Some(Err(OpenError::Io {
                    path: self.inner.dir.clone(),
                    action: "opening the log anew",
                    source: io::Error::other(reason.to_string()),
                }));
            }
            let is_open =
                core.stage == Stage::Running && core.open_body.is_none() && core.in_flight.is_empty();
            (is_open || core.disk_full).then_some(Ok(()))
        };
        self.inner.work.until(ready).await?;
        self.begin_indexing();
        Ok(())
    }
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { path: path.to_owned(), action, source }
}
