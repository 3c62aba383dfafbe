//! Sending messages.
//!
//! A message goes into the open batch of its queue ([`intake`]: one short lock, one copy); the sender of the queue's
//! (broker, shard) freezes batches and sends several in a request ([`sender`]); what was sent stays in the queue's
//! [`outbox`] until it is settled, and the batch's one [`completion`] serves all its messages.

mod buffers;
mod completion;
mod intake;
mod lane;
mod outbox;
mod outcomes;
mod queue;
#[cfg(test)]
mod rate;
mod resolve;
pub(crate) mod selector;
mod sender;
mod shared;
mod ticks;
mod window;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use equeue_net::api::AckLevel;
use equeue_record::Codec;
use tokio::sync::watch;

pub use completion::Delivery;
pub use outcomes::Outcomes;
use resolve::find_route;
use selector::{HashOfKey, QueueSelector};
use shared::{Shared, Taken};
use window::NoRoom;

use crate::client::ClientInner;
use crate::routes::Rounds;
use crate::{EnqueueError, Message, Receipt, SendError};

/// Told what became of the messages that were sent with tokens, a batch at a time. Runs on the sender's task: it must
/// not block.
pub type OnDelivery = Arc<dyn Fn(Outcomes<'_>) + Send + Sync>;

/// Settings of a [`Producer`].
#[derive(Clone)]
pub struct ProducerOptions {
    /// How safe a message must be before it is acknowledged (durable); the topic's minimum may be higher.
    pub level: AckLevel,
    /// How long a batch waits for more messages when nothing is on the way (0: not at all; batches still grow while
    /// earlier ones are on the way).
    pub linger: Duration,
    /// Largest batch (256 KiB).
    pub batch_bytes_max: usize,
    /// Messages that may be unacknowledged (10,000).
    pub window_messages: usize,
    /// Content bytes that may be unacknowledged (64 MiB).
    pub window_bytes: usize,
    /// How long a message may take from being taken to its acknowledgement, retries included (30 s).
    pub send_timeout: Duration,
    /// How batches are compressed (not at all).
    pub codec: Codec,
    /// Picks queues ([`HashOfKey`]).
    pub selector: Arc<dyn QueueSelector>,
    /// Batches of one queue that may be on the way (5, which is also the most).
    pub max_in_flight_per_queue: usize,
    /// For [`Producer::enqueue_with`].
    pub on_delivery: Option<OnDelivery>,
    /// Ask a broker to create a topic that is not there (where the broker allows it).
    pub auto_create: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            level: AckLevel::Durable,
            linger: Duration::ZERO,
            batch_bytes_max: 256 << 10,
            window_messages: 10_000,
            window_bytes: 64 << 20,
            send_timeout: Duration::from_secs(30),
            codec: Codec::None,
            selector: Arc::new(HashOfKey::default()),
            max_in_flight_per_queue: 5,
            on_delivery: None,
            auto_create: true,
        }
    }
}

impl fmt::Debug for ProducerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerOptions")
            .field("level", &self.level)
            .field("linger", &self.linger)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("window_messages", &self.window_messages)
            .field("window_bytes", &self.window_bytes)
            .field("send_timeout", &self.send_timeout)
            .field("codec", &self.codec)
            .field("selector", &self.selector)
            .field("max_in_flight_per_queue", &self.max_in_flight_per_queue)
            .field("on_delivery", &self.on_delivery.is_some())
            .field("auto_create", &self.auto_create)
            .finish()
    }
}

/// Counts since the producer was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Messages taken.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages that failed.
    pub failed: u64,
    /// Messages in batches that were sent again.
    pub retried: u64,
    /// Messages that went to another queue than first chosen.
    pub moved: u64,
    /// One-way messages that were dropped.
    pub dropped: u64,
    /// Batches sent, each once.
    pub batches: u64,
    /// Bytes of the batches sent, each once.
    pub bytes: u64,
}

