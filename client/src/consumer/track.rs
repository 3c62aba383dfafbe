//! One queue that this member owns: where it lives, what of it waits, and how far each stage has come.
//!
//! Stages, each at or behind the one before it: handed (fetched and checked), delivered (given to the application),
//! handled (may be committed), committed (durable on the broker).
//!
//! **Invariants**: nothing is delivered without a lease, while draining, or after the end; what was delivered in an
//! earlier *life* of the queue (before a reset, a seek, or the end) moves no offset any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use equeue_record::{Offset, QueueKey};
use tokio::sync::{Notify, watch};

use super::cursor::{Asked, Cursor};
use super::feed::{Feed, Item, Load};
use super::filter::TopicFilter;
use super::group::lease::Lease;
use super::progress::Progress;
use super::received::ReceivedBatch;

/// Where a queue lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// Name of its broker.
    pub broker: Arc<str>,
    /// Shard that serves it.
    pub shard: u16,
    /// Its key.
    pub key: QueueKey,
}

/// Topic and ordinal.
pub(crate) type QueueId = (Arc<str>, u32);

/// What became of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    /// Nothing new is delivered; what was, is being finished.
    Draining,
    /// Not ours any more.
    Ended,
}

/// Who says that messages are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandledBy {
    /// The next call that pulls.
    Calls,
    /// A commit of the application.
    Commits,
    /// Handlers, message by message.
    Handlers,
}

/// Whether messages of a queue may be given to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gives {
    Now,
    /// It is paused, or its lease has lapsed and may be renewed.
    Later,
    /// It drains, was reset, or is not ours any more.
    Never,
}

/// See the module. It may move to another shard; a queue made anew (another key) gets a new track.
#[derive(Debug)]
pub(crate) struct Track {
    /// Its topic.
    pub topic: Arc<TopicFilter>,
    /// Its number in the topic.
    pub ordinal: u32,
    /// Check of the cluster's name.
    pub cluster_check: u16,
    /// Until when it may be worked on.
    pub lease: Lease,
    home: ArcSwap<Home>,
    feed: Arc<Feed>,
    handled_by: HandledBy,
    high_watermark: AtomicU64,
    /// The present life: handlers of another one are cancelled.
    life: watch::Sender<u32>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    grant_epoch: u32,
    phase: Phase,
    paused: bool,
    cursor: Cursor,
    buffer: VecDeque<Item>,
    waiting: Load,
    at_work: Load,
    /// Pieces of work that handlers have.
    working: usize,
    /// It is in the feed's list, or somebody holds it.
    listed: bool,
    /// Where the present life began.
    begun_at: Offset,
    /// After everything that was taken from the buffer.
    taken_to: Offset,
    delivered: Offset,
    progress: Progress,
    /// `None`: the group has no committed offset here, and even the start is worth a commit: it pins where it began.
    committed: Option<Offset>,
    /// Messages that the queue waits for before they are tried again.
    holds: std::collections::BTreeSet<Offset>,
    /// How often they were tried.
    attempts: std::collections::BTreeMap<Offset, u32>,
    /// Wakes the fetcher of the queue.
    fetcher: Option<Arc<Notify>>,
}

/// How a queue begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// The first offset to read.
    pub offset: Offset,
    /// What the group has committed.
    pub committed: Option<Offset>,
    /// The grant; 0: none.
    pub grant_epoch: u32,
}

impl Track {
    /// A queue that is read from `start` on.
    pub(crate) fn new(
        topic: Arc<TopicFilter>,
        ordinal: u32,
        home: Home,
        start: Start,
        cluster_check: u16,
        (feed, handled_by): (Arc<Feed>, HandledBy),
    ) -> Self {
        let state = State {
            grant_epoch: start.grant_epoch,
            phase: Phase::Live,
            paused: false,
            cursor: Cursor::at(start.offset),
            buffer: VecDeque::new(),
            waiting: Load::default(),
            at_work: Load::default(),
            working: 0,
            listed: false,
            begun_at: start.offset,
            taken_to: start.offset,
            delivered: start.offset,
            progress: Progress::from(start.offset),
            committed: start.committed,
            holds: std::collections::BTreeSet::new(),
            attempts: std::collections::BTreeMap::new(),
            fetcher: None,
        };
        Self {
            topic,
            ordinal,
            cluster_check,
            lease: Lease::none(),
            home: ArcSwap::from_pointee(home),
            feed,
            handled_by,
            high_watermark: AtomicU64::new(start.offset.0),
            life: watch::Sender::new(0),
            state: Mutex::new(state),
        }
    }

