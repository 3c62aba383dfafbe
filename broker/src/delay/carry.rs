//! Messages that still wait when their segment goes are appended again, under the id that they had.
//!
//! **Invariants**: the copy and the mark of the original are one append, so a message is carried once however often this
//! is asked; nothing is carried before everything that was stored has been found.

use std::rc::Rc;
use std::time::Duration;

use equeue_record::{BatchBuilder, Codec, MessageId, Offset, ProducerStamp, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::log::{AppendError, AtomicPart};
use equeue_storage::retention::Leaving;

use super::deliver::{cost, mark_parts, push};
use super::load;
use super::ready::Loaded;
use super::wheel::Waiting;
use crate::shard::state::{LogHost, Shard};

/// Pause when the log takes nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// A message that waits: where, since when, and its bytes.
type Found = (Waiting, Loaded);

/// Carries what waits in these queues; ends when that is durable.
///
/// # Errors
/// When the log takes nothing, or what waits is not all known or cannot be read: to be tried again later.
pub(crate) async fn carry_forward(
    shard: &Rc<Shard>,
    host: &LogHost,
    leaving: &[Leaving],
) -> Result<(), AppendError> {
    let delayed = leaving.iter().filter(|one| one.queue.is_delay_queue());
    let mut newest = None;
    for Leaving { queue, before } in delayed {
        if !host.delay.all_found.get() {
            return Err(AppendError::Busy { pending: 0, limit: 0 });
        }
        let Some(number) = host.delay.number(*queue) else { continue };
        let carry = Carry { shard, host, queue: *queue, number };
        newest = newest.max(carry.all_before(*before).await?);
    }
    match newest {
        Some(ticket) => host.log.wait_durable(ticket).await,
        None => Ok(()),
    }
}

/// Carries the messages of one delay queue.
struct Carry<'a> {
    shard: &'a Rc<Shard>,
    host: &'a LogHost,
    queue: QueueKey,
    number: u32,
}

impl Carry<'_> {
    async fn all_before(&self, before: Offset) -> Result<Option<equeue_storage::Ticket>, AppendError> {
        let mut newest = None;
        let Some(bounds) = self.host.log.bounds(self.queue) else { return Ok(None) };
        let floor = {
            let mut table = self.host.delay.table.borrow_mut();
            let Some(queue) = table.queue_mut(self.number) else { return Ok(None) };
            let marks = &queue.marks;
            queue.carried.retain(|_, offset| !marks.is_done(*offset));
            marks.full_to()
        };
        let mut from = bounds.start.max(Offset(floor));
        while from < before {
            let (found, next) = self.read(from, before).await?;
            for some in self.portions(&found) {
                newest = self.append_patiently(some).await?.or(newest);
            }
            from = next;
            self.shard.io.yield_now().await;
        }
        Ok(newest)
    }

    /// Messages that wait, from an offset on, and where to go on.
    async fn read(&self, from: Offset, before: Offset) -> Result<(Vec<Found>, Offset), AppendError> {
        let batches =
            load::read(&self.host.log, self.queue, from, load::READ_BYTES).await.map_err(|error| {
                tracing::error!(queue = %self.queue, offset = %from, %error,
                "delayed messages cannot be read to be carried forward: their segment stays");
                AppendError::Busy { pending: 0, limit: 0 }
            })?;
        let mut found = Vec::new();
        let table = self.host.delay.table.borrow();
        load::for_each(&batches, &mut |delayed| {
            let offset = delayed.record.offset;
            let waiting = Waiting { due_ms: delayed.due_ms, queue: self.number, offset: offset.0 };
            if offset >= from && offset < before && table.waits(&waiting) {
                found.push((waiting, delayed.loaded()));
            }
        })?;
        Ok((found, batches.next_offset.max(from.plus(1))))
    }

    /// Cut so that each fits one append.
    fn portions<'f>(&self, found: &'f [Found]) -> impl Iterator<Item = &'f [Found]> + use<'f> {
        let limit = self.shard.broker.batch_bytes_max / 2;
        let mut bytes = 0;
        found.chunk_by(move |(_, before), (_, next)| {
            bytes = if bytes == 0 { cost(before) } else { bytes } + cost(next);
            let fits = bytes <= limit;
            if !fits {
                bytes = 0;
            }
            fits
        })
    }

    async fn append_patiently(&self, some: &[Found]) -> Result<Option<equeue_storage::Ticket>, AppendError> {
        loop {
            match self.append(some) {
                Err(AppendError::Busy { .. }) => self.shard.io.sleep(PAUSE).await,
                other => return other,
            }
        }
    }

    /// Appends messages again that still wait, with the marks of the originals.
    fn append(&self, some: &[Found]) -> Result<Option<equeue_storage::Ticket>, AppendError> {
        let cluster_check = MessageId::cluster_check(&self.shard.broker.config.cluster);
        let mut table = self.host.delay.table.borrow_mut();
        let mut batch = BatchBuilder::new(Codec::None, usize::MAX);
        batch.set_control();
        batch.set_delayed();
        let mut carried = Vec::with_capacity(some.len());
        for (waiting, loaded) in some.iter().filter(|(waiting, _)| table.waits(waiting)) {
            let id = MessageId { cluster_check, queue: self.queue, offset: loaded.id_offset };
            push(&mut batch, loaded, id)?;
            carried.push((*waiting, loaded.id_offset));
        }
        if carried.is_empty() {
            return Ok(None);
        }
        let Some(queue) = table.queue(self.number) else { return Ok(None) };
        let plan = queue.marks.plan(carried.iter().map(|(waiting, _)| waiting.offset), queue.marks.full_to());
        let base = self.host.log.bounds(self.queue).map_or(Offset(0), |bounds| bounds.end);
        let batch = batch.finish(ProducerStamp::NONE)?;
        let mut parts = mark_parts(queue.target, &plan);
        parts.push(AtomicPart::Batch { queue: self.queue, batch });
        let ticket = self.host.log.append_atomic(parts)?;
        table.done(self.number, &plan, carried.len() as u64);
        for (offset, (waiting, id_offset)) in (base.0..).zip(carried) {
            if let Some(queue) = table.queue_mut(self.number) {
                queue.carried.insert(id_offset.0, offset);
            }
            table.insert(Waiting { offset, ..waiting });
        }
        Ok(Some(ticket))
    }
}
