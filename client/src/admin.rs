//! Topics, offsets and inspection.

mod delayed;
mod groups;
mod queues;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::{
    BrokerEntry, CreateTopic, DeleteTopic, DescribeBroker, DescribeBrokerAnswer, DescribeTopic,
    DescribeTopicAnswer, Fetch, FetchAnswer, FetchItem, FetchOffsets, GetCluster, GetRoutes, ListOffsets,
    ListTopics, OffsetAt, QueueEntry, Request, SetTopic, TopicRetention, TopicRoute, TopicSnapshot,
};
use equeue_record::{MessageId, Offset, RecordError, split_first};
use futures::future::join_all;

pub use delayed::Delayed;
pub use groups::{QueueReset, ResetTo};

use crate::client::ClientInner;
use crate::connection::Connection;
use crate::consumer::reading_alone;
use crate::consumer::received::ReceivedBatch;
use crate::consumer::track::{Home, Track};
use crate::routes::{QueuePlace, Topic};
use crate::{ClientError, Received};

/// Queues of a topic on each broker when nobody says how many.
const QUEUES_DEFAULT: u32 = 4;

/// How often, and after what pause, a cluster without brokers is asked again: 2 s in all.
const BROKER_ASKS_MAX: u32 = 20;
const BROKER_ASK_PAUSE: Duration = Duration::from_millis(100);

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

    /// Creates a topic with `queues` queues (0: 4) on every live broker, ordinals dealt out broker by broker; repeating
    /// it with the same number completes a half-created topic.
    ///
    /// # Errors
    /// When the cluster cannot be asked. What each broker said is in the results.
    pub async fn create_topic(
        &self,
        topic: &str,
        queues: u32,
    ) -> Result<Vec<BrokerResult<TopicSnapshot>>, ClientError> {
        let names = self.broker_names().await?;
        let queues = if queues == 0 { QUEUES_DEFAULT } else { queues };
        let map = (0..queues).flat_map(|_| names.iter().cloned()).collect();
        self.create_topic_with(topic, map).await
    }

    /// Names of the live brokers, sorted. A cluster that just started has none until the first one has registered: it
    /// is given some time.
    async fn broker_names(&self) -> Result<Vec<String>, ClientError> {
        for _ in 0..BROKER_ASKS_MAX {
            let mut names: Vec<String> =
                self.cluster().await?.into_iter().map(|broker| broker.name).collect();
            if !names.is_empty() {
                names.sort();
                return Ok(names);
            }
            tokio::time::sleep(BROKER_ASK_PAUSE).await;
        }
        Err(ClientError::BrokerAway { broker: "*".into() })
    }

    /// Creates a topic whose queues lie as `map` says (index = ordinal, value = name of the broker).
    ///
    /// # Errors
    /// When the cluster cannot be asked. What each broker said is in the results.
    pub async fn create_topic_with(
        &self,
        topic: &str,
        map: Vec<String>,
    ) -> Result<Vec<BrokerResult<TopicSnapshot>>, ClientError> {
        let request = CreateTopic { topic: topic.to_owned(), map, queues: 0, version: 1, auto: false };
        let results = self.on_every_broker(&request).await?;
        let created = results.into_iter().map(|BrokerResult { broker, result }| {
            let result = result.and_then(|answer| {
                answer.topic.ok_or_else(|| protocol_error(&broker, "a created topic without its queues"))
            });
            if let Ok(snapshot) = &result {
                self.client.routes.learn(&broker, snapshot);
            }
            BrokerResult { broker, result }
        });
        Ok(created.collect())
    }

    /// Sets how long the messages of a topic stay, on every live broker; `None` only asks.
    ///
    /// # Errors
    /// When the cluster cannot be asked. What each broker said is in the results.
    pub async fn set_topic_retention(
        &self,
        topic: &str,
        retention: Option<TopicRetention>,
    ) -> Result<Vec<BrokerResult<TopicRetention>>, ClientError> {
        let results = self.on_every_broker(&SetTopic { topic: topic.to_owned(), retention }).await?;
        Ok(results.into_iter().map(|result| result.map(|answer| answer.retention)).collect())
    }

    /// Deletes a topic from every live broker.
    pub async fn delete_topic(&self, topic: &str) -> Result<Vec<BrokerResult<()>>, ClientError> {
        let results = self.on_every_broker(&DeleteTopic { topic: topic.to_owned() }).await?;
        Ok(results.into_iter().map(|result| result.map(drop)).collect())
    }

    /// One topic as every live broker has it.
    pub async fn describe_topic(
        &self,
        topic: &str,
    ) -> Result<Vec<BrokerResult<DescribeTopicAnswer>>, ClientError> {
        self.on_every_broker(&DescribeTopic { topic: topic.to_owned() }).await
    }

    /// The topics of every live broker.
    pub async fn list_topics(&self) -> Result<Vec<BrokerResult<Vec<TopicSnapshot>>>, ClientError> {
        let results = self.on_every_broker(&ListTopics {}).await?;
        Ok(results.into_iter().map(|result| result.map(|answer| answer.topics)).collect())
    }

    /// The live brokers, as a nameserver knows them.
    pub async fn cluster(&self) -> Result<Vec<BrokerEntry>, ClientError> {
        let cluster = self.client.routes.cluster().to_owned();
        Ok(self.client.routes.call(&GetCluster { cluster }).await?.brokers)
    }

    /// Where topics live, as a nameserver knows it; no topics: all.
    pub async fn routes(&self, topics: &[&str]) -> Result<Vec<TopicRoute>, ClientError> {
        let cluster = self.client.routes.cluster().to_owned();
        let topics = topics.iter().map(|topic| String::from(*topic)).collect();
        Ok(self.client.routes.call(&GetRoutes { cluster, topics }).await?.topics)
    }

    /// What a broker is.
    pub async fn describe_broker(&self, broker: &str) -> Result<DescribeBrokerAnswer, ClientError> {
        let brokers = self.cluster().await?;
        let entry = brokers.into_iter().find(|entry| entry.name == broker);
        let entry = entry.ok_or_else(|| ClientError::BrokerAway { broker: broker.into() })?;
        self.client.admin_at(&entry.address, None).await?.call(&DescribeBroker {}).await
    }

    /// The message of this id; `None`: not there (any more), or of another cluster.
    pub async fn get_message(&self, id: &MessageId) -> Result<Option<Received>, ClientError> {
        let routes = self.routes(&[]).await?;
        for route in routes {
            let holder =
                route.queues.iter().find(|queue| queue.live.is_some_and(|live| live.key == id.queue));
            let Some(queue) = holder else { continue };
            let message = self.message_at(&route.name, queue.ordinal, id.offset).await?;
            return Ok(message.filter(|message| message.id() == *id));
        }
        Ok(None)
    }

    /// The message at this place; `None`: not there (any more, or yet).
    pub async fn message_at(
        &self,
        topic: &str,
        queue: u32,
        offset: Offset,
    ) -> Result<Option<Received>, ClientError> {
        let route = self.client.routes.resolve(topic).await?;
        let place = route.queues.get(queue as usize).ok_or_else(|| absent(&route.name, queue))?;
        let (connection, entry) = self.queue_connection(&route, place).await?;
        let item = FetchItem {
            queue: entry.key,
            offset,
            bytes_max: 1,
            grant_epoch: 0,
            tags_start: 0,
            tags_count: 0,
        };
        let request = Fetch {
            fetch_id: 0,
            wait_ms_max: 0,
            bytes_max: 1,
            items: vec![item],
            tag_hashes: Vec::new(),
            group: String::new(),
        };
        let frame = connection.request(&request, [], 0)?.frame();
        let patience = self.client.pool.request_timeout();
        let frame = tokio::time::timeout(patience, frame).await.map_err(|_| ClientError::TimedOut {
            request: "Fetch",
            server: Arc::clone(connection.server()),
            after: patience,
        })??;
        let answer: FetchAnswer = connection.decode(&frame)?;
        check(&place.broker, "Fetch", answer.status.code, &answer.status.detail)?;
        let Some(outcome) = answer.outcomes.first() else { return Ok(None) };
        match outcome.code {
            Code::Ok => {}
            Code::OffsetOutOfRange => return Ok(None),
            code => return Err(refused(&place.broker, "Fetch", code, "")),
        }
        let snapshot = self.client.routes.load();
        let cluster = snapshot.cluster_of(&place.broker).unwrap_or_default();
        let home = Home { broker: Arc::clone(&place.broker), shard: entry.shard, key: entry.key };
        let track = reading_alone(topic, queue, home, offset, MessageId::cluster_check(cluster));
        message_in(track, frame.payload, offset).map_err(|source| ClientError::Damaged {
            topic: Arc::clone(&route.name),
            queue,
            offset,
            source,
        })
    }

    /// First, last, or by time, of every queue of a topic.
    pub async fn list_offsets(&self, topic: &str, at: OffsetAt) -> Result<Vec<QueueOffset>, ClientError> {
        let route = self.client.routes.resolve(topic).await?;
        let asking = route.queues.iter().map(async |place| {
            let offset = async {
                let (connection, entry) = self.queue_connection(&route, place).await?;
                let answer = connection.call(&ListOffsets { items: vec![(entry.key, at)] }).await?;
                let outcome = answer.outcomes.first();
                let outcome = outcome.ok_or_else(|| protocol_error(&place.broker, "no offset"))?;
                check(&place.broker, "ListOffsets", outcome.code, "")?;
                Ok(outcome.offset)
            };
            QueueOffset { queue: place.ordinal, broker: Arc::clone(&place.broker), result: offset.await }
        });
        Ok(join_all(asking).await)
    }

    /// How far a group has come in every queue of a topic.
    pub async fn fetch_offsets(&self, group: &str, topic: &str) -> Result<Vec<GroupOffset>, ClientError> {
        let route = self.client.routes.resolve(topic).await?;
        let asking = route.queues.iter().map(async |place| {
            let offset = async {
                let (connection, entry) = self.queue_connection(&route, place).await?;
                let request = FetchOffsets { group: group.to_owned(), queues: vec![entry.key] };
                let answer = connection.call(&request).await?;
                let outcome = answer.outcomes.first();
                let outcome = outcome.ok_or_else(|| protocol_error(&place.broker, "no offset"))?;
                check(&place.broker, "FetchOffsets", outcome.code, "")?;
                Ok(outcome.committed)
            };
            GroupOffset { queue: place.ordinal, broker: Arc::clone(&place.broker), result: offset.await }
        });
        Ok(join_all(asking).await)
    }

    /// Sends the same request to every live broker.
    async fn on_every_broker<R: Request>(
        &self,
        request: &R,
    ) -> Result<Vec<BrokerResult<R::Answer>>, ClientError> {
        let brokers = self.cluster().await?;
        Ok(join_all(brokers.iter().map(|broker| self.on_broker(broker, request))).await)
    }

    /// Sends a request to one broker.
    async fn on_broker<R: Request>(&self, broker: &BrokerEntry, request: &R) -> BrokerResult<R::Answer> {
        let result = match self.client.admin_at(&broker.address, None).await {
            Ok(connection) => connection.call(request).await,
            Err(error) => Err(error),
        };
        BrokerResult { broker: broker.name.as_str().into(), result }
    }

    /// A connection to the shard of a queue.
    async fn queue_connection(
        &self,
        route: &Topic,
        place: &QueuePlace,
    ) -> Result<(Arc<Connection>, QueueEntry), ClientError> {
        let entry = place.entry.ok_or_else(|| absent(&route.name, place.ordinal))?;
        let address = self.client.routes.load().address(&place.broker).cloned();
        let address = address.ok_or_else(|| ClientError::BrokerAway { broker: Arc::clone(&place.broker) })?;
        Ok((self.client.admin_at(&address, Some(entry.shard)).await?, entry))
    }
}

