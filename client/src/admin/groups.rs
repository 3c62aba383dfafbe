//! Consumer groups, as operators see and change them. Each broker answers for its own queues; here they are put together.

use std::collections::HashMap;
use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{
    DeleteGroup, DescribeGroup, DescribeGroupAnswer, GroupSummary, ListGroups, ListOffsets, OffsetAt,
    ResetOffsets, ResetOutcome,
};
use equeue_record::{Offset, QueueKey};
use futures::future::join_all;

use super::{Admin, BrokerResult, absent, check, protocol_error, refused};
use crate::ClientError;
use crate::consumer::coordinating;

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// At the first record that is still there.
    First,
    /// After the last record.
    Last,
    /// At this offset.
    Offset(Offset),
    /// At the first record stored at or after this time, ms UTC.
    Time(i64),
}

/// What a reset does, or would do, to a queue.
#[derive(Clone, Debug)]
pub struct QueueReset {
    /// Ordinal of the queue.
    pub queue: u32,
    /// Name of its broker.
    pub broker: Arc<str>,
    /// Where the group was, where it goes on, and what the queue holds.
    pub result: Result<ResetOutcome, ClientError>,
}

impl Admin {
    /// The groups that every live broker knows, online or not.
    pub async fn list_groups(&self) -> Result<Vec<BrokerResult<Vec<GroupSummary>>>, ClientError> {
        let results = self.on_every_broker(&ListGroups {}).await?;
        Ok(results.into_iter().map(|result| result.map(|answer| answer.groups)).collect())
    }

    /// A group as every live broker knows it; brokers that do not are left out.
    pub async fn describe_group(
        &self,
        group: &str,
    ) -> Result<Vec<BrokerResult<DescribeGroupAnswer>>, ClientError> {
        let results = self.on_every_broker(&DescribeGroup { group: group.to_owned() }).await?;
        Ok(results.into_iter().filter(|result| !is_unknown(&result.result)).collect())
    }

    /// Forgets a group on every live broker; brokers that do not know it are left out. Refused while it has members: the
    /// coordinator is asked first, since only it knows them all, and unless it agrees nobody else is asked.
    pub async fn delete_group(&self, group: &str) -> Result<Vec<BrokerResult<()>>, ClientError> {
        let request = DeleteGroup { group: group.to_owned() };
        let brokers = self.cluster().await?;
        let Some(coordinator) = coordinating(&brokers) else {
            return Err(ClientError::BrokerAway { broker: "*".into() });
        };
        let mut results = vec![self.on_broker(coordinator, &request).await];
        if results.iter().all(|first| first.result.is_ok() || is_unknown(&first.result)) {
            let others = brokers.iter().filter(|broker| broker.name != coordinator.name);
            results.extend(join_all(others.map(|broker| self.on_broker(broker, &request))).await);
        }
        let known = results.into_iter().filter(|result| !is_unknown(&result.result));
        Ok(known.map(|result| result.map(drop)).collect())
    }

    /// Sets the offsets of a group in these queues of a topic (none named: all), or tells what that would do. Running
    /// consumers go on there at once.
    ///
    /// # Errors
    /// When the route cannot be found. What became of each queue is in the results.
    pub async fn reset_offsets(
        &self,
        group: &str,
        topic: &str,
        queues: &[u32],
        to: ResetTo,
        dry_run: bool,
    ) -> Result<Vec<QueueReset>, ClientError> {
        let route = self.client.routes.resolve(topic).await?;
        if let Some(missing) = queues.iter().find(|queue| route.queues.len() <= **queue as usize) {
            return Err(absent(&route.name, *missing));
        }
        let chosen = route.queues.iter().filter(|place| queues.is_empty() || queues.contains(&place.ordinal));
        let resetting = chosen.map(async |place| {
            let result = async {
                let (connection, entry) = self.queue_connection(&route, place).await?;
                let at = match to {
                    ResetTo::First => Ok(OffsetAt::First),
                    ResetTo::Last => Ok(OffsetAt::Last),
                    ResetTo::Time(ms) => Ok(OffsetAt::Time(ms)),
                    ResetTo::Offset(offset) => Err(offset),
                };
                let offset = match at {
                    Err(offset) => offset,
                    Ok(at) => {
                        let answer = connection.call(&ListOffsets { items: vec![(entry.key, at)] }).await?;
                        let outcome = answer.outcomes.first();
                        let outcome = outcome.ok_or_else(|| protocol_error(&place.broker, "no offset"))?;
                        check(&place.broker, "ListOffsets", outcome.code, "")?;
                        outcome.offset
                    }
                };
                let request =
                    ResetOffsets { group: group.to_owned(), dry_run, items: vec![(entry.key, offset)] };
                let answer = connection.call(&request).await?;
                let outcome = answer.outcomes.first().copied();
                let outcome =
                    outcome.ok_or_else(|| protocol_error(&place.broker, "no outcome of a reset"))?;
                match outcome.code {
                    Code::Ok => Ok(outcome),
                    code => {
                        let holds = format!(
                            "the queue holds offsets {} to before {}",
                            outcome.start_offset, outcome.high_watermark
                        );
                        let detail = if code == Code::OffsetOutOfRange { holds.as_str() } else { "" };
                        Err(refused(&place.broker, "ResetOffsets", code, detail))
                    }
                }
            };
            QueueReset { queue: place.ordinal, broker: Arc::clone(&place.broker), result: result.await }
        });
        Ok(join_all(resetting).await)
    }

    /// Topic and ordinal of every queue that the nameservers know, by its key.
    pub async fn queue_names(&self) -> Result<HashMap<QueueKey, (String, u32)>, ClientError> {
        let routes = self.routes(&[]).await?;
        let names = routes.into_iter().flat_map(|route| {
            let name = route.name;
            route
                .queues
                .into_iter()
                .filter_map(move |queue| queue.live.map(|live| (live.key, (name.clone(), queue.ordinal))))
        });
        Ok(names.collect())
    }
}

fn is_unknown<T>(result: &Result<T, ClientError>) -> bool {
    matches!(result, Err(ClientError::Refused { code: Code::GroupNotFound, .. }))
}
