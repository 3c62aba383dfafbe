//! The requests of one connection: a frame in, an answer out. No waiting, no I/O but pushing the answer.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use equeue_net::api::{
    Answer, BrokerEntry, DecodeError, GetCluster, GetClusterAnswer, GetRoutes, GetRoutesAnswer, Heartbeat,
    HeartbeatAnswer, Hello, HelloAnswer, Kind, RegisterBroker, RegisterBrokerAnswer, Request, Status,
    TopicRoute, UnregisterBroker, UnregisterBrokerAnswer,
};
use equeue_net::frame::{FLAG_ANSWER, FLAG_ONE_WAY, FRAME_BYTES_MAX, Frame, FrameError, put_frame};
use equeue_net::preamble::agree_on_version;
use equeue_net::transport::{CloseReason, Connection, Handler};
use equeue_net::{Code, put_failure};

use crate::registry::{Cluster, Registered, Registry};
use crate::{NameserverConfig, routes};

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) registry: RefCell<Registry>,
    pub(crate) config: NameserverConfig,
    pub(crate) incarnation: u128,
    pub(crate) started: Instant,
}

impl Shared {
    /// The registry's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves one connection.
pub(crate) struct Requests(pub(crate) Rc<Shared>);

impl Handler for Requests {
    fn on_frames(&mut self, connection: &Rc<Connection>, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            if frame.head.flags & FLAG_ANSWER != 0 {
                connection.close(CloseReason::Refused("an answer where a request is expected"));
                return;
            }
            let answered = connection.push(|out| {
                let before = out.len();
                self.answer(connection, &frame, out)?;
                if frame.head.flags & FLAG_ONE_WAY != 0 {
                    out.truncate(before);
                }
                Ok::<_, FrameError>(())
            });
            if let Err(error) = answered {
                let status = Status::new(Code::MessageTooLarge, format!("{error}: ask for fewer topics"));
                let failed =
                    connection.push(|out| put_failure(out, frame.head.kind, frame.head.correlation, &status));
                debug_assert!(failed.is_ok(), "a failure is small");
            }
        }
    }

    fn on_close(&mut self, connection: &Rc<Connection>, reason: &CloseReason) {
        let peer = connection.peer();
        match reason {
            CloseReason::PeerClosed | CloseReason::Stopped => {
                tracing::debug!(%peer, %reason, "connection closed");
            }
            _ => tracing::info!(%peer, reason = %Causes(reason), "connection closed"),
        }
    }
}

