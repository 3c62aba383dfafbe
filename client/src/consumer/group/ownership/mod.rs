//! Which queues this member wishes for, owns, drains and gives back: the rules, queue by queue. Pure: what happened
//! goes in, what is to be done comes out; time is told.
//!
//! **Invariants**: a queue is read only between a grant and its release or loss; it is released only once it is drained;
//! a queue that falls to another member is kept until that one asks for it, so that none is without an owner for
//! longer than a hand-over takes; what the broker says of an epoch other than the one held changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use equeue_net::api::{CachedQueue, HeldQueue, LeaseHeartbeatAnswer};
use equeue_record::{Offset, QueueKey};

use super::super::track::{Home, QueueId};
use super::lease::Moment;

/// Pause before a queue is asked for again that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// Pause before a queue is asked for again that was given back or lost.
const AGAIN_PAUSE: Duration = Duration::from_millis(200);

/// Pause before a queue is asked for again that was given up with a handler at work.
const FENCED_PAUSE: Duration = Duration::from_secs(10);

/// Name of a broker and number of a shard there.
pub(crate) type Place = (Arc<str>, u16);

/// What a heartbeat tells of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// One in which all of it is wanted, so that the members to whom the rest has fallen are newer.
    pub generation: u64,
    /// What is held there, by key.
    pub held: Vec<HeldQueue>,
    /// What waits here of it.
    pub cached: Vec<CachedQueue>,
}

/// How long a queue that is given up may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until handlers are cancelled.
    pub drain_max: Duration,
    /// Until a handler that cannot be cancelled is given up.
    pub processing_max: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It lives elsewhere now.
    Move(QueueId, Home),
    /// Deliver nothing more of it, and say when it is drained.
    Drain(QueueId),
    /// Cancel its handlers: they took too long.
    Cancel(QueueId),
    /// Give it up though a handler is still at work: the lease is not extended any more.
    Fence(QueueId),
    /// Commit and release it.
    Release(QueueId),
    /// It is not ours any more.
    Lose(QueueId),
    /// Its offset was reset.
    Reset(QueueId, Offset, u32),
}

/// What a grant means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Read it.
    Begin(Home),
    /// It was held, or is on its way back: a wish was sent twice.
    Known,
    /// The process was stopped until its lease was over, and somebody else may have it: it is asked for again.
    Late,
    /// Nobody wants it here any more: release it.
    Unwanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Wished { asked: bool, not_before: Option<Moment> },
    Held { epoch: u32, drain: Option<Drain> },
    Releasing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drain {
    since: Moment,
    cancelled: bool,
}

#[derive(Debug)]
struct Entry {
    home: Home,
    /// It falls to this member.
    wanted: bool,
    phase: Phase,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    queues: BTreeMap<QueueId, Entry>,
    /// Key and epoch of what was given back or lost: a grant that is not newer is an old answer.
    over: BTreeMap<QueueId, (QueueKey, u32)>,
    /// The newest generation in which everything held in a place was wanted.
    agreed: BTreeMap<Place, u64>,
}

const WISHED: Phase = Phase::Wished { asked: false, not_before: None };

impl Ownership {
    /// Takes over what falls to this member in `generation`, and where queues live now.
    pub(crate) fn plan(
        &mut self,
        generation: u64,
        share: &BTreeSet<QueueId>,
        homes: &BTreeMap<QueueId, Home>,
        now: Moment,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        for (id, entry) in &mut self.queues {
            entry.wanted = share.contains(id);
            match homes.get(id) {
                // Hidden, removed, or no longer subscribed.
                None => {
                    entry.wanted = false;
                    acts.extend(entry.drain(id, now));
                }
                Some(home) if home.key != entry.home.key => {
                    if entry.phase.is_held() {
                        acts.push(Act::Lose(id.clone()));
                    }
                    entry.home = home.clone();
                    entry.phase = WISHED;
                }
                Some(home) if *home != entry.home => {
                    if entry.phase.is_held() {
                        acts.push(Act::Move(id.clone(), home.clone()));
                    }
                    entry.home = home.clone();
                }
                Some(_) => {}
            }
        }
        self.queues.retain(|_, entry| entry.wanted || !matches!(entry.phase, Phase::Wished { .. }));
        for id in share {
            if let Some(home) = homes.get(id) {
                self.queues.entry(id.clone()).or_insert_with(|| Entry {
                    home: home.clone(),
                    wanted: true,
                    phase: WISHED,
                });
            }
        }
        self.over.retain(|id, _| homes.contains_key(id));
        self.agree(generation);
        acts
    }

