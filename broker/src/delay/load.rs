//! Reads messages of delay queues back from the log: the bytes of some, or when all of a range are due.
//!
//! **Invariants**: what could not be read stays where it is and is told; reading holds no borrow of the table across an
//! await.

use bytes::Bytes;
use equeue_record::{
    BatchFlags, BatchView, Decompressor, MessageId, Offset, QueueKey, Record, RecordError, system,
};
use equeue_storage::log::{ReadBatches, ReadError};

use super::ready::Loaded;
use super::wheel::Waiting;
use crate::shard::state::Log;

/// Bytes asked for in one read.
const READ_BYTES: usize = 256 << 10;

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
pub(crate) async fn read(log: &Log, queue: QueueKey, offset: Offset) -> Result<ReadBatches, ReadError> {
    match log.read_cached(queue, offset, READ_BYTES) {
        Some(read) => read,
        None => log.read(queue, offset, READ_BYTES).await,
    }
}

/// Reads one message of any queue; tells when it is due, too.
pub(crate) async fn one(log: &Log, queue: QueueKey, offset: Offset) -> Result<(i64, Loaded), LoadError> {
    let batches = read(log, queue, offset).await?;
    let mut found = None;
    for_each(&batches, &mut |delayed| {
        if delayed.record.offset == offset {
            found = Some((delayed.due_ms, delayed.loaded()));
        }
    })?;
    found.ok_or(LoadError::Missing { queue, offset })
}

/// What became of loading a message; those not told of are not durable yet, or came behind the limit.
pub(crate) type LoadedOne = (Waiting, Result<Loaded, LoadError>);

/// Reads messages of one delay queue, given in order of their offsets, until they are more than `bytes_max` bytes.
pub(crate) async fn messages(
    log: &Log,
    queue: QueueKey,
    wanted: &[Waiting],
    bytes_max: usize,
) -> Vec<LoadedOne> {
    let mut out: Vec<LoadedOne> = Vec::with_capacity(wanted.len());
    let mut bytes = 0;
    while let Some(first) = wanted.get(out.len()) {
        let offset = Offset(first.offset);
        if bytes > bytes_max || log.bounds(queue).is_none_or(|bounds| offset >= bounds.durable_end) {
            break;
        }
        let batches = match read(log, queue, offset).await {
            Ok(batches) => batches,
            Err(error) => {
                out.push((*first, Err(error.into())));
                continue;
            }
        };
        let before = out.len();
        let result = for_each(&batches, &mut |delayed| {
            if let Some(next) = wanted.get(out.len())
                && delayed.record.offset == Offset(next.offset)
            {
                bytes += delayed.record.encoded().len();
                out.push((*next, Ok(delayed.loaded())));
            }
        });
        if out.len() == before {
            let missing = LoadError::Missing { queue, offset };
            out.push((*first, Err(result.err().map_or(missing, LoadError::from))));
        }
    }
    out
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