impl<T> BrokerResult<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> BrokerResult<U> {
        BrokerResult { broker: self.broker, result: self.result.map(change) }
    }
}

/// The message at `offset` of the batches fetched.
fn message_in(
    track: Arc<Track>,
    mut batches: Bytes,
    offset: Offset,
) -> Result<Option<Received>, RecordError> {
    while !batches.is_empty() {
        let (header, length) = split_first(&batches)?;
        let batch = batches.split_to(length);
        if header.next_offset() > offset {
            let messages = ReceivedBatch::check(track, batch, offset)?.messages()?;
            return Ok(messages.into_iter().next().filter(|message| message.offset == offset));
        }
    }
    Ok(None)
}

fn check(broker: &Arc<str>, request: &'static str, code: Code, detail: &str) -> Result<(), ClientError> {
    if code == Code::Ok { Ok(()) } else { Err(refused(broker, request, code, detail)) }
}

fn refused(broker: &Arc<str>, request: &'static str, code: Code, detail: &str) -> ClientError {
    let (server, detail) = (Arc::clone(broker), detail.into());
    ClientError::Refused { server, request, code, retry_after_ms: 0, detail }
}

fn protocol_error(broker: &Arc<str>, reason: &str) -> ClientError {
    ClientError::Protocol { server: Arc::clone(broker), reason: reason.into() }
}

fn absent(topic: &Arc<str>, queue: u32) -> ClientError {
    let reason = "the topic has no such queue, or its broker was never heard of";
    ClientError::QueueNotFound { topic: Arc::clone(topic), queue, reason }
}
