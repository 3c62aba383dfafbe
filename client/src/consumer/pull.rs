//! The pull consumer: the application asks for messages, and by asking again says that it is done with the last ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use equeue_record::Offset;
use tokio::time::{Instant, timeout_at};

use super::feed::{Load, Taken};
use super::membership::{ConsumerStats, Membership, settle};
use super::stream::MessageStream;
use super::track::{Gives, Track};
use super::{ConsumerOptions, QueueEnd, QueuePosition, ReceivedBatch, committer};
use crate::client::ClientInner;
use crate::{ClientError, Received};

/// A member of a group that pulls: the queues of its topics are shared with the other members.
#[derive(Debug)]
pub struct Consumer {
    membership: Membership,
    /// The batch in hand, and the life of its queue in which it came.
    batch: Option<(Arc<Track>, ReceivedBatch, u32)>,
    /// Messages of `batch` that were not delivered yet, once it was unpacked.
    messages: Option<VecDeque<Received>>,
    /// Delivered by the last call: handled once the next one is made.
    delivered: Vec<Arc<Track>>,
    /// Came behind messages that were pulled: for the next call.
    trouble: Option<ClientError>,
}

impl Consumer {
    pub(crate) async fn start(
        client: Arc<ClientInner>,
        options: ConsumerOptions,
    ) -> Result<Self, ClientError> {
        let membership = Membership::join(client, options, false).await?;
        Ok(Self { membership, batch: None, messages: None, delivered: Vec::new(), trouble: None })
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
        let deadline = Instant::now() + timeout;
        let mut pulled = Vec::new();
        if max == 0 || !self.wait_for_messages(deadline).await? {
            return Ok(pulled);
        }
        loop {
            self.take_messages(max - pulled.len(), &mut pulled);
            if pulled.len() >= max {
                break;
            }
            // Trouble that comes behind messages must not take them away: it stays for the next call.
            match self.look_for_messages() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.trouble = Some(error);
                    break;
                }
            }
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
        loop {
            if let Some((track, mut batch, life)) = self.batch.take() {
                let next = self.messages.take().and_then(|messages| Some(messages.front()?.offset));
                if let Some(next) = next {
                    batch.set_wanted(next);
                }
                if track.gives(life) == Gives::Now && track.set_delivered(life, batch.next_offset()) {
                    self.note_delivered(&track);
                    return Ok(Some(batch));
                }
                track.put_back(life, batch, Load::default());
            }
            if !self.take_in()? && !self.wait(deadline).await? {
                return Ok(None);
            }
        }
    }

    /// Commits everything pulled so far; durable when it returns.
    ///
    /// # Errors
    /// When not every queue could be committed in time; calling again goes on with the rest.
    /// [`ClientError::GrantLost`]: another member has the queue now, and will handle its messages again.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.handle_delivered();
        let shared = &self.membership.shared;
        committer::commit(shared, shared.pool.request_timeout()).await
    }

    /// Next offset and lag of every queue that this member owns.
    pub fn positions(&self) -> Vec<QueuePosition> {
        self.membership.positions()
    }

    /// Messages that were gone (by retention) before this consumer could fetch them.
    pub fn lost(&self) -> u64 {
        self.stats().missed
    }

    /// Figures since it started.
    pub fn stats(&self) -> ConsumerStats {
        self.membership.stats()
    }

    /// Asks the brokers for the end of every queue that this member owns.
    pub async fn ends(&self) -> Result<Vec<QueueEnd>, ClientError> {
        self.membership.ends().await
    }

    /// Delivers nothing more of a queue until [`Consumer::resume`]; what was fetched of it waits.
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn pause(&self, topic: &str, queue: u32) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.set_paused(true);
        Ok(())
    }

    /// Delivers a queue again.
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn resume(&self, topic: &str, queue: u32) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.set_paused(false);
        Ok(())
    }

    /// Goes on at another offset of a queue. Commits never go back: what lies before the committed offset is read again
    /// but changes nothing; [`crate::Admin::reset_offsets`] moves the group.
    ///
    /// # Errors
    /// [`ClientError::QueueNotFound`]: this member does not own it.
    pub fn seek(&mut self, topic: &str, queue: u32, offset: Offset) -> Result<(), ClientError> {
        self.membership.own(topic, queue)?.turn_to(offset);
        Ok(())
    }

    /// Its messages one by one.
    pub fn into_stream(self) -> MessageStream {
        MessageStream::new(self)
    }

    /// Stops fetching, gives the queues back and leaves the group; commits first when commits are periodic.
    ///
    /// # Errors
    /// When that commit fails.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.handle_delivered();
        self.membership.shared.feed.close();
        self.membership.leave().await
    }

    /// Waits until there are messages; whether there are.
    async fn wait_for_messages(&mut self, deadline: Instant) -> Result<bool, ClientError> {
        self.trouble.take().map_or(Ok(()), Err)?;
        loop {
            if self.look_for_messages()? {
                return Ok(true);
            }
            if !self.wait(deadline).await? {
                return Ok(false);
            }
        }
    }

    /// Waits for the feed; whether there may be something.
    async fn wait(&self, deadline: Instant) -> Result<bool, ClientError> {
        let feed = &self.membership.shared.feed;
        if feed.is_closed() {
            return Err(ClientError::Closed);
        }
        Ok(timeout_at(deadline, feed.wait()).await.is_ok())
    }

    /// Whether there are messages to deliver now, after taking in what is there.
    fn look_for_messages(&mut self) -> Result<bool, ClientError> {
        loop {
            match &self.batch {
                Some((track, _, life)) if track.gives(*life) != Gives::Now => self.put_back(),
                Some(_) if self.messages.as_ref().is_some_and(|messages| !messages.is_empty()) => {
                    return Ok(true);
                }
                Some(_) => self.unpack()?,
                None => {
                    if !self.take_in()? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Delivers up to `max` messages of the batch in hand.
    fn take_messages(&mut self, max: usize, pulled: &mut Vec<Received>) {
        let Some(((track, batch, life), messages)) = self.batch.as_ref().zip(self.messages.as_mut()) else {
            return;
        };
        let count = messages.len().min(max);
        let next = messages.get(count).map_or_else(|| batch.next_offset(), |next| next.offset);
        if !track.set_delivered(*life, next) {
            self.drop_batch();
            return;
        }
        pulled.extend(messages.drain(..count));
        let track = Arc::clone(track);
        if messages.is_empty() {
            self.drop_batch();
        }
        self.note_delivered(&track);
    }

    fn drop_batch(&mut self) {
        (self.batch, self.messages) = (None, None);
    }

    /// The queue is paused, or its lease has lapsed: others go on meanwhile. What came under an earlier grant is dropped.
    fn put_back(&mut self) {
        let messages = self.messages.take();
        if let Some((track, mut batch, life)) = self.batch.take() {
            let next = messages.and_then(|messages| Some(messages.front()?.offset));
            if let Some(next) = next {
                batch.set_wanted(next);
            }
            track.put_back(life, batch, Load::default());
        }
    }

    /// Takes one thing from the feed; whether there was one. A batch is not unpacked yet.
    fn take_in(&mut self) -> Result<bool, ClientError> {
        match self.membership.shared.feed.take(false) {
            None => Ok(false),
            Some(Taken::Batch(track, batch, life)) => {
                self.batch = Some((track, batch, life));
                Ok(true)
            }
            Some(Taken::Skipped(track, life, next)) => {
                track.set_delivered(life, next);
                self.note_delivered(&track);
                Ok(true)
            }
            Some(Taken::Trouble(error)) => Err(error),
        }
    }

    /// Makes messages of the batch; one without any wanted is passed over.
    fn unpack(&mut self) -> Result<(), ClientError> {
        let Some((track, batch, life)) = &mut self.batch else { return Ok(()) };
        match batch.messages() {
            Ok(messages) if messages.is_empty() => {
                track.set_delivered(*life, batch.next_offset());
                let track = Arc::clone(track);
                self.drop_batch();
                self.note_delivered(&track);
                Ok(())
            }
            Ok(messages) => {
                self.messages = Some(messages.into());
                Ok(())
            }
            Err(source) => {
                let (topic, queue) = (Arc::clone(&track.topic.name), track.ordinal);
                let offset = batch.first_offset();
                self.drop_batch();
                Err(ClientError::Damaged { topic, queue, offset, source })
            }
        }
    }

    fn note_delivered(&mut self, track: &Arc<Track>) {
        if !self.delivered.iter().any(|known| Arc::ptr_eq(known, track)) {
            self.delivered.push(Arc::clone(track));
        }
    }

    /// The application came back: it is done with what it was given.
    fn handle_delivered(&mut self) {
        settle(&self.membership.shared, self.delivered.drain(..));
    }
}