    /// Its topic and ordinal.
    pub(crate) fn id(&self) -> QueueId {
        (Arc::clone(&self.topic.name), self.ordinal)
    }

    /// Where it lives.
    pub(crate) fn home(&self) -> Arc<Home> {
        self.home.load_full()
    }

    /// It lives elsewhere now; what is on the way from there is dropped.
    pub(crate) fn set_home(&self, home: Home) {
        self.home.store(Arc::new(home));
        self.state().cursor.back();
    }

    /// The fetcher to wake when more of it is wanted.
    pub(crate) fn set_fetcher(&self, fetcher: Option<Arc<Notify>>) {
        self.state().fetcher = fetcher;
    }

    /// The grant it is read under; 0: none.
    pub(crate) fn grant_epoch(&self) -> u32 {
        self.state().grant_epoch
    }

    /// What the broker said last of its end.
    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// See [`Track::high_watermark`].
    pub(crate) fn set_high_watermark(&self, end: Offset) {
        self.high_watermark.store(end.0, Ordering::Release);
    }

    /// From where to fetch, and under which grant; `None`: not now.
    pub(crate) fn ask(&self) -> Option<(Asked, u32)> {
        let state = self.state();
        let mut load = state.waiting;
        load.add(state.at_work);
        let wanted =
            state.phase == Phase::Live && !state.paused && !load.reaches(self.feed.limit_per_queue());
        wanted.then(|| (state.cursor.ask(), state.grant_epoch))
    }

    /// See [`Cursor::answered`].
    pub(crate) fn answered(&self, asked: Asked, next: Offset) -> bool {
        self.state().cursor.answered(asked, next)
    }

    /// Whether an answer to this still counts.
    pub(crate) fn counts(&self, asked: Asked) -> bool {
        self.state().cursor.counts(asked)
    }

    /// The course that the next fetch leaves on.
    pub(crate) fn ask_again(&self) -> Asked {
        self.state().cursor.ask()
    }

    /// What was asked for and not handed on is asked for again.
    pub(crate) fn back(&self, asked: Asked) {
        let mut state = self.state();
        if state.cursor.counts(asked) {
            state.cursor.back();
        }
    }

    /// Puts something fetched behind what waits; it reaches to `end`. Whether it counted.
    pub(crate) fn hand(self: &Arc<Self>, asked: Asked, item: Item, end: Offset) -> bool {
        let list = {
            let mut state = self.state();
            if state.phase != Phase::Live || !state.cursor.hand(asked, end) {
                return false;
            }
            let load = load_of(&item);
            state.waiting.add(load);
            self.feed.loaded(load);
            state.buffer.push_back(item);
            state.list()
        };
        self.list_if(list);
        true
    }

