//! The task that delivers a log's delayed messages. It starts two others: one that finds those stored before this start
//! ([`find`]), and one that reads bytes ahead of time ([`ahead`]).
//!
//! **Invariants**: what is delivered at a time is bounded (two appends on their way), however much is due at once, also
//! after a clock that jumped forward; a clock that jumped back delays and nothing else.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use equeue_record::{MessageId, QueueKey};
use equeue_storage::Ticket;
use equeue_storage::io::Io as _;
use equeue_storage::log::AppendError;
use futures::future::select;

use super::deliver::{self, Delivery};
use super::host::DelayHost;
use super::marks::MarkPlan;
use super::ready::Loaded;
use super::wheel::Waiting;
use super::{ahead, find};
use crate::broker::Phase;
use crate::shard::catalog::remove_entries;
use crate::shard::state::{LogHost, Shard};

/// Messages come to the ready list so long before they are due, ms.
pub(super) const AHEAD_MS: i64 = 12_000;
/// Messages on the ready list.
const READY_MAX: usize = 192 << 10;
/// Bytes read in one go for messages that are due already.
const LATE_BYTES_MAX: usize = 4 << 20;
/// Messages read in one go that are due already.
const LATE_MAX: usize = 4096;
/// Time between two looks for late messages in memory while the disk is read for others.
const LATE_EVERY: Duration = Duration::from_millis(20);
/// Messages of one append.
const DELIVERY_MAX: usize = 4096;
/// Appends on their way.
const DELIVERIES_MAX: usize = 2;
/// Shortest time between two deliveries that leave nothing due: messages of a moment go together.
const PACE: Duration = Duration::from_millis(5);
/// Longest time between two looks at the clock while something waits: it may jump.
const LOOK: Duration = Duration::from_millis(500);
/// Pause when the log takes nothing, or what is due cannot be read yet.
const PAUSE: Duration = Duration::from_millis(2);
/// Pause when the disk is full.
const FULL_PAUSE: Duration = Duration::from_millis(250);
/// A clock that goes back by more is said to jump, ms.
const JUMP_MS: i64 = 1_000;

/// Delivers the messages of a log for the life of the shard.
pub(crate) async fn run(shard: Rc<Shard>, place: usize) {
    // Queues are opened with the catalog.
    while shard.broker.phase() == Phase::Starting {
        shard.io.sleep(Duration::from_millis(5)).await;
    }
    let Some(host) = shard.logs.get(place) else { return };
    drop_deleted(&shard, host);
    shard.spawn(find::run(Rc::clone(&shard), place));
    shard.spawn(ahead::run(Rc::clone(&shard), place));
    Deliverer {
        shard: &shard,
        host,
        place,
        on_their_way: VecDeque::new(),
        clock_ms: shard.io.wall_ms(),
        late_not_before_ms: 0,
    }
    .run()
    .await;
}

pub(super) fn goes_on(shard: &Shard, host: &LogHost) -> bool {
    shard.broker.phase() != Phase::Stopping && host.events.failure().is_none()
}

/// Forgets delay queues whose target was deleted while nobody could see it.
fn drop_deleted(shard: &Shard, host: &LogHost) {
    let targets: Vec<QueueKey> = host.delay.table.borrow().queues().map(|(_, queue)| queue.target).collect();
    for target in targets.into_iter().filter(|target| shard.home(*target).is_none()) {
        let keys = super::forget(host, target);
        remove_entries(host, target, &keys);
    }
}

pub(super) fn tell_stuck(shard: &Shard, target: QueueKey, waiting: Waiting, error: &dyn std::fmt::Display) {
    shard.stats.delayed_stuck.add(1);
    tracing::error!(%target, offset = waiting.offset, due_ms = waiting.due_ms, %error,
        "a delayed message cannot be read: it is not delivered; it is tried again after a restart");
}

/// Delivers what is due.
struct Deliverer<'a> {
    shard: &'a Rc<Shard>,
    host: &'a LogHost,
    place: usize,
    on_their_way: VecDeque<Ticket>,
    clock_ms: i64,
    /// When to look for late messages again, ms of the shard's clock.
    late_not_before_ms: u64,
}

/// What a round came to.
enum Round {
    /// Something was delivered and more may be due.
    Delivered,
    /// Nothing (more) is due.
    Nothing,
    /// Something is due and cannot be delivered before a pause.
    Pause(Duration),
}

