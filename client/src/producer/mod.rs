//! Sending messages.

pub(crate) mod selector;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use equeue_net::api::AckLevel;
use equeue_record::Codec;
use selector::{HashOfKey, QueueSelector};

use crate::{EnqueueError, Message, Receipt, SendError};

/// Told what became of each message that was sent with a token. Runs on the sender's task: it must not block.
pub type OnDelivery = Arc<dyn Fn(u64, Result<Receipt, SendError>) + Send + Sync>;

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
#[derive(Clone, Debug)]
pub struct Producer {}

/// The acknowledgement to come of one message. Shares its batch's completion: costs no allocation. Dropping it does
/// not take the message back.
#[derive(Debug)]
#[must_use = "the message is only known to be stored once its delivery resolves"]
pub struct Delivery {}

impl Future for Delivery {
    type Output = Result<Receipt, SendError>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

impl Producer {
    /// Waits for room in the window, sends, and waits for the acknowledgement.
    pub fn send(&self, _message: &Message<'_>) -> impl Future<Output = Result<Receipt, SendError>> + Send {
        async { todo!() }
    }

    /// Takes the message into its queue's open batch, or says at once why not. Never waits.
    pub fn try_enqueue(&self, _message: &Message<'_>) -> Result<Delivery, EnqueueError> {
        todo!()
    }

    /// Like [`Producer::try_enqueue`], but waits for room in the window and for the route.
    pub async fn enqueue(&self, _message: &Message<'_>) -> Result<Delivery, SendError> {
        todo!()
    }

    /// Like [`Producer::enqueue`]; the outcome goes to [`ProducerOptions::on_delivery`] with `token`.
    pub async fn enqueue_with(&self, _message: &Message<'_>, _token: u64) -> Result<(), SendError> {
        todo!()
    }

    /// Like [`Producer::try_enqueue`]; the outcome goes to [`ProducerOptions::on_delivery`] with `token`.
    pub fn try_enqueue_with(&self, _message: &Message<'_>, _token: u64) -> Result<(), EnqueueError> {
        todo!()
    }

    /// Sends all and waits for all acknowledgements; one result per message, in order.
    pub async fn send_batch(&self, _messages: &[Message<'_>]) -> Vec<Result<Receipt, SendError>> {
        todo!()
    }

    /// Sends without acknowledgement: what cannot be sent is dropped and counted.
    pub fn send_one_way(&self, _message: &Message<'_>) -> Result<(), EnqueueError> {
        todo!()
    }

    /// Waits until everything taken before this call is acknowledged or failed.
    pub async fn flush(&self) {
        todo!()
    }

    /// Flushes, then takes no more messages.
    pub async fn close(&self) {
        todo!()
    }

    /// Counts so far.
    pub fn stats(&self) -> ProducerStats {
        todo!()
    }
}
