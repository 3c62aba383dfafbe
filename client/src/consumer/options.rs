//! Settings of a consumer.

use std::time::Duration;

use equeue_net::limits::{NAME_BYTES_MAX, TAG_HASHES_MAX};

use crate::ClientError;

/// Where a queue begins when its group has no committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that is still there.
    #[default]
    First,
    /// After the last record that is there now.
    Last,
    /// At the first record stored at or after this time, ms UTC.
    Time(i64),
}

/// One topic of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Name of the topic.
    pub topic: String,
    /// Only messages with one of these tags; empty: all.
    pub tags: Vec<String>,
}

impl Subscription {
    /// Everything of a topic.
    pub fn all(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), tags: Vec::new() }
    }
}

/// Settings of a [`Consumer`](crate::Consumer).
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Name of the consumer group.
    pub group: String,
    /// What to receive.
    pub topics: Vec<Subscription>,
    /// Where a queue begins when the group has no committed offset there.
    pub start: StartAt,
    /// Name of this member, for people.
    pub instance: String,
    /// Largest answer asked for (1 MiB).
    pub fetch_bytes_max: usize,
    /// Bytes that may wait for the application (8 MiB).
    pub prefetch_bytes: usize,
    /// How long the broker may hold a fetch that finds nothing (30 s).
    pub wait_max: Duration,
    /// How often progress is committed in the background (1 s); `None`: only by [`Consumer::commit`](crate::Consumer::commit).
    pub commit_interval: Option<Duration>,
    /// Handlers of [`Consumer::run`](crate::Consumer::run) at work at the same time (1: in the order of each queue).
    pub parallel: usize,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            group: String::new(),
            topics: Vec::new(),
            start: StartAt::First,
            instance: String::new(),
            fetch_bytes_max: 1 << 20,
            prefetch_bytes: 8 << 20,
            wait_max: Duration::from_secs(30),
            commit_interval: Some(Duration::from_secs(1)),
            parallel: 1,
        }
    }
}

impl ConsumerOptions {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let wrong = |option, reason: &str| Err(ClientError::Option { option, reason: reason.to_owned() });
        if self.group.is_empty() || self.group.len() > NAME_BYTES_MAX {
            return wrong("group", "a group needs a name of at most 255 bytes");
        }
        if self.topics.is_empty() {
            return wrong("topics", "no topic is named");
        }
        let mut names: Vec<&str> = self.topics.iter().map(|topic| topic.topic.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() < self.topics.len() {
            return wrong("topics", "a topic is named twice");
        }
        if self.topics.iter().map(|topic| topic.tags.len()).sum::<usize>() > TAG_HASHES_MAX {
            return wrong("topics", "more than 8192 tags");
        }
        if self.fetch_bytes_max == 0 || self.prefetch_bytes == 0 {
            return wrong("fetch_bytes_max", "must not be 0, nor prefetch_bytes");
        }
        Ok(())
    }
}
