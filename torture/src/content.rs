//! What a message of a run looks like: everything about it follows from the run and from its name. Pure.
//!
//! A reader makes the message again from the name in its body and compares all of it, so a wrong byte anywhere is
//! noticed without keeping a copy of what was sent. A body begins with
//!
//! | bytes | what (little endian) |
//! |---|---|
//! | 0..8 | run: a random number, so that nothing of another run is taken for a message of this one |
//! | 8..10 | producer |
//! | 10..12 | queue: index over all topics of the run |
//! | 12..16 | sequence: 0, 1, 2... of this producer in this queue |
//!
//! and goes on with bytes drawn from a generator that the same numbers seed.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Bytes of a body that name the message.
const NAME_BYTES: usize = 16;

/// Tags in use.
const TAGS: [&str; 3] = ["red", "green", "blue"];

/// The name of the header that some messages carry.
pub(crate) const HEADER: &str = "origin";

/// Which message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Who sent it.
    pub(crate) producer: u16,
    /// Index of the queue it was sent to, over all topics.
    pub(crate) queue: u16,
    /// Which one of this producer in this queue.
    pub(crate) sequence: u32,
}

impl Name {
    /// All of it in one number.
    pub(crate) fn token(self) -> u64 {
        u64::from(self.producer) << 48 | u64::from(self.queue) << 32 | u64::from(self.sequence)
    }

    /// The name in such a number.
    pub(crate) fn from_token(token: u64) -> Self {
        let [p1, p0, q1, q0, sequence @ ..] = token.to_be_bytes();
        Self {
            producer: u16::from_be_bytes([p1, p0]),
            queue: u16::from_be_bytes([q1, q0]),
            sequence: u32::from_be_bytes(sequence),
        }
    }

    /// Reads the name in front of a body of this run.
    pub(crate) fn read(run: u64, body: &[u8]) -> Option<Self> {
        let (found, rest) = body.split_first_chunk()?;
        let (producer, rest) = rest.split_first_chunk()?;
        let (queue, rest) = rest.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        (u64::from_le_bytes(*found) == run).then(|| Self {
            producer: u16::from_le_bytes(*producer),
            queue: u16::from_le_bytes(*queue),
            sequence: u32::from_le_bytes(*sequence),
        })
    }
}

/// A message as a consumer sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen<'a> {
    /// Its key.
    pub(crate) key: Option<&'a [u8]>,
    /// Its tag.
    pub(crate) tag: Option<&'a str>,
    /// Its code.
    pub(crate) code: i32,
    /// How many headers it has.
    pub(crate) header_count: usize,
    /// The first of them.
    pub(crate) header: Option<(&'a str, Option<&'a [u8]>)>,
    /// Its body.
    pub(crate) body: Option<&'a [u8]>,
}

/// What is sent; its memory is used again for the next message.
#[derive(Debug, Default)]
pub(crate) struct Content {
    key: Option<[u8; 4]>,
    tag: Option<&'static str>,
    code: i32,
    header: Option<[u8; 8]>,
    body: Vec<u8>,
}

impl Content {
    /// Becomes the message of this name.
    pub(crate) fn write(&mut self, run: u64, name: Name) {
        let mut random = SmallRng::seed_from_u64(run ^ name.token().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let size = body_bytes(&mut random);
        self.key = random.random_bool(0.5).then(|| random.random::<[u8; 4]>());
        self.tag = TAGS.get(random.random_range(0..TAGS.len() + 1)).copied();
        self.code = random.random();
        self.header = random.random_bool(0.2).then(|| random.random::<[u8; 8]>());
        self.body.clear();
        self.body.extend(run.to_le_bytes());
        self.body.extend(name.producer.to_le_bytes());
        self.body.extend(name.queue.to_le_bytes());
        self.body.extend(name.sequence.to_le_bytes());
        self.body.resize(size, 0);
        if let Some(rest) = self.body.get_mut(NAME_BYTES..) {
            random.fill(rest);
        }
    }

    /// What it looks like.
    pub(crate) fn view(&self) -> Seen<'_> {
        Seen {
            key: self.key.as_ref().map(<[u8; 4]>::as_slice),
            tag: self.tag,
            code: self.code,
            header_count: usize::from(self.header.is_some()),
            header: self.header.as_ref().map(|value| (HEADER, Some(value.as_slice()))),
            body: Some(&self.body),
        }
    }

