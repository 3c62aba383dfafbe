//! Batches of one queue that were sent and are not settled: sequences, epochs, what is sent again and in which order.
//! Pure: time is given, never read.
//!
//! The broker stores a batch only when its sequence follows the one stored before, so a batch can be sent again
//! without harm as long as its bytes stay the same. **Invariants**:
//! - a batch goes (again) on its way only when no batch behind it is on its way: the broker sees sequences in order;
//! - a new producer epoch (which forgets the broker's memory of sequences) begins only when nothing is on its way, and
//!   only batches known *not* to be stored are taken over into it; the others fail with an unknown outcome;
//! - a batch whose time is over fails for the application at once, but keeps its place until its last attempt is
//!   answered or lost, so that a late success costs no new epoch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use equeue_record::{ProducerStamp, RecordError, restamp_producer};

use super::completion::Completion;
use super::intake::Batch;

/// What has to be told about a batch once its fate is known.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    /// The deliveries.
    pub completion: Arc<Completion>,
    /// The callback's messages.
    pub tokens: Vec<(u32, u64)>,
    /// Messages.
    pub messages: u32,
    /// Room that they take in the window, bytes.
    pub permits: usize,
}

/// A batch that was sent.
#[derive(Debug)]
struct Sent {
    number: u64,
    bytes: Bytes,
    base_sequence: i32,
    messages: u32,
    opened: Instant,
    /// `None` once it was told that its time is over.
    audience: Option<Audience>,
    on_wire: bool,
    /// An attempt ended without an answer: it may be stored.
    unknown: bool,
    attempts: u32,
}

/// A batch that left the outbox.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Its bytes, for the memory.
    pub bytes: Bytes,
    /// Whom to tell; `None`: they were told before that its time was over.
    pub audience: Option<Audience>,
}

/// A batch whose time is over.
#[derive(Debug)]
pub(crate) struct Expired {
    /// Whom to tell.
    pub audience: Audience,
    /// It may be stored.
    pub unknown: bool,
}

/// Bytes to put on the wire.
#[derive(Debug)]
pub(crate) struct ToSend {
    /// Names the batch in this outbox.
    pub number: u64,
    /// The frozen batch.
    pub bytes: Bytes,
    /// Messages, when this is not the first attempt.
    pub again: Option<u32>,
}

/// The sent batches of one queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    sent: VecDeque<Sent>,
    numbers: u64,
    producer_id: i64,
    producer_epoch: i16,
    next_sequence: i32,
    /// The epoch has to change before anything else is sent.
    new_epoch: bool,
    /// Nothing is sent again before.
    not_before: Option<Instant>,
    fresh_id: fn() -> i64,
}

impl Outbox {
    /// For a queue that nothing was sent to. `fresh_id` makes random producer ids (not negative).
    pub(crate) fn new(fresh_id: fn() -> i64) -> Self {
        Self {
            sent: VecDeque::new(),
            numbers: 0,
            producer_id: fresh_id(),
            producer_epoch: 0,
            next_sequence: 0,
            new_epoch: false,
            not_before: None,
            fresh_id,
        }
    }

    /// Whether nothing is unsettled.
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether a batch is on its way.
    pub(crate) fn on_wire(&self) -> bool {
        self.sent.iter().any(|sent| sent.on_wire)
    }

    /// Whether a new batch may be frozen and sent.
    pub(crate) fn has_room(&self, in_flight_max: usize) -> bool {
        // From the oldest unsettled batch on, not the number of unsettled ones: answers come in any order, and the
        // broker remembers only the newest batches of a producer.
        let span = self.sent.front().map_or(0, |first| self.numbers - first.number + 1);
        span < in_flight_max as u64 && !self.new_epoch && self.sent.iter().all(|sent| sent.on_wire)
    }

    /// Whether something must be sent again.
    fn has_again(&self) -> bool {
        self.sent.iter().any(|sent| !sent.on_wire)
    }

    /// From when on something is to be sent again; `None`: nothing is.
    pub(crate) fn again_at(&self, now: Instant) -> Option<Instant> {
        self.has_again().then(|| self.not_before.unwrap_or(now))
    }

    /// What must be sent again may go at once.
    pub(crate) fn end_pause(&mut self) {
        self.not_before = None;
    }

    /// The outcomes to wait for.
    pub(crate) fn completions(&self) -> impl Iterator<Item = Arc<Completion>> {
        self.sent
            .iter()
            .filter_map(|sent| sent.audience.as_ref())
            .map(|audience| Arc::clone(&audience.completion))
    }

    /// Freezes a batch under the next sequence and puts it on its way.
    ///
    /// # Errors
    /// When its records cannot be packed: whom to tell, and why; the sequence is not used up.
    pub(crate) fn freeze(&mut self, batch: Batch) -> Result<ToSend, (Audience, RecordError)> {
        let messages = batch.builder.record_count();
        let audience =
            Audience { completion: batch.completion, tokens: batch.tokens, messages, permits: batch.permits };
        let base_sequence = self.next_sequence;
        let bytes = match batch.builder.finish(self.stamp(base_sequence)) {
            Ok(bytes) => bytes,
            Err(error) => return Err((audience, error)),
        };
        self.next_sequence = base_sequence.wrapping_add(messages.cast_signed());
        self.numbers += 1;
        self.sent.push_back(Sent {
            number: self.numbers,
            bytes: bytes.clone(),
            base_sequence,
            messages,
            opened: batch.opened,
            audience: Some(audience),
            on_wire: true,
            unknown: false,
            attempts: 1,
        });
        Ok(ToSend { number: self.numbers, bytes, again: None })
    }

