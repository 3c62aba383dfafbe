//! The commit log: the facade that brokers use.
//!
//! ```text
//! append -> intake (checks, offsets) -> pending -> flush (assemble, write, sync, in-order acknowledgement)
//!                                                    |-> queues, state, cache: durable from here on
//!                                                    `-> listener, waiters
//! read   -> gather (index runs, cache) -> read (windows from disk, read-ahead)
//! ```
//!
//! `core` holds everything that changes and decides what the flusher does next; it is borrowed for a moment at a
//! time, never across an await. `roll` brings new segments, `snapshot` writes the state into the log, `recovery` reads
//! all of it back.

mod answer;
mod assemble;
mod ballast;
mod clock;
mod core;
mod error;
mod fact;
mod flush;
mod gather;
mod gone;
mod intake;
pub(crate) mod offsets;
mod options;
mod pending;
mod progress;
pub(crate) mod queue;
mod read;
pub(crate) mod recovery;
pub(crate) mod replay;
mod reserve;
mod retire;
mod roll;
mod scrub;
mod seal;
mod segments;
mod snapshot;
mod stats;
mod survey;
mod sync;
mod wait;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use equeue_record::{Offset, QueueKey};

pub use self::answer::{
    Appended, AtomicPart, DurableListener, LogSlice, QueueBounds, ReadBatches, Recovered,
};
use self::core::{Closing, Core};
pub use self::error::{AppendError, OpenError, ReadError};
pub use self::options::{Hazards, LogOptions};
use self::read::Reads;
pub use self::retire::{RetainError, Retained, Stays};
pub use self::stats::LogStats;
pub use self::sync::SyncPolicy;
use self::wait::{Event, TicketWaiters};
pub use crate::cache::CacheStats;
use crate::index::Indexes;
use crate::io::Io;
use crate::retention::{RetentionAdvisor, RetentionPolicy};
use crate::types::{LogId, Position, Ticket};

/// Bytes of a window, as a length in memory.
const READ_WINDOW_LEN: usize = 1 << 20;
const _: () = assert!(READ_WINDOW_LEN as u64 == crate::format::WINDOW_BYTES);

/// A log, open for appending and reading. Cloning shares it; it belongs to one executor.
pub struct CommitLog<I: Io> {
    inner: Rc<Inner<I>>,
}

impl<I: Io> Clone for CommitLog<I> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<I: Io> {
    io: I,
    dir: PathBuf,
    core: RefCell<Core<I>>,
    listener: RefCell<Option<Rc<dyn DurableListener>>>,
    /// Something changed that the flusher may wait for.
    work: Event,
    /// The log went on in another segment.
    rolled: Event,
    tickets: TicketWaiters,
    reads: Reads<I>,
    indexes: Indexes<I>,
    /// A task writes index files.
    indexing: Cell<bool>,
    /// Held while an index is made again: two readers may find the same one damaged.
    rebuilding: futures::lock::Mutex<()>,
    /// The flusher ended.
    stopped: Cell<bool>,
    /// Tasks that use files.
    busy: Cell<usize>,
    /// The flusher ended, or a task that used files.
    stop: Event,
}

/// A task that uses files; an orderly stop waits for its end.
struct Busy<I: Io> {
    log: CommitLog<I>,
}

impl<I: Io> Drop for Busy<I> {
    fn drop(&mut self) {
        let busy = &self.log.inner.busy;
        busy.set(busy.get() - 1);
        self.log.inner.stop.notify();
    }
}

impl<I: Io> CommitLog<I> {
    /// Opens (or creates) the log in `dir`, recovering what is there.
    ///
    /// Resolves when the log can serve: the space for the next segment is there, and after a stop that was not orderly OPEN is
    /// durable; or, on a full disk, everything can be read and messages are refused.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when synced bytes are gone or wrong; nothing was changed then.
    pub async fn open(
        io: I,
        dir: PathBuf,
        log: LogId,
        options: LogOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        recovery::open(io, dir, log, &options).await
    }

    /// Who is told of durable flushes; at most one.
    pub fn listen(&self, listener: Rc<dyn DurableListener>) {
        *self.inner.listener.borrow_mut() = Some(listener);
    }

    /// Makes a queue known; one that the log has records of goes on where it was. Writes nothing.
    pub fn open_queue(&self, queue: QueueKey) {
        if queue != QueueKey::STATE {
            self.inner.core.borrow_mut().queues.open(queue);
        }
    }