    /// Wishes to be sent now, by place; they count as asked for.
    pub(crate) fn ask(&mut self, now: Moment) -> BTreeMap<Place, Vec<(QueueId, QueueKey)>> {
        let mut asks: BTreeMap<Place, Vec<(QueueId, QueueKey)>> = BTreeMap::new();
        for (id, entry) in &mut self.queues {
            if let Phase::Wished { asked: false, not_before } = entry.phase
                && not_before.is_none_or(|not_before| not_before <= now)
            {
                entry.phase = Phase::Wished { asked: true, not_before: None };
                asks.entry(entry.place()).or_default().push((id.clone(), entry.home.key));
            }
        }
        asks
    }

    /// The queue was granted, for a lease that ends at `lease_end`.
    pub(crate) fn granted(
        &mut self,
        id: &QueueId,
        key: QueueKey,
        (epoch, lease_end): (u32, Moment),
        now: Moment,
    ) -> Granted {
        let is_over = self.over.get(id).is_some_and(|(of, over)| *of == key && epoch <= *over);
        match self.queues.get_mut(id).filter(|entry| entry.home.key == key) {
            // A late answer, or the broker does not know that it was given back: somebody else may have it any moment.
            Some(entry) if is_over && matches!(entry.phase, Phase::Wished { .. }) => {
                entry.phase = Phase::Wished { asked: false, not_before: Some(now.plus(AGAIN_PAUSE)) };
                Granted::Unwanted
            }
            Some(entry) if lease_end <= now && matches!(entry.phase, Phase::Wished { .. }) => {
                entry.phase = WISHED;
                Granted::Late
            }
            Some(entry) if matches!(entry.phase, Phase::Wished { .. }) => {
                entry.phase = Phase::Held { epoch, drain: None };
                Granted::Begin(entry.home.clone())
            }
            Some(_) => Granted::Known,
            None => Granted::Unwanted,
        }
    }

    /// Somebody else has it still: it is asked for again at once, since the broker lets the wish wait.
    pub(crate) fn held_elsewhere(&mut self, id: &QueueId) {
        self.wish_again(id, None);
    }

    /// The wish was refused, or nobody answered.
    pub(crate) fn refused(&mut self, id: &QueueId, now: Moment) {
        self.wish_again(id, Some(now.plus(REFUSED_PAUSE)));
    }

    fn wish_again(&mut self, id: &QueueId, not_before: Option<Moment>) {
        if let Some(entry) = self.queues.get_mut(id)
            && matches!(entry.phase, Phase::Wished { .. })
        {
            entry.phase = Phase::Wished { asked: false, not_before };
        }
    }

    /// What a heartbeat to a place tells.
    pub(crate) fn told(&self, place: &Place) -> Told {
        let held = |entry: &Entry| match entry.phase {
            Phase::Held { epoch, .. } if entry.is_at(place) => {
                Some(HeldQueue { queue: entry.home.key, grant_epoch: epoch })
            }
            _ => None,
        };
        let mut queues: Vec<HeldQueue> = self.queues.values().filter_map(held).collect();
        queues.sort_unstable_by_key(|held| held.queue);
        Told { generation: self.agreed(place), held: queues, cached: Vec::new() }
    }

    /// Places where something is held.
    pub(crate) fn places(&self) -> BTreeSet<Place> {
        self.queues.values().filter(|entry| entry.phase.is_held()).map(Entry::place).collect()
    }

    /// See [`Told::generation`].
    fn agreed(&self, place: &Place) -> u64 {
        self.agreed.get(place).copied().unwrap_or(0)
    }

    /// Everything held in a place, with its epoch.
    pub(crate) fn held_ids(&self, place: &Place) -> Vec<(QueueId, u32)> {
        let held = |(id, entry): (&QueueId, &Entry)| match entry.phase {
            Phase::Held { epoch, .. } if entry.is_at(place) => Some((id.clone(), epoch)),
            _ => None,
        };
        self.queues.iter().filter_map(held).collect()
    }

    /// What a shard answered to a heartbeat.
    pub(crate) fn beaten(
        &mut self,
        place: &Place,
        told: &Told,
        answer: &LeaseHeartbeatAnswer,
        now: Moment,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut again = Vec::new();
        let newer = self.agreed(place) > told.generation;
        for (id, entry) in &mut self.queues {
            let Phase::Held { epoch, .. } = entry.phase else { continue };
            let key = entry.home.key;
            // An answer to what was told before the grant says nothing about it.
            if !entry.is_at(place) || !told.held.contains(&HeldQueue { queue: key, grant_epoch: epoch }) {
                continue;
            }
            if answer.lost.contains(&key) {
                acts.push(Act::Lose(id.clone()));
                again.push(id.clone());
            } else if let Some(reset) = answer.reset.iter().find(|reset| reset.queue == key) {
                acts.extend(entry.reset(id, reset.offset, reset.grant_epoch));
            } else if answer.release.contains(&key) && !(entry.wanted && newer) {
                // The queue may have fallen to this member again since: whoever wishes for it still is told of by the
                // answer to the next heartbeat, which tells the newer generation.
                acts.extend(entry.drain(id, now));
            }
        }
        for id in again {
            self.given_back(&id, now);
        }
        acts
    }

