//! What brokers tell nameservers, and nameservers tell everybody.

use equeue_record::QueueKey;

use super::{Request, Status};

/// Part of a broker in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BrokerRole {
    /// Takes writes.
    Master = 0,
    /// Pulls from the master.
    Slave = 1,
}

/// A broker as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerEntry {
    /// Name of its cluster.
    pub cluster: String,
    /// Its own name, unique in the cluster.
    pub name: String,
    /// Number of its group (one master and its slaves).
    pub group: u32,
    /// Its part in the group.
    pub role: BrokerRole,
    /// Generation of the group's master.
    pub master_epoch: u32,
    /// `host:port` for clients.
    pub address: String,
    /// `host:port` of metrics and health; empty: none.
    pub http_address: String,
    /// Number of shards.
    pub shards: u16,
    /// Random for each start.
    pub incarnation: u128,
    /// When its data directory was created, ms UTC: decides the coordinator.
    pub created_ms: i64,
}

/// One queue that a broker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Its number in the topic.
    pub ordinal: u32,
    /// Its key on its broker.
    pub key: QueueKey,
    /// Shard that serves it.
    pub shard: u16,
    /// Sending is allowed.
    pub writable: bool,
    /// Consuming is allowed.
    pub readable: bool,
}

/// A topic as one broker's catalog has it: the map of the whole topic, and the broker's own queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSnapshot {
    /// Name of the topic.
    pub name: String,
    /// Version of the map; each change raises it.
    pub version: u64,
    /// Which broker has which ordinal; index = ordinal.
    pub map: Vec<String>,
    /// The queues of this broker.
    pub queues: Vec<QueueEntry>,
}

/// A broker's full snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterBroker {
    /// The broker.
    pub broker: BrokerEntry,
    /// Its topics.
    pub topics: Vec<TopicSnapshot>,
}

/// A broker stops in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnregisterBroker {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// The start that ends.
    pub incarnation: u128,
}

/// Answer that carries only a status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterBrokerAnswer {
    /// What became of it.
    pub status: Status,
}

/// Answer to [`UnregisterBroker`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnregisterBrokerAnswer {
    /// What became of it.
    pub status: Status,
}

/// Asks where the queues of topics live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetRoutes {
    /// Name of the cluster; empty: the only one (several: INVALID names them).
    pub cluster: String,
    /// The topics; empty: all.
    pub topics: Vec<String>,
}

/// Where one queue lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRoute {
    /// Its number in the topic.
    pub ordinal: u32,
    /// Name of its broker.
    pub broker: String,
    /// The rest, when its broker is alive.
    pub live: Option<QueueEntry>,
}

/// Where one topic lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRoute {
    /// Name of the topic.
    pub name: String,
    /// OK, or `TOPIC_NOT_FOUND`.
    pub code: crate::Code,
    /// Version of the map used: the newest that a live broker told.
    pub version: u64,
    /// Every queue of the map, in the order of ordinals.
    pub queues: Vec<QueueRoute>,
}

/// Answer to [`GetRoutes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetRoutesAnswer {
    /// What became of it.
    pub status: Status,
    /// Every live broker of the cluster.
    pub brokers: Vec<BrokerEntry>,
    /// The topics, in the order asked for.
    pub topics: Vec<TopicRoute>,
    /// The nameserver started so lately that a broker which is missing may only not have registered yet.
    pub settling: bool,
}

/// Asks for the live brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetCluster {
    /// Name of the cluster; empty: all.
    pub cluster: String,
}

/// Answer to [`GetCluster`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetClusterAnswer {
    /// What became of it.
    pub status: Status,
    /// The live brokers, by cluster and name.
    pub brokers: Vec<BrokerEntry>,
}

impl Request for RegisterBroker {
    type Answer = RegisterBrokerAnswer;
}
impl Request for UnregisterBroker {
    type Answer = UnregisterBrokerAnswer;
}
impl Request for GetRoutes {
    type Answer = GetRoutesAnswer;
}
impl Request for GetCluster {
    type Answer = GetClusterAnswer;
}
