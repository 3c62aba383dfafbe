//! Writing the log's state into the log, in slices between ordinary flushes.
//!
//! BEGIN is a marker: replay starts there, so whatever changes after it is found in the records themselves. The slices
//! that follow are assembled from durable state, each when its turn comes, and carry the position up to which they
//! speak (`as_of`). The snapshot counts once END is durable. **Invariant**: what existed before BEGIN and was not
//! changed after it is in some slice; so walking over keys that were collected once BEGIN was durable is enough.

use bytes::Bytes;
use equeue_record::QueueKey;

use super::core::Core;
use super::fact::Fact;
use super::queue::{Queue, encode_bounds};
use crate::format::{SNAPSHOT_PREFIX_LEN, SnapshotPrefix};
use crate::io::Io;
use crate::producer_state::ProducerKey;
use crate::state::{EntryBatch, EntryKey};
use crate::types::Position;

/// Longest slice, bytes.
pub(super) const SLICE_BYTES_MAX: usize = 64 << 10;

/// Producers that appended nothing for so long are left out: 7 days, as long as messages are kept by default.
const PRODUCER_IDLE_MS_MAX: i64 = 7 * 24 * 3600 * 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// BEGIN comes next.
    Wanted,
    /// Slices with content come next.
    Content,
}

/// The snapshot that is being written, if any.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    stage: Stage,
    /// A slice is under way: the next one waits for it.
    in_flight: bool,
    /// Another one is to follow: a segment began after this one's BEGIN.
    again: bool,
    begin: Position,
    index: u32,
    left: Left,
    /// Bytes of messages flushed since the last BEGIN.
    bytes_since: u64,
}

/// What is still to be written. Taken from the ends of the lists.
#[derive(Debug, Default)]
struct Left {
    /// The next offset of the state entries' own batches is written.
    offset_done: bool,
    queues: Vec<QueueKey>,
    producers: Vec<ProducerKey>,
    /// State entries up to this key are written.
    state_to: Option<Bytes>,
    state_done: bool,
}

impl Snapshot {
    /// Whether a slice can be written now.
    pub(super) fn wants_slice(&self) -> bool {
        self.stage != Stage::Idle && !self.in_flight
    }

    /// One is to be written soon, unless one is being written.
    pub(super) fn request_one(&mut self) {
        if self.stage == Stage::Idle {
            self.request();
        }
    }

    /// One is to be written soon.
    pub(super) fn request(&mut self) {
        match self.stage {
            Stage::Idle => self.stage = Stage::Wanted,
            Stage::Wanted => {}
            Stage::Content => self.again = true,
        }
        // BEGIN may be under way in the segment before.
        self.again |= self.in_flight;
    }
}

impl<I: Io> Core<I> {
    /// The front and the batch of the next slice.
    pub(super) fn next_slice(&mut self, body_max: usize) -> Option<(SnapshotPrefix, Option<Bytes>)> {
        let as_of = self.durable_end;
        if !self.snapshot.wants_slice() {
            return None;
        }
        self.snapshot.in_flight = true;
        if self.snapshot.stage == Stage::Wanted {
            let begin = self.position;
            self.snapshot = Snapshot { stage: Stage::Content, in_flight: true, begin, ..Snapshot::default() };
            return Some((SnapshotPrefix { begin, as_of, index: 0, is_begin: true, is_end: false }, None));
        }
        let mut batch = EntryBatch::new(body_max.min(SLICE_BYTES_MAX) - SNAPSHOT_PREFIX_LEN);
        let mut left = std::mem::take(&mut self.snapshot.left);
        let is_end = self.fill_slice(&mut left, &mut batch);
        self.snapshot.left = left;
        self.snapshot.index += 1;
        let Snapshot { begin, index, .. } = self.snapshot;
        let batch = if batch.is_empty() { None } else { batch.finish().ok() };
        Some((SnapshotPrefix { begin, as_of, index, is_begin: false, is_end }, batch))
    }

    /// Fills a slice from durable state; tells whether nothing is left.
    fn fill_slice(&self, left: &mut Left, batch: &mut EntryBatch) -> bool {
        if !left.offset_done {
            let bounds = Queue { durable_end: self.state_durable, ..Queue::default() };
            left.offset_done = batch.push(EntryKey::Queue(QueueKey::STATE), Some(&encode_bounds(&bounds)))
                && Fact::Kept(self.kept).push(batch);
        }
        while let Some(queue) = left.queues.last() {
            if let Some(known) = self.queues.get(*queue)
                && !batch.push(EntryKey::Queue(*queue), Some(&encode_bounds(known)))
            {
                return false;
            }
            left.queues.pop();
        }
        let mut value = Vec::new();
        while let Some(producer) = left.producers.last() {
            value.clear();
            if self.producers.encode_durable(producer, self.durable, &mut value)
                && !batch.push(EntryKey::Producer(*producer), Some(&value))
            {
                return false;
            }
            left.producers.pop();
        }
        if !left.state_done {
            let from = left.state_to.take();
            let mut to = from.clone();
            for (key, value) in self.state.after(from.as_deref()) {
                if !batch.push(EntryKey::State(key), Some(value)) {
                    left.state_to = to;
                    return false;
                }
                to = Some(key.clone());
            }
            left.state_done = true;
        }
        true
    }

    /// A slice became durable.
    pub(super) fn slice_durable(&mut self, slice: &SnapshotPrefix, bytes: u64) {
        self.stats.snapshot_bytes += bytes;
        self.snapshot.in_flight = false;
        if slice.is_begin {
            let oldest_ms = self.last_time_ms.saturating_sub(PRODUCER_IDLE_MS_MAX);
            self.producers.forget_idle(oldest_ms, self.durable);
            let mut producers = self.producers.keys();
            // Taken from the end: the one that appended longest ago goes first.
            producers.reverse();
            self.snapshot.left = Left { queues: self.queues.keys(), producers, ..Left::default() };
        }
        if slice.is_end {
            self.older_snapshot = self.newest_snapshot.replace(slice.begin);
            self.stats.snapshots += 1;
            let again = self.snapshot.again;
            let bytes_since = self.snapshot.bytes_since;
            self.snapshot = Snapshot { bytes_since, ..Snapshot::default() };
            if again {
                self.snapshot.request();
            }
        }
    }

    /// So many bytes of messages became durable.
    pub(super) fn snapshot_due(&mut self, bytes: u64) {
        self.snapshot.bytes_since += bytes;
        if self.snapshot.bytes_since >= self.options.snapshot_bytes && self.snapshot.stage == Stage::Idle {
            self.snapshot.request();
        }
    }
}
