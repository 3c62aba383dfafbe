//! The life of a shard on its thread: opens its logs, serves, drains, closes.
//!
//! **Invariants**: a log is closed only after every shard has drained, so nothing that was accepted is cut off; the
//! thread leaves its executor only after every file is closed.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use equeue_net::transport::listener::{self, Permits};
use equeue_storage::LogId;
use equeue_storage::io::{DmaIo, Io as _};
use equeue_storage::log::LogOptions;
use futures::channel::oneshot;
use futures::future::{Either, join_all, select};

use super::call::{Call, Mesh, Reply};
use super::mesh::MeshEnd;
use super::state::{Log, Shard, ShardParts};
use super::{catalog, complete, group_sweep, serve};
use crate::broker::{Broker, Phase};
use crate::config::StorageMode;
use crate::data_dir::log_dir;
use crate::delay;
use crate::error::BrokerError;
use crate::group::LOOK_EVERY_MS;
use crate::handler::fetch;
use crate::register::Registrar;
use crate::retention;

/// What the control thread tells a shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// All shards are ready: accept connections (shard 0), register.
    Serve(Option<TcpListener>),
    /// Finish what was begun, take nothing new.
    Drain,
    /// Close the logs and end.
    Close,
}

/// What a shard tells the control thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// The logs are open and the catalog is known.
    Ready,
    /// Nothing is under way any more.
    Drained,
    /// The thread ends.
    Ended(Result<(), BrokerError>),
}

/// What a shard is given.
pub(crate) struct ShardStart {
    pub(crate) index: u16,
    pub(crate) broker: Arc<Broker>,
    pub(crate) options: LogOptions,
    pub(crate) mesh: MeshEnd<Call, Reply>,
    pub(crate) commands: flume::Receiver<Command>,
    pub(crate) events: flume::Sender<(u16, Event)>,
}

/// Time between two looks at what changes slowly.
const TICK: Duration = Duration::from_secs(1);
/// Longest time that an executor sleeps which messages are sent to or fetched from.
const BEAT: Duration = Duration::from_millis(10);
/// Longest time that another one sleeps: each waking costs some 150 us. If glommio goes to sleep by mistake just then, the
/// first request after a rest waits that long.
const BEAT_IDLE: Duration = Duration::from_millis(LOOK_EVERY_MS);
/// Time between two looks at whether all is drained.
const DRAIN_TICK: Duration = Duration::from_millis(2);

/// The main task of a shard.
pub(crate) async fn run(start: ShardStart) {
    let (index, events) = (start.index, start.events.clone());
    let result = live(start).await;
    // The control thread waits for this; if it is gone there is nobody to tell.
    let _ = events.send((index, Event::Ended(result)));
}

async fn live(start: ShardStart) -> Result<(), BrokerError> {
    let ShardStart { index, broker, options, mesh, commands, events } = start;
    let beat_until_open = glommio::spawn_local(async {
        loop {
            glommio::timer::sleep(BEAT).await;
        }
    });
    let io = open_io(index, &broker).await?;
    let logs = open_logs(index, &broker, &io, &options).await?;
    let mesh: Rc<Mesh> = mesh.join();
    let shard = Shard::new(ShardParts { index, broker, io, logs, mesh });
    shard.spawn(beat(Rc::clone(&shard)));
    drop(beat_until_open);
    for place in 0..shard.logs.len() {
        shard.spawn(complete::run(Rc::clone(&shard), place));
        shard.spawn(retention::run(Rc::clone(&shard), place));
        shard.spawn(delay::run(Rc::clone(&shard), place));
    }
    super::holds::load(&shard);
    shard.spawn(serve::run(Rc::clone(&shard)));
    shard.spawn(fetch::run_deadlines(Rc::clone(&shard)));
    shard.spawn(tick(Rc::clone(&shard)));
    let prepared = prepare(&shard).await;
    let mut serving = None;
    if prepared.is_ok() {
        let _ = events.send((index, Event::Ready));
    } else {
        let _ = events.send((index, Event::Drained)); // nothing was begun
    }
    while let Ok(command) = commands.recv_async().await {
        match command {
            Command::Serve(listener) => serving = Some(Serving::start(&shard, listener)),
            Command::Drain => {
                if let Some(serving) = serving.take() {
                    serving.stop().await;
                }
                drain(&shard).await;
                let _ = events.send((index, Event::Drained));
            }
            Command::Close => break,
        }
    }
    let closed = close(&shard).await;
    prepared.and(closed)
}

/// A timer that is always there, so that an executor that goes to sleep by mistake (see [`crate::nudge`]) wakes soon. Looks
/// at the lease clock as well, often enough to see when the shard stands still.
async fn beat(shard: Rc<Shard>) {
    let mut before = 0;
    loop {
        let served = shard.stats.produce_requests.get() + shard.stats.fetch_requests.get();
        let is_idle = served == before && shard.broker.phase() == Phase::Ready;
        before = served;
        shard.io.sleep(if is_idle { BEAT_IDLE } else { BEAT }).await;
        shard.lease_ms();
    }
}

