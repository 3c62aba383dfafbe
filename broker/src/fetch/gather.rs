//! Gathers an answer from the queues of a fetch, in their order, as far as memory has them; says where the disk is needed.
//!
//! **Invariants**: an answer holds at most the bytes asked for (one larger batch is given alone); each queue has at most
//! one outcome; work per call is bounded, whatever a filter leaves out.

use equeue_net::Code;
use equeue_net::api::FetchOutcome;
use equeue_record::{Offset, QueueKey};
use equeue_storage::log::{LogSlice, QueueBounds, ReadBatches, ReadError};

use super::filter::keep_tagged;
use super::{FetchJob, JobItem, Reader};

/// Bytes looked through for one answer when a filter leaves them out.
pub const SCAN_BYTES_MAX: usize = 8 << 20;
/// What going through the queues once more counts for, in bytes looked through: so the turns are bounded as well.
const TURN_COST: usize = SCAN_BYTES_MAX / 32;

/// What a queue has to give.
#[derive(Debug)]
pub enum Lookup {
    /// Not to be read: no such queue, or consuming is forbidden.
    Refused(Code),
    /// Only the disk has it.
    Disk,
    /// This.
    Read(Result<ReadBatches, ReadError>),
}

/// Whether a reader may read a queue under a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    Granted,
    /// Something is being decided: to be asked again when that is durable.
    Unsettled,
    /// It may not.
    Refused {
        /// `STALE_EPOCH` or `OFFSET_RESET`.
        code: Code,
        /// The epoch in force.
        grant_epoch: u32,
        /// Where to go on after a reset.
        offset: Option<Offset>,
    },
}

/// Where batches come from.
pub trait Source {
    /// Looks at a grant.
    fn access(&self, reader: &Reader, queue: QueueKey, grant_epoch: u32) -> Access;
    /// Reads from memory.
    fn lookup(&self, queue: QueueKey, offset: Offset, bytes_max: usize) -> Lookup;
    /// Bounds of a queue.
    fn bounds(&self, queue: QueueKey) -> Option<QueueBounds>;
}

/// How far a gathering has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// As far as it goes.
    Done,
    /// It goes on with what a read from disk gives, see [`Gather::supply`].
    Disk {
        /// Which queue.
        queue: QueueKey,
        /// From where.
        offset: Offset,
        /// About so many bytes.
        bytes_max: usize,
    },
}

/// An answer.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Per queue that has something to tell.
    pub outcomes: Vec<FetchOutcome>,
    /// The batches, in the order of the outcomes.
    pub pieces: Vec<LogSlice>,
    /// Bytes of `pieces`.
    pub bytes: usize,
    /// Batches that the filter left out.
    pub filtered_bytes: usize,
}

/// A gathering.
#[derive(Debug, Default)]
pub struct Gather {
    out: Gathered,
    /// Items done in this turn.
    visited: usize,
    scanned: usize,
    /// In this turn a queue gave nothing but what its filter leaves out, and may have more.
    passed: bool,
}

enum Next {
    Item,
    Stop,
}

impl Gather {
    /// Goes on until nothing is left, the answer is full, or the disk is needed and nothing was found before.
    pub fn run(&mut self, job: &mut FetchJob, source: &impl Source) -> Step {
        loop {
            if let Some(disk) = self.turn(job, source) {
                return disk;
            }
            // In turns, so that the queues stay side by side: a window that holds batches of many comes from disk once.
            let passed = std::mem::take(&mut self.passed);
            if !passed || !self.out.outcomes.is_empty() || self.scanned >= SCAN_BYTES_MAX {
                return Step::Done;
            }
            self.visited = 0;
            self.scanned += TURN_COST;
        }
    }

