//! A broker in a temporary directory, and a client that speaks the wire protocol and nothing more.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "each test file uses a part of it, and fails where it panics"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use equeue_broker::config::ByteSize;
use equeue_broker::{BrokerConfig, BrokerHandle};
use equeue_net::Code;
use equeue_net::api::{
    AckLevel, CreateTopic, Fetch, FetchAnswer, FetchItem, Hello, HelloAnswer, Message, Produce,
    ProduceAnswer, ProduceItem, QueueEntry, Request, TopicSnapshot,
};
use equeue_net::frame::{FLAG_ONE_WAY, FRAME_BYTES_MAX, Frame, put_frame, take_frame};
use equeue_net::preamble::{Preamble, Purpose};
use equeue_record::{
    BatchBuilder, BatchView, Codec, Decompressor, NO_PRODUCER, Offset, ProducerStamp, QueueKey, RecordFields,
};

/// Longest wait for an answer before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Settings for a broker that is quick to start.
pub fn config(dir: &Path, shards: u16) -> BrokerConfig {
    let mut config = BrokerConfig {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        http_listen: String::new(),
        nameservers: Vec::new(),
        shards,
        ..BrokerConfig::default()
    };
    config.memory.limit = ByteSize::mib(64 * u64::from(shards));
    config.storage.segment_bytes_first = ByteSize::mib(4);
    config.storage.segment_bytes_max = ByteSize::mib(16);
    config
}

/// Starts a broker of one or more shards.
pub fn start(dir: &Path, shards: u16) -> BrokerHandle {
    start_with(config(dir, shards))
}

pub fn start_with(config: BrokerConfig) -> BrokerHandle {
    let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::INFO).try_init();
    equeue_broker::start(config).expect("the broker starts")
}

/// Stops a broker in order.
pub fn stop(broker: BrokerHandle) {
    broker.stop();
    broker.join().expect("an orderly stop");
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    buffer: BytesMut,
    correlation: u32,
    pub hello: HelloAnswer,
}

