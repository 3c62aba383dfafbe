//! What the application's threads and one sender share: the list of queues with something to send.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::queue::Queue;

/// Whether a lane's broker can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reach {
    /// Not tried: as the nameservers say.
    Unknown = 0,
    /// Connected.
    Up = 1,
    /// The last attempt to connect failed.
    Down = 2,
}

/// One (broker, shard) that a producer sends to; its sender is a task of its own.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Name of the broker.
    pub broker: Arc<str>,
    /// The shard.
    pub shard: u16,
    listed: Mutex<Listed>,
    wake: Notify,
    /// A listed queue has a whole batch, or one that nobody acknowledges, since the sender looked.
    whole: AtomicBool,
    /// A listed queue has another route.
    moved: AtomicBool,
    reach: AtomicU8,
}

#[derive(Debug, Default)]
struct Listed {
    queues: Vec<Arc<Queue>>,
    /// The sender has ended.
    gone: bool,
}

impl Lane {
    /// With nothing to do.
    pub(crate) fn new(broker: Arc<str>, shard: u16) -> Self {
        Self {
            broker,
            shard,
            listed: Mutex::default(),
            wake: Notify::new(),
            whole: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            reach: AtomicU8::new(Reach::Unknown as u8),
        }
    }

    /// Gives the sender another queue; `false`: it has ended.
    pub(crate) fn list(&self, queue: Arc<Queue>) -> bool {
        let mut listed = self.listed();
        if listed.gone {
            return false;
        }
        listed.queues.push(queue);
        drop(listed);
        self.wake();
        true
    }

    /// Takes what was listed since the last call.
    pub(crate) fn take_listed(&self, into: &mut Vec<Arc<Queue>>) {
        into.append(&mut self.listed().queues);
    }

    /// The sender ends: nothing may be listed any more. `false`: something was listed a moment ago, go on.
    pub(crate) fn end(&self, by_force: bool) -> bool {
        let mut listed = self.listed();
        listed.gone = by_force || listed.queues.is_empty();
        listed.gone
    }

    /// Whether the sender has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.listed().gone
    }

    /// Tells the sender that a listed queue has what may be sent at once, before it is woken.
    pub(crate) fn note_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    /// Whether that was told since the last call.
    pub(crate) fn take_whole(&self) -> bool {
        self.whole.swap(false, Ordering::AcqRel)
    }

    /// Tells the sender that a listed queue can be sent to again, or from elsewhere.
    pub(crate) fn note_moved(&self) {
        self.moved.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether that was told since the last call.
    pub(crate) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// Wakes the sender.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves when the sender has something to do.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Whether the broker can be reached.
    pub(crate) fn reach(&self) -> Reach {
        match self.reach.load(Ordering::Relaxed) {
            1 => Reach::Up,
            2 => Reach::Down,
            _ => Reach::Unknown,
        }
    }

    /// Notes whether the broker can be reached; whether that is new.
    pub(crate) fn set_reach(&self, reach: Reach) -> bool {
        self.reach.swap(reach as u8, Ordering::Relaxed) != reach as u8
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
