//! The oracle: what producers and consumers of a life were told, and what of it is contradicted later.
//!
//! A *life* is one data directory from its creation on. Everything here is pure: answers go in, violations come out.
//! The numbers C1..C10 are those of [`Class`].

pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod ledger;
pub(crate) mod reading;
pub(crate) mod violation;

use serde::Serialize;

use crate::content::{Content, Name, Seen};
use group::Group;
use history::{History, Refused, Slot};
use ledger::{Fate, Ledger};
use violation::{Class, Findings};

/// Everything known about a life.
#[derive(Debug)]
pub(crate) struct Evidence {
    run: u64,
    ledger: Ledger,
    histories: Vec<History>,
    groups: Vec<Group>,
    findings: Findings,
    /// The power is being cut.
    dark: bool,
    late: Late,
    /// Of what was acknowledged in the dark: not found by the last reading of each queue.
    late_lost: Vec<u64>,
    scratch: Content,
}

/// What was heard while the power was being cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Late {
    /// Messages acknowledged.
    pub(crate) acknowledged: u64,
    /// Of these, not found afterwards.
    pub(crate) lost: u64,
    /// Messages given to groups.
    pub(crate) pulled: u64,
}

impl Evidence {
    /// Of a life that begins. `run` is a random number that all its messages carry.
    pub(crate) fn new(run: u64, queues: u16, producers: u16, groups: &[&str]) -> Self {
        Self {
            run,
            ledger: Ledger::new(queues, producers),
            histories: vec![History::default(); usize::from(queues)],
            groups: groups.iter().map(|name| Group::new(name, queues)).collect(),
            findings: Findings::default(),
            dark: false,
            late: Late::default(),
            late_lost: vec![0; usize::from(queues)],
            scratch: Content::default(),
        }
    }

    /// The number of the run.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// The fates of all messages.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The groups, in the order they were named.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// One group and where its violations go.
    pub(crate) fn group(&mut self, group: usize) -> Option<(&mut Group, &mut Findings)> {
        self.groups.get_mut(group).map(|found| (found, &mut self.findings))
    }

    /// What was found.
    pub(crate) fn findings(&mut self) -> &mut Findings {
        &mut self.findings
    }

    /// The power is about to be cut under a broker that runs on for a moment; what is heard until [`Evidence::go_light`] is
    /// counted apart and is no promise.
    ///
    /// A real machine dies with its disk. Here the broker outlives it, and the kernel may tell it that a sync ended well
    /// which began before the cut and ended after it: on ext4 a sync looks for a shutdown when it begins; then it asks
    /// jbd2 for the commit of its transaction (`jbd2_complete_transaction`), which takes one that is neither running nor
    /// committing for committed, whether or not the journal was aborted meanwhile. So an answer given in that moment may
    /// rest on a commit that never reached the device, and nobody could have heard it from a machine that lost its power.
    pub(crate) fn go_dark(&mut self) {
        self.dark = true;
    }

    /// The broker is gone, and so is everything that it said.
    pub(crate) fn go_light(&mut self) {
        self.dark = false;
    }

    /// What was heard in the dark.
    pub(crate) fn late(&self) -> Late {
        Late { lost: self.late_lost.iter().sum(), ..self.late }
    }

    /// A producer is about to send its next message for a queue.
    pub(crate) fn send(&mut self, producer: u16, queue: u16) -> Name {
        self.ledger.send(producer, queue)
    }

    /// A producer was told that its message is stored in `queue` at `offset`.
    pub(crate) fn acknowledge(&mut self, name: Name, queue: u16, offset: u64) {
        if queue != name.queue {
            self.findings.note(Class::Renamed, || format!("{name} was acknowledged in queue #{queue}"));
        }
        if self.dark {
            self.late.acknowledged += 1;
            return self.settle(name, Fate::Late { offset });
        }
        self.settle(name, Fate::Acknowledged { offset });
        self.place(name.queue, offset, Slot { name, read: false });
    }

    /// A producer was told that its message was not acknowledged; `certain`: and is not stored.
    pub(crate) fn fail(&mut self, name: Name, certain: bool) {
        self.settle(name, if certain { Fate::Failed } else { Fate::Unknown });
    }

    /// The present member of a group was given a record.
    pub(crate) fn pull(&mut self, group: usize, queue: u16, offset: u64, seen: &Seen<'_>) {
        self.see(queue, offset, seen);
        self.late.pulled += u64::from(self.dark);
        if let Some(group) = self.groups.get_mut(group) {
            group.pull(queue, offset, &mut self.findings);
        }
    }

    /// A group was told that everything before `next` is committed.
    pub(crate) fn commit(&mut self, group: usize, queue: u16, next: u64) {
        if let Some(group) = self.groups.get_mut(group)
            && !self.dark
        {
            group.committed(queue, next);
        }
    }

    /// Every producer has settled: whatever has no fate yet was forgotten by the client.
    pub(crate) fn settled(&mut self) {
        let pending = self.ledger.tally().pending;
        if pending > 0 {
            self.findings.note(Class::Stuck, || {
                format!(
                    "{pending} messages were neither acknowledged nor failed after a flush of their producers"
                )
            });
        }
    }

    fn settle(&mut self, name: Name, fate: Fate) {
        match self.ledger.settle(name, fate) {
            Ok(()) => {}
            Err(Some(before)) => self.findings.note(Class::Renamed, || {
                format!("{name} was answered twice: first {before:?}, then {fate:?}")
            }),
            Err(None) => {
                self.findings.note(Class::Phantom, || format!("an answer for {name}, which was never sent"));
            }
        }
    }

    /// A consumer saw a record: checks what it is, and notes that it was there. The name when it is one of ours.
    fn see(&mut self, queue: u16, offset: u64, seen: &Seen<'_>) -> Option<Name> {
        let name = match self.scratch.check(self.run, seen) {
            Ok(name) => name,
            Err(reason) => {
                self.findings
                    .note(Class::Phantom, || format!("at offset {offset} of queue #{queue} lies {reason}"));
                return None;
            }
        };
        match self.ledger.fate(name) {
            None => self.findings.note(Class::Phantom, || {
                format!("at offset {offset} of queue #{queue} lies {name}, which was never sent")
            }),
            Some(_) if name.queue != queue => self.findings.note(Class::Phantom, || {
                format!("at offset {offset} of queue #{queue} lies {name}, which was sent elsewhere")
            }),
            Some(Fate::Failed) => self.findings.note(Class::Phantom, || {
                format!("at offset {offset} of queue #{queue} lies {name}, whose producer was told it is not stored")
            }),
            Some(_) => {}
        }
        if !self.dark {
            self.place(queue, offset, Slot { name, read: true });
        }
        Some(name)
    }

    fn place(&mut self, queue: u16, offset: u64, slot: Slot) {
        // Twice what was sent: even a queue in which everything is stored twice is described well.
        let limit = self.ledger.sent_to(queue) * 2 + 1;
        let Some(history) = self.histories.get_mut(usize::from(queue)) else { return };
        let name = slot.name;
        match history.note(offset, slot, limit) {
            Ok(()) => {}
            Err(Refused::Named(before)) => self.findings.note(Class::Renamed, || {
                format!("offset {offset} of queue #{queue} was {before}, now it is {name}")
            }),
            Err(Refused::TooFar { limit }) => self.findings.note(Class::Disorder, || {
                format!("{name} at offset {offset} of queue #{queue}, which cannot reach beyond {limit}")
            }),
        }
    }
}
