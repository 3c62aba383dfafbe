//! Index files: writing one from runs in order, finding runs in it.
//!
//! Written as `prep-*.tmp`, synced, renamed, the folder synced: a file with its name is whole, and still every block
//! is checked when it is read. An index can always be made again from its segment.

use std::cell::RefCell;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;

use equeue_record::QueueKey;
use lru::LruCache;

use super::layout::{
    ENTRIES_MAX, Entry, FENCES_MAX, Fence, INDEX_BLOCK_LEN, IndexHeader, decode_entries, decode_fences,
    encode_entries, encode_fences,
};
use super::{Run, Search};
use crate::format::{SegmentHeader, index_name, prep_name};
use crate::io::{Access, Io, IoFile};
use crate::types::Position;

/// Blocks written at a time.
const WRITE_BLOCKS: usize = 16;
/// Blocks read at a time by a walk.
const WALK_BLOCKS: u32 = 16;
/// Index files kept open, with their fences.
const FILES_MAX: usize = 64;
/// Entry blocks kept: some 4 MiB.
const BLOCKS_MAX: usize = 1024;

/// What was found of a queue in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Runs from the one looked for on, or from the first of the queue in this segment when that is later. A search by
    /// time tells which with `has_before`: the queue has an earlier run here.
    Runs { runs: Vec<Run>, has_before: bool },
    /// All its runs in this segment lie before.
    Before,
    /// The queue has no run in this segment.
    Absent,
}

/// Why an index cannot be used.
#[derive(Debug)]
pub(crate) enum IndexError {
    /// The system said no.
    Io(io::Error),
    /// It is not there, or not what was written: it must be made again.
    Unusable,
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Unusable } else { Self::Io(error) }
    }
}

/// An index file that is open.
struct IndexFile<I: Io> {
    file: I::File,
    fences: Vec<Fence>,
}

/// Entry blocks by segment and number.
type Blocks = LruCache<(Position, u32), Rc<Vec<Entry>>>;

/// The index files of a log, with what is kept of them in memory.
pub(crate) struct Indexes<I: Io> {
    files: RefCell<LruCache<Position, Rc<IndexFile<I>>>>,
    blocks: RefCell<Blocks>,
}

impl<I: Io> Indexes<I> {
    pub(crate) fn new() -> Self {
        let most = |most| NonZeroUsize::new(most).expect("it is not 0");
        Self {
            files: RefCell::new(LruCache::new(most(FILES_MAX))),
            blocks: RefCell::new(LruCache::new(most(BLOCKS_MAX))),
        }
    }

    /// Forgets what is known of a segment's index: it was made again.
    pub(crate) fn forget(&self, segment: Position) {
        self.files.borrow_mut().pop(&segment);
        let mut blocks = self.blocks.borrow_mut();
        let stale: Vec<_> = blocks.iter().map(|(key, _)| *key).filter(|(of, _)| *of == segment).collect();
        for key in stale {
            blocks.pop(&key);
        }
    }

    /// Runs of a queue in a segment, from the one looked for on, at most `runs_max` and a block more.
    pub(crate) async fn find(
        &self,
        (io, dir): (&I, &Path),
        segment: &SegmentHeader,
        (queue, search): (QueueKey, Search),
        runs_max: usize,
        reads: &mut u64,
    ) -> Result<Lookup, IndexError> {
        let index = self.open(io, dir, segment, reads).await?;
        let first = index.fences.partition_point(|fence| fence.is_before(queue, search)).saturating_sub(1);
        let mut runs = Vec::new();
        let mut has_before = false;
        for number in first..index.fences.len() {
            let block = self.block(&index, segment.position, number, reads).await?;
            let begin = block.partition_point(|entry| entry.is_before(queue, search));
            has_before |=
                begin.checked_sub(1).and_then(|at| block.get(at)).is_some_and(|entry| entry.queue == queue);
            let of_queue = block.iter().skip(begin).take_while(|entry| entry.queue == queue);
            let before = runs.len();
            runs.extend(of_queue.map(|entry| entry.run));
            let goes_on = begin == block.len() || begin + runs.len() - before == block.len();
            if !goes_on || runs.len() >= runs_max {
                break;
            }
        }
        Ok(match (runs.is_empty(), has_before) {
            (false, has_before) => Lookup::Runs { runs, has_before },
            (true, true) => Lookup::Before,
            (true, false) => Lookup::Absent,
        })
    }

