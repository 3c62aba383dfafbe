//! Queues added, opened, closed and removed; clients and figures of brokers.

use equeue_net::api::{
    BrokerStats, BrokerStatsAnswer, ClientEntry, CreateTopic, ListClients, RemoveQueues, SetQueueAccess,
    TopicSnapshot,
};

use super::{Admin, BrokerResult};
use crate::ClientError;

impl Admin {
    /// Adds so many queues to a topic on each of its brokers.
    ///
    /// # Errors
    /// When the cluster cannot be asked, or no broker has the topic. What each broker said is in the results.
    pub async fn add_queues(
        &self,
        topic: &str,
        queues: u32,
    ) -> Result<Vec<BrokerResult<Option<TopicSnapshot>>>, ClientError> {
        let (version, mut map) = self.map_of(topic).await?;
        let mut brokers = map.clone();
        brokers.sort();
        brokers.dedup();
        map.extend((0..queues).flat_map(|_| brokers.iter().cloned()));
        let request =
            CreateTopic { topic: topic.to_owned(), map, queues: 0, version: version + 1, auto: false };
        let results = self.on_every_broker(&request).await?;
        Ok(results.into_iter().map(|result| self.learned(result, |answer| answer.topic)).collect())
    }

    /// Removes the last `queues` queues of a topic. Refused when messages would be lost that a group has not consumed,
    /// or while sending or consuming is allowed, unless `force`.
    ///
    /// # Errors
    /// When the cluster cannot be asked, or the topic has not so many queues. What each broker said is in the results.
    pub async fn remove_queues(
        &self,
        topic: &str,
        queues: u32,
        force: bool,
    ) -> Result<Vec<BrokerResult<Option<TopicSnapshot>>>, ClientError> {
        let (version, mut map) = self.map_of(topic).await?;
        let Some(left) = map.len().checked_sub(queues as usize).filter(|left| *left > 0) else {
            let reason = format!("topic {topic} has {} queues, one at least has to stay", map.len());
            return Err(ClientError::Option { option: "queues", reason });
        };
        map.truncate(left);
        let request = RemoveQueues { topic: topic.to_owned(), map, version: version + 1, force };
        let results = self.on_every_broker(&request).await?;
        Ok(results.into_iter().map(|result| self.learned(result, |answer| answer.topic)).collect())
    }

    /// Allows or forbids sending to and consuming from queues of a topic (none named: all); `None`: as it is.
    ///
    /// # Errors
    /// When the cluster cannot be asked. What each broker said is in the results.
    pub async fn set_queue_access(
        &self,
        topic: &str,
        ordinals: &[u32],
        send: Option<bool>,
        consume: Option<bool>,
    ) -> Result<Vec<BrokerResult<Option<TopicSnapshot>>>, ClientError> {
        let request = SetQueueAccess { topic: topic.to_owned(), ordinals: ordinals.to_vec(), send, consume };
        let results = self.on_every_broker(&request).await?;
        Ok(results.into_iter().map(|result| self.learned(result, |answer| answer.topic)).collect())
    }

    /// Producers and consumers connected to every live broker.
    pub async fn list_clients(&self) -> Result<Vec<BrokerResult<Vec<ClientEntry>>>, ClientError> {
        let results = self.on_every_broker(&ListClients {}).await?;
        Ok(results.into_iter().map(|result| result.map(|answer| answer.clients)).collect())
    }

    /// The counters of every live broker.
    pub async fn broker_stats(&self) -> Result<Vec<BrokerResult<BrokerStatsAnswer>>, ClientError> {
        self.on_every_broker(&BrokerStats {}).await
    }

    /// The newest map of a topic that a broker knows.
    async fn map_of(&self, topic: &str) -> Result<(u64, Vec<String>), ClientError> {
        let answers = self.describe_topic(topic).await?;
        let known = answers.into_iter().filter_map(|answer| answer.result.ok());
        let newest = known.max_by_key(|answer| answer.version).filter(|answer| !answer.map.is_empty());
        let newest = newest.ok_or_else(|| ClientError::TopicNotFound { topic: topic.into(), attempts: 1 })?;
        Ok((newest.version, newest.map))
    }

    fn learned<A>(
        &self,
        result: BrokerResult<A>,
        topic: impl FnOnce(A) -> Option<TopicSnapshot>,
    ) -> BrokerResult<Option<TopicSnapshot>> {
        let result = result.map(topic);
        if let Ok(Some(snapshot)) = &result.result {
            self.client.routes.learn(&result.broker, snapshot);
        }
        result
    }
}
