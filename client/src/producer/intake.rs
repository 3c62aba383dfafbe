//! Batches that messages are put into: the part of a queue that the application's threads and the sender share.
//!
//! **Invariants**: a message is copied once, into the open batch; nothing is allocated per message; a batch that was
//! taken for sending never comes back. Pure: time is given, never read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use equeue_record::{BatchBuilder, Codec, PushError, RecordFields};

use super::completion::Completion;

/// Room for a batch's header and a record's own fields beside the content, when a message needs a batch of its own.
const OVERHEAD: usize = 1024;

/// A batch that was not sent yet.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Its records.
    pub builder: BatchBuilder,
    /// Its outcome.
    pub completion: Arc<Completion>,
    /// Index and token of the messages whose outcome goes to the callback.
    pub tokens: Vec<(u32, u64)>,
    /// Room that its messages take in the window, bytes.
    pub permits: usize,
    /// When its first message came.
    pub opened: Instant,
    /// The same moment by the coarse clock.
    opened_ticks: Duration,
    /// The same moment, ms UTC.
    opened_ms: i64,
    /// It takes messages for no longer than this.
    open_max: Duration,
    /// It holds a message that may go to no other queue.
    pub bound: bool,
    /// It takes no more messages.
    closed: bool,
    /// Somebody waits for it: no linger.
    pub urgent: bool,
}

/// Where a message landed.
#[derive(Debug)]
pub(crate) struct Place {
    /// The batch's outcome; `None` for a message with a token.
    pub completion: Option<Arc<Completion>>,
    /// The message's index in the batch.
    pub index: u32,
    /// The sender has something new to do.
    pub wake: bool,
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPlan {
    /// How they are compressed.
    pub codec: Codec,
    /// Largest batch.
    pub bytes_max: usize,
    /// Largest batch of a single message.
    pub single_bytes_max: usize,
    /// A batch takes messages for no longer than this: they share its deadline.
    pub open_max: Duration,
}

/// A message on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// Its fields; `create_time_ms` is set here when `create_now`.
    pub fields: RecordFields<'a>,
    /// It has no create time of its own.
    pub create_now: bool,
    /// Bytes that it brings along.
    pub content_bytes: usize,
    /// Room that it took in the window, bytes.
    pub permits: usize,
    /// For the callback.
    pub token: Option<u64>,
    /// It may go to no other queue.
    pub bound: bool,
}

/// When a batch is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// By the exact clock: lingers and timeouts count from here.
    pub at: Instant,
    /// ms UTC.
    pub wall_ms: i64,
}

/// The unsent batches of one queue; only the last one may take messages.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    batches: VecDeque<Batch>,
    /// Messages that ask for no acknowledgement: at most one batch.
    pub one_way: Option<Batch>,
    /// The queue is on a sender's list.
    pub listed: bool,
}

impl Intake {
    /// Copies a message into the open batch, or into a new one. `ticks` is the coarse clock's time; `opening` and
    /// `buffer` are called for a new batch.
    pub(crate) fn push(
        &mut self,
        mut incoming: Incoming<'_>,
        plan: &BatchPlan,
        ticks: Duration,
        opening: impl FnOnce() -> Opening,
        buffer: impl FnOnce() -> BytesMut,
    ) -> Result<Place, PushError> {
        if let Some(open) = self.batches.back_mut().filter(|batch| !batch.closed) {
            match open.push(&mut incoming, ticks) {
                Ok(index) => {
                    return Ok(Place { completion: open.share(&incoming), index, wake: false });
                }
                // Full, or too large for an ordinary batch: decided below, in a new one.
                Err(PushError::Full { .. } | PushError::TooLarge { .. }) => {}
            }
        }
        let mut batch = Batch::open(&incoming, plan, ticks, opening(), buffer());
        let index = batch.push(&mut incoming, ticks)?;
        let completion = batch.share(&incoming);
        // One that is whole now may be sent even where an unfinished one would have to wait.
        let wake = self.batches.back_mut().is_none_or(|last| !std::mem::replace(&mut last.closed, true));
        self.batches.push_back(batch);
        Ok(Place { completion, index, wake })
    }

    /// Copies a message into the batch that nobody acknowledges; whether it is a new one.
    pub(crate) fn push_one_way(
        &mut self,
        mut incoming: Incoming<'_>,
        plan: &BatchPlan,
        ticks: Duration,
        opening: impl FnOnce() -> Opening,
    ) -> Result<bool, PushError> {
        if let Some(batch) = &mut self.one_way {
            return batch.push(&mut incoming, ticks).map(|_| false);
        }
        let mut batch = Batch::open(&incoming, plan, ticks, opening(), BytesMut::new());
        batch.push(&mut incoming, ticks)?;
        self.one_way = Some(batch);
        Ok(true)
    }

