//! Index files of sealed segments: written in the background, searched for what is not in memory, made again when
//! they are missing or damaged.

use std::io;
use std::time::Duration;

use equeue_record::{QueueKey, split_first};

use super::core::Closing;
use super::segments::Segment;
use super::{CommitLog, ReadError};
use crate::format::{Chain, FLUSH_HEADER_LEN, FlushKind, index_name, segment_name};
use crate::index::{Entry, IndexError, IndexWriter, Lookup, Run, Search, walk_index};
use crate::io::Io;
use crate::segment::{BodyError, Ending, FirstFlush, ScanError, ScanRules, find_flush, scan_segment};
use crate::types::Position;

/// Runs that a search brings along.
const FIND_RUNS: usize = 256;
/// Entries taken from memory before other tasks get their turn: far less than 1 ms.
const ENTRIES_PER_TURN: usize = 1000;
/// Queues whose runs are forgotten before other tasks get their turn.
const FORGET_PER_TURN: usize = 1000;
const RETRY: Duration = Duration::from_secs(1);

impl<I: Io> CommitLog<I> {
    /// Writes the index files that are missing, oldest first.
    pub(super) async fn index_sealed(self) {
        loop {
            let segment = {
                let core = self.inner.core.borrow();
                let ends = core.closing != Closing::No;
                core.segments.first_unindexed().copied().filter(|_| !ends)
            };
            let Some(segment) = segment else { break };
            match self.write_index(&segment).await {
                Ok(true) => self.index_written(&segment).await,
                Ok(false) => break,
                Err(error) => {
                    let path = self.inner.dir.join(index_name(segment.header.position));
                    tracing::warn!(path = %path.display(), %error, "writing an index failed; it is tried again");
                    self.inner.io.sleep(RETRY).await;
                }
            }
        }
        self.inner.indexing.set(false);
    }

    /// Writes the index of a segment whose runs are in memory; `false` when the log is being closed.
    async fn write_index(&self, segment: &Segment) -> io::Result<bool> {
        let _busy = self.busy();
        let (from, to) = (segment.header.position, segment.header.end());
        let queues = self.inner.core.borrow().queues.keys_with_runs(from, to);
        let mut writer = IndexWriter::create(&self.inner.io, &self.inner.dir, &segment.header).await?;
        let mut runs: Vec<Run> = Vec::new();
        let mut turn = 0;
        for queue in queues {
            runs.clear();
            {
                let core = self.inner.core.borrow();
                runs.extend(core.queues.get(queue).into_iter().flat_map(|known| known.runs.within(from, to)));
            }
            for run in &runs {
                writer.push(Entry { queue, run: *run }).await?;
            }
            turn += runs.len();
            if turn >= ENTRIES_PER_TURN {
                turn = 0;
                self.inner.io.yield_now().await;
                if self.inner.core.borrow().closing != Closing::No {
                    return Ok(false);
                }
            }
        }
        writer.finish(&self.inner.dir).await?;
        Ok(true)
    }

    /// The index of a segment is durable: its runs need not be in memory.
    async fn index_written(&self, segment: &Segment) {
        let to = segment.header.end();
        let queues = {
            let mut core = self.inner.core.borrow_mut();
            core.segments.set_indexed(segment.header.position);
            core.queues.keys_with_runs(Position(0), to)
        };
        self.inner.indexes.forget(segment.header.position);
        for some in queues.chunks(FORGET_PER_TURN) {
            {
                let mut core = self.inner.core.borrow_mut();
                for queue in some {
                    core.queues.forget_runs(*queue, to);
                }
            }
            self.inner.io.yield_now().await;
        }
    }

