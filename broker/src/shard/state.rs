//! The state of a shard: its logs, its connections' waiting work, its parked fetches. Belongs to one thread.
//!
//! **Invariant**: no borrow of a cell is held while something is called that may borrow it again, or across an await.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::Code;
use equeue_net::transport::{ConnectionLimits, Connections};
use equeue_record::QueueKey;
use equeue_storage::io::DmaIo;
use equeue_storage::log::{CommitLog, DurableListener, QueueBounds};
use equeue_storage::{LogId, Ticket};

use super::call::Mesh;
use super::session::Session;
use super::signal::{Bell, Signal};
use crate::broker::{Broker, Phase};
use crate::catalog::{Catalog, QUEUE_COUNTER_BITS, QueueHome, shard_of};
use crate::delay::DelayHost;
use crate::fetch::{Access, Lookup, Reader, Source};
use crate::group::{Attendance, EpochCheck, HoldTable, LeaseClock, Presence, Registry, Rules};
use crate::handler::fetch::ParkedFetch;
use crate::long_poll::ParkTable;
use crate::retention::Backlog;
use crate::stats::{LogStats, ShardStats};

/// A log on direct I/O.
pub(crate) type Log = CommitLog<DmaIo>;

/// What a log told since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct LogEvents {
    durable: Cell<Ticket>,
    queues: RefCell<Vec<QueueKey>>,
    poisoned: RefCell<Option<Rc<str>>>,
    pub(crate) signal: Signal,
}

impl DurableListener for LogEvents {
    fn durable(&self, ticket: Ticket, queues: &[QueueKey]) {
        self.durable.set(ticket);
        self.queues.borrow_mut().extend_from_slice(queues);
        self.signal.set();
    }

    fn poisoned(&self, reason: &str) {
        *self.poisoned.borrow_mut() = Some(Rc::from(reason));
        self.signal.set();
    }
}

impl LogEvents {
    /// Everything up to the ticket is durable; `queues` is filled with those that got records, each once.
    pub(crate) fn take(&self, queues: &mut Vec<QueueKey>) -> Ticket {
        queues.clear();
        std::mem::swap(queues, &mut self.queues.borrow_mut());
        queues.sort_unstable();
        queues.dedup();
        self.durable.get()
    }

    /// Why the log failed, if it did.
    pub(crate) fn failure(&self) -> Option<Rc<str>> {
        self.poisoned.borrow().clone()
    }
}

/// A log of this shard.
pub(crate) struct LogHost {
    /// Its number.
    pub(crate) id: LogId,
    /// The log.
    pub(crate) log: Log,
    /// What it told.
    pub(crate) events: Rc<LogEvents>,
    /// Connections with answers that wait for it, each once.
    pub(crate) waiters: RefCell<Vec<Rc<Session>>>,
    /// Its delayed messages.
    pub(crate) delay: DelayHost,
    /// Held while messages are handed back: what they rest on is durable when the next ones are looked at.
    pub(crate) hand_back: futures::lock::Mutex<()>,
    /// What groups had still to consume of what topics' ages let go.
    pub(crate) backlog: Backlog,
}

