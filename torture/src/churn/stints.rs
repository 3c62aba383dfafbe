//! One owner at a time: from the grant of a queue to the end of the last handler at work under it nobody else may have been
//! granted it. Pure.

use std::collections::{BTreeMap, HashMap};

use super::GROUPS;
use super::events::{Event, What};
use super::judge::{Findings, Life};

/// How long after it was continued a process may still do what it was about to do when it was stopped, us.
const RESUMED_US: i64 = 200_000;

/// Group, topic and queue.
type Place = (u8, u32, u32);

/// What one process did with a queue from one grant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stint {
    granted_us: i64,
    last_us: i64,
    life: usize,
}

/// All stints of a run.
#[derive(Debug, Default)]
pub(super) struct Stints {
    done: BTreeMap<Place, Vec<Stint>>,
    /// Of the life that is being read.
    open: HashMap<Place, Stint>,
}

impl Stints {
    /// Takes in an event of a life; lives come one after the other.
    pub(super) fn take(&mut self, life: usize, event: &Event) {
        let place = (event.group, event.topic, event.queue);
        match event.what {
            What::Assigned => {
                let stint = Stint { granted_us: event.at_us, last_us: event.at_us, life };
                if let Some(before) = self.open.insert(place, stint) {
                    self.done.entry(place).or_default().push(before);
                }
            }
            What::Handled | What::Failed if event.direct => {
                let stint = self.open.entry(place);
                // Without any grant it is nobody's: as if it had been granted before everything else.
                let stint = stint.or_insert(Stint { granted_us: i64::MIN, last_us: i64::MIN, life });
                stint.last_us = stint.last_us.max(event.at_us);
            }
            // What begins after a queue was given up still counts as of that grant; other topics have queues of their own.
            What::GivenUp | What::Handled | What::Failed => {}
        }
    }

    /// The life is over.
    pub(super) fn end(&mut self) {
        for (place, stint) in self.open.drain() {
            self.done.entry(place).or_default().push(stint);
        }
    }

    /// Number of grants.
    pub(super) fn count(&self) -> usize {
        self.done.values().map(Vec::len).sum()
    }

    /// Looks for queues with two owners.
    pub(super) fn judge(mut self, lives: &[Life], findings: &mut Findings) {
        for ((group, topic, queue), stints) in &mut self.done {
            stints.sort_unstable();
            let mut latest: Option<Stint> = None;
            for stint in stints {
                if let Some(before) =
                    latest.filter(|one| one.life != stint.life && one.last_us > stint.granted_us)
                {
                    let was_stopped = lives.get(before.life).is_some_and(|life| {
                        life.resumed_us
                            .iter()
                            .any(|resumed| (0..RESUMED_US).contains(&(before.last_us - resumed)))
                    });
                    if was_stopped {
                        findings.excused += 1;
                    } else {
                        let name = GROUPS.get(usize::from(*group)).copied().unwrap_or_default();
                        findings.note(|| {
                            format!(
                                "group {name}: queue {queue} of topic {topic} had two owners: it was granted to \
                                 process {} at {} us, process {} had it since {} us and was at work until {} us",
                                stint.life, stint.granted_us, before.life, before.granted_us, before.last_us
                            )
                        });
                    }
                }
                latest = latest.filter(|one| one.last_us >= stint.last_us).or(Some(*stint));
            }
        }
    }
}