    /// Runs of a queue from the one looked for on, from index files. Empty when none has it.
    ///
    /// A binary search over the segments; where the queue is absent, the next ones are asked until it is there.
    pub(super) async fn find_runs(&self, queue: QueueKey, search: Search) -> Result<Vec<Run>, ReadError> {
        let (mut low, mut high) = {
            let core = self.inner.core.borrow();
            let known = core.queues.get(queue).and_then(|known| known.runs.first());
            let first_in_memory = known.map_or(Position(u64::MAX), |run| run.position);
            let numbers = core.segments.before(first_in_memory);
            (numbers.start, numbers.end)
        };
        let mut best = Vec::new();
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = middle;
            let found = loop {
                match self.look(at, queue, search).await? {
                    Lookup::Absent if at + 1 < high => at += 1,
                    found => break found,
                }
            };
            match found {
                Lookup::Runs { runs, has_before } => {
                    let is_it = match search {
                        // A hole that a repair left: the first run behind it, so the search goes on.
                        Search::Offset(offset) => runs.first().is_some_and(|run| run.base_offset <= offset),
                        Search::Time(_) => has_before,
                    };
                    if is_it {
                        return Ok(runs);
                    }
                    best = runs;
                    high = middle;
                }
                Lookup::Before => low = at + 1,
                Lookup::Absent => high = middle,
            }
        }
        let core = self.inner.core.borrow();
        Ok(match (search, best.first()) {
            (Search::Offset(offset), Some(run)) if !core.leads_to(run, offset) => Vec::new(),
            _ => best,
        })
    }

    /// Asks the index of segment number `at`, making it anew when it must be.
    async fn look(&self, at: usize, queue: QueueKey, search: Search) -> Result<Lookup, ReadError> {
        let segment = self.inner.core.borrow().segments.get(at).copied();
        // Retired meanwhile: what is looked for lies further on, or is gone.
        let Some(segment) = segment else { return Ok(Lookup::Before) };
        for attempt in 0..2 {
            let mut reads = 0;
            let place = (&self.inner.io, self.inner.dir.as_path());
            let wanted = (queue, search);
            let found = self.inner.indexes.find(place, &segment.header, wanted, FIND_RUNS, &mut reads).await;
            self.inner.core.borrow_mut().stats.index_reads += reads;
            match found {
                Ok(found) => return Ok(found),
                Err(IndexError::Unusable) if attempt == 0 => self.rebuild_index(&segment).await?,
                Err(IndexError::Unusable) => break,
                Err(IndexError::Io(source)) => return Err(self.index_failed(&segment, source)),
            }
        }
        Err(self.index_unusable(&segment))
    }

    /// Folds the entries of a segment's index, in order of queue and offset, into a new `T`; makes the index anew when
    /// it must be.
    pub(super) async fn fold_index<T: Default>(
        &self,
        segment: &Segment,
        mut each: impl FnMut(&mut T, &Entry),
    ) -> Result<T, ReadError> {
        for attempt in 0..2 {
            let mut folded = T::default();
            let (io, dir) = (&self.inner.io, &self.inner.dir);
            match walk_index(io, dir, &segment.header, |entry| each(&mut folded, entry)).await {
                Ok(()) => return Ok(folded),
                Err(IndexError::Unusable) if attempt == 0 => self.rebuild_index(segment).await?,
                Err(IndexError::Unusable) => break,
                Err(IndexError::Io(source)) => return Err(self.index_failed(segment, source)),
            }
        }
        Err(self.index_unusable(segment))
    }

    fn index_unusable(&self, segment: &Segment) -> ReadError {
        ReadError::Damaged {
            path: self.inner.dir.join(index_name(segment.header.position)),
            position: segment.header.position,
            reason: "the index was made anew and cannot be read".to_owned(),
        }
    }

    fn index_failed(&self, segment: &Segment, source: io::Error) -> ReadError {
        let position = segment.header.position;
        ReadError::Io { path: self.inner.dir.join(index_name(position)), position, source }
    }

    /// Makes an index from its segment, unless another reader did meanwhile.
    pub(super) async fn rebuild_index(&self, segment: &Segment) -> Result<(), ReadError> {
        let _busy = self.busy();
        let before = self.inner.core.borrow().stats.index_rebuilds;
        let _alone = self.inner.rebuilding.lock().await;
        let position = segment.header.position;
        let others = self.inner.core.borrow().stats.index_rebuilds > before;
        if others && walk_index(&self.inner.io, &self.inner.dir, &segment.header, |_| ()).await.is_ok() {
            return Ok(());
        }
        let path = self.inner.dir.join(index_name(position));
        tracing::warn!(path = %path.display(), "the index is missing or damaged and is made again");
        let mut entries = self.entries_of(segment).await?;
        entries.sort_unstable_by_key(|entry| (entry.queue, entry.run.base_offset));
        let written = async {
            let mut writer = IndexWriter::create(&self.inner.io, &self.inner.dir, &segment.header).await?;
            for entry in entries {
                writer.push(entry).await?;
            }
            writer.finish(&self.inner.dir).await
        };
        written.await.map_err(|source| self.index_failed(segment, source))?;
        self.inner.indexes.forget(position);
        self.inner.core.borrow_mut().stats.index_rebuilds += 1;
        Ok(())
    }

    async fn entries_of(&self, segment: &Segment) -> Result<Vec<Entry>, ReadError> {
        let header = segment.header;
        let path = self.inner.dir.join(segment_name(header.position));
        let io_error = |position, source| ReadError::Io { path: path.clone(), position, source };
        let file = self.file_of(segment).await.map_err(|source| io_error(header.position, source))?;
        let ending = self.ending_of(segment).await.map_err(|source| io_error(header.position, source))?;
        let mut entries = Vec::new();
        let from = Chain::unlinked(header.first_flush());
        scan_segment(&self.inner.io, &file, &header, from, ending, ScanRules::default(), |flush, body| {
            if flush.kind == FlushKind::Data {
                add_entries(flush.position, body, &mut entries)?;
            }
            Ok(())
        })
        .await
        .map_err(|error| match error {
            ScanError::Io { position, source } => io_error(position, source),
            ScanError::Damaged { position, damage } => {
                ReadError::Damaged { path: path.clone(), position, reason: damage.to_string() }
            }
            ScanError::Header(error) => ReadError::Damaged {
                path: path.clone(),
                position: header.position,
                reason: error.to_string(),
            },
        })?;
        Ok(entries)
    }
}

