//! All that changes in an open log, and the decision what the flusher does next. No I/O, no waiting.
//!
//! Two cursors: *appended* (`next_ticket`, `Queue::end`) and *durable* (`durable`, `durable_end`, `Queue::durable_end`).
//! **Invariants**: every answer, wake-up, snapshot and read is made of durable state; at most `flush_depth` flushes are
//! written at a time, up to [`BUILT_AHEAD`] full ones wait for their turn, and all are acknowledged in the order of their
//! positions; nothing is written to a segment before the SEAL of the one before is durable; once poisoned, nothing
//! becomes durable any more.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use equeue_record::{MasterEpoch, Offset};

use super::ballast::Ballast;
use super::fact::Fact;
use super::flush::InFlight;
use super::pending::{self, Pending, Room};
use super::queue::Queues;
use super::replay::Replay;
use super::retire::Retiring;
use super::segments::Segments;
use super::snapshot::Snapshot;
use super::stats::LogStats;
use super::{AppendError, LogOptions, SyncPolicy};
use crate::cache::Cache;
use crate::format::{Chain, FlushKind, OpenBody, Salt, SegmentHeader};
use crate::io::Io;
use crate::producer_state::ProducerTable;
use crate::retention::ClockWatch;
use crate::state::StateTable;
use crate::types::{LogId, Position, Ticket};

/// A segment with so many runs is sealed early: they are in memory (32 bytes each) until its index is written.
pub(super) const RUNS_MAX: usize = 512 << 10;

/// Full flushes built while others are written. With two the device goes on while the executor hears of the last one.
const BUILT_AHEAD: usize = 2;

/// A segment ready to be written to.
pub(super) struct Prepared<I: Io> {
    pub(super) header: SegmentHeader,
    pub(super) file: Rc<I::File>,
    /// It was not zeroed to its end.
    pub(super) late: bool,
}

/// The segment after the active one.
pub(super) enum Next<I: Io> {
    /// A task works on it.
    Preparing {
        /// Its blocks are reserved: it does not fail for want of space any more.
        promised: bool,
    },
    /// There it is.
    Ready(Prepared<I>),
}

/// What the flusher is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Flushes go to the active segment.
    Running,
    /// SEAL is under way: nothing more goes to this segment, and nothing yet to the next.
    Sealing,
    /// There is no active segment; an OPEN must be the first flush of the next one.
    Opening,
}

/// How far an orderly stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    /// What waits is flushed, then CLEAN.
    Asked,
    /// CLEAN is under way.
    Clean,
}

/// What the flusher does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Wait,
    /// The first flush of a new life of the log; nothing else before it is durable.
    Open,
    /// A flush of what waits, with a body of at most so many bytes.
    Data { body_max: usize },
    /// A flush without a body that spans the rest of the window.
    Skip,
    /// The next slice of the snapshot.
    Snapshot { body_max: usize },
    /// A flush that only says that everything is durable.
    Idle,
    /// The last flush before an orderly stop.
    Clean,
    /// The last flush of this segment.
    Seal,
    /// The next segment becomes the active one.
    Switch,
    /// Nothing ever again.
    Stop,
}

/// A change of state that waits for its flush to become durable.
pub(super) struct PendingEntry {
    pub(super) ticket: Ticket,
    pub(super) change: Change,
}

/// What becomes true once it is durable.
pub(super) enum Change {
    /// An entry of the log's user.
    State { key: Bytes, value: Option<Bytes> },
    /// A fact of the log itself.
    Fact(Fact),
}

/// The segment that flushes go to.
pub(super) type Active<I> = (SegmentHeader, Rc<<I as Io>::File>);

/// See the file's own text.
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of one another")]
pub(super) struct Core<I: Io> {
    pub(super) log: LogId,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,

    pub(super) queues: Queues,
    pub(super) producers: ProducerTable,
    pub(super) state: StateTable,
    pub(super) state_next: Offset,
    /// Like `state_next`, of durable batches.
    pub(super) state_durable: Offset,
    pub(super) pending: Pending,
    pub(super) pending_entries: VecDeque<PendingEntry>,
    pub(super) next_ticket: Ticket,
    pub(super) durable: Ticket,
    pub(super) last_time_ms: i64,

