//! A nameserver and a broker in this process, which can be stopped and started again on the same ports and data.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::indexing_slicing, reason = "a broker that a test did not start is a mistake of the test")]

use std::net::SocketAddr;
use std::time::Duration;

use equeue_broker::config::ByteSize;
use equeue_broker::{BrokerConfig, BrokerHandle};
use equeue_client::{Client, ClientBuilder, Consumer, ConsumerOptions, Received, StartAt, Subscription};
use equeue_nameserver::{NameserverConfig, NameserverHandle};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// One nameserver, one broker or several.
pub struct Cluster {
    nameserver_address: SocketAddr,
    nameserver: Option<NameserverHandle>,
    brokers: Vec<Place>,
    shards: u16,
    adjust: fn(&mut BrokerConfig),
}

/// A broker's data and address, and the broker while it runs.
struct Place {
    data: TempDir,
    address: SocketAddr,
    broker: Option<BrokerHandle>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Cluster {
    /// Both started, with one shard.
    pub fn start() -> Self {
        Self::start_with_shards(1)
    }

    /// Both started.
    pub fn start_with_shards(shards: u16) -> Self {
        Self::start_as(shards, |_| {})
    }

    /// Both started, with one shard and other settings of the broker.
    pub fn start_with(adjust: fn(&mut BrokerConfig)) -> Self {
        Self::start_as(1, adjust)
    }

    fn start_as(shards: u16, adjust: fn(&mut BrokerConfig)) -> Self {
        let level = tracing::Level::INFO;
        let _ = tracing_subscriber::fmt().with_test_writer().with_max_level(level).try_init();
        let mut cluster =
            Self { nameserver_address: any_port(), nameserver: None, brokers: Vec::new(), shards, adjust };
        cluster.start_nameserver();
        cluster.add_broker();
        cluster
    }

    /// Another broker, `broker-b` and so on.
    pub fn add_broker(&mut self) {
        let data = tempfile::tempdir().expect("a directory for the broker");
        self.brokers.push(Place { data, address: any_port(), broker: None });
        self.start_broker_at(self.brokers.len() - 1);
    }

    pub fn start_nameserver(&mut self) {
        let config = NameserverConfig {
            listen: self.nameserver_address.to_string(),
            broker_timeout_ms: 2_000,
            settle_ms: 0,
            ..NameserverConfig::default()
        };
        let handle = equeue_nameserver::start(config).expect("the nameserver starts");
        self.nameserver_address = handle.address();
        self.nameserver = Some(handle);
    }

    pub async fn stop_nameserver(&mut self) {
        if let Some(handle) = self.nameserver.take() {
            handle.stop();
            // Apart from the runtime, whose clients go on meanwhile.
            let stopping = tokio::task::spawn_blocking(|| handle.join());
            stopping.await.expect("no panic").expect("the nameserver stops in order");
        }
    }

    pub fn start_broker(&mut self) {
        self.start_broker_at(0);
    }

    pub fn start_broker_at(&mut self, index: usize) {
        let place = &mut self.brokers[index];
        let letter = char::from(b'a' + u8::try_from(index).expect("few brokers"));
        let mut config = BrokerConfig {
            name: format!("broker-{letter}"),
            data_dir: place.data.path().join("data"),
            listen: place.address.to_string(),
            http_listen: String::new(),
            nameservers: vec![self.nameserver_address.to_string()],
            auto_create_topics: true,
            shards: self.shards,
            ..BrokerConfig::default()
        };
        config.memory.limit = ByteSize::mib(64 * u64::from(self.shards));
        config.storage.segment_bytes_first = ByteSize::mib(4);
        config.storage.segment_bytes_max = ByteSize::mib(16);
        config.timers.register_ms = 200;
        (self.adjust)(&mut config);
        let handle = equeue_broker::start(config).expect("the broker starts");
        place.address = handle.address();
        place.broker = Some(handle);
    }

    /// For the next start of the broker.
    pub fn set_shards(&mut self, shards: u16) {
        self.shards = shards;
    }

    pub async fn stop_broker(&mut self) {
        self.stop_broker_at(0).await;
    }

    pub async fn stop_broker_at(&mut self, index: usize) {
        if let Some(handle) = self.brokers[index].broker.take() {
            handle.stop();
            let stopping = tokio::task::spawn_blocking(|| handle.join());
            stopping.await.expect("no panic").expect("the broker stops in order");
        }
    }

    pub async fn client(&self) -> Client {
        self.builder().connect().await.expect("options are right")
    }

    /// A client that is not connected yet.
    pub fn builder(&self) -> ClientBuilder {
        // The second one does not exist: it must not matter.
        let nameservers = [self.nameserver_address.to_string(), "127.0.0.1:1".to_owned()];
        let builder = Client::builder().nameservers(nameservers);
        builder.client_id("test").request_timeout(Duration::from_secs(5))
    }
}

/// A client whose nameserver knows the brokers: the first registration may take a moment.
pub async fn ready(cluster: &Cluster) -> Client {
    let client = cluster.client().await;
    let all = cluster.brokers.len();
    tokio::time::timeout(PATIENCE, async {
        while client.admin().cluster().await.map_or(true, |brokers| brokers.len() < all) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the broker registers");
    client
}

/// Creates a topic.
pub async fn create(client: &Client, topic: &str, queues: u32) {
    for result in client.admin().create_topic(topic, queues).await.expect("the cluster answers") {
        result.result.expect("the topic is created");
    }
}

/// A consumer of everything in a topic.
pub async fn consume(client: &Client, topic: &str, group: &str) -> Consumer {
    let options = ConsumerOptions {
        group: group.to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        commit_interval: None,
        ..ConsumerOptions::default()
    };
    tokio::time::timeout(PATIENCE, client.consumer(options))
        .await
        .expect("in time")
        .expect("the consumer starts")
}

/// Pulls until `count` messages are there.
pub async fn pull(consumer: &mut Consumer, count: usize) -> Vec<Received> {
    let mut messages = Vec::new();
    tokio::time::timeout(PATIENCE, async {
        while messages.len() < count {
            let left = count - messages.len();
            messages.extend(consumer.pull(left, Duration::from_secs(1)).await.expect("pulling goes on"));
        }
    })
    .await
    .unwrap_or_else(|_| panic!("only {} of {count} messages came", messages.len()));
    messages
}

/// That nothing more comes.
pub async fn nothing_more(consumer: &mut Consumer) {
    let more = consumer.pull(10, Duration::from_millis(300)).await.expect("pulling goes on");
    assert!(more.is_empty(), "more messages than were sent: {more:?}");
}

/// Waits for a condition.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What a group has committed in each queue of a topic.
pub async fn committed_by_queue(client: &Client, group: &str, topic: &str) -> Vec<u64> {
    let offsets = client.admin().fetch_offsets(group, topic).await.expect("the route is known");
    offsets
        .into_iter()
        .map(|at| at.result.expect("the broker answers").map_or(0, |offset| offset.0))
        .collect()
}

/// The body as text.
pub fn text(message: &Received) -> String {
    String::from_utf8(message.body.as_deref().unwrap_or_default().to_vec()).expect("text was sent")
}
