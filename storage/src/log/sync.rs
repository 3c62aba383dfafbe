//! Syncing: with each flush, or, where the user accepts to lose what came last, every now and then.
//!
//! With [`SyncPolicy::Interval`] messages are acknowledged once they are written. A pass syncs what was acknowledged
//! before it began: after the interval, or as soon as [`SYNC_BYTES`] wait for it. Flushes that the log itself relies on -
//! OPEN, SEAL, SNAPSHOT, CLEAN - are written alone and synced like ever, so all rules of recovery hold.
//! **Invariants**: `synced_end` covers only flushes whose writes ended before a sync began that ended well; at most
//! [`UNSYNCED_MAX`] bytes and the flushes in flight lie beyond it, so that evidence of what was synced is never further
//! away than recovery looks for it.

use std::rc::Rc;
use std::time::Duration;

use super::core::{Core, Stage};
use super::{AppendError, CommitLog};
use crate::format::{FLUSH_DEPTH_MAX, FlushKind, WINDOW_BYTES};
use crate::io::{Io, IoFile};
use crate::segment::TAIL_BYTES;
use crate::types::Position;

/// Acknowledged bytes that begin a pass at once.
const SYNC_BYTES: u64 = 1 << 20;
/// Acknowledged bytes that wait for a sync, past which no flush begins.
const UNSYNCED_MAX: u64 = 2 << 20;
// A flush and its span are at most a window each. Behind a synced flush lie at most what waits for a sync and what is in
// flight before a header says so.
const _: () = assert!(UNSYNCED_MAX + (FLUSH_DEPTH_MAX + 2) * WINDOW_BYTES <= TAIL_BYTES);

/// When acknowledged messages are on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before they are acknowledged.
    #[default]
    Always,
    /// So many ms after they were, at the latest: a loss of power loses what was acknowledged since the last sync. A
    /// crash of the process alone loses nothing.
    Interval(u64),
}

impl<I: Io> Core<I> {
    /// Whether a flush of this kind is synced before it is acknowledged.
    pub(super) fn syncs_itself(&self, kind: FlushKind) -> bool {
        self.options.sync == SyncPolicy::Always || !matches!(kind, FlushKind::Data | FlushKind::Idle)
    }

    /// Whether a flush that syncs itself must wait for those before it: its sync speaks for them too.
    pub(super) fn must_be_alone(&self) -> bool {
        self.options.sync != SyncPolicy::Always && !self.in_flight.is_empty()
    }

    /// No flush may begin before a sync has ended.
    pub(super) fn waits_for_sync(&self) -> bool {
        self.unsynced() >= UNSYNCED_MAX
    }

    /// Acknowledged bytes that are not synced.
    pub(super) fn unsynced(&self) -> u64 {
        self.durable_end.0.saturating_sub(self.synced_end.0)
    }

    /// A flush was acknowledged; `itself`: with a sync of its own that began after all before it were written.
    pub(super) fn note_synced(&mut self, itself: bool) {
        if itself {
            self.synced_end = self.durable_end;
        }
    }
}

impl<I: Io> CommitLog<I> {
    /// Sees to it that what is acknowledged will be synced in time.
    pub(super) fn watch_sync(&self) {
        let mut core = self.inner.core.borrow_mut();
        let SyncPolicy::Interval(pause_ms) = core.options.sync else { return };
        if core.unsynced() == 0 || core.poison.is_some() || core.options.hazards.no_sync {
            return;
        }
        if core.unsynced() >= SYNC_BYTES {
            drop(core);
            self.begin_sync();
        } else if !core.sync_timer {
            core.sync_timer = true;
            drop(core);
            let log = self.clone();
            self.inner.io.spawn(async move {
                log.inner.io.sleep(Duration::from_millis(pause_ms)).await;
                log.inner.core.borrow_mut().sync_timer = false;
                log.begin_sync();
            });
        }
    }

    /// Begins a pass unless one is going on.
    fn begin_sync(&self) {
        let mut core = self.inner.core.borrow_mut();
        let may = !core.syncing && core.unsynced() > 0 && core.poison.is_none();
        let file = core.active.as_ref().map(|(_, file)| Rc::clone(file)).filter(|_| may);
        let Some(file) = file else { return };
        core.syncing = true;
        let target = core.durable_end;
        drop(core);
        self.inner.io.spawn(self.clone().sync_to(file, target));
    }

    async fn sync_to(self, file: Rc<I::File>, target: Position) {
        let _busy = self.busy();
        let result = file.sync().await;
        {
            let mut core = self.inner.core.borrow_mut();
            core.syncing = false;
            if result.is_ok() && core.poison.is_none() {
                core.stats.syncs += 1;
                core.synced_end = core.synced_end.max(target);
            }
        }
        if let Err(error) = result {
            self.poison(&format!("syncing up to {target}: {error}"));
        }
        self.inner.work.notify();
        self.watch_sync();
    }

    /// Resolves when everything that is acknowledged now is synced.
    pub(super) async fn until_synced(&self) -> Result<(), AppendError> {
        let target = self.inner.core.borrow().durable_end;
        let outcome = || {
            let core = self.inner.core.borrow();
            if core.synced_end >= target || core.options.hazards.no_sync {
                return Some(Ok(()));
            }
            if let Some(reason) = &core.poison {
                return Some(Err(AppendError::Poisoned { reason: Rc::clone(reason) }));
            }
            let may = !core.syncing && core.stage == Stage::Running;
            drop(core);
            if may {
                self.begin_sync();
            }
            None
        };
        self.inner.work.until(outcome).await
    }
}
