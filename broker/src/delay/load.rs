//! Reads messages of delay queues back from the log: one, or a range of them with the times at which they are due.
//!
//! **Invariants**: what could not be read stays where it is and is told; reading holds no borrow of the table across an
//! await.

use bytes::Bytes;
use equeue_record::{
    BatchFlags, BatchView, Decompressor, MessageId, Offset, QueueKey, Record, RecordError, system,
};
use equeue_storage::log::{ReadBatches, ReadError};

use super::ready::Loaded;
use crate::shard::state::Log;

/// Bytes asked for at a time by who reads one queue on and on.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Least bytes asked for at a time.
pub(crate) const READ_BYTES_MIN: usize = 4 << 10;
/// Bytes of all queues that are read in step, one after the other: about a window.
const TURN_BYTES: usize = 1 << 20;

/// Bytes to ask for at a time where so many queues are read in step.
pub(crate) fn turn_bytes(queues: usize) -> usize {
    (TURN_BYTES / queues.max(1)).clamp(READ_BYTES_MIN, READ_BYTES)
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The log could not.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its batch is not what was stored.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is not where it should be.
    #[error("offset {offset} of queue {queue} is not in the batches read there")]
    Missing { queue: QueueKey, offset: Offset },
}

/// A record of a delay queue.
pub(crate) struct DelayedRecord<'a> {
    /// The record.
    pub(crate) record: Record<'a>,
    /// What its times are counted from.
    pub(crate) base_create_time_ms: i64,
    /// When its batch was appended.
    pub(crate) append_time_ms: i64,
    /// When it is to be delivered; one that does not say: at once.
    pub(crate) due_ms: i64,
    /// The offset in its id.
    pub(crate) id_offset: Offset,
}

/// Gives the records of a read to `each`, in order.
pub(crate) fn for_each(
    read: &ReadBatches,
    each: &mut dyn FnMut(DelayedRecord<'_>),
) -> Result<(), RecordError> {
    let mut memory = Decompressor::default();
    for piece in &read.pieces {
        let mut rest = (*piece.memory).as_ref().get(piece.range.clone()).unwrap_or_default();
        while !rest.is_empty() {
            let view = BatchView::of_checked(rest)?;
            records(&view, &mut memory, each)?;
            rest = rest.get(view.bytes().len()..).unwrap_or_default();
        }
    }
    Ok(())
}

fn records(
    view: &BatchView<'_>,
    memory: &mut Decompressor,
    each: &mut dyn FnMut(DelayedRecord<'_>),
) -> Result<(), RecordError> {
    let header = *view.header();
    let is_carried = header.flags.has(BatchFlags::CONTROL);
    for record in view.records(memory)? {
        let record = record?;
        let id = if is_carried { id_of(&record) } else { None };
        each(DelayedRecord {
            base_create_time_ms: header.base_create_time_ms,
            append_time_ms: header.append_time_ms,
            due_ms: record.deliver_at_ms.unwrap_or(header.append_time_ms),
            id_offset: id.map_or(record.offset, |id| id.offset),
            record,
        });
    }
    Ok(())
}

/// The id that a record was given when it was first stored.
fn id_of(record: &Record<'_>) -> Option<MessageId> {
    let header = record.headers().find(|header| header.name == system::ID)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

/// Reads from memory when it is there.
pub(crate) async fn read(
    log: &Log,
    queue: QueueKey,
    offset: Offset,
    bytes_max: usize,
) -> Result<ReadBatches, ReadError> {
    match log.read_cached(queue, offset, bytes_max) {
        Some(read) => read,
        None => log.read(queue, offset, bytes_max).await,
    }
}

/// Reads one message of any queue, with the rest of its batch and nothing more; tells when it is due, too.
pub(crate) async fn one(log: &Log, queue: QueueKey, offset: Offset) -> Result<(i64, Loaded), LoadError> {
    let batches = read(log, queue, offset, 1).await?;
    let mut found = None;
    for_each(&batches, &mut |delayed| {
        if delayed.record.offset == offset {
            found = Some((delayed.due_ms, delayed.loaded()));
        }
    })?;
    found.ok_or(LoadError::Missing { queue, offset })
}

/// Reads messages of a queue by their offsets, rising: those of the batches that one read brings, the first one of them
/// in any case, and no more than `bytes_max` of them. Tells how many of `offsets` were looked for; one that is not there
/// is left out.
pub(crate) async fn some(
    log: &Log,
    queue: QueueKey,
    offsets: &[Offset],
    bytes_max: usize,
) -> Result<(Vec<(Offset, Loaded)>, usize), LoadError> {
    let Some(first) = offsets.first() else { return Ok((Vec::new(), 0)) };
    let bytes = if offsets.len() > 1 { READ_BYTES } else { 1 };
    let batches = read(log, queue, *first, bytes).await?;
    let mut wanted = offsets.iter().copied().enumerate().peekable();
    let (mut found, mut covered, mut bytes) = (Vec::new(), 0, 0);
    for_each(&batches, &mut |delayed| {
        let offset = delayed.record.offset;
        while let Some((place, at)) = wanted.next_if(|(_, at)| *at <= offset && (bytes < bytes_max)) {
            covered = place + 1;
            if at == offset {
                bytes += delayed.record.encoded().len();
                found.push((offset, delayed.loaded()));
            }
        }
    })?;
    Ok((found, covered.max(1)))
}

impl DelayedRecord<'_> {
    /// A copy that outlives the batch.
    pub(crate) fn loaded(&self) -> Loaded {
        Loaded {
            encoded: Bytes::copy_from_slice(self.record.encoded()),
            base_create_time_ms: self.base_create_time_ms,
            id_offset: self.id_offset,
        }
    }
}