    /// The next thing that waits, the life it belongs to, and whether the queue stays in the list. `hold`: it does not,
    /// until [`Track::give_again`].
    pub(crate) fn take(&self, hold: bool) -> Option<(Item, u32, bool)> {
        let mut state = self.state();
        let gives =
            state.phase == Phase::Live && !state.paused && state.holds.is_empty() && self.lease.holds();
        let Some(item) = gives.then(|| state.buffer.pop_front()).flatten() else {
            state.listed = false;
            return None;
        };
        state.taken_to = state.taken_to.max(match &item {
            Item::Batch(batch) => batch.next_offset(),
            Item::Skipped(next) => *next,
        });
        if self.handled_by == HandledBy::Handlers {
            // In the order of the queue, whatever the order in which workers begin: nothing is committed past it.
            match &item {
                Item::Batch(batch) => {
                    state.progress.begin(batch.first_offset(), batch.next_offset());
                    state.delivered = state.delivered.max(batch.next_offset());
                }
                Item::Skipped(next) => {
                    state.progress.skip_to(*next);
                    state.delivered = state.delivered.max(*next);
                }
            }
        }
        let load = load_of(&item);
        let hold = hold && matches!(item, Item::Batch(_));
        let before = state.load();
        state.waiting.take(load);
        if self.handled_by == HandledBy::Handlers {
            state.at_work.add(load);
        } else {
            self.feed.unloaded(load);
        }
        let more = !hold && !state.buffer.is_empty();
        state.listed = hold || more;
        state.wake_fetcher(before, self.feed.limit_per_queue());
        Some((item, *self.life.borrow(), more))
    }

    /// The queue that somebody held may give again.
    pub(crate) fn give_again(self: &Arc<Self>) {
        let list = {
            let mut state = self.state();
            state.listed = false;
            state.list()
        };
        self.list_if(list);
    }

    /// It may give again: its lease was renewed.
    pub(crate) fn look_again(self: &Arc<Self>) {
        let list = self.state().list();
        self.list_if(list);
    }

    /// Gives nothing, or gives again.
    pub(crate) fn set_paused(self: &Arc<Self>, paused: bool) {
        let list = {
            let mut state = self.state();
            state.paused = paused;
            state.wake();
            !paused && state.list()
        };
        if paused {
            self.drop_ahead();
        }
        self.list_if(list);
    }

    /// Whether it is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Whether messages of this life may be given to the application, or to a handler.
    pub(crate) fn gives(&self, life: u32) -> Gives {
        let state = self.state();
        if *self.life.borrow() != life || state.phase != Phase::Live {
            Gives::Never
        } else if state.paused || !state.holds.is_empty() || !self.lease.holds() {
            Gives::Later
        } else {
            Gives::Now
        }
    }

    /// Whether what is done with messages of this life counts no more.
    pub(crate) fn is_over(&self, life: u32) -> bool {
        *self.life.borrow() != life
    }

    /// Takes the rest of a batch back that was taken and cannot be given now; `load` is what it counts for still. It is
    /// dropped where it will never be given.
    pub(crate) fn put_back(self: &Arc<Self>, life: u32, batch: ReceivedBatch, load: Load) {
        {
            let mut state = self.state();
            let before = state.load();
            if self.handled_by == HandledBy::Handlers {
                state.at_work.take(load);
                self.feed.unloaded(load);
            }
            state.listed = false;
            if *self.life.borrow() != life || state.phase != Phase::Live {
                state.wake_fetcher(before, self.feed.limit_per_queue());
                return;
            }
            // Several may come back, in any order.
            let first = batch.first_offset();
            let behind = |item: &Item| match item {
                Item::Batch(other) => other.first_offset() > first,
                Item::Skipped(next) => *next > first,
            };
            let place = state.buffer.iter().position(behind).unwrap_or(state.buffer.len());
            let item = Item::Batch(batch);
            let load = load_of(&item);
            state.waiting.add(load);
            self.feed.loaded(load);
            state.buffer.insert(place, item);
        }
        // It may give again by now.
        if self.gives(life) == Gives::Now {
            self.look_again();
        }
    }

    /// Resolves when the life ends: handlers of it are to be cancelled.
    pub(crate) async fn life_over(&self, life: u32) {
        let mut lives = self.life.subscribe();
        // The sender lives as long as this.
        let _ = lives.wait_for(|now| *now != life).await;
    }

    /// Next offset to deliver.
    pub(crate) fn delivered(&self) -> Offset {
        self.state().delivered
    }

    /// Everything before `next` is delivered, in this life; whether it may be.
    pub(crate) fn set_delivered(&self, life: u32, next: Offset) -> bool {
        let mut state = self.state();
        let delivers = *self.life.borrow() == life && state.phase == Phase::Live;
        if delivers {
            state.delivered = next;
        }
        delivers
    }

