//! One TCP connection: preamble, Hello, many requests in flight, answers in any order.
//!
//! **Invariants**: the reader always reads, whatever the application does; a payload is written from where it lies
//! (vectored), never copied; once the connection ends, every request in flight fails with a transient error and no
//! new one is taken. Connecting again is the pool's work.

mod io;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::{Answer, Hello, HelloAnswer, Kind, Message, Request};
use equeue_net::frame::{FLAG_ONE_WAY, FRAME_BYTES_MAX, Frame, put_frame};
use equeue_net::preamble::{Preamble, Purpose};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use crate::ClientError;

/// Oldest and newest minor version of the protocol that this build speaks.
const VERSIONS: (u8, u8) = (1, 1);
/// Requests that may wait for an answer on one connection.
const WAITING_MAX: usize = 4096;
/// Bytes that may wait to be written before nothing more is taken that nobody waits for.
const ONE_WAY_BYTES_MAX: usize = 16 << 20;

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `host:port`.
    pub address: Arc<str>,
    /// The shard wanted.
    pub shard: Option<u16>,
    /// What for.
    pub purpose: Purpose,
}

/// Who connects, and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// Name of the client, for people.
    pub client_id: String,
    /// Random for each start of the client.
    pub incarnation: u128,
    /// For TCP, preamble and Hello together.
    pub connect_timeout: Duration,
    /// For any other answer.
    pub request_timeout: Duration,
}

/// A connection. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    hello: HelloAnswer,
    request_timeout: Duration,
}

/// What the handle, the reader and the writer share.
#[derive(Debug)]
struct Shared {
    server: Arc<str>,
    correlation: AtomicU32,
    state: Mutex<State>,
    /// Wakes the writer.
    write: Notify,
    /// Tells reader and writer to end.
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u32, oneshot::Sender<Result<Frame, ClientError>>>,
    /// Frames to write, in pieces.
    outgoing: Vec<Bytes>,
    /// Bytes of `outgoing`.
    outgoing_bytes: usize,
    ended: Option<ClientError>,
}

/// An answer to come. Dropping it forgets the request.
#[derive(Debug)]
pub(crate) struct Waiting {
    shared: Arc<Shared>,
    correlation: u32,
    kind: Kind,
    answer: oneshot::Receiver<Result<Frame, ClientError>>,
}

impl Connection {
    /// Connects, says Hello and starts the reader and the writer.
    pub(crate) async fn open(endpoint: &Endpoint, who: &Introduction) -> Result<Arc<Self>, ClientError> {
        let server = Arc::clone(&endpoint.address);
        let opening = Self::open_unbounded(endpoint, who);
        timeout(who.connect_timeout, opening).await.unwrap_or(Err(ClientError::TimedOut {
            request: "Hello",
            server,
            after: who.connect_timeout,
        }))
    }

    async fn open_unbounded(endpoint: &Endpoint, who: &Introduction) -> Result<Arc<Self>, ClientError> {
        let server = Arc::clone(&endpoint.address);
        let failed = |source: std::io::Error| ClientError::Connect {
            server: Arc::clone(&endpoint.address),
            source: Arc::new(source),
        };
        let mut stream = TcpStream::connect(&*endpoint.address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let preamble = Preamble { shard: endpoint.shard, purpose: endpoint.purpose, tls: false };
        stream.write_all(&preamble.encode()).await.map_err(failed)?;
        let shared = Arc::new(Shared {
            server,
            correlation: AtomicU32::new(1),
            state: Mutex::default(),
            write: Notify::new(),
            ended: watch::Sender::new(false),
        });
        io::start(stream, &shared, endpoint.purpose);
        let mut connection = Self {
            shared,
            hello: HelloAnswer::failed(equeue_net::api::Status::OK),
            request_timeout: who.request_timeout,
        };
        let hello = Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            client_id: who.client_id.clone(),
            incarnation: who.incarnation,
        };
        connection.hello = connection.call(&hello).await?;
        Ok(Arc::new(connection))
    }

    /// Address of the server.
    pub(crate) fn server(&self) -> &Arc<str> {
        &self.shared.server
    }

    /// What the server said of itself.
    pub(crate) fn hello(&self) -> &HelloAnswer {
        &self.hello
    }

