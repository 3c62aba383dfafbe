//! Receiving messages.
//!
//! The [`assigner`] keeps the list of queues in step with the routes; a [`fetcher`] per (broker, shard) fetches and
//! verifies batches into one channel, bounded by bytes; the application takes them from there as messages, as batches
//! or by a handler ([`run`]); the [`committer`] makes durable what is handled.

pub(crate) mod allocation;
mod assigner;
mod assignment;
mod committer;
mod fetcher;
mod options;
mod progress;
pub(crate) mod received;
mod run;
mod shared;
pub(crate) mod track;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use assigner::Assigner;
use equeue_net::Code;
use equeue_net::api::{ListOffsets, ListOffsetsOutcome, OffsetAt};
use equeue_record::Offset;
use futures::future::join_all;
pub use options::{ConsumerOptions, StartAt, Subscription};
pub use received::ReceivedBatch;
use shared::{Fetched, Shared, by_shard};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use track::Track;

use crate::client::ClientInner;
use crate::{ClientError, Received};

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

/// A consumer of a group: reads all queues of its topics.
///
/// A consumer group is meant to have one consumer at a time for now: members do not share queues yet.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    fetched: mpsc::UnboundedReceiver<Fetched>,
    /// Messages of `batch` that were not delivered yet.
    messages: VecDeque<Received>,
    /// The batch that `messages` came from.
    batch: Option<ReceivedBatch>,
    /// Delivered by the last call: handled once the next one is made.
    delivered: Vec<Arc<Track>>,
    /// Came behind messages that were pulled: for the next call.
    trouble: Option<ClientError>,
    /// Handlers say what is handled, not the calls.
    by_handler: bool,
    tasks: Vec<AbortHandle>,
}

impl Consumer {
    pub(crate) async fn start(
        client: Arc<ClientInner>,
        options: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        for topic in &options.topics {
            client.routes.resolve(&topic.topic).await?;
        }
        let (sender, fetched) = mpsc::unbounded_channel();
        let commit_interval = options.commit_interval;
        let shared = Arc::new(Shared::new(client, options, sender));
        let mut assigner = Assigner::new(Arc::clone(&shared));
        // What is there now shall be read from where it is now. Brokers that are away follow when they are back.
        let _ = timeout(shared.pool.request_timeout(), assigner.step()).await;
        let mut tasks = vec![tokio::spawn(assigner.run()).abort_handle()];
        if let Some(every) = commit_interval {
            tasks.push(tokio::spawn(committer::run(Arc::clone(&shared), every)).abort_handle());
        }
        Ok(Self {
            shared,
            fetched,
            messages: VecDeque::new(),
            batch: None,
            delivered: Vec::new(),
            trouble: None,
            by_handler: false,
            tasks,
        })
    }

    /// Up to `max` messages; waits up to `timeout` for the first one, and returns none when it passes.
    ///
    /// With periodic commits, the messages of a call count as handled when the next call is made.
    /// Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// Trouble that the application should know of; the consumer goes on and may be pulled again.
    pub async fn pull(&mut self, max: usize, timeout: Duration) -> Result<Vec<Received>, ClientError> {
        self.handle_delivered();
        let mut pulled = Vec::new();
        let mut next = if max == 0 { None } else { self.next_message(timeout).await? };
        while let Some((track, message)) = next {
            self.note_delivered(&track);
            pulled.push(message);
            if pulled.len() >= max {
                break;
            }
            // Trouble that comes behind messages must not take them away: it stays for the next call.
            next = match self.take_fetched() {
                Ok(_) => self.take_message(),
                Err(error) => {
                    self.trouble = Some(error);
                    None
                }
            };
        }
        Ok(pulled)
    }

    /// The next verified batch, without owned messages: the fast path. `None`: nothing within `timeout`.
    ///
    /// Counts as handled, is cancelled and fails like [`Consumer::pull`].
    pub async fn pull_batch(&mut self, timeout: Duration) -> Result<Option<ReceivedBatch>, ClientError> {
        self.handle_delivered();
        let deadline = Instant::now() + timeout;
        self.trouble.take().map_or(Ok(()), Err)?;
        while self.batch.is_none() {
            match timeout_at(deadline, self.fetched.recv()).await {
                Ok(Some(fetched)) => self.take_in(fetched)?,
                Ok(None) => return Err(ClientError::Closed),
                Err(_) => return Ok(None),
            }
        }
        let Some(mut batch) = self.batch.take() else { return Ok(None) };
        if let Some(next) = self.messages.front() {
            batch.set_wanted(next.offset);
        }
        self.messages.clear();
        let track = Arc::clone(&batch.track);
        track.set_delivered(batch.next_offset());
        self.note_delivered(&track);
        Ok(Some(batch))
    }

