//! Giving what waits to the application or to handlers, and taking back what cannot be given.

use std::collections::VecDeque;
use std::sync::Arc;

use equeue_record::Offset;

use super::super::feed::{Item, Load};
use super::super::received::ReceivedBatch;
use super::{Gives, HandledBy, Phase, Track, load_of};

impl Track {
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

    /// Its lease had lapsed, and holds again: what was dropped meanwhile is fetched anew, whatever the fetcher waits for.
    pub(crate) fn renewed(self: &Arc<Self>) {
        self.state().wake();
        self.look_again();
    }

    /// It may give again.
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

    /// Takes the rest of a batch back that was taken and cannot be given now, from whoever holds the queue; `load` is what
    /// it counts for still. It is dropped where it will never be given.
    pub(crate) fn put_back(self: &Arc<Self>, life: u32, batch: ReceivedBatch, load: Load) {
        self.state().listed = false;
        self.come_again(life, batch, load);
    }

    /// Takes a part of a batch back, from somebody who does not hold the queue: whoever does gives it in turn.
    pub(crate) fn come_again(self: &Arc<Self>, life: u32, batch: ReceivedBatch, load: Load) {
        {
            let mut state = self.state();
            let before = state.load();
            if self.handled_by == HandledBy::Handlers {
                state.at_work.take(load);
                self.feed.unloaded(load);
            }
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

    /// What waits and cannot be given now is dropped, to be fetched again when it can: it must not stand in the way of
    /// other queues.
    pub(crate) fn drop_ahead(&self) {
        let mut state = self.state();
        // A part that others are at work behind stays: fetched again from there on, they would do their work twice.
        let mut kept = VecDeque::new();
        while let Some(Item::Batch(batch)) = state.buffer.front() {
            let follows = match state.buffer.get(1) {
                Some(Item::Batch(next)) => next.first_offset(),
                Some(Item::Skipped(_)) | None => state.taken_to,
            };
            if batch.next_offset() >= follows {
                break;
            }
            kept.extend(state.buffer.pop_front());
        }
        let first = match state.buffer.front() {
            None => None,
            // A part that was put back.
            Some(Item::Batch(batch)) => Some(batch.first_offset().min(state.taken_to)),
            Some(Item::Skipped(_)) => Some(state.taken_to),
        };
        if let Some(first) = first {
            self.drop_waiting(&mut state);
            state.cursor.turn_to(first);
            for item in &kept {
                state.waiting.add(load_of(item));
                self.feed.loaded(load_of(item));
            }
        }
        kept.append(&mut state.buffer);
        state.buffer = kept;
    }
}