    pub(super) segments: Segments,
    /// Durable: segments before it are retired.
    pub(super) kept: Position,
    pub(super) retiring: Retiring,
    /// A retired segment, renamed, to be used again.
    pub(super) spare: Option<SegmentHeader>,
    pub(super) clock: ClockWatch,
    pub(super) stage: Stage,
    pub(super) active: Option<Active<I>>,
    pub(super) next: Next<I>,
    /// Runs of the active segment.
    pub(super) active_runs: usize,
    /// The active segment begins with the OPEN after a crash.
    pub(super) after_crash: bool,
    /// Where the next flush begins.
    pub(super) position: Position,
    pub(super) link: u32,
    pub(super) epoch: MasterEpoch,
    /// Body of the OPEN that must come first.
    pub(super) open_body: Option<OpenBody>,
    pub(super) in_flight: VecDeque<InFlight<I>>,
    pub(super) next_flush: u64,
    /// Ticket of the newest append in a flush.
    pub(super) flushed: Ticket,
    /// End of the last acknowledged flush.
    pub(super) durable_end: Position,
    /// What is known to be synced; the same as `durable_end` unless messages are acknowledged before.
    pub(super) synced_end: Position,
    /// A pass of syncing is going on; one is to begin when its time has come.
    pub(super) syncing: bool,
    pub(super) sync_timer: bool,
    /// End of the last acknowledged flush that is worth an IDLE, and what the newest header says.
    pub(super) worth_covering: Position,
    pub(super) covered_to: Position,
    pub(super) idle_asked: bool,
    pub(super) idle_watched: bool,

    pub(super) snapshot: Snapshot,
    pub(super) snapshot_turn: bool,
    pub(super) newest_snapshot: Option<Position>,
    /// The complete snapshot before the newest.
    pub(super) older_snapshot: Option<Position>,

    pub(super) closing: Closing,
    pub(super) disk_full: bool,
    /// On a full disk: the last flush was a moment ago.
    pub(super) resting: bool,
    pub(super) ballast: Ballast,
    pub(super) poison: Option<Rc<str>>,

    pub(super) cache: Cache,
    pub(super) stats: LogStats,
}

impl<I: Io> Core<I> {
    /// What a replay found, standing at the beginning of an empty log.
    pub(super) fn new(dir: &Path, log: LogId, options: LogOptions, mut replay: Replay) -> Self {
        replay.settle();
        Self {
            log,
            dir: dir.to_owned(),
            cache: Cache::new(options.cache_bytes),
            queues: replay.queues,
            producers: replay.producers.replayed(options.producers_max),
            state: replay.state.finish(),
            state_next: replay.state_next,
            state_durable: replay.state_next,
            pending: Pending::default(),
            pending_entries: VecDeque::new(),
            next_ticket: Ticket(1),
            durable: Ticket(0),
            last_time_ms: replay.last_time_ms,
            segments: Segments::default(),
            kept: replay.kept,
            retiring: Retiring::default(),
            spare: None,
            clock: ClockWatch::after(Some(replay.last_time_ms).filter(|newest| *newest > 0)),
            stage: Stage::Running,
            active: None,
            next: Next::Preparing { promised: false },
            active_runs: 0,
            after_crash: false,
            position: Position(0),
            link: Chain::START,
            epoch: MasterEpoch(0),
            open_body: None,
            in_flight: VecDeque::new(),
            next_flush: 0,
            flushed: Ticket(0),
            durable_end: Position(0),
            synced_end: Position(0),
            syncing: false,
            sync_timer: false,
            worth_covering: Position(0),
            covered_to: Position(0),
            idle_asked: false,
            idle_watched: false,
            snapshot: Snapshot::default(),
            snapshot_turn: false,
            newest_snapshot: replay.newest_snapshot,
            older_snapshot: replay.older_snapshot,
            closing: Closing::No,
            disk_full: false,
            resting: false,
            ballast: Ballast::Missing,
            poison: None,
            stats: LogStats::default(),
            options,
        }
    }

