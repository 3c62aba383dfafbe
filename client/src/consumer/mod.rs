//! Receiving messages as a member of a group.
//!
//! [`group`] keeps the membership and owns queues; a [`fetcher`] per (broker, shard) fetches and verifies batches into
//! the queue's [`track`], and the [`feed`] gives them out, bounded by messages and bytes. The application pulls them
//! from there ([`pull`]) or has them pushed to handlers ([`push`]); the [`committer`] makes durable what is handled.

pub(crate) mod allocation;
mod blocking;
mod committer;
mod cursor;
mod events;
mod feed;
mod fetcher;
mod filter;
mod group;
mod membership;
mod options;
mod progress;
mod pull;
mod push;
pub(crate) mod received;
mod shared;
mod stream;
pub(crate) mod track;

use std::sync::Arc;

use equeue_record::Offset;

pub use blocking::BlockingConsumer;
pub use events::{AssignmentEvent, AssignmentListener};
pub(crate) use group::view::coordinating;
pub use membership::ConsumerStats;
pub use options::{ConsumerOptions, Mode, StartAt, Subscription};
pub use pull::Consumer;
pub use push::{Ack, Context, OnError, Order, PushConsumer, PushOptions};
pub use received::ReceivedBatch;
pub use stream::MessageStream;

/// How far a consumer has come in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Ordinal of the queue.
    pub queue: u32,
    /// The next offset that will be delivered.
    pub next: Offset,
    /// What the group has committed, as far as this member knows.
    pub committed: Option<Offset>,
    /// The end of the queue, as its broker told with the last messages.
    pub high_watermark: Offset,
    /// It was paused.
    pub paused: bool,
}

impl QueuePosition {
    /// Messages that were not delivered yet.
    pub fn lag(&self) -> u64 {
        self.high_watermark.0.saturating_sub(self.next.0)
    }
}

/// Where a queue ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEnd {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Ordinal of the queue.
    pub queue: u32,
    /// The offset that the next readable record will get.
    pub high_watermark: Offset,
}

/// An admin call reads a message as a member would, without being one.
pub(crate) fn reading_alone(
    topic: &str,
    queue: u32,
    home: track::Home,
    offset: Offset,
    cluster_check: u16,
) -> Arc<track::Track> {
    let no_limit = feed::Load { messages: usize::MAX, bytes: usize::MAX };
    let feed = Arc::new(feed::Feed::new(no_limit, no_limit));
    let topic = Arc::new(filter::TopicFilter::new(topic, Vec::new()));
    let start =
        track::Start { offset, committed: None, grant_epoch: 0, tries: equeue_net::api::Tries::default() };
    let given = (feed, track::HandledBy::Calls);
    Arc::new(track::Track::new(topic, queue, home, start, cluster_check, given))
}
