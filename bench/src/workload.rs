//! The messages of a run: which topics they go to, how large they are, and where their bytes come from: a stamp and random
//! ones, which no codec can shrink. Pure, and without an allocation per message.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::sizes::Sizes;
use crate::stamp::Stamp;

/// Which of the topics a producer sends to: all of them in turn, shared out between the producers where there are
/// enough of these.
#[must_use]
pub fn topics_of(producer: u32, producers: u32, topics: u32) -> Vec<u32> {
    if producers >= topics {
        return vec![producer % topics.max(1)];
    }
    (0..topics).filter(|topic| topic % producers.max(1) == producer).collect()
}

/// The topics of one producer in turn: a run of messages to each, so that batches fill.
#[derive(Debug)]
pub struct TopicTurns {
    topics: Vec<u32>,
    sent: usize,
}

impl TopicTurns {
    /// Messages in a row to the same topic.
    const RUN: usize = 64;

    /// Of these topics, of which there is at least one.
    #[must_use]
    pub const fn new(topics: Vec<u32>) -> Self {
        Self { topics, sent: 0 }
    }

    /// Topic of the next message.
    pub fn next_topic(&mut self) -> usize {
        if let [only] = self.topics.as_slice() {
            return *only as usize;
        }
        let turn = self.sent / Self::RUN;
        self.sent = self.sent.wrapping_add(1);
        self.topics.get(turn % self.topics.len().max(1)).map_or(0, |topic| *topic as usize)
    }
}

/// Bytes of random data that bodies are cut from: small enough for a core's second cache, so that making a message
/// costs the generator no memory traffic.
const POOL_BYTES: usize = 64 * 1024;

/// The bodies of one producer, stamped in place in a ring of random bytes.
#[derive(Debug)]
pub struct BodyPool {
    bytes: Vec<u8>,
    cursor: usize,
    sizes: Sizes,
    random: SmallRng,
}

impl BodyPool {
    /// Bodies of these sizes; the same seed gives the same sizes and bytes.
    #[must_use]
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bytes = vec![0; POOL_BYTES.max(4 * sizes.high)];
        random.fill(bytes.as_mut_slice());
        Self { bytes, cursor: 0, sizes, random }
    }

    /// Size of the next body.
    pub fn next_size(&mut self) -> usize {
        self.sizes.draw(&mut self.random)
    }

    /// A body of `size` bytes (at most the largest of the range) with this stamp.
    pub fn body(&mut self, size: usize, stamp: &Stamp, checked: bool) -> &[u8] {
        if self.cursor + size > self.bytes.len() {
            self.cursor = 0;
        }
        let start = self.cursor;
        self.cursor += size;
        let body =
            self.bytes.get_mut(start..start + size).expect("the pool holds four of the largest bodies");
        stamp.write(body, checked);
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, producer: 3, sequence: 1 << 40, sent_ns: 12_345_678_901 };

    #[test]
    fn every_topic_has_a_producer_and_every_producer_a_topic() {
        for (producers, topics) in [(1, 1), (1, 5), (3, 7), (7, 3), (4, 4)] {
            let of: Vec<Vec<u32>> = (0..producers).map(|p| topics_of(p, producers, topics)).collect();
            assert!(of.iter().all(|mine| !mine.is_empty()), "{of:?}");
            assert!((0..topics).all(|topic| of.iter().flatten().any(|mine| *mine == topic)), "{of:?}");
        }
    }

    #[test]
    fn topics_take_turns() {
        let mut turns = TopicTurns::new(vec![3, 5]);
        let chosen: Vec<usize> = (0..192).map(|_| turns.next_topic()).collect();
        assert!(
            chosen[..64].iter().all(|topic| *topic == 3) && chosen[64..128].iter().all(|topic| *topic == 5)
        );
        assert!(chosen[128..].iter().all(|topic| *topic == 3));
        assert_eq!(TopicTurns::new(vec![7]).next_topic(), 7);
    }

    #[test]
    fn the_pool_gives_every_size_of_the_range_and_wraps() {
        let sizes = Sizes::range(30, 33).expect("a range");
        let mut pool = BodyPool::new(sizes, 1);
        let mut seen = std::collections::BTreeSet::new();
        for sequence in 0..10_000 {
            let size = pool.next_size();
            let stamp = Stamp { sequence, ..STAMP };
            let body = pool.body(size, &stamp, true);
            assert_eq!(body.len(), size);
            assert_eq!(Stamp::read_checked(body), Some(stamp));
            seen.insert(size);
        }
        assert_eq!(seen, (30..=33).collect());
    }

    #[test]
    fn the_pool_holds_the_largest_bodies() {
        let sizes = Sizes::range(Sizes::HIGH_MAX, Sizes::HIGH_MAX).expect("a range");
        let mut pool = BodyPool::new(sizes, 1);
        for sequence in 0..9 {
            assert_eq!(
                pool.body(Sizes::HIGH_MAX, &Stamp { sequence, ..STAMP }, false).len(),
                Sizes::HIGH_MAX
            );
        }
    }
}
