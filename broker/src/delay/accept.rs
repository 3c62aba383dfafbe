//! Taking a delayed batch: its times are checked, it is appended to the delay queue, its messages wait from then on.

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::ProduceOutcome;
use equeue_record::{BatchFlags, BatchView, Decompressor, QueueKey, RecordError};
use equeue_storage::io::Io as _;
use equeue_storage::log::{AppendError, Appended, AtomicPart};

use super::deliver::RESERVED_BYTES;
use super::marks::encode_floor;
use super::wheel::Waiting;
use crate::handler::produce::{outcome_of, refused};
use crate::shard::state::{LogHost, Shard};
use crate::state_key;

/// When to try again after too many messages wait, ms.
const FULL_RETRY_MS: u32 = 1000;

/// Appends a delayed batch for `target`, a queue of this log.
///
/// # Errors
/// What the producer is told.
pub(crate) fn append(
    shard: &Shard,
    host: &LogHost,
    target: QueueKey,
    batch: Bytes,
) -> Result<Appended, ProduceOutcome> {
    let now_ms = shard.io.wall_ms();
    let record_bytes_max = shard.broker.batch_bytes_max.saturating_sub(RESERVED_BYTES);
    let dues = read_dues(&batch, now_ms, record_bytes_max).map_err(|error| outcome_of(&error.into()))?;
    let latest_ms = now_ms.saturating_add(shard.broker.config.delay.ahead_ms_max);
    if dues.iter().any(|due_ms| *due_ms > latest_ms) {
        return Err(refused(Code::Invalid, 0));
    }
    if !host.delay.table.borrow().has_room(dues.len() as u64) {
        return Err(refused(Code::Busy, FULL_RETRY_MS));
    }
    let number = open_queue(host, target).map_err(|error| outcome_of(&error))?;
    let appended = host.log.append(target.delay_queue(), batch).map_err(|error| outcome_of(&error))?;
    if !appended.duplicate {
        let mut table = host.delay.table.borrow_mut();
        for (offset, due_ms) in (appended.base_offset.0..).zip(&dues) {
            table.insert(Waiting { due_ms: *due_ms, queue: number, offset });
        }
        drop(table);
        host.delay.due_at(dues.iter().copied().min().unwrap_or(i64::MAX));
    }
    Ok(appended)
}

/// The delay queue for `target`; a new one gets its entry before anything is in it, so that a restart finds it.
pub(crate) fn open_queue(host: &LogHost, target: QueueKey) -> Result<u32, AppendError> {
    if let Some(number) = host.delay.table.borrow().number(target) {
        return Ok(number);
    }
    let key = Bytes::from(state_key::delay_floor(target));
    let entry = AtomicPart::State { key, value: Some(encode_floor(0)) };
    host.log.append_atomic(vec![entry])?;
    host.log.open_queue(target.delay_queue());
    Ok(host.delay.table.borrow_mut().open(target))
}

/// When each record is due. The batch's checksum is looked at by the log.
fn read_dues(batch: &[u8], now_ms: i64, record_bytes_max: usize) -> Result<Vec<i64>, RecordError> {
    let view = BatchView::of_checked(batch)?;
    let mut memory = Decompressor::default();
    let mut dues = Vec::with_capacity(view.header().record_count as usize);
    if view.header().flags.has(BatchFlags::CONTROL) {
        // The mark of messages that a broker carried forward: their ids are believed.
        return Err(RecordError::Field { field: "flags", value: u64::from(view.header().flags.bits()) });
    }
    for record in view.records(&mut memory)? {
        let record = record?;
        let size = record.encoded().len();
        if size > record_bytes_max {
            let what = "delayed record";
            return Err(RecordError::TooLarge { what, size, limit: record_bytes_max });
        }
        dues.push(record.deliver_at_ms.unwrap_or(now_ms));
    }
    Ok(dues)
}