    /// The name of what was seen, when it is exactly what was sent under that name; otherwise what is wrong. What was
    /// in here before is lost.
    pub(crate) fn check(&mut self, run: u64, seen: &Seen<'_>) -> Result<Name, String> {
        let body = seen.body.ok_or("a message without body")?;
        let name = Name::read(run, body).ok_or_else(|| {
            let front = body.get(..NAME_BYTES).unwrap_or(body);
            format!("a body of {} bytes that is not of this run, beginning with {front:02x?}", body.len())
        })?;
        self.write(run, name);
        match self.view().difference(seen) {
            None => Ok(name),
            Some(difference) => Err(format!("{name}: {difference}")),
        }
    }
}

impl Seen<'_> {
    /// The first thing in which `other` is not this.
    fn difference(&self, other: &Seen<'_>) -> Option<String> {
        let (sent, found) = (self.body.unwrap_or_default(), other.body.unwrap_or_default());
        if sent != found {
            let same = sent.iter().zip(found).take_while(|(a, b)| a == b).count();
            let (sent, found) = (sent.len(), found.len());
            return Some(format!("the body differs from byte {same} on ({sent} bytes sent, {found} found)"));
        }
        let parts = [
            ("key", self.key == other.key),
            ("tag", self.tag == other.tag),
            ("code", self.code == other.code),
            ("headers", self.header_count == other.header_count && self.header == other.header),
        ];
        parts.iter().find(|(_, same)| !same).map(|(part, _)| format!("the {part} differs"))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {} of producer {} for queue #{}", self.sequence, self.producer, self.queue)
    }
}

/// Mostly small, some of several pages, a few nearly as large as a batch: 1.3 KB on average.
fn body_bytes(random: &mut SmallRng) -> usize {
    match random.random_range(0..1000) {
        0 => random.random_range(64 << 10..200 << 10),
        1..15 => random.random_range(8 << 10..64 << 10),
        15..200 => random.random_range(512..4 << 10),
        _ => random.random_range(NAME_BYTES..512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 0x1234_5678_9abc_def0;
    const NAME: Name = Name { producer: 3, queue: 11, sequence: 70_000 };

    #[test]
    fn a_token_holds_the_name() {
        for name in [NAME, Name { producer: u16::MAX, queue: 0, sequence: u32::MAX }] {
            assert_eq!(Name::from_token(name.token()), name);
        }
    }

    #[test]
    fn what_was_sent_is_known_again() {
        let (mut sent, mut check) = (Content::default(), Content::default());
        for sequence in 0..2000 {
            let name = Name { sequence, ..NAME };
            sent.write(RUN, name);
            assert_eq!(check.check(RUN, &sent.view()), Ok(name));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_body_is_noticed() {
        let (mut sent, mut check) = (Content::default(), Content::default());
        sent.write(RUN, NAME);
        let body = sent.body.clone();
        for bit in 0..body.len() * 8 {
            let mut body = body.clone();
            body[bit / 8] ^= 1 << (bit % 8);
            let seen = Seen { body: Some(&body), ..sent.view() };
            assert!(check.check(RUN, &seen).is_err(), "bit {bit}");
        }
        for len in 0..body.len() {
            let seen = Seen { body: Some(&body[..len]), ..sent.view() };
            assert!(check.check(RUN, &seen).is_err(), "cut to {len}");
        }
        assert!(check.check(RUN, &Seen { body: None, ..sent.view() }).is_err());
        assert!(check.check(RUN ^ 1, &sent.view()).is_err());
    }

    #[test]
    fn every_other_part_is_compared() {
        let (mut sent, mut check) = (Content::default(), Content::default());
        sent.write(RUN, NAME);
        let seen = sent.view();
        let wrong = [
            Seen { key: Some(b"other"), ..seen },
            Seen { tag: Some("other"), ..seen },
            Seen { code: seen.code ^ 1, ..seen },
            Seen { header_count: seen.header_count + 1, ..seen },
            Seen { header: Some(("other", None)), ..seen },
        ];
        for wrong in wrong {
            assert!(check.check(RUN, &wrong).is_err(), "{wrong:?}");
        }
    }
}
