//! Delayed messages and dead letters.

use equeue_net::Code;
use equeue_net::api::{CancelDelayed, CancelDelayedAnswer, CommitItem, CommitOffsets, Tries};
use equeue_net::hidden::{dead_letter_topic, retry_topic};
use equeue_record::{MessageId, Offset};

use super::{Admin, absent, check, protocol_error, refused};
use crate::ClientError;

/// Bits of a queue key below the number of its broker group.
const GROUP_SHIFT: u32 = 40;

/// What a broker says of a delayed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// It waits (waited, when it was cancelled). Otherwise it was delivered or cancelled before.
    pub pending: bool,
    /// When it is due, ms UTC; `None` when it is not pending.
    pub due_ms: Option<i64>,
}

impl Admin {
    /// Takes a delayed message back; tells whether it was still pending. `None`: no such message was ever stored here.
    pub async fn cancel_delayed(&self, id: &MessageId) -> Result<Option<Delayed>, ClientError> {
        self.ask_delayed(id, false).await
    }

    /// Whether a delayed message is pending, and when it is due. `None`: no such message was ever stored here.
    pub async fn delayed(&self, id: &MessageId) -> Result<Option<Delayed>, ClientError> {
        self.ask_delayed(id, true).await
    }

    async fn ask_delayed(&self, id: &MessageId, dry_run: bool) -> Result<Option<Delayed>, ClientError> {
        if !id.queue.is_delay_queue() {
            return Ok(None);
        }
        let brokers = self.cluster().await?;
        let group = id.queue.0 >> GROUP_SHIFT;
        let Some(broker) = brokers.into_iter().find(|broker| u64::from(broker.group) == group) else {
            return Ok(None);
        };
        if MessageId::cluster_check(&broker.cluster) != id.cluster_check {
            return Ok(None);
        }
        let connection = self.client.admin_at(&broker.address, None).await?;
        let request = CancelDelayed { queue: id.queue, offset: id.offset, dry_run };
        let answer = connection.call(&request).await;
        match answer {
            Ok(CancelDelayedAnswer { was_pending, due_ms, .. }) => {
                let due_ms = (was_pending && due_ms != 0).then_some(due_ms);
                Ok(Some(Delayed { pending: was_pending, due_ms }))
            }
            Err(ClientError::Refused { code: Code::OffsetOutOfRange | Code::QueueNotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Name of the topic with the dead letters of a group.
    pub fn dead_letter_topic(group: &str) -> String {
        dead_letter_topic(group)
    }

    /// Name of the topic with the messages that a group tries again.
    pub fn retry_topic(group: &str) -> String {
        retry_topic(group)
    }

    /// Stores how far a group has come in one queue; gives what is in force then. Refused while a member owns the queue.
    pub async fn commit_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        offset: Offset,
    ) -> Result<Option<Offset>, ClientError> {
        let route = self.client.routes.resolve(topic).await?;
        let place = route.queues.get(queue as usize).ok_or_else(|| absent(&route.name, queue))?;
        let (connection, entry) = self.queue_connection(&route, place).await?;
        let items = vec![CommitItem { queue: entry.key, offset, grant_epoch: 0, tries: Tries::default() }];
        let answer = connection.call(&CommitOffsets { group: group.to_owned(), items }).await?;
        let outcome = answer.outcomes.first();
        let outcome = outcome.ok_or_else(|| protocol_error(&place.broker, "no outcome of a commit"))?;
        check(&place.broker, "CommitOffsets", outcome.code, "")?;
        match outcome.code {
            Code::Ok => Ok(outcome.committed),
            code => Err(refused(&place.broker, "CommitOffsets", code, "")),
        }
    }
}
