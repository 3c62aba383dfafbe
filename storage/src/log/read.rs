//! Reading: from memory, else a window from disk at a time, with read-ahead.
//!
//! Windows are read by tasks of their own: a reader that goes away does not take the read away from others who wait for
//! the same window, and there are never more than [`LOADS_MAX`] of them. A window is checked once, flush by flush,
//! when it comes from disk.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use equeue_record::{Offset, QueueKey};

use super::gather::{Found, Gathered, Windows, batch_of, window_of};
use super::pending::window_after;
use super::segments::Segment;
use super::wait::Event;
use super::{CommitLog, ReadBatches, ReadError};
use crate::cache::Span;
use crate::fast_hash::FastMap;
use crate::format::{BLOCK_BYTES, FLUSH_HEADER_LEN, FlushHeader, segment_name};
use crate::index::{Run, Search};
use crate::io::{Access, Io, IoFile};
use crate::types::Position;

/// Windows being read at the same time.
const LOADS_MAX: usize = 8;
/// Disk reads that one read waits for at the most; then it gives what it has.
const WAITS_MAX: usize = 8;
/// Times that the window of one run is read: once by somebody who began before the run was there, once anew.
const LOADS_PER_RUN: usize = 3;
/// Files of older segments kept open.
const FILES_MAX: usize = 64;

/// A window on its way from disk.
#[derive(Default)]
struct Load {
    result: RefCell<Option<Result<Span, LoadError>>>,
    done: Event,
}

/// Why a window could not be read; shared by those who waited for it.
#[derive(Clone)]
struct LoadError {
    path: PathBuf,
    position: Position,
    kind: io::ErrorKind,
    text: Rc<str>,
}

/// Reads under way.
pub(super) struct Reads<I: Io> {
    loads: RefCell<FastMap<u64, Rc<Load>>>,
    room: Event,
    files: RefCell<lru::LruCache<Position, Rc<I::File>>>,
}

impl<I: Io> Reads<I> {
    pub(super) fn new() -> Self {
        let files = std::num::NonZeroUsize::new(FILES_MAX).expect("it is not 0");
        Self {
            loads: RefCell::default(),
            room: Event::default(),
            files: RefCell::new(lru::LruCache::new(files)),
        }
    }

    /// Lets go of the file of a segment.
    pub(super) fn forget_file(&self, position: Position) -> Option<Rc<I::File>> {
        self.files.borrow_mut().pop(&position)
    }

    /// No window is being read.
    pub(super) fn is_idle(&self) -> bool {
        self.loads.borrow().is_empty()
    }

    /// Lets go of the files; those that a read still uses close when it is over.
    pub(super) fn take_files(&self) -> Vec<Rc<I::File>> {
        let mut files = self.files.borrow_mut();
        std::iter::from_fn(|| files.pop_lru().map(|(_, file)| file)).collect()
    }
}

impl From<LoadError> for ReadError {
    fn from(error: LoadError) -> Self {
        let source = io::Error::new(error.kind, &*error.text);
        Self::Io { path: error.path, position: error.position, source }
    }
}

