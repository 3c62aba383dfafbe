//! Starting and stopping a broker: checks, data directory, one executor per shard, the control thread.
//!
//! **Invariants**: `start` returns when every shard serves, or with the first error after everything that was begun has
//! ended; the data directory's lock outlives every shard.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use equeue_net::transport::{listener, preflight};
use equeue_storage::io::blocking_threads;
use equeue_storage::log::{self, LogOptions};
use glommio::{LocalExecutorBuilder, Placement};

use crate::broker::{Broker, BrokerFacts, Phase};
use crate::config::{BrokerConfig, StorageMode, SyncPolicy};
use crate::control;
use crate::data_dir::{DataDir, random_group};
use crate::error::BrokerError;
use crate::nudge::{self, Nudge};
use crate::shard::mesh;
use crate::shard::run::{self, Command, Event, ShardStart};

/// How often an executor looks at what else there is to do. glommio's default of 100 ms starves the disk; a shorter time
/// makes it more likely that an executor falls asleep by mistake, see [`crate::nudge`].
const PREEMPT_TIMER: Duration = Duration::from_millis(5);
/// Entries of each of an executor's rings.
const RING_DEPTH: usize = 128;
/// Segments of a log that is kept in memory.
pub(crate) const SEGMENTS_IN_MEMORY: u64 = 8;
/// Memory for direct I/O beside the cache: flushes in flight, segments being prepared, blocks of indexes.
const IO_MEMORY_MARGIN: usize = 16 << 20;

/// A running broker. Dropping the handle asks it to stop and does not wait.
#[derive(Debug)]
pub struct BrokerHandle {
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    broker: Arc<Broker>,
    stop: flume::Sender<()>,
    control: Option<JoinHandle<Result<(), BrokerError>>>,
}

impl BrokerHandle {
    /// Where clients connect to; the real port when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Facts of the broker.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Asks for an orderly stop. Returns at once; may be called again.
    pub fn stop(&self) {
        let _ = self.stop.try_send(()); // asked already, or ended
    }

    /// Waits until the broker has ended.
    ///
    /// # Errors
    /// It ended by itself, or a log failed or could not be closed in order.
    pub fn join(mut self) -> Result<(), BrokerError> {
        let control = self.control.take().expect("only join and drop take it, and both end the handle");
        control.join().unwrap_or(Err(BrokerError::ShardLost { shard: 0 }))
    }

    /// The broker has ended; [`BrokerHandle::join`] does not wait any more.
    pub fn is_finished(&self) -> bool {
        self.control.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for BrokerHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The shards, as the control thread sees them.
pub(crate) struct Shards {
    pub(crate) broker: Arc<Broker>,
    pub(crate) commands: Vec<flume::Sender<Command>>,
    pub(crate) events: flume::Receiver<(u16, Event)>,
    threads: Vec<JoinHandle<()>>,
    /// Released when the shards have ended.
    data_dir: DataDir,
}

impl Shards {
    /// Tells every shard.
    pub(crate) fn tell_all(&self, mut command: impl FnMut() -> Command) {
        for commands in &self.commands {
            let _ = commands.send(command()); // one that has ended needs no command
        }
    }

    /// Waits for the threads. Their results came as events.
    pub(crate) fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // a panic was noticed by the event that did not come
        }
    }

    /// Wakes threads that sleep by mistake.
    pub(crate) fn nudge_all(&self) {
        for thread in &self.threads {
            Nudge::new(thread).nudge();
        }
    }
}

/// Starts a broker; returns when it serves.
///
/// # Errors
/// Whatever keeps it from serving, see [`BrokerError`]. Nothing runs then.
pub fn start(config: BrokerConfig) -> Result<BrokerHandle, BrokerError> {
    config.validate()?;
    preflight::check()?;
    nudge::prepare().map_err(|source| BrokerError::Thread { what: "a signal handler".to_owned(), source })?;
    let data_dir = DataDir::open(&config)?;
    let clients = bind("listen", &config.listen)?;
    let http = match config.http_listen.as_str() {
        "" => None,
        address => Some(bind("http_listen", address)?),
    };
    let address = local_address(&clients)?;
    let http_address = http.as_ref().map(local_address).transpose()?;
    let options = log_options(&config, data_dir.identity.logs);
    let broker = Arc::new(Broker::new(BrokerFacts {
        // Offsets begin anew with each start in memory: so must the keys that name them.
        group: match config.storage.mode {
            StorageMode::Disk => data_dir.identity.broker_group,
            StorageMode::Memory => random_group(),
        },
        created_ms: data_dir.identity.created_ms,
        logs: data_dir.identity.logs,
        address: if config.advertise.is_empty() { address.to_string() } else { config.advertise.clone() },
        http_address: http_address.map(|address| address.to_string()).unwrap_or_default(),
        batch_bytes_max: options.batch_bytes_max(),
        config,
    }));
    let shards = start_shards(&broker, &options, data_dir)?;
    let shards = control::wait_ready(shards)?;
    if broker.config.storage.mode == StorageMode::Disk
        && let Err(error) = shards.data_dir.note_begun()
    {
        control::stop_now(shards);
        return Err(error.into());
    }
    let (stop, stopped) = flume::bounded(1);
    let control = control::spawn(shards, clients, http, stopped)?;
    Ok(BrokerHandle { address, http_address, broker, stop, control: Some(control) })
}

