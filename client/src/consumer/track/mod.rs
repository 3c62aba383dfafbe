//! One queue that this member owns: where it lives, what of it waits, and how far each stage has come.
//!
//! Stages, each at or behind the one before it: handed (fetched and checked), delivered (given to the application),
//! handled (may be committed), committed (durable on the broker).
//!
//! **Invariants**: nothing is delivered without a lease, while draining, or after the end; what was delivered in an
//! earlier *life* of the queue (before a reset, a seek, or the end) moves no offset any more.

mod fetching;
mod giving;
mod handling;
mod owning;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use equeue_net::api::Tries;
use equeue_record::{Offset, QueueKey};
use tokio::sync::{Notify, watch};

use super::cursor::Cursor;
use super::feed::{Feed, Item, Load};
use super::filter::TopicFilter;
use super::group::lease::Lease;
use super::progress::Progress;

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
    /// How often messages were tried in vain that come again from here, and not from the retry queue.
    tries: std::collections::BTreeMap<Offset, Tries>,
    /// Of the message at the committed offset, as far as that is committed.
    tries_committed: u32,
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
    /// Of the message at the committed offset.
    pub tries: Tries,
}

/// What is worth a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Everything before it is handled.
    pub offset: Offset,
    /// Of the message there, for which the queue waits.
    pub tries: Tries,
    /// The grant that it is committed under.
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
        let known = start.committed.filter(|committed| *committed == start.offset && start.tries.count > 0);
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
            tries: known.map(|offset| (offset, start.tries)).into_iter().collect(),
            tries_committed: start.tries.count,
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

    /// Offsets from the first that is not handled to the last that was fetched.
    pub(crate) fn cached(&self) -> u64 {
        let state = self.state();
        state.cursor.handed().0.saturating_sub(state.progress.handled().0)
    }

    /// What the broker said last of its end.
    pub(crate) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// See [`Track::high_watermark`].
    pub(crate) fn set_high_watermark(&self, end: Offset) {
        self.high_watermark.store(end.0, Ordering::Release);
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
mod tests;
