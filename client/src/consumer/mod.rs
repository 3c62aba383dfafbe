//! Receiving messages.

use std::sync::Arc;
use std::time::Duration;

use equeue_record::{Offset, Record, RecordError};

use crate::{ClientError, HandlerError, Received};

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

/// Settings of a [`Consumer`].
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
    /// How often progress is committed in the background (1 s); `None`: only by [`Consumer::commit`].
    pub commit_interval: Option<Duration>,
    /// Handlers of [`Consumer::run`] at work at the same time (1: in the order of each queue).
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

/// How far a consumer has come in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Ordinal of the queue.
    pub queue: u32,
    /// The next offset that will be pulled.
    pub next: Offset,
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

/// A member of a consumer group that receives messages.
#[derive(Debug)]
pub struct Consumer {}

/// One verified batch.
#[derive(Debug)]
pub struct ReceivedBatch {}

impl ReceivedBatch {
    /// Name of its topic.
    pub fn topic(&self) -> &Arc<str> {
        todo!()
    }

    /// Ordinal of its queue.
    pub fn queue(&self) -> u32 {
        todo!()
    }

    /// Its records in the order of offsets, from the first one wanted on; records that the tags leave out are missing.
    pub fn records(&mut self) -> Result<impl Iterator<Item = Result<Record<'_>, RecordError>>, RecordError> {
        Ok(std::iter::from_fn(|| todo!()))
    }
}

impl Consumer {
    pub(crate) async fn start(
        _client: Arc<crate::client::ClientInner>,
        _options: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        todo!()
    }

    /// Up to `max` messages; waits up to `timeout` for the first one, and returns none when it passes.
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    pub async fn pull(&mut self, _max: usize, _timeout: Duration) -> Result<Vec<Received>, ClientError> {
        todo!()
    }

    /// The next verified batch, without owned messages: the fast path. `None`: nothing within `timeout`.
    pub async fn pull_batch(&mut self, _timeout: Duration) -> Result<Option<ReceivedBatch>, ClientError> {
        todo!()
    }

    /// Hands every message to `handler` until `stop` resolves; commits the lowest offset not yet handled.
    pub async fn run<F>(self, _handler: F, _stop: impl Future<Output = ()>) -> Result<(), ClientError>
    where
        F: AsyncFn(Received) -> Result<(), HandlerError>,
    {
        todo!()
    }

    /// Commits everything pulled so far; durable when it returns.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        todo!()
    }

    /// Next offset of every queue.
    pub fn positions(&self) -> Vec<QueuePosition> {
        todo!()
    }

    /// Asks the brokers for the end of every queue.
    pub async fn ends(&self) -> Result<Vec<QueueEnd>, ClientError> {
        todo!()
    }

    /// Stops fetching and closes the connections; commits first when commits are periodic.
    pub async fn close(self) -> Result<(), ClientError> {
        todo!()
    }
}