fn bind(key: &'static str, address: &str) -> Result<TcpListener, BrokerError> {
    listener::bind(address).map_err(|source| BrokerError::Bind { key, source })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, BrokerError> {
    listener
        .local_addr()
        .map_err(|source| BrokerError::Thread { what: "a listener without an address".to_owned(), source })
}

/// Settings of one log: the logs of a shard share its cache.
fn log_options(config: &BrokerConfig, logs: u16) -> LogOptions {
    if config.hazards.any() {
        tracing::error!(hazards = ?config.hazards, "mechanisms are switched off: acknowledged messages will be lost");
    }
    warn_of_mode(config);
    let segment_bytes_max = match config.storage.mode {
        StorageMode::Disk => config.storage.segment_bytes_max.0,
        // Eight segments, whole MiB each: one is written, one prepared, the oldest goes.
        StorageMode::Memory => {
            let part = config.memory_bytes_per_log(logs) / SEGMENTS_IN_MEMORY;
            config.storage.segment_bytes_max.0.min(part >> 20 << 20)
        }
    };
    let logs_per_shard = usize::from(logs.div_ceil(config.shard_count())).max(1);
    LogOptions {
        segment_bytes_max,
        segment_bytes_first: config.storage.segment_bytes_first.0.min(segment_bytes_max),
        flush_bytes_max: config.storage.flush_bytes_max.as_usize(),
        flush_depth: config.storage.flush_depth,
        cache_bytes: config.cache_bytes_per_shard() / logs_per_shard,
        pending_bytes_max: config.storage.pending_bytes_max.as_usize(),
        snapshot_bytes: config.storage.snapshot_bytes.0,
        idle_ms: config.storage.idle_ms,
        ballast: config.storage.mode == StorageMode::Disk,
        sync: match config.storage.sync {
            SyncPolicy::Always => log::SyncPolicy::Always,
            SyncPolicy::Interval => log::SyncPolicy::Interval(config.storage.sync_interval_ms),
        },
        producers_max: config.storage.producers_max,
        scrub_bytes_per_second: config.storage.scrub_bytes_per_second.0,
        hazards: config.hazards,
    }
}

/// Says what an acknowledgement does not mean.
fn warn_of_mode(config: &BrokerConfig) {
    if config.storage.mode == StorageMode::Memory {
        tracing::warn!(
            "storage.mode is memory: messages, topics and offsets are gone when the broker stops; answers say level memory"
        );
    } else if config.storage.sync == SyncPolicy::Interval {
        tracing::warn!(
            sync_interval_ms = config.storage.sync_interval_ms,
            "storage.sync is interval: a loss of power loses what was acknowledged since the last sync; answers say level memory"
        );
    }
}

fn start_shards(
    broker: &Arc<Broker>,
    options: &LogOptions,
    data_dir: DataDir,
) -> Result<Shards, BrokerError> {
    let (events_out, events) = flume::unbounded(); // a handful per shard in all
    let mut shards =
        Shards { broker: Arc::clone(broker), commands: Vec::new(), events, threads: Vec::new(), data_dir };
    for (index, mesh) in (0_u16..).zip(mesh::build(broker.shards)) {
        let (commands, received) = flume::bounded(4);
        let start = ShardStart {
            index,
            broker: Arc::clone(broker),
            options: options.clone(),
            mesh,
            commands: received,
            events: events_out.clone(),
        };
        shards.commands.push(commands);
        match spawn_shard(start) {
            Ok(thread) => shards.threads.push(thread),
            Err(source) => {
                let what = format!("the thread of shard {index}");
                control::stop_now(shards);
                return Err(BrokerError::Thread { what, source });
            }
        }
    }
    Ok(shards)
}

/// A thread with an executor. If that cannot be made, the shard's end tells why.
fn spawn_shard(start: ShardStart) -> std::io::Result<JoinHandle<()>> {
    let index = start.index;
    let placement = placement(&start.broker.config, index);
    let logs = start.broker.logs.div_ceil(start.broker.config.shard_count().max(1));
    let threads = blocking_threads(&placement, usize::from(logs));
    let builder = LocalExecutorBuilder::new(placement)
        .blocking_thread_pool_placement(threads)
        .name(&format!("equeue-{index}"))
        .preempt_timer(PREEMPT_TIMER)
        .ring_depth(RING_DEPTH)
        .io_memory(start.broker.config.cache_bytes_per_shard() + IO_MEMORY_MARGIN);
    let thread = std::thread::Builder::new().name(format!("equeue-{index}"));
    thread.spawn(move || match builder.make() {
        Ok(executor) => executor.run(run::run(start)),
        Err(error) => {
            let what = format!("the executor of shard {index}");
            let source = std::io::Error::other(error.to_string());
            // The control thread waits for this; if it is gone there is nobody to tell.
            let _ = start.events.send((index, Event::Ended(Err(BrokerError::Thread { what, source }))));
        }
    })
}

/// Where a shard runs: on the CPU that it is given, or on one of those allowed when there are several shards.
fn placement(config: &BrokerConfig, index: u16) -> Placement {
    if let Some(cpu) = config.pin.get(usize::from(index)) {
        return Placement::Fixed(*cpu);
    }
    let allowed = allowed_cpus();
    if config.shard_count() == 1 || allowed.is_empty() {
        return Placement::Unbound;
    }
    let cpu = allowed.get(usize::from(index) % allowed.len());
    cpu.map_or(Placement::Unbound, |cpu| Placement::Fixed(*cpu))
}

/// CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return Vec::new() };
    (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// The broker serves from now on.
pub(crate) fn announce(shards: &Shards, listener: TcpListener) {
    let mut listener = Some(listener);
    shards.tell_all(|| Command::Serve(listener.take()));
    shards.broker.set_phase(Phase::Ready);
}
