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
    pub(crate) fn has_again(&self) -> bool {
        self.sent.iter().any(|sent| !sent.on_wire)
    }

    /// From when on something may be sent again; `None`: at once.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
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
mod tests {
    use bytes::BytesMut;
    use equeue_record::{BatchHeader, Codec, RecordFields, check_batch};

    use super::super::intake::{BatchPlan, Incoming, Intake};
    use super::*;

    fn batch(messages: u32, now: Instant) -> Batch {
        let plan = BatchPlan {
            codec: Codec::None,
            bytes_max: 1 << 16,
            single_bytes_max: 1 << 16,
            open_max: Duration::from_secs(1),
        };
        let mut intake = Intake::default();
        for _ in 0..messages {
            let incoming = Incoming {
                fields: RecordFields { body: Some(b"x"), ..RecordFields::default() },
                create_now: true,
                content_bytes: 1,
                permits: 1,
                token: None,
                bound: true,
            };
            intake.push(incoming, &plan, now, || 0, BytesMut::new).unwrap();
        }
        intake.take(true, Duration::ZERO, now).unwrap()
    }

    fn outbox() -> Outbox {
        Outbox::new(|| 77)
    }

    fn header(bytes: &Bytes) -> BatchHeader {
        check_batch(bytes).expect("frozen batches are whole")
    }

    /// Sends three batches of 2, 3 and 4 messages.
    fn three(outbox: &mut Outbox, now: Instant) -> Vec<ToSend> {
        [2, 3, 4].into_iter().map(|messages| outbox.freeze(batch(messages, now)).unwrap()).collect()
    }

    #[test]
    fn a_batch_without_an_answer_holds_back_those_beyond_what_the_broker_remembers() {
        let now = Instant::now();
        let mut outbox = outbox();
        let sent: Vec<ToSend> = (0..5).map(|_| outbox.freeze(batch(1, now)).unwrap()).collect();
        for later in &sent[1..] {
            outbox.stored(later.number);
        }
        assert!(!outbox.has_room(5), "batch 1 is not answered and batch 6 would be the sixth");
        outbox.stored(sent[0].number);
        assert!(outbox.has_room(5));
    }

