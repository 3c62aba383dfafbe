//! Requests from a server to another server (a broker to its nameservers): one connection, one request at a time,
//! opened when it is needed and opened again after it failed.
//!
//! **Invariants**: each step has a deadline; after a failure the next attempt waits, ever longer up to a limit and never
//! in step with other processes; an answer belongs to the request that was asked last, or the connection is given up.

use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::channel::oneshot;
use glommio::GlommioError;
use thiserror::Error;

use super::socket::Socket;
use crate::Code;
use crate::api::{DecodeError, Hello, HelloAnswer, Message, Request};
use crate::frame::{self, FLAG_ANSWER, FRAME_BYTES_MAX, FrameError};
use crate::preamble::{PROTOCOL_MINOR_MAX, PROTOCOL_MINOR_MIN, Preamble, Purpose};

/// Room made for each read.
const READ_BYTES: usize = 16 << 10;

/// Who asks, and how patiently.
#[derive(Clone, Debug)]
pub struct DialerConfig {
    /// Name of this server, for people.
    pub client_id: String,
    /// Random for each start of this server.
    pub incarnation: u128,
    /// Time to connect and be greeted.
    pub connect: Duration,
    /// Time from a request to its answer.
    pub request: Duration,
    /// Pause after the first failure; doubles with each one that follows.
    pub back_off_first: Duration,
    /// Longest pause.
    pub back_off_max: Duration,
}

