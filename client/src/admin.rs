//! Topics, offsets and inspection.

use std::sync::Arc;

use equeue_net::api::{
    BrokerEntry, DescribeBrokerAnswer, DescribeTopicAnswer, OffsetAt, TopicRoute, TopicSnapshot,
};
use equeue_record::{MessageId, Offset};

use crate::client::ClientInner;
use crate::{ClientError, Received};

/// The admin calls of a client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Arc<ClientInner>,
}

/// What one broker said.
#[derive(Clone, Debug)]
pub struct BrokerResult<T> {
    /// Name of the broker.
    pub broker: Arc<str>,
    /// Its answer.
    pub result: Result<T, ClientError>,
}

/// An offset of one queue.
#[derive(Clone, Debug)]
pub struct QueueOffset {
    /// Ordinal of the queue.
    pub queue: u32,
    /// Name of its broker.
    pub broker: Arc<str>,
    /// The offset asked for.
    pub result: Result<Offset, ClientError>,
}

/// How far a group has come in one queue.
#[derive(Clone, Debug)]
pub struct GroupOffset {
    /// Ordinal of the queue.
    pub queue: u32,
    /// Name of its broker.
    pub broker: Arc<str>,
    /// The committed offset; `None`: nothing committed.
    pub result: Result<Option<Offset>, ClientError>,
}

impl Admin {
    pub(crate) fn new(client: Arc<ClientInner>) -> Self {
        Self { client }
    }

    /// Creates a topic with `queues` queues on every live broker (0: each broker's default), ordinals dealt out
    /// broker by broker; repeating it completes a half-created topic.
    pub async fn create_topic(
        &self,
        _topic: &str,
        _queues: u32,
    ) -> Result<Vec<BrokerResult<TopicSnapshot>>, ClientError> {
        todo!()
    }

    /// Deletes a topic from every live broker.
    pub async fn delete_topic(&self, _topic: &str) -> Result<Vec<BrokerResult<()>>, ClientError> {
        todo!()
    }

    /// One topic as every live broker has it.
    pub async fn describe_topic(
        &self,
        _topic: &str,
    ) -> Result<Vec<BrokerResult<DescribeTopicAnswer>>, ClientError> {
        todo!()
    }

    /// The topics of every live broker.
    pub async fn list_topics(&self) -> Result<Vec<BrokerResult<Vec<TopicSnapshot>>>, ClientError> {
        todo!()
    }

    /// The live brokers, as a nameserver knows them.
    pub async fn cluster(&self) -> Result<Vec<BrokerEntry>, ClientError> {
        todo!()
    }

    /// Where topics live, as a nameserver knows it; no topics: all.
    pub async fn routes(&self, _topics: &[&str]) -> Result<Vec<TopicRoute>, ClientError> {
        todo!()
    }

    /// What a broker is.
    pub async fn describe_broker(&self, _broker: &str) -> Result<DescribeBrokerAnswer, ClientError> {
        todo!()
    }

    /// The message of this id; `None`: not there (any more), or of another cluster.
    pub async fn get_message(&self, _id: &MessageId) -> Result<Option<Received>, ClientError> {
        todo!()
    }

    /// The message at this place; `None`: not there (any more, or yet).
    pub async fn message_at(
        &self,
        _topic: &str,
        _queue: u32,
        _offset: Offset,
    ) -> Result<Option<Received>, ClientError> {
        todo!()
    }

    /// First, last, or by time, of every queue of a topic.
    pub async fn list_offsets(&self, _topic: &str, _at: OffsetAt) -> Result<Vec<QueueOffset>, ClientError> {
        todo!()
    }

    /// How far a group has come in every queue of a topic.
    pub async fn fetch_offsets(&self, _group: &str, _topic: &str) -> Result<Vec<GroupOffset>, ClientError> {
        todo!()
    }
}