    /// Appends one batch to a queue: checks it (structure and checksum), assigns offsets and time, applies the
    /// producer's sequence rules. Takes part in the next flush. The memory of `batch` is held until then.
    pub fn append(&self, queue: QueueKey, batch: Bytes) -> Result<Appended, AppendError> {
        let wall_ms = self.inner.io.wall_ms();
        let appended = self.inner.core.borrow_mut().append(queue, batch, wall_ms)?;
        self.inner.work.notify();
        Ok(appended)
    }

    /// Appends all parts in one flush, recovered whole or not at all. No sequence rules are applied to its batches.
    pub fn append_atomic(&self, parts: Vec<AtomicPart>) -> Result<Ticket, AppendError> {
        let wall_ms = self.inner.io.wall_ms();
        let ticket = self.inner.core.borrow_mut().append_atomic(parts, wall_ms)?;
        self.inner.work.notify();
        Ok(ticket)
    }

    /// Lets queues begin at later offsets: what lies before is gone for readers at once when the ticket is durable, its
    /// bytes go with their segments. An offset behind what is durable is taken for the durable end. Works on a full disk.
    pub fn trim(&self, starts: &[(QueueKey, Offset)]) -> Result<Ticket, AppendError> {
        let wall_ms = self.inner.io.wall_ms();
        let mut core = self.inner.core.borrow_mut();
        let mut facts = Vec::with_capacity(starts.len());
        for (queue, start) in starts {
            let known = core.queues.get(*queue).filter(|known| known.open);
            let known = known.ok_or(AppendError::NoQueue { queue: *queue, log: core.log })?;
            let start = (*start).min(known.durable_end);
            if start > known.start {
                facts.push(fact::Fact::Start(*queue, start));
            }
        }
        let ticket = core.append_facts(&facts, wall_ms)?;
        drop(core);
        self.inner.work.notify();
        Ok(ticket)
    }

    /// Forgets queues for ever: they take nothing and answer nothing from now on. Their keys must never be used again.
    pub fn remove_queues(&self, queues: &[QueueKey]) -> Result<Ticket, AppendError> {
        let wall_ms = self.inner.io.wall_ms();
        let mut core = self.inner.core.borrow_mut();
        let known = queues.iter().filter(|queue| core.queues.get(**queue).is_some());
        let facts: Vec<_> = known.map(|queue| fact::Fact::Dead(*queue)).collect();
        let ticket = core.append_facts(&facts, wall_ms)?;
        for queue in queues {
            core.queues.close(*queue);
        }
        drop(core);
        self.inner.work.notify();
        Ok(ticket)
    }

    /// One pass of retention: retires the oldest segments as far as `policy` lets them go. The log goes on meanwhile. To
    /// be called every now and then, and when [`CommitLog::rolled`] says that a segment was used up: one that goes then is
    /// used again, with no zeros to write. While one pass goes on another does nothing.
    ///
    /// # Errors
    /// [`RetainError`]; the next pass goes on where this one ended.
    pub async fn retain(
        &self,
        policy: &RetentionPolicy,
        advisor: &dyn RetentionAdvisor,
    ) -> Result<Retained, RetainError> {
        self.retain_pass(policy, advisor).await
    }

    /// Now, ms UTC, for what its user lets go when it is older than `age_ms`; `None` while the clock is not to be believed:
    /// it jumped, or it may not be set yet since the start. To be asked each time, directly before.
    pub fn now_for_age(&self, age_ms: i64) -> Option<i64> {
        self.look_at_clocks(Some(age_ms))
    }

    /// Resolves once the log has begun more than `seen` segments since it was opened, with their number.
    pub async fn rolled(&self, seen: u64) -> u64 {
        let begun = || Some(self.inner.core.borrow().stats.segments).filter(|begun| *begun > seen);
        self.inner.rolled.until(begun).await
    }

    /// Everything at or below is synced.
    pub fn durable(&self) -> Ticket {
        self.inner.core.borrow().durable
    }

    /// Resolves when `ticket` is durable, or with the reason when the log failed before. May be dropped any time.
    pub async fn wait_durable(&self, ticket: Ticket) -> Result<(), AppendError> {
        let outcome = || {
            let core = self.inner.core.borrow();
            if core.durable >= ticket {
                return Some(Ok(()));
            }
            let reason = core.poison.clone();
            if reason.is_none() && self.inner.stopped.get() {
                return Some(Err(AppendError::DiskFull));
            }
            reason.map(|reason| Err(AppendError::Poisoned { reason }))
        };
        self.inner.tickets.until(ticket, outcome).await
    }

