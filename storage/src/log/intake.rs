//! Taking appends: checks, sequence rules, offsets and times. No I/O; nothing is copied.

use bytes::Bytes;
use equeue_record::{BatchHeader, NO_PRODUCER, Offset, QueueKey, check_batch};

use super::core::{Change, Core, PendingEntry};
use super::fact::Fact;
use super::pending::Item;
use super::reserve::Intake;
use super::{AppendError, Appended, AtomicPart};
use crate::format::STATE_VALUE_BYTES_MAX;
use crate::io::Io;
use crate::producer_state::{Refusal, StoredBatch, Verdict};
use crate::state::{EntryBatch, EntryKey, STATE_KEY_BYTES_MAX, batch_bytes_max};
use crate::types::Ticket;

impl<I: Io> Core<I> {
    /// Takes a batch of a queue. See [`super::CommitLog::append`].
    pub(super) fn append(
        &mut self,
        queue: QueueKey,
        batch: Bytes,
        wall_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.check_intake(batch.len(), Intake::Messages)?;
        if self.queues.open_mut(queue).is_none() {
            return Err(AppendError::NoQueue { queue, log: self.log });
        }
        let header = check_batch(&batch)?;
        if header.producer_id != NO_PRODUCER
            && let Verdict::Duplicate(original) = self.check_producer(queue, &header)?
        {
            return Ok(self.answer_duplicate(&original));
        }
        let ticket = self.take_ticket();
        let (base_offset, append_time_ms) = self.push_batch(queue, batch, &header, ticket, wall_ms, true);
        Ok(Appended { ticket, base_offset, append_time_ms, duplicate: false })
    }

    /// Takes all parts or none. See [`super::CommitLog::append_atomic`].
    pub(super) fn append_atomic(
        &mut self,
        parts: Vec<AtomicPart>,
        wall_ms: i64,
    ) -> Result<Ticket, AppendError> {
        let limit = self.options.batch_bytes_max();
        let only_state = parts.iter().all(|part| matches!(part, AtomicPart::State { .. }));
        let intake = if only_state { Intake::State } else { Intake::Messages };
        let mut bytes = batches_len(&parts);
        let entries = entry_batch(&parts, limit.saturating_sub(bytes))
            .map_err(|DoNotFit| AppendError::TooLarge { bytes: bytes.max(limit) + 1, limit })?;
        bytes += entries.as_ref().map_or(0, Bytes::len);
        self.check_intake(bytes, intake)?;
        let headers = self.check_parts(&parts)?;
        if bytes == 0 {
            // Nothing to write: durable as soon as what came before it.
            return Ok(Ticket(self.next_ticket.0.saturating_sub(1)));
        }
        let ticket = self.take_ticket();
        let mut left = headers.len() + usize::from(entries.is_some());
        if let Some(entries) = entries {
            let header = check_batch(&entries)?;
            left -= 1;
            self.push_batch(QueueKey::STATE, entries, &header, ticket, wall_ms, left == 0);
        }
        let mut headers = headers.into_iter();
        for part in parts {
            match part {
                AtomicPart::State { key, value } => {
                    let change = Change::State { key, value };
                    self.pending_entries.push_back(PendingEntry { ticket, change });
                }
                AtomicPart::Batch { queue, batch } => {
                    left -= 1;
                    let header = headers.next().expect("each batch was checked");
                    self.push_batch(queue, batch, &header, ticket, wall_ms, left == 0);
                }
            }
        }
        Ok(ticket)
    }

    /// Takes a batch of facts; `facts` is what it says.
    pub(super) fn append_fact_batch(
        &mut self,
        batch: Bytes,
        facts: &[Fact],
        wall_ms: i64,
    ) -> Result<Ticket, AppendError> {
        self.check_intake(batch.len(), Intake::Facts)?;
        let header = check_batch(&batch)?;
        let ticket = self.take_ticket();
        self.push_batch(QueueKey::STATE, batch, &header, ticket, wall_ms, true);
        let entry = |fact: &Fact| PendingEntry { ticket, change: Change::Fact(*fact) };
        self.pending_entries.extend(facts.iter().map(entry));
        Ok(ticket)
    }