/// Sends messages. Cheap to clone; clones share window, batches and connections.
///
/// When the last clone is dropped, what was taken is still sent in the background, as long as the runtime lives.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Producer {
    pub(crate) fn start(client: Arc<ClientInner>, options: ProducerOptions) -> Self {
        let shared = Arc::new(Shared::new(client, options));
        tokio::spawn(follow_routes(Arc::downgrade(&shared), shared.client.routes.watch()));
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Waits for room in the window, sends, and waits for the acknowledgement.
    pub async fn send(&self, message: &Message<'_>) -> Result<Receipt, SendError> {
        self.enqueue(message).await?.await
    }

    /// Takes the message into its queue's open batch, or says at once why not. Never waits.
    ///
    /// # Errors
    /// [`EnqueueError::NoRoute`] also begins to ask for the route in the background.
    pub fn try_enqueue(&self, message: &Message<'_>) -> Result<Delivery, EnqueueError> {
        delivery(self.take_or_ask(message, None)?)
    }

    /// Like [`Producer::try_enqueue`], but waits for room in the window and for the route.
    ///
    /// Cancel safe: a message is taken when it resolves, not before.
    pub async fn enqueue(&self, message: &Message<'_>) -> Result<Delivery, SendError> {
        let taken = self.take_patiently(message, None).await?;
        delivery(taken).map_err(|_| SendError::Closed)
    }

    /// Like [`Producer::enqueue`]; the outcome goes to [`ProducerOptions::on_delivery`] with `token`.
    pub async fn enqueue_with(&self, message: &Message<'_>, token: u64) -> Result<(), SendError> {
        match self.shared().take(message, Some(token), false) {
            Ok(_) => Ok(()),
            Err(_) => self.take_patiently(message, Some(token)).await.map(drop),
        }
    }

    /// Like [`Producer::try_enqueue`]; the outcome goes to [`ProducerOptions::on_delivery`] with `token`.
    pub fn try_enqueue_with(&self, message: &Message<'_>, token: u64) -> Result<(), EnqueueError> {
        self.take_or_ask(message, Some(token)).map(drop)
    }

    /// Sends all and waits for all acknowledgements; one result per message, in order.
    pub async fn send_batch(&self, messages: &[Message<'_>]) -> Vec<Result<Receipt, SendError>> {
        let mut taken = Vec::with_capacity(messages.len());
        for message in messages {
            taken.push(self.enqueue(message).await);
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        for delivery in taken {
            outcomes.push(match delivery {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Sends without acknowledgement: what cannot be sent is dropped and counted.
    pub fn send_one_way(&self, message: &Message<'_>) -> Result<(), EnqueueError> {
        let taken = self.shared().take_one_way(message);
        self.ask_if_unknown(message, taken)
    }

    /// Waits until everything taken before this call is acknowledged or failed; no linger for it.
    pub async fn flush(&self) {
        let mut waiting = Vec::new();
        {
            let _still = self.shared().moving();
            for queue in self.shared().queues() {
                waiting.extend(queue.intake().hurry());
                waiting.extend(queue.outbox().completions());
            }
        }
        self.shared().lanes().iter().for_each(|lane| lane.wake());
        for completion in waiting {
            // Of a batch's messages all have the same fate.
            let _ = Delivery::new(completion, 0).await;
        }
    }

    /// Takes no more messages, and waits until everything taken is acknowledged or failed.
    pub async fn close(&self) {
        self.shared().close();
        self.flush().await;
    }

    /// Counts so far.
    pub fn stats(&self) -> ProducerStats {
        self.shared().counters.read()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    fn take_or_ask(&self, message: &Message<'_>, token: Option<u64>) -> Result<Taken, EnqueueError> {
        let outcome = self.shared().take(message, token, false);
        self.ask_if_unknown(message, outcome)
    }

    /// Asks for a missing route in the background.
    fn ask_if_unknown<T>(
        &self,
        message: &Message<'_>,
        taken: Result<T, EnqueueError>,
    ) -> Result<T, EnqueueError> {
        if matches!(taken, Err(EnqueueError::NoRoute { .. })) {
            self.shared().ask_for_route(message.topic);
        }
        taken
    }

    async fn take_patiently(&self, message: &Message<'_>, token: Option<u64>) -> Result<Taken, SendError> {
        let shared = self.shared();
        let begin = Instant::now();
        let mut has_room = false;
        loop {
            let patience = shared.options.send_timeout.saturating_sub(begin.elapsed());
            match shared.take(message, token, has_room) {
                Ok(place) => return Ok(place),
                Err(EnqueueError::Rejected(error)) => return Err(error),
                Err(EnqueueError::NoRoute { .. }) => {
                    has_room = false;
                    find_route(shared, message.topic, patience).await?;
                }
                Err(EnqueueError::Full) => {
                    let room = shared.window.take(message.content_bytes(), patience).await;
                    room.map_err(|no_room| no_room_error(shared, message, no_room))?;
                    has_room = true;
                }
            }
        }
    }
}

fn delivery((completion, index): Taken) -> Result<Delivery, EnqueueError> {
    let completion = completion.ok_or(EnqueueError::Full)?;
    Ok(Delivery::new(completion, index))
}

fn no_room_error(shared: &Shared, message: &Message<'_>, no_room: NoRoom) -> SendError {
    match no_room {
        NoRoom::Closed => SendError::Closed,
        NoRoom::Full => SendError::TimedOut {
            topic: message.topic.into(),
            queue: message.queue.unwrap_or(0),
            after: shared.options.send_timeout,
            outcome_unknown: false,
            last: "the window stayed full".into(),
        },
    }
}

/// Takes over new routes as long as the producer lives.
async fn follow_routes(shared: Weak<Shared>, mut rounds: watch::Receiver<Rounds>) {
    while rounds.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        shared.adopt_routes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    #[tokio::test]
    async fn waiting_for_room_ends_with_the_timeout() {
        let builder = Client::builder().nameservers(["127.0.0.1:1"]).client_id("test");
        let client = builder.connect().await.expect("it needs no server");
        let send_timeout = Duration::from_millis(50);
        let options = ProducerOptions { window_bytes: 10_000, send_timeout, ..ProducerOptions::default() };
        let producer = client.producer(options);
        // Room that nobody gives back: messages that held it would be over their time at nearly the same moment.
        producer.shared().window.try_take(9_000).expect("it is empty");
        let begin = Instant::now();
        let outcome = producer.enqueue(&Message::new("t", &[2; 9_999])).await;
        assert!(matches!(outcome, Err(SendError::TimedOut { outcome_unknown: false, .. })), "{outcome:?}");
        assert!(begin.elapsed() >= send_timeout);
    }
}