/// One shard.
pub(crate) struct Shard {
    /// Its number.
    pub(crate) index: u16,
    /// What all shards know.
    pub(crate) broker: Arc<Broker>,
    /// Tasks, time.
    pub(crate) io: DmaIo,
    /// Its logs; log `i` has place `i / shards`.
    pub(crate) logs: Vec<LogHost>,
    /// The catalog now.
    catalog: RefCell<Arc<Catalog>>,
    /// Held by the change of the catalog that is being made (shard 0).
    pub(crate) catalog_change: futures::lock::Mutex<()>,
    /// Changes of the catalog that wait or are being made.
    pub(crate) catalog_changes: Cell<usize>,
    /// Fetches that wait for messages.
    pub(crate) parked: RefCell<ParkTable<ParkedFetch>>,
    /// The first deadline of a parked fetch came nearer.
    pub(crate) park_timer: Signal,
    /// When the task that answers parked fetches looks next, ms; `u64::MAX`: when there are any.
    pub(crate) park_look_ms: Cell<u64>,
    /// Fetches done here for other shards, by owner; true: not wanted any more.
    pub(crate) peer_fetches: RefCell<HashMap<u64, Rc<Cell<bool>>>>,
    /// Names fetches given to other shards.
    pub(crate) fetch_token: Cell<u32>,
    /// Who is there.
    pub(crate) presence: RefCell<Presence>,
    /// Grants and offsets of groups in the queues of this shard.
    pub(crate) holds: RefCell<HoldTable>,
    /// Names of members that were granted something since the start, by incarnation.
    pub(crate) member_names: RefCell<HashMap<u128, Arc<str>>>,
    /// Somebody gave a queue up: who waits for one looks again.
    pub(crate) released: Bell,
    /// The members of groups that this shard keeps.
    pub(crate) registry: RefCell<Registry>,
    /// Groups with somebody on this broker.
    pub(crate) attendance: RefCell<Attendance>,
    /// Held by the change of a generation that is being made.
    pub(crate) generation_change: futures::lock::Mutex<()>,
    /// To the other shards.
    pub(crate) mesh: Rc<Mesh>,
    /// The connections served here.
    pub(crate) connections: Rc<Connections>,
    /// Bytes of Produce requests that are not answered.
    pub(crate) unanswered_bytes: Cell<usize>,
    /// Requests that a task of their own is busy with.
    pub(crate) tasks: Cell<usize>,
    /// Connections whose backlog waits for `unanswered_bytes` to fall.
    pub(crate) stalled: RefCell<VecDeque<Rc<Session>>>,
    /// Something that nameservers are told has changed (shard 0).
    pub(crate) changed: Signal,
    /// Figures.
    pub(crate) stats: Arc<ShardStats>,
    /// Looks at groups so far.
    pub(crate) sweeps: Cell<u64>,
    /// Groups whose end was announced.
    pub(crate) warned: RefCell<HashSet<Arc<str>>>,
    /// When the shard began, ms UTC.
    pub(crate) started_utc_ms: i64,
    started: Instant,
    lease_clock: Cell<LeaseClock>,
    next_session: Cell<u64>,
}

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) index: u16,
    pub(crate) broker: Arc<Broker>,
    pub(crate) io: DmaIo,
    pub(crate) logs: Vec<(LogId, Log)>,
    pub(crate) mesh: Rc<Mesh>,
}

impl Shard {
    pub(crate) fn new(parts: ShardParts) -> Rc<Self> {
        let delayed_max = parts.broker.config.delay.messages_max;
        let host = |(id, log): (LogId, Log)| {
            let delay = DelayHost::open(&log, &parts.io, delayed_max);
            let events = Rc::new(LogEvents::default());
            log.listen(Rc::clone(&events) as Rc<dyn DurableListener>);
            LogHost {
                id,
                log,
                events,
                waiters: RefCell::default(),
                delay,
                hand_back: futures::lock::Mutex::default(),
                backlog: Backlog::default(),
            }
        };
        let stats = Arc::clone(parts.broker.stats.get(usize::from(parts.index)).expect("one per shard"));
        let parked_max = parts.broker.config.net.parked_fetches_max;
        Rc::new(Self {
            index: parts.index,
            logs: parts.logs.into_iter().map(host).collect(),
            io: parts.io,
            catalog: RefCell::default(),
            catalog_change: futures::lock::Mutex::new(()),
            catalog_changes: Cell::new(0),
            parked: RefCell::new(ParkTable::new(parked_max, 0)),
            park_timer: Signal::default(),
            park_look_ms: Cell::new(u64::MAX),
            peer_fetches: RefCell::default(),
            fetch_token: Cell::new(0),
            presence: RefCell::default(),
            holds: RefCell::default(),
            member_names: RefCell::default(),
            released: Bell::default(),
            registry: RefCell::default(),
            attendance: RefCell::default(),
            generation_change: futures::lock::Mutex::new(()),
            mesh: parts.mesh,
            connections: Connections::new(limits(&parts.broker)),
            unanswered_bytes: Cell::new(0),
            tasks: Cell::new(0),
            stalled: RefCell::default(),
            changed: Signal::default(),
            stats,
            broker: parts.broker,
            sweeps: Cell::new(0),
            warned: RefCell::default(),
            started_utc_ms: crate::process::utc_ms(),
            started: Instant::now(),
            lease_clock: Cell::default(),
            next_session: Cell::new(0),
        })
    }