impl Deliverer<'_> {
    async fn run(mut self) {
        while goes_on(self.shard, self.host) {
            let now_ms = self.look_at_the_clock();
            self.advance(now_ms);
            match self.round(now_ms).await {
                Round::Delivered => self.shard.io.yield_now().await,
                Round::Pause(pause) => self.shard.io.sleep(pause).await,
                Round::Nothing => self.sleep().await,
            }
        }
    }

    fn look_at_the_clock(&mut self) -> i64 {
        let now_ms = self.shard.io.wall_ms();
        if now_ms < self.clock_ms - JUMP_MS {
            tracing::warn!(log = %self.host.id, back_ms = self.clock_ms - now_ms,
                "the clock was set back: delayed messages come that much later");
            self.host.delay.table.borrow_mut().rewind(now_ms);
        }
        self.clock_ms = now_ms;
        now_ms
    }

    /// Moves what is due soon to the ready list.
    fn advance(&self, now_ms: i64) {
        let mut table = self.host.delay.table.borrow_mut();
        let room = READY_MAX.saturating_sub(table.ready.len());
        if room > 0 {
            table.advance(now_ms + AHEAD_MS, room);
        }
        if table.ready.bare().next().is_some() {
            self.host.delay.to_load.set();
        }
        if let Some(stats) = self.shard.log_stats(self.place) {
            stats.delayed.set(table.waiting());
        }
    }

    async fn round(&mut self, now_ms: i64) -> Round {
        let late = self.load_late(now_ms).await;
        let due = self.choose(now_ms);
        if due.is_empty() {
            return late;
        }
        let delivery = {
            let table = self.host.delay.table.borrow();
            deliver::build(&table, due, MessageId::cluster_check(&self.shard.broker.config.cluster))
        };
        self.append(delivery, now_ms).await
    }

    /// Due messages that fit one append; takes those off the ready list that wait no more.
    fn choose(&self, now_ms: i64) -> Vec<(Waiting, Loaded)> {
        let mut table = self.host.delay.table.borrow_mut();
        let limit = self.shard.broker.batch_bytes_max / 2;
        let (mut due, mut stale, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (waiting, loaded) in table.ready.due(now_ms) {
            if !table.waits(waiting) {
                stale.push(*waiting);
                continue;
            }
            bytes += deliver::cost(loaded);
            if due.len() == DELIVERY_MAX || (bytes > limit && !due.is_empty()) {
                break;
            }
            due.push((*waiting, loaded.clone()));
        }
        for waiting in stale {
            table.ready.remove(&waiting);
        }
        due
    }

    /// Reads what is due and was not read ahead: from memory only while the disk is read ahead, because two readers of it
    /// would both be slower, and what is late on disk comes next there.
    async fn load_late(&mut self, now_ms: i64) -> Round {
        let wanted: Vec<Waiting> = {
            let table = self.host.delay.table.borrow();
            let late = table.ready.bare().take_while(|waiting| waiting.due_ms <= now_ms);
            late.take(LATE_MAX).copied().collect()
        };
        if wanted.is_empty() {
            return Round::Nothing;
        }
        if self.shard.now_ms() < self.late_not_before_ms {
            return Round::Pause(PAUSE);
        }
        let ask_disk = !self.host.delay.in_pass.get();
        match ahead::load_some(self.shard, self.host, wanted, LATE_BYTES_MAX, ask_disk).await {
            (0, _) => {
                let pause = if ask_disk { PAUSE } else { LATE_EVERY };
                self.late_not_before_ms = self.shard.now_ms() + u64::try_from(pause.as_millis()).unwrap_or(0);
                Round::Pause(PAUSE)
            }
            _ => Round::Delivered,
        }
    }

    async fn append(&mut self, delivery: Delivery, now_ms: i64) -> Round {
        let Delivery { parts, messages, marks, malformed } = delivery;
        for (waiting, error) in malformed {
            self.give_up(waiting, &error);
        }
        if messages.is_empty() {
            return Round::Delivered;
        }
        match self.host.log.append_atomic(parts) {
            Ok(ticket) => {
                self.delivered(&messages, &marks, now_ms);
                self.on_their_way.push_back(ticket);
                self.wait_for_room().await;
                Round::Delivered
            }
            Err(AppendError::Busy { .. }) => Round::Pause(PAUSE),
            Err(AppendError::DiskFull) => Round::Pause(FULL_PAUSE),
            Err(AppendError::Poisoned { .. }) => Round::Pause(LOOK), // the loop sees it
            Err(error) => {
                for message in messages {
                    self.give_up(message, &error);
                }
                Round::Delivered
            }
        }
    }

    async fn wait_for_room(&mut self) {
        let durable = self.host.log.durable();
        while self.on_their_way.pop_front_if(|ticket| *ticket <= durable).is_some() {}
        if self.on_their_way.len() >= DELIVERIES_MAX
            && let Some(first) = self.on_their_way.pop_front()
        {
            // A log that failed is noticed by the loop.
            let _ = self.host.log.wait_durable(first).await;
        }
    }

    /// Messages were appended with their marks.
    fn delivered(&self, messages: &[Waiting], marks: &[(u32, MarkPlan, u64)], now_ms: i64) {
        let mut table = self.host.delay.table.borrow_mut();
        for (number, plan, count) in marks {
            table.done(*number, plan, *count);
        }
        for message in messages {
            table.ready.remove(message);
        }
        self.shard.stats.delayed_delivered.add(messages.len() as u64);
        if let Some(stats) = self.shard.log_stats(self.place) {
            for message in messages {
                let late_ms = u64::try_from(now_ms - message.due_ms).unwrap_or_default();
                stats.delay_late.observe(late_ms * 1000);
            }
        }
    }

    fn give_up(&self, waiting: Waiting, error: &dyn std::fmt::Display) {
        let mut table = self.host.delay.table.borrow_mut();
        table.ready.remove(&waiting);
        let target = table.queue(waiting.queue).map(|queue| queue.target).unwrap_or_default();
        tell_stuck(self.shard, target, waiting, error);
    }

    /// Until something is due, or comes that is due sooner.
    async fn sleep(&self) {
        let delay: &DelayHost = &self.host.delay;
        let now_ms = self.shard.io.wall_ms();
        let next_ms = delay.table.borrow().next_ms();
        let sooner = std::pin::pin!(delay.sooner.wait());
        let Some(next_ms) = next_ms else {
            delay.look_ms.set(i64::MAX);
            return sooner.await;
        };
        let until_due = Duration::from_millis(u64::try_from(next_ms - now_ms).unwrap_or_default());
        let pause = until_due.clamp(PACE, LOOK);
        delay.look_ms.set(now_ms + i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        select(std::pin::pin!(self.shard.io.sleep(pause)), sooner).await;
        delay.look_ms.set(i64::MIN);
    }
}
