//! Checks everything that can be checked, and counts what is there.
//!
//! **Invariant**: a log in which nothing is found opens, as far as its bytes tell. So at last the code that opens a log is
//! asked; what comes before looks at all of the log, opening only from its newest snapshot on.

use std::ops::ControlFlow;
use std::path::Path;

use equeue_record::{BatchFlags, BatchView, Decompressor, Offset, QueueKey, RecordError, split_first};

use super::read_only::{ReadOnlyIo, run};
use super::walk::{Visitor, walk_data_dir};
use super::{Damaged, OfflineError};
use crate::format::{
    FlushHeader, FlushKind, GapPrefix, Identity, OpenBody, SegmentHeader, SnapshotPrefix, log_dir_name,
    read_state,
};
use crate::index::{Entry, Run, encode_index, parse_index};
use crate::log::offsets::DenseOffsets;
use crate::log::replay::Replay;
use crate::log::{LogOptions, OpenError, recovery};
use crate::segment::BodyError;
use crate::types::{LogId, Position};

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segment files with a good header.
    pub segments: u64,
    /// Whole flushes of any kind.
    pub flushes: u64,
    /// Batches of messages.
    pub batches: u64,
    /// Messages.
    pub records: u64,
    /// State entries, those of snapshots counted.
    pub state_entries: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
}

/// What was found in one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReport {
    /// The log.
    pub log: LogId,
    /// How much there is.
    pub counts: Counts,
    /// Position of the oldest segment.
    pub begin: Position,
    /// Where the log ends.
    pub end: Position,
    /// Bytes behind the end that were never acknowledged.
    pub torn_bytes: u64,
}

/// What was found in a data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The identity file.
    pub identity: Option<Identity>,
    /// Logs, in order.
    pub logs: Vec<LogReport>,
    /// All damage; empty when all is well.
    pub damaged: Vec<Damaged>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub const fn is_sound(&self) -> bool {
        self.damaged.is_empty()
    }

    /// All logs together.
    pub fn totals(&self) -> Counts {
        self.logs.iter().fold(Counts::default(), |sum, log| Counts {
            segments: sum.segments + log.counts.segments,
            flushes: sum.flushes + log.counts.flushes,
            batches: sum.batches + log.counts.batches,
            records: sum.records + log.counts.records,
            state_entries: sum.state_entries + log.counts.state_entries,
            body_bytes: sum.body_bytes + log.counts.body_bytes,
        })
    }
}

/// Reads all logs of a data directory and checks every header, checksum, link, batch and record, whether the offsets of
/// each queue follow one another, and whether each log would open.
///
/// # Errors
/// Only what keeps it from reading; damage is in the report.
pub fn verify(data_dir: &Path) -> Result<VerifyReport, OfflineError> {
    let mut verifier = Verifier {
        report: VerifyReport::default(),
        memory: Decompressor::new(),
        offsets: DenseOffsets::default(),
    };
    walk_data_dir(data_dir, &mut verifier)?;
    let mut report = verifier.report;
    for log in report.logs.iter().map(|log| log.log).collect::<Vec<_>>() {
        let dir = data_dir.join(log_dir_name(log));
        if let Some(refused) = refused(&dir, log)? {
            let is_known = |known: &Damaged| {
                known.path == refused.path
                    || known.path.starts_with(&dir) && known.position == refused.position
            };
            if !report.damaged.iter().any(is_known) {
                report.damaged.push(refused);
            }
        }
    }
    Ok(report)
}

/// What the broker would be refused with, if it would be.
fn refused(dir: &Path, log: LogId) -> Result<Option<Damaged>, OfflineError> {
    let Err(error) = run(recovery::check(ReadOnlyIo, dir.to_owned(), log)) else { return Ok(None) };
    let reason = error.to_string();
    Ok(Some(match error {
        OpenError::Io { path, action, source } => return Err(OfflineError::Io { path, action, source }),
        OpenError::Damaged { path, position, reason, .. } => Damaged { path, position, reason },
        OpenError::RepairUnfinished { path, command } => {
            let reason = format!("a repair of this log was begun and has not ended: `{command}`");
            Damaged { path, position: Position(0), reason }
        }
        OpenError::NewerFormat { path, .. } => Damaged { path, position: Position(0), reason },
    }))
}

struct Verifier {
    report: VerifyReport,
    memory: Decompressor,
    offsets: DenseOffsets,
}

impl Visitor for Verifier {
    fn identity(&mut self, identity: Identity) {
        self.report.identity = Some(identity);
    }

    fn log(&mut self, log: LogId) -> ControlFlow<()> {
        let (begin, end) = (Position(0), Position(0));
        self.offsets = DenseOffsets::default();
        self.report.logs.push(LogReport { log, counts: Counts::default(), begin, end, torn_bytes: 0 });
        ControlFlow::Continue(())
    }

