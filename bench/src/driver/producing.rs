//! One producer: sends single messages, as fast as its window allows or by a timetable.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use equeue_client::{EnqueueError, OnDelivery, Producer, SendError};

use super::ledger::{Ledger, Span, Taken};
use super::maker::Maker;
use super::moments::Moments;
use super::pace::Alarm;
use super::part::Part;
use super::{Load, outcome_name};
use crate::machine::now_ns;
use crate::schedule::{Schedule, share};

/// Bodies that are handed over before the runtime may send what is there.
const YIELD_BYTES: usize = 64 * 1024;
/// Messages that are handed over before the runtime may send what is there.
const YIELD_MESSAGES: u32 = 128;
/// Bodies that a closed loop hands over before it looks at the clock again: some ten small messages, sent within two
/// microseconds, by which their times come out too long.
const CLOCK_BYTES: usize = 1024;
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
    maker: Maker,
    alarm: Alarm,
}

/// How far a producer is with its share of the load.
struct Progress {
    schedule: Option<Schedule>,
    /// Messages that count and are still to be sent; without end when `None`.
    open: Option<u64>,
    span: Span,
    turn: u64,
    /// Size of the next message.
    size: usize,
}

/// Why no message is sent at the moment.
enum Pause {
    /// All were sent, or the time is over.
    Over,
    /// The next one is due then.
    Until(u64),
    /// Its own window is full.
    Window,
    /// The client has no room for this one, or no route yet.
    Client(Taken, u64, usize),
    /// The client's own tasks share this thread: without a pause they would send nothing until the window is full.
    Others,
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
        Ok(Self {
            maker: Maker::new(Arc::clone(&load), number)?,
            alarm: Alarm::new()?,
            ledger: Arc::clone(&part.ledger),
            moments: Arc::clone(&part.moments),
            load,
            producer,
            place,
            number,
        })
    }

    /// Sends one message and waits for its acknowledgement, so that route and connection are there.
    pub(crate) async fn prime(&mut self) -> Result<()> {
        let now = now_ns();
        let size = self.maker.next_size();
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
        let (rate, producers) = (self.load.rate, self.load.producers);
        let mut progress = Progress {
            schedule: rate.map(|rate| Schedule::new(start_ns, rate, self.number, producers)),
            open: self.load.messages.map(|total| share(total, self.number, producers)),
            span,
            turn: 0,
            size: self.maker.next_size(),
        };
        self.alarm.at(start_ns).await?;
        loop {
            match self.burst(&mut progress) {
                Pause::Over => break,
                Pause::Until(due_ns) => self.alarm.at(due_ns).await?,
                Pause::Window => self.at_most(self.load.window as usize - 1).await,
                Pause::Client(taken, due_ns, size) => self.send(taken, due_ns, size).await,
                Pause::Others => tokio::task::yield_now().await,
            }
        }
        if tokio::time::timeout(LAST_WITHIN, self.at_most(0)).await.is_err() {
            tracing::warn!(
                producer = self.number,
                "messages are still without an answer after {LAST_WITHIN:?}"
            );
        }
        Ok(())
    }

    /// Sends what may be sent at once.
    fn burst(&mut self, progress: &mut Progress) -> Pause {
        let until_ns = self.moments.until_ns();
        let mut now = now_ns();
        let (mut messages, mut bytes, mut bytes_timed) = (0, 0, 0);
        while progress.open != Some(0) {
            if progress.schedule.is_some() || bytes - bytes_timed >= CLOCK_BYTES {
                now = now_ns();
                bytes_timed = bytes;
            }
            let due = progress.schedule.map_or(now, |schedule| schedule.due_ns(progress.turn));
            if now.max(due) >= until_ns {
                break;
            }
            if due > now {
                return Pause::Until(due);
            }
            let size = progress.size;
            let taken = self.ledger().take(self.place, due, now, size);
            let Some(taken) = taken else { return Pause::Window };
            progress.turn += 1;
            progress.size = self.maker.next_size();
            if progress.span.contains(due) {
                progress.open = progress.open.map(|open| open - 1);
            }
            let message = self.maker.next(taken.sequence, due, size);
            match self.producer.try_enqueue_with(&message, taken.token) {
                Ok(()) => {}
                Err(EnqueueError::Rejected(error)) => self.fail(taken, &error),
                Err(_) => return Pause::Client(taken, due, size),
            }
            bytes += size;
            messages += 1;
            if bytes >= YIELD_BYTES || messages >= YIELD_MESSAGES {
                return Pause::Others;
            }
        }
        Pause::Over
    }

    /// Hands one message to the client, and waits where that has no room.
    async fn send(&mut self, taken: Taken, due_ns: u64, size: usize) {
        let message = self.maker.next(taken.sequence, due_ns, size);
        if let Err(error) = self.producer.enqueue_with(&message, taken.token).await {
            self.fail(taken, &error);
        }
    }

    fn fail(&self, taken: Taken, error: &SendError) {
        self.ledger().settle([taken.token], now_ns(), Some(&outcome_name(error)));
    }

    async fn at_most(&self, in_flight: usize) {
        poll_fn(|cx| self.ledger().poll_at_most(self.place, in_flight, cx)).await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
