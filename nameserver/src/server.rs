//! Starting and stopping: one thread with one glommio executor.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use equeue_net::transport::listener::{Accepted, BindError, Permits, accept, bind};
use equeue_net::transport::preflight::{self, PreflightError};
use equeue_net::transport::{ConnectionLimits, Connections};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use thiserror::Error;

use crate::NameserverConfig;
use crate::handler::{Requests, Shared};
use crate::registry::{Registry, RegistryLimits};

/// Time until a peer has sent its preamble.
const PREAMBLE_TIME_MAX: Duration = Duration::from_secs(5);
/// How often silent brokers are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// Registered memory of the executor: nothing here reads files.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Time that connections get to take their last answers at a stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a nameserver does not run.
#[derive(Debug, Error)]
pub enum NameserverError {
    /// This machine or container lacks something.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting that makes no sense.
    #[error("setting {name}: {reason}")]
    Setting {
        /// Which.
        name: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The thread or its executor could not be made.
    #[error("cannot start the nameserver's thread: {reason}")]
    Thread {
        /// What was said.
        reason: String,
    },
    /// A task panicked: a bug.
    #[error("the nameserver's thread panicked")]
    Panicked,
}

/// A running nameserver. Dropping it stops the nameserver without waiting.
#[derive(Debug)]
pub struct NameserverHandle {
    address: SocketAddr,
    stop: flume::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl NameserverHandle {
    /// Where it listens: the real port when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks it to stop; [`NameserverHandle::join`] waits for it.
    pub fn stop(&self) {
        // Full: it was asked before. Disconnected: it has stopped.
        let _ = self.stop.try_send(());
    }

    /// It has stopped; [`NameserverHandle::join`] does not wait any more.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has stopped.
    pub fn join(mut self) -> Result<(), NameserverError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(NameserverError::Panicked),
            _ => Ok(()),
        }
    }
}

impl Drop for NameserverHandle {
    fn drop(&mut self) {
        // `join` has taken the thread: whoever joins waits for somebody else's stop.
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// Starts a nameserver on a thread of its own; returns when it accepts connections.
pub fn start(config: NameserverConfig) -> Result<NameserverHandle, NameserverError> {
    check(&config)?;
    preflight::check()?;
    let listener = bind(&config.listen)?;
    let thread_error = |error: io::Error| NameserverError::Thread { reason: error.to_string() };
    let address = listener.local_addr().map_err(thread_error)?;
    let (stop, stopped) = flume::bounded(1);
    let (ready_sender, ready) = flume::bounded(1);
    let thread = std::thread::Builder::new()
        .name("nameserver".to_owned())
        .spawn(move || match executor() {
            Ok(executor) => {
                let _ = ready_sender.send(Ok(()));
                executor.run(serve(config, listener, stopped));
            }
            Err(error) => {
                let _ = ready_sender.send(Err(error));
            }
        })
        .map_err(thread_error)?;
    let handle = NameserverHandle { address, stop, thread: Some(thread) };
    match ready.recv() {
        Ok(Ok(())) => {
            tracing::info!(%address, "nameserver listens");
            Ok(handle)
        }
        Ok(Err(reason)) => Err(NameserverError::Thread { reason }),
        Err(flume::RecvError::Disconnected) => Err(NameserverError::Panicked),
    }
}

fn check(config: &NameserverConfig) -> Result<(), NameserverError> {
    let refuse = |name, reason| Err(NameserverError::Setting { name, reason });
    let expire_ms = EXPIRE_EVERY.as_millis();
    if u128::from(config.broker_timeout_ms) < 2 * expire_ms {
        return refuse("broker_timeout_ms", "less than 2000 would drop brokers between two registrations");
    }
    if config.connections_max == 0 {
        return refuse("connections_max", "0 lets nobody in");
    }
    if config.brokers_max > equeue_net::limits::BROKERS_MAX {
        return refuse("brokers_max", "more than an answer can hold (4096)");
    }
    if config.topics_max > equeue_net::limits::TOPICS_MAX {
        return refuse("topics_max", "more than an answer can hold (16384)");
    }
    Ok(())
}

fn executor() -> Result<LocalExecutor, String> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .name("nameserver")
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| error.to_string())
}

/// Serves until somebody says stop.
async fn serve(config: NameserverConfig, listener: TcpListener, stopped: flume::Receiver<()>) {
    let limits = RegistryLimits {
        broker_timeout_ms: config.broker_timeout_ms,
        brokers_max: config.brokers_max,
        topics_max: config.topics_max,
        queues_max: config.queues_max,
    };
    let permits = Permits::new(config.connections_max);
    let shared = Rc::new(Shared {
        registry: RefCell::new(Registry::new(limits, 0)),
        config,
        incarnation: incarnation(),
        started: Instant::now(),
    });
    let connections = Connections::new(ConnectionLimits::default());
    let (serving, state) = (Rc::clone(&connections), Rc::clone(&shared));
    let accepting =
        glommio::spawn_local(accept(listener, permits, PREAMBLE_TIME_MAX, move |accepted: Accepted| {
            let Accepted { fd, peer, permit, .. } = accepted;
            if let Err(error) = serving.serve(fd, peer, permit, |_| Requests(Rc::clone(&state))) {
                tracing::warn!(%peer, %error, "connection lost before it was served");
            }
        }));
    let expiring = glommio::spawn_local(expire(shared));
    // An error means that the handle is gone: stop as well.
    let _ = stopped.recv_async().await;
    accepting.cancel().await;
    expiring.cancel().await;
    connections.finish_all();
    let drained = async {
        connections.drained().await;
        Ok::<_, glommio::GlommioError<()>>(())
    };
    if glommio::timer::timeout(DRAIN_TIME_MAX, drained).await.is_err() {
        connections.close_all();
        connections.drained().await;
    }
    tracing::info!("nameserver stopped");
}

async fn expire(shared: Rc<Shared>) {
    let every_ms = u64::try_from(EXPIRE_EVERY.as_millis()).unwrap_or(u64::MAX);
    loop {
        glommio::timer::sleep(EXPIRE_EVERY).await;
        let gone = shared.registry.borrow_mut().expire(shared.now_ms(), every_ms);
        for broker in gone {
            tracing::warn!(
                cluster = broker.cluster,
                broker = broker.name,
                "broker dropped: it was silent for too long"
            );
        }
    }
}

/// Random for each start.
fn incarnation() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    (half() << 64) | half()
}