    /// Largest frame that the server takes.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        match self.hello.frame_bytes_max as usize {
            0 => FRAME_BYTES_MAX,
            limit => limit.min(FRAME_BYTES_MAX),
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.shared.lock().ended.is_some()
    }

    /// Ends it: every request in flight fails.
    pub(crate) fn end(&self, reason: &str) {
        self.shared.end(&self.shared.lost(reason));
    }

    /// Sends a request with a payload in pieces; the answer comes by [`Waiting`].
    pub(crate) fn request<R: Request>(
        &self,
        request: &R,
        payload: impl IntoIterator<Item = Bytes>,
        payload_len: usize,
    ) -> Result<Waiting, ClientError> {
        let correlation = self.shared.correlation.fetch_add(1, Ordering::Relaxed);
        let head = head(request, 0, correlation, payload_len)?;
        let (sender, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(ended) = &state.ended {
                return Err(ended.clone());
            }
            if state.waiting.len() >= WAITING_MAX {
                return Err(self.shared.busy(R::KIND.name()));
            }
            state.waiting.insert(correlation, sender);
            state.outgoing_bytes += head.len() + payload_len;
            state.outgoing.push(head);
            state.outgoing.extend(payload);
        }
        self.shared.write.notify_one();
        Ok(Waiting { shared: Arc::clone(&self.shared), correlation, kind: R::KIND, answer })
    }

    /// Sends a request that nobody answers.
    pub(crate) fn one_way<R: Request>(&self, request: &R, payload: Bytes) -> Result<(), ClientError> {
        let head = head(request, FLAG_ONE_WAY, 0, payload.len())?;
        {
            let mut state = self.shared.lock();
            if let Some(ended) = &state.ended {
                return Err(ended.clone());
            }
            if state.outgoing.len() >= WAITING_MAX || state.outgoing_bytes >= ONE_WAY_BYTES_MAX {
                return Err(self.shared.busy(R::KIND.name()));
            }
            state.outgoing_bytes += head.len() + payload.len();
            state.outgoing.extend([head, payload]);
        }
        self.shared.write.notify_one();
        Ok(())
    }

    /// Sends a request without payload and waits for an answer whose code is OK.
    pub(crate) async fn call<R: Request>(&self, request: &R) -> Result<R::Answer, ClientError> {
        self.call_within(request, self.request_timeout).await
    }

    /// [`Connection::call`] with a deadline of its own.
    pub(crate) async fn call_within<R: Request>(
        &self,
        request: &R,
        within: Duration,
    ) -> Result<R::Answer, ClientError> {
        let waiting = self.request(request, [], 0)?;
        let frame = timeout(within, waiting.frame()).await.map_err(|_| ClientError::TimedOut {
            request: R::KIND.name(),
            server: Arc::clone(self.server()),
            after: within,
        })??;
        let answer = self.decode::<R::Answer>(&frame)?;
        let status = answer.status();
        match status.code {
            Code::Ok | Code::Duplicate => Ok(answer),
            code => Err(ClientError::Refused {
                server: Arc::clone(self.server()),
                request: R::KIND.name(),
                code,
                retry_after_ms: status.retry_after_ms,
                detail: status.detail.as_str().into(),
            }),
        }
    }

    /// Reads the header of an answer; garbage ends the connection.
    pub(crate) fn decode<A: Answer>(&self, frame: &Frame) -> Result<A, ClientError> {
        A::decode(&frame.header).map_err(|error| {
            let error = self.shared.garbage(&error.to_string());
            self.shared.end(&error);
            error
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end("closed by this client");
    }
}

impl Waiting {
    /// The answer's frame. Cancel safe: dropping it forgets the request.
    pub(crate) async fn frame(mut self) -> Result<Frame, ClientError> {
        let frame = match (&mut self.answer).await {
            Ok(result) => result?,
            Err(_) => return Err(self.shared.lost("no answer")),
        };
        if frame.head.kind == self.kind as u16 {
            Ok(frame)
        } else {
            let error =
                self.shared.garbage(&format!("kind {} answers {}", frame.head.kind, self.kind.name()));
            self.shared.end(&error);
            Err(error)
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.correlation);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to its request; one that nobody waits for any more is dropped.
    fn answer(&self, frame: Frame) {
        let sender = self.lock().waiting.remove(&frame.head.correlation);
        if let Some(sender) = sender {
            let _ = sender.send(Ok(frame));
        }
    }

    fn end(&self, error: &ClientError) {
        let waiting = {
            let mut state = self.lock();
            if state.ended.is_some() {
                return;
            }
            state.ended = Some(error.clone());
            (state.outgoing, state.outgoing_bytes) = (Vec::new(), 0);
            std::mem::take(&mut state.waiting)
        };
        for sender in waiting.into_values() {
            let _ = sender.send(Err(error.clone()));
        }
        self.ended.send_replace(true);
    }

    fn lost(&self, reason: &str) -> ClientError {
        ClientError::ConnectionLost { server: Arc::clone(&self.server), reason: reason.into() }
    }

    fn garbage(&self, reason: &str) -> ClientError {
        ClientError::Protocol { server: Arc::clone(&self.server), reason: reason.into() }
    }

    fn busy(&self, request: &'static str) -> ClientError {
        ClientError::Refused {
            server: Arc::clone(&self.server),
            request,
            code: Code::Busy,
            retry_after_ms: 0,
            detail: "too many requests wait on this connection".into(),
        }
    }
}

/// A frame's fixed part and header; the payload follows it.
fn head<M: Message>(
    message: &M,
    flags: u8,
    correlation: u32,
    payload_len: usize,
) -> Result<Bytes, ClientError> {
    let mut head = Vec::with_capacity(256);
    put_frame(&mut head, message, flags, correlation, payload_len)
        .map_err(|error| ClientError::Option { option: "request", reason: error.to_string() })?;
    Ok(head.into())
}