    /// Takes the first batch for sending: one that takes no more messages, or with `partial` also an unfinished one whose
    /// linger is over.
    pub(crate) fn take(&mut self, partial: bool, linger: Duration, now: Instant) -> Option<Batch> {
        let first = self.batches.front()?;
        let age = now.saturating_duration_since(first.opened);
        let whole = first.closed || self.batches.len() > 1 || age > first.open_max;
        let due = partial && (first.urgent || age >= linger);
        if whole || due { self.batches.pop_front() } else { None }
    }

    /// When the linger of the first batch is over, if that is what it waits for.
    pub(crate) fn linger_until(&self, linger: Duration) -> Option<Instant> {
        let first = self.batches.front()?;
        (!first.closed && !first.urgent && self.batches.len() == 1).then(|| first.opened + linger)
    }

    /// Takes every batch that has waited for longer than `limit`.
    pub(crate) fn take_expired(&mut self, now: Instant, limit: Duration) -> Vec<Batch> {
        let mut expired = Vec::new();
        while self.batches.front().is_some_and(|first| now.saturating_duration_since(first.opened) >= limit) {
            expired.extend(self.batches.pop_front());
        }
        expired
    }

    /// Takes every batch that may as well go to another queue.
    pub(crate) fn take_free(&mut self) -> Vec<Batch> {
        let (free, bound) = std::mem::take(&mut self.batches).into_iter().partition(|batch| !batch.bound);
        self.batches = bound;
        Vec::from_iter::<VecDeque<_>>(free)
    }

    /// Takes every batch.
    pub(crate) fn take_all(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.batches).into()
    }

    /// Puts a batch of another queue in front of the open one.
    pub(crate) fn adopt(&mut self, mut batch: Batch) {
        batch.closed = true;
        let open = self.batches.back().is_some_and(|last| !last.closed);
        let place = self.batches.len() - usize::from(open);
        self.batches.insert(place, batch);
    }

    /// No linger for what is there now; the outcomes to wait for.
    pub(crate) fn hurry(&mut self) -> impl Iterator<Item = Arc<Completion>> {
        self.batches.iter_mut().map(|batch| {
            batch.urgent = true;
            Arc::clone(&batch.completion)
        })
    }

    /// Whether something may be sent that no rule holds back: a batch that takes no more messages, or one that nobody
    /// acknowledges.
    pub(crate) fn has_whole(&self) -> bool {
        let whole = self.batches.len() > 1 || self.batches.front().is_some_and(|first| first.closed);
        whole || self.one_way.is_some()
    }

    /// Whether nothing waits here.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.one_way.is_none()
    }
}

impl Batch {
    fn open(
        incoming: &Incoming<'_>,
        plan: &BatchPlan,
        ticks: Duration,
        opening: Opening,
        buffer: BytesMut,
    ) -> Self {
        let alone = incoming.content_bytes.saturating_add(OVERHEAD) > plan.bytes_max;
        let bytes_max = if alone { plan.single_bytes_max.max(plan.bytes_max) } else { plan.bytes_max };
        let mut builder = BatchBuilder::in_buffer(buffer, plan.codec, bytes_max);
        if incoming.fields.deliver_at_ms.is_some() {
            builder.set_delayed();
        }
        Self {
            builder,
            completion: Arc::default(),
            tokens: Vec::new(),
            permits: 0,
            opened: opening.at,
            opened_ticks: ticks,
            opened_ms: opening.wall_ms,
            open_max: plan.open_max,
            bound: false,
            closed: alone,
            urgent: false,
        }
    }

    fn share(&self, incoming: &Incoming<'_>) -> Option<Arc<Completion>> {
        incoming.token.is_none().then(|| Arc::clone(&self.completion))
    }