    /// Looks once at every item that is left in this turn; `Some`: the disk is needed.
    fn turn(&mut self, job: &mut FetchJob, source: &impl Source) -> Option<Step> {
        while let Some(item) = job.items.get(self.visited) {
            let room = job.bytes_max.saturating_sub(self.out.bytes);
            if room == 0 || self.scanned >= SCAN_BYTES_MAX {
                break;
            }
            if let Some(reader) = job.reader.as_deref().filter(|_| item.grant_epoch != 0) {
                let access = source.access(reader, item.queue, item.grant_epoch);
                if let Access::Refused { code, grant_epoch, offset } = access {
                    let told = outcome(item, code, 0, source);
                    let next_offset = offset.unwrap_or(told.next_offset);
                    self.out.outcomes.push(FetchOutcome { grant_epoch, next_offset, ..told });
                }
                if access != Access::Granted {
                    self.visited += 1;
                    continue;
                }
            }
            let bytes_max = room.min(item.bytes_max);
            let next = match source.lookup(item.queue, item.offset, bytes_max) {
                Lookup::Refused(code) => {
                    self.refuse(item, code, source);
                    Next::Item
                }
                Lookup::Disk if self.out.outcomes.is_empty() => {
                    return Some(Step::Disk { queue: item.queue, offset: item.offset, bytes_max });
                }
                Lookup::Disk => Next::Item, // the next fetch gets it; what is in memory goes out now
                Lookup::Read(result) => self.take(job, source, result),
            };
            match next {
                Next::Item => self.visited += 1,
                Next::Stop => break,
            }
        }
        None
    }

    /// What the disk gave for the item at which [`Gather::run`] stopped.
    pub fn supply(
        &mut self,
        job: &mut FetchJob,
        source: &impl Source,
        result: Result<ReadBatches, ReadError>,
    ) {
        if matches!(self.take(job, source, result), Next::Item) {
            self.visited += 1;
        }
    }

    fn take(
        &mut self,
        job: &mut FetchJob,
        source: &impl Source,
        result: Result<ReadBatches, ReadError>,
    ) -> Next {
        let Some(item) = job.items.get_mut(self.visited) else { return Next::Stop };
        let read = match result {
            Ok(read) => read,
            Err(error) => {
                let code = code_of(&error);
                if matches!(code, Code::DataDamaged | Code::Internal) {
                    tracing::error!(queue = %item.queue, offset = %item.offset, %error, "a fetch could not be served");
                }
                self.refuse(item, code, source);
                return Next::Item;
            }
        };
        if read.pieces.is_empty() {
            // Offsets up to the end that a repair gave up are not waited for.
            item.advanced |= read.next_offset > item.offset;
            item.offset = item.offset.max(read.next_offset);
            return Next::Item;
        }
        if self.out.bytes > 0 && self.out.bytes + read.bytes > job.bytes_max {
            return Next::Stop; // a batch larger than the room left: it comes first next time
        }
        let tags = job.tags.get(item.tags.clone()).unwrap_or_default();
        let (pieces, bytes) = if tags.is_empty() {
            (read.pieces, read.bytes)
        } else {
            self.scanned += read.bytes;
            match keep_tagged(read.pieces, tags) {
                Ok(kept) => (kept.pieces, kept.bytes),
                Err(error) => {
                    tracing::error!(queue = %item.queue, offset = %item.offset, %error, "log memory holds no batches");
                    self.refuse(item, Code::DataDamaged, source);
                    return Next::Item;
                }
            }
        };
        self.out.filtered_bytes += read.bytes - bytes;
        item.offset = read.next_offset;
        if bytes == 0 {
            item.advanced = true;
            self.passed = true;
            return Next::Item;
        }
        item.advanced = false;
        self.out.outcomes.push(outcome(item, Code::Ok, bytes, source));
        self.out.pieces.extend(pieces);
        self.out.bytes += bytes;
        Next::Item
    }

    fn refuse(&mut self, item: &JobItem, code: Code, source: &impl Source) {
        self.out.outcomes.push(outcome(item, code, 0, source));
    }

    /// Something is there to be told now. Otherwise the fetch may wait.
    pub fn has_something(&self) -> bool {
        !self.out.outcomes.is_empty() || self.scanned >= SCAN_BYTES_MAX
    }

