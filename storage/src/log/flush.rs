//! Group commit: a flush is built from what waits, written, synced, and acknowledged in order.
//!
//! Each flush is written and synced by a task that nobody cancels. Completions come in any order; a flush is
//! acknowledged when its own write and sync ended well and all flushes before it are acknowledged. So the end of the
//! acknowledged prefix never runs ahead of what a completed sync covers, and it is what headers carry as `durable_to`.
//! A sync that ended well is not taken for another flush's: the error of a lost write may have gone to that one.
//!
//! While as many flushes are written as may be, full ones are built ahead. Such a flush begins when the one that many
//! places before it is synced, and all before that.

use std::io;
use std::rc::Rc;

use equeue_record::{BROKER_PART_LEN, BrokerStamp, Offset, QueueKey, stamp};

use super::assemble::{Body, Scratch, assemble};
use super::core::{Change, Closing, Core, Stage, Step};
use super::pending::{Item, next_begin, window_after, written_len};
use super::{CommitLog, DurableListener};
use crate::cache::Span;
use crate::format::{FLUSH_HEADER_LEN, FlushHeader, FlushKind, SealBody, SnapshotPrefix};
use crate::index::Run;
use crate::io::{FlushWrite, FlushWritten, Io, IoFile};
use crate::types::{Position, Ticket};

/// A flush that is not acknowledged yet.
pub(super) struct InFlight<I: Io> {
    number: u64,
    pub(super) header: FlushHeader,
    runs: Vec<(QueueKey, Run)>,
    last_ticket: Ticket,
    batches: u64,
    pub(super) slice: Option<SnapshotPrefix>,
    /// What was written, once that is done and synced.
    written: Option<Rc<I::Buffer>>,
}

/// A flush on its way to the device.
pub(super) struct Launch<I: Io> {
    number: u64,
    file: Rc<I::File>,
    flush: FlushWrite<I::Buffer>,
}

/// A flush that is being written.
struct About {
    number: u64,
    segment: Position,
    /// In the file.
    at: u64,
    len: usize,
    sync: bool,
}

/// What becomes known to others when a flush is durable.
#[derive(Default)]
pub(super) struct Acknowledged {
    pub(super) ticket: Ticket,
    pub(super) queues: Vec<QueueKey>,
}

/// Memory that the flusher uses again.
#[derive(Default)]
pub(super) struct Workspace {
    items: Vec<Item>,
    scratch: Scratch,
}

/// What goes into a flush besides its place.
struct Content<I: Io> {
    kind: FlushKind,
    memory: I::Buffer,
    body: Body,
    units: u64,
    batches: u64,
    slice: Option<SnapshotPrefix>,
    end: Position,
}

impl<I: Io> Core<I> {
    /// Builds the flush of a step. `None` when the step is not about a flush.
    pub(super) fn build(&mut self, io: &I, step: Step, work: &mut Workspace) -> Option<Launch<I>> {
        let content = match step {
            Step::Data { body_max } => self.data(io, body_max, work),
            Step::Snapshot { body_max } => self.snapshot_slice(io, body_max)?,
            Step::Open => {
                let body = self.open_body.take()?;
                self.epoch = body.epoch;
                self.fixed(io, FlushKind::Open, &[&body.encode()], None)
            }
            Step::Seal => {
                let next = self.active.as_ref()?.0.end();
                self.stage = Stage::Sealing;
                self.fixed(io, FlushKind::Seal, &[&SealBody { next }.encode()], None)
            }
            Step::Idle => {
                self.idle_asked = false;
                self.fixed(io, FlushKind::Idle, &[], None)
            }
            Step::Clean => {
                self.closing = Closing::Clean;
                self.fixed(io, FlushKind::Clean, &[], None)
            }
            Step::Skip => {
                let mut content = self.fixed(io, FlushKind::Idle, &[], None);
                content.end = window_after(self.position);
                content
            }
            Step::Wait | Step::Switch | Step::Stop => return None,
        };
        Some(self.place_flush(io, content))
    }

    fn data(&mut self, io: &I, body_max: usize, work: &mut Workspace) -> Content<I> {
        work.items.clear();
        let units = self.pending.take(body_max, &mut work.items);
        let len = written_len(work.items.iter().map(|item| item.batch.len()).sum());
        let mut memory = io.allocate(len);
        let body = assemble(&work.items, &mut work.scratch, (self.position, self.epoch), memory.as_mut());
        let batches = work.items.len() as u64;
        // Lets go of the receive buffers.
        work.items.clear();
        let end = self.position.plus(len as u64);
        let end = match &self.active {
            Some((header, _)) => next_begin(end, header.end(), self.pending.first_unit_bytes()),
            None => end,
        };
        Content { kind: FlushKind::Data, memory, body, units, batches, slice: None, end }
    }

