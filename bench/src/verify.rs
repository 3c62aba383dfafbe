//! Checks what consumers receive against what producers sent. Pure: no clock, no socket.
//!
//! Messages are named by (producer, sequence), places by (queue, offset). What counts as what:
//! - *lost*: acknowledged, but never received;
//! - *duplicated*: received again at another place. The same place read twice (after a queue moved to another consumer)
//!   is a *redelivery*, which at-least-once delivery allows;
//! - *reordered*: in one queue, a producer's message came after a later one of the same producer;
//! - *corrupted*: the body is not what was sent, or was never sent;
//! - *foreign*: of another run; not checked.

use std::collections::{BTreeMap, BTreeSet};

use crate::stamp::Stamp;

/// Sequences above this are not taken from a body: they would cost memory before they could be judged (1 GiB of marks).
const SEQUENCE_MAX: u64 = 1 << 33;

/// Which run's messages are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Messages of this run, by so many producers.
    Run {
        /// Number of the run.
        run: u32,
        /// Its producers.
        producers: u32,
    },
    /// A backlog of an earlier run: the first run that is seen is the one.
    FirstSeen,
}

/// What one producer did, for the final count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// It sent the sequences `0..sent`.
    pub sent: u64,
    /// Of these, the ones that were not acknowledged: they may be there or not.
    pub unacknowledged: BTreeSet<u64>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Messages that were received and right, each counted once.
    pub received: u64,
    /// Acknowledged, never received.
    pub lost: u64,
    /// Received again at another place.
    pub duplicated: u64,
    /// Received after a later message of the same producer in the same queue.
    pub reordered: u64,
    /// Not what was sent.
    pub corrupted: u64,
    /// The same place received twice.
    pub redelivered: u64,
    /// Messages of another run.
    pub foreign: u64,
}

impl Findings {
    /// Nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.reordered == 0 && self.corrupted == 0
    }
}

/// Checks messages one by one, in the order in which each queue gave them.
#[derive(Debug)]
pub struct Verifier {
    run: Option<u32>,
    producers_max: u32,
    producers: Vec<Seen>,
    /// Per queue, the offset after the last one received.
    next_offsets: BTreeMap<u32, u64>,
    findings: Findings,
}

/// What was seen of one producer.
#[derive(Debug, Default)]
struct Seen {
    /// One bit per sequence.
    marks: Vec<u64>,
    /// Per queue, the highest sequence received.
    highest: BTreeMap<u32, u64>,
}

impl Seen {
    /// Marks a sequence; `false` when it was marked before.
    fn mark(&mut self, sequence: u64) -> bool {
        let (index, bit) = place(sequence);
        if index >= self.marks.len() {
            self.marks.resize(index + 1, 0);
        }
        let Some(word) = self.marks.get_mut(index) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let (index, bit) = place(sequence);
        self.marks.get(index).is_some_and(|word| word & bit != 0)
    }

    /// The sequence after the highest one marked.
    fn end(&self) -> u64 {
        let zeros = self.marks.last().map_or(0, |word| word.leading_zeros());
        (self.marks.len() as u64 * 64).saturating_sub(u64::from(zeros))
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let index = usize::try_from(sequence / 64).expect("sequences are bounded");
    (index, 1 << (sequence % 64))
}

impl Verifier {
    /// Nothing received yet.
    #[must_use]
    pub fn new(expect: Expect) -> Self {
        let (run, producers_max) = match expect {
            Expect::Run { run, producers } => (Some(run), producers),
            Expect::FirstSeen => (None, 10_000),
        };
        Self {
            run,
            producers_max,
            producers: Vec::new(),
            next_offsets: BTreeMap::new(),
            findings: Findings::default(),
        }
    }

