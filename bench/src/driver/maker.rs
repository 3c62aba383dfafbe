//! Makes the messages of one producer: size, body, topic, key, queue and time of delivery, as the load asks for them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use equeue_client::Message;

use super::Load;
use crate::cli::Spread;
use crate::keys::KeyDraw;
use crate::machine::WallClock;
use crate::stamp::Stamp;
use crate::workload::{BodyPool, TopicTurns, topics_of};

/// See the module. Allocates nothing per message.
pub(super) struct Maker {
    load: Arc<Load>,
    /// Number of its producer in the run.
    number: u32,
    pool: BodyPool,
    keys: KeyDraw,
    topics: TopicTurns,
    wall: WallClock,
}

impl Maker {
    /// For the producer of this number.
    pub(super) fn new(load: Arc<Load>, number: u32) -> Result<Self> {
        let seed = u64::from(load.run) << 32 | u64::from(number);
        let count = u32::try_from(load.topics.len()).context("counting topics")?;
        Ok(Self {
            pool: BodyPool::new(load.sizes.clone(), seed),
            keys: KeyDraw::new(load.keys, seed),
            topics: TopicTurns::new(topics_of(number, load.producers, count)),
            wall: WallClock::now(),
            load,
            number,
        })
    }

    /// Size of the next body.
    pub(super) fn next_size(&mut self) -> usize {
        self.pool.next_size()
    }

    /// The message of this number with a body of this size.
    #[inline]
    pub(super) fn next(&mut self, sequence: u64, due_ns: u64, size: usize) -> Message<'_> {
        let load = &*self.load;
        let stamp = Stamp { run: load.run, producer: self.number, sequence, sent_ns: due_ns };
        let topic = load.topics.get(self.topics.next_topic()).expect("a run has a topic");
        let body = self.pool.body(size, &stamp, load.checked);
        let mut message = Message { key: self.keys.next_key(), ..Message::new(topic, body) };
        if !load.delay.is_zero() {
            message.deliver_at_ms = Some(self.wall.ms_after(due_ns, load.delay));
        }
        if load.spread == Spread::Producer {
            message.queue = Some(self.number % load.queues);
        }
        message
    }
}
