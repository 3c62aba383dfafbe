//! What the handles, the senders and the route watcher of a producer share: options, topics, window, counters; and the
//! way of a message into its batch.

mod places;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use equeue_record::{PushError, RecordFields};
use tokio::runtime::Handle;

use super::buffers::Buffers;
use super::completion::{BatchReceipt, Completion};
use super::intake::{Batch, BatchPlan, Incoming, Intake, Opening};
use super::lane::Lane;
use super::outbox::Audience;
use super::outcomes::Outcomes;
use super::queue::Queue;
use super::selector::{Choice, TopicQueues};
use super::window::{NoRoom, Window};
use super::{ProducerOptions, ProducerStats, ticks};
use crate::client::ClientInner;
use crate::{EnqueueError, Message, SendError};

/// Largest batch of a single message until a broker has told its limit.
const SINGLE_BYTES_MAX: usize = 4 << 20;
/// A batch takes messages for no longer than this share of the send timeout, so that its last message has most of the
/// timeout for itself.
const OPEN_SHARE: u32 = 16;

/// A topic with its queues, unchanging: a new route makes a new one.
#[derive(Debug)]
pub(crate) struct TopicQueueSet {
    queues: Vec<Arc<Queue>>,
    /// Ordinals for messages that may go anywhere.
    live: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The client.
    pub client: Arc<ClientInner>,
    /// The settings.
    pub options: ProducerOptions,
    /// What may be unacknowledged.
    pub window: Window,
    /// Memory of batches.
    pub buffers: Buffers,
    /// Counts.
    pub counters: Counters,
    /// Looked up for every message: the names are the application's own, so the hash need not resist an attacker.
    topics: ArcSwap<HashMap<Arc<str>, Arc<TopicQueueSet>, foldhash::fast::RandomState>>,
    /// Taken to change `topics`.
    places: Mutex<Places>,
    /// Topics whose routes are asked for in the background.
    asking: Mutex<HashSet<Arc<str>>>,
    /// Held while batches are between two queues, so that who looks for all of them misses none.
    moving: Mutex<()>,
    closing: AtomicBool,
    single_bytes_max: AtomicUsize,
    runtime: Handle,
}

/// Everything ever made; queues and lanes stay until the producer ends.
#[derive(Debug, Default)]
struct Places {
    /// By topic, ordinal, and whether their messages are delayed: those have batches and sequences of their own.
    queues: HashMap<(Arc<str>, u32, bool), Arc<Queue>>,
    lanes: HashMap<(Arc<str>, u16), Arc<Lane>>,
}

/// See [`ProducerStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// A message that was taken: its batch's outcome (unless it has a token), and its index in the batch.
pub(crate) type Taken = (Option<Arc<Completion>>, u32);

impl Counters {
    /// Adds to a count.
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// All of them.
    pub(crate) fn read(&self) -> ProducerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerStats {
            sent: read(&self.sent),
            acknowledged: read(&self.acknowledged),
            failed: read(&self.failed),
            retried: read(&self.retried),
            moved: read(&self.moved),
            dropped: read(&self.dropped),
            batches: read(&self.batches),
            bytes: read(&self.bytes),
        }
    }
}

impl Shared {
    /// Without topics. Must be called inside a runtime, whose tasks the senders become.
    pub(crate) fn new(client: Arc<ClientInner>, options: ProducerOptions) -> Self {
        Self {
            window: Window::new(options.window_messages, options.window_bytes),
            buffers: Buffers::new(options.window_bytes),
            counters: Counters::default(),
            topics: ArcSwap::default(),
            places: Mutex::default(),
            asking: Mutex::default(),
            moving: Mutex::default(),
            closing: AtomicBool::new(false),
            single_bytes_max: AtomicUsize::new(SINGLE_BYTES_MAX.max(options.batch_bytes_max)),
            runtime: Handle::current(),
            client,
            options,
        }
    }

