//! One producer: bursts at a steady rate to random queues, each message with its answer in the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use equeue_client::{AckLevel, Client, Code, Codec, Message, Producer, ProducerOptions, Receipt, SendError};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::{Order, Shared};
use crate::content::{Content, Name};
use crate::oracle::violation::Class;

/// Time between bursts.
const TICK: Duration = Duration::from_millis(10);
/// Messages that a producer may have on the way.
const WINDOW_MESSAGES: usize = 2000;
/// One after the other, by producer in turn.
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

/// A producer to be run.
pub(super) struct Task {
    producer: Producer,
    shared: Arc<Shared>,
    index: u16,
    run: u64,
    random: SmallRng,
    content: Content,
}

impl Task {
    pub(super) fn new(client: &Client, shared: &Arc<Shared>, index: u16, seed: u64) -> Self {
        let told = Arc::clone(shared);
        let shape = &shared.shape;
        let mut timeouts = shape.send_timeouts.iter().cycle();
        let options = ProducerOptions {
            level: AckLevel::Durable,
            window_messages: WINDOW_MESSAGES,
            send_timeout: timeouts.nth(index.into()).copied().unwrap_or(Duration::from_secs(30)),
            codec: CODECS.get(usize::from(index) % CODECS.len()).copied().unwrap_or(Codec::None),
            on_delivery: Some(Arc::new(move |outcomes| {
                outcomes.iter().for_each(|(token, result)| settle(&told, Name::from_token(token), result));
            })),
            auto_create: false,
            ..ProducerOptions::default()
        };
        let run = shared.records().evidence.run();
        Self {
            producer: client.producer(options),
            shared: Arc::clone(shared),
            index,
            run,
            random: SmallRng::seed_from_u64(seed ^ (u64::from(index) + 1)),
            content: Content::default(),
        }
    }

    pub(super) async fn run(mut self, mut order: watch::Receiver<Order>, settled: mpsc::Sender<()>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = *order.borrow_and_update();
            match now {
                Order::Send => {
                    ticks.tick().await;
                    self.burst().await;
                }
                Order::Pause => {
                    self.producer.flush().await;
                    if settled.send(()).await.is_err() || order.changed().await.is_err() {
                        return;
                    }
                }
                Order::Stop => return self.producer.close().await,
            }
        }
    }

    /// A tick's worth of messages, more or less, so that batches of all sizes come about.
    async fn burst(&mut self) {
        let shape = &self.shared.shape;
        let ticks = u32::try_from(Duration::from_secs(1).as_millis() / TICK.as_millis()).unwrap_or(1);
        let average = (shape.rate / ticks / u32::from(shape.producers).max(1)).max(1);
        let queues = shape.queue_count();
        let count = self.random.random_range(0..=2 * average);
        // A burst is for few queues, so that batches hold several messages.
        let first = self.random.random_range(0..queues);
        for _ in 0..count {
            let queue = (first + self.random.random_range(0..3)) % queues;
            self.send(queue).await;
        }
    }

    async fn send(&mut self, queue: u16) {
        let name = {
            let mut records = self.shared.records();
            let name = records.evidence.send(self.index, queue);
            records.journal.sent(name);
            name
        };
        let Some((topic, ordinal)) = self.shared.shape.place(queue) else { return };
        self.content.write(self.run, name);
        let seen = self.content.view();
        let headers = seen.header.as_slice();
        let message = Message {
            topic,
            key: seen.key,
            tag: seen.tag,
            code: seen.code,
            headers,
            body: seen.body,
            queue: Some(ordinal),
            ..Message::default()
        };
        if let Err(error) = self.producer.enqueue_with(&message, name.token()).await {
            settle(&self.shared, name, Err(error));
        }
    }
}

/// Writes down what a producer was told.
fn settle(shared: &Shared, name: Name, result: Result<Receipt, SendError>) {
    let error = match result {
        Ok(receipt) => {
            if receipt.level < AckLevel::Durable {
                shared.violation(Class::Lost, || {
                    format!("{name} was acknowledged as {:?} only", receipt.level)
                });
            }
            let topic = shared.shape.place(name.queue).map(|(topic, _)| topic).unwrap_or_default();
            let queue = shared.shape.index(topic, receipt.queue).unwrap_or(u16::MAX);
            return shared.note_acknowledged(name, queue, receipt.offset.0);
        }
        Err(error) => error,
    };
    let certain = match &error {
        SendError::TimedOut { outcome_unknown, last, .. } => {
            if last.contains(Code::DiskFull.text()) {
                shared.disk_full.fetch_add(1, Ordering::Relaxed);
            }
            !outcome_unknown
        }
        SendError::OutcomeUnknown { .. } => false,
        SendError::Refused { code, .. } => {
            // Nothing that these producers send gives a reason to.
            shared.violation(Class::Stuck, || format!("{name} was refused for good: {code:?}: {error}"));
            false
        }
        SendError::TooLarge { .. } | SendError::NoRoute { .. } | SendError::Closed => true,
        other => {
            shared.violation(Class::Stuck, || format!("{name} met an unknown error: {other}"));
            false
        }
    };
    shared.note_failed(name, certain);
}
