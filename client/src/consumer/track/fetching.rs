//! What the fetcher asks of a queue, and hands to it.

use std::sync::Arc;

use equeue_record::Offset;

use super::super::cursor::Asked;
use super::super::feed::Item;
use super::{Phase, Track, load_of};

impl Track {
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
}
