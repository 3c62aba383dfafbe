//! Accepting connections: bind, accept within limits, read exactly the preamble, hand the bare descriptor over.
//!
//! **Invariants**: a second process on the same address gets an error (no `SO_REUSEPORT`); of an accepted socket nothing
//! but the 16 bytes of the preamble is read here; a descriptor that is not handed over is closed; each accepted socket
//! holds a [`Permit`] from the accept to its end, wherever it is served.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::readiness::Watched;
use super::socket::receive_into;
use crate::preamble::{PREAMBLE_LEN, Preamble, PreambleError};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// Sockets accepted before other tasks run.
const BATCH_MAX: usize = 64;
/// Time to wait after a failed accept (most often: no descriptors left).
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long an address may still be taken by a predecessor: the kernel closes the sockets of a killed process
/// some milliseconds after its end was told.
const PREDECESSOR_MAX: Duration = Duration::from_secs(2);
/// Time between two looks at whether it is.
const PREDECESSOR_STEP: Duration = Duration::from_millis(5);
/// Least time between two warnings of one kind.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// The text names no address.
    #[error("{address} is no address to listen on")]
    Address {
        /// The text.
        address: String,
        /// What resolving said.
        source: io::Error,
    },
    /// The system refuses it.
    #[error("cannot listen on {address}: {hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it most often means.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `address` (`host:port`; port 0: one that the system chooses).
///
/// Blocks while a name is resolved, and for up to 2 s while the address is taken: a server that is started again right
/// after it was killed meets its own old socket.
pub fn bind(address: &str) -> Result<TcpListener, BindError> {
    let refuse = |source| BindError::Address { address: address.to_owned(), source };
    let first = address.to_socket_addrs().map_err(refuse)?.next();
    let address = first.ok_or_else(|| refuse(io::ErrorKind::NotFound.into()))?;
    listen_after_predecessor(address).map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "another process listens there",
            io::ErrorKind::PermissionDenied => "not permitted",
            io::ErrorKind::AddrNotAvailable => "the address does not belong to this machine",
            _ => "the system refuses it",
        };
        BindError::Listen { address, hint, source }
    })
}

fn listen_after_predecessor(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < PREDECESSOR_MAX => {
                std::thread::sleep(PREDECESSOR_STEP);
            }
            result => return result,
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Only lets a restarted server bind while old connections linger; two listeners still exclude each other.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// How many connections may be open at once, over all executors that share it.
#[derive(Clone, Debug)]
pub struct Permits {
    open: Arc<AtomicUsize>,
    max: usize,
}

impl Permits {
    /// At most `max`.
    pub fn new(max: usize) -> Self {
        Self { open: Arc::new(AtomicUsize::new(0)), max }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// One more, when there is room.
    pub fn take(&self) -> Option<Permit> {
        let more = |open| (open < self.max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(&self.open)))
    }
}

/// One open connection; dropping it makes room for another.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose preamble was read. It may be sent to another executor; dropping it closes the socket.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub fd: OwnedFd,
    /// What the peer wants.
    pub preamble: Preamble,
    /// Where the peer is.
    pub peer: SocketAddr,
    /// Its place among the open connections.
    pub permit: Permit,
}

/// Accepts until the future is dropped. `on_accepted` runs on this executor and must not block: it serves the socket
/// here or sends it away.
pub async fn accept(
    listener: TcpListener,
    permits: Permits,
    preamble_time_max: Duration,
    on_accepted: impl Fn(Accepted) + 'static,
) {
    let on_accepted = Rc::new(on_accepted);
    let (mut full, mut failed) = (Quiet::default(), Quiet::default());
    let watched = loop {
        match Watched::new(&listener) {
            Ok(watched) => break watched,
            Err(error) => {
                if failed.speak() {
                    tracing::warn!(%error, "waiting for connections failed; trying again");
                }
                glommio::timer::sleep(BACK_OFF).await;
            }
        }
    };
    loop {
        let mut batch = 0;
        let pause = loop {
            match accept_one(&listener) {
                Ok((fd, peer)) => match permits.take() {
                    Some(permit) => {
                        let on_accepted = Rc::clone(&on_accepted);
                        glommio::spawn_local(greet(fd, peer, permit, preamble_time_max, on_accepted))
                            .detach();
                    }
                    None if full.speak() => {
                        tracing::warn!(max = permits.max, %peer, "connection refused: the limit is reached");
                    }
                    None => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    watched.unreadable();
                    break false;
                }
                // The peer was gone before it was accepted, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    if failed.speak() {
                        tracing::warn!(%error, "accept failed; trying again");
                    }
                    break true;
                }
            }
            batch += 1;
            if batch == BATCH_MAX {
                batch = 0;
                glommio::executor().yield_task_queue_now().await;
            }
        };
        if pause {
            glommio::timer::sleep(BACK_OFF).await;
        }
        poll_fn(|cx| watched.poll_readable(cx)).await;
    }
}

fn accept_one(listener: &TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let (stream, peer) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((stream.into(), peer))
}

/// Reads the preamble of one socket and hands it over.
async fn greet(
    fd: OwnedFd,
    peer: SocketAddr,
    permit: Permit,
    time_max: Duration,
    on_accepted: Rc<impl Fn(Accepted) + 'static>,
) {
    let read = async { Ok::<_, glommio::GlommioError<()>>(read_preamble(&fd).await) };
    match glommio::timer::timeout(time_max, read).await {
        Ok(Ok(preamble)) => on_accepted(Accepted { fd, preamble, peer, permit }),
        Ok(Err(GreetError::Closed)) => tracing::debug!(%peer, "closed before its preamble"),
        Ok(Err(error)) => tracing::info!(%peer, %error, "connection refused"),
        Err(_) => tracing::info!(%peer, "connection refused: its preamble did not come in time"),
    }
}

#[derive(Debug, Error)]
enum GreetError {
    #[error("closed before its preamble")]
    Closed,
    #[error("socket failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Preamble(#[from] PreambleError),
    #[error("it asks for TLS, which this build does not speak")]
    Tls,
}

/// Reads exactly the 16 bytes of the preamble: what follows belongs to the executor that serves the connection.
async fn read_preamble(fd: &OwnedFd) -> Result<Preamble, GreetError> {
    let mut bytes = [0_u8; PREAMBLE_LEN];
    let mut missing = &mut bytes[..];
    let watched = Watched::new(fd)?;
    while !missing.is_empty() {
        match receive_into(fd, missing) {
            Ok(0) => return Err(GreetError::Closed),
            Ok(read) => missing = missing.get_mut(read..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                watched.unreadable();
                poll_fn(|cx| watched.poll_readable(cx)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let preamble = Preamble::decode(&bytes)?;
    if preamble.tls { Err(GreetError::Tls) } else { Ok(preamble) }
}

/// Says something at most every [`WARN_EVERY`].
#[derive(Default)]
struct Quiet(Option<Instant>);

impl Quiet {
    fn speak(&mut self) -> bool {
        let now = Instant::now();
        let speak = self.0.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if speak {
            self.0 = Some(now);
        }
        speak
    }
}
