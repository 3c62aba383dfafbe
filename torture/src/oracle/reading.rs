//! One queue, read from its start by a fresh consumer, against everything known about it (C1..C6). Pure.

use super::Evidence;
use super::ledger::Fate;
use super::violation::Class;
use crate::content::Seen;

/// A queue that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    queue: u16,
    next: u64,
    /// Per producer: where each of its messages was found.
    found: Vec<Vec<Option<u64>>>,
    /// Per producer: the last sequence found.
    last: Vec<Option<u32>>,
}

impl Reading {
    /// Begins at the start of the queue. Nothing may be sent to it until the reading is finished.
    pub(crate) fn begin(evidence: &Evidence, queue: u16) -> Self {
        let fates = evidence.ledger().of_queue(queue);
        Self {
            queue,
            next: 0,
            found: fates.iter().map(|fates| vec![None; fates.len()]).collect(),
            last: vec![None; fates.len()],
        }
    }

    /// Looks at the next record.
    pub(crate) fn record(&mut self, evidence: &mut Evidence, offset: u64, seen: &Seen<'_>) {
        let (queue, expected) = (self.queue, self.next);
        if offset != expected {
            evidence.findings().note(Class::Disorder, || {
                format!("queue #{queue} goes on with offset {offset} where {expected} was expected")
            });
        }
        self.next = self.next.max(offset.saturating_add(1));
        let Some(name) = evidence.see(queue, offset, seen) else { return };
        if name.queue != queue {
            return;
        }
        let producer = usize::from(name.producer);
        let Some(place) =
            self.found.get_mut(producer).and_then(|found| found.get_mut(name.sequence as usize))
        else {
            return;
        };
        if let Some(first) = *place {
            evidence.findings().note(Class::Duplicate, || {
                format!("{name} is stored at offset {first} and again at {offset}")
            });
            return;
        }
        *place = Some(offset);
        let Some(last) = self.last.get_mut(producer) else { return };
        if let Some(before) = *last
            && name.sequence < before
        {
            evidence.findings().note(Class::Disorder, || {
                format!("{name} lies at offset {offset}, behind message {before} of the same producer")
            });
        }
        *last = Some(last.map_or(name.sequence, |last| last.max(name.sequence)));
    }