    /// Number of shards.
    pub(crate) fn shards(&self) -> u16 {
        self.broker.shards
    }

    /// Time since the shard began, ms: never goes back.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Time since the shard began, microseconds.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The time that leases and memberships are counted by, ms: begins when the broker serves, and stands still while the
    /// shard does.
    pub(crate) fn lease_ms(&self) -> u64 {
        let mut clock = self.lease_clock.get();
        let gaps = clock.gaps();
        let serves = self.broker.phase() != Phase::Starting;
        let now_ms = if serves { clock.read(self.now_ms()) } else { clock.hold(self.now_ms()) };
        if clock.gaps() > gaps {
            tracing::warn!(
                shard = self.index,
                "the shard stood still: leases and memberships are extended by as much"
            );
            self.stats.stalls.add(1);
        }
        self.lease_clock.set(clock);
        now_ms
    }

    /// The rules of grants here.
    pub(crate) fn group_rules(&self) -> Rules {
        super::holds::rules(&self.broker.config)
    }

    /// A number for a new connection.
    pub(crate) fn session_id(&self) -> u64 {
        self.next_session.replace(self.next_session.get() + 1)
    }

    /// The catalog now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Uses another catalog from now on; gives the one before.
    pub(crate) fn replace_catalog(&self, catalog: Arc<Catalog>) -> Arc<Catalog> {
        self.catalog.replace(catalog)
    }

    /// A queue of this broker.
    pub(crate) fn home(&self, queue: QueueKey) -> Option<QueueHome> {
        self.catalog.borrow().queue(queue).copied()
    }

    /// The shard that serves a queue of this broker, if it is another one.
    pub(crate) fn other_shard(&self, queue: QueueKey) -> Option<u16> {
        if self.shards() == 1 {
            return None;
        }
        let shard = shard_of(self.home(queue)?.log, self.shards());
        (shard != self.index).then_some(shard)
    }

    /// The place of a log on this shard.
    pub(crate) fn place_of(&self, log: LogId) -> usize {
        usize::from(log.0 / self.shards())
    }

    /// The log of a queue that this shard serves, and its place.
    pub(crate) fn log_of(&self, home: &QueueHome) -> Option<(usize, &LogHost)> {
        if shard_of(home.log, self.shards()) != self.index {
            return None;
        }
        let place = self.place_of(home.log);
        self.logs.get(place).map(|host| (place, host))
    }

    /// Figures of a log.
    pub(crate) fn log_stats(&self, place: usize) -> Option<&LogStats> {
        self.stats.logs.get(place)
    }

    /// What a queue that is not in the catalog is: unknown here, or another broker's.
    pub(crate) fn unknown_queue(&self, queue: QueueKey) -> Code {
        let group = queue.0 >> QUEUE_COUNTER_BITS;
        if group == u64::from(self.broker.group) { Code::QueueNotFound } else { Code::NotOwner }
    }

