//! What a handler may say about its message besides its result.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use equeue_net::api::Tries;
use equeue_record::Offset;

use super::super::feed::Load;
use super::super::received::ReceivedBatch;
use super::super::shared::Shared;
use super::super::track::Track;
use super::retry::{HandBackWish, Wishes};

/// What a handler decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    RetryAfter(Duration),
    Detached,
}

/// What the messages of a piece of work share.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) shared: Arc<Shared>,
    pub(super) track: Arc<Track>,
    pub(super) life: u32,
    pub(super) back: Wishes,
    /// Whose messages they are.
    pub(super) batch: Arc<ReceivedBatch>,
    /// Bytes of a message, on average.
    pub(super) bytes_each: usize,
    /// Of the message at work.
    pub(super) decision: Mutex<Option<(Offset, Decision)>>,
}

/// The place of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: Offset,
    /// Where the next message begins.
    pub(super) end: Offset,
}

/// How an attempt failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// Which one it was.
    pub(super) attempt: u32,
    /// Chosen by the handler.
    pub(super) delay: Option<Duration>,
    /// Where the consumer has counted the attempts, this one included; otherwise the broker counts them.
    pub(super) tries: Tries,
    /// It is for members that want its topic: no attempt was made, and none is the last.
    pub(super) passed_on: bool,
    /// In words.
    pub(super) reason: String,
}

/// What a handler is given with a message.
#[derive(Debug)]
pub struct Context {
    pub(super) piece: Arc<Piece>,
    pub(super) place: Place,
    pub(super) attempt: u32,
    /// Attempts before this one that were made from here.
    pub(super) before: Option<Tries>,
}

/// The right to say, later and from anywhere, what became of a message. While it lives, the message holds the committed
/// offset; dropping it undecided is a failure.
#[derive(Debug)]
pub struct Ack {
    piece: Arc<Piece>,
    place: Place,
    attempt: u32,
    before: Option<Tries>,
    decided: bool,
}

impl Context {
    /// Which attempt this is; the first one is 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The message shall come again after this time, whatever the handler returns.
    pub fn retry_after(&self, delay: Duration) {
        self.decide(Decision::RetryAfter(delay));
    }

    /// The handler returns, but the message is handled only when the [`Ack`] says so. In sequential order the next message
    /// of the queue does not wait for that, and what fails then comes again from the group's retry queue.
    pub fn detach(self) -> Ack {
        self.piece.goes_on();
        self.decide(Decision::Detached);
        let Self { piece, place, attempt, before } = self;
        Ack { piece, place, attempt, before, decided: false }
    }

    /// Whether what the handler does counts no more: the queue was lost, reset, or has drained for too long. Handlers
    /// that await are cancelled then; those that compute for long may look.
    pub fn is_over(&self) -> bool {
        self.piece.track.is_over(self.piece.life)
    }

    fn decide(&self, decision: Decision) {
        *self.piece.decision.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((self.place.offset, decision));
    }
}

impl Piece {
    /// What was decided on this message, if anything.
    pub(super) fn take_decision(&self, offset: Offset) -> Option<Decision> {
        let decision = self.decision.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A context that outlived its handler decides nothing for the next message.
        decision.filter(|(of, _)| *of == offset).map(|(_, decision)| decision)
    }

    /// Hands a message back; it holds the committed offset until the broker has taken it.
    pub(super) fn hand_back(self: &Arc<Self>, place: Place, failed: Failed) {
        self.goes_on();
        self.back.send(HandBackWish { piece: Arc::clone(self), place, failed });
    }

    /// A message is not settled with its piece: it counts as pending, and holds up the draining of its queue.
    fn goes_on(&self) {
        self.track.works_on();
        self.track.load_more(self.load_of_one());
    }

    /// What went on is settled.
    pub(super) fn settled(&self) {
        self.track.unload(self.load_of_one());
        self.worked();
    }

    /// A message that cannot be handed back comes again from here, after a pause that holds up no draining.
    pub(super) fn try_here_again(self: Arc<Self>, place: Place, tries: Tries, pause: Duration) {
        self.track.set_tries(self.life, place.offset, tries);
        self.worked();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.track.life_over(self.life) => {}
            }
            let message = self.batch.part(place.offset, place.end);
            self.track.come_again(self.life, message, self.load_of_one());
        });
    }

    const fn load_of_one(&self) -> Load {
        Load { messages: 1, bytes: self.bytes_each }
    }

    /// A piece of work that held up the draining of the queue is over.
    pub(super) fn worked(&self) {
        if self.track.worked() {
            self.shared.drained.notify_one();
        }
    }

    /// The message is handled.
    pub(super) fn done(&self, place: Place) {
        self.track.done(self.life, place.offset, place.end);
    }
}

impl Ack {
    /// The message is handled.
    pub fn done(mut self) {
        self.decided = true;
        self.piece.done(self.place);
    }

    /// The message shall come again after this time.
    pub fn retry_after(mut self, delay: Duration, reason: &str) {
        self.decided = true;
        self.hand_back(Some(delay), reason);
    }

    /// Whether what it says counts no more.
    pub fn is_over(&self) -> bool {
        self.piece.track.is_over(self.piece.life)
    }

    /// To the retry queue whatever the order: the message's queue went on when it was detached.
    fn hand_back(&self, delay: Option<Duration>, reason: &str) {
        let counted = |before: Tries| Tries { count: self.attempt, ..before };
        let tries = self.before.map_or_else(Tries::default, counted);
        let failed =
            Failed { attempt: self.attempt, delay, tries, passed_on: false, reason: reason.to_owned() };
        self.piece.hand_back(self.place, failed);
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if !self.decided {
            self.hand_back(None, "its acknowledgement was dropped");
        }
        self.piece.settled();
    }
}
