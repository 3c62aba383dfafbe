//! A whole nameserver over TCP.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failed test may panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use equeue_nameserver::{NameserverConfig, NameserverError, NameserverHandle, start};
use equeue_net::Code;
use equeue_net::api::{
    Answer, BrokerEntry, BrokerRole, GetCluster, GetRoutes, Heartbeat, HeartbeatAnswer, Hello, Message,
    QueueEntry, RegisterBroker, Request, Status, TopicSnapshot, UnregisterBroker,
};
use equeue_net::frame::{FLAG_ONE_WAY, FRAME_BYTES_MAX, Frame, put_frame, take_frame};
use equeue_net::preamble::{Preamble, Purpose};
use equeue_record::QueueKey;

fn config() -> NameserverConfig {
    NameserverConfig { listen: "127.0.0.1:0".into(), settle_ms: 0, ..NameserverConfig::default() }
}

struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
    correlation: u32,
}

impl Peer {
    fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&Preamble { shard: None, purpose: Purpose::Admin, tls: false }.encode()).unwrap();
        Self { stream, buffer: BytesMut::new(), correlation: 0 }
    }

    fn open(address: SocketAddr) -> Self {
        let mut peer = Self::connect(address);
        let hello = Hello { version_min: 1, version_max: 9, client_id: "test".into(), incarnation: 1 };
        let answer = peer.ask(&hello);
        assert_eq!((answer.status, answer.version, answer.shards), (Status::OK, 1, 1));
        peer
    }

    fn send<M: Message>(&mut self, message: &M, flags: u8) {
        self.correlation += 1;
        let mut out = Vec::new();
        put_frame(&mut out, message, flags, self.correlation, 0).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    fn receive(&mut self) -> Frame {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, FRAME_BYTES_MAX).unwrap() {
                return frame;
            }
            let mut chunk = [0; 8192];
            let read = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.unwrap(),
            };
            assert_ne!(read, 0, "the nameserver closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    fn ask<R: Request>(&mut self, request: &R) -> R::Answer {
        self.send(request, 0);
        let frame = self.receive();
        assert_eq!((frame.head.kind, frame.head.correlation), (R::KIND as u16, self.correlation));
        R::Answer::decode(&frame.header).unwrap()
    }
}

fn snapshot(name: &str, map: &[&str]) -> RegisterBroker {
    let own = (0_u32..).zip(map).filter(|(_, owner)| **owner == name);
    let queues = own.map(|(ordinal, _)| QueueEntry {
        ordinal,
        key: QueueKey(100 + u64::from(ordinal)),
        shard: 0,
        writable: true,
        readable: true,
    });
    let broker = BrokerEntry {
        cluster: "default".into(),
        name: name.into(),
        group: name.bytes().map(u32::from).sum(),
        role: BrokerRole::Master,
        master_epoch: 1,
        address: format!("{name}:9494"),
        http_address: String::new(),
        shards: 1,
        incarnation: 7,
        created_ms: 1,
    };
    let topic = TopicSnapshot {
        name: "orders".into(),
        version: 1,
        map: map.iter().map(|&owner| owner.to_owned()).collect(),
        queues: queues.collect(),
    };
    RegisterBroker { broker, topics: vec![topic] }
}

fn routes(topics: &[&str]) -> GetRoutes {
    GetRoutes { cluster: String::new(), topics: topics.iter().map(|&topic| topic.to_owned()).collect() }
}

fn stop(handle: NameserverHandle) {
    handle.stop();
    handle.join().unwrap();
}

#[test]
fn brokers_register_and_everybody_learns_where_the_queues_live() {
    let handle = start(config()).unwrap();
    let (mut a, mut b) = (Peer::open(handle.address()), Peer::open(handle.address()));
    let mut client = Peer::open(handle.address());
    assert_eq!(client.ask(&routes(&["orders"])).topics[0].code, Code::TopicNotFound);

    let map = ["a", "b", "a"];
    assert_eq!(a.ask(&snapshot("a", &map)).status, Status::OK);
    let answer = client.ask(&routes(&["orders", "bills"]));
    assert_eq!(answer.brokers, [snapshot("a", &map).broker]);
    let live: Vec<_> = answer.topics[0].queues.iter().map(|queue| queue.live.is_some()).collect();
    assert_eq!(live, [true, false, true], "b is not alive yet, its queue keeps its place");
    assert_eq!(answer.topics[1].code, Code::TopicNotFound);

    assert_eq!(b.ask(&snapshot("b", &map)).status, Status::OK);
    let answer = client.ask(&routes(&[]));
    assert_eq!(answer.topics.len(), 1);
    assert!(answer.topics[0].queues.iter().all(|queue| queue.live.is_some()));
    assert_eq!(client.ask(&GetCluster { cluster: String::new() }).brokers.len(), 2);
    assert_eq!(client.ask(&GetCluster { cluster: "other".into() }).brokers, []);

    let leave = UnregisterBroker { cluster: "default".into(), name: "a".into(), incarnation: 7 };
    assert_eq!(a.ask(&leave).status, Status::OK);
    assert_eq!(client.ask(&GetCluster { cluster: "default".into() }).brokers[0].name, "b");
    stop(handle);
}