    fn snapshot_slice(&mut self, io: &I, body_max: usize) -> Option<Content<I>> {
        let (prefix, batch) = self.next_slice(body_max)?;
        self.snapshot_turn = false;
        let mut batch = batch.map(|batch| batch.to_vec()).unwrap_or_default();
        if let Some(front) = batch.first_chunk_mut::<BROKER_PART_LEN>() {
            // Part of no queue, but every batch on disk has a stamp that can be checked.
            let broker = BrokerStamp {
                base_offset: Offset(0),
                append_time_ms: self.last_time_ms,
                queue_key: QueueKey::STATE,
                master_epoch: self.epoch,
            };
            stamp(front, &broker);
        }
        Some(self.fixed(io, FlushKind::Snapshot, &[&prefix.encode(), &batch], Some(prefix)))
    }

    /// A flush whose body is ready.
    fn fixed(&self, io: &I, kind: FlushKind, parts: &[&[u8]], slice: Option<SnapshotPrefix>) -> Content<I> {
        let body_len = parts.iter().map(|part| part.len()).sum();
        let len = written_len(body_len);
        let mut memory = io.allocate(len);
        let (_, mut rest) = memory.as_mut().split_at_mut(FLUSH_HEADER_LEN);
        let mut crc = 0;
        for part in parts {
            let (to, after) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            crc = crc32c::crc32c_append(crc, part);
            rest = after;
        }
        rest.fill(0);
        let body = Body { len: body_len, crc, runs: Vec::new() };
        Content { kind, memory, body, units: 0, batches: 0, slice, end: self.position.plus(len as u64) }
    }

    /// Gives the flush its place in the log: header, chain, the next position.
    fn place_flush(&mut self, io: &I, content: Content<I>) -> Launch<I> {
        let Content { kind, memory, body, units, batches, slice, end } = content;
        let (segment, file) = self.active.as_ref().expect("a flush needs an active segment");
        // As many places before it as are written at a time: when that one is synced, there is room for this one.
        let behind = self.in_flight.len().checked_sub(self.options.flush_depth);
        let behind = behind.and_then(|index| self.in_flight.get(index));
        let narrow = |bytes: u64| u32::try_from(bytes).expect("a flush and its span end with its window");
        let header = FlushHeader {
            kind,
            epoch: self.epoch,
            position: self.position,
            body_len: narrow(body.len as u64),
            span: narrow(end.0 - self.position.0),
            body_crc: body.crc,
            chain: self.link,
            snapshot: self.newest_snapshot,
            time_ms: self.last_time_ms,
            salt: segment.salt,
            durable_to: self.synced_end,
            next_salt: if kind == FlushKind::Seal { self.next_salt() } else { None },
        };
        let launch = Launch {
            number: self.next_flush,
            file: Rc::clone(file),
            flush: FlushWrite {
                memory,
                header,
                segment: segment.position,
                after: behind.map_or(Position(0), |flight| flight.header.next()),
                sync: !self.options.hazards.no_sync && self.syncs_itself(kind),
            },
        };
        if kind == FlushKind::Data {
            self.snapshot_turn = true;
        }
        self.flushed = Ticket(self.flushed.0 + units);
        self.in_flight.push_back(InFlight {
            number: self.next_flush,
            header,
            runs: body.runs,
            last_ticket: self.flushed,
            batches,
            slice,
            written: None,
        });
        self.next_flush += 1;
        self.link = header.link();
        self.position = header.next();
        self.stats.padding_bytes += u64::from(header.span) - (FLUSH_HEADER_LEN + body.len) as u64;
        if self.options.hazards.no_high_watermark {
            self.publish_early(io, &launch.flush.memory);
        }
        launch
    }

    /// What the null control of the high watermark does: readers see a flush before it is durable.
    fn publish_early(&mut self, io: &I, content: &I::Buffer) {
        let Some(mut flight) = self.in_flight.pop_back() else { return };
        let mut copy = io.allocate(content.as_ref().len());
        copy.as_mut().copy_from_slice(content.as_ref());
        self.publish(&mut flight, Rc::new(copy), &mut Vec::new());
        self.in_flight.push_back(flight);
    }

    /// A flush was written and synced. Gives what is durable now, flush by flush.
    fn complete(&mut self, number: u64, written: FlushWritten<I::Buffer>, told: &mut Vec<Acknowledged>) {
        if self.poison.is_some() {
            return;
        }
        self.covered_to = self.covered_to.max(written.durable_to);
        if let Some(flight) = self.in_flight.iter_mut().find(|flight| flight.number == number) {
            flight.written = Some(written.memory);
        }
        while let Some(memory) = self.in_flight.front_mut().and_then(|flight| flight.written.take()) {
            if let Some(flight) = self.in_flight.pop_front() {
                told.push(self.acknowledge(flight, memory));
            }
        }
    }

