//! Turning to another offset, draining, and the end.

use equeue_record::Offset;

use super::super::progress::Progress;
use super::{HandledBy, Phase, State, Track};

impl Track {
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
        state.tries_committed = 0;
    }

    fn turn(&self, state: &mut State, offset: Offset) {
        state.progress = Progress::from(offset);
        state.begun_at = offset;
        state.taken_to = offset;
        state.delivered = offset;
        state.holds.clear();
        state.tries.clear();
        self.new_life(state);
        state.cursor.turn_to(offset);
        state.wake();
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
}