    #[test]
    fn sequences_follow_one_another_and_resends_are_the_same_bytes() {
        let now = Instant::now();
        let mut outbox = outbox();
        let sent = three(&mut outbox, now);
        let sequences: Vec<i32> = sent.iter().map(|sent| header(&sent.bytes).base_sequence).collect();
        assert_eq!(sequences, [0, 2, 5]);
        assert!(outbox.has_room(5) && !outbox.has_room(3));
        for sent in &sent {
            outbox.lost(sent.number);
        }
        assert!(outbox.settle().is_empty());
        assert!(!outbox.has_room(5), "what is to be sent again goes first");
        for first in &sent {
            let again = outbox.resend(now).unwrap();
            assert_eq!(
                (again.number, &again.bytes, again.again.is_some()),
                (first.number, &first.bytes, true)
            );
        }
        assert!(outbox.resend(now).is_none());
        for sent in &sent {
            assert_eq!(outbox.stored(sent.number).unwrap().audience.unwrap().completion.outcome(0), None);
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_gap_behind_an_unsettled_batch_is_resent_from_it() {
        let now = Instant::now();
        let mut outbox = outbox();
        let sent = three(&mut outbox, now);
        let later = now + Duration::from_millis(50);
        outbox.again(sent[0].number, later, false);
        outbox.out_of_sequence(sent[1].number);
        assert!(outbox.settle().is_empty());
        assert!(outbox.resend(later).is_none(), "the third is still on its way");
        outbox.out_of_sequence(sent[2].number);
        assert!(outbox.settle().is_empty());
        assert!(outbox.resend(now).is_none(), "the broker asked to wait");
        let again: Vec<u64> = std::iter::from_fn(|| outbox.resend(later)).map(|again| again.number).collect();
        assert_eq!(again, sent.iter().map(|sent| sent.number).collect::<Vec<_>>());
    }

    #[test]
    fn a_broker_that_forgot_the_producer_gets_a_new_epoch_in_order() {
        let now = Instant::now();
        let mut outbox = outbox();
        let first = outbox.freeze(batch(7, now)).unwrap();
        outbox.stored(first.number).unwrap();
        let sent = three(&mut outbox, now);
        outbox.lost(sent[0].number);
        for sent in &sent {
            outbox.out_of_sequence(sent.number);
            assert!(outbox.settle().is_empty());
        }
        let again: Vec<BatchHeader> =
            std::iter::from_fn(|| outbox.resend(now)).map(|again| header(&again.bytes)).collect();
        let stamps: Vec<_> =
            again.iter().map(|header| (header.producer_epoch, header.base_sequence)).collect();
        assert_eq!(stamps, [(1, 0), (1, 2), (1, 5)]);
        assert_eq!(header(&outbox.freeze(batch(1, now)).unwrap().bytes).base_sequence, 9);
    }

    #[test]
    fn giving_up_an_unknown_batch_begins_an_epoch_without_the_unknown_ones() {
        let now = Instant::now();
        let limit = Duration::from_secs(5);
        let mut outbox = outbox();
        let sent = three(&mut outbox, now);
        outbox.lost(sent[0].number);
        outbox.lost(sent[1].number);
        outbox.again(sent[2].number, now, false);
        let late = now + limit;
        let expired = outbox.expire(late, limit);
        assert_eq!(expired.iter().map(|expired| expired.unknown).collect::<Vec<_>>(), [true, true, false]);
        assert!(outbox.expire(late, limit).is_empty(), "each is told once");
        assert!(outbox.settle().is_empty());
        assert!(outbox.is_empty());
        let next = header(&outbox.freeze(batch(1, late)).unwrap().bytes);
        assert_eq!((next.producer_epoch, next.base_sequence), (1, 0));
    }

    #[test]
    fn younger_unknown_batches_fail_with_the_one_given_up_and_known_ones_go_on() {
        let now = Instant::now();
        let limit = Duration::from_secs(5);
        let mut outbox = outbox();
        let old = outbox.freeze(batch(1, now)).unwrap();
        let young: Vec<ToSend> = (0..2).map(|_| outbox.freeze(batch(1, now + limit / 2)).unwrap()).collect();
        outbox.lost(old.number);
        outbox.lost(young[0].number);
        outbox.again(young[1].number, now, false);
        assert_eq!(outbox.expire(now + limit, limit).len(), 1);
        let failed = outbox.settle();
        assert_eq!(failed.len(), 1, "the unknown one cannot go into the new epoch");
        let again = outbox.resend(now + limit).unwrap();
        assert_eq!(again.number, young[1].number);
        let header = header(&again.bytes);
        assert_eq!((header.producer_epoch, header.base_sequence), (1, 0));
    }

    #[test]
    fn a_late_success_of_an_expired_batch_costs_no_epoch() {
        let now = Instant::now();
        let limit = Duration::from_secs(5);
        let mut outbox = outbox();
        let sent = three(&mut outbox, now);
        assert_eq!(outbox.expire(now + limit, limit).len(), 3);
        for sent in &sent {
            assert!(outbox.settle().is_empty());
            assert!(outbox.stored(sent.number).unwrap().audience.is_none());
        }
        let next = header(&outbox.freeze(batch(1, now)).unwrap().bytes);
        assert_eq!((next.producer_epoch, next.base_sequence), (0, 9));
    }

    #[test]
    fn a_refused_batch_does_not_stop_those_behind_it() {
        let now = Instant::now();
        let mut outbox = outbox();
        let sent = three(&mut outbox, now);
        assert!(outbox.refused(sent[0].number).unwrap().audience.is_some());
        assert!(outbox.settle().is_empty());
        assert!(outbox.resend(now).is_none());
        outbox.out_of_sequence(sent[1].number);
        outbox.out_of_sequence(sent[2].number);
        assert!(outbox.settle().is_empty());
        let again: Vec<i32> = std::iter::from_fn(|| outbox.resend(now))
            .map(|again| header(&again.bytes).base_sequence)
            .collect();
        assert_eq!(again, [0, 3]);
    }

    #[test]
    fn the_last_epoch_is_followed_by_another_producer_id() {
        let now = Instant::now();
        let mut outbox = outbox();
        outbox.producer_epoch = i16::MAX;
        outbox.fresh_id = || 88;
        let sent = outbox.freeze(batch(1, now)).unwrap();
        outbox.out_of_sequence(sent.number);
        outbox.settle();
        let header = header(&outbox.resend(now).unwrap().bytes);
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (88, 0, 0));
    }
}
