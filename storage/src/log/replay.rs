//! What the flushes of a log add up to: bounds of queues, runs, producers, state. Pure.
//!
//! Fed with whole flushes in order. The log is the truth: sequences are not checked again, but offsets must be dense.

use equeue_record::{BatchHeader, NO_PRODUCER, Offset, QueueKey, RecordError, split_first};

use super::LogOptions;
use super::fact::Fact;
use super::offsets::DenseOffsets;
use super::queue::{Queues, decode_bounds};
use crate::fast_hash::FastMap;
use crate::format::{FLUSH_HEADER_LEN, FlushHeader, FlushKind, GapPrefix, OpenBody, SnapshotPrefix};
use crate::index::Run;
use crate::producer_state::{ProducerTable, decode_stored};
use crate::segment::BodyError;
use crate::state::{EntryKey, StateReplay, for_each_entry};
use crate::types::{Position, Ticket};

/// See the file's own text.
pub(crate) struct Replay {
    pub(crate) queues: Queues,
    pub(super) producers: ProducerTable,
    pub(super) state: StateReplay,
    pub(super) state_next: Offset,
    pub(crate) last_time_ms: i64,
    pub(crate) newest_snapshot: Option<Position>,
    /// The complete snapshot before the newest, if the flushes replayed name it.
    pub(super) older_snapshot: Option<Position>,
    /// Segments before it are retired.
    pub(super) kept: Position,
    /// Runs of the segment that is being replayed.
    pub(super) segment_runs: usize,
    /// Where queues begin, from facts.
    starts: FastMap<QueueKey, Offset>,
    /// Queues that are no more. Their keys are never used again.
    dead: Vec<QueueKey>,
    /// Gaps walked over.
    pub(super) gaps_met: u64,
    pub(crate) offsets: DenseOffsets,
    /// The snapshot that the replay began with; `None` at the beginning of the log, and once it is known to be whole.
    unproven: Option<Position>,
    /// A gap came before that snapshot was whole: the replay is worth nothing.
    pub(super) broken: Option<Broken>,
}

/// A replay that must begin with another snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    /// An older one; `None`: with the beginning of the log.
    pub(crate) older: Option<Position>,
}

impl Replay {
    /// `snapshot`: the one that the replay begins with, if it does not begin with the log.
    pub(crate) fn new(options: &LogOptions, snapshot: Option<Position>) -> Self {
        Self {
            queues: Queues::default(),
            producers: ProducerTable::replaying(options.producers_max),
            state: StateReplay::default(),
            state_next: Offset(0),
            last_time_ms: 0,
            newest_snapshot: None,
            older_snapshot: None,
            kept: Position(0),
            starts: FastMap::default(),
            dead: Vec::new(),
            segment_runs: 0,
            gaps_met: 0,
            offsets: DenseOffsets::default(),
            unproven: snapshot,
            broken: None,
        }
    }

    /// The replay is over: queues begin where they do, and those that are no more are forgotten.
    pub(super) fn settle(&mut self) {
        for (queue, start) in std::mem::take(&mut self.starts) {
            self.queues.raise_start(queue, start);
        }
        let dead = std::mem::take(&mut self.dead);
        for queue in &dead {
            self.queues.remove(*queue);
        }
        self.producers.forget_queues(&dead);
    }

    /// Takes the next flush.
    pub(crate) fn flush(&mut self, header: &FlushHeader, body: &[u8]) -> Result<(), BodyError> {
        self.last_time_ms = self.last_time_ms.max(header.time_ms);
        if header.snapshot > self.newest_snapshot {
            self.older_snapshot = std::mem::replace(&mut self.newest_snapshot, header.snapshot);
        }
        match header.kind {
            FlushKind::Data => self.data(header.position, body),
            FlushKind::Snapshot => self.slice(body),
            FlushKind::Open => OpenBody::decode(body).map(|_| ()).map_err(BodyError::from),
            FlushKind::Gap => self.gap(header, body),
            FlushKind::Seal | FlushKind::Idle | FlushKind::Clean => Ok(()),
        }
    }

