//! What happens to the queues of a consumer, for listeners.

use std::fmt;
use std::sync::Arc;

use equeue_record::Offset;

/// A queue came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssignmentEvent {
    /// This member owns the queue and reads it.
    Assigned {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// Where it begins.
        from: Offset,
    },
    /// The queue falls to another member: nothing more of it is delivered, what was is being finished.
    Draining {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
    },
    /// Everything delivered is committed, and the queue was given back.
    Released {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
    },
    /// The queue is not this member's any more, and what was not committed will be handled again by another one.
    Lost {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
    },
    /// The group's offset was reset: what was in flight was dropped, and the queue goes on there.
    Reset {
        /// Name of the topic.
        topic: Arc<str>,
        /// Ordinal of the queue.
        queue: u32,
        /// Where it goes on.
        to: Offset,
    },
}

/// Hears of each [`AssignmentEvent`]. It is called by the task that keeps the leases: it must not block.
#[derive(Clone)]
pub struct AssignmentListener(Arc<dyn Fn(&AssignmentEvent) + Send + Sync>);

impl AssignmentListener {
    /// Calls this function.
    pub fn new(listener: impl Fn(&AssignmentEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn tell(&self, event: &AssignmentEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for AssignmentListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssignmentListener")
    }
}
