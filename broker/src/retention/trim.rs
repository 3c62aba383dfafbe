//! Ages of topics: queues of a topic with an age of its own begin later as their messages grow too old.
//!
//! Only where queues begin is moved, durably; the bytes go with their segments.

use std::collections::HashMap;
use std::sync::Arc;

use equeue_net::api::TopicRetention;
use equeue_record::{Offset, QueueKey};
use equeue_storage::log::ReadError;
use equeue_storage::retention::RetentionAdvisor as _;

use super::advice::Advice;
use super::backlog::unconsumed;
use crate::catalog::Topic;
use crate::shard::state::{LogHost, Shard};

/// A topic is looked at so many times within its age, at the most.
const LOOKS_PER_AGE: u64 = 20;
/// Longest time between two looks, ms.
const PAUSE_MS_MAX: u64 = 600_000;

/// Messages that have reached this share of their topic's age will go soon.
const NEAR_PERCENT: i64 = 90;

/// What is remembered from look to look.
#[derive(Default)]
pub(super) struct Looked {
    /// When each topic was looked at last, ms since the shard began.
    topics: HashMap<Arc<str>, u64>,
    /// Where the part of each queue ends whose backlog was warned of, where that lies behind its start.
    near: HashMap<QueueKey, Offset>,
}

/// How far the messages of a queue are too old, and how far they will be soon.
struct Aged {
    queue: QueueKey,
    gone: Offset,
    near: Offset,
}

/// Moves the starts of the queues of one log whose messages are too old for their topic.
pub(super) async fn trim_topics(shard: &Shard, place: usize, advice: &Advice, looked: &mut Looked) {
    let Some(host) = shard.logs.get(place) else { return };
    let (catalog, now_ms) = (shard.catalog(), shard.now_ms());
    looked.topics.retain(|name, _| catalog.topic(name).is_some());
    looked.near.retain(|queue, to| host.log.bounds(*queue).is_some_and(|bounds| bounds.start < *to));
    for topic in catalog.topics() {
        let TopicRetention::Ms(age_ms @ 1..) = catalog.settings(&topic.name).retention else { continue };
        let pause_ms = (age_ms / LOOKS_PER_AGE).min(PAUSE_MS_MAX);
        if looked.topics.get(&topic.name).is_some_and(|at| now_ms.saturating_sub(*at) < pause_ms) {
            continue;
        }
        // The log compares its clocks now: what jumped or may not be set yet lets nothing go.
        let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
        let Some(wall_ms) = host.log.now_for_age(age_ms) else { continue };
        looked.topics.insert(Arc::clone(&topic.name), now_ms);
        let mut aged = Vec::new();
        for home in topic.queues.iter().filter(|home| home.log == host.id) {
            aged.extend(look(host, home.key, wall_ms, age_ms, advice).await);
        }
        trim_topic(shard, host, topic, &aged, advice);
        warn_ahead(shard, host, topic, &aged, (advice, looked));
    }
}

/// How far the messages of a queue are too old; `None`: there are none, or that cannot be told.
async fn look(host: &LogHost, queue: QueueKey, wall_ms: i64, age_ms: i64, advice: &Advice) -> Option<Aged> {
    let bounds = host.log.bounds(queue).filter(|bounds| bounds.start < bounds.durable_end)?;
    let found = async {
        let gone = host.log.offset_at_time(queue, wall_ms.saturating_sub(age_ms)).await?;
        // Who has consumed all of it, or never any, need not be warned.
        if advice.first_unconsumed(queue).is_none_or(|first| first >= bounds.durable_end) {
            return Ok(Aged { queue, gone, near: gone });
        }
        let near_ms = age_ms / 100 * NEAR_PERCENT + age_ms % 100 * NEAR_PERCENT / 100;
        let near = host.log.offset_at_time(queue, wall_ms.saturating_sub(near_ms)).await?;
        Ok::<_, ReadError>(Aged { queue, gone, near })
    };
    match found.await {
        Ok(aged) => Some(aged),
        Err(error) => {
            tracing::warn!(%queue, %error, "where a queue's old messages end cannot be read");
            None
        }
    }
}

/// Lets queues begin behind what is too old. Asks what is consumed anew: a group may have come, or gone back, meanwhile.
fn trim_topic(shard: &Shard, host: &LogHost, topic: &Topic, aged: &[Aged], advice: &Advice) {
    let (mut starts, mut lost) = (Vec::new(), 0);
    for one in aged {
        let Some(bounds) = host.log.bounds(one.queue) else { continue };
        let first = advice.first_unconsumed(one.queue);
        let forbids = !shard.broker.config.retention.delete_unconsumed;
        let start = first.filter(|_| forbids).map_or(one.gone, |first| first.min(one.gone));
        if start > bounds.start {
            starts.push((one.queue, start));
            lost += unconsumed(bounds.start, start, first);
        }
    }
    if starts.is_empty() {
        return;
    }
    match host.log.trim(&starts) {
        Ok(_) => tracing::info!(topic = %topic.name, queues = starts.len(), "old messages are gone"),
        Err(error) => {
            tracing::warn!(topic = %topic.name, %error, "old messages stay; it is tried again");
            return;
        }
    }
    if host.backlog.add_deleted(lost, shard.now_ms()) {
        tracing::warn!(log = %host.id, topic = %topic.name, messages = lost,
            "messages are deleted that a group has not consumed: they are older than their topic allows");
    }
}

/// Warns of what groups have still to consume and will be too old soon, each message once. What stays until it is consumed
/// is no reason.
fn warn_ahead(
    shard: &Shard,
    host: &LogHost,
    topic: &Topic,
    aged: &[Aged],
    (advice, looked): (&Advice, &mut Looked),
) {
    if !shard.broker.config.retention.delete_unconsumed {
        return;
    }
    let mut near = 0;
    for one in aged {
        let told = looked.near.get(&one.queue).copied().unwrap_or_default();
        near += unconsumed(one.gone.max(told), one.near, advice.first_unconsumed(one.queue));
        if one.near > one.gone.max(told) {
            looked.near.insert(one.queue, one.near);
        }
    }
    if host.backlog.add_near(near, shard.now_ms()) {
        tracing::warn!(log = %host.id, topic = %topic.name, messages = near,
            "messages that a group has not consumed are near the age at which their topic lets them go");
    }
}
