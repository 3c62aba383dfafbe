//! The tasks of a log's delayed messages: one finds those that were stored before this start, one reads bytes ahead of
//! time, one delivers.
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
use super::host::{DelayHost, Unread};
use super::load;
use super::marks::MarkPlan;
use super::ready::Loaded;
use super::wheel::Waiting;
use crate::broker::Phase;
use crate::shard::catalog::remove_entries;
use crate::shard::state::{LogHost, Shard};

/// Messages come to the ready list so long before they are due, ms.
const AHEAD_MS: i64 = 6_000;
/// Bytes are read for all of them once the first one without is due so soon, ms. The messages of a pass lie anywhere, so a
/// pass may read all that waits: the more messages it is for, the less that costs each.
const PASS_AHEAD_MS: i64 = 2_000;
/// Shortest time between two passes. A message that comes later and is due sooner is read when it is due: it is recent.
const PASS_EVERY: Duration = Duration::from_millis(1_500);
/// Messages on the ready list.
const READY_MAX: usize = 128 << 10;
/// Bytes that a message is thought to take before any was read.
const MEAN_BYTES_FIRST: usize = 1_500;
/// Time between two looks at whether a pass is due.
const PASS_LOOK: Duration = Duration::from_millis(50);
/// Bytes of messages read ahead of time; an eighth of the broker's memory where that is less.
const AHEAD_BYTES_MAX: usize = 64 << 20;
/// Messages read in one pass.
const LOAD_MAX: usize = 64 << 10;
/// Bytes read in one go for messages that are due already.
const LATE_BYTES_MAX: usize = 4 << 20;
/// Messages read in one go that are due already.
const LATE_MAX: usize = 4096;
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
    shard.spawn(find(Rc::clone(&shard), place));
    shard.spawn(load_ahead(Rc::clone(&shard), place));
    Deliverer { shard: &shard, host, place, on_their_way: VecDeque::new(), clock_ms: shard.io.wall_ms() }
        .run()
        .await;
}

