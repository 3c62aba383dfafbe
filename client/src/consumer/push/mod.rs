//! The push consumer: messages go to a handler, in parallel or queue by queue in order.
//!
//! Workers ([`work`]) cut pieces off the batches that the feed gives out and run the handler on each message; a handler
//! decides by its result or through its [`Context`]; what it could not handle goes back to the broker ([`retry`]).

mod context;
mod retry;
mod work;

use std::sync::Arc;
use std::time::Duration;

use equeue_record::Offset;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

pub use context::{Ack, Context};

use super::membership::{ConsumerStats, Membership};
use super::{ConsumerOptions, QueueEnd, QueuePosition};
use crate::client::ClientInner;
use crate::{ClientError, HandlerError, Received};

/// How long workers may take to notice that they were cancelled.
const CANCEL_MAX: Duration = Duration::from_secs(1);

/// In which order messages are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As many at a time as there are workers, whatever their queue.
    #[default]
    Parallel,
    /// One at a time of each queue, strictly in the order of offsets; queues in parallel.
    Sequential,
}

/// What becomes of a message whose handler fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It goes back to the broker and comes again after a while, from the group's retry queue; its queue goes on.
    HandBack,
    /// It is handled again after a while, and its queue waits for it. After the last attempt it becomes a dead letter.
    HoldQueue,
}

/// Settings of a [`PushConsumer`].
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Handlers at work at the same time (as many as there are cores).
    pub parallel: usize,
    /// In which order.
    pub order: Order,
    /// What becomes of a message whose handler fails; by default it is handed back in parallel order, and holds its
    /// queue in sequential order.
    pub on_error: Option<OnError>,
    /// Pauses before the second attempt, the third, ...; the last one goes for all further ones.
    pub retry_steps: Vec<Duration>,
    /// Attempts before a message becomes a dead letter (16).
    pub attempts_max: u32,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            parallel: std::thread::available_parallelism().map_or(1, usize::from),
            order: Order::Parallel,
            on_error: None,
            retry_steps: [1, 5, 10, 30, 60, 120, 300, 600].map(Duration::from_secs).to_vec(),
            attempts_max: 16,
        }
    }
}

impl PushOptions {
    /// One at a time of each queue, in order.
    pub fn sequential() -> Self {
        Self { order: Order::Sequential, ..Self::default() }
    }

    fn on_error(&self) -> OnError {
        self.on_error.unwrap_or(match self.order {
            Order::Parallel => OnError::HandBack,
            Order::Sequential => OnError::HoldQueue,
        })
    }

    /// The pause after this many attempts.
    fn pause_after(&self, attempts: u32) -> Duration {
        let step = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let pause = self.retry_steps.get(step).or(self.retry_steps.last());
        pause.copied().unwrap_or(Duration::from_secs(1))
    }

    fn check(&self) -> Result<(), ClientError> {
        let wrong = |option, reason: &str| Err(ClientError::Option { option, reason: reason.to_owned() });
        if self.parallel == 0 {
            return wrong("parallel", "must not be 0");
        }
        if self.attempts_max == 0 {
            return wrong("attempts_max", "must not be 0");
        }
        Ok(())
    }
}

/// A member of a group whose messages go to a handler. Every message is handled at least once.
#[derive(Debug)]
pub struct PushConsumer {
    membership: Membership,
    workers: JoinSet<()>,
}

impl PushConsumer {
    pub(crate) async fn start<H, F>(
        client: Arc<ClientInner>,
        mut options: ConsumerOptions,
        push: PushOptions,
        handler: H,
    ) -> Result<Self, ClientError>
    where
        H: Fn(Received, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        push.check()?;
        // Handlers never call back to commit.
        options.commit_interval.get_or_insert(Duration::from_secs(1));
        let membership = Membership::join(client, options, true).await?;
        let shared = &membership.shared;
        let mut workers = JoinSet::new();
        let (back, wishes) = retry::channel();
        workers.spawn(retry::run(Arc::clone(shared), wishes, push.clone()));
        let work = Arc::new(work::Work::new(Arc::clone(shared), push, back, handler));
        for _ in 0..work.workers() {
            workers.spawn(Arc::clone(&work).run());
        }
        Ok(Self { membership, workers })
    }

    /// Next offset and lag of every queue that this member owns.
    pub fn positions(&self) -> Vec<QueuePosition> {
        self.membership.positions()
    }

    /// Figures since it started.
    pub fn stats(&self) -> ConsumerStats {
        self.membership.stats()
    }

    /// Asks the brokers for the end of every queue that this member owns.
    pub async fn ends(&self) -> Result<Vec<QueueEnd>, ClientError> {
        self.membership.ends().await
    }

    /// Gives nothing more of a queue to the handler until [`PushConsumer::resume`].
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn pause(&self, topic: &str, queue: u32) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.set_paused(true);
        Ok(())
    }

    /// Gives a queue to the handler again.
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn resume(&self, topic: &str, queue: u32) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.set_paused(false);
        Ok(())
    }

    /// Goes on at another offset of a queue; handlers at work with it are cancelled. Commits never go back.
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn seek(&self, topic: &str, queue: u32, offset: Offset) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.turn_to(offset);
        Ok(())
    }

    /// Starts no more handlers, waits for those at work, commits, gives the queues back and leaves the group. Handlers that
    /// await are cancelled after `drain_max`; one that computes on, or an [`Ack`](crate::Ack) that is kept, is waited for
    /// up to `processing_max`.
    ///
    /// # Errors
    /// When the last commit fails.
    pub async fn stop(self) -> Result<(), ClientError> {
        let Self { membership, mut workers } = self;
        let shared = Arc::clone(&membership.shared);
        shared.feed.close();
        // Workers end with the piece in hand; those whose queue drains for too long are cancelled by the keeper.
        let outcome = membership.leave().await;
        if timeout(CANCEL_MAX, async { while workers.join_next().await.is_some() {} }).await.is_err() {
            warn!(group = %shared.group, "handlers do not end; what they do will not count");
        }
        shared.pool.end_all("the consumer was closed");
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_steps() {
        let options = PushOptions {
            retry_steps: vec![Duration::from_secs(1), Duration::from_secs(7)],
            ..PushOptions::default()
        };
        let pauses: Vec<u64> = (1..5).map(|attempts| options.pause_after(attempts).as_secs()).collect();
        assert_eq!(pauses, [1, 7, 7, 7]);
        let none = PushOptions { retry_steps: Vec::new(), ..options };
        assert_eq!(none.pause_after(3), Duration::from_secs(1));
    }

    #[test]
    fn failed_messages_hold_their_queue_where_order_counts() {
        assert_eq!(PushOptions::default().on_error(), OnError::HandBack);
        assert_eq!(PushOptions::sequential().on_error(), OnError::HoldQueue);
        let chosen = PushOptions { on_error: Some(OnError::HandBack), ..PushOptions::sequential() };
        assert_eq!(chosen.on_error(), OnError::HandBack);
    }
}
