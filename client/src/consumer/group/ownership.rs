//! Which queues this member wishes for, owns, drains and gives back: the rules, queue by queue. Pure: what happened
//! goes in, what is to be done comes out; time is told.
//!
//! **Invariants**: a queue is read only between a grant and its release or loss; it is released only once it is drained;
//! a queue that falls to another member is kept until that one asks for it, so that none is without an owner for
//! longer than a hand-over takes; what the broker says of an epoch other than the one held changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use equeue_net::api::{HeldQueue, LeaseHeartbeatAnswer};
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

    /// What is held in a place, by key.
    pub(crate) fn held(&self, place: &Place) -> Vec<HeldQueue> {
        let held = |entry: &Entry| match entry.phase {
            Phase::Held { epoch, .. } if entry.is_at(place) => {
                Some(HeldQueue { queue: entry.home.key, grant_epoch: epoch })
            }
            _ => None,
        };
        let mut queues: Vec<HeldQueue> = self.queues.values().filter_map(held).collect();
        queues.sort_unstable_by_key(|held| held.queue);
        queues
    }

    /// Places where something is held.
    pub(crate) fn places(&self) -> BTreeSet<Place> {
        self.queues.values().filter(|entry| entry.phase.is_held()).map(Entry::place).collect()
    }

    /// The generation to tell for what is held in a place: one in which all of it is wanted, so that the members to
    /// whom the rest has fallen are newer.
    pub(crate) fn agreed(&self, place: &Place) -> u64 {
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

    /// What a shard answered to a heartbeat that told `held`.
    pub(crate) fn beaten(
        &mut self,
        place: &Place,
        told: &[HeldQueue],
        answer: &LeaseHeartbeatAnswer,
        now: Moment,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut again = Vec::new();
        for (id, entry) in &mut self.queues {
            let Phase::Held { epoch, .. } = entry.phase else { continue };
            let key = entry.home.key;
            // An answer to what was told before the grant says nothing about it.
            if !entry.is_at(place) || !told.contains(&HeldQueue { queue: key, grant_epoch: epoch }) {
                continue;
            }
            if answer.lost.contains(&key) {
                acts.push(Act::Lose(id.clone()));
                again.push(id.clone());
            } else if let Some(reset) = answer.reset.iter().find(|reset| reset.queue == key) {
                acts.extend(entry.reset(id, reset.offset, reset.grant_epoch));
            } else if answer.release.contains(&key) {
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
mod tests {
    use equeue_net::api::OffsetReset;

    use super::*;

    const PATIENCE: Patience =
        Patience { drain_max: Duration::from_secs(30), processing_max: Duration::from_mins(5) };

    fn id(ordinal: u32) -> QueueId {
        ("t".into(), ordinal)
    }

    fn key(ordinal: u32) -> QueueKey {
        QueueKey(u64::from(ordinal) + 100)
    }

    fn homes(queues: u32) -> BTreeMap<QueueId, Home> {
        (0..queues).map(|queue| (id(queue), Home { broker: "b".into(), shard: 0, key: key(queue) })).collect()
    }

    fn share(queues: &[u32]) -> BTreeSet<QueueId> {
        queues.iter().copied().map(id).collect()
    }

    fn place() -> Place {
        ("b".into(), 0)
    }

    /// Owns `queues` of `all`, in generation 1.
    fn owner(queues: &[u32], all: u32) -> (Ownership, Moment) {
        let now = Moment::now();
        let mut ownership = Ownership::default();
        assert!(ownership.plan(1, &share(queues), &homes(all), now).is_empty());
        let asks = ownership.ask(now);
        assert_eq!(asks[&place()].len(), queues.len());
        assert!(ownership.ask(now).is_empty(), "a wish is sent once");
        for queue in queues {
            assert!(matches!(
                ownership.granted(&id(*queue), key(*queue), (7, Moment::LAST), Moment::now()),
                Granted::Begin(_)
            ));
        }
        assert!(ownership.is_settled());
        (ownership, now)
    }

    fn beat(ownership: &mut Ownership, answer: &LeaseHeartbeatAnswer, now: Moment) -> Vec<Act> {
        let held = ownership.held(&place());
        ownership.beaten(&place(), &held, answer, now)
    }

    #[test]
    fn a_queue_that_falls_to_another_is_kept_until_that_one_asks() {
        let (mut ownership, now) = owner(&[0, 1], 2);
        assert_eq!(ownership.agreed(&place()), 1);
        assert!(ownership.plan(2, &share(&[0]), &homes(2), now).is_empty());
        assert_eq!((ownership.held(&place()).len(), ownership.agreed(&place())), (2, 1));
        let release = LeaseHeartbeatAnswer { release: vec![key(1)], ..LeaseHeartbeatAnswer::default() };
        assert_eq!(beat(&mut ownership, &release, now), [Act::Drain(id(1))]);
        assert!(beat(&mut ownership, &release, now).is_empty(), "told once");
        assert_eq!(ownership.held(&place()).len(), 2, "its lease is extended while it drains");
        assert_eq!(ownership.drained(&id(1)), Some(Act::Release(id(1))));
        assert_eq!(ownership.held(&place()).len(), 1);
        ownership.given_back(&id(1), now);
        assert!(ownership.ask(now.plus(Duration::from_mins(1))).is_empty(), "it is not wished for again");
        ownership.plan(2, &share(&[0]), &homes(2), now);
        assert_eq!(ownership.agreed(&place()), 2);
    }

    #[test]
    fn what_is_lost_is_wished_for_again_and_what_was_never_told_is_not_lost() {
        let (mut ownership, now) = owner(&[0], 1);
        let lost = LeaseHeartbeatAnswer { lost: vec![key(0)], ..LeaseHeartbeatAnswer::default() };
        assert!(ownership.beaten(&place(), &[], &lost, now).is_empty(), "an answer to an older list");
        assert_eq!(ownership.stale(&id(0), 6, now), None, "an older epoch");
        assert_eq!(beat(&mut ownership, &lost, now), [Act::Lose(id(0))]);
        assert!(ownership.ask(now).is_empty());
        assert_eq!(ownership.ask(now.plus(AGAIN_PAUSE)).len(), 1);
    }

    #[test]
    fn a_reset_changes_the_epoch_once() {
        let (mut ownership, now) = owner(&[0], 1);
        let reset = OffsetReset { queue: key(0), offset: Offset(3), grant_epoch: 8 };
        let answer = LeaseHeartbeatAnswer { reset: vec![reset], ..LeaseHeartbeatAnswer::default() };
        assert_eq!(beat(&mut ownership, &answer, now), [Act::Reset(id(0), Offset(3), 8)]);
        assert!(beat(&mut ownership, &answer, now).is_empty());
        assert_eq!(ownership.reset(&id(0), Offset(3), 8), None, "told by a fetch as well");
        assert_eq!(ownership.held(&place())[0].grant_epoch, 8);
    }

    #[test]
    fn handlers_that_take_too_long_are_cancelled_and_then_given_up() {
        let (mut ownership, now) = owner(&[0], 1);
        assert_eq!(ownership.leave(now), [Act::Drain(id(0))]);
        assert!(ownership.tick(now.plus(Duration::from_secs(29)), PATIENCE).is_empty());
        let late = now.plus(Duration::from_secs(31));
        assert_eq!(ownership.tick(late, PATIENCE), [Act::Cancel(id(0))]);
        assert!(ownership.tick(late, PATIENCE).is_empty());
        assert_eq!(ownership.tick(now.plus(PATIENCE.processing_max), PATIENCE), [Act::Fence(id(0))]);
        assert!(ownership.is_empty());
    }

    #[test]
    fn queues_move_are_made_anew_and_hidden() {
        let (mut ownership, now) = owner(&[0, 1, 2], 3);
        let mut homes = homes(3);
        let moved = Home { broker: "b".into(), shard: 1, key: key(0) };
        homes.insert(id(0), moved.clone());
        homes.insert(id(1), Home { broker: "b".into(), shard: 0, key: QueueKey(999) });
        homes.remove(&id(2));
        let acts = ownership.plan(1, &share(&[0, 1, 2]), &homes, now);
        assert_eq!(acts, [Act::Move(id(0), moved), Act::Lose(id(1)), Act::Drain(id(2))]);
        assert_eq!(
            ownership.granted(&id(1), key(1), (9, Moment::LAST), now),
            Granted::Unwanted,
            "a grant of the queue that was there before"
        );
        assert_eq!(ownership.ask(now)[&place()], [(id(1), QueueKey(999))]);
    }

    #[test]
    fn a_wish_that_waits_is_repeated_and_a_refused_one_later() {
        let now = Moment::now();
        let mut ownership = Ownership::default();
        ownership.plan(1, &share(&[0, 1]), &homes(2), now);
        ownership.ask(now);
        ownership.held_elsewhere(&id(0));
        ownership.refused(&id(1), now);
        assert_eq!(ownership.ask(now)[&place()], [(id(0), key(0))]);
        assert_eq!(ownership.ask(now.plus(REFUSED_PAUSE))[&place()], [(id(1), key(1))]);
        // No longer wanted: a grant that comes is given back.
        ownership.plan(2, &share(&[]), &homes(2), now);
        assert_eq!(ownership.granted(&id(0), key(0), (3, Moment::LAST), now), Granted::Unwanted);
    }

    #[test]
    fn a_grant_of_an_epoch_that_is_over_is_given_back() {
        let (mut ownership, now) = owner(&[0], 1);
        ownership.plan(2, &share(&[]), &homes(1), now);
        let release = LeaseHeartbeatAnswer { release: vec![key(0)], ..LeaseHeartbeatAnswer::default() };
        beat(&mut ownership, &release, now);
        assert_eq!(ownership.drained(&id(0)), Some(Act::Release(id(0))));
        ownership.given_back(&id(0), now);
        // Wished for again; the answer to a wish from before the release comes late.
        ownership.plan(3, &share(&[0]), &homes(1), now);
        assert_eq!(ownership.ask(now).len(), 1);
        assert_eq!(ownership.granted(&id(0), key(0), (7, Moment::LAST), now), Granted::Unwanted);
        assert!(ownership.ask(now).is_empty(), "the release goes first");
        assert_eq!(ownership.ask(now.plus(AGAIN_PAUSE)).len(), 1);
        assert!(matches!(ownership.granted(&id(0), key(0), (8, Moment::LAST), now), Granted::Begin(_)));
    }

    #[test]
    fn a_grant_whose_lease_is_over_is_asked_for_again() {
        let now = Moment::now();
        let mut ownership = Ownership::default();
        ownership.plan(1, &share(&[0]), &homes(1), now);
        ownership.ask(now);
        assert_eq!(ownership.granted(&id(0), key(0), (7, now), now), Granted::Late);
        assert!(ownership.held(&place()).is_empty());
        assert_eq!(ownership.ask(now)[&place()], [(id(0), key(0))]);
        let soon = now.plus(Duration::from_millis(1));
        assert!(matches!(ownership.granted(&id(0), key(0), (7, soon), now), Granted::Begin(_)));
    }
}
