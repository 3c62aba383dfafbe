//! A model of one queue, its broker and two members that want it, explored breadth first within bounds (stateright). What
//! decides in it is [`equeue_broker::group::Grant`], the code that the broker runs; around it the model has time, messages
//! that are late, reordered or lost, a log whose tail is lost by a restart, pauses of the broker, resets, generations.
//!
//! What must hold in every state: two members never both believe that they own the queue; nothing is stored under a grant
//! that is over; what is committed never goes back but by a reset, is never past what was handled, and epochs never go back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

use std::collections::BTreeSet;

use equeue_broker::group::{Ask, Beat, CommitDecision, Grant, Progress, Rules};
use equeue_net::api::Tries;
use equeue_record::Offset;
use equeue_storage::log::QueueBounds;
use stateright::{Checker, Model, Property};

const LEASE: u64 = 2;
const TIME_MAX: u64 = 4;
const MESSAGES: u64 = 1;
/// Steps of the longest run. By steps and not by states: which states are the first is up to the threads that search.
const STEPS_MAX: usize = 17;
/// Messages on their way at the same time.
const IN_FLIGHT_MAX: usize = 2;
const BOUNDS: QueueBounds =
    QueueBounds { start: Offset(0), durable_end: Offset(MESSAGES), end: Offset(MESSAGES) };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Ask { member: usize, generation: u64, sent: u64 },
    Beat { member: usize, epoch: u32, generation: u64, sent: u64 },
    Commit { member: usize, epoch: u32, offset: u64 },
    Release { member: usize, epoch: u32, offset: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Answer {
    /// Also what a heartbeat tells after a reset.
    Granted {
        member: usize,
        epoch: u32,
        offset: u64,
        until: u64,
    },
    Kept {
        member: usize,
        epoch: u32,
        until: u64,
    },
    Lost {
        member: usize,
        epoch: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    epoch: u32,
    /// By the member's clock, which is the real time: counted from when it asked.
    until: u64,
    position: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    generation: u64,
    held: Option<Held>,
    /// The newest epoch that it gave back or lost: what comes of it later is an old answer.
    over: u32,
    asked: u8,
    beaten: u8,
    committed: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    /// The lease clock of the broker.
    lease_now: u64,
    grant: Grant,
    durable: Progress,
    /// Wait until everything decided so far is durable.
    waiting: Vec<Answer>,
    requests: BTreeSet<Request>,
    answers: BTreeSet<Answer>,
    members: [Member; 2],
    pauses: u8,
    restarts: u8,
    resets: u8,
    /// Ghosts: who was granted the queue last, how far anybody has handled, whether a reset waits to be durable, and the
    /// first rule that was broken.
    owner: Option<usize>,
    handled: u64,
    reset_waits: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    Pause,
    Flush,
    Restart,
    Reset,
    Deliver(Request),
    Receive(Answer),
    Ask(usize),
    Beat(usize),
    Handle(usize),
    Commit(usize),
    Release(usize),
    Learn(usize),
}

/// What may happen to the broker, and how often.
#[derive(Clone, Copy)]
struct Mishaps {
    pauses: u8,
    restarts: u8,
    resets: u8,
}

struct Grants {
    mishaps: Mishaps,
    check_epochs: bool,
    /// A restart gives the recorded holder a lease.
    lease_at_restart: bool,
}

/// Incarnations are not zero.
fn incarnation(member: usize) -> u128 {
    member as u128 + 1
}

impl Grants {
    fn rules(&self) -> Rules {
        Rules { lease_ms: LEASE, wish_ms: 2 * LEASE, check_epochs: self.check_epochs }
    }

    fn deliver(&self, world: &mut World, request: Request) {
        let (mut grant, rules, now) = (world.grant, self.rules(), world.lease_now);
        match request {
            Request::Ask { member, generation, sent } => {
                let asked = grant.ask(incarnation(member), generation, now, rules);
                world.grant = grant;
                if matches!(asked, Ask::Store(_)) {
                    world.owner = Some(member);
                }
                if matches!(asked, Ask::Store(_) | Ask::Again) {
                    world.waiting.push(granted(member, grant.record(), sent));
                }
            }
            Request::Beat { member, epoch, generation, sent } => {
                let told = grant.beat(incarnation(member), epoch, generation, now, rules);
                world.grant = grant;
                match told {
                    Beat::Kept | Beat::Release => {
                        world.answers.insert(Answer::Kept { member, epoch, until: sent + LEASE });
                    }
                    Beat::Reset { .. } => world.waiting.push(granted(member, grant.record(), sent)),
                    Beat::Lost => {
                        world.answers.insert(Answer::Lost { member, epoch });
                    }
                }
            }
            Request::Commit { member, epoch, offset } => {
                let by = (incarnation(member), epoch);
                let decided = grant.commit(by, (Offset(offset), Tries::default()), BOUNDS, now, rules);
                stored(world, member, offset, grant, decided);
            }
            Request::Release { member, epoch, offset } => {
                let by = (incarnation(member), epoch);
                let decided = grant.release(by, Some((Offset(offset), Tries::default())), BOUNDS, rules);
                stored(world, member, offset, grant, decided);
                if matches!(decided, CommitDecision::Store(_)) {
                    world.owner = None;
                }
            }
        }
    }
}

fn granted(member: usize, record: Progress, sent: u64) -> Answer {
    let offset = record.committed.unwrap_or_default().0;
    Answer::Granted { member, epoch: record.grant_epoch, offset, until: sent + LEASE }
}

/// Takes a decision in, and looks at what must hold of everything that is stored.
fn stored(world: &mut World, member: usize, offset: u64, grant: Grant, decided: CommitDecision) {
    if matches!(decided, CommitDecision::Refuse(_)) {
        return;
    }
    if matches!(decided, CommitDecision::Store(_)) {
        let before = world.grant.record().committed;
        if world.owner != Some(member) {
            world.broken = Some("something was stored under a grant that is over");
        } else if offset > world.handled {
            world.broken = Some("a commit is past what was handled");
        } else if grant.record().committed < before {
            world.broken = Some("a commit went back");
        }
    }
    world.grant = grant;
}

impl Member {
    fn receive(&mut self, answer: Answer) {
        match answer {
            Answer::Granted { epoch, .. } if epoch <= self.over => {}
            Answer::Granted { epoch, offset, until, .. } => match &mut self.held {
                Some(held) if held.epoch == epoch => held.until = held.until.max(until),
                Some(held) if held.epoch > epoch => {} // an old answer
                held => *held = Some(Held { epoch, until, position: offset }),
            },
            Answer::Kept { epoch, until, .. } => {
                if let Some(held) = self.held.as_mut().filter(|held| held.epoch == epoch) {
                    held.until = held.until.max(until);
                }
            }
            Answer::Lost { epoch, .. } => {
                self.over = self.over.max(epoch);
                if self.held.is_some_and(|held| held.epoch == epoch) {
                    self.held = None;
                }
            }
        }
    }
}

impl Answer {
    fn member(self) -> usize {
        match self {
            Self::Granted { member, .. } | Self::Kept { member, .. } | Self::Lost { member, .. } => member,
        }
    }
}

impl Model for Grants {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            lease_now: 0,
            grant: Grant::default(),
            durable: Progress::default(),
            waiting: Vec::new(),
            requests: BTreeSet::new(),
            answers: BTreeSet::new(),
            members: [Member { generation: 1, ..Member::default() }; 2],
            pauses: 0,
            restarts: 0,
            resets: 0,
            owner: None,
            handled: 0,
            reset_waits: false,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.now < TIME_MAX {
            steps.push(Step::Tick);
            if world.pauses < self.mishaps.pauses {
                steps.push(Step::Pause);
            }
        }
        if !world.waiting.is_empty() || world.durable != world.grant.record() {
            steps.push(Step::Flush);
        }
        if world.restarts < self.mishaps.restarts {
            steps.push(Step::Restart);
        }
        if world.resets < self.mishaps.resets && world.handled > 0 {
            steps.push(Step::Reset);
        }
        steps.extend(world.requests.iter().copied().map(Step::Deliver));
        steps.extend(world.answers.iter().copied().map(Step::Receive));
        for (index, member) in world.members.iter().enumerate() {
            if index == 1 && member.generation == 1 {
                steps.push(Step::Learn(index));
            }
            let Some(held) = member.held else {
                // A member asks again when its release was answered, or has been given up.
                let releases = |request: &Request| matches!(request, Request::Release { member, .. } if *member == index);
                if member.asked < 2 - index as u8 && !world.requests.iter().any(releases) {
                    steps.push(Step::Ask(index));
                }
                continue;
            };
            if member.beaten < 1 {
                steps.push(Step::Beat(index));
            }
            if world.now < held.until && held.position < MESSAGES {
                steps.push(Step::Handle(index));
            }
            if member.committed < 1 {
                steps.push(Step::Commit(index)); // also when its lease is over
                steps.push(Step::Release(index));
            }
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        let now = world.now;
        match step {
            Step::Tick => (world.now, world.lease_now) = (now + 1, world.lease_now + 1),
            Step::Pause => (world.now, world.pauses) = (now + 1, world.pauses + 1),
            Step::Flush => flush(&mut world),
            Step::Restart => {
                world.restarts += 1;
                let record = world.durable;
                let lease_ms = if self.lease_at_restart { LEASE } else { 0 };
                let rules = Rules { lease_ms, ..self.rules() };
                world.grant = Grant::restored(record, world.lease_now, rules);
                world.owner = (record.member != 0).then(|| record.member as usize - 1);
                world.waiting.clear();
                world.requests.clear();
                world.reset_waits = false;
            }
            Step::Reset => {
                world.resets += 1;
                if let CommitDecision::Store(_) = world.grant.reset(Offset(0), BOUNDS) {
                    world.reset_waits = true;
                }
            }
            Step::Deliver(request) => {
                world.requests.remove(&request);
                self.deliver(&mut world, request);
            }
            Step::Receive(answer) => {
                world.answers.remove(&answer);
                world.members[answer.member()].receive(answer);
            }
            Step::Learn(index) => world.members[index].generation = 2,
            Step::Ask(index) => {
                let member = &mut world.members[index];
                member.asked += 1;
                let request = Request::Ask { member: index, generation: member.generation, sent: now };
                world.requests.insert(request);
            }
            Step::Handle(index) => {
                let held = world.members[index].held.as_mut()?;
                held.position += 1;
                world.handled = world.handled.max(held.position);
            }
            Step::Beat(index) | Step::Commit(index) | Step::Release(index) => {
                let member = &mut world.members[index];
                let Held { epoch, position: offset, .. } = member.held?;
                let generation = member.generation;
                let request = match step {
                    Step::Beat(_) => {
                        member.beaten += 1;
                        Request::Beat { member: index, epoch, generation, sent: now }
                    }
                    Step::Commit(_) => {
                        member.committed += 1;
                        Request::Commit { member: index, epoch, offset }
                    }
                    _ => {
                        member.committed += 1;
                        member.held = None;
                        member.over = epoch;
                        Request::Release { member: index, epoch, offset }
                    }
                };
                world.requests.insert(request);
            }
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.requests.len() + world.answers.len() + world.waiting.len() <= IN_FLIGHT_MAX
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one member at the most believes that it owns the queue", |_, world: &World| {
                let believes = |member: &&Member| member.held.is_some_and(|held| world.now < held.until);
                world.members.iter().filter(believes).count() <= 1
            }),
            Property::always("nothing breaks a rule of what is stored", |_, world: &World| {
                world.broken.is_none()
            }),
            // That the model gets anywhere.
            Property::sometimes("the queue is handed over with its offset", |_, world: &World| {
                world.members[1].held.is_some_and(|held| held.epoch > 1 && held.position > 0)
            }),
            Property::sometimes("what may happen reaches a holder", |model: &Self, world: &World| {
                let Mishaps { pauses, restarts, resets } = model.mishaps;
                let all = (pauses, restarts, resets) == (world.pauses, world.restarts, world.resets);
                let epoch = 1 + u32::from(resets);
                all && world.members.iter().any(|m| m.held.is_some_and(|h| h.epoch >= epoch))
            }),
        ]
    }
}