    /// Whether the log takes so many bytes now.
    fn check_intake(&self, bytes: usize, what: Intake) -> Result<(), AppendError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let limit = self.options.batch_bytes_max();
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        if self.disk_full && !(what != Intake::Messages && self.reserve_has_room(bytes, what)) {
            return Err(AppendError::DiskFull);
        }
        let (pending, limit) = (self.pending.bytes(), self.options.pending_bytes_max);
        let is_too_much = pending > 0 && pending + bytes > limit;
        if is_too_much || what == Intake::Messages && !self.messages_have_room() {
            return Err(AppendError::Busy { pending, limit });
        }
        Ok(())
    }

    fn check_parts(&self, parts: &[AtomicPart]) -> Result<Vec<BatchHeader>, AppendError> {
        let mut headers = Vec::new();
        for part in parts {
            if let AtomicPart::Batch { queue, batch } = part {
                if self.queues.get(*queue).is_none_or(|known| !known.open) {
                    return Err(AppendError::NoQueue { queue: *queue, log: self.log });
                }
                let header = check_batch(batch)?;
                self.check_room(*queue, &header, &headers)?;
                headers.push(header);
            }
        }
        Ok(headers)
    }

    /// Whether the durable state of a batch's producer stays known, when it is recorded with those `before` it.
    fn check_room(
        &self,
        queue: QueueKey,
        header: &BatchHeader,
        before: &[BatchHeader],
    ) -> Result<(), AppendError> {
        let id = header.producer_id;
        // Batches of one producer for several queues are counted together: stricter than need be, and simple.
        let more = before.iter().filter(|other| other.producer_id == id).count();
        if id == NO_PRODUCER || self.producers.has_room(&(id, queue), more, self.durable) {
            Ok(())
        } else {
            Err(AppendError::Busy { pending: self.pending.bytes(), limit: self.options.pending_bytes_max })
        }
    }

    fn check_producer(&self, queue: QueueKey, header: &BatchHeader) -> Result<Verdict, AppendError> {
        self.producers.check(queue, header, self.durable).map_err(|refusal| match refusal {
            Refusal::SequenceGap { expected, found } => AppendError::SequenceGap { expected, found },
            Refusal::Unknown { sequence } => {
                AppendError::UnknownProducer { producer: header.producer_id, sequence }
            }
            Refusal::StaleEpoch { found, current } => AppendError::StaleProducer { found, current },
            Refusal::InFlight | Refusal::TooMany => {
                AppendError::Busy { pending: self.pending.bytes(), limit: self.options.pending_bytes_max }
            }
        })
    }

    /// The original's answer, to be given once the original is durable.
    fn answer_duplicate(&mut self, original: &StoredBatch) -> Appended {
        self.stats.duplicates += 1;
        let ticket = if self.options.hazards.early_duplicate { Ticket(0) } else { original.ticket };
        Appended {
            ticket,
            base_offset: original.base_offset,
            append_time_ms: original.append_time_ms,
            duplicate: true,
        }
    }

    fn take_ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        ticket
    }

    /// Assigns offset and time and lets the batch wait for its flush.
    fn push_batch(
        &mut self,
        queue: QueueKey,
        batch: Bytes,
        header: &BatchHeader,
        ticket: Ticket,
        wall_ms: i64,
        ends_unit: bool,
    ) -> (Offset, i64) {
        self.last_time_ms = self.last_time_ms.max(wall_ms);
        let append_time_ms = self.last_time_ms;
        let end = match self.queues.get_mut(queue) {
            Some(known) => &mut known.end,
            None => &mut self.state_next,
        };
        let base_offset = *end;
        *end = base_offset.plus(u64::from(header.record_count));
        if header.producer_id != NO_PRODUCER {
            self.producers.record(queue, header, (base_offset, append_time_ms), ticket);
        }
        self.pending.push(Item {
            queue,
            batch,
            base_offset,
            append_time_ms,
            record_count: header.record_count,
            producer_crc: header.producer_crc,
            ends_unit,
        });
        (base_offset, append_time_ms)
    }
}

fn batches_len(parts: &[AtomicPart]) -> usize {
    parts.iter().fold(0, |sum: usize, part| match part {
        AtomicPart::Batch { batch, .. } => sum.saturating_add(batch.len()),
        AtomicPart::State { .. } => sum,
    })
}

/// The control batch of the state entries, if there are any.
fn entry_batch(parts: &[AtomicPart], bytes_max: usize) -> Result<Option<Bytes>, DoNotFit> {
    let entries = || {
        parts.iter().filter_map(|part| match part {
            AtomicPart::State { key, value } => Some((key, value.as_deref())),
            AtomicPart::Batch { .. } => None,
        })
    };
    let fits = |key: &[u8], value: Option<&[u8]>| {
        key.len() <= STATE_KEY_BYTES_MAX && value.is_none_or(|value| value.len() <= STATE_VALUE_BYTES_MAX)
    };
    if !entries().all(|(key, value)| fits(key, value)) {
        return Err(DoNotFit);
    }
    let sizes = entries().map(|(key, value)| (&key[..], value.map_or(0, <[u8]>::len)));
    let mut batch = EntryBatch::new(batch_bytes_max(sizes).min(bytes_max));
    for (key, value) in entries() {
        if !batch.push(EntryKey::State(key), value) {
            return Err(DoNotFit);
        }
    }
    if batch.is_empty() { Ok(None) } else { batch.finish().map(Some).map_err(|_| DoNotFit) }
}

/// State entries that are too large, alone or together.
struct DoNotFit;