impl<I: Io> CommitLog<I> {
    pub(super) fn read_memory(
        &self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Option<Result<ReadBatches, ReadError>> {
        let gathered =
            self.inner.core.borrow_mut().gather(queue, offset, bytes_max.max(1), &Found::default());
        match gathered {
            Ok(Gathered::Done(answer, ahead)) => {
                self.read_ahead(&ahead);
                Some(Ok(answer))
            }
            Ok(Gathered::Window(_) | Gathered::Index) => None,
            Err(error) => Some(Err(error)),
        }
    }

    pub(super) async fn read_any(
        &self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<ReadBatches, ReadError> {
        let answer = self.read_waiting(queue, offset, bytes_max).await;
        match (answer, self.bounds(queue)) {
            // What was being read was retired meanwhile.
            (Err(_), Some(bounds)) if offset < bounds.start => {
                Err(ReadError::OutOfRange { queue, offset, start: bounds.start, end: bounds.durable_end })
            }
            (answer, _) => answer,
        }
    }

    async fn read_waiting(
        &self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<ReadBatches, ReadError> {
        let mut found = Found::default();
        // The first batch is given whatever the limit on waiting; more of them only while it is not reached.
        let mut bytes_max = bytes_max.max(1);
        for wait in 0.. {
            let gathered = self.inner.core.borrow_mut().gather(queue, offset, bytes_max, &found)?;
            match gathered {
                Gathered::Done(answer, ahead) => {
                    self.read_ahead(&ahead);
                    return Ok(answer);
                }
                Gathered::Index if found.runs.is_empty() => {
                    let first = {
                        let core = self.inner.core.borrow();
                        core.queues.get(queue).map(|known| known.runs.first_position())
                    };
                    found.runs = self.find_runs(queue, Search::Offset(offset)).await?;
                    found.not_indexed = first.filter(|_| found.runs.is_empty());
                    let may_lack = self.inner.core.borrow().segments.has_gap_before(Position(u64::MAX));
                    if found.runs.is_empty() && !may_lack {
                        return Err(self.index_lacks(queue, offset));
                    }
                }
                Gathered::Index => return Err(self.index_lacks(queue, offset)),
                Gathered::Window(window) => {
                    // The run that is wanted lies in it, as far as the file goes.
                    let loads = found.spans.iter().filter(|span| span.position == window).count();
                    if loads == LOADS_PER_RUN {
                        let core = self.inner.core.borrow();
                        return Err(core.damaged(window, "the file ends before the run".to_owned()));
                    }
                    found.spans.push(self.load(window).await?);
                }
            }
            if wait >= WAITS_MAX {
                bytes_max = 1;
            }
        }
        unreachable!("the loop above has no end")
    }

    fn index_lacks(&self, queue: QueueKey, offset: Offset) -> ReadError {
        let position = self.inner.core.borrow().segments.first().map(|first| first.header.position);
        ReadError::Damaged {
            path: self.inner.dir.clone(),
            position: position.unwrap_or_default(),
            reason: format!("no index knows offset {offset} of queue {queue}"),
        }
    }

    /// First offset appended at or after `time_ms`.
    pub(super) async fn find_time(&self, queue: QueueKey, time_ms: i64) -> Result<Offset, ReadError> {
        loop {
            let before = self.bounds(queue).ok_or(ReadError::NoQueue { queue })?.start;
            match self.find_time_once(queue, time_ms).await {
                // What was looked at was retired meanwhile.
                Err(_) if self.bounds(queue).is_some_and(|bounds| bounds.start > before) => {}
                found => return found,
            }
        }
    }

    async fn find_time_once(&self, queue: QueueKey, time_ms: i64) -> Result<Offset, ReadError> {
        let search = Search::Time(time_ms);
        let (in_memory, bounds) = {
            let core = self.inner.core.borrow();
            let known =
                core.queues.get(queue).filter(|known| known.open).ok_or(ReadError::NoQueue { queue })?;
            let run = known.runs.from(search).map(|mut runs| runs.next().copied());
            let run = match (run, known.runs.first()) {
                // Nothing older can exist: the queue's first record is in memory.
                (None, Some(first)) if first.base_offset <= known.start => Some(Some(*first)),
                (found, _) => found,
            };
            (run, known.bounds())
        };
        let run = match in_memory {
            Some(run) => run,
            None => self.find_run_by(queue, search).await?,
        };
        match run.filter(|run| run.base_offset < bounds.durable_end) {
            Some(run) => Ok(self.batch_at_time(queue, &run, time_ms).await?.max(bounds.start)),
            None => Ok(bounds.durable_end),
        }
    }

    /// Where a reader of `offset` goes on: there, or behind what a repair gave up. `None`: nothing is stored from there on.
    pub(super) async fn next_stored(
        &self,
        queue: QueueKey,
        offset: Offset,
    ) -> Result<Option<Offset>, ReadError> {
        let search = Search::Offset(offset);
        let in_memory = {
            let core = self.inner.core.borrow();
            let runs = core.queues.get(queue).and_then(|known| known.runs.from(search));
            runs.map(|mut runs| runs.next().copied())
        };
        let run = match in_memory {
            Some(run) => run,
            None => self.find_run_by(queue, search).await?,
        };
        Ok(run.map(|run| run.base_offset.max(offset)))
    }

    /// Asks the index files, then what came after them.
    async fn find_run_by(&self, queue: QueueKey, search: Search) -> Result<Option<Run>, ReadError> {
        if let Some(run) = self.find_runs(queue, search).await?.first() {
            return Ok(Some(*run));
        }
        let core = self.inner.core.borrow();
        Ok(core.queues.get(queue).and_then(|known| known.runs.in_memory_from(search).next().copied()))
    }

    async fn batch_at_time(&self, queue: QueueKey, run: &Run, time_ms: i64) -> Result<Offset, ReadError> {
        let span = self.span_of(run).await?;
        let damaged = |reason: String| self.inner.core.borrow().damaged(run.position, reason);
        let range = span
            .range(run.position, run.bytes as usize)
            .ok_or_else(|| damaged("the file ends before the run".to_owned()))?;
        let mut rest = (*span.memory).as_ref().get(range).unwrap_or_default();
        let is_checked = run.end() <= span.checked_to;
        let mut next = run.base_offset;
        while !rest.is_empty() {
            let (header, len) = batch_of(rest, (queue, next), is_checked).map_err(&damaged)?;
            if header.append_time_ms >= time_ms {
                return Ok(header.base_offset);
            }
            next = header.next_offset();
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(run.next_offset())
    }

    /// Memory with a whole run. A window that was being read for somebody else may end before what was flushed since, and
    /// the flush's own memory may have left a small cache: then the window is read once more.
    async fn span_of(&self, run: &Run) -> Result<Span, ReadError> {
        let len = run.bytes as usize;
        let mut span = None;
        for _ in 0..LOADS_PER_RUN {
            let cached = self.inner.core.borrow_mut().cache.get(run.position, len);
            let found = match cached {
                Some(span) => span,
                None => self.load(window_of(run.position)).await?,
            };
            let is_whole = found.range(run.position, len).is_some();
            span = Some(found);
            if is_whole {
                break;
            }
        }
        Ok(span.expect("the loop above runs at least once"))
    }

    /// Starts reading windows that nobody waits for yet, while there is room for it.
    fn read_ahead(&self, windows: &Windows) {
        for window in windows {
            let may = {
                let loads = self.inner.reads.loads.borrow();
                let core = self.inner.core.borrow();
                loads.len() < LOADS_MAX.min(core.cache.limit() / 2 / super::READ_WINDOW_LEN).max(1)
                    && !loads.contains_key(&window.0)
                    && core.cache.has_room_beside_held(super::READ_WINDOW_LEN)
            };
            if may {
                self.inner.core.borrow_mut().stats.read_aheads += 1;
                self.begin_load(*window);
            }
        }
    }

    /// The window that begins at `window`, as far as it is written.
    async fn load(&self, window: Position) -> Result<Span, ReadError> {
        let reads = &self.inner.reads;
        let load = reads
            .room
            .until(|| {
                let known = reads.loads.borrow().get(&window.0).cloned();
                if known.is_some() {
                    return known;
                }
                let has_room = reads.loads.borrow().len() < LOADS_MAX;
                has_room.then(|| self.begin_load(window))
            })
            .await;
        let result = load.done.until(|| load.result.borrow().clone()).await;
        result.map_err(ReadError::from)
    }

    fn begin_load(&self, window: Position) -> Rc<Load> {
        let load = Rc::<Load>::default();
        self.inner.reads.loads.borrow_mut().insert(window.0, Rc::clone(&load));
        let (log, done) = (self.clone(), Rc::clone(&load));
        let busy = self.busy();
        self.inner.io.spawn(async move {
            let _busy = busy;
            let result = log.read_window(window).await;
            if let Ok(span) = &result {
                log.inner.core.borrow_mut().cache.insert_window(span.clone());
            }
            *done.result.borrow_mut() = Some(result);
            log.inner.reads.loads.borrow_mut().remove(&window.0);
            done.done.notify();
            log.inner.reads.room.notify();
        });
        load
    }

    async fn read_window(&self, window: Position) -> Result<Span, LoadError> {
        let (segment, end) = {
            let core = self.inner.core.borrow();
            // The first window of a segment begins with it; segments are made of whole windows.
            let Some(segment) = core.segments.containing(window).copied() else {
                return Err(self.load_error(window, window, &io::ErrorKind::NotFound.into()));
            };
            let active =
                core.active.as_ref().is_some_and(|(active, _)| active.position == segment.header.position);
            let end = if active { core.durable_end } else { segment.end };
            (segment, Position(end.0.next_multiple_of(BLOCK_BYTES)).min(window_after(window)))
        };
        let fail = |error: io::Error| self.load_error(segment.header.position, window, &error);
        let file = self.file_of(&segment).await.map_err(fail)?;
        let len = usize::try_from(end.0.saturating_sub(window.0)).unwrap_or_default();
        let memory = file.read_at(window.0 - segment.header.position.0, len).await.map_err(fail)?;
        let checked_to = check_window(&segment, window, memory.as_ref());
        let mut core = self.inner.core.borrow_mut();
        core.stats.disk_reads += 1;
        core.stats.disk_read_bytes += len as u64;
        Ok(Span { position: window, memory: Rc::new(memory), checked_to })
    }

    fn load_error(&self, segment: Position, position: Position, error: &io::Error) -> LoadError {
        let path = self.inner.dir.join(segment_name(segment));
        LoadError { path, position, kind: error.kind(), text: Rc::from(error.to_string()) }
    }

    /// The open file of a segment.
    pub(super) async fn file_of(&self, segment: &Segment) -> io::Result<Rc<I::File>> {
        let position = segment.header.position;
        let active =
            self.inner.core.borrow().active.as_ref().map(|(header, file)| (header.position, Rc::clone(file)));
        if let Some((_, file)) = active.filter(|(active, _)| *active == position) {
            return Ok(file);
        }
        if let Some(file) = self.inner.reads.files.borrow_mut().get(&position) {
            return Ok(Rc::clone(file));
        }
        let path = self.inner.dir.join(segment_name(position));
        let file = Rc::new(self.inner.io.open(&path, Access::Read).await?);
        let replaced = self.inner.reads.files.borrow_mut().push(position, Rc::clone(&file));
        if let Some((_, old)) = replaced {
            self.close_later(old);
        }
        Ok(file)
    }

    /// Closes a file once nobody uses it.
    pub(super) fn close_later(&self, file: Rc<I::File>) {
        if let Ok(file) = Rc::try_unwrap(file) {
            self.inner.io.spawn(async move {
                if let Err(error) = file.close().await {
                    tracing::warn!(%error, "closing a segment failed");
                }
            });
        }
    }
}

/// Checks flush after flush of a window; gives where the good ones end. What is asked for behind that is checked batch
/// by batch, so that one bad flush does not hide good ones.
fn check_window(segment: &Segment, window: Position, memory: &[u8]) -> Position {
    let mut position = window.max(segment.header.first_flush());
    loop {
        let at = usize::try_from(position.0 - window.0).unwrap_or(usize::MAX);
        let Some(rest) = memory.get(at..).filter(|rest| !rest.is_empty()) else { return position };
        let Ok(header) = FlushHeader::decode(rest) else { return position };
        let body = rest.get(FLUSH_HEADER_LEN..FLUSH_HEADER_LEN + header.body_len as usize);
        let is_good = header.position == position
            && header.salt == segment.header.salt
            && body.is_some_and(|body| header.check_body(body).is_ok());
        if !is_good {
            return position;
        }
        position = header.next();
    }
}
