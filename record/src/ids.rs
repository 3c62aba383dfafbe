//! The numbers that every crate passes around, each with a type of its own so that none is taken for another.

use std::fmt;

/// Ordinal of a record in its queue; the first record of a queue has offset 0, offsets are dense.
///
/// Used as a bound (`start`, `end`, `next`) it is exclusive: the offset that the next record will get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// Names a queue inside one broker, for ever: given by the broker's catalog, never used again after deletion.
///
/// [`QueueKey::STATE`] (0) is no queue of messages: batches under it carry the log's state records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey(pub u64);

/// Generation of a broker group's master; raised by each OPEN flush of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterEpoch(pub u32);

impl QueueKey {
    /// The key of batches that carry state records instead of messages.
    pub const STATE: Self = Self(0);

    /// Set in the key of the hidden queue where messages for a queue wait until they are due; the rest of the key is that
    /// queue's. No key that a catalog gives has it.
    pub const DELAY_BIT: u64 = 1 << 39;

    /// The hidden queue where messages for this one wait until they are due.
    #[must_use]
    pub const fn delay_queue(self) -> Self {
        Self(self.0 | Self::DELAY_BIT)
    }

    /// Whether it is such a hidden queue.
    pub const fn is_delay_queue(self) -> bool {
        self.0 & Self::DELAY_BIT != 0
    }

    /// The queue that messages of a delay queue are for; any other queue itself.
    #[must_use]
    pub const fn target(self) -> Self {
        Self(self.0 & !Self::DELAY_BIT)
    }
}

impl Offset {
    /// The offset `count` records further on.
    ///
    /// Saturates at `u64::MAX`: at a thousand million records a second that is 584 years away.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MasterEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
