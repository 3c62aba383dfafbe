//! A place where one task waits to be woken by others of the same executor.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// Remembers the waker of the one task that waits here.
///
/// One clone of the waker per place and task: glommio 0.9.0 panics at 32,768 clones of one waker.
#[derive(Debug, Default)]
pub(super) struct Wake(RefCell<Option<Waker>>);

impl Wake {
    /// The task of `cx` is to be woken by the next [`Wake::wake`].
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut slot = self.0.borrow_mut();
        match slot.as_mut() {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *slot = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task that waits, if one does.
    pub(super) fn wake(&self) {
        let waker = self.0.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