    /// The answer, with what the filter moved past.
    pub fn finish(mut self, job: &mut FetchJob, source: &impl Source) -> Gathered {
        for item in job.items.iter_mut().filter(|item| item.advanced) {
            item.advanced = false;
            if !self.out.outcomes.iter().any(|outcome| outcome.queue == item.queue) {
                self.out.outcomes.push(outcome(item, Code::Ok, 0, source));
            }
        }
        self.out
    }
}

fn outcome(item: &JobItem, code: Code, bytes: usize, source: &impl Source) -> FetchOutcome {
    let bounds = source.bounds(item.queue);
    FetchOutcome {
        queue: item.queue,
        code,
        grant_epoch: 0,
        bytes: u32::try_from(bytes).expect("an answer is smaller than a frame"),
        start_offset: bounds.map_or(Offset(0), |bounds| bounds.start),
        high_watermark: bounds.map_or(Offset(0), |bounds| bounds.durable_end),
        next_offset: item.offset,
    }
}

fn code_of(error: &ReadError) -> Code {
    match error {
        ReadError::OutOfRange { .. } => Code::OffsetOutOfRange,
        ReadError::NoQueue { .. } => Code::QueueNotFound,
        ReadError::Damaged { .. } => Code::DataDamaged,
        ReadError::Io { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::rc::Rc;

    use equeue_record::{BatchBuilder, Codec, NO_PRODUCER, ProducerStamp, RecordFields, tag_hash};

    use super::*;

    /// Queues of one-record batches, by tag; those in `cold` are on disk only.
    #[derive(Default)]
    struct Queues {
        batches: HashMap<QueueKey, Vec<Rc<Vec<u8>>>>,
        cold: Vec<QueueKey>,
    }

    impl Queues {
        fn with(mut self, queue: u64, tags: &[&str]) -> Self {
            let batch = |tag: &&str| {
                let mut builder = BatchBuilder::new(Codec::None, 1 << 16);
                let fields =
                    RecordFields { tag: Some(*tag), body: Some(&[7; 100]), ..RecordFields::default() };
                builder.push(&fields).unwrap();
                let stamp = ProducerStamp { producer_id: NO_PRODUCER, producer_epoch: 0, base_sequence: 0 };
                Rc::new(builder.finish(stamp).unwrap().to_vec())
            };
            self.batches.insert(QueueKey(queue), tags.iter().map(batch).collect());
            self
        }

        fn read(&self, queue: QueueKey, offset: Offset, bytes_max: usize) -> Result<ReadBatches, ReadError> {
            let all = self.batches.get(&queue).ok_or(ReadError::NoQueue { queue })?;
            let first = usize::try_from(offset.0).unwrap();
            if first > all.len() {
                let (start, end) = (Offset(0), Offset(all.len() as u64));
                return Err(ReadError::OutOfRange { queue, offset, start, end });
            }
            let mut read = ReadBatches { pieces: Vec::new(), bytes: 0, next_offset: offset };
            for batch in &all[first..] {
                if !read.pieces.is_empty() && read.bytes + batch.len() > bytes_max {
                    break;
                }
                read.bytes += batch.len();
                read.pieces.push(LogSlice {
                    memory: Rc::clone(batch) as Rc<dyn AsRef<[u8]>>,
                    range: 0..batch.len(),
                });
                read.next_offset = read.next_offset.plus(1);
            }
            Ok(read)
        }
    }

    impl Source for Queues {
        /// Epoch 5 is in force, 4 was before a reset, 9 is being decided.
        fn access(&self, _: &Reader, _: QueueKey, grant_epoch: u32) -> Access {
            match grant_epoch {
                5 => Access::Granted,
                9 => Access::Unsettled,
                4 => Access::Refused { code: Code::OffsetReset, grant_epoch: 5, offset: Some(Offset(1)) },
                _ => Access::Refused { code: Code::StaleEpoch, grant_epoch: 5, offset: None },
            }
        }

        fn lookup(&self, queue: QueueKey, offset: Offset, bytes_max: usize) -> Lookup {
            if queue.0 == 99 {
                return Lookup::Refused(Code::QueueHidden);
            }
            if self.cold.contains(&queue) {
                Lookup::Disk
            } else {
                Lookup::Read(self.read(queue, offset, bytes_max))
            }
        }

        fn bounds(&self, queue: QueueKey) -> Option<QueueBounds> {
            let end = Offset(self.batches.get(&queue)?.len() as u64);
            Some(QueueBounds { start: Offset(0), durable_end: end, end })
        }
    }

    fn job(items: &[(u64, u64)], bytes_max: usize, tags: &[&str]) -> FetchJob {
        let tags: Vec<u32> = tags.iter().map(|tag| tag_hash(tag)).collect();
        let items = items.iter().map(|&(queue, offset)| JobItem {
            queue: QueueKey(queue),
            offset: Offset(offset),
            bytes_max: 1 << 20,
            grant_epoch: 0,
            tags: 0..tags.len(),
            advanced: false,
        });
        FetchJob { fetch_id: 1, bytes_max, deadline_ms: 0, items: items.collect(), reader: None, tags }
    }

    fn gather(queues: &Queues, job: &mut FetchJob) -> Gathered {
        let mut gather = Gather::default();
        assert_eq!(gather.run(job, queues), Step::Done);
        gather.finish(job, queues)
    }

    fn told(gathered: &Gathered) -> Vec<(u64, Code, bool, u64)> {
        let row = |outcome: &FetchOutcome| {
            (outcome.queue.0, outcome.code, outcome.bytes > 0, outcome.next_offset.0)
        };
        gathered.outcomes.iter().map(row).collect()
    }

    #[test]
    fn queues_with_nothing_are_left_out() {
        let queues = Queues::default().with(1, &["a"; 3]).with(2, &[]).with(3, &["a"]);
        let mut asked = job(&[(1, 1), (2, 0), (3, 0), (3, 1)], 1 << 20, &[]);
        let answer = gather(&queues, &mut asked);
        assert_eq!(told(&answer), [(1, Code::Ok, true, 3), (3, Code::Ok, true, 1)]);
        assert_eq!(answer.bytes, answer.pieces.iter().map(|piece| piece.range.len()).sum::<usize>());
        assert_eq!(answer.outcomes[0].high_watermark, Offset(3));
    }

    #[test]
    fn only_the_grant_in_force_reads() {
        let queues = Queues::default().with(1, &["a"; 3]);
        let mut asked = job(&[(1, 0), (1, 0), (1, 0), (1, 0), (1, 0)], 1 << 20, &[]);
        asked.reader = Some(std::sync::Arc::new(Reader { group: "g".into(), member: 7 }));
        for (item, epoch) in asked.items.iter_mut().zip([5, 4, 3, 9, 0]) {
            item.grant_epoch = epoch;
        }
        let answer = gather(&queues, &mut asked);
        let expected = [
            (1, Code::Ok, true, 3),
            (1, Code::OffsetReset, false, 1),
            (1, Code::StaleEpoch, false, 0),
            (1, Code::Ok, true, 3),
        ];
        assert_eq!(told(&answer), expected);
        let epochs: Vec<u32> = answer.outcomes.iter().map(|outcome| outcome.grant_epoch).collect();
        assert_eq!(epochs, [0, 5, 5, 0]);
    }

    #[test]
    fn nothing_anywhere_may_wait() {
        let queues = Queues::default().with(1, &["a"]);
        let mut asked = job(&[(1, 1)], 1 << 20, &[]);
        let mut gather = Gather::default();
        assert_eq!(gather.run(&mut asked, &queues), Step::Done);
        assert!(!gather.has_something());
    }

    #[test]
    fn errors_are_told_per_queue() {
        let queues = Queues::default().with(1, &["a"]);
        let mut asked = job(&[(1, 5), (7, 0), (99, 0), (1, 0)], 1 << 20, &[]);
        let codes: Vec<Code> =
            gather(&queues, &mut asked).outcomes.iter().map(|outcome| outcome.code).collect();
        assert_eq!(codes, [Code::OffsetOutOfRange, Code::QueueNotFound, Code::QueueHidden, Code::Ok]);
    }

    #[test]
    fn the_answer_is_bounded_and_in_the_order_asked() {
        let queues = Queues::default().with(1, &["a"; 9]).with(2, &["a"; 9]);
        let one = queues.batches[&QueueKey(1)][0].len();
        let mut asked = job(&[(1, 0), (2, 0)], one * 3, &[]);
        assert_eq!(told(&gather(&queues, &mut asked)), [(1, Code::Ok, true, 3)]);
        let mut asked = job(&[(2, 0), (1, 0)], one * 3, &[]);
        assert_eq!(told(&gather(&queues, &mut asked)), [(2, Code::Ok, true, 3)]);
        // Less than a batch is asked for: one comes all the same, but not on top of another.
        let mut asked = job(&[(1, 0), (2, 0)], one + 1, &[]);
        assert_eq!(told(&gather(&queues, &mut asked)), [(1, Code::Ok, true, 1)]);
        let mut asked = job(&[(1, 0)], 1, &[]);
        assert_eq!(told(&gather(&queues, &mut asked)), [(1, Code::Ok, true, 1)]);
    }

    #[test]
    fn a_filter_moves_on_and_tells_how_far() {
        let queues = Queues::default().with(1, &["a", "b", "b"]).with(2, &["b"]);
        let mut asked = job(&[(1, 0), (2, 0)], 1 << 20, &["a"]);
        let answer = gather(&queues, &mut asked);
        assert_eq!(told(&answer), [(1, Code::Ok, true, 3), (2, Code::Ok, false, 1)]);
        assert_eq!(answer.pieces.len(), 1);
        // Nothing wanted at all: the fetch may wait, and remembers how far it has looked.
        let mut asked = job(&[(2, 0)], 1 << 20, &["a"]);
        let mut first = Gather::default();
        first.run(&mut asked, &queues);
        assert!(!first.has_something());
        assert_eq!(asked.items[0].offset, Offset(1));
        let answer = Gather::default().finish(&mut asked, &queues);
        assert_eq!(told(&answer), [(2, Code::Ok, false, 1)]);
    }

    #[test]
    fn looking_through_filtered_batches_is_bounded() {
        let one = Queues::default().with(1, &["b"]).batches[&QueueKey(1)][0].len();
        let queues = Queues::default().with(1, &vec!["b"; SCAN_BYTES_MAX / one * 2]);
        let mut asked = job(&[(1, 0)], 64 << 10, &["a"]);
        let mut first = Gather::default();
        assert_eq!(first.run(&mut asked, &queues), Step::Done);
        assert!(first.has_something());
        let answer = first.finish(&mut asked, &queues);
        assert_eq!(answer.bytes, 0);
        assert!(answer.outcomes[0].next_offset.0 * (one as u64) < SCAN_BYTES_MAX as u64 + (128 << 10));
    }

    #[test]
    fn the_disk_is_asked_only_when_memory_gave_nothing() {
        let mut queues = Queues::default().with(1, &["a"; 2]).with(2, &["a"]);
        queues.cold = vec![QueueKey(1)];
        let mut asked = job(&[(1, 0), (2, 0)], 1 << 20, &[]);
        let mut cold_first = Gather::default();
        let step = cold_first.run(&mut asked, &queues);
        assert_eq!(step, Step::Disk { queue: QueueKey(1), offset: Offset(0), bytes_max: 1 << 20 });
        let result = queues.read(QueueKey(1), Offset(0), 1 << 20);
        cold_first.supply(&mut asked, &queues, result);
        assert_eq!(cold_first.run(&mut asked, &queues), Step::Done);
        let answer = cold_first.finish(&mut asked, &queues);
        assert_eq!(told(&answer), [(1, Code::Ok, true, 2), (2, Code::Ok, true, 1)]);
        let mut asked = job(&[(2, 0), (1, 0)], 1 << 20, &[]);
        assert_eq!(told(&gather(&queues, &mut asked)), [(2, Code::Ok, true, 1)]);
    }
}