impl Client {
    /// Connects to whichever shard accepts, and says Hello.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_to(address, None)
    }

    /// Connects to one shard.
    pub fn connect_to(address: SocketAddr, shard: Option<u16>) -> Self {
        Self::connect_as(address, shard, "test", 7)
    }

    /// Connects as a client of this name and start.
    pub fn connect_as(address: SocketAddr, shard: Option<u16>, client_id: &str, incarnation: u128) -> Self {
        let mut client = Self::dial(address, shard);
        let hello = Hello { version_min: 1, version_max: 1, client_id: client_id.into(), incarnation };
        client.hello = client.request(&hello);
        assert_eq!(client.hello.status.code, Code::Ok);
        client
    }

    /// Connects and sends the preamble, nothing else.
    pub fn dial(address: SocketAddr, shard: Option<u16>) -> Self {
        let mut stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&Preamble { shard, purpose: Purpose::Produce, tls: false }.encode()).unwrap();
        Self { stream, buffer: BytesMut::new(), correlation: 0, hello: HelloAnswer::default() }
    }

    /// Sends a request; gives its correlation.
    pub fn send<M: Message>(&mut self, message: &M, flags: u8, payload: &[u8]) -> u32 {
        self.correlation += 1;
        let mut out = Vec::new();
        put_frame(&mut out, message, flags, self.correlation, payload.len()).unwrap();
        out.extend_from_slice(payload);
        self.stream.write_all(&out).unwrap();
        self.correlation
    }

    /// The next frame; `None`: the broker closed the connection.
    pub fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) =
                take_frame(&mut self.buffer, FRAME_BYTES_MAX).expect("the broker sends frames")
            {
                return Some(frame);
            }
            let mut part = vec![0; 65536];
            let read = match self.stream.read(&mut part) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                // A read with a timeout may be interrupted without any signal, and is not begun again by the kernel.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("no answer in time: {error}"),
            };
            if read == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&part[..read]);
        }
    }

    /// Whether nothing comes within `time`.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        assert!(self.buffer.is_empty(), "something was received already");
        self.stream.set_read_timeout(Some(time)).unwrap();
        let read = self.stream.peek(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(read, Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
    }

    /// Sends a request and waits for its answer.
    pub fn request<R: Request>(&mut self, request: &R) -> R::Answer {
        let correlation = self.send(request, 0, &[]);
        self.answer::<R>(correlation)
    }

    /// Waits for the answer to a request that was sent.
    pub fn answer<R: Request>(&mut self, correlation: u32) -> R::Answer {
        let frame = self.receive().expect("the connection is open");
        assert_eq!(frame.head.correlation, correlation);
        assert_eq!(frame.head.kind, R::KIND as u16);
        R::Answer::decode(&frame.header).expect("a well-formed answer")
    }

    /// Creates a topic with all its queues on this broker.
    pub fn create_topic(&mut self, name: &str, queues: u32) -> TopicSnapshot {
        let request = CreateTopic { topic: name.into(), map: Vec::new(), queues, version: 1, auto: false };
        let answer = self.request(&request);
        assert_eq!(answer.status.code, Code::Ok, "{}", answer.status.detail);
        answer.topic.expect("an answer with the topic")
    }

    /// Creates a topic of one queue.
    pub fn create_queue(&mut self, name: &str) -> QueueEntry {
        self.create_topic(name, 1).queues[0]
    }

    pub fn send_produce(&mut self, level: AckLevel, flags: u8, batches: &[(QueueKey, Bytes)]) -> u32 {
        let items =
            batches.iter().map(|(queue, batch)| ProduceItem { queue: *queue, bytes: batch.len() as u32 });
        let request = Produce { level, items: items.collect() };
        let payload: Vec<u8> = batches.iter().flat_map(|(_, batch)| batch.iter().copied()).collect();
        self.send(&request, flags, &payload)
    }

    pub fn produce(&mut self, batches: &[(QueueKey, Bytes)]) -> ProduceAnswer {
        let correlation = self.send_produce(AckLevel::Durable, 0, batches);
        self.answer::<Produce>(correlation)
    }

    /// What became of a batch of one message.
    pub fn produce_one(&mut self, queue: QueueKey, body: &[u8]) -> Code {
        self.produce(&[(queue, batch(&[body]))]).outcomes[0].code
    }

    pub fn produce_one_way(&mut self, batches: &[(QueueKey, Bytes)]) {
        self.send_produce(AckLevel::Durable, FLAG_ONE_WAY, batches);
    }

    /// Stores batches, each of which must be taken.
    pub fn produce_ok(&mut self, batches: &[(QueueKey, Bytes)]) -> Vec<Offset> {
        let answer = self.produce(batches);
        assert_eq!(answer.status.code, Code::Ok);
        assert!(answer.outcomes.iter().all(|outcome| outcome.code == Code::Ok), "{:?}", answer.outcomes);
        answer.outcomes.iter().map(|outcome| outcome.base_offset).collect()
    }

    pub fn send_fetch(
        &mut self,
        fetch_id: u32,
        wait_ms: u32,
        queues: &[(QueueKey, u64)],
        tags: &[u32],
    ) -> u32 {
        let item = |(queue, offset): &(QueueKey, u64)| FetchItem {
            queue: *queue,
            offset: Offset(*offset),
            bytes_max: 1 << 20,
            grant_epoch: 0,
            tags_start: 0,
            tags_count: tags.len() as u16,
        };
        let request = Fetch {
            fetch_id,
            wait_ms_max: wait_ms,
            bytes_max: 1 << 20,
            items: queues.iter().map(item).collect(),
            tag_hashes: tags.to_vec(),
            group: String::new(),
        };
        self.send(&request, 0, &[])
    }

    /// The next frame, which must be the answer to a fetch; with the batches of its payload.
    pub fn fetched(&mut self, correlation: u32) -> (FetchAnswer, Vec<Batch>) {
        let frame = self.receive().expect("the connection is open");
        assert_eq!(frame.head.correlation, correlation);
        let answer = FetchAnswer::decode(&frame.header).unwrap();
        let mut payload = &frame.payload[..];
        let mut batches = Vec::new();
        for outcome in &answer.outcomes {
            let (mut of_queue, rest) = payload.split_at(outcome.bytes as usize);
            payload = rest;
            while !of_queue.is_empty() {
                let (batch, len) = Batch::read(of_queue);
                assert_eq!(batch.queue, outcome.queue);
                batches.push(batch);
                of_queue = &of_queue[len..];
            }
        }
        assert!(payload.is_empty());
        (answer, batches)
    }

    pub fn fetch(&mut self, wait_ms: u32, queues: &[(QueueKey, u64)]) -> (FetchAnswer, Vec<Batch>) {
        let correlation = self.send_fetch(1, wait_ms, queues, &[]);
        self.fetched(correlation)
    }

    /// Every body of a queue from `offset` to its end.
    pub fn bodies(&mut self, queue: QueueKey, mut offset: u64) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        loop {
            let (answer, batches) = self.fetch(0, &[(queue, offset)]);
            let Some(outcome) = answer.outcomes.first() else { return bodies };
            assert_eq!(outcome.code, Code::Ok);
            for batch in batches {
                assert_eq!(batch.base_offset, Offset(offset), "offsets are dense");
                offset += batch.bodies.len() as u64;
                bodies.extend(batch.bodies);
            }
            assert_eq!(outcome.next_offset, Offset(offset));
        }
    }
}

/// A batch as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pub queue: QueueKey,
    pub base_offset: Offset,
    pub bodies: Vec<Vec<u8>>,
}

impl Batch {
    /// Checks and reads the batch at the front.
    pub fn read(bytes: &[u8]) -> (Self, usize) {
        let view = BatchView::parse(bytes).expect("a whole batch with right checksums");
        let mut memory = Decompressor::default();
        let bodies =
            view.records(&mut memory).unwrap().map(|record| record.unwrap().body.unwrap().to_vec()).collect();
        let header = view.header();
        (Self { queue: header.queue_key, base_offset: header.base_offset, bodies }, view.bytes().len())
    }
}

/// A batch with these bodies, without a producer.
pub fn batch(bodies: &[&[u8]]) -> Bytes {
    batch_of(bodies, None, ProducerStamp { producer_id: NO_PRODUCER, producer_epoch: 0, base_sequence: 0 })
}

pub fn batch_of(bodies: &[&[u8]], tag: Option<&str>, producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None, 4 << 20);
    for body in bodies {
        builder.push(&RecordFields { body: Some(body), tag, ..RecordFields::default() }).unwrap();
    }
    builder.finish(producer).unwrap()
}

/// A body of `len` bytes that names `number`.
pub fn body(number: u64, len: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(len.max(8), (number % 251) as u8);
    body
}

/// Waits until `check` holds.
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !check() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks over HTTP; status and whole answer.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    // (`read_to_string` goes on after an interruption by itself.)
    stream.read_to_string(&mut text).unwrap();
    let status = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, text)
}