    /// A fetch or a commit was told that the offset was reset.
    pub(crate) fn reset(&mut self, id: &QueueId, offset: Offset, epoch: u32) -> Option<Act> {
        self.queues.get_mut(id)?.reset(id, offset, epoch)
    }

    /// A fetch or a commit was told that this epoch is not in force.
    pub(crate) fn stale(&mut self, id: &QueueId, stale: u32, now: Moment) -> Option<Act> {
        let entry = self.queues.get(id)?;
        let held = matches!(entry.phase, Phase::Held { epoch, .. } if epoch == stale);
        held.then(|| {
            self.given_back(id, now);
            Act::Lose(id.clone())
        })
    }

    /// A queue that was to be drained is.
    pub(crate) fn drained(&mut self, id: &QueueId) -> Option<Act> {
        let entry = self.queues.get_mut(id)?;
        let Phase::Held { epoch, drain: Some(_) } = entry.phase else { return None };
        entry.phase = Phase::Releasing;
        self.over.insert(id.clone(), (entry.home.key, epoch));
        Some(Act::Release(id.clone()))
    }

    /// The broker has taken a queue back, or nobody can know.
    pub(crate) fn given_back(&mut self, id: &QueueId, now: Moment) {
        let Some(entry) = self.queues.get_mut(id) else { return };
        if let Phase::Held { epoch, .. } = entry.phase {
            self.over.insert(id.clone(), (entry.home.key, epoch));
        }
        if entry.wanted {
            entry.phase = Phase::Wished { asked: false, not_before: Some(now.plus(AGAIN_PAUSE)) };
        } else {
            self.queues.remove(id);
        }
    }

    /// Time has passed: handlers that take too long.
    pub(crate) fn tick(&mut self, now: Moment, patience: Patience) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut fenced = Vec::new();
        for (id, entry) in &mut self.queues {
            let Phase::Held { drain: Some(drain), .. } = &mut entry.phase else { continue };
            let taken = now.since(drain.since);
            if taken >= patience.processing_max {
                acts.push(Act::Fence(id.clone()));
                fenced.push(id.clone());
            } else if taken >= patience.drain_max && !drain.cancelled {
                drain.cancelled = true;
                acts.push(Act::Cancel(id.clone()));
            }
        }
        for id in fenced {
            // Not before the lease has ended: the handler may be at work still.
            self.given_back(&id, now.plus(FENCED_PAUSE));
        }
        acts
    }

    /// Wishes for nothing more and drains everything.
    pub(crate) fn leave(&mut self, now: Moment) -> Vec<Act> {
        self.queues.retain(|_, entry| !matches!(entry.phase, Phase::Wished { .. }));
        let mut acts = Vec::new();
        for (id, entry) in &mut self.queues {
            entry.wanted = false;
            acts.extend(entry.drain(id, now));
        }
        acts
    }

    /// Whether every wish was granted.
    pub(crate) fn is_settled(&self) -> bool {
        self.queues.values().all(|entry| entry.phase.is_held())
    }

    /// Whether nothing is held or on its way back.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    fn agree(&mut self, generation: u64) {
        let unwanted: BTreeSet<Place> = self
            .queues
            .values()
            .filter(|entry| !entry.wanted && matches!(entry.phase, Phase::Held { drain: None, .. }))
            .map(Entry::place)
            .collect();
        let places: BTreeSet<Place> = self.queues.values().map(Entry::place).collect();
        self.agreed.retain(|place, _| places.contains(place));
        for place in places.difference(&unwanted) {
            self.agreed.insert(place.clone(), generation);
        }
    }
}

impl Phase {
    const fn is_held(self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

impl Entry {
    fn place(&self) -> Place {
        (Arc::clone(&self.home.broker), self.home.shard)
    }

    fn is_at(&self, place: &Place) -> bool {
        self.home.broker == place.0 && self.home.shard == place.1
    }

    /// Begins to drain; nothing when it does already, or is not held.
    fn drain(&mut self, id: &QueueId, now: Moment) -> Option<Act> {
        let Phase::Held { drain: drain @ None, .. } = &mut self.phase else { return None };
        *drain = Some(Drain { since: now, cancelled: false });
        Some(Act::Drain(id.clone()))
    }

    fn reset(&mut self, id: &QueueId, offset: Offset, to: u32) -> Option<Act> {
        let Phase::Held { epoch, .. } = &mut self.phase else { return None };
        let newer = to > *epoch;
        newer.then(|| {
            *epoch = to;
            Act::Reset(id.clone(), offset, to)
        })
    }
}

#[cfg(test)]
mod tests;