    fn push(&mut self, incoming: &mut Incoming<'_>, ticks: Duration) -> Result<u32, PushError> {
        let age = ticks.saturating_sub(self.opened_ticks);
        if age > self.open_max && !self.builder.is_empty() {
            return Err(PushError::Full { record_bytes: incoming.content_bytes });
        }
        if incoming.create_now {
            incoming.fields.create_time_ms =
                self.opened_ms.saturating_add(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        }
        let index = self.builder.push(&incoming.fields)?;
        self.permits += incoming.permits;
        self.bound |= incoming.bound;
        if let Some(token) = incoming.token {
            self.tokens.push((index, token));
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const PLAN: BatchPlan = BatchPlan {
        codec: Codec::None,
        bytes_max: 1500,
        single_bytes_max: 10_000,
        open_max: Duration::from_secs(1),
    };

    fn incoming(body: &[u8], bound: bool) -> Incoming<'_> {
        Incoming {
            fields: RecordFields { body: Some(body), ..RecordFields::default() },
            create_now: true,
            content_bytes: body.len(),
            permits: body.len(),
            token: None,
            bound,
        }
    }

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn push(intake: &mut Intake, len: usize, bound: bool, now: Instant) -> Result<Place, PushError> {
        let ticks = now.saturating_duration_since(*START);
        let opening = || Opening { at: now, wall_ms: 1_000 };
        intake.push(incoming(&vec![7; len], bound), &PLAN, ticks, opening, BytesMut::new)
    }

    #[test]
    fn batches_grow_until_they_are_full_or_old() {
        let mut intake = Intake::default();
        let now = Instant::now();
        let places: Vec<Place> = (0..5).map(|_| push(&mut intake, 400, true, now).unwrap()).collect();
        assert_eq!(places.iter().map(|place| place.index).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        // Woken for the first message, and when a batch is whole; not for each message.
        assert_eq!(
            places.iter().map(|place| place.wake).collect::<Vec<_>>(),
            [true, false, false, true, false]
        );
        assert!(Arc::ptr_eq(places[0].completion.as_ref().unwrap(), places[2].completion.as_ref().unwrap()));
        let old = now + Duration::from_secs(2);
        assert_eq!(push(&mut intake, 10, true, old).unwrap().index, 0, "an old batch takes no more");
        assert_eq!(intake.take(false, Duration::ZERO, old).unwrap().builder.record_count(), 3);
        assert_eq!(intake.take(false, Duration::ZERO, old).unwrap().builder.record_count(), 2);
        assert!(intake.take(false, Duration::ZERO, old).is_none(), "the last one is not whole");
        assert_eq!(intake.take(true, Duration::ZERO, old).unwrap().builder.record_count(), 1);
        assert!(intake.is_empty());
    }

    #[test]
    fn a_large_message_gets_a_batch_of_its_own_up_to_the_limit() {
        let mut intake = Intake::default();
        let now = Instant::now();
        push(&mut intake, 10, true, now).unwrap();
        assert_eq!(push(&mut intake, 9_000, true, now).unwrap().index, 0);
        assert_eq!(push(&mut intake, 10, true, now).unwrap().index, 0, "nothing joins it");
        assert!(matches!(push(&mut intake, 20_000, true, now), Err(PushError::TooLarge { .. })));
        assert_eq!(push(&mut intake, 10, true, now).unwrap().index, 1, "a refused one changes nothing");
        let counts: Vec<u32> = intake.take_all().iter().map(|batch| batch.builder.record_count()).collect();
        assert_eq!(counts, [1, 1, 2]);
    }

    #[test]
    fn linger_holds_an_unfinished_batch_unless_somebody_waits() {
        let linger = Duration::from_millis(5);
        let mut intake = Intake::default();
        let now = Instant::now();
        push(&mut intake, 10, true, now).unwrap();
        assert!(intake.take(true, linger, now).is_none());
        assert_eq!(intake.linger_until(linger), Some(now + linger));
        assert_eq!(intake.hurry().count(), 1);
        assert_eq!(intake.linger_until(linger), None);
        assert!(intake.take(true, linger, now).is_some());
        push(&mut intake, 10, true, now).unwrap();
        assert!(intake.take(true, linger, now + linger).is_some());
    }

    #[test]
    fn a_batch_that_takes_no_more_messages_is_not_held_for_others() {
        let mut intake = Intake::default();
        let now = Instant::now();
        push(&mut intake, 10, true, now).unwrap();
        assert!(intake.take(false, Duration::ZERO, now + Duration::from_secs(1)).is_none());
        assert!(intake.take(false, Duration::ZERO, now + Duration::from_millis(1001)).is_some());
    }

    #[test]
    fn only_free_batches_move() {
        let now = Instant::now();
        let (mut from, mut to) = (Intake::default(), Intake::default());
        push(&mut from, 1400, false, now).unwrap();
        push(&mut from, 1400, true, now).unwrap();
        push(&mut from, 1400, false, now).unwrap();
        push(&mut to, 10, true, now).unwrap();
        let free = from.take_free();
        assert_eq!(free.len(), 2);
        for batch in free {
            to.adopt(batch);
        }
        assert_eq!(push(&mut to, 10, true, now).unwrap().index, 1, "the open batch is still open");
        assert_eq!(to.take_all().len(), 3);
        assert_eq!(from.take_expired(now + Duration::from_secs(9), Duration::from_secs(5)).len(), 1);
        assert!(from.is_empty());
    }
}