    /// The queue ends here.
    pub(crate) fn finish(self, evidence: &mut Evidence) {
        let Self { queue, next, found, .. } = self;
        let Evidence { ledger, histories, findings, late_lost, .. } = evidence;
        let mut lost = 0;
        for (producer, (fates, found)) in ledger.of_queue(queue).iter().zip(&found).enumerate() {
            for (sequence, (fate, found)) in fates.iter().zip(found).enumerate() {
                let (Fate::Acknowledged { offset } | Fate::Late { offset }) = *fate else { continue };
                match *found {
                    None if matches!(fate, Fate::Late { .. }) => lost += 1,
                    None => findings.note(Class::Lost, || {
                        format!(
                            "message {sequence} of producer {producer} was acknowledged at offset {offset} of queue \
                             #{queue} and is nowhere in it; the queue ends at {next}"
                        )
                    }),
                    Some(found) if found != offset => findings.note(Class::Renamed, || {
                        format!(
                            "message {sequence} of producer {producer} was acknowledged at offset {offset} of queue \
                             #{queue} and lies at {found}"
                        )
                    }),
                    Some(_) => {}
                }
            }
        }
        if let Some(late_lost) = late_lost.get_mut(usize::from(queue)) {
            *late_lost = lost;
        }
        // What is read below `next` was compared with the history record by record.
        let Some(history) = histories.get(usize::from(queue)) else { return };
        for (offset, slot) in history.from(next).filter(|(_, slot)| slot.read) {
            findings.note(Class::Unread, || {
                format!(
                    "a consumer was given {} at offset {offset}; queue #{queue} now ends at {next}",
                    slot.name
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Content, Name};

    const RUN: u64 = 77;
    const QUEUE: u16 = 1;

    /// A life of two producers that sent ten messages each to queue 1, stored in turn: offset = sequence * 2 +
    /// producer. The odd ones of producer 1 are not known to be stored.
    struct Life {
        evidence: Evidence,
        stored: Vec<Name>,
    }

    impl Life {
        fn new() -> Self {
            let mut evidence = Evidence::new(RUN, 2, 2, &["along"]);
            let mut stored = Vec::new();
            for sequence in 0..10 {
                for producer in 0..2 {
                    let name = evidence.send(producer, QUEUE);
                    assert_eq!(name, Name { producer, queue: QUEUE, sequence });
                    let offset = stored.len() as u64;
                    if producer == 1 && sequence % 2 == 1 {
                        evidence.fail(name, false);
                    } else {
                        evidence.acknowledge(name, QUEUE, offset);
                    }
                    stored.push(name);
                }
            }
            Self { evidence, stored }
        }

        fn read(&mut self) {
            let stored: Vec<_> = (0..).zip(self.stored.clone()).collect();
            self.read_these(&stored);
        }

        fn read_these(&mut self, stored: &[(u64, Name)]) {
            let mut reading = Reading::begin(&self.evidence, QUEUE);
            let mut content = Content::default();
            for (offset, name) in stored {
                content.write(RUN, *name);
                reading.record(&mut self.evidence, *offset, &content.view());
            }
            reading.finish(&mut self.evidence);
        }

        /// Classes found, with their counts.
        fn found(&mut self) -> Vec<(&'static str, u64)> {
            let findings = self.evidence.findings();
            let counts = Class::ALL.map(|class| (class.number(), findings.count(class)));
            counts.into_iter().filter(|(_, count)| *count > 0).collect()
        }
    }

    #[test]
    fn a_good_queue_is_good_again_and_again() {
        let mut life = Life::new();
        life.read();
        life.read();
        assert_eq!(life.found(), []);
    }

    #[test]
    fn c1_a_lost_tail_is_found_and_what_was_never_promised_is_not() {
        let mut life = Life::new();
        life.stored.pop(); // Sent, but with an unknown outcome.
        life.read();
        assert_eq!(life.found(), []);
        life.stored.pop();
        life.read();
        // It was also read a moment ago.
        assert_eq!(life.found(), [("C1", 1), ("C6", 1)]);
    }

    #[test]
    fn c1_an_empty_queue_has_lost_everything() {
        let mut life = Life::new();
        life.read_these(&[]);
        assert_eq!(life.found(), [("C1", 15)]);
    }

    #[test]
    fn c2_a_message_that_nobody_sent_is_found() {
        let mut life = Life::new();
        life.stored.push(Name { producer: 0, queue: QUEUE, sequence: 10 });
        life.stored.push(Name { producer: 9, queue: QUEUE, sequence: 0 });
        life.stored.push(Name { producer: 0, queue: 0, sequence: 0 });
        life.read();
        assert_eq!(life.found(), [("C2", 3)]);
    }

    #[test]
    fn c2_a_message_of_another_queue_is_found() {
        let mut life = Life::new();
        let elsewhere = life.evidence.send(0, 0);
        life.stored.push(elsewhere);
        life.read();
        assert_eq!(life.found(), [("C2", 1)]);
    }

    #[test]
    fn c2_an_altered_body_is_found() {
        let mut life = Life::new();
        let mut reading = Reading::begin(&life.evidence, QUEUE);
        let mut content = Content::default();
        for (offset, name) in (0..).zip(life.stored.clone()) {
            content.write(RUN, name);
            let mut body = content.view().body.unwrap().to_vec();
            if offset == 7 {
                *body.last_mut().unwrap() ^= 1;
            }
            let seen = Seen { body: Some(&body), ..content.view() };
            reading.record(&mut life.evidence, offset, &seen);
        }
        reading.finish(&mut life.evidence);
        // Offset 7 holds a message whose outcome was unknown: nothing is lost.
        assert_eq!(life.found(), [("C2", 1)]);
    }

    #[test]
    fn c2_a_message_that_was_said_not_to_be_stored_is_found() {
        let mut life = Life::new();
        let name = life.evidence.send(0, QUEUE);
        life.evidence.fail(name, true);
        life.stored.push(name);
        life.read();
        assert_eq!(life.found(), [("C2", 1)]);
    }

    #[test]
    fn c3_an_offset_that_names_another_message_is_found() {
        let mut life = Life::new();
        // Neighbours are of two producers: each one's order stays as it was.
        life.stored.swap(0, 1);
        life.read();
        // Both offsets were told to producers, and neither message is where its receipt says.
        assert_eq!(life.found(), [("C3", 4)]);
    }

    #[test]
    fn c3_a_place_that_was_only_read_is_remembered() {
        let mut life = Life::new();
        life.read();
        // 3 and 7 hold messages that were never acknowledged.
        life.stored.swap(3, 7);
        life.read();
        assert_eq!(life.found(), [("C3", 2), ("C4", 2)]);
    }

    #[test]
    fn c3_an_acknowledgement_for_another_queue_and_a_second_one_are_found() {
        let mut life = Life::new();
        let name = life.evidence.send(0, QUEUE);
        life.evidence.acknowledge(name, 0, 20);
        life.evidence.fail(name, false);
        assert_eq!(life.found(), [("C3", 2)]);
    }

    #[test]
    fn c4_a_hole_in_the_offsets_is_found() {
        let mut life = Life::new();
        let mut stored: Vec<_> = (0..).zip(life.stored.clone()).collect();
        stored.remove(19);
        stored.remove(3);
        life.read_these(&stored);
        assert_eq!(life.found(), [("C4", 1)]);
    }

    #[test]
    fn c4_an_offset_that_comes_again_is_found() {
        let mut life = Life::new();
        let mut stored: Vec<_> = (0..).zip(life.stored.clone()).collect();
        stored.insert(4, stored[2]);
        life.read_these(&stored);
        assert_eq!(life.found(), [("C4", 1), ("C5", 1)]);
    }

    #[test]
    fn c4_a_producer_out_of_order_is_found() {
        let mut life = Life::new();
        // Messages whose place nobody was told.
        life.stored.swap(3, 7);
        life.read();
        assert_eq!(life.found(), [("C4", 2)]);
    }

    #[test]
    fn c4_an_offset_out_of_all_bounds_is_found_without_memory_for_it() {
        let mut life = Life::new();
        let mut stored: Vec<_> = (0..).zip(life.stored.clone()).collect();
        stored.last_mut().unwrap().0 = u64::MAX;
        life.read_these(&stored);
        assert_eq!(life.found(), [("C4", 2)]);
    }

    #[test]
    fn c5_a_message_stored_twice_is_found() {
        let mut life = Life::new();
        life.stored.push(life.stored[19]);
        life.stored.push(life.stored[18]);
        life.read();
        assert_eq!(life.found(), [("C5", 2)]);
    }

    #[test]
    fn c6_what_a_consumer_was_given_must_stay() {
        let mut life = Life::new();
        let mut content = Content::default();
        for (offset, name) in (0..).zip(life.stored.clone()) {
            content.write(RUN, name);
            life.evidence.pull(0, QUEUE, offset, &content.view());
        }
        assert_eq!(life.found(), []);
        // The last one has an unknown outcome: no producer misses it, the consumer does.
        life.stored.pop();
        life.read();
        assert_eq!(life.found(), [("C6", 1)]);
    }

    #[test]
    fn what_was_heard_while_the_power_was_cut_is_counted_apart() {
        let mut life = Life::new();
        let mut content = Content::default();
        let before = life.stored.len() as u64;
        for (offset, name) in (0..).zip(life.stored.clone()) {
            content.write(RUN, name);
            life.evidence.pull(0, QUEUE, offset, &content.view());
        }
        life.evidence.go_dark();
        let (kept, lost) = (life.evidence.send(0, QUEUE), life.evidence.send(1, QUEUE));
        for (offset, name) in (before..).zip([kept, lost]) {
            life.evidence.acknowledge(name, QUEUE, offset);
            content.write(RUN, name);
            life.evidence.pull(0, QUEUE, offset, &content.view());
            life.evidence.commit(0, QUEUE, offset + 1);
        }
        life.evidence.go_light();
        life.stored.push(kept);
        life.read();
        assert_eq!(life.found(), []);
        let late = life.evidence.late();
        assert_eq!((late.acknowledged, late.lost, late.pulled), (2, 1, 2));
        assert_eq!(life.evidence.groups()[0].floors()[usize::from(QUEUE)], 0);
        // The offset of the one that is gone may be given to another.
        let other = life.evidence.send(0, QUEUE);
        life.evidence.acknowledge(other, QUEUE, before + 1);
        life.stored.push(other);
        life.read();
        assert_eq!(life.found(), []);
        // What was heard in the dark and is wrong is wrong all the same.
        life.stored.swap(20, 21);
        life.read();
        assert!(life.evidence.findings().total() > 0);
    }

    #[test]
    fn what_was_heard_before_the_cut_counts_whenever_it_is_missed() {
        let mut life = Life::new();
        life.evidence.go_dark();
        life.evidence.go_light();
        life.stored.truncate(18);
        life.read();
        assert_eq!(life.found(), [("C1", 1)]);
    }

    #[test]
    fn c9_messages_without_an_answer_are_found() {
        let mut life = Life::new();
        life.evidence.settled();
        assert_eq!(life.found(), []);
        life.evidence.send(1, 0);
        life.evidence.settled();
        assert_eq!(life.found(), [("C9", 1)]);
    }
}