    /// Takes one message. `queue` is its topic-wide ordinal.
    pub fn observe(&mut self, queue: u32, offset: u64, body: &[u8]) {
        let next = self.next_offsets.entry(queue).or_insert(0);
        if offset < *next {
            self.findings.redelivered += 1;
            return;
        }
        *next = offset.saturating_add(1);
        let Some(stamp) = Stamp::read_checked(body) else {
            self.findings.corrupted += 1;
            return;
        };
        if *self.run.get_or_insert(stamp.run) != stamp.run {
            self.findings.foreign += 1;
            return;
        }
        if stamp.producer >= self.producers_max || stamp.sequence > SEQUENCE_MAX {
            self.findings.corrupted += 1;
            return;
        }
        self.place(queue, stamp.producer as usize, stamp.sequence);
    }

    fn place(&mut self, queue: u32, producer: usize, sequence: u64) {
        if producer >= self.producers.len() {
            self.producers.resize_with(producer + 1, Seen::default);
        }
        let Some(seen) = self.producers.get_mut(producer) else { return };
        if !seen.mark(sequence) {
            self.findings.duplicated += 1;
            return;
        }
        self.findings.received += 1;
        match seen.highest.get_mut(&queue) {
            Some(highest) if sequence < *highest => self.findings.reordered += 1,
            Some(highest) => *highest = sequence,
            None => {
                seen.highest.insert(queue, sequence);
            }
        }
    }

