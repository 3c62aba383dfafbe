//! Which queue a message goes to. Pure but for the counters of the selectors.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use equeue_record::key_hash;

use crate::Message;

/// The queues of a topic as a selector sees them.
#[derive(Clone, Copy, Debug)]
pub struct TopicQueues<'a> {
    /// Queues in the topic map, alive or not: ordinals are `0..total`.
    pub total: u32,
    /// Ordinals that may be sent to and whose broker is alive, ascending.
    pub live: &'a [u32],
}

/// What a selector chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This queue and no other: the message waits while its broker is away.
    Bound(u32),
    /// This queue, but any other will do when its broker goes away before the message was sent.
    Free(u32),
    /// No queue.
    None,
}

/// Picks the queue of a message.
pub trait QueueSelector: fmt::Debug + Send + Sync {
    /// Called once for each message that does not name its queue; must be fast and must not block.
    fn select(&self, message: &Message<'_>, queues: TopicQueues<'_>) -> Choice;
}

/// Messages in a row that go to the same queue when nothing else decides: batches fill, load still spreads.
const STICKY_MESSAGES: u32 = 64;

/// By the key's hash over the topic map, as Kafka's clients do; messages without key in turn over the live queues.
///
/// The map is used and not the live queues, so that a key stays with its queue while brokers come and go.
#[derive(Debug, Default)]
pub struct HashOfKey {
    turn: AtomicU32,
}

impl QueueSelector for HashOfKey {
    fn select(&self, message: &Message<'_>, queues: TopicQueues<'_>) -> Choice {
        match message.key {
            Some(key) if queues.total > 0 => Choice::Bound(key_hash(key) % queues.total),
            _ => in_turn(&self.turn, STICKY_MESSAGES, queues),
        }
    }
}

/// One message to each live queue in turn, whatever its key.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicU32,
}

impl QueueSelector for RoundRobin {
    fn select(&self, _message: &Message<'_>, queues: TopicQueues<'_>) -> Choice {
        in_turn(&self.turn, 1, queues)
    }
}

/// The next live queue, `run` messages each.
fn in_turn(turn: &AtomicU32, run: u32, queues: TopicQueues<'_>) -> Choice {
    let turn = turn.fetch_add(1, Ordering::Relaxed) / run;
    let place = turn as usize % queues.live.len().max(1);
    queues.live.get(place).map_or(Choice::None, |ordinal| Choice::Free(*ordinal))
}
