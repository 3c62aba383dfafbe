//! What handlers are at, what is handled, and what of it may be committed.

use std::sync::Arc;

use equeue_net::api::Tries;
use equeue_record::Offset;

use super::super::feed::Load;
use super::{Due, Phase, Track};

impl Track {
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

    /// What is to be committed, if there is something.
    pub(crate) fn to_commit(&self) -> Option<Due> {
        let state = self.state();
        let offset = state.progress.handled();
        let tries = state.tries.get(&offset).copied().unwrap_or_default();
        let is_due = state.committed.is_none_or(|committed| {
            offset > committed || (offset == committed && tries.count > state.tries_committed)
        });
        let due = Due { offset, tries, grant_epoch: state.grant_epoch };
        (is_due && state.phase != Phase::Ended).then_some(due)
    }

    /// The broker has committed that, or is farther.
    pub(crate) fn set_committed(&self, due: Due, committed: Offset) {
        let mut state = self.state();
        if state.grant_epoch == due.grant_epoch {
            state.committed = Some(committed);
            state.tries_committed = if committed == due.offset { due.tries.count } else { 0 };
        }
    }

    /// What the broker has committed, as far as is known.
    pub(crate) fn committed(&self) -> Option<Offset> {
        self.state().committed
    }

    /// The queue waits for one of its messages, which was tried so often.
    pub(crate) fn hold(
        self: &Arc<Self>,
        life: u32,
        offset: Offset,
        tries: Tries,
        pause: std::time::Duration,
    ) {
        {
            let mut state = self.state();
            if *self.life.borrow() != life || state.phase != Phase::Live {
                return;
            }
            state.holds.insert(offset);
            state.tries.insert(offset, tries);
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

    /// How often a message was tried that comes again from here; forgets it.
    pub(crate) fn take_tries(&self, offset: Offset) -> Option<Tries> {
        self.state().tries.remove(&offset)
    }

    /// A message comes again from here.
    pub(crate) fn set_tries(&self, life: u32, offset: Offset, tries: Tries) {
        let mut state = self.state();
        if *self.life.borrow() == life {
            state.tries.insert(offset, tries);
        }
    }
}
