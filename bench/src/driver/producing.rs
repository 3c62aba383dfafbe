//! One producer: sends single messages, as fast as its window allows or by a timetable.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use equeue_client::{EnqueueError, Message, OnDelivery, Producer};

use super::ledger::{Ledger, Span, Taken};
use super::moments::Moments;
use super::pace::Alarm;
use super::thread::Part;
use super::{Load, outcome_name};
use crate::cli::Spread;
use crate::keys::KeyDraw;
use crate::machine::{WallClock, now_ns};
use crate::schedule::{Schedule, share};
use crate::workload::{BodyPool, Stamp, TopicTurns, topics_of};

/// Bodies that are handed over before the runtime may send what is there.
const YIELD_BYTES: usize = 64 * 1024;
/// Messages that are handed over before the runtime may send what is there.
const YIELD_MESSAGES: u32 = 128;
/// How long the first message may take: it finds the route and opens the connection.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
/// How long the last acknowledgement may take.
const LAST_WITHIN: Duration = Duration::from_secs(40);

/// A producer with its place among the others.
pub(crate) struct Sender {
    /// The load of the run.
    pub load: Arc<Load>,
    /// The client's side.
    pub producer: Producer,
    /// The thread's ledger.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Its place in the ledger.
    pub place: usize,
    /// Its number in the run.
    pub number: u32,
    moments: Arc<Moments>,
    pool: BodyPool,
    keys: KeyDraw,
    topics: TopicTurns,
    wall: WallClock,
    alarm: Alarm,
    unyielded_bytes: usize,
    unyielded: u32,
}

/// Hands outcomes to the ledger of the thread.
pub(crate) fn settle_in(ledger: &Arc<Mutex<Ledger>>) -> OnDelivery {
    let ledger = Arc::clone(ledger);
    Arc::new(move |outcomes| {
        let failure = outcomes.error().map(|error| {
            tracing::debug!(%error, "a batch failed");
            outcome_name(error)
        });
        ledger.lock().unwrap_or_else(PoisonError::into_inner).settle(
            outcomes.tokens(),
            now_ns(),
            failure.as_deref(),
        );
    })
}

impl Sender {
    /// Must be called inside the runtime.
    pub(crate) fn new(
        load: Arc<Load>,
        producer: Producer,
        part: &Part,
        place: usize,
        number: u32,
    ) -> Result<Self> {
        let seed = u64::from(load.run) << 32 | u64::from(number);
        let count = u32::try_from(load.topics.len()).context("counting topics")?;
        Ok(Self {
            pool: BodyPool::new(load.sizes.clone(), seed),
            keys: KeyDraw::new(load.keys, seed),
            topics: TopicTurns::new(topics_of(number, load.producers, count)),
            wall: WallClock::now(),
            alarm: Alarm::new()?,
            ledger: Arc::clone(&part.ledger),
            moments: Arc::clone(&part.moments),
            load,
            producer,
            place,
            number,
            unyielded_bytes: 0,
            unyielded: 0,
        })
    }

    /// Sends one message and waits for its acknowledgement, so that route and connection are there.
    pub(crate) async fn prime(&mut self) -> Result<()> {
        let now = now_ns();
        let size = self.pool.next_size();
        let taken = self.ledger().take(self.place, now, now, size).context("the window is empty")?;
        self.send(taken, now, size).await;
        if tokio::time::timeout(FIRST_WITHIN, self.at_most(0)).await.is_err() {
            bail!(
                "no acknowledgement of the first message to topic {} within {FIRST_WITHIN:?}",
                self.load.topics.join(", ")
            );
        }
        let errors = self.ledger().tally.errors.clone();
        if !errors.is_empty() {
            bail!("the first message to topic {} failed: {errors:?}", self.load.topics.join(", "));
        }
        Ok(())
    }

    /// Sends its share of the load, then waits for the last acknowledgement.
    pub(crate) async fn run(mut self, start_ns: u64, span: Span) -> Result<()> {
        let schedule =
            self.load.rate.map(|rate| Schedule::new(start_ns, rate, self.number, self.load.producers));
        let quota = self.load.messages.map(|total| share(total, self.number, self.load.producers));
        let (mut turn, mut counted) = (0, 0);
        let mut size = self.pool.next_size();
        self.alarm.at(start_ns).await?;
        while quota.is_none_or(|quota| counted < quota) {
            let now = now_ns();
            let due = schedule.map_or(now, |schedule| schedule.due_ns(turn));
            if now.max(due) >= self.moments.until_ns() {
                break;
            }
            if due > now {
                self.alarm.at(due).await?;
                continue;
            }
            let taken = self.ledger().take(self.place, due, now, size);
            let Some(taken) = taken else {
                self.at_most(self.load.window as usize - 1).await;
                continue;
            };
            turn += 1;
            counted += u64::from(span.contains(due));
            self.send(taken, due, size).await;
            self.let_others_run(size).await;
            size = self.pool.next_size();
        }
        if tokio::time::timeout(LAST_WITHIN, self.at_most(0)).await.is_err() {
            tracing::warn!(
                producer = self.number,
                "messages are still without an answer after {LAST_WITHIN:?}"
            );
        }
        Ok(())
    }

    /// Hands one message to the client.
    async fn send(&mut self, taken: Taken, due_ns: u64, size: usize) {
        let load = &self.load;
        let stamp = Stamp { run: load.run, producer: self.number, sequence: taken.sequence, sent_ns: due_ns };
        let body = self.pool.body(size, &stamp, load.checked);
        let Some(topic) = load.topics.get(self.topics.next_topic()) else { return };
        let mut message = Message { key: self.keys.next_key(), ..Message::new(topic, body) };
        if !load.delay.is_zero() {
            message.deliver_at_ms = Some(self.wall.ms_after(due_ns, load.delay));
        }
        if load.spread == Spread::Producer {
            message.queue = Some(self.number % load.queues);
        }
        let outcome = match self.producer.try_enqueue_with(&message, taken.token) {
            Ok(()) => Ok(()),
            Err(EnqueueError::Rejected(error)) => Err(error),
            Err(_) => self.producer.enqueue_with(&message, taken.token).await,
        };
        if let Err(error) = outcome {
            self.ledger().settle([taken.token], now_ns(), Some(&outcome_name(&error)));
        }
    }

    /// The client's own tasks share this thread: without a pause they would send nothing until the window is full.
    async fn let_others_run(&mut self, size: usize) {
        self.unyielded_bytes += size;
        self.unyielded += 1;
        if self.unyielded_bytes >= YIELD_BYTES || self.unyielded >= YIELD_MESSAGES {
            (self.unyielded_bytes, self.unyielded) = (0, 0);
            tokio::task::yield_now().await;
        }
    }

    async fn at_most(&self, in_flight: usize) {
        poll_fn(|cx| self.ledger().poll_at_most(self.place, in_flight, cx)).await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