    async fn open(
        &self,
        io: &I,
        dir: &Path,
        segment: &SegmentHeader,
        reads: &mut u64,
    ) -> Result<Rc<IndexFile<I>>, IndexError> {
        if let Some(index) = self.files.borrow_mut().get(&segment.position) {
            return Ok(Rc::clone(index));
        }
        let file = io.open(&dir.join(index_name(segment.position)), Access::Read).await?;
        *reads += 1;
        let block = file.read_at(0, INDEX_BLOCK_LEN).await?;
        let header = IndexHeader::decode(segment, block.as_ref()).ok_or(IndexError::Unusable)?;
        // Grows with what is read: the file may be shorter than its header says.
        let mut fences = Vec::new();
        for number in (1 + header.entry_blocks..).take(header.fence_blocks as usize) {
            *reads += 1;
            let block = file.read_at(at(number), INDEX_BLOCK_LEN).await?;
            decode_fences(segment.position, number, block.as_ref(), &mut fences)
                .ok_or(IndexError::Unusable)?;
        }
        if fences.len() != header.entry_blocks as usize {
            return Err(IndexError::Unusable);
        }
        let index = Rc::new(IndexFile { file, fences });
        self.files.borrow_mut().push(segment.position, Rc::clone(&index));
        Ok(index)
    }

    async fn block(
        &self,
        index: &IndexFile<I>,
        segment: Position,
        fence: usize,
        reads: &mut u64,
    ) -> Result<Rc<Vec<Entry>>, IndexError> {
        let number = u32::try_from(fence + 1).map_err(|_| IndexError::Unusable)?;
        if let Some(block) = self.blocks.borrow_mut().get(&(segment, number)) {
            return Ok(Rc::clone(block));
        }
        *reads += 1;
        let bytes = index.file.read_at(at(number), INDEX_BLOCK_LEN).await?;
        let block = Rc::new(decode_entries(segment, number, bytes.as_ref()).ok_or(IndexError::Unusable)?);
        self.blocks.borrow_mut().push((segment, number), Rc::clone(&block));
        Ok(block)
    }
}

fn at(number: u32) -> u64 {
    u64::from(number) * INDEX_BLOCK_LEN as u64
}

/// Gives each entry of an index file to `each`, in order, past all that is kept in memory. Entries before
/// a damaged block are given.
pub(crate) async fn walk_index<I: Io>(
    io: &I,
    dir: &Path,
    segment: &SegmentHeader,
    each: impl FnMut(&Entry),
) -> Result<(), IndexError> {
    let file = io.open(&dir.join(index_name(segment.position)), Access::Read).await?;
    let walked = walk_file::<I>(io, &file, segment, each).await;
    let closed = file.close().await;
    walked.and(closed.map_err(IndexError::Io))
}

async fn walk_file<I: Io>(
    io: &I,
    file: &I::File,
    segment: &SegmentHeader,
    mut each: impl FnMut(&Entry),
) -> Result<(), IndexError> {
    let block = file.read_at(0, INDEX_BLOCK_LEN).await?;
    let header = IndexHeader::decode(segment, block.as_ref()).ok_or(IndexError::Unusable)?;
    let mut number = 1;
    while number <= header.entry_blocks {
        let blocks = (header.entry_blocks - number + 1).min(WALK_BLOCKS);
        let bytes = file.read_at(at(number), blocks as usize * INDEX_BLOCK_LEN).await?;
        let bytes: &[u8] = bytes.as_ref();
        for block in bytes.chunks(INDEX_BLOCK_LEN) {
            let entries = decode_entries(segment.position, number, block).ok_or(IndexError::Unusable)?;
            entries.iter().for_each(&mut each);
            number += 1;
        }
        if bytes.len() < blocks as usize * INDEX_BLOCK_LEN {
            return Err(IndexError::Unusable);
        }
        io.yield_now().await;
    }
    Ok(())
}