    /// Everything delivered so far is handled.
    pub(crate) fn handle_delivered(&self) {
        let mut state = self.state();
        let delivered = state.delivered;
        state.progress.skip_to(delivered);
    }

    /// A handler begins with a piece of what was taken; whether it may.
    pub(crate) fn begin(&self, life: u32) -> bool {
        let mut state = self.state();
        let begins = *self.life.borrow() == life && state.phase == Phase::Live;
        state.working += usize::from(begins);
        begins
    }

    /// Handlers are done with these.
    pub(crate) fn done(&self, life: u32, first: Offset, end: Offset) {
        let mut state = self.state();
        if *self.life.borrow() == life {
            state.progress.done(first, end);
        }
    }

    /// A piece of work that was begun is over, well or not. Whether it was the last one of a queue that drains.
    pub(crate) fn worked(&self) -> bool {
        let mut state = self.state();
        state.working = state.working.saturating_sub(1);
        state.working == 0 && state.phase == Phase::Draining
    }

    /// Another piece of work goes on after the one that began it.
    pub(crate) fn works_on(&self) {
        self.state().working += 1;
    }

    /// Something goes on after the piece of work that it began in.
    pub(crate) fn load_more(&self, load: Load) {
        self.state().at_work.add(load);
        self.feed.loaded(load);
    }

    /// Handlers have so much less of it.
    pub(crate) fn unload(&self, load: Load) {
        let mut state = self.state();
        let before = state.load();
        state.at_work.take(load);
        state.wake_fetcher(before, self.feed.limit_per_queue());
        drop(state);
        self.feed.unloaded(load);
    }

    /// Everything before may be committed.
    pub(crate) fn handled(&self) -> Offset {
        self.state().progress.handled()
    }

    /// What is to be committed, if there is something, and under which grant.
    pub(crate) fn to_commit(&self) -> Option<(Offset, u32)> {
        let state = self.state();
        let handled = state.progress.handled();
        let due = state.committed.is_none_or(|committed| handled > committed);
        (due && state.phase != Phase::Ended).then_some((handled, state.grant_epoch))
    }

    /// The broker has committed it, under this grant.
    pub(crate) fn set_committed(&self, grant_epoch: u32, committed: Offset) {
        let mut state = self.state();
        if state.grant_epoch == grant_epoch {
            state.committed = Some(committed);
        }
    }

