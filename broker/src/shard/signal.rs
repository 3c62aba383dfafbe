//! Wakes one waiting task of the same thread. Signals that come while nobody waits are kept as one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A flag with one waiter.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Sets the flag and wakes the waiter.
    pub(crate) fn set(&self) {
        if !self.set.replace(true)
            && let Some(waiter) = self.waiter.borrow_mut().take()
        {
            waiter.wake();
        }
    }

    /// Waits for the flag and takes it. Cancel safe.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            if !waiter.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *waiter = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Wakes every task that waits for it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    waiting: RefCell<Vec<futures::channel::oneshot::Sender<()>>>,
}

impl Bell {
    /// Wakes all who wait now.
    pub(crate) fn ring(&self) {
        for waiting in self.waiting.take() {
            let _ = waiting.send(()); // whoever is gone needs no waking
        }
    }

    /// Ends with the next [`Bell::ring`].
    pub(crate) fn heard(&self) -> futures::channel::oneshot::Receiver<()> {
        let (sender, receiver) = futures::channel::oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|sender| !sender.is_canceled());
        waiting.push(sender);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::{Bell, Signal};

    #[test]
    fn signals_are_kept_as_one() {
        let signal = Signal::default();
        assert!(signal.wait().now_or_never().is_none());
        signal.set();
        signal.set();
        assert!(signal.wait().now_or_never().is_some());
        assert!(signal.wait().now_or_never().is_none());
    }

    #[test]
    fn a_bell_wakes_all_who_wait_and_keeps_nobody() {
        let bell = Bell::default();
        drop(bell.heard());
        let (mut one, mut two) = (bell.heard(), bell.heard());
        assert_eq!(bell.waiting.borrow().len(), 2);
        assert!((&mut one).now_or_never().is_none());
        bell.ring();
        assert!((&mut one).now_or_never().is_some() && (&mut two).now_or_never().is_some());
        assert!(bell.heard().now_or_never().is_none());
    }
}