    /// Copies the logs' own figures to where anyone may read them.
    pub(crate) fn publish_log_stats(&self) {
        for (host, figures) in self.logs.iter().zip(&self.stats.logs) {
            let stats = host.log.stats();
            let (start, end) = host.log.positions();
            figures.start_position.set(start.0);
            figures.durable_position.set(end.0);
            figures.disk_full.set(u64::from(stats.disk_full));
            figures.flushes.set(stats.flushes);
            figures.written_bytes.set(stats.written_bytes);
            figures.padding_bytes.set(stats.padding_bytes);
            figures.flush_us.set(stats.flush_us);
            figures.segments_late.set(stats.segments_late);
            figures.snapshots.set(stats.snapshots);
            figures.disk_reads.set(stats.disk_reads);
            figures.stored_bytes.set(stats.stored_bytes);
            figures.segments.set(stats.segments_kept as u64);
            figures.segments_retired.set(stats.segments_retired);
            figures.segments_recycled.set(stats.segments_recycled);
            figures.unconsumed_deleted.set(stats.unconsumed_deleted + host.backlog.deleted.get());
            figures.unconsumed_near.set(stats.unconsumed_near + host.backlog.near.get());
            figures.retention_blocked.set(u64::from(stats.retention_blocked));
            figures.clock_jumped.set(u64::from(stats.clock_jumped));
            figures.offsets_skipped.set(stats.offsets_skipped);
            figures.scrubbed_bytes.set(stats.scrubbed_bytes);
            figures.scrub_passes.set(stats.scrub_passes);
            figures.scrub_last_pass_ms.set(u64::try_from(stats.scrub_last_pass_ms).unwrap_or(0));
            figures.scrub_damaged.set(stats.scrub_damaged);
            figures.scrub_errors.set(stats.scrub_errors);
            figures.pending_bytes.set(stats.pending_bytes as u64);
            figures.cache_hits.set(stats.cache.hits);
            figures.cache_misses.set(stats.cache.misses);
        }
    }

    /// Runs a task that nobody cancels.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        equeue_storage::io::Io::spawn(&self.io, task);
    }
}

/// What is allowed to each connection.
fn limits(broker: &Broker) -> ConnectionLimits {
    let config = &broker.config.net;
    ConnectionLimits {
        frame_bytes_max: config.frame_bytes_max.as_usize(),
        held_bytes_max: config.produce_credit_bytes.as_usize(),
        answer_bytes_max: config.answer_queue_bytes_max.as_usize(),
        hello: Duration::from_millis(broker.config.timers.hello_ms),
        idle: Duration::from_millis(u64::from(config.fetch_wait_ms_max) + broker.config.timers.presence_ms),
        ..ConnectionLimits::default()
    }
}

impl Source for Shard {
    fn access(&self, reader: &Reader, queue: QueueKey, grant_epoch: u32) -> Access {
        let holds = self.holds.borrow();
        let (grant, ticket) = holds.grant(queue, &reader.group);
        let check = grant.check(reader.member, grant_epoch, self.group_rules());
        if check == EpochCheck::Current {
            return Access::Granted;
        }
        let durable = self.home(queue).and_then(|home| Some(self.log_of(&home)?.1.log.durable()));
        if durable.is_some_and(|durable| durable < ticket) {
            return Access::Unsettled;
        }
        self.stats.stale_epochs.add(1);
        let record = grant.record();
        let offset = record.committed.filter(|_| check == EpochCheck::Reset);
        Access::Refused { code: check.code(), grant_epoch: record.grant_epoch, offset }
    }

    fn lookup(&self, queue: QueueKey, offset: equeue_record::Offset, bytes_max: usize) -> Lookup {
        let Some(home) = self.home(queue) else { return Lookup::Refused(self.unknown_queue(queue)) };
        if !home.readable {
            return Lookup::Refused(Code::QueueHidden);
        }
        let Some((_, host)) = self.log_of(&home) else { return Lookup::Refused(Code::Internal) };
        host.log.read_cached(queue, offset, bytes_max).map_or(Lookup::Disk, Lookup::Read)
    }

    fn bounds(&self, queue: QueueKey) -> Option<QueueBounds> {
        let home = self.home(queue)?;
        self.log_of(&home)?.1.log.bounds(queue)
    }
}
