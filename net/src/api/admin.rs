//! Topics and inspection, answered by brokers.

use equeue_record::Offset;

use super::{BrokerEntry, QueueEntry, Request, Status, TopicSnapshot};

/// Creates a topic on this broker, or completes a half-created one: repeating it with the same map is OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// Name of the topic.
    pub topic: String,
    /// Which broker has which ordinal; index = ordinal. Empty: `queues` queues, all on this broker.
    pub map: Vec<String>,
    /// Number of queues when `map` is empty; 0: the broker's default.
    pub queues: u32,
    /// Version of the map that this change makes; the first is 1. Compared with what is there, and set.
    pub version: u64,
    /// Asked for by a first send, not by a person: refused where `auto_create_topics` is off.
    pub auto: bool,
}

/// Answer to [`CreateTopic`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTopicAnswer {
    /// OK, `TOPIC_EXISTS`, `VERSION_CONFLICT`, `TOPIC_NOT_FOUND` (auto-creation is off), ...
    pub status: Status,
    /// The topic as it is now.
    pub topic: Option<TopicSnapshot>,
}

/// Deletes a topic from this broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteTopic {
    /// Name of the topic.
    pub topic: String,
}

/// Answer to [`DeleteTopic`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteTopicAnswer {
    /// What became of it.
    pub status: Status,
}

/// Asks for the topics of this broker's catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListTopics {}

/// Answer to [`ListTopics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListTopicsAnswer {
    /// What became of it.
    pub status: Status,
    /// By name.
    pub topics: Vec<TopicSnapshot>,
}

/// Asks for one topic with the state of its queues on this broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeTopic {
    /// Name of the topic.
    pub topic: String,
}

/// State of a queue on its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Which queue.
    pub queue: QueueEntry,
    /// First offset that is still there.
    pub start_offset: Offset,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
}

/// Answer to [`DescribeTopic`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeTopicAnswer {
    /// What became of it.
    pub status: Status,
    /// Version of the map here.
    pub version: u64,
    /// The map here; index = ordinal.
    pub map: Vec<String>,
    /// The queues of this broker.
    pub queues: Vec<QueueState>,
}

/// Asks what this broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeBroker {}

/// State of one log of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Its number.
    pub log: u16,
    /// Shard that serves it.
    pub shard: u16,
    /// First position that is still there.
    pub start_position: u64,
    /// End of what is durable.
    pub durable_position: u64,
    /// `ok`, `disk full`, or why it failed.
    pub state: String,
}

/// Answer to [`DescribeBroker`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeBrokerAnswer {
    /// What became of it.
    pub status: Status,
    /// The broker.
    pub broker: Option<BrokerEntry>,
    /// Its logs.
    pub logs: Vec<LogState>,
    /// CPU time of the broker's process so far, in microseconds (user + system).
    pub cpu_us: u64,
    /// Resident memory of the broker's process, bytes.
    pub resident_bytes: u64,
    /// Version of the software.
    pub version: String,
}

impl Request for CreateTopic {
    type Answer = CreateTopicAnswer;
}
impl Request for DeleteTopic {
    type Answer = DeleteTopicAnswer;
}
impl Request for ListTopics {
    type Answer = ListTopicsAnswer;
}
impl Request for DescribeTopic {
    type Answer = DescribeTopicAnswer;
}
impl Request for DescribeBroker {
    type Answer = DescribeBrokerAnswer;
}