    /// Whether no more messages are taken.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Until it is dropped no batch goes from one queue to another.
    pub(crate) fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more messages; the senders end once everything is settled.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.window.close();
        self.places().lanes.values().for_each(|lane| lane.wake());
    }

    /// Runs a task of the producer.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Notes that a route is asked for; `None`: it is already.
    pub(crate) fn begin_asking(&self, topic: &str) -> Option<Arc<str>> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.contains(topic) {
            return None;
        }
        let topic: Arc<str> = topic.into();
        asking.insert(Arc::clone(&topic));
        Some(topic)
    }

    /// The end of [`Shared::begin_asking`].
    pub(crate) fn end_asking(&self, topic: &Arc<str>) {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// A broker told its limit.
    pub(crate) fn limit_batch(&self, bytes_max: usize) {
        self.single_bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Takes a message into its queue's open batch; `has_room`: its room in the window was taken before (and is given
    /// back on an error).
    pub(crate) fn take(
        self: &Arc<Self>,
        message: &Message<'_>,
        token: Option<u64>,
        has_room: bool,
    ) -> Result<Taken, EnqueueError> {
        let content_bytes = message.content_bytes();
        if !has_room {
            self.window.try_take(content_bytes).map_err(|no_room| match no_room {
                NoRoom::Full => EnqueueError::Full,
                NoRoom::Closed => SendError::Closed.into(),
            })?;
        }
        let permits = self.window.permits(content_bytes) as usize;
        let outcome = self.take_into_batch(message, token, content_bytes, permits);
        if outcome.is_err() {
            self.window.give_back(1, permits);
        }
        outcome
    }

    fn take_into_batch(
        self: &Arc<Self>,
        message: &Message<'_>,
        token: Option<u64>,
        content_bytes: usize,
        permits: usize,
    ) -> Result<Taken, EnqueueError> {
        let topics = self.topics.load();
        let Some(topic) = topics.get(message.topic) else { return Err(self.no_route(message)) };
        let (queue, bound) = self.choose(message, topic)?;
        let delayed = message.deliver_at_ms.map(|_| self.delayed_queue(queue));
        let queue = delayed.as_ref().unwrap_or(queue);
        let incoming = Incoming { permits, token, bound, ..incoming(message, content_bytes) };
        let plan = self.batch_plan();
        let now = ticks::uptime();
        let mut intake = queue.intake();
        let pushed = intake.push(incoming, &plan, now, opening, || self.buffers.take());
        let place = pushed.map_err(|error| self.too_large(message, content_bytes, error))?;
        Counters::add(&self.counters.sent, 1);
        if place.wake {
            self.list_or_fail(queue, intake);
        }
        Ok((place.completion, place.index))
    }

    /// Gives a queue with new batches to its sender. If that ended a moment ago they are failed: nobody else would tell of
    /// them.
    pub(crate) fn list_or_fail(&self, queue: &Arc<Queue>, mut intake: MutexGuard<'_, Intake>) {
        if !queue.list(&mut intake) {
            let late = intake.take_all();
            drop(intake);
            self.fail_unsent(late, &SendError::Closed);
        }
    }

    fn no_route(&self, message: &Message<'_>) -> EnqueueError {
        if self.is_closing() {
            return SendError::Closed.into();
        }
        EnqueueError::NoRoute { topic: message.topic.into() }
    }

    /// Takes a message that nobody acknowledges.
    pub(crate) fn take_one_way(self: &Arc<Self>, message: &Message<'_>) -> Result<(), EnqueueError> {
        if self.is_closing() {
            return Err(SendError::Closed.into());
        }
        let topics = self.topics.load();
        let Some(topic) = topics.get(message.topic) else { return Err(self.no_route(message)) };
        let (queue, _) = self.choose(message, topic)?;
        let delayed = message.deliver_at_ms.map(|_| self.delayed_queue(queue));
        let queue = delayed.as_ref().unwrap_or(queue);
        let content_bytes = message.content_bytes();
        let mut intake = queue.intake();
        match intake.push_one_way(
            incoming(message, content_bytes),
            &self.batch_plan(),
            ticks::uptime(),
            opening,
        ) {
            Ok(is_new) => {
                if is_new && !queue.list(&mut intake) {
                    intake.one_way = None;
                    return Err(SendError::Closed.into());
                }
                Counters::add(&self.counters.sent, 1);
                Ok(())
            }
            Err(PushError::Full { .. }) => {
                Counters::add(&self.counters.dropped, 1);
                Err(EnqueueError::Full)
            }
            Err(error) => {
                Counters::add(&self.counters.dropped, 1);
                Err(self.too_large(message, content_bytes, error).into())
            }
        }
    }

    /// The queue of a message, and whether it must stay with it.
    fn choose<'t>(
        &self,
        message: &Message<'_>,
        topic: &'t TopicQueueSet,
    ) -> Result<(&'t Arc<Queue>, bool), EnqueueError> {
        let total = u32::try_from(topic.queues.len()).unwrap_or(u32::MAX);
        let (ordinal, bound) = match message.queue {
            Some(ordinal) => (Some(ordinal), true),
            None => match self.options.selector.select(message, TopicQueues { total, live: &topic.live }) {
                Choice::Bound(ordinal) => (Some(ordinal), true),
                Choice::Free(ordinal) => (Some(ordinal), false),
                Choice::None => (None, false),
            },
        };
        let queue = ordinal.and_then(|ordinal| topic.queues.get(ordinal as usize));
        queue.map(|queue| (queue, bound)).ok_or_else(|| {
            let reason = match ordinal {
                Some(ordinal) => format!("it has no queue {ordinal}, only {total}"),
                None => "no queue takes messages".to_owned(),
            };
            SendError::NoRoute { topic: message.topic.into(), reason: reason.into() }.into()
        })
    }

    fn batch_plan(&self) -> BatchPlan {
        let single_bytes_max = self.single_bytes_max.load(Ordering::Relaxed);
        BatchPlan {
            codec: self.options.codec,
            bytes_max: self.options.batch_bytes_max.min(single_bytes_max),
            single_bytes_max,
            open_max: self.options.send_timeout / OPEN_SHARE,
        }
    }

    fn too_large(&self, message: &Message<'_>, size: usize, error: PushError) -> SendError {
        let (size, limit) = match error {
            PushError::TooLarge { size, limit, .. } => (size, limit),
            PushError::Full { .. } => (size, self.single_bytes_max.load(Ordering::Relaxed)),
        };
        SendError::TooLarge { topic: message.topic.into(), size, limit }
    }

    /// Tells everybody what became of a batch, and gives its room back.
    pub(crate) fn tell(&self, audience: &Audience, outcome: Result<BatchReceipt, SendError>) {
        let count = u64::from(audience.messages);
        match &outcome {
            Ok(_) => Counters::add(&self.counters.acknowledged, count),
            Err(_) => Counters::add(&self.counters.failed, count),
        }
        if let Some(on_delivery) = self.options.on_delivery.as_ref().filter(|_| !audience.tokens.is_empty()) {
            on_delivery(Outcomes::new(&audience.tokens, &outcome));
        }
        audience.completion.complete(outcome);
        self.window.give_back(audience.messages as usize, audience.permits);
    }

    /// Fails batches that were never sent.
    pub(crate) fn fail_unsent(&self, batches: Vec<Batch>, error: &SendError) {
        for batch in batches {
            let audience = Audience {
                completion: batch.completion,
                tokens: batch.tokens,
                messages: batch.builder.record_count(),
                permits: batch.permits,
            };
            self.tell(&audience, Err(error.clone()));
        }
    }

    /// Uses a batch's memory again.
    pub(crate) fn reuse(&self, bytes: Bytes) {
        self.buffers.give_back(bytes);
    }
}

/// A batch is opened now.
fn opening() -> Opening {
    Opening { at: Instant::now(), wall_ms: ticks::wall_ms() }
}

fn incoming<'a>(message: &Message<'a>, content_bytes: usize) -> Incoming<'a> {
    Incoming {
        fields: RecordFields {
            key: message.key,
            tag: message.tag,
            code: message.code,
            create_time_ms: message.create_time_ms.unwrap_or_default(),
            deliver_at_ms: message.deliver_at_ms,
            headers: message.headers,
            body: message.body,
        },
        create_now: message.create_time_ms.is_none(),
        content_bytes,
        permits: 0,
        token: None,
        bound: true,
    }
}
