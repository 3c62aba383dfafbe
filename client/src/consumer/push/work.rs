//! Workers: they cut pieces off batches, run the handler on each message of a piece, and note what was handled.
//!
//! Fast handlers get larger pieces, so that locks and wake-ups are paid once for many messages; slow ones get single
//! messages, so that none waits behind another while a worker is idle.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use equeue_net::api::Tries;
use equeue_net::hidden::is_hidden;
use equeue_record::Offset;
use futures::FutureExt as _;
use tracing::warn;

use super::context::{Context, Decision, Failed, Piece, Place};
use super::retry::Wishes;
use super::{OnError, Order, PushOptions};
use crate::message::wall_ms;
use crate::{HandlerError, Received};

use super::super::feed::{Load, Taken};
use super::super::received::ReceivedBatch;
use super::super::shared::Shared;
use super::super::track::{Gives, Track};

/// Messages of one piece.
const PIECE_MESSAGES_MAX: u64 = 64;
/// How long a piece should take.
const PIECE_NS: u64 = 200_000;
/// When a message comes again that is not for this member.
const FOR_OTHERS_PAUSE: Duration = Duration::from_secs(10);
/// How often a long piece notes what was handled.
const NOTE_EVERY: Duration = Duration::from_millis(100);

/// A batch that is being worked on.
struct Hand {
    track: Arc<Track>,
    life: u32,
    batch: Arc<ReceivedBatch>,
    /// Not given to a worker yet.
    messages: VecDeque<Received>,
    /// Where the next piece begins.
    next: Offset,
    /// Of a message, on average.
    bytes_each: usize,
    /// Of `messages`, and of records that nobody wants.
    load: Load,
}

/// A piece of work.
struct Cut {
    track: Arc<Track>,
    life: u32,
    first: Offset,
    end: Offset,
    messages: Vec<Received>,
    load: Load,
    /// Of a message, on average.
    bytes_each: usize,
    batch: Arc<ReceivedBatch>,
}

/// What became of a message.
enum Outcome {
    Done,
    /// It is settled by somebody else.
    Elsewhere,
    /// It counts no more.
    Over,
    /// Not now: the rest of the piece goes back to its queue.
    Later,
}

/// What the workers share.
pub(super) struct Work<H> {
    shared: Arc<Shared>,
    options: PushOptions,
    back: Wishes,
    handler: H,
    hands: Mutex<VecDeque<Hand>>,
    /// How long a handler takes, on average, ns.
    pace_ns: AtomicU64,
}