/// An error with its causes in one line.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Requests {
    fn answer(&self, connection: &Connection, frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let refuse = |out: &mut Vec<u8>, code, detail: &str| {
            put_failure(out, frame.head.kind, frame.head.correlation, &Status::new(code, detail))
        };
        let Some(kind) = Kind::from_number(frame.head.kind) else {
            return refuse(out, Code::Unsupported, "this nameserver does not know the request");
        };
        if !connection.is_opened() && kind != Kind::Hello {
            return refuse(out, Code::Unauthenticated, "the first request is Hello");
        }
        match kind {
            Kind::Hello => serve(out, frame, |hello: Hello| self.hello(connection, &hello)),
            Kind::Heartbeat => serve(out, frame, |_: Heartbeat| HeartbeatAnswer { status: Status::OK }),
            Kind::RegisterBroker => serve(out, frame, |request| self.register(request)),
            Kind::UnregisterBroker => serve(out, frame, |request| self.unregister(&request)),
            Kind::GetRoutes => serve(out, frame, |request| self.routes(&request)),
            Kind::GetCluster => serve(out, frame, |request| self.cluster(&request)),
            Kind::Authenticate => refuse(out, Code::Unsupported, "this nameserver needs no authentication"),
            _ => refuse(out, Code::Unsupported, "brokers serve this request, not nameservers"),
        }
    }

    fn hello(&self, connection: &Connection, hello: &Hello) -> HelloAnswer {
        let Some(version) = agree_on_version(hello.version_min, hello.version_max) else {
            let detail = format!(
                "this nameserver does not speak versions {}..={}",
                hello.version_min, hello.version_max
            );
            return HelloAnswer::failed(Status::new(Code::Unsupported, detail));
        };
        connection.set_opened();
        tracing::debug!(peer = %connection.peer(), client = hello.client_id, "hello");
        HelloAnswer {
            status: Status::OK,
            version,
            shard: 0,
            shards: 1,
            server: self.0.config.name.clone(),
            incarnation: self.0.incarnation,
            frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX),
            batch_bytes_max: 0,
            mechanisms: Vec::new(),
        }
    }

    fn register(&self, request: RegisterBroker) -> RegisterBrokerAnswer {
        let (cluster, name) = (request.broker.cluster.clone(), request.broker.name.clone());
        let address = request.broker.address.clone();
        let status = match self.0.registry.borrow_mut().register(self.0.now_ms(), request) {
            Ok(Registered::Renewed) => Status::OK,
            Ok(Registered::Changed { new, conflicts }) => {
                if new {
                    tracing::info!(cluster, broker = name, address, "broker registered");
                }
                for conflict in conflicts {
                    tracing::warn!(
                        cluster,
                        topic = conflict.topic,
                        version = conflict.version,
                        brokers = ?conflict.brokers,
                        "two brokers tell different maps of the same version; repeat the change of the topic"
                    );
                }
                Status::OK
            }
            Err(status) => {
                tracing::warn!(
                    cluster,
                    broker = name,
                    address,
                    reason = status.detail,
                    "registration refused"
                );
                status
            }
        };
        RegisterBrokerAnswer { status }
    }

    fn unregister(&self, request: &UnregisterBroker) -> UnregisterBrokerAnswer {
        let UnregisterBroker { cluster, name, incarnation } = request;
        if self.0.registry.borrow_mut().unregister(cluster, name, *incarnation) {
            tracing::info!(cluster, broker = name, "broker unregistered");
        }
        // A broker that is not known is not there: what was asked for holds.
        UnregisterBrokerAnswer { status: Status::OK }
    }

    fn routes(&self, request: &GetRoutes) -> GetRoutesAnswer {
        let registry = self.0.registry.borrow();
        let settling = self.0.now_ms() < self.0.config.settle_ms;
        if settling && !registry.has_heard() {
            let status = Status {
                code: Code::NotReady,
                retry_after_ms: 200,
                detail: "this nameserver has just started and no broker has registered yet".to_owned(),
            };
            return GetRoutesAnswer::failed(status);
        }
        let nobody = Cluster::new();
        let cluster = match pick(&registry, &request.cluster) {
            Ok(cluster) => cluster.unwrap_or(&nobody),
            Err(status) => return GetRoutesAnswer::failed(status),
        };
        let topics: Vec<TopicRoute> = if request.topics.is_empty() {
            routes::topic_names(cluster).into_iter().map(|topic| routes::route(cluster, topic)).collect()
        } else {
            request.topics.iter().map(|topic| routes::route(cluster, topic)).collect()
        };
        GetRoutesAnswer { status: Status::OK, brokers: brokers(cluster), topics, settling }
    }

    fn cluster(&self, request: &GetCluster) -> GetClusterAnswer {
        let registry = self.0.registry.borrow();
        let wanted = |name: &str| request.cluster.is_empty() || request.cluster == name;
        let brokers = registry
            .clusters()
            .iter()
            .filter(|(name, _)| wanted(name))
            .flat_map(|(_, cluster)| brokers(cluster))
            .collect();
        GetClusterAnswer { status: Status::OK, brokers }
    }
}

/// Decodes the request, lets `answer` answer it, encodes the answer.
fn serve<R: Request>(
    out: &mut Vec<u8>,
    frame: &Frame,
    answer: impl FnOnce(R) -> R::Answer,
) -> Result<(), FrameError> {
    let answer = match R::decode(&frame.header) {
        Ok(request) => answer(request),
        Err(error) => R::Answer::failed(refusal(&error)),
    };
    put_frame(out, &answer, FLAG_ANSWER, frame.head.correlation, 0)
}

fn refusal(error: &DecodeError) -> Status {
    Status::new(Code::Invalid, error.to_string())
}

/// The cluster asked for; without a name the only one. `Ok(None)`: no broker of it is alive.
fn pick<'a>(registry: &'a Registry, name: &str) -> Result<Option<&'a Cluster>, Status> {
    let clusters = registry.clusters();
    if !name.is_empty() {
        return Ok(clusters.get(name));
    }
    if clusters.len() > 1 {
        let names: Vec<_> = clusters.keys().map(String::as_str).collect();
        return Err(Status::new(Code::Invalid, format!("name one of the clusters: {}", names.join(", "))));
    }
    Ok(clusters.values().next())
}

fn brokers(cluster: &Cluster) -> Vec<BrokerEntry> {
    cluster.values().map(|known| known.broker.clone()).collect()
}