    /// What the broker has committed, as far as is known.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.state().committed
    }

    /// Goes on at another offset, in a new life; what waits is dropped and what is at work moves nothing any more.
    pub(crate) fn turn_to(&self, offset: Offset) {
        self.turn(&mut self.state(), offset);
    }

    /// The queue ends before what was fetched of it: goes on there, or at what is not handled before it.
    pub(crate) fn rewind(&self, end: Offset) {
        let mut state = self.state();
        let offset = state.progress.handled().min(end);
        self.turn(&mut state, offset);
    }

    /// The group's offset was reset, under a new grant.
    pub(crate) fn reset(&self, offset: Offset, grant_epoch: u32) {
        let mut state = self.state();
        self.turn(&mut state, offset);
        state.grant_epoch = grant_epoch;
        state.committed = Some(offset);
    }

    fn turn(&self, state: &mut State, offset: Offset) {
        state.progress = Progress::from(offset);
        state.begun_at = offset;
        state.taken_to = offset;
        state.delivered = offset;
        state.holds.clear();
        self.new_life(state);
        state.cursor.turn_to(offset);
        state.wake();
    }

    /// What waits and cannot be given now is dropped, to be fetched again when it can: it must not stand in the way of
    /// other queues.
    pub(crate) fn drop_ahead(&self) {
        let mut state = self.state();
        let first = match state.buffer.front() {
            None => return,
            // A part that was put back.
            Some(Item::Batch(batch)) => batch.first_offset().min(state.taken_to),
            Some(Item::Skipped(_)) => state.taken_to,
        };
        self.drop_waiting(&mut state);
        state.cursor.turn_to(first);
    }

    /// The queue waits for one of its messages, which was tried so often.
    pub(crate) fn hold(
        self: &Arc<Self>,
        life: u32,
        offset: Offset,
        attempts: u32,
        pause: std::time::Duration,
    ) {
        {
            let mut state = self.state();
            if *self.life.borrow() != life || state.phase != Phase::Live {
                return;
            }
            state.holds.insert(offset);
            state.attempts.insert(offset, attempts);
        }
        let track = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = track.life_over(life) => return,
            }
            track.state().holds.remove(&offset);
            track.look_again();
        });
    }

    /// How often a message was tried that its queue waits for; forgets it.
    pub(crate) fn take_attempts(&self, offset: Offset) -> Option<u32> {
        self.state().attempts.remove(&offset)
    }

    /// Delivers nothing more; whether there is nothing to wait for.
    pub(crate) fn drain(&self) -> bool {
        {
            let mut state = self.state();
            if state.phase == Phase::Live {
                state.phase = Phase::Draining;
                self.drop_waiting(&mut state);
            }
        }
        self.is_drained()
    }

    /// Whether everything that was delivered is settled.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state();
        match self.handled_by {
            HandledBy::Handlers => state.working == 0,
            HandledBy::Calls => state.progress.handled() >= state.delivered,
            HandledBy::Commits => state.delivered <= state.begun_at.max(state.committed.unwrap_or_default()),
        }
    }

    /// Whether it gives nothing new while what was delivered is finished.
    pub(crate) fn is_draining(&self) -> bool {
        self.state().phase == Phase::Draining
    }

    /// Handlers at work are cancelled; what they had is not handled.
    pub(crate) fn cancel(&self) {
        let _state = self.state();
        self.life.send_modify(|life| *life = life.wrapping_add(1));
    }

    /// It is not ours any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.phase = Phase::Ended;
        self.new_life(&mut state);
    }

    /// Whether it is ours, draining or not.
    pub(crate) fn is_ours(&self) -> bool {
        self.state().phase != Phase::Ended
    }

    fn new_life(&self, state: &mut State) {
        self.life.send_modify(|life| *life = life.wrapping_add(1));
        self.drop_waiting(state);
    }

    fn drop_waiting(&self, state: &mut State) {
        state.cursor.back();
        state.buffer.clear();
        self.feed.unloaded(std::mem::take(&mut state.waiting));
    }

    fn list_if(self: &Arc<Self>, list: bool) {
        if list {
            self.feed.list(Arc::clone(self));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether it has to be put into the list now.
    fn list(&mut self) -> bool {
        let list = !self.listed && !self.buffer.is_empty();
        self.listed |= list;
        list
    }

    fn load(&self) -> Load {
        let mut load = self.waiting;
        load.add(self.at_work);
        load
    }

    fn wake(&self) {
        if let Some(fetcher) = &self.fetcher {
            fetcher.notify_one();
        }
    }

    /// Wakes the fetcher when the queue was at its limit and is no more.
    fn wake_fetcher(&self, before: Load, limit: Load) {
        if before.reaches(limit) && !self.load().reaches(limit) {
            self.wake();
        }
    }
}

fn load_of(item: &Item) -> Load {
    match item {
        Item::Batch(batch) => Load { messages: batch.record_count(), bytes: batch.len_bytes() },
        Item::Skipped(_) => Load::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use equeue_record::{BatchBuilder, BrokerStamp, Codec, MasterEpoch, ProducerStamp, RecordFields, stamp};

    use super::super::group::lease::Moment;
    use super::*;

    const NO_LIMIT: Load = Load { messages: usize::MAX, bytes: usize::MAX };

    fn track(committed: Option<u64>, handled_by: HandledBy) -> Arc<Track> {
        let topic = Arc::new(TopicFilter::new("t", Vec::new()));
        let home = Home { broker: "b".into(), shard: 0, key: QueueKey(1) };
        let start = Start { offset: Offset(10), committed: committed.map(Offset), grant_epoch: 3 };
        let feed = Arc::new(Feed::new(NO_LIMIT, NO_LIMIT));
        let track = Track::new(topic, 0, home, start, 0, (feed, handled_by));
        track.lease.extend(Moment::now(), Duration::from_hours(1));
        Arc::new(track)
    }

    /// As if a batch were taken and a handler began with it.
    fn begin(track: &Arc<Track>, life: u32, first: u64, end: u64) -> bool {
        let mut state = track.state();
        state.progress.begin(Offset(first), Offset(end));
        state.delivered = Offset(end);
        drop(state);
        track.begin(life)
    }

    fn skip(track: &Arc<Track>, end: u64) -> bool {
        let (asked, epoch) = track.ask().expect("it is wanted");
        assert_eq!(epoch, 3);
        track.hand(asked, Item::Skipped(Offset(end)), Offset(end))
    }

    #[test]
    fn only_handled_messages_are_committed() {
        let track = track(Some(10), HandledBy::Calls);
        assert_eq!(track.to_commit(), None);
        assert!(track.set_delivered(0, Offset(15)));
        assert_eq!(track.to_commit(), None);
        track.handle_delivered();
        assert_eq!(track.to_commit(), Some((Offset(15), 3)));
        track.set_committed(3, Offset(15));
        assert_eq!(track.to_commit(), None);
    }

    #[test]
    fn a_group_without_offset_commits_its_start() {
        assert_eq!(track(None, HandledBy::Calls).to_commit(), Some((Offset(10), 3)));
    }

    #[test]
    fn after_a_reset_the_old_handlers_move_nothing() {
        let track = track(Some(10), HandledBy::Handlers);
        assert!(begin(&track, 0, 10, 12));
        track.reset(Offset(4), 5);
        track.done(0, Offset(10), Offset(12));
        assert_eq!((track.handled(), track.delivered(), track.to_commit()), (Offset(4), Offset(4), None));
        assert!(!track.begin(0), "nor begin anything");
        assert!(begin(&track, 1, 4, 6));
        track.done(1, Offset(4), Offset(6));
        assert_eq!(track.to_commit(), Some((Offset(6), 5)));
    }

    #[test]
    fn a_queue_that_drains_waits_for_its_handlers_and_gives_nothing() {
        let track = track(Some(10), HandledBy::Handlers);
        assert!(skip(&track, 11));
        assert!(begin(&track, 0, 11, 12));
        assert!(!track.drain());
        assert!(track.take(false).is_none() && track.ask().is_none());
        track.done(0, Offset(11), Offset(12));
        assert!(track.worked() && track.is_drained());
        assert_eq!(track.to_commit().map(|(offset, _)| offset), Some(Offset(12)));
        track.end();
        assert_eq!(track.to_commit(), None);
    }

    #[test]
    fn pulled_messages_are_drained_by_the_next_call_or_by_a_commit() {
        let by_calls = track(Some(10), HandledBy::Calls);
        assert!(by_calls.set_delivered(0, Offset(12)));
        assert!(!by_calls.drain());
        by_calls.handle_delivered();
        assert!(by_calls.is_drained());
        let by_commits = track(Some(10), HandledBy::Commits);
        assert!(by_commits.is_drained());
        assert!(by_commits.set_delivered(0, Offset(12)));
        by_commits.handle_delivered();
        assert!(!by_commits.drain());
        by_commits.set_committed(3, Offset(12));
        assert!(by_commits.is_drained());
    }

    #[test]
    fn nothing_is_given_while_paused_or_without_a_lease() {
        let track = track(Some(10), HandledBy::Calls);
        assert!(skip(&track, 11));
        track.set_paused(true);
        assert!(track.take(false).is_none() && track.ask().is_none());
        track.set_paused(false);
        // What waited was dropped and is fetched again.
        assert!(track.take(false).is_none());
        assert_eq!(track.ask().expect("it is wanted").0.offset, Offset(10));
        assert!(skip(&track, 11));
        assert!(matches!(track.take(false), Some((Item::Skipped(Offset(11)), 0, false))));
        let topic = Arc::new(TopicFilter::new("t", Vec::new()));
        let home = Home { broker: "b".into(), shard: 0, key: QueueKey(1) };
        let start = Start { offset: Offset(0), committed: None, grant_epoch: 3 };
        let feed = Arc::new(Feed::new(NO_LIMIT, NO_LIMIT));
        let unleased = Arc::new(Track::new(topic, 0, home, start, 0, (feed, HandledBy::Calls)));
        assert!(skip(&unleased, 1));
        assert!(unleased.take(false).is_none());
        unleased.lease.extend(Moment::now(), Duration::from_secs(5));
        unleased.look_again();
        assert!(unleased.take(false).is_some());
    }

    /// Hands on a batch of messages from `base` to before `end`, as a fetch brings it.
    fn fetched(track: &Arc<Track>, base: u64, end: u64) -> bool {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
        for number in base..end {
            let body = number.to_le_bytes();
            builder.push(&RecordFields { body: Some(&body), ..RecordFields::default() }).unwrap();
        }
        let mut bytes = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
        let assigned = BrokerStamp {
            base_offset: Offset(base),
            append_time_ms: 0,
            queue_key: QueueKey(1),
            master_epoch: MasterEpoch::default(),
        };
        stamp(bytes.first_chunk_mut().unwrap(), &assigned);
        let batch = ReceivedBatch::check(Arc::clone(track), bytes.into(), Offset(base)).unwrap();
        let (asked, _) = track.ask().expect("it is wanted");
        track.answered(asked, Offset(end));
        track.hand(asked, Item::Batch(batch), Offset(end))
    }

    fn taken(track: &Arc<Track>) -> ReceivedBatch {
        match track.take(false) {
            Some((Item::Batch(batch), ..)) => batch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_commit_passes_what_left_the_queue_and_was_not_begun_yet() {
        let track = track(Some(10), HandledBy::Handlers);
        assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20));
        let (first, second) = (taken(&track), taken(&track));
        // The worker with the second batch is faster.
        assert!(track.begin(0));
        track.done(0, second.first_offset(), second.next_offset());
        assert_eq!(track.to_commit(), None);
        assert!(track.begin(0));
        track.done(0, first.first_offset(), first.next_offset());
        assert_eq!(track.to_commit(), Some((Offset(20), 3)));
    }

    #[test]
    fn what_is_put_back_is_given_again_in_the_order_of_the_queue() {
        let track = track(Some(10), HandledBy::Handlers);
        assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20));
        let (first, second) = (taken(&track), taken(&track));
        let load = |batch: &ReceivedBatch| Load { messages: 5, bytes: batch.len_bytes() };
        let (of_first, of_second) = (load(&first), load(&second));
        track.put_back(0, second, of_second);
        track.put_back(0, first.part(Offset(12), Offset(15)), of_first);
        assert_eq!((taken(&track).first_offset(), taken(&track).first_offset()), (Offset(12), Offset(15)));
        assert_eq!(track.handled(), Offset(10), "all of it is still to be handled");
    }

    #[test]
    fn a_queue_that_ends_before_what_was_fetched_forgets_nothing_that_is_at_work() {
        let track = track(Some(10), HandledBy::Handlers);
        assert!(fetched(&track, 10, 20));
        let batch = taken(&track);
        assert!(track.begin(0));
        track.done(0, Offset(10), Offset(13));
        // The broker lost its tail: the queue ends at 18.
        track.rewind(Offset(18));
        assert_eq!((track.handled(), track.delivered()), (Offset(13), Offset(13)));
        assert_eq!(track.ask().expect("it is wanted").0.offset, Offset(13));
        track.done(0, Offset(13), batch.next_offset());
        assert_eq!(track.handled(), Offset(13), "what was at work counts no more");
    }
}