impl DialerConfig {
    /// The usual patience.
    pub fn new(client_id: impl Into<String>, incarnation: u128) -> Self {
        Self {
            client_id: client_id.into(),
            incarnation,
            connect: Duration::from_secs(3),
            request: Duration::from_secs(5),
            back_off_first: Duration::from_millis(100),
            back_off_max: Duration::from_secs(5),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum DialError {
    /// The last attempt failed a moment ago; nothing was tried.
    #[error("waiting {} ms before {address} is tried again", wait.as_millis())]
    BackingOff {
        /// The peer.
        address: String,
        /// How long still.
        wait: Duration,
    },
    /// A step took too long.
    #[error("{address} did not {step} in time")]
    Deadline {
        /// The peer.
        address: String,
        /// Which step.
        step: &'static str,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to {address} failed")]
    Io {
        /// The peer.
        address: String,
        /// How.
        source: io::Error,
    },
    /// The peer's bytes are no frame, or our request is too large for one.
    #[error("frame to or from {address}")]
    Frame {
        /// The peer.
        address: String,
        /// What is wrong.
        source: FrameError,
    },
    /// The peer's answer is malformed.
    #[error("answer of {address}")]
    Answer {
        /// The peer.
        address: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// The peer does not want us.
    #[error("{address} refused the connection: {code}: {detail}")]
    Refused {
        /// The peer.
        address: String,
        /// Its code.
        code: Code,
        /// Its text.
        detail: String,
    },
}

/// A failure before the address is put to it.
enum Fault {
    Deadline(&'static str),
    Io(io::Error),
    Frame(FrameError),
    Answer(DecodeError),
    Refused(Code, String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// An open connection.
struct Link {
    socket: Socket,
    received: BytesMut,
}

/// Asks one peer, over a connection that it opens by itself.
pub struct Dialer {
    address: String,
    config: DialerConfig,
    link: Option<Link>,
    lookup: Option<Lookup>,
    correlation: u32,
    failures: u32,
    not_before: Option<Instant>,
    out: Vec<u8>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("address", &self.address)
            .field("connected", &self.link.is_some())
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    /// Nothing is opened before the first request. `address` is `host:port`.
    pub fn new(address: impl Into<String>, config: DialerConfig) -> Self {
        Self {
            address: address.into(),
            config,
            link: None,
            lookup: None,
            correlation: 0,
            failures: 0,
            not_before: None,
            out: Vec::new(),
        }
    }

    /// The peer's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether a connection is open, as far as we know.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Sends `request` and waits for its answer, after connecting where needed.
    ///
    /// A connection that the peer has closed since the last request is replaced once. The request may have been served
    /// although an error is returned.
    ///
    /// Cancel safety: when the future is dropped, the next request opens a new connection.
    pub async fn request<R: Request>(&mut self, request: &R) -> Result<R::Answer, DialError> {
        if let Some(wait) = self.not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            return Err(DialError::BackingOff { address: self.address.clone(), wait });
        }
        // Taken, not borrowed: a link whose exchange is cancelled in the middle is not used again.
        if let Some(mut link) = self.link.take() {
            match self.exchange(&mut link, request).await {
                Ok(answer) => return Ok(self.succeeded(link, answer)),
                Err(Fault::Io(_)) => {}
                Err(fault) => return Err(self.failed(fault)),
            }
        }
        match self.connect_and_ask(request).await {
            Ok((link, answer)) => Ok(self.succeeded(link, answer)),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    fn succeeded<A>(&mut self, link: Link, answer: A) -> A {
        self.link = Some(link);
        self.failures = 0;
        self.not_before = None;
        answer
    }

    fn failed(&mut self, fault: Fault) -> DialError {
        let pause = back_off(&self.config, self.failures, random());
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
        let address = self.address.clone();
        match fault {
            Fault::Deadline(step) => DialError::Deadline { address, step },
            Fault::Io(source) => DialError::Io { address, source },
            Fault::Frame(source) => DialError::Frame { address, source },
            Fault::Answer(source) => DialError::Answer { address, source },
            Fault::Refused(code, detail) => DialError::Refused { address, code, detail },
        }
    }

    async fn connect_and_ask<R: Request>(&mut self, request: &R) -> Result<(Link, R::Answer), Fault> {
        let connecting = connect(self.address.clone(), &mut self.lookup);
        let mut link = within(self.config.connect, "accept a connection", connecting).await?;
        let hello = Hello {
            version_min: PROTOCOL_MINOR_MIN,
            version_max: PROTOCOL_MINOR_MAX,
            client_id: self.config.client_id.clone(),
            incarnation: self.config.incarnation,
        };
        let greeting: HelloAnswer = self.exchange(&mut link, &hello).await?;
        if greeting.status.code != Code::Ok {
            return Err(Fault::Refused(greeting.status.code, greeting.status.detail));
        }
        let answer = self.exchange(&mut link, request).await?;
        Ok((link, answer))
    }

    async fn exchange<R: Request>(&mut self, link: &mut Link, request: &R) -> Result<R::Answer, Fault> {
        self.correlation = self.correlation.wrapping_add(1);
        self.out.clear();
        frame::put_frame(&mut self.out, request, 0, self.correlation, 0)?;
        let ask = async {
            link.write(&self.out).await?;
            link.answer::<R>(self.correlation).await
        };
        within(self.config.request, "answer", ask).await
    }
}

impl Link {
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = poll_fn(|cx| self.socket.poll_write(cx, &[IoSlice::new(rest)])).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    async fn answer<R: Request>(&mut self, correlation: u32) -> Result<R::Answer, Fault> {
        loop {
            if let Some(frame) = frame::take_frame(&mut self.received, FRAME_BYTES_MAX)? {
                let head = frame.head;
                if head.flags & FLAG_ANSWER == 0
                    || head.kind != R::KIND as u16
                    || head.correlation != correlation
                {
                    return Err(
                        FrameError::Field { field: "correlation", value: head.correlation.into() }.into()
                    );
                }
                return R::Answer::decode(&frame.header).map_err(Fault::Answer);
            }
            if self.received.capacity() - self.received.len() < READ_BYTES {
                self.received.reserve(READ_BYTES);
            }
            let read = poll_fn(|cx| self.socket.poll_read(cx, &mut self.received)).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Resolves, connects, sends the preamble.
async fn connect(address: String, lookup: &mut Option<Lookup>) -> Result<Link, Fault> {
    let address = resolve(address, lookup).await?;
    let link = Link { socket: Socket::connect(address).await?, received: BytesMut::new() };
    link.write(&Preamble { shard: None, purpose: Purpose::Admin, tls: false }.encode()).await?;
    Ok(link)
}

/// A name that is being looked up.
type Lookup = oneshot::Receiver<io::Result<SocketAddr>>;

/// A numeric address at once; a name by a thread of its own, since a resolver may be silent for long and the executor's
/// blocking threads have other work. A look-up that was not waited for to the end is waited for again: there is never more
/// than one.
async fn resolve(address: String, lookup: &mut Option<Lookup>) -> io::Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let under_way = match lookup {
        Some(lookup) => lookup,
        None => lookup.insert(begin_lookup(address)?),
    };
    let found = under_way.await;
    *lookup = None;
    found.unwrap_or_else(|_| Err(io::Error::other("the look-up of a name ended without a result")))
}

fn begin_lookup(address: String) -> io::Result<Lookup> {
    let (tell, told) = oneshot::channel();
    let job = move || {
        let found = address
            .to_socket_addrs()
            .and_then(|mut addresses| addresses.next().ok_or_else(|| io::ErrorKind::NotFound.into()));
        // Nobody waits any more when the broker has stopped.
        let _ = tell.send(found);
    };
    std::thread::Builder::new().name("lookup".to_owned()).spawn(job)?;
    Ok(told)
}

/// `step` with a deadline.
async fn within<T, E: Into<Fault>>(
    time_max: Duration,
    name: &'static str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Fault> {
    let step = async { Ok::<_, GlommioError<()>>(step.await) };
    match glommio::timer::timeout(time_max, step).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Fault::Deadline(name)),
    }
}

/// The pause after so many failures in a row: doubling, capped, and between a half and the whole of that by `random`.
fn back_off(config: &DialerConfig, failures: u32, random: u64) -> Duration {
    let whole = config.back_off_first.saturating_mul(1_u32 << failures.min(20)).min(config.back_off_max);
    let half = whole / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    half + Duration::from_nanos(random % nanos.max(1))
}

/// Random enough to keep processes out of step.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_are_jittered() {
        let config = DialerConfig::new("test", 1);
        for failures in [0, 1, 3, 10, u32::MAX] {
            let whole = config.back_off_first.saturating_mul(1 << failures.min(20)).min(config.back_off_max);
            for random in [0, 1, u64::MAX / 2, u64::MAX] {
                let pause = back_off(&config, failures, random);
                assert!(pause >= whole / 2 && pause <= whole, "{failures} {random}: {pause:?}");
            }
        }
        assert_eq!(back_off(&config, u32::MAX, 0), config.back_off_max / 2);
        assert!((0..100).map(|_| random()).collect::<std::collections::HashSet<_>>().len() > 90);
    }
}
