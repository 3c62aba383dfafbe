//! Taking back a message that waits: its mark is set, and nobody delivers it when its time comes.

use equeue_record::{Offset, QueueKey};
use equeue_storage::log::AppendError;

use super::deliver::mark_parts;
use super::load;
use crate::shard::state::LogHost;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancelled {
    /// It was waiting. Otherwise it was delivered or cancelled before.
    pub(crate) was_pending: bool,
    /// When a waiting one is (was) due; 0: that could not be read.
    pub(crate) due_ms: i64,
}

/// Why it could not be taken back.
#[derive(Debug)]
pub(crate) enum CancelError {
    /// There never was such a message.
    NoMessage,
    /// The log takes nothing.
    Append(AppendError),
}

/// Cancels the message whose id names `queue` and `id_offset`, or only looks at it; ends when that is durable.
pub(crate) async fn cancel(
    host: &LogHost,
    queue: QueueKey,
    id_offset: Offset,
    dry_run: bool,
) -> Result<Cancelled, CancelError> {
    let number = host.delay.number(queue).ok_or(CancelError::NoMessage)?;
    let bounds = host.log.bounds(queue).ok_or(CancelError::NoMessage)?;
    let offset = host.delay.table.borrow().place_of(number, id_offset);
    if offset >= bounds.end {
        return Err(CancelError::NoMessage);
    }
    let waits = || {
        let table = host.delay.table.borrow();
        table.queue(number).is_some_and(|known| !known.gone && !known.marks.is_done(offset.0))
    };
    if !waits() {
        return Ok(Cancelled { was_pending: false, due_ms: 0 });
    }
    let due_ms = load::one(&host.log, queue, offset).await.map_or(0, |(due_ms, _)| due_ms);
    // Meanwhile it may have been delivered, or carried forward. From here on nothing is awaited before the append.
    let offset = host.delay.table.borrow().place_of(number, id_offset);
    let waits = host.delay.table.borrow().queue(number).is_some_and(|known| !known.marks.is_done(offset.0));
    if dry_run || !waits {
        return Ok(Cancelled { was_pending: waits, due_ms });
    }
    let (parts, plan) = {
        let table = host.delay.table.borrow();
        let marks = table.queue(number).map(|known| &known.marks).ok_or(CancelError::NoMessage)?;
        let plan = marks.plan([offset.0], marks.full_to());
        (mark_parts(queue.target(), &plan), plan)
    };
    let ticket = host.log.append_atomic(parts).map_err(CancelError::Append)?;
    host.delay.table.borrow_mut().done(number, &plan, 1);
    host.log.wait_durable(ticket).await.map_err(CancelError::Append)?;
    Ok(Cancelled { was_pending: true, due_ms })
}