    fn data(&mut self, position: Position, body: &[u8]) -> Result<(), BodyError> {
        let mut at = position.plus(FLUSH_HEADER_LEN as u64);
        let mut rest = body;
        let mut open: Option<(QueueKey, Run)> = None;
        let mut facts = Vec::new();
        while !rest.is_empty() {
            let (header, len) = split_first(rest)?;
            let (batch, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            if header.queue_key == QueueKey::STATE {
                self.entries(position, &header, batch, &mut facts)?;
            } else {
                self.batch(&header)?;
                match &mut open {
                    Some((queue, run)) if *queue == header.queue_key => run.extend(&header),
                    _ => self.close_run(open.replace((header.queue_key, Run::begin(&header, at)))),
                }
            }
            at = at.plus(len as u64);
            rest = after;
        }
        self.close_run(open);
        for fact in facts {
            self.fact(fact);
        }
        Ok(())
    }

    fn fact(&mut self, fact: Fact) {
        match fact {
            // The queue itself may come later, in a snapshot.
            Fact::Start(queue, start) => {
                self.queues.raise_start(queue, start);
                let known = self.starts.entry(queue).or_default();
                *known = start.max(*known);
            }
            Fact::Kept(position) => self.kept = self.kept.max(position),
            // A slice that was built before this was durable may still know the queue.
            Fact::Dead(queue) => self.dead.push(queue),
        }
    }

    fn close_run(&mut self, run: Option<(QueueKey, Run)>) {
        if let Some((queue, run)) = run {
            self.queues.add_durable(queue, run);
            self.segment_runs += 1;
        }
    }

    fn batch(&mut self, header: &BatchHeader) -> Result<(), BodyError> {
        self.offsets.take(header)?;
        if header.producer_id != NO_PRODUCER {
            let at = (header.base_offset, header.append_time_ms);
            self.producers.record(header.queue_key, header, at, Ticket(0));
        }
        Ok(())
    }

    /// A repair gave up what was between here and where the log goes on.
    fn gap(&mut self, header: &FlushHeader, body: &[u8]) -> Result<(), BodyError> {
        let (_, mut batches) = GapPrefix::split(body)?;
        self.gaps_met += 1;
        if self.unproven.is_some_and(|begin| header.position >= begin) && self.broken.is_none() {
            self.broken = Some(Broken { older: header.snapshot });
        }
        self.offsets.jump();
        while !batches.is_empty() {
            let (_, len) = split_first(batches)?;
            let (batch, rest) = batches.split_at_checked(len).unwrap_or((batches, &[]));
            self.snapshot_entries(header.position, batch)?;
            batches = rest;
        }
        Ok(())
    }

    fn entries(
        &mut self,
        at: Position,
        header: &BatchHeader,
        batch: &[u8],
        facts: &mut Vec<Fact>,
    ) -> Result<(), BodyError> {
        self.state_next = self.state_next.max(header.next_offset());
        let mut is_good = true;
        for_each_entry(batch, |key, value| match (key, Fact::read(key, value)) {
            (EntryKey::State(key), _) => self.state.record(at, key, value),
            (_, Some(fact)) => facts.push(fact),
            (_, None) => is_good = false,
        })?;
        good_or("state entry", is_good)
    }

    fn slice(&mut self, body: &[u8]) -> Result<(), BodyError> {
        let (prefix, batch) = SnapshotPrefix::split(body)?;
        if prefix.is_end && self.unproven.is_some_and(|begin| prefix.begin >= begin) {
            self.unproven = None;
        }
        if batch.is_empty() { Ok(()) } else { self.snapshot_entries(prefix.as_of, batch) }
    }

    /// Absolute values: what was true before `as_of`.
    fn snapshot_entries(&mut self, as_of: Position, batch: &[u8]) -> Result<(), BodyError> {
        let mut is_good = true;
        for_each_entry(batch, |key, value| match key {
            EntryKey::State(key) => self.state.snapshot(as_of, key, value),
            EntryKey::Queue(queue) => match value.and_then(decode_bounds) {
                Some((start, next)) if queue == QueueKey::STATE => {
                    self.state_next = self.state_next.max(start).max(next);
                }
                Some((start, next)) => self.queues.merge(queue, start, next),
                None => is_good = false,
            },
            EntryKey::Producer(producer) => match value.and_then(decode_stored) {
                Some(stored) => self.producers.merge(producer, &stored),
                None => is_good = false,
            },
            key => match Fact::read(key, value) {
                Some(fact) => self.fact(fact),
                None => is_good = false,
            },
        })?;
        good_or("snapshot entry", is_good)
    }
}

fn good_or(field: &'static str, is_good: bool) -> Result<(), BodyError> {
    if is_good { Ok(()) } else { Err(RecordError::Field { field, value: 0 }.into()) }
}
