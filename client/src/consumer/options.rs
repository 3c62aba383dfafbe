//! Settings of a consumer.

use std::sync::Arc;
use std::time::Duration;

use equeue_net::limits::{NAME_BYTES_MAX, SUBSCRIPTION_TAGS_MAX, SUBSCRIPTIONS_MAX, TAG_HASHES_MAX};

use super::allocation::{AllocationStrategy, Average};
use super::events::AssignmentListener;
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
    /// Only messages with one of these tags; empty, or `*` among them: all.
    pub tags: Vec<String>,
}

/// What the members of a group do with the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They share them: each message is handled by one member.
    #[default]
    Shared,
    /// Each instance reads everything: the group's name becomes `group@instance`, and the instance needs a name.
    Broadcast,
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
    /// Begin where `start` says in every queue that is there when the consumer starts, also where the group has
    /// committed an offset. Commits still never go back: only a reset of the group does that.
    pub ignore_committed: bool,
    /// Whether members share the queues.
    pub mode: Mode,
    /// Name of this instance: needed for broadcasts, the same at every start.
    pub instance: String,
    /// Which member reads which queue; the same for all members of the group.
    pub strategy: Arc<dyn AllocationStrategy>,
    /// Where the group has other tags for a topic, make these the group's. Otherwise this consumer gets no queues of it.
    pub replace_subscription: bool,
    /// Hears of queues that come and go.
    pub on_assignment: Option<AssignmentListener>,
    /// Largest answer asked for (1 MiB).
    pub fetch_bytes_max: usize,
    /// Bytes that may wait for the application, or be at work with handlers, over all queues (8 MiB).
    pub prefetch_bytes: usize,
    /// Messages that may, over all queues (1,000,000).
    pub pending_messages_max: usize,
    /// Bytes that may, of each queue (4 MiB).
    pub queue_pending_bytes_max: usize,
    /// Messages that may, of each queue (10,000).
    pub queue_pending_messages_max: usize,
    /// How long the broker may hold a fetch that finds nothing (30 s).
    pub wait_max: Duration,
    /// How often progress is committed in the background (1 s); `None`: only by [`Consumer::commit`](crate::Consumer::commit).
    pub commit_interval: Option<Duration>,
    /// How long what was delivered of a queue may take when the queue falls to another member, and when the consumer
    /// stops (30 s). Then handlers are cancelled.
    pub drain_max: Duration,
    /// How long a handler that cannot be cancelled keeps its queue (5 min).
    pub processing_max: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            group: String::new(),
            topics: Vec::new(),
            start: StartAt::First,
            ignore_committed: false,
            mode: Mode::Shared,
            instance: String::new(),
            strategy: Arc::new(Average),
            replace_subscription: false,
            on_assignment: None,
            fetch_bytes_max: 1 << 20,
            prefetch_bytes: 8 << 20,
            pending_messages_max: 1_000_000,
            queue_pending_bytes_max: 4 << 20,
            queue_pending_messages_max: 10_000,
            wait_max: Duration::from_secs(30),
            commit_interval: Some(Duration::from_secs(1)),
            drain_max: Duration::from_secs(30),
            processing_max: Duration::from_mins(5),
        }
    }
}

impl ConsumerOptions {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let wrong = |option, reason: &str| Err(ClientError::Option { option, reason: reason.to_owned() });
        if self.group.is_empty() || self.group_name().len() > NAME_BYTES_MAX {
            return wrong(
                "group",
                "a group needs a name of at most 255 bytes, the instance of a broadcast included",
            );
        }
        if self.mode == Mode::Broadcast && self.instance.is_empty() {
            return wrong("instance", "a broadcast needs a name for this instance, the same at every start");
        }
        if self.topics.len() >= SUBSCRIPTIONS_MAX {
            return wrong("topics", "more than 255 topics");
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
        if self.topics.iter().any(|topic| topic.tags.len() > SUBSCRIPTION_TAGS_MAX) {
            return wrong("topics", "more than 64 tags of one topic");
        }
        let limits = [
            ("fetch_bytes_max", self.fetch_bytes_max),
            ("prefetch_bytes", self.prefetch_bytes),
            ("pending_messages_max", self.pending_messages_max),
            ("queue_pending_bytes_max", self.queue_pending_bytes_max),
            ("queue_pending_messages_max", self.queue_pending_messages_max),
        ];
        for (option, limit) in limits {
            if limit == 0 {
                return wrong(option, "must not be 0");
            }
        }
        if self.processing_max < self.drain_max {
            return wrong("processing_max", "must not be shorter than drain_max");
        }
        Ok(())
    }

    /// Name of the group as the brokers know it.
    pub(crate) fn group_name(&self) -> String {
        match self.mode {
            Mode::Shared => self.group.clone(),
            Mode::Broadcast => format!("{}@{}", self.group, self.instance),
        }
    }
}