fn goes_on(shard: &Shard, host: &LogHost) -> bool {
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

/// Looks through what was stored before this start for messages that wait.
async fn find(shard: Rc<Shard>, place: usize) {
    let Some(host) = shard.logs.get(place) else { return };
    let begun = shard.now_ms();
    let unread = host.delay.unread.take();
    let mut all = true;
    for part in unread.into_iter().filter(|part| part.from < part.to) {
        all &= find_in(&shard, host, part).await;
    }
    host.delay.all_found.set(all);
    let waiting = host.delay.table.borrow().waiting();
    let took_ms = shard.now_ms() - begun;
    tracing::info!(log = %host.id, waiting, took_ms, "delayed messages found");
}

/// Looks through a part of a delay queue; true: all of it.
async fn find_in(shard: &Shard, host: &LogHost, mut part: Unread) -> bool {
    let Some(target) = host.delay.table.borrow().queue(part.number).map(|queue| queue.target) else {
        return true;
    };
    let queue = target.delay_queue();
    while part.from < part.to && goes_on(shard, host) {
        let batches = match load::read(&host.log, queue, part.from).await {
            Ok(batches) if batches.next_offset > part.from => batches,
            Ok(_) => return true,
            Err(error) => {
                tracing::error!(%target, offset = %part.from, %error,
                    "delayed messages cannot be read: those from this offset on are not delivered before a restart");
                return false;
            }
        };
        let mut first_ms = i64::MAX;
        {
            let mut table = host.delay.table.borrow_mut();
            let result = load::for_each(&batches, &mut |delayed| {
                let offset = delayed.record.offset;
                if offset >= part.from && offset < part.to {
                    first_ms = first_ms.min(delayed.due_ms);
                    if delayed.id_offset != offset
                        && let Some(known) = table.queue_mut(part.number)
                    {
                        known.carried.insert(delayed.id_offset.0, offset.0);
                    }
                    table.insert(Waiting { due_ms: delayed.due_ms, queue: part.number, offset: offset.0 });
                }
            });
            if let Err(error) = result {
                tracing::error!(%target, offset = %part.from, %error, "a delayed batch is malformed");
            }
        }
        host.delay.due_at(first_ms.saturating_sub(AHEAD_MS));
        part.from = batches.next_offset;
        shard.io.yield_now().await;
    }
    part.from >= part.to
}

/// Reads the bytes of messages that are due soon, in the order in which they lie in the log.
async fn load_ahead(shard: Rc<Shard>, place: usize) {
    let Some(host) = shard.logs.get(place) else { return };
    let memory = shard.broker.config.memory.limit.as_usize() / 8 / usize::from(shard.broker.logs.max(1));
    let bytes_max = AHEAD_BYTES_MAX.min(memory);
    let mut mean_bytes = MEAN_BYTES_FIRST;
    while goes_on(&shard, host) {
        let first_ms = host.delay.table.borrow().ready.bare().next().map(|waiting| waiting.due_ms);
        let Some(first_ms) = first_ms else {
            host.delay.to_load.wait().await;
            continue;
        };
        if first_ms <= shard.io.wall_ms() + PASS_AHEAD_MS {
            // As many as there is room for, by what they took so far: those that are due first.
            let (wanted, is_all) = {
                let table = host.delay.table.borrow();
                let room = bytes_max.saturating_sub(table.ready.loaded_bytes()) / mean_bytes;
                let wanted: Vec<Waiting> = table.ready.bare().take(room.min(LOAD_MAX)).copied().collect();
                (wanted, room > 0 && table.ready.bare().nth(room.min(LOAD_MAX)).is_none())
            };
            if !wanted.is_empty() {
                let (loaded, bytes) = load_some(&shard, host, wanted, bytes_max).await;
                if let Some(mean) = bytes.checked_div(loaded) {
                    mean_bytes = mean.max(1);
                }
            }
            shard.io.sleep(if is_all { PASS_EVERY } else { 2 * PASS_LOOK }).await;
        } else {
            shard.io.sleep(PASS_LOOK).await;
        }
    }
}

/// Reads messages until they are more than `bytes_max` bytes; tells how many were read or given up, and the bytes that
/// they take.
async fn load_some(
    shard: &Shard,
    host: &LogHost,
    mut wanted: Vec<Waiting>,
    bytes_max: usize,
) -> (usize, usize) {
    wanted.sort_unstable_by_key(|waiting| (waiting.queue, waiting.offset));
    let (mut loaded, mut bytes) = (0, 0);
    for of_queue in wanted.chunk_by(|one, next| one.queue == next.queue) {
        let number = of_queue.first().map_or(0, |waiting| waiting.queue);
        let target = host.delay.table.borrow().queue(number).map(|queue| queue.target);
        let Some(target) = target else { continue };
        if bytes >= bytes_max {
            break;
        }
        let read = load::messages(&host.log, target.delay_queue(), of_queue, bytes_max - bytes).await;
        loaded += read.len();
        let mut table = host.delay.table.borrow_mut();
        for (waiting, result) in read {
            match result {
                Ok(message) => {
                    bytes += super::ready::cost(&message);
                    table.ready.load(waiting, message);
                }
                Err(error) if table.waits(&waiting) => {
                    table.ready.remove(&waiting);
                    tell_stuck(shard, target, waiting, &error);
                }
                Err(_) => table.ready.remove(&waiting),
            }
        }
    }
    (loaded, bytes)
}

fn tell_stuck(shard: &Shard, target: QueueKey, waiting: Waiting, error: &dyn std::fmt::Display) {
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

    /// Reads what is due and was not read ahead.
    async fn load_late(&self, now_ms: i64) -> Round {
        let wanted: Vec<Waiting> = {
            let table = self.host.delay.table.borrow();
            let late = table.ready.bare().take_while(|waiting| waiting.due_ms <= now_ms);
            late.take(LATE_MAX).copied().collect()
        };
        if wanted.is_empty() {
            return Round::Nothing;
        }
        match load_some(self.shard, self.host, wanted, LATE_BYTES_MAX).await {
            (0, _) => Round::Pause(PAUSE),
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