async fn open_io(index: u16, broker: &Broker) -> Result<DmaIo, BrokerError> {
    if broker.config.storage.mode == StorageMode::Memory {
        let logs = (index..broker.logs).step_by(usize::from(broker.shards)).count() as u64;
        return Ok(DmaIo::in_memory(logs * broker.config.memory_bytes_per_log(broker.logs)));
    }
    let path = &broker.config.data_dir;
    DmaIo::new(path).await.map_err(|source| BrokerError::DirectIo { path: path.clone(), source })
}

/// Opens this shard's logs side by side.
async fn open_logs(
    index: u16,
    broker: &Broker,
    io: &DmaIo,
    options: &LogOptions,
) -> Result<Vec<(LogId, Log)>, BrokerError> {
    let own = (index..broker.logs).step_by(usize::from(broker.shards)).map(LogId);
    let open = |id: LogId| async move {
        let dir = log_dir(&broker.config.data_dir, id.0);
        let opened = Log::open(io.clone(), dir, id, options.clone()).await;
        let (log, recovered) =
            opened.map_err(|source| BrokerError::Open { log: id.0, shard: index, source })?;
        let how = if recovered.clean {
            "log opened after an orderly stop"
        } else {
            "log recovered: the last stop was not orderly"
        };
        tracing::info!(log = %id, clean = recovered.clean, from = %recovered.from, end = %recovered.end,
            flushes = recovered.flushes, torn_bytes = recovered.torn_bytes, took = ?recovered.took, "{how}");
        if recovered.gaps > 0 {
            tracing::warn!(log = %id, gaps = recovered.gaps, offsets_missing = recovered.offsets_missing,
                "a repair gave up parts of this log: readers are led past what is missing");
        }
        Ok::<_, BrokerError>((id, log))
    };
    let (mut logs, mut failed) = (Vec::new(), None);
    for opened in join_all(own.map(open)).await {
        match opened {
            Ok(log) => logs.push(log),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let Some(error) = failed else { return Ok(logs) };
    // What the others write is on its way: it must have ended before the executor does.
    for (id, log) in logs {
        if let Err(error) = log.close().await {
            tracing::warn!(log = %id, %error, "the log could not be closed in order");
        }
    }
    Err(error)
}

/// Shard 0 reads the catalog and gives it to all; the others receive it.
async fn prepare(shard: &Rc<Shard>) -> Result<(), BrokerError> {
    if shard.index == 0 {
        let loaded = Arc::new(catalog::load(shard)?);
        tracing::info!(topics = loaded.topics().len(), queues = loaded.queues().len(), "catalog read");
        catalog::adopt(shard, &loaded);
        catalog::give_to_others(shard, &loaded).await;
    }
    Ok(())
}

/// What only shard 0 does for the whole broker.
struct Serving {
    stop_accepting: Option<oneshot::Sender<()>>,
    registrar: Option<Registrar>,
}

impl Serving {
    fn start(shard: &Rc<Shard>, listener: Option<TcpListener>) -> Self {
        let Some(listener) = listener else { return Self { stop_accepting: None, registrar: None } };
        let (stop_accepting, stopped) = oneshot::channel();
        let permits = Permits::new(shard.broker.config.net.connections_max);
        let hello = Duration::from_millis(shard.broker.config.timers.hello_ms);
        let placing = Rc::clone(shard);
        let accept =
            listener::accept(listener, permits, hello, move |accepted| serve::place(&placing, accepted));
        shard.spawn(async move {
            select(std::pin::pin!(accept), stopped).await;
        });
        Self { stop_accepting: Some(stop_accepting), registrar: Some(Registrar::start(shard)) }
    }

    async fn stop(self) {
        drop(self.stop_accepting);
        if let Some(registrar) = self.registrar {
            registrar.stop().await;
        }
    }
}

/// Ends what is under way: what was appended becomes durable and is answered, then connections end.
async fn drain(shard: &Rc<Shard>) {
    let patience = Duration::from_millis(shard.broker.config.timers.stop_ms);
    let ended = async {
        fetch::answer_all_parked(shard);
        while shard.unanswered_bytes.get() > 0 || shard.tasks.get() > 0 {
            shard.io.sleep(DRAIN_TICK).await;
        }
        shard.connections.finish_all();
        shard.connections.drained().await;
    };
    let late = shard.io.sleep(patience);
    if let Either::Right(_) = select(std::pin::pin!(ended), std::pin::pin!(late)).await {
        tracing::warn!(
            shard = shard.index,
            open = shard.connections.len(),
            "connections are cut: they did not end"
        );
        shard.connections.close_all();
        shard.connections.drained().await;
    }
}

/// Closes the logs in order; tells of the first that could not be.
async fn close(shard: &Shard) -> Result<(), BrokerError> {
    let closed =
        join_all(shard.logs.iter().map(|host| async move { (host.id, host.log.close().await) })).await;
    for (id, result) in closed {
        result.map_err(|error| BrokerError::LogFailed { log: id.0, reason: error.to_string() })?;
    }
    Ok(())
}

/// Forgets who is silent; copies the logs' own figures.
async fn tick(shard: Rc<Shard>) {
    loop {
        shard.io.sleep(TICK).await;
        let counts = {
            let mut presence = shard.presence.borrow_mut();
            presence.expire(shard.now_ms(), shard.broker.config.timers.presence_ms);
            presence.counts()
        };
        group_sweep::run(&shard);
        shard.stats.producers.set(counts.producers as u64);
        shard.stats.consumers.set(counts.consumers as u64);
        shard.publish_log_stats();
    }
}
