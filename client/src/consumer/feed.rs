//! Between the fetchers and the application: the queues that have something, in turn, and how much waits in all.
//!
//! Each queue keeps its own batches ([`super::track`]); the feed is a list of queues, so that one that is paused,
//! drained or held up by its handler stands in nobody's way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use equeue_record::Offset;
use tokio::sync::Notify;

use super::received::ReceivedBatch;
use super::track::Track;
use crate::ClientError;

/// Troubles that the application has not taken; older ones are dropped.
const TROUBLES_MAX: usize = 64;

/// Messages and bytes that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Messages.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Load {
    /// Whether either limit is reached.
    pub(crate) const fn reaches(self, limit: Self) -> bool {
        self.messages >= limit.messages || self.bytes >= limit.bytes
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    pub(crate) const fn take(&mut self, other: Self) {
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What a queue gives next.
#[derive(Debug)]
pub(crate) enum Item {
    /// Messages.
    Batch(ReceivedBatch),
    /// There is nothing wanted before this offset.
    Skipped(Offset),
}

/// What the application takes.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A batch of a queue, and the life of the queue in which it came.
    Batch(Arc<Track>, ReceivedBatch, u32),
    /// There is nothing wanted before this offset; the life as above.
    Skipped(Arc<Track>, u32, Offset),
    /// Something that it should know.
    Trouble(ClientError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    wake: Notify,
    /// What waits, or is at work with handlers, over all queues.
    messages: AtomicUsize,
    bytes: AtomicUsize,
    room: Notify,
    limit: Load,
    limit_per_queue: Load,
}

#[derive(Debug, Default)]
struct State {
    /// Queues that have something; each at most once.
    ready: VecDeque<Arc<Track>>,
    troubles: VecDeque<ClientError>,
    closed: bool,
}

impl Feed {
    /// With limits over all queues, and for each.
    pub(crate) fn new(limit: Load, limit_per_queue: Load) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            room: Notify::new(),
            limit,
            limit_per_queue,
        }
    }

    /// What one queue may have waiting.
    pub(crate) const fn limit_per_queue(&self) -> Load {
        self.limit_per_queue
    }

    /// A queue has something, and is not in the list.
    pub(crate) fn list(&self, track: Arc<Track>) {
        self.state().ready.push_back(track);
        self.wake.notify_one();
    }

    /// The application should know this.
    pub(crate) fn tell(&self, error: ClientError) {
        let mut state = self.state();
        if state.troubles.len() >= TROUBLES_MAX {
            state.troubles.pop_front();
        }
        state.troubles.push_back(error);
        drop(state);
        self.wake.notify_one();
    }

    /// Nothing is given any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.ready.clear();
        drop(state);
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether nothing is given any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// What is there, without waiting. `hold`: the queue gives nothing more until [`Track::give_again`].
    pub(crate) fn take(&self, hold: bool) -> Option<Taken> {
        loop {
            let track = {
                let mut state = self.state();
                if let Some(error) = state.troubles.pop_front() {
                    return Some(Taken::Trouble(error));
                }
                state.ready.pop_front()?
            };
            if let Some((item, life, more)) = track.take(hold) {
                if more {
                    self.list(Arc::clone(&track));
                }
                return Some(match item {
                    Item::Batch(batch) => Taken::Batch(track, batch, life),
                    Item::Skipped(next) => Taken::Skipped(track, life, next),
                });
            }
        }
    }

    /// Waits until there may be something, or the feed is closed. Cancel safe.
    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Somebody else may look, too.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Somebody else may take what is left.
    pub(crate) fn pass_on(&self) {
        if !self.state().ready.is_empty() {
            self.wake.notify_one();
        }
    }

    /// So much more waits.
    pub(crate) fn loaded(&self, load: Load) {
        self.messages.fetch_add(load.messages, Ordering::AcqRel);
        self.bytes.fetch_add(load.bytes, Ordering::AcqRel);
    }

    /// So much waits no more.
    pub(crate) fn unloaded(&self, load: Load) {
        if load == Load::default() {
            return;
        }
        let messages = self.messages.fetch_sub(load.messages, Ordering::AcqRel);
        let bytes = self.bytes.fetch_sub(load.bytes, Ordering::AcqRel);
        if (Load { messages, bytes }).reaches(self.limit) {
            self.room.notify_waiters();
        }
    }

    /// What waits in all.
    pub(crate) fn load(&self) -> Load {
        Load { messages: self.messages.load(Ordering::Acquire), bytes: self.bytes.load(Ordering::Acquire) }
    }

    /// Whether more may be fetched when so many bytes are about to be handed on.
    pub(crate) fn has_room_beside(&self, coming: usize) -> bool {
        let mut load = self.load();
        load.bytes += coming;
        !load.reaches(self.limit)
    }

    /// Waits until more may be fetched; tells how many bytes.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let room = self.room.notified();
            let load = self.load();
            if !load.reaches(self.limit) {
                return self.limit.bytes - load.bytes;
            }
            room.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