    /// The final count. Without knowing what was `sent`, every hole below a producer's highest sequence is a loss.
    #[must_use]
    pub fn finish(&self, sent: Option<&[Sent]>) -> Findings {
        let mut findings = self.findings;
        match sent {
            None => {
                for seen in &self.producers {
                    let marked: u64 = seen.marks.iter().map(|word| u64::from(word.count_ones())).sum();
                    findings.lost += seen.end() - marked;
                }
            }
            Some(producers) => {
                let nothing = Seen::default();
                for (index, sent) in producers.iter().enumerate() {
                    let seen = self.producers.get(index).unwrap_or(&nothing);
                    let missing = (0..sent.sent).filter(|sequence| !seen.is_marked(*sequence));
                    findings.lost +=
                        missing.filter(|sequence| !sent.unacknowledged.contains(sequence)).count() as u64;
                    let phantoms =
                        (sent.sent..seen.end()).filter(|sequence| seen.is_marked(*sequence)).count() as u64;
                    findings.corrupted += phantoms;
                    findings.received -= phantoms;
                }
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 77;

    fn body(run: u32, producer: u32, sequence: u64) -> Vec<u8> {
        let mut body = vec![0x11; 40];
        Stamp { run, producer, sequence, sent_ns: 1 }.write(&mut body, true);
        body
    }

    fn verifier() -> Verifier {
        Verifier::new(Expect::Run { run: RUN, producers: 2 })
    }

    fn sent(counts: &[u64]) -> Vec<Sent> {
        counts.iter().map(|sent| Sent { sent: *sent, ..Sent::default() }).collect()
    }

    /// Two producers, two queues: message n of a producer lies in queue n % 2.
    fn receive(verifier: &mut Verifier, without: impl Fn(u32, u64) -> bool) {
        let mut offsets = [0; 2];
        for sequence in 0..200 {
            for producer in 0..2 {
                if !without(producer, sequence) {
                    let queue = u32::from(sequence % 2 == 1);
                    verifier.observe(queue, offsets[queue as usize], &body(RUN, producer, sequence));
                    offsets[queue as usize] += 1;
                }
            }
        }
    }

    #[test]
    fn a_clean_run_is_clean() {
        let mut verifier = verifier();
        receive(&mut verifier, |_, _| false);
        let findings = verifier.finish(Some(&sent(&[200, 200])));
        assert_eq!(findings, Findings { received: 400, ..Findings::default() });
        assert!(findings.is_clean());
        assert_eq!(verifier.finish(None), findings);
    }

    #[test]
    fn a_loss_is_seen_in_the_middle_and_at_the_end() {
        let mut verifier = verifier();
        receive(&mut verifier, |producer, sequence| producer == 1 && (sequence == 5 || sequence == 199));
        let findings = verifier.finish(Some(&sent(&[200, 200])));
        assert_eq!((findings.lost, findings.received), (2, 398));
        assert!(!findings.is_clean());
        assert_eq!(verifier.finish(None).lost, 1, "without the producer's word the end is unknown");
    }

    #[test]
    fn a_producer_of_which_nothing_came_is_lost_whole() {
        let mut verifier = verifier();
        receive(&mut verifier, |producer, _| producer == 1);
        assert_eq!(verifier.finish(Some(&sent(&[200, 200]))).lost, 200);
    }

    #[test]
    fn what_was_not_acknowledged_may_be_missing_or_there() {
        let mut verifier = verifier();
        receive(&mut verifier, |producer, sequence| producer == 0 && sequence == 7);
        let mut sent = sent(&[200, 200]);
        sent[0].unacknowledged = BTreeSet::from([7, 8]);
        assert!(verifier.finish(Some(&sent)).is_clean());
    }

    #[test]
    fn a_duplicate_at_another_place_is_seen_and_a_redelivery_is_not_one() {
        let mut verifier = verifier();
        receive(&mut verifier, |_, _| false);
        verifier.observe(0, 3, &body(RUN, 1, 2));
        verifier.observe(0, 200, &body(RUN, 1, 2));
        verifier.observe(1, 200, &body(RUN, 0, 2));
        let findings = verifier.finish(Some(&sent(&[200, 200])));
        assert_eq!((findings.redelivered, findings.duplicated, findings.received), (1, 2, 400));
        assert_eq!((findings.reordered, findings.lost), (0, 0));
    }

    #[test]
    fn order_is_that_of_a_producer_in_a_queue() {
        let mut verifier = verifier();
        for (offset, sequence) in [0, 2, 1].into_iter().enumerate() {
            verifier.observe(0, offset as u64, &body(RUN, 0, sequence));
        }
        assert_eq!(verifier.finish(Some(&sent(&[3, 0]))).reordered, 1);

        let mut verifier = Verifier::new(Expect::Run { run: RUN, producers: 2 });
        for (queue, offset, producer, sequence) in [(0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 1, 0)] {
            verifier.observe(queue, offset, &body(RUN, producer, sequence));
        }
        assert!(
            verifier.finish(Some(&sent(&[2, 1]))).is_clean(),
            "queues and producers have no order between them"
        );
    }

    #[test]
    fn a_changed_body_is_corrupted_and_its_message_lost() {
        let mut verifier = verifier();
        let mut changed = body(RUN, 0, 0);
        changed[39] ^= 1;
        verifier.observe(0, 0, &changed);
        verifier.observe(0, 1, &changed[..20]);
        verifier.observe(0, 2, b"");
        let findings = verifier.finish(Some(&sent(&[1, 0])));
        assert_eq!((findings.corrupted, findings.lost, findings.received), (3, 1, 0));
    }

    #[test]
    fn what_was_never_sent_is_corrupted() {
        let mut verifier = verifier();
        verifier.observe(0, 0, &body(RUN, 0, 0));
        verifier.observe(0, 1, &body(RUN, 0, 1));
        verifier.observe(0, 2, &body(RUN, 9, 0));
        verifier.observe(0, 3, &body(RUN, 1, u64::MAX));
        let findings = verifier.finish(Some(&sent(&[1, 0])));
        assert_eq!((findings.received, findings.corrupted, findings.lost), (1, 3, 0));
    }

    #[test]
    fn another_run_is_foreign_unless_it_is_the_backlog() {
        let mut verifier = verifier();
        verifier.observe(0, 0, &body(RUN + 1, 0, 0));
        assert_eq!(verifier.finish(Some(&sent(&[0, 0]))), Findings { foreign: 1, ..Findings::default() });

        let mut backlog = Verifier::new(Expect::FirstSeen);
        backlog.observe(0, 0, &body(RUN, 5, 0));
        backlog.observe(0, 1, &body(RUN + 1, 5, 1));
        backlog.observe(0, 2, &body(RUN, 5, 2));
        let findings = backlog.finish(None);
        assert_eq!((findings.received, findings.foreign, findings.lost), (2, 1, 1));
    }
}