/// An index that is being written.
pub(crate) struct IndexWriter<I: Io> {
    io: I,
    file: I::File,
    segment: SegmentHeader,
    /// Entries of the block that is not full yet.
    entries: Vec<Entry>,
    fences: Vec<Fence>,
    /// Blocks that are not written yet.
    buffer: Vec<u8>,
    /// Where they go.
    begin: u64,
    number: u32,
    count: u64,
}

impl<I: Io> IndexWriter<I> {
    /// Begins the index of a segment.
    pub(crate) async fn create(io: &I, dir: &Path, segment: &SegmentHeader) -> io::Result<Self> {
        let path = dir.join(temporary(segment.position));
        // Of an attempt that failed.
        let _ = io.remove(&path).await;
        let file = io.open(&path, Access::CreateNew).await?;
        Ok(Self {
            io: io.clone(),
            file,
            segment: *segment,
            entries: Vec::with_capacity(ENTRIES_MAX),
            fences: Vec::new(),
            buffer: Vec::with_capacity(WRITE_BLOCKS * INDEX_BLOCK_LEN),
            begin: INDEX_BLOCK_LEN as u64,
            number: 1,
            count: 0,
        })
    }

    /// Adds the next entry, in order of queue and offset.
    pub(crate) async fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        self.count += 1;
        if self.entries.len() == ENTRIES_MAX { self.end_block().await } else { Ok(()) }
    }

    async fn end_block(&mut self) -> io::Result<()> {
        let Some(first) = self.entries.first() else { return Ok(()) };
        self.fences.push(first.fence());
        let block = encode_entries(self.segment.position, self.number, &self.entries);
        self.entries.clear();
        self.put(&block).await
    }

    async fn put(&mut self, block: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(block);
        self.number += 1;
        if self.buffer.len() >= WRITE_BLOCKS * INDEX_BLOCK_LEN { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            write_whole(&self.io, &self.file, &self.buffer, self.begin).await?;
            self.begin += self.buffer.len() as u64;
            self.buffer.clear();
            self.io.yield_now().await;
        }
        Ok(())
    }

    /// Ends the file, syncs it and gives it its name.
    pub(crate) async fn finish(mut self, dir: &Path) -> io::Result<()> {
        self.end_block().await?;
        let entry_blocks = self.number - 1;
        let fences = std::mem::take(&mut self.fences);
        for part in fences.chunks(FENCES_MAX) {
            let block = encode_fences(self.segment.position, self.number, part);
            self.put(&block).await?;
        }
        self.write().await?;
        let header = IndexHeader {
            log: self.segment.log,
            position: self.segment.position,
            salt: self.segment.salt,
            entries: self.count,
            entry_blocks,
            fence_blocks: self.number - 1 - entry_blocks,
        };
        debug_assert_eq!(header.file_len(), self.begin);
        write_whole(&self.io, &self.file, &header.encode(), 0).await?;
        self.file.sync().await?;
        self.file.close().await?;
        let position = self.segment.position;
        self.io.rename(&dir.join(temporary(position)), &dir.join(index_name(position))).await?;
        self.io.sync_dir(dir).await
    }
}

/// A name that is no segment's: segments begin at whole MiB.
fn temporary(segment: Position) -> String {
    prep_name(segment.0 + 1)
}