fn flush(world: &mut World) {
    let (before, after) = (world.durable, world.grant.record());
    if after.committed < before.committed && !world.reset_waits {
        world.broken = Some("what is durable went back");
    }
    if after.grant_epoch < before.grant_epoch {
        world.broken = Some("an epoch went back");
    }
    world.durable = after;
    world.reset_waits = false;
    world.answers.extend(world.waiting.drain(..));
}

const PAUSE: Mishaps = Mishaps { pauses: 1, restarts: 0, resets: 0 };
const RESTART: Mishaps = Mishaps { pauses: 0, restarts: 1, resets: 0 };
const RESET: Mishaps = Mishaps { pauses: 0, restarts: 0, resets: 1 };

fn explored(model: Grants) -> impl Checker<Grants> {
    let begun = std::time::Instant::now();
    let checker = model.checker().threads(2).target_max_depth(STEPS_MAX).spawn_bfs().join();
    eprintln!(
        "{} states, depth {}, in {:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    checker
}

fn holds_with(mishaps: Mishaps) {
    let checker = explored(Grants { mishaps, check_epochs: true, lease_at_restart: true });
    assert!(checker.unique_state_count() > 300_000, "the bounds leave something to explore");
    checker.assert_properties();
}

#[test]
fn grants_hold_while_the_broker_pauses() {
    holds_with(PAUSE);
}

#[test]
fn grants_hold_while_the_broker_restarts() {
    holds_with(RESTART);
}

#[test]
fn grants_hold_while_offsets_are_reset() {
    holds_with(RESET);
}

/// The same without a mechanism finds a way to break a rule: the model can fail.
#[test]
fn without_the_check_of_epochs_a_rule_breaks() {
    let checker = explored(Grants { mishaps: RESET, check_epochs: false, lease_at_restart: true });
    assert!(checker.discovery("nothing breaks a rule of what is stored").is_some());
}

#[test]
fn without_a_lease_at_a_restart_two_members_own_the_queue() {
    let checker = explored(Grants { mishaps: RESTART, check_epochs: true, lease_at_restart: false });
    assert!(checker.discovery("one member at the most believes that it owns the queue").is_some());
}
