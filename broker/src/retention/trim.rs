//! Ages of topics: queues of a topic with an age of its own begin later as their messages grow too old.
//!
//! Only where queues begin is moved, durably; the bytes go with their segments.

use std::collections::HashMap;
use std::sync::Arc;

use equeue_net::api::TopicRetention;
use equeue_record::{Offset, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::retention::RetentionAdvisor as _;

use super::advice::Advice;
use crate::catalog::Topic;
use crate::shard::state::{LogHost, Shard};

/// A topic is looked at so many times within its age, at the most.
const LOOKS_PER_AGE: u64 = 20;
/// Longest time between two looks, ms.
const PAUSE_MS_MAX: u64 = 600_000;

/// When each topic was looked at last, ms since the shard began.
pub(super) type Looked = HashMap<Arc<str>, u64>;

/// Moves the starts of the queues of one log whose messages are too old for their topic.
pub(super) async fn trim_topics(shard: &Shard, place: usize, advice: &Advice, looked: &mut Looked) {
    let Some(host) = shard.logs.get(place) else { return };
    if host.log.stats().clock_jumped {
        return;
    }
    let (catalog, now_ms) = (shard.catalog(), shard.now_ms());
    looked.retain(|name, _| catalog.topic(name).is_some());
    for topic in catalog.topics() {
        let TopicRetention::Ms(age_ms @ 1..) = catalog.settings(&topic.name).retention else { continue };
        let pause_ms = (age_ms / LOOKS_PER_AGE).min(PAUSE_MS_MAX);
        if looked.get(&topic.name).is_some_and(|at| now_ms.saturating_sub(*at) < pause_ms) {
            continue;
        }
        looked.insert(Arc::clone(&topic.name), now_ms);
        trim_topic(shard, host, topic, age_ms, advice).await;
    }
}

async fn trim_topic(shard: &Shard, host: &LogHost, topic: &Topic, age_ms: u64, advice: &Advice) {
    let before_ms = shard.io.wall_ms().saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX));
    let mut starts = Vec::new();
    for home in topic.queues.iter().filter(|home| home.log == host.id) {
        if let Some(start) = new_start(shard, host, home.key, before_ms, advice).await {
            starts.push((home.key, start));
        }
    }
    if starts.is_empty() {
        return;
    }
    match host.log.trim(&starts) {
        Ok(_) => tracing::info!(topic = %topic.name, queues = starts.len(), "old messages are gone"),
        Err(error) => tracing::warn!(topic = %topic.name, %error, "old messages stay; it is tried again"),
    }
}

/// Where a queue is to begin; `None`: where it does.
async fn new_start(
    shard: &Shard,
    host: &LogHost,
    queue: QueueKey,
    before_ms: i64,
    advice: &Advice,
) -> Option<Offset> {
    let bounds = host.log.bounds(queue).filter(|bounds| bounds.start < bounds.durable_end)?;
    let mut start = match host.log.offset_at_time(queue, before_ms).await {
        Ok(start) => start,
        Err(error) => {
            tracing::warn!(%queue, %error, "where a queue's old messages end cannot be read");
            return None;
        }
    };
    if !shard.broker.config.retention.delete_unconsumed
        && let Some(first) = advice.first_unconsumed(queue)
    {
        start = start.min(first);
    }
    (start > bounds.start).then_some(start)
}
