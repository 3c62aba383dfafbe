//! Whether the offsets of each queue follow one another. Pure; the same rule for opening a log, repairing and verifying it.

use equeue_record::{BatchHeader, Offset, QueueKey, RecordError};

use crate::fast_hash::FastMap;

/// Offsets as they come by, batch by batch.
#[derive(Debug, Default)]
pub(crate) struct DenseOffsets {
    /// Offsets found missing behind gaps: from the first to the one after the last.
    pub(crate) holes: Vec<(QueueKey, Offset, Offset)>,
    /// Next offset of each queue that had a batch. A queue's bounds may come later, in a snapshot.
    next: FastMap<QueueKey, Offset>,
    /// Like `next`, from before the last gap.
    stale: FastMap<QueueKey, Offset>,
}

impl DenseOffsets {
    /// Takes the next batch of a queue.
    ///
    /// # Errors
    /// When it does not begin where the one before ended.
    pub(crate) fn take(&mut self, header: &BatchHeader) -> Result<(), RecordError> {
        let known = self.next.insert(header.queue_key, header.next_offset());
        let expected = known.or_else(|| self.resumed(header)).unwrap_or(header.base_offset);
        if header.base_offset == expected {
            return Ok(());
        }
        Err(RecordError::Field { field: "base_offset", value: header.base_offset.0 })
    }

    /// Where a queue goes on after a gap: offsets may be missing, but none comes twice.
    fn resumed(&mut self, header: &BatchHeader) -> Option<Offset> {
        let before = self.stale.remove(&header.queue_key)?;
        if before < header.base_offset {
            self.holes.push((header.queue_key, before, header.base_offset));
        }
        Some(before.max(header.base_offset))
    }

    /// What comes next does not follow what came before.
    pub(crate) fn jump(&mut self) {
        self.stale.extend(self.next.drain());
    }
}
