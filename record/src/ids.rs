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
