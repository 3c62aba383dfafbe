//! Queues opened, closed and removed; clients and counters of a broker; delayed messages taken back.

use equeue_record::{Offset, QueueKey};

use super::{Request, Status, TopicSnapshot};

/// Allows or forbids sending to and consuming from queues of this broker; repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetQueueAccess {
    /// The topic.
    pub topic: String,
    /// Which of its queues; those of other brokers are passed over. Empty: all.
    pub ordinals: Vec<u32>,
    /// Sending; `None`: as it is.
    pub send: Option<bool>,
    /// Consuming; `None`: as it is.
    pub consume: Option<bool>,
}

/// Answer to [`SetQueueAccess`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetQueueAccessAnswer {
    /// What became of it.
    pub status: Status,
    /// The topic as it is now.
    pub topic: Option<TopicSnapshot>,
}

/// Removes the queues past the end of the new map; asked of every broker of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveQueues {
    /// The topic.
    pub topic: String,
    /// The new map: the present one without its last entries.
    pub map: Vec<String>,
    /// Version of the new map: the present one's and 1. Repeating it with the same map is OK.
    pub version: u64,
    /// Even when messages are lost that a group has not consumed, and while sending or consuming is allowed.
    pub force: bool,
}

/// Answer to [`RemoveQueues`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoveQueuesAnswer {
    /// OK, `NOT_DRAINED`, `VERSION_CONFLICT`, ...
    pub status: Status,
    /// The topic as it is now.
    pub topic: Option<TopicSnapshot>,
}

/// Asks who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListClients {}

/// One connection of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// Name of the client.
    pub client_id: String,
    /// Its start.
    pub incarnation: u128,
    /// `host:port` that it connects from.
    pub address: String,
    /// Shard that serves the connection.
    pub shard: u16,
    /// Time since its last heartbeat, ms.
    pub seen_ms_ago: u64,
    /// Topics that it sends to.
    pub producing: Vec<String>,
    /// Group that it consumes for; empty: none.
    pub group: String,
    /// Topics that it consumes.
    pub consuming: Vec<String>,
}

/// Answer to [`ListClients`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListClientsAnswer {
    /// What became of it.
    pub status: Status,
    /// Connections that said what they do, by shard.
    pub clients: Vec<ClientEntry>,
}

/// Asks for the counters of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerStats {}

/// A figure of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name, as in the metrics.
    pub name: String,
    /// Its value, over all shards.
    pub value: u64,
}

/// Answer to [`BrokerStats`]. Rates come from two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerStatsAnswer {
    /// What became of it.
    pub status: Status,
    /// Name of the broker.
    pub broker: String,
    /// Time since it started, ms.
    pub uptime_ms: u64,
    /// The counters.
    pub counters: Vec<Counter>,
}

/// Takes back a delayed message, named by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelDelayed {
    /// The queue in its id.
    pub queue: QueueKey,
    /// The offset in its id.
    pub offset: Offset,
    /// Change nothing, tell whether it is pending.
    pub dry_run: bool,
}

/// Answer to [`CancelDelayed`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CancelDelayedAnswer {
    /// What became of it.
    pub status: Status,
    /// It was waiting, and now never comes (unless nothing was to be changed). Otherwise it was delivered or cancelled
    /// before.
    pub was_pending: bool,
    /// When a pending one is due, ms UTC; 0: not known.
    pub due_ms: i64,
}

impl Request for SetQueueAccess {
    type Answer = SetQueueAccessAnswer;
}
impl Request for RemoveQueues {
    type Answer = RemoveQueuesAnswer;
}
impl Request for ListClients {
    type Answer = ListClientsAnswer;
}
impl Request for BrokerStats {
    type Answer = BrokerStatsAnswer;
}
impl Request for CancelDelayed {
    type Answer = CancelDelayedAnswer;
}
