//! Gives everything that is in the logs, one thing after the other, for people to look at.

use std::ops::ControlFlow;
use std::path::Path;

use equeue_record::{BatchHeader, BatchView, Decompressor, QueueKey, Record};

use super::verify::{for_each_batch, is_state};
use super::walk::{Visitor, walk_data_dir};
use super::{Damaged, OfflineError};
use crate::format::{FlushHeader, Identity, SegmentHeader, read_state};
use crate::segment::BodyError;
use crate::types::{LogId, Position};

/// What is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Only this log.
    pub log: Option<LogId>,
    /// Only flushes at or behind this position.
    pub from: Option<Position>,
    /// Only batches of this queue ([`QueueKey::STATE`]: state entries).
    pub queue: Option<QueueKey>,
}

/// One thing in a data directory, in the order in which it lies there.
#[derive(Debug)]
pub enum DumpItem<'a> {
    /// What the data directory is.
    Identity(&'a Identity),
    /// A log begins.
    Log(LogId),
    /// A segment begins. Its salt is not shown by `Debug`, and must not be otherwise.
    Segment(&'a Path, &'a SegmentHeader),
    /// A flush; what is in it follows.
    Flush(&'a FlushHeader),
    /// A batch of messages; its records follow.
    Batch(&'a BatchHeader),
    /// A record of the batch before.
    Record(&'a Record<'a>),
    /// A state entry: key, and value unless it removes the key.
    State(&'a [u8], Option<&'a [u8]>),
    /// Where a log ends, and bytes behind it that were never acknowledged.
    End(Position, u64),
    /// Something is damaged; what follows lies behind it.
    Damaged(&'a Damaged),
}

/// Gives all that the options ask for to `each`, until it breaks.
///
/// # Errors
/// Only what keeps it from reading; damage is an item.
pub fn dump(
    data_dir: &Path,
    options: &DumpOptions,
    each: impl FnMut(DumpItem<'_>) -> ControlFlow<()>,
) -> Result<(), OfflineError> {
    let mut dumper = Dumper {
        options,
        each,
        memory: Decompressor::new(),
        is_log_asked: true,
        flow: ControlFlow::Continue(()),
    };
    walk_data_dir(data_dir, &mut dumper)
}

struct Dumper<'a, F> {
    options: &'a DumpOptions,
    each: F,
    memory: Decompressor,
    is_log_asked: bool,
    flow: ControlFlow<()>,
}

impl<F: FnMut(DumpItem<'_>) -> ControlFlow<()>> Dumper<'_, F> {
    fn give(&mut self, item: DumpItem<'_>) -> ControlFlow<()> {
        if self.flow.is_continue() {
            self.flow = (self.each)(item);
        }
        self.flow
    }
}

impl<F: FnMut(DumpItem<'_>) -> ControlFlow<()>> Visitor for Dumper<'_, F> {
    fn identity(&mut self, identity: Identity) {
        let _ = self.give(DumpItem::Identity(&identity));
    }

    fn log(&mut self, log: LogId) -> ControlFlow<()> {
        self.is_log_asked = self.options.log.is_none_or(|asked| asked == log);
        if self.is_log_asked { self.give(DumpItem::Log(log)) } else { self.flow }
    }

    fn segment(&mut self, path: &Path, header: &SegmentHeader) -> ControlFlow<()> {
        let is_before = self.options.from.is_some_and(|from| header.end() <= from);
        if self.is_log_asked && !is_before { self.give(DumpItem::Segment(path, header)) } else { self.flow }
    }

    fn flush(&mut self, header: &FlushHeader, body: &[u8]) -> Result<ControlFlow<()>, BodyError> {
        let is_before = self.options.from.is_some_and(|from| header.position < from);
        if !self.is_log_asked || is_before || self.give(DumpItem::Flush(header)).is_break() {
            return Ok(self.flow);
        }
        let Self { options, each, memory, flow, .. } = self;
        for_each_batch(header.kind, body, |batch| {
            let is_asked = options.queue.is_none_or(|queue| queue == batch.header().queue_key);
            if is_asked && flow.is_continue() { give_batch(batch, memory, each, flow) } else { Ok(()) }
        })?;
        Ok(self.flow)
    }

    fn end(&mut self, end: Position, torn_bytes: u64) {
        if self.is_log_asked {
            let _ = self.give(DumpItem::End(end, torn_bytes));
        }
    }

    fn damaged(&mut self, damaged: Damaged) {
        if self.is_log_asked {
            let _ = self.give(DumpItem::Damaged(&damaged));
        }
    }
}

fn give_batch(
    batch: &BatchView<'_>,
    memory: &mut Decompressor,
    each: &mut impl FnMut(DumpItem<'_>) -> ControlFlow<()>,
    flow: &mut ControlFlow<()>,
) -> Result<(), BodyError> {
    let mut give = |item: DumpItem<'_>| {
        if flow.is_continue() {
            *flow = each(item);
        }
    };
    if is_state(batch) {
        read_state(batch, memory, |key, value| give(DumpItem::State(key, value)))?;
        return Ok(());
    }
    give(DumpItem::Batch(batch.header()));
    for record in batch.records(memory)? {
        give(DumpItem::Record(&record?));
    }
    Ok(())
}
