//! Reads the bytes of messages that are due soon, in passes through the log.
//!
//! The messages of a pass lie anywhere, so it may read all that waits: the more messages it is for, the less that costs
//! each. Hence few large passes: one is begun seconds before the first message needs it, when there is room for many.
//!
//! **Invariants**: the bytes held ahead of time are bounded; a message that cannot be read is told and not waited for.

use std::rc::Rc;
use std::time::Duration;

use equeue_storage::io::Io as _;

use super::pass::{Lane, LoadedOne, Pass};
use super::run::{goes_on, tell_stuck};
use super::wheel::Waiting;
use crate::shard::state::{LogHost, Shard};

/// Bytes are read once the first message without them is due so soon, ms: the time that a pass may take.
const PASS_AHEAD_MS: i64 = 4_000;
/// A message is due so soon, ms, that a pass is begun whatever room there is.
const URGENT_MS: i64 = 1_000;
/// Shortest time after a pass that left nothing out. A message that comes later and is due sooner is read when it is due: it is
/// recent.
const PASS_EVERY: Duration = Duration::from_millis(1_500);
/// Bytes that a message is thought to take before any was read.
const MEAN_BYTES_FIRST: usize = 1_500;
/// Time between two looks at whether a pass is due.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of messages read ahead of time; an eighth of the broker's memory where that is less.
const BYTES_MAX: usize = 128 << 20;
/// Messages read in one pass.
const MESSAGES_MAX: usize = 96 << 10;

/// Reads ahead for the life of the shard.
pub(super) async fn run(shard: Rc<Shard>, place: usize) {
    let Some(host) = shard.logs.get(place) else { return };
    let memory = shard.broker.config.memory.limit.as_usize() / 8 / usize::from(shard.broker.logs.max(1));
    let bytes_max = BYTES_MAX.min(memory);
    let mut mean_bytes = MEAN_BYTES_FIRST;
    while goes_on(&shard, host) {
        let first_ms = host.delay.table.borrow().ready.bare().next().map(|waiting| waiting.due_ms);
        let Some(first_ms) = first_ms else {
            host.delay.to_load.wait().await;
            continue;
        };
        let (wanted, is_all) = {
            let table = host.delay.table.borrow();
            let room = Room {
                messages: bytes_max.saturating_sub(table.ready.loaded_bytes()) / mean_bytes,
                most: bytes_max / mean_bytes,
            };
            let take = room.pass(first_ms - shard.io.wall_ms(), table.ready.bare_len());
            let wanted: Vec<Waiting> = table.ready.bare().take(take).copied().collect();
            (wanted, take == table.ready.bare_len())
        };
        if wanted.is_empty() {
            shard.io.sleep(LOOK).await;
            continue;
        }
        host.delay.in_pass.set(true);
        let (loaded, bytes) = load_some(&shard, host, wanted, bytes_max, true).await;
        host.delay.in_pass.set(false);
        if let Some(mean) = bytes.checked_div(loaded) {
            mean_bytes = mean.max(1);
        }
        shard.io.sleep(if is_all { PASS_EVERY } else { LOOK }).await;
    }
}

/// Room for bytes that are read ahead, in messages of the size seen so far.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Left.
    messages: usize,
    /// In all.
    most: usize,
}

impl Room {
    /// How many messages to read now, those that are due first; 0: none yet.
    fn pass(self, first_in_ms: i64, without_bytes: usize) -> usize {
        let take = without_bytes.min(self.messages).min(MESSAGES_MAX);
        let is_large = take == without_bytes || self.messages >= self.most / 2;
        let is_due = first_in_ms <= if is_large { PASS_AHEAD_MS } else { URGENT_MS };
        if is_due { take } else { 0 }
    }
}

/// Reads messages until they are more than `bytes_max` bytes; tells how many were read or given up, and the bytes that
/// they take. Without the disk, what is not in memory is left out.
pub(super) async fn load_some(
    shard: &Shard,
    host: &LogHost,
    mut wanted: Vec<Waiting>,
    bytes_max: usize,
    ask_disk: bool,
) -> (usize, usize) {
    wanted.sort_unstable_by_key(|waiting| (waiting.queue, waiting.offset));
    let lanes = {
        let table = host.delay.table.borrow();
        let by_queue = wanted.chunk_by(|one, next| one.queue == next.queue);
        let lane = by_queue.filter_map(|of_queue| {
            let target = table.queue(of_queue.first()?.queue)?.target;
            Some(Lane::new(target.delay_queue(), of_queue))
        });
        lane.collect()
    };
    let mut pass = Pass::new(lanes, ask_disk);
    let (mut loaded, mut bytes) = (0, 0);
    while bytes < bytes_max
        && let Some(told) = pass.next(&host.log).await
    {
        loaded += told.len();
        bytes += told.into_iter().map(|one| note(shard, host, one)).sum::<usize>();
        shard.io.yield_now().await;
    }
    (loaded, bytes)
}

/// Notes what became of a message; gives the bytes that it takes.
fn note(shard: &Shard, host: &LogHost, (waiting, result): LoadedOne) -> usize {
    let mut table = host.delay.table.borrow_mut();
    match result {
        Ok(message) => {
            let bytes = super::ready::cost(&message);
            table.ready.load(waiting, message);
            bytes
        }
        Err(error) => {
            table.ready.remove(&waiting);
            if table.waits(&waiting) {
                let target = table.queue(waiting.queue).map(|queue| queue.target).unwrap_or_default();
                tell_stuck(shard, target, waiting, &error);
            }
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_waits_for_room_but_not_for_ever() {
        let room = |messages| Room { messages, most: 100 };
        assert_eq!(room(80).pass(4_001, 200), 0, "nothing is due yet");
        assert_eq!(room(80).pass(4_000, 200), 80);
        assert_eq!(room(20).pass(4_000, 200), 0, "a pass for few would read as much");
        assert_eq!(room(20).pass(1_000, 200), 20, "what is due next cannot wait");
        assert_eq!(room(20).pass(4_000, 15), 15, "all of it");
        assert_eq!(room(0).pass(-5, 15), 0, "what is there is delivered first");
        assert_eq!(Room { messages: 1 << 20, most: 1 << 20 }.pass(0, 1 << 20), MESSAGES_MAX);
    }
}