    /// Commits everything pulled so far; durable when it returns.
    ///
    /// # Errors
    /// When not every queue could be committed in time; calling again goes on with the rest.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.handle_delivered();
        committer::commit(&self.shared, self.shared.pool.request_timeout()).await
    }

    /// Next offset of every queue.
    pub fn positions(&self) -> Vec<QueuePosition> {
        let position = |track: &Arc<Track>| QueuePosition {
            topic: Arc::clone(&track.topic.name),
            queue: track.ordinal,
            next: track.delivered(),
        };
        self.shared.tracks().iter().map(position).collect()
    }

    /// Messages that were gone (by retention) before this consumer could fetch them.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Asks the brokers for the end of every queue.
    pub async fn ends(&self) -> Result<Vec<QueueEnd>, ClientError> {
        let shards = by_shard(self.shared.tracks(), |track| track.home());
        let ends = shards.into_iter().map(|(place, tracks)| ends(&self.shared, place, tracks));
        let ends: Result<Vec<Vec<QueueEnd>>, ClientError> = join_all(ends).await.into_iter().collect();
        let mut ends: Vec<QueueEnd> = ends?.into_iter().flatten().collect();
        ends.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        Ok(ends)
    }

    /// Stops fetching and closes the connections; commits first when commits are periodic.
    ///
    /// # Errors
    /// When that commit fails.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.handle_delivered();
        if self.shared.options.commit_interval.is_none() {
            return Ok(());
        }
        committer::commit(&self.shared, self.shared.pool.request_timeout()).await
    }

    /// The next message, already counted as delivered. Cancel safe.
    pub(super) async fn next_message(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<(Arc<Track>, Received)>, ClientError> {
        let deadline = Instant::now() + timeout;
        self.trouble.take().map_or(Ok(()), Err)?;
        loop {
            if let Some(next) = self.take_message() {
                return Ok(Some(next));
            }
            if self.take_fetched()? {
                continue;
            }
            match timeout_at(deadline, self.fetched.recv()).await {
                Ok(Some(fetched)) => self.take_in(fetched)?,
                Ok(None) => return Err(ClientError::Closed),
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next message of the batch that was unpacked.
    fn take_message(&mut self) -> Option<(Arc<Track>, Received)> {
        let batch = self.batch.as_ref()?;
        let Some(message) = self.messages.pop_front() else {
            // Not unpacked yet, or through.
            return None;
        };
        let track = Arc::clone(&batch.track);
        let next = if self.messages.is_empty() { batch.next_offset() } else { message.offset.plus(1) };
        track.set_delivered(next);
        if self.messages.is_empty() {
            self.batch = None;
        }
        Some((track, message))
    }

    /// Takes in what is there without waiting; whether there may be messages now.
    fn take_fetched(&mut self) -> Result<bool, ClientError> {
        loop {
            if self.batch.is_some() && (!self.messages.is_empty() || self.unpack()?) {
                return Ok(true);
            }
            match self.fetched.try_recv() {
                Ok(fetched) => self.take_in(fetched)?,
                Err(_) => return Ok(false),
            }
        }
    }

    /// Takes in one thing that was fetched. A batch is not unpacked yet.
    fn take_in(&mut self, fetched: Fetched) -> Result<(), ClientError> {
        match fetched {
            Fetched::Batch(batch) => {
                self.shared.taken(batch.len_bytes());
                self.batch = Some(batch);
            }
            Fetched::Skipped(track, next) => {
                track.set_delivered(next);
                self.pass(&track, next);
            }
            Fetched::Rewound(track, next) => track.rewind(next),
            Fetched::Trouble(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes messages of the batch; one without any wanted is passed over. Whether there are any.
    fn unpack(&mut self) -> Result<bool, ClientError> {
        let Some(batch) = &mut self.batch else { return Ok(false) };
        let unpacked = batch.messages();
        let (track, next) = (Arc::clone(&batch.track), batch.next_offset());
        match unpacked {
            Ok(messages) => self.messages = messages.into(),
            Err(source) => {
                let (topic, offset) = (Arc::clone(&track.topic.name), batch.first_offset());
                self.batch = None;
                return Err(ClientError::Damaged { topic, queue: track.ordinal, offset, source });
            }
        }
        if self.messages.is_empty() {
            self.batch = None;
            track.set_delivered(next);
            self.pass(&track, next);
        }
        Ok(!self.messages.is_empty())
    }

    /// There is nothing to handle before `next` but what was delivered before.
    fn pass(&mut self, track: &Arc<Track>, next: Offset) {
        if self.by_handler {
            track.with_progress(|progress| progress.skip_to(next));
        } else {
            self.note_delivered(track);
        }
    }

    fn note_delivered(&mut self, track: &Arc<Track>) {
        if !self.by_handler && !self.delivered.iter().any(|known| Arc::ptr_eq(known, track)) {
            self.delivered.push(Arc::clone(track));
        }
    }

    /// The application came back: it is done with what it was given.
    fn handle_delivered(&mut self) {
        for track in self.delivered.drain(..) {
            track.handle_delivered();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.pool.end_all("the consumer was closed");
    }
}

/// The ends of the queues of one shard.
async fn ends(
    shared: &Shared,
    (broker, shard_number): (Arc<str>, u16),
    tracks: Vec<Arc<Track>>,
) -> Result<Vec<QueueEnd>, ClientError> {
    let connection = shared.connect(&broker, shard_number).await?;
    let items = tracks.iter().map(|track| (track.home().key, OffsetAt::Last)).collect();
    let answer = connection.call(&ListOffsets { items }).await?;
    let end = |(track, outcome): (&Arc<Track>, ListOffsetsOutcome)| match outcome.code {
        Code::Ok => Ok(QueueEnd {
            topic: Arc::clone(&track.topic.name),
            queue: track.ordinal,
            high_watermark: outcome.offset,
        }),
        code => Err(ClientError::Refused {
            server: Arc::clone(&broker),
            request: "ListOffsets",
            code,
            retry_after_ms: 0,
            detail: format!("queue {} of topic {}", track.ordinal, track.topic.name).into(),
        }),
    };
    tracks.iter().zip(answer.outcomes).map(end).collect()
}
