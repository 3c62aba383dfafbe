//! What the log itself must remember between two snapshots: where queues and the log begin, which queues are no more.
//!
//! Facts are entries of control batches like state entries, written and made durable the same way, and true only from
//! then on. **Invariant**: nothing is removed from the disk before the fact that says so is durable.

use equeue_record::{Offset, QueueKey};

use super::AppendError;
use super::core::Core;
use crate::io::Io;
use crate::state::{EntryBatch, EntryKey};
use crate::types::{Position, Ticket};

/// Bytes of facts in one append: small enough for the reserve of a full disk.
const FACTS_BYTES_MAX: usize = 32 << 10;

/// One fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// The queue begins here: what lies before is gone.
    Start(QueueKey, Offset),
    /// The log begins here: segments before may be removed.
    Kept(Position),
    /// The queue is no more; its key is never used again.
    Dead(QueueKey),
}

impl Fact {
    /// Adds it to a batch; `false` when that is full.
    pub(super) fn push(self, batch: &mut EntryBatch) -> bool {
        match self {
            Self::Start(queue, offset) => batch.push(EntryKey::Start(queue), Some(&offset.0.to_le_bytes())),
            Self::Kept(position) => batch.push(EntryKey::Kept, Some(&position.0.to_le_bytes())),
            Self::Dead(queue) => batch.push(EntryKey::Dead(queue), Some(&[])),
        }
    }

    /// Reads an entry; `None` when it is none of these, or not as they are written.
    pub(crate) fn read(key: EntryKey<'_>, value: Option<&[u8]>) -> Option<Self> {
        let number = || Some(u64::from_le_bytes(value?.try_into().ok()?));
        match key {
            EntryKey::Start(queue) => Some(Self::Start(queue, Offset(number()?))),
            EntryKey::Kept => Some(Self::Kept(Position(number()?))),
            EntryKey::Dead(queue) => value.filter(|value| value.is_empty()).map(|_| Self::Dead(queue)),
            EntryKey::State(_) | EntryKey::Queue(_) | EntryKey::Producer(_) => None,
        }
    }
}

impl<I: Io> Core<I> {
    /// Appends facts in units of a bounded size, in order; the ticket of the last. Some may be appended when it fails.
    pub(super) fn append_facts(&mut self, facts: &[Fact], wall_ms: i64) -> Result<Ticket, AppendError> {
        let mut rest = facts;
        let mut ticket = Ticket(self.next_ticket.0.saturating_sub(1));
        while !rest.is_empty() {
            let mut batch = EntryBatch::new(FACTS_BYTES_MAX.min(self.options.batch_bytes_max()));
            let count = rest.iter().take_while(|fact| fact.push(&mut batch)).count();
            let (some, after) = rest.split_at(count.max(1));
            let batch = batch.finish()?;
            ticket = self.append_fact_batch(batch, some, wall_ms)?;
            rest = after;
        }
        Ok(ticket)
    }

    /// Facts that became durable.
    pub(super) fn apply_facts(&mut self, facts: &[Fact]) {
        let mut dead = Vec::new();
        for fact in facts {
            match *fact {
                Fact::Start(queue, offset) => self.queues.raise_start(queue, offset),
                Fact::Kept(position) => self.kept = self.kept.max(position),
                Fact::Dead(queue) => {
                    self.queues.remove(queue);
                    dead.push(queue);
                }
            }
        }
        self.producers.forget_queues(&dead);
    }
}