#[test]
fn a_silent_broker_is_dropped() {
    let handle = start(NameserverConfig { broker_timeout_ms: 2000, ..config() }).unwrap();
    let mut peer = Peer::open(handle.address());
    peer.ask(&snapshot("a", &["a"]));
    let begun = Instant::now();
    while !peer.ask(&GetCluster { cluster: String::new() }).brokers.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    stop(handle);
}

#[test]
fn a_nameserver_that_knows_nobody_yet_says_so() {
    let handle = start(NameserverConfig { settle_ms: 60_000, ..config() }).unwrap();
    let mut peer = Peer::open(handle.address());
    let status = peer.ask(&routes(&["orders"])).status;
    assert!(status.code == Code::NotReady && status.retry_after_ms > 0);
    peer.ask(&snapshot("a", &["a"]));
    assert_eq!(peer.ask(&routes(&["orders"])).topics[0].code, Code::Ok);
    stop(handle);
}

#[test]
fn requests_that_are_not_for_a_nameserver_are_refused_and_the_connection_stays() {
    let handle = start(config()).unwrap();
    let mut peer = Peer::connect(handle.address());
    assert_eq!(peer.ask(&GetCluster { cluster: String::new() }).status.code, Code::Unauthenticated);
    let old = Hello { version_min: 8, version_max: 9, client_id: "future".into(), incarnation: 1 };
    assert_eq!(peer.ask(&old).status.code, Code::Unsupported);

    let mut peer = Peer::open(handle.address());
    assert_eq!(peer.ask(&equeue_net::api::ListTopics {}).status.code, Code::Unsupported);
    // A kind that nobody knows.
    let mut out = Vec::new();
    put_frame(&mut out, &GetCluster { cluster: String::new() }, 0, 77, 0).unwrap();
    out[6..8].copy_from_slice(&999_u16.to_le_bytes());
    peer.stream.write_all(&out).unwrap();
    let frame = peer.receive();
    assert_eq!((frame.head.kind, frame.head.correlation), (999, 77));
    assert_eq!(HeartbeatAnswer::decode(&frame.header).unwrap().status().code, Code::Unsupported);
    // A header that is no flatbuffer.
    let mut out = Vec::new();
    put_frame(&mut out, &GetCluster { cluster: "abc".into() }, 0, 78, 0).unwrap();
    out[16..20].copy_from_slice(&[0xff; 4]);
    peer.stream.write_all(&out).unwrap();
    let frame = peer.receive();
    assert_eq!(HeartbeatAnswer::decode(&frame.header).unwrap().status().code, Code::Invalid);
    // One-way: no answer; the next answer belongs to the next request.
    let beat = Heartbeat { producing: vec![], group: String::new(), consuming: vec![] };
    peer.send(&beat, FLAG_ONE_WAY);
    assert_eq!(peer.ask(&beat).status, Status::OK);
    stop(handle);
}

#[test]
fn an_answer_too_large_for_a_frame_is_refused_in_words() {
    let handle = start(config()).unwrap();
    let mut peer = Peer::open(handle.address());
    let mut broker = snapshot("a", &[]);
    let map = vec!["a".to_owned(); 4000];
    broker.topics = (0..110)
        .map(|number| TopicSnapshot {
            name: format!("t{number}"),
            version: 1,
            map: map.clone(),
            queues: vec![],
        })
        .collect();
    assert_eq!(peer.ask(&broker).status, Status::OK);
    let status = peer.ask(&routes(&[])).status;
    assert_eq!(status.code, Code::MessageTooLarge, "{status:?}");
    assert_eq!(peer.ask(&routes(&["t1"])).topics[0].queues.len(), 4000);
    stop(handle);
}

#[test]
fn a_stop_ends_the_connections_and_frees_the_port() {
    let handle = start(config()).unwrap();
    let address = handle.address();
    let mut peer = Peer::open(address);
    let second = start(NameserverConfig { listen: address.to_string(), ..config() });
    assert!(matches!(second, Err(NameserverError::Bind(_))), "two nameservers on one port");
    stop(handle);
    assert_eq!(peer.stream.read(&mut [0; 16]).unwrap(), 0);
    stop(start(NameserverConfig { listen: address.to_string(), ..config() }).unwrap());
}

#[test]
fn settings_are_checked() {
    let refused = |config| matches!(start(config), Err(NameserverError::Setting { .. }));
    assert!(refused(NameserverConfig { broker_timeout_ms: 100, ..config() }));
    assert!(refused(NameserverConfig { connections_max: 0, ..config() }));
    assert!(refused(NameserverConfig { brokers_max: 1 << 20, ..config() }));
    assert!(toml::from_str::<NameserverConfig>("lisen = \"x\"").is_err(), "unknown settings are refused");
    assert_eq!(toml::from_str::<NameserverConfig>("").unwrap(), NameserverConfig::default());
}