    /// The next batch that must be sent again, when it may be.
    pub(crate) fn resend(&mut self, now: Instant) -> Option<ToSend> {
        if self.new_epoch || self.not_before.is_some_and(|not_before| now < not_before) {
            return None;
        }
        let first = self.sent.iter().position(|sent| !sent.on_wire)?;
        if self.sent.iter().skip(first).any(|sent| sent.on_wire) {
            return None;
        }
        let sent = self.sent.get_mut(first)?;
        sent.on_wire = true;
        sent.attempts += 1;
        let again = (sent.attempts > 1).then_some(sent.messages);
        Some(ToSend { number: sent.number, bytes: sent.bytes.clone(), again })
    }

    /// The broker stored it.
    pub(crate) fn stored(&mut self, number: u64) -> Option<Settled> {
        self.not_before = None;
        self.remove(number)
    }

    /// The broker will never store it.
    pub(crate) fn refused(&mut self, number: u64) -> Option<Settled> {
        // The sequences behind it no longer follow the broker's.
        self.new_epoch = true;
        self.remove(number)
    }

    /// The broker did not store it now, or (`unclear`) cannot tell; nothing is sent again before `not_before`.
    pub(crate) fn again(&mut self, number: u64, not_before: Instant, unclear: bool) {
        self.not_before = Some(not_before);
        if let Some(sent) = self.find(number) {
            sent.on_wire = false;
            sent.unknown |= unclear;
        }
    }

    /// The broker expects another sequence. Behind an unsettled batch that is a matter of course: both are sent again.
    /// For the first batch it means that the broker's memory of this producer and ours differ: a new epoch. Nothing
    /// of what is here can be stored then, since the broker would remember the sequence.
    pub(crate) fn out_of_sequence(&mut self, number: u64) {
        if self.sent.front().is_some_and(|first| first.number == number) {
            self.new_epoch = true;
            self.sent.iter_mut().for_each(|sent| sent.unknown = false);
        }
        if let Some(sent) = self.find(number) {
            sent.on_wire = false;
        }
    }

    /// The connection ended before the answer came.
    pub(crate) fn lost(&mut self, number: u64) {
        if let Some(sent) = self.find(number) {
            sent.on_wire = false;
            sent.unknown = true;
        }
    }

    /// Every batch older than `limit` that was not told yet that its time is over.
    pub(crate) fn expire(&mut self, now: Instant, limit: Duration) -> Vec<Expired> {
        self.sent
            .iter_mut()
            .filter(|sent| now.saturating_duration_since(sent.opened) >= limit)
            .filter_map(|sent| {
                let unknown = sent.unknown || sent.on_wire;
                sent.audience.take().map(|audience| Expired { audience, unknown })
            })
            .collect()
    }

    /// To be called after every event: drops what nobody waits for any more, and begins a new epoch where one is due.
    /// Gives the batches that cannot be taken over into it: they may be stored.
    pub(crate) fn settle(&mut self) -> Vec<Settled> {
        let before = self.sent.len();
        self.sent.retain(|sent| sent.on_wire || sent.audience.is_some());
        self.new_epoch |= self.sent.len() < before;
        if !self.new_epoch || self.on_wire() {
            return Vec::new();
        }
        self.begin_epoch();
        let mut failed = Vec::new();
        for mut sent in std::mem::take(&mut self.sent) {
            let stamp = self.stamp(self.next_sequence);
            match restamp_producer(&sent.bytes, stamp) {
                Ok(bytes) if !sent.unknown => {
                    sent.bytes = bytes;
                    sent.base_sequence = stamp.base_sequence;
                    self.next_sequence = self.next_sequence.wrapping_add(sent.messages.cast_signed());
                    self.sent.push_back(sent);
                }
                _ => failed.push(Settled { bytes: sent.bytes, audience: sent.audience }),
            }
        }
        failed
    }

    /// Takes everything out, for the end of the producer.
    pub(crate) fn take_all(&mut self) -> Vec<Settled> {
        let sent = std::mem::take(&mut self.sent);
        sent.into_iter().map(|sent| Settled { bytes: sent.bytes, audience: sent.audience }).collect()
    }

    fn begin_epoch(&mut self) {
        self.new_epoch = false;
        self.next_sequence = 0;
        if let Some(epoch) = self.producer_epoch.checked_add(1) {
            self.producer_epoch = epoch;
        } else {
            self.producer_id = (self.fresh_id)();
            self.producer_epoch = 0;
        }
    }

    fn stamp(&self, base_sequence: i32) -> ProducerStamp {
        ProducerStamp { producer_id: self.producer_id, producer_epoch: self.producer_epoch, base_sequence }
    }

    fn find(&mut self, number: u64) -> Option<&mut Sent> {
        self.sent.iter_mut().find(|sent| sent.number == number)
    }

    fn remove(&mut self, number: u64) -> Option<Settled> {
        let place = self.sent.iter().position(|sent| sent.number == number)?;
        let sent = self.sent.remove(place)?;
        Some(Settled { bytes: sent.bytes, audience: sent.audience })
    }
}

#[cfg(test)]
mod tests;