async fn write_whole<I: Io>(io: &I, file: &I::File, bytes: &[u8], position: u64) -> io::Result<()> {
    let mut memory = io.allocate(bytes.len());
    memory.as_mut().copy_from_slice(bytes);
    let written = file.write_at(Rc::new(memory), position).await?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::StorageFull, format!("{written} of {} bytes written", bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use equeue_record::Offset;

    use super::*;
    use crate::format::Salt;
    use crate::io::memory::MemoryIo;
    use crate::types::LogId;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            log: LogId(0),
            position: Position(1 << 20),
            bytes: 256 << 20,
            salt: Salt::from_bits(5),
            created_ms: 0,
            has_gaps: false,
        }
    }

    /// Queue 2 has runs 0..n of 10 records each, times 100, 101, ..; queues 1 and 4 have one each.
    async fn write(io: &MemoryIo, runs: u64) {
        let mut writer = IndexWriter::create(io, Path::new("/d"), &segment()).await.unwrap();
        let run = |n: u64| Run {
            base_offset: Offset(n * 10),
            position: Position((1 << 20) + n * 4096),
            last_time_ms: 100 + i64::try_from(n).unwrap(),
            record_count: 10,
            bytes: 100,
        };
        writer.push(Entry { queue: QueueKey(1), run: run(0) }).await.unwrap();
        for n in 3..runs {
            writer.push(Entry { queue: QueueKey(2), run: run(n) }).await.unwrap();
        }
        writer.push(Entry { queue: QueueKey(4), run: run(0) }).await.unwrap();
        writer.finish(Path::new("/d")).await.unwrap();
    }

    async fn first(io: &MemoryIo, indexes: &Indexes<MemoryIo>, queue: u64, search: Search) -> String {
        let place = (io, Path::new("/d"));
        let found = indexes.find(place, &segment(), (QueueKey(queue), search), 5, &mut 0).await;
        match found.unwrap() {
            Lookup::Runs { runs, has_before } => format!("{} {has_before}", runs[0].base_offset),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn runs_are_found_by_offset_and_time() {
        for runs in [4, 50, 102, 103, 104, 105, 20_000] {
            let io = MemoryIo::new(1).with_dir("/d");
            io.run({
                let io = io.clone();
                async move {
                    write(&io, runs).await;
                    let indexes = Indexes::new();
                    let offset = |offset| Search::Offset(Offset(offset));
                    assert_eq!(first(&io, &indexes, 2, offset(0)).await, "30 false");
                    assert_eq!(first(&io, &indexes, 3, offset(0)).await, "Absent");
                    assert_eq!(first(&io, &indexes, 9, offset(0)).await, "Absent");
                    assert_eq!(first(&io, &indexes, 2, offset(runs * 10)).await, "Before");
                    for n in (4..runs).step_by(37) {
                        let found = first(&io, &indexes, 2, offset(n * 10 + 3)).await;
                        assert_eq!(found.split(' ').next(), Some(&*format!("{}", n * 10)));
                        let time = Search::Time(100 + i64::try_from(n).unwrap());
                        assert_eq!(first(&io, &indexes, 2, time).await, format!("{} true", n * 10));
                    }
                    assert_eq!(first(&io, &indexes, 2, Search::Time(0)).await, "30 false");
                    assert_eq!(first(&io, &indexes, 4, offset(9)).await, "0 false");
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn damage_is_noticed_and_never_taken_for_an_answer() {
        let path = "/d/00000000000001048576.idx";
        let io = MemoryIo::new(1).with_dir("/d");
        io.run({
            let io = io.clone();
            async move {
                write(&io, 300).await;
                for at in [5, 4096 + 9, 3 * 4096 + 100, 4 * 4096 + 1] {
                    let whole = io.content(path).unwrap();
                    io.damage(path, |bytes| bytes[at] ^= 1);
                    let indexes = Indexes::new();
                    let mut failed = false;
                    for n in 3..300 {
                        let wanted = (QueueKey(2), Search::Offset(Offset(n * 10)));
                        match indexes.find((&io, Path::new("/d")), &segment(), wanted, 1, &mut 0).await {
                            Ok(Lookup::Runs { runs, .. }) => assert_eq!(runs[0].base_offset, Offset(n * 10)),
                            Err(IndexError::Unusable) => failed = true,
                            other => panic!("{other:?}"),
                        }
                    }
                    assert!(failed, "byte {at}");
                    io.put(path, whole);
                }
            }
        })
        .unwrap();
    }
}