    fn segment(&mut self, _: &Path, header: &SegmentHeader) -> ControlFlow<()> {
        // A repair told of them; here they only take memory.
        self.offsets.holes.clear();
        if let Some(log) = self.report.logs.last_mut() {
            if log.counts.segments == 0 {
                log.begin = header.position;
            }
            log.counts.segments += 1;
        }
        ControlFlow::Continue(())
    }

    fn flush(&mut self, header: &FlushHeader, body: &[u8]) -> Result<ControlFlow<()>, BodyError> {
        let Some(log) = self.report.logs.last_mut() else { return Ok(ControlFlow::Continue(())) };
        log.counts.flushes += 1;
        log.counts.body_bytes += body.len() as u64;
        check_body(header, body)?;
        if header.kind == FlushKind::Gap {
            self.offsets.jump();
        }
        for_each_batch(header.kind, body, |batch| {
            if header.kind == FlushKind::Data && !is_state(batch) {
                self.offsets.take(batch.header())?;
            }
            count(batch, &mut self.memory, &mut log.counts)
        })?;
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, end: Position, torn_bytes: u64) {
        if let Some(log) = self.report.logs.last_mut() {
            (log.end, log.torn_bytes) = (end, torn_bytes);
        }
    }

    fn damaged(&mut self, damaged: Damaged) {
        // What is lost there is told once.
        self.offsets.jump();
        self.report.damaged.push(damaged);
    }
}

fn count(batch: &BatchView<'_>, memory: &mut Decompressor, counts: &mut Counts) -> Result<(), BodyError> {
    if is_state(batch) {
        read_state(batch, memory, |_, _| counts.state_entries += 1)?;
        return Ok(());
    }
    counts.batches += 1;
    let mut found = 0;
    for record in batch.records(memory)? {
        record?;
        found += 1;
    }
    if found != batch.header().record_count {
        return Err(RecordError::Field { field: "record_count", value: u64::from(found) }.into());
    }
    counts.records += u64::from(found);
    Ok(())
}

/// Checks what is in the body of a whole flush, as opening a log does.
///
/// # Errors
/// What opening would refuse.
pub fn check_body(header: &FlushHeader, body: &[u8]) -> Result<(), BodyError> {
    Replay::new(&LogOptions::default(), None).flush(header, body)
}

/// Reads a whole index file: queue, first offset, records, position and bytes of each run. `None` when it is not exactly
/// what is written for that segment; it can be made again then.
pub fn read_index(segment: &SegmentHeader, bytes: &[u8]) -> Option<Vec<IndexedRun>> {
    let entries = parse_index(segment, bytes)?;
    let run = |entry: Entry| IndexedRun {
        queue: entry.queue,
        base_offset: entry.run.base_offset,
        record_count: entry.run.record_count,
        position: entry.run.position,
        bytes: entry.run.bytes,
        last_time_ms: entry.run.last_time_ms,
    };
    Some(entries.into_iter().map(run).collect())
}

/// What an index says of the batches of a queue in one flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedRun {
    /// The queue.
    pub queue: QueueKey,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Number of records.
    pub record_count: u32,
    /// Where the first batch begins.
    pub position: Position,
    /// Bytes of the batches.
    pub bytes: u32,
    /// Append time of the last batch, ms UTC.
    pub last_time_ms: i64,
}

/// The index file of a segment with these runs, which are in order of queue and offset.
pub fn index_bytes(segment: &SegmentHeader, runs: &[IndexedRun]) -> Vec<u8> {
    let entry = |run: &IndexedRun| Entry {
        queue: run.queue,
        run: Run {
            base_offset: run.base_offset,
            position: run.position,
            last_time_ms: run.last_time_ms,
            record_count: run.record_count,
            bytes: run.bytes,
        },
    };
    encode_index(segment, &runs.iter().map(entry).collect::<Vec<_>>())
}

/// Whether the batch holds state entries.
pub(super) fn is_state(batch: &BatchView<'_>) -> bool {
    let header = batch.header();
    header.flags.has(BatchFlags::CONTROL) && header.queue_key == QueueKey::STATE
}

/// Gives each batch of a flush, checked.
pub(super) fn for_each_batch(
    kind: FlushKind,
    body: &[u8],
    mut each: impl FnMut(&BatchView<'_>) -> Result<(), BodyError>,
) -> Result<(), BodyError> {
    let mut rest = match kind {
        FlushKind::Data => body,
        FlushKind::Snapshot => SnapshotPrefix::split(body)?.1,
        FlushKind::Gap => GapPrefix::split(body)?.1,
        FlushKind::Open => {
            OpenBody::decode(body)?;
            &[]
        }
        FlushKind::Seal | FlushKind::Idle | FlushKind::Clean => &[],
    };
    while !rest.is_empty() {
        let (_, len) = split_first(rest)?;
        let (batch, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        each(&BatchView::parse(batch)?)?;
        rest = after;
    }
    Ok(())
}