    fn acknowledge(&mut self, mut flight: InFlight<I>, memory: Rc<I::Buffer>) -> Acknowledged {
        let header = flight.header;
        self.stats.flushes += 1;
        self.stats.batches += flight.batches;
        self.stats.written_bytes += header.written_len();
        self.durable = flight.last_ticket;
        self.durable_end = header.next();
        self.note_synced(self.syncs_itself(header.kind) || self.options.hazards.no_sync);
        if Self::needs_covering(header.kind) {
            self.worth_covering = header.next();
        }
        let mut facts = Vec::new();
        while self.pending_entries.front().is_some_and(|entry| entry.ticket <= self.durable) {
            match self.pending_entries.pop_front().map(|entry| entry.change) {
                Some(Change::State { key, value }) => self.state.apply(&key, value.as_deref()),
                Some(Change::Fact(fact)) => facts.push(fact),
                None => {}
            }
        }
        let mut queues = Vec::with_capacity(flight.runs.len());
        self.publish(&mut flight, memory, &mut queues);
        // Behind the runs: a queue that is no more may have some in this flush.
        self.apply_facts(&facts);
        if let Some(slice) = flight.slice {
            self.slice_durable(&slice, header.written_len());
        } else if header.kind == FlushKind::Data {
            self.snapshot_due(header.written_len());
        }
        Acknowledged { ticket: self.durable, queues }
    }

    /// Lets readers see a flush: its runs, and its memory as part of the cache.
    fn publish(&mut self, flight: &mut InFlight<I>, memory: Rc<I::Buffer>, queues: &mut Vec<QueueKey>) {
        for (queue, run) in flight.runs.drain(..) {
            if queue == QueueKey::STATE {
                self.state_durable = run.next_offset();
                continue;
            }
            self.queues.add_durable(queue, run);
            self.active_runs += 1;
            queues.push(queue);
        }
        if flight.header.kind == FlushKind::Data {
            let FlushHeader { position, .. } = flight.header;
            self.cache.insert_flush(Span { position, memory, checked_to: flight.header.next() });
        }
    }
}

impl<I: Io> CommitLog<I> {
    /// The flusher: does what [`Core::step`] says until the log stops.
    pub(super) async fn run(self) {
        let mut work = Workspace::default();
        loop {
            let step = self
                .inner
                .work
                .until(|| {
                    let step = self.inner.core.borrow().step();
                    (step != Step::Wait).then_some(step)
                })
                .await;
            match step {
                Step::Stop => break,
                Step::Switch => self.switch(),
                step => {
                    let launch = self.inner.core.borrow_mut().build(&self.inner.io, step, &mut work);
                    if let Some(launch) = launch {
                        self.launch(launch);
                        self.rest();
                    }
                }
            }
        }
        self.stopped();
    }

    /// Hands a flush over to be written and synced; a task waits for what becomes of it.
    fn launch(&self, launch: Launch<I>) {
        let Launch { number, file, flush } = launch;
        let (segment, at, sync) = (flush.segment, flush.at(), flush.sync);
        let about = About { number, segment, at, len: flush.memory.as_ref().len(), sync };
        let writing = file.write_flush(flush);
        let busy = self.busy();
        let log = self.clone();
        self.inner.io.spawn(async move {
            let result = writing.await;
            log.written(&about, result);
            drop(busy);
        });
    }

    fn written(&self, flush: &About, result: io::Result<FlushWritten<I::Buffer>>) {
        let About { number, segment, at, len, sync } = *flush;
        match result {
            Ok(written) if written.bytes == len => {
                let told = {
                    let mut core = self.inner.core.borrow_mut();
                    core.stats.syncs += u64::from(sync);
                    core.stats.flush_us += u64::try_from(written.took.as_micros()).unwrap_or(u64::MAX);
                    let mut told = Vec::with_capacity(2);
                    core.complete(number, written, &mut told);
                    told
                };
                self.tell(&told);
            }
            other => {
                let error = other.map_or_else(
                    |error| error.to_string(),
                    |written| format!("only {} of {len} bytes written", written.bytes),
                );
                self.poison(&format!("writing {len} bytes to segment {segment} at byte {at}: {error}"));
            }
        }
    }

    /// Tells everybody what became durable.
    fn tell(&self, told: &[Acknowledged]) {
        if let Some(last) = told.last() {
            let listener = self.inner.listener.borrow().clone();
            if let Some(listener) = listener {
                for flush in told {
                    listener.durable(flush.ticket, &flush.queues);
                }
            }
            self.inner.tickets.reached(last.ticket);
            self.watch_idle();
            self.watch_sync();
        }
        self.inner.work.notify();
    }

    /// The log fails: nothing more becomes durable, everybody who waits is told.
    pub(super) fn poison(&self, reason: &str) {
        let news = self.inner.core.borrow_mut().fail(reason);
        let Some(reason) = news else { return };
        let log = self.inner.core.borrow().log;
        tracing::error!(%log, %reason, "the log failed and takes nothing more until the broker is restarted");
        let listener: Option<Rc<dyn DurableListener>> = self.inner.listener.borrow().clone();
        if let Some(listener) = listener {
            listener.poisoned(&reason);
        }
        self.inner.tickets.reached(Ticket(u64::MAX));
        self.inner.work.notify();
    }
}