    /// Stands where the log goes on.
    pub(super) fn going_on(
        mut self,
        (chain, epoch): (Chain, MasterEpoch),
        (segments, active, next): (Segments, Option<Active<I>>, Next<I>),
        open_body: Option<OpenBody>,
        (active_runs, torn_bytes): (usize, u64),
    ) -> Self {
        self.position = chain.position;
        self.durable_end = chain.position;
        self.synced_end = chain.position;
        self.worth_covering = chain.position;
        self.covered_to = chain.position;
        self.link = chain.link.unwrap_or(Chain::START);
        self.epoch = epoch;
        self.stage = if active.is_some() { Stage::Running } else { Stage::Opening };
        self.segments = segments;
        self.active = active;
        self.next = next;
        self.open_body = open_body;
        self.active_runs = active_runs;
        self.stats.torn_bytes = torn_bytes;
        self
    }

    /// Salt of the segment after the active one, which SEAL names.
    pub(super) fn next_salt(&self) -> Option<Salt> {
        match &self.next {
            Next::Ready(prepared) => Some(prepared.header.salt),
            Next::Preparing { .. } => None,
        }
    }

    /// What the flusher does next.
    pub(super) fn step(&self) -> Step {
        if self.poison.is_some() {
            return Step::Stop;
        }
        match self.stage {
            Stage::Sealing | Stage::Opening => self.step_between_segments(),
            Stage::Running if self.in_flight.len() >= self.options.flush_depth => self.step_ahead(),
            Stage::Running if self.waits_for_sync() => Step::Wait,
            Stage::Running => match self.step_running() {
                Step::Snapshot { .. } | Step::Seal | Step::Clean | Step::Open if self.must_be_alone() => {
                    Step::Wait
                }
                step if self.rests(step) => Step::Wait,
                step => step,
            },
        }
    }

    /// A flush that cannot become fuller is built ahead, where each flush syncs itself and all are in one file.
    fn step_ahead(&self) -> Step {
        let hazards = self.options.hazards;
        let may = self.in_flight.len() < self.options.flush_depth + BUILT_AHEAD
            && self.options.sync == SyncPolicy::Always
            && !hazards.no_sync
            && !hazards.no_roll_barrier
            && !self.disk_full;
        if !may {
            return Step::Wait;
        }
        match self.step_running() {
            Step::Data { body_max } if self.pending.bytes() >= body_max => Step::Data { body_max },
            _ => Step::Wait,
        }
    }

    fn step_between_segments(&self) -> Step {
        // The barrier: a crash must not find flushes of two segments with holes before them.
        let sealed = self.in_flight.is_empty() || self.options.hazards.no_roll_barrier;
        match self.next {
            Next::Ready(_) if sealed => Step::Switch,
            _ if self.closing == Closing::Asked && self.disk_full => Step::Stop,
            _ => Step::Wait,
        }
    }

    fn step_running(&self) -> Step {
        if self.closing == Closing::Clean {
            return if self.in_flight.is_empty() { Step::Stop } else { Step::Wait };
        }
        if self.open_body.is_some() {
            return Step::Open;
        }
        if self.in_flight.back().is_some_and(|flight| flight.header.kind == FlushKind::Open) {
            return Step::Wait;
        }
        if self.active_runs >= RUNS_MAX && matches!(self.next, Next::Ready(_)) {
            return Step::Seal;
        }
        let first_unit = self.pending.first_unit_bytes();
        // A slice without a place must not stand before what has one; on a full disk what was accepted goes first.
        let slice = self.snapshot.wants_slice()
            && self.closing == Closing::No
            && !(self.disk_full && first_unit.is_some())
            && (matches!(self.next, Next::Ready(_)) || self.slice_has_place());
        match first_unit {
            Some(bytes) if !(slice && self.snapshot_turn) => {
                self.place(bytes, self.options.flush_bytes_max, |body_max| Step::Data { body_max })
            }
            _ if slice => {
                let most = super::snapshot::SLICE_BYTES_MAX;
                self.place(most, most, |body_max| Step::Snapshot { body_max })
            }
            _ if self.closing == Closing::Asked => {
                if self.in_flight.is_empty() {
                    self.place(0, 0, |_| Step::Clean)
                } else {
                    Step::Wait
                }
            }
            _ if self.idle_asked && self.in_flight.is_empty() => self.place(0, 0, |_| Step::Idle),
            _ => Step::Wait,
        }
    }

