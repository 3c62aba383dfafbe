//! Checks everything that can be checked, and counts what is there.

use std::ops::ControlFlow;
use std::path::Path;

use equeue_record::{BatchFlags, BatchView, Decompressor, QueueKey, RecordError, split_first};

use super::walk::{Visitor, walk_data_dir};
use super::{Damaged, OfflineError};
use crate::format::{FlushHeader, FlushKind, Identity, OpenBody, SegmentHeader, SnapshotPrefix, read_state};
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

/// Reads all logs of a data directory and checks every header, checksum, link, batch and record.
///
/// # Errors
/// Only what keeps it from reading; damage is in the report.
pub fn verify(data_dir: &Path) -> Result<VerifyReport, OfflineError> {
    let mut verifier = Verifier { report: VerifyReport::default(), memory: Decompressor::new() };
    walk_data_dir(data_dir, &mut verifier)?;
    Ok(verifier.report)
}

struct Verifier {
    report: VerifyReport,
    memory: Decompressor,
}

impl Visitor for Verifier {
    fn identity(&mut self, identity: Identity) {
        self.report.identity = Some(identity);
    }

    fn log(&mut self, log: LogId) -> ControlFlow<()> {
        let (begin, end) = (Position(0), Position(0));
        self.report.logs.push(LogReport { log, counts: Counts::default(), begin, end, torn_bytes: 0 });
        ControlFlow::Continue(())
    }

    fn segment(&mut self, _: &Path, header: &SegmentHeader) -> ControlFlow<()> {
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
        for_each_batch(header.kind, body, |batch| count(batch, &mut self.memory, &mut log.counts))?;
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, end: Position, torn_bytes: u64) {
        if let Some(log) = self.report.logs.last_mut() {
            (log.end, log.torn_bytes) = (end, torn_bytes);
        }
    }

    fn damaged(&mut self, damaged: Damaged) {
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