impl<H, F> Work<H>
where
    H: Fn(Received, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    pub(super) fn new(shared: Arc<Shared>, options: PushOptions, back: Wishes, handler: H) -> Self {
        // Slow until it has shown that it is not.
        let pace_ns = AtomicU64::new(PIECE_NS);
        Self { shared, options, back, handler, hands: Mutex::default(), pace_ns }
    }

    pub(super) fn workers(&self) -> usize {
        self.options.parallel
    }

    /// Works until the feed is closed.
    pub(super) async fn run(self: Arc<Self>) {
        while let Some(cut) = self.next_cut().await {
            self.work(cut).await;
        }
    }

    async fn next_cut(&self) -> Option<Cut> {
        let feed = &self.shared.feed;
        loop {
            if feed.is_closed() {
                return None;
            }
            if let Some(cut) = self.cut() {
                return Some(cut);
            }
            match feed.take(self.options.order == Order::Sequential) {
                Some(Taken::Batch(track, batch, life)) => {
                    self.unpack(track, batch, life);
                    feed.pass_on();
                }
                Some(Taken::Skipped(..)) => {}
                Some(Taken::Trouble(error)) => warn!(%error, "trouble with receiving"),
                None => feed.wait().await,
            }
        }
    }

    fn unpack(&self, track: Arc<Track>, mut batch: ReceivedBatch, life: u32) {
        let all = Load { messages: batch.record_count(), bytes: batch.len_bytes() };
        let next = batch.first_offset();
        match batch.messages() {
            Ok(messages) if messages.is_empty() => {
                track.done(life, next, batch.next_offset());
                self.drop_hand(&track, all);
            }
            Ok(messages) => {
                let bytes_each = all.bytes / all.messages.max(1);
                let (messages, batch): (VecDeque<Received>, _) = (messages.into(), Arc::new(batch));
                self.hands().push_back(Hand { track, life, batch, messages, next, bytes_each, load: all });
            }
            Err(error) => {
                // Its checksum was right: whoever sent it made it so. The queue waits for an operator.
                warn!(topic = %track.topic.name, queue = track.ordinal, offset = %next, %error, "a batch cannot be read; the queue is paused");
                track.set_paused(true);
                track.put_back(life, batch, all);
            }
        }
    }

    fn drop_hand(&self, track: &Arc<Track>, load: Load) {
        track.unload(load);
        if self.options.order == Order::Sequential {
            track.give_again();
        }
    }

    /// The next piece of a batch in hand.
    fn cut(&self) -> Option<Cut> {
        let mut hands = self.hands();
        loop {
            let hand = hands.front_mut()?;
            match hand.track.gives(hand.life) {
                Gives::Now => {}
                Gives::Later | Gives::Never => {
                    let Hand { track, life, batch, next, load, .. } = hands.pop_front()?;
                    drop(hands);
                    track.put_back(life, batch.part(next, batch.next_offset()), load);
                    hands = self.hands();
                    continue;
                }
            }
            let cut = hand.cut(self.piece_size(hand.messages.len()));
            if hand.messages.is_empty() {
                hands.pop_front();
            }
            let more = !hands.is_empty();
            drop(hands);
            if more {
                self.shared.feed.nudge();
            }
            if cut.track.begin(cut.life) {
                return Some(cut);
            }
            self.drop_hand(&cut.track, cut.load);
            hands = self.hands();
        }
    }

    fn piece_size(&self, there: usize) -> usize {
        if self.options.order == Order::Sequential {
            return there;
        }
        let fit = PIECE_NS / self.pace_ns.load(Ordering::Relaxed).max(1);
        usize::try_from(fit.clamp(1, PIECE_MESSAGES_MAX)).unwrap_or(1).min(there)
    }

    async fn work(&self, cut: Cut) {
        let Cut { track, life, first, end, messages, mut load, bytes_each, batch } = cut;
        let piece = Arc::new(Piece {
            shared: Arc::clone(&self.shared),
            track: Arc::clone(&track),
            life,
            back: self.back.clone(),
            batch: Arc::clone(&batch),
            bytes_each,
            decision: Mutex::new(None),
        });
        let (begin, count) = (Instant::now(), messages.len());
        let mut over = std::pin::pin!(track.life_over(life));
        // Handled, and not noted yet.
        let (mut clean, mut noted) = (first, begin);
        let mut gives_again = self.options.order == Order::Sequential;
        let mut messages = messages.into_iter().peekable();
        while let Some(message) = messages.next() {
            let place =
                Place { offset: message.offset, end: messages.peek().map_or(end, |next| next.offset) };
            match self.settle(&piece, place, message, over.as_mut()).await {
                Outcome::Done => {}
                Outcome::Elsewhere => {
                    track.done(life, clean, place.offset);
                    clean = place.end;
                }
                Outcome::Over => {
                    track.done(life, clean, place.offset);
                    clean = end;
                    break;
                }
                Outcome::Later => {
                    track.done(life, clean, place.offset);
                    clean = end;
                    let left = messages.len() + 1;
                    let rest = Load { messages: left, bytes: left * bytes_each };
                    load.take(rest);
                    // From here on the queue is in the list whenever it may give, and another worker may have it.
                    track.put_back(life, batch.part(place.offset, end), rest);
                    gives_again = false;
                    break;
                }
            }
            if count > 1 && noted.elapsed() >= NOTE_EVERY {
                track.done(life, clean, place.end);
                (clean, noted) = (clean.max(place.end), Instant::now());
            }
        }
        track.done(life, clean, end);
        let taken = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX) / (count as u64).max(1);
        let pace = self.pace_ns.load(Ordering::Relaxed);
        self.pace_ns.store(pace - pace / 8 + taken / 8, Ordering::Relaxed);
        track.unload(load);
        piece.worked();
        if gives_again {
            track.give_again();
        }
    }

    /// Handles one message.
    async fn settle(
        &self,
        piece: &Arc<Piece>,
        place: Place,
        message: Received,
        over: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Outcome {
        let track = &piece.track;
        match track.gives(piece.life) {
            Gives::Now if !self.shared.feed.is_closed() => {}
            Gives::Later if !self.shared.feed.is_closed() => return Outcome::Later,
            _ => return Outcome::Over,
        }
        if self.is_for_others(&message) {
            let tries = Tries { count: message.attempt().saturating_sub(1), since_ms: wall_ms() };
            let reason = message.origin().map_or_else(String::new, |origin| origin.reason.to_owned());
            let delay = Some(FOR_OTHERS_PAUSE);
            piece.hand_back(place, Failed { attempt: tries.count, delay, tries, passed_on: true, reason });
            return Outcome::Elsewhere;
        }
        let holds = self.options.on_error() == OnError::HoldQueue;
        let before = track.take_tries(place.offset);
        let attempt = before.map_or_else(|| message.attempt(), |tries| tries.count.saturating_add(1));
        let context = Context { piece: Arc::clone(piece), place, attempt, before };
        let handling = AssertUnwindSafe((self.handler)(message, context)).catch_unwind();
        let result = tokio::select! {
            biased;
            result = handling => result,
            () = over => return Outcome::Over,
        };
        let (delay, reason) = match (piece.take_decision(place.offset), result) {
            (Some(Decision::Detached), _) => return Outcome::Elsewhere,
            (Some(Decision::RetryAfter(delay)), result) => (Some(delay), reason_of(result)),
            (None, Ok(Ok(()))) => return Outcome::Done,
            (None, Ok(Err(error @ HandlerError::Skip(_)))) => {
                warn!(topic = %track.topic.name, queue = track.ordinal, offset = %place.offset, %error, "not handled");
                return Outcome::Done;
            }
            (None, result) => (None, reason_of(result)),
        };
        let counted = Tries { count: attempt, since_ms: before.map_or_else(wall_ms, |tries| tries.since_ms) };
        if !holds || attempt >= self.options.attempts_max {
            let tries = if holds || before.is_some() { counted } else { Tries::default() };
            piece.hand_back(place, Failed { attempt, delay, tries, passed_on: false, reason });
            return Outcome::Elsewhere;
        }
        warn!(topic = %track.topic.name, queue = track.ordinal, offset = %place.offset, attempt, reason, "not handled; the queue waits for it");
        // The queue gives nothing until then, and the worker goes on with others.
        let pause = delay.unwrap_or_else(|| self.options.pause_after(attempt));
        track.hold(piece.life, place.offset, counted, pause);
        Outcome::Later
    }

    /// A message to be tried again that was sent to a topic which this member did not subscribe to. It gets one where no
    /// member of the group has subscribed to all of the group's topics.
    fn is_for_others(&self, message: &Received) -> bool {
        is_hidden(&message.topic) && !self.shared.topics.iter().any(|topic| *topic.name == *message.sent_to())
    }

    fn hands(&self) -> MutexGuard<'_, VecDeque<Hand>> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand {
    /// Takes the next `count` messages off.
    fn cut(&mut self, count: usize) -> Cut {
        let messages: Vec<Received> = self.messages.drain(..count.min(self.messages.len())).collect();
        let first = self.next;
        self.next = self.messages.front().map_or_else(|| self.batch.next_offset(), |next| next.offset);
        let load = if self.messages.is_empty() {
            self.load
        } else {
            Load { messages: messages.len(), bytes: messages.len() * self.bytes_each }
        };
        self.load.take(load);
        Cut {
            track: Arc::clone(&self.track),
            life: self.life,
            first,
            end: self.next,
            messages,
            load,
            bytes_each: self.bytes_each,
            batch: Arc::clone(&self.batch),
        }
    }
}

/// Why a message was not handled, in words.
fn reason_of(result: std::thread::Result<Result<(), HandlerError>>) -> String {
    match result {
        Ok(Ok(())) => "asked for by the handler".to_owned(),
        Ok(Err(error)) => error.reason(),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            format!("the handler panicked: {}", text.unwrap_or_default())
        }
    }
}