    /// Resolves when everything acknowledged by now is synced: at once, unless syncs come at intervals. For what another
    /// log, or the world, relies on.
    pub async fn wait_synced(&self) -> Result<(), AppendError> {
        self.until_synced().await
    }

    /// Durable state entries: value of a key. Only durable values are seen.
    pub fn state(&self, key: &[u8]) -> Option<Bytes> {
        self.inner.core.borrow().state.get(key).cloned()
    }

    /// Durable state entries whose key begins with `prefix`, in order of keys.
    pub fn state_with_prefix(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) {
        for (key, value) in self.inner.core.borrow().state.with_prefix(prefix) {
            each(key, value);
        }
    }

    /// Bounds of a queue.
    pub fn bounds(&self, queue: QueueKey) -> Option<QueueBounds> {
        let core = self.inner.core.borrow();
        core.queues.get(queue).filter(|known| known.open).map(queue::Queue::bounds)
    }

    /// Reads whole batches from `offset`, about `bytes_max` (the first batch is given whatever its size), never past
    /// the durable end. At the end: no pieces, `next_offset == offset`. May be dropped any time.
    pub async fn read(
        &self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<ReadBatches, ReadError> {
        self.read_any(queue, offset, bytes_max).await
    }

    /// Like [`CommitLog::read`] but only from memory: `None` when a disk read is needed. For answering without a task.
    pub fn read_cached(
        &self,
        queue: QueueKey,
        offset: Offset,
        bytes_max: usize,
    ) -> Option<Result<ReadBatches, ReadError>> {
        self.read_memory(queue, offset, bytes_max)
    }

    /// First offset whose append time is at or after `time_ms`; the durable end when there is none.
    pub async fn offset_at_time(&self, queue: QueueKey, time_ms: i64) -> Result<Offset, ReadError> {
        self.find_time(queue, time_ms).await
    }

    /// Positions for people: first kept, durable end.
    pub fn positions(&self) -> (Position, Position) {
        let core = self.inner.core.borrow();
        let first = core.segments.first().map_or(Position(0), |first| first.header.position);
        (first, core.durable_end)
    }

    /// The counters. Cheap.
    pub fn stats(&self) -> LogStats {
        self.inner.core.borrow().stats_now()
    }

    /// Orderly stop: flushes what waits, writes CLEAN, syncs, closes the files.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`] when the log failed, [`AppendError::DiskFull`] when what waits found no space; the
    /// next start is then one after a crash.
    pub async fn close(&self) -> Result<(), AppendError> {
        {
            let mut core = self.inner.core.borrow_mut();
            if core.closing == Closing::No {
                core.closing = Closing::Asked;
            }
        }
        self.inner.work.notify();
        self.inner
            .stop
            .until(|| (self.inner.stopped.get() && self.inner.busy.get() == 0).then_some(()))
            .await;
        self.close_files().await;
        let core = self.inner.core.borrow();
        match &core.poison {
            Some(reason) => Err(AppendError::Poisoned { reason: Rc::clone(reason) }),
            None if core.closing != Closing::Clean => Err(AppendError::DiskFull),
            None => Ok(()),
        }
    }

    fn assemble(io: I, dir: PathBuf, core: Core<I>) -> Self {
        Self {
            inner: Rc::new(Inner {
                io,
                dir,
                core: RefCell::new(core),
                listener: RefCell::default(),
                work: Event::default(),
                rolled: Event::default(),
                tickets: TicketWaiters::default(),
                reads: Reads::new(),
                indexes: Indexes::new(),
                indexing: Cell::new(false),
                rebuilding: futures::lock::Mutex::new(()),
                stopped: Cell::new(false),
                busy: Cell::new(0),
                stop: Event::default(),
            }),
        }
    }

    fn busy(&self) -> Busy<I> {
        self.inner.busy.set(self.inner.busy.get() + 1);
        Busy { log: self.clone() }
    }

    /// The flusher ended: nothing becomes durable any more.
    fn stopped(&self) {
        self.inner.stopped.set(true);
        self.inner.stop.notify();
        self.inner.tickets.reached(Ticket(u64::MAX));
    }
}