impl<I: Io> CommitLog<I> {
    /// How a closed segment ends: known when it was replayed, else told by what the log went on with.
    pub(super) async fn ending_of(&self, segment: &Segment) -> io::Result<Ending> {
        if segment.end < segment.header.end() {
            return Ok(Ending::At(segment.end));
        }
        let mut at = segment.header.end();
        loop {
            let next = self.inner.core.borrow().segments.containing(at).copied();
            let Some(next) = next else { return Ok(Ending::Sealed) };
            let file = self.file_of(&next).await?;
            match find_flush::<I>(&file, &next.header).await {
                Ok(FirstFlush::Open(open)) => {
                    return Ok(Ending::At(open.previous_end.max(segment.header.position)));
                }
                Ok(FirstFlush::Nothing) => at = next.header.end(),
                Ok(FirstFlush::Other) | Err(ScanError::Damaged { .. } | ScanError::Header(_)) => {
                    return Ok(Ending::Sealed);
                }
                Err(ScanError::Io { source, .. }) => return Err(source),
            }
        }
    }
}

/// The runs of messages in a flush.
pub(super) fn add_entries(
    position: Position,
    body: &[u8],
    entries: &mut Vec<Entry>,
) -> Result<(), BodyError> {
    let mut at = position.plus(FLUSH_HEADER_LEN as u64);
    let mut rest = body;
    let first = entries.len();
    while !rest.is_empty() {
        let (header, len) = split_first(rest)?;
        let last = entries.get_mut(first..).and_then(<[Entry]>::last_mut);
        match last.filter(|last| last.queue == header.queue_key) {
            Some(last) => last.run.extend(&header),
            None if header.queue_key != QueueKey::STATE => {
                entries.push(Entry { queue: header.queue_key, run: Run::begin(&header, at) });
            }
            None => {}
        }
        at = at.plus(len as u64);
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}