    fn place(&self, first_unit: usize, flush_max: usize, here: impl FnOnce(usize) -> Step) -> Step {
        let Some((header, _)) = &self.active else { return Step::Wait };
        match pending::room(self.position, header.end(), first_unit, flush_max) {
            Room::Here { body_max } => here(body_max),
            Room::NextWindow => Step::Skip,
            // Its salt is in SEAL, so the next segment must be there.
            Room::NextSegment if matches!(self.next, Next::Ready(_)) => Step::Seal,
            // What is on its way is answered by what becomes of it.
            Room::NextSegment
                if self.closing == Closing::Asked && self.disk_full && self.in_flight.is_empty() =>
            {
                Step::Stop
            }
            Room::NextSegment => Step::Wait,
        }
    }

    pub(super) fn slice_has_place(&self) -> bool {
        let most = super::snapshot::SLICE_BYTES_MAX;
        self.active.as_ref().is_some_and(|(header, _)| {
            pending::room(self.position, header.end(), most, most) != Room::NextSegment
        })
    }

    /// Whether somebody waits for a segment that is not there yet.
    pub(super) fn waits_for_segment(&self) -> bool {
        if matches!(self.next, Next::Ready(_)) || self.poison.is_some() {
            return false;
        }
        match (&self.active, self.stage) {
            (Some((header, _)), Stage::Running) => {
                let first = self.pending.first_unit_bytes().unwrap_or(0);
                pending::room(self.position, header.end(), first, 0) == Room::NextSegment
            }
            _ => true,
        }
    }

    /// The log fails, for good. Gives the reason when it is news.
    pub(super) fn fail(&mut self, reason: &str) -> Option<Rc<str>> {
        if self.poison.is_some() {
            return None;
        }
        let reason: Rc<str> = Rc::from(reason);
        self.poison = Some(Rc::clone(&reason));
        self.stats.poisoned = true;
        Some(reason)
    }

    /// Why the log takes nothing, if so.
    pub(super) fn refusal(&self) -> Option<AppendError> {
        if let Some(reason) = &self.poison {
            return Some(AppendError::Poisoned { reason: Rc::clone(reason) });
        }
        (self.closing != Closing::No).then(|| AppendError::Poisoned { reason: Rc::from("the log is closed") })
    }

    /// The counters, with what is true now.
    pub(super) fn stats_now(&self) -> LogStats {
        LogStats {
            pending_bytes: self.pending.bytes(),
            in_flight: self.in_flight.len(),
            runs: self.queues.run_count(),
            producers: self.producers.len(),
            disk_full: self.disk_full,
            clock_jumped: !self.clock.is_believed(),
            segments_kept: self.segments.len(),
            stored_bytes: self.stored_bytes(),
            queues: self.queues.len(),
            cache: self.cache.stats(),
            ..self.stats
        }
    }

    /// Whether an IDLE flush would tell a restart more than it would find.
    pub(super) fn idle_is_due(&self) -> bool {
        self.poison.is_none()
            && self.stage == Stage::Running
            && self.closing == Closing::No
            && self.pending.is_empty()
            && self.in_flight.is_empty()
            && self.covered_to < self.worth_covering
            && self.unsynced() == 0
    }

    /// The kind of flush after which nothing is left to be covered.
    pub(super) const fn needs_covering(kind: FlushKind) -> bool {
        matches!(kind, FlushKind::Data | FlushKind::Snapshot | FlushKind::Open | FlushKind::Seal)
    }
}
