//! What must hold of everything that the members wrote down. Pure; a diary is read once, and nothing is kept of an ordinary
//! message but a few bytes, so that a run of tens of millions can be judged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::events::{Event, What};
use super::stints::Stints;
use super::{ATTEMPTS_MAX, Fate, GROUPS, IN_ORDER, fate, key_of};

/// Violations that are told in full.
const TOLD_MAX: usize = 20;

/// How a member's process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ended {
    /// By SIGTERM, in order.
    #[default]
    InOrder,
    /// By SIGKILL.
    Killed,
}

/// A member's process.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// When it was continued after a SIGSTOP.
    pub(super) resumed_us: Vec<i64>,
    pub(super) ended: Ended,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    pub(super) count: usize,
    /// Messages handled at all, by group.
    pub(super) handled: BTreeMap<&'static str, usize>,
    /// Handled once more, by group and by what became of the process that handled it first.
    pub(super) again: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    /// Handlers that worked on a queue of another member because their process was stopped in between.
    pub(super) excused: usize,
    /// Grants.
    pub(super) grants: usize,
    /// Messages whose place among those of their key was looked at, and keys.
    pub(super) ordered: (usize, usize),
    /// Messages that were handled after they had failed, and those that ended as dead letters.
    pub(super) failing: (usize, usize),
}

impl Findings {
    pub(super) fn note(&mut self, violation: impl FnOnce() -> String) {
        self.count += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation());
        }
    }
}

/// Which life handled each message first, and when.
#[derive(Debug, Default)]
struct First {
    /// By number: 1 more than the index of the life; 0: none.
    lives: Vec<u16>,
    /// ms since the machine started.
    at_ms: Vec<u32>,
}

/// Attempts at which a message failed and was handled.
type Attempts = (BTreeSet<u8>, BTreeSet<u8>);

/// Takes in one diary after the other, then judges.
#[derive(Debug)]
pub(super) struct Judge {
    /// Numbers of messages are less.
    sent: u64,
    lives: Vec<Life>,
    first: [First; 2],
    again: [BTreeMap<&'static str, usize>; 2],
    stints: Stints,
    /// When each message of the group that keeps the order was handled.
    in_order: Vec<(i64, u64)>,
    /// Of messages that are to fail.
    attempts: BTreeMap<u64, Attempts>,
    findings: Findings,
}

impl Judge {
    /// Of a run that sent the numbers below `sent` and had these processes.
    pub(super) fn new(sent: u64, lives: Vec<Life>) -> Self {
        Self {
            sent,
            lives,
            first: [First::default(), First::default()],
            again: [BTreeMap::new(), BTreeMap::new()],
            stints: Stints::default(),
            in_order: Vec::new(),
            attempts: BTreeMap::new(),
            findings: Findings::default(),
        }
    }

    /// Takes in the next event of a life; lives come in order.
    pub(super) fn take(&mut self, life: usize, event: &Event) {
        self.stints.take(life, event);
        let is_handled = event.what == What::Handled;
        if !is_handled && event.what != What::Failed {
            return;
        }
        if event.number >= self.sent {
            self.findings
                .note(|| format!("process {life} was given message {}, which nobody sent", event.number));
            return;
        }
        if is_handled {
            self.handled(life, event);
        }
        if event.group != IN_ORDER {
            self.attempted(event);
        }
    }

    /// All events of the present life were taken in.
    pub(super) fn end_life(&mut self) {
        self.stints.end();
    }

    fn handled(&mut self, life: usize, event: &Event) {
        if event.group == IN_ORDER {
            self.in_order.push((event.at_us, event.number));
        }
        let group = usize::from(event.group);
        let (Some(first), Some(again)) = (self.first.get_mut(group), self.again.get_mut(group)) else {
            return;
        };
        if let Some((first, again_by)) = first.enter(event, life) {
            *again.entry(reason(&self.lives, first, again_by)).or_default() += 1;
        }
    }

    fn attempted(&mut self, event: &Event) {
        if fate(event.number) == Fate::Handled {
            if event.what == What::Failed || event.attempt != 1 {
                let Event { number, what, attempt, .. } = *event;
                self.findings.note(|| {
                    format!("message {number}, which never fails, was {what:?} at attempt {attempt}")
                });
            }
            return;
        }
        let (failed, handled) = self.attempts.entry(event.number).or_default();
        if event.what == What::Failed {
            failed.insert(event.attempt)
        } else {
            handled.insert(event.attempt)
        };
    }

    /// Judges. `acknowledged` are the numbers stored for certain, `dead` the attempts told of each dead letter.
    pub(super) fn judge(mut self, acknowledged: &[u64], dead: &BTreeMap<u64, Vec<u32>>) -> Findings {
        for (group, name) in (0_u8..).zip(GROUPS) {
            self.at_least_once((group, name), acknowledged, dead);
        }
        self.order(acknowledged);
        self.failures(acknowledged, dead);
        self.findings.grants = self.stints.count();
        self.stints.judge(&self.lives, &mut self.findings);
        self.findings
    }

    fn at_least_once(
        &mut self,
        (group, name): (u8, &'static str),
        acknowledged: &[u64],
        dead: &BTreeMap<u64, Vec<u32>>,
    ) {
        let Some(first) = self.first.get(usize::from(group)) else { return };
        for number in acknowledged.iter().filter(|number| !first.has(**number)) {
            if group == IN_ORDER || !dead.contains_key(number) {
                self.findings
                    .note(|| format!("group {name}: message {number} was acknowledged and never handled"));
            }
        }
        self.findings.handled.insert(name, first.lives.iter().filter(|life| **life > 0).count());
        if let Some(again) = self.again.get_mut(usize::from(group)) {
            self.findings.again.insert(name, std::mem::take(again));
        }
    }

    /// In the group that keeps the order, nothing of a key is handled before everything acknowledged before it was.
    fn order(&mut self, acknowledged: &[u64]) {
        let mut sorted = acknowledged.to_vec();
        sorted.sort_unstable();
        let mut expected: HashMap<u32, Vec<u64>> = HashMap::new();
        for number in sorted {
            expected.entry(key_of(number)).or_default().push(number);
        }
        self.in_order.sort_unstable();
        let mut reached: HashMap<u32, usize> = HashMap::new();
        for (_, number) in std::mem::take(&mut self.in_order) {
            let key = key_of(number);
            let Some(Ok(place)) = expected.get(&key).map(|numbers| numbers.binary_search(&number)) else {
                continue; // stored, but not acknowledged
            };
            self.findings.ordered.0 += 1;
            let reached = reached.entry(key).or_default();
            if place > *reached {
                self.findings.note(|| {
                    format!("key {key}: message {number} was handled before one that was sent before it")
                });
            }
            *reached = (*reached).max(place + 1);
        }
        self.findings.ordered.1 = reached.len();
    }

    /// Failing messages are handled at the attempt that works, or die after the last one.
    fn failures(&mut self, acknowledged: &[u64], dead: &BTreeMap<u64, Vec<u32>>) {
        for (number, (failed, handled)) in std::mem::take(&mut self.attempts) {
            let (all_failed, all_handled): Attempts = match fate(number) {
                Fate::Handled => continue,
                Fate::Retried(works_at) => {
                    self.findings.failing.0 += 1;
                    ((1..works_at).collect(), BTreeSet::from([works_at]))
                }
                Fate::Dead => ((1..=ATTEMPTS_MAX).collect(), BTreeSet::new()),
            };
            if failed != all_failed || handled != all_handled {
                self.findings.note(|| {
                    format!(
                        "message {number} failed at attempts {failed:?} and was handled at {handled:?}; expected \
                         {all_failed:?} and {all_handled:?}"
                    )
                });
            }
        }
        for number in acknowledged.iter().filter(|number| fate(**number) == Fate::Dead) {
            match dead.get(number).map(Vec::as_slice) {
                Some([attempts]) if *attempts == u32::from(ATTEMPTS_MAX) => {}
                found => self.findings.note(|| {
                    format!(
                        "message {number} is to be one dead letter after {ATTEMPTS_MAX} attempts, found {found:?}"
                    )
                }),
            }
        }
        for number in dead.keys().filter(|number| fate(**number) != Fate::Dead) {
            self.findings.note(|| format!("message {number} became a dead letter and should not"));
        }
        self.findings.failing.1 = dead.len();
    }
}

impl First {
    /// A life handled a message. If it was handled before: by whom first, and by whom later.
    fn enter(&mut self, event: &Event, life: usize) -> Option<(usize, usize)> {
        let place = usize::try_from(event.number).ok()?;
        if self.lives.len() <= place {
            self.lives.resize(place + 1, 0);
            self.at_ms.resize(place + 1, 0);
        }
        let (first, at_ms) = self.lives.get_mut(place).zip(self.at_ms.get_mut(place))?;
        let now_ms = u32::try_from(event.at_us / 1000).unwrap_or(u32::MAX);
        let told = usize::from(*first).checked_sub(1);
        if told.is_some() && *at_ms <= now_ms {
            return told.map(|first| (first, life));
        }
        // Diaries come one after the other: this one may tell of an earlier time.
        *first = u16::try_from(life + 1).unwrap_or(u16::MAX);
        *at_ms = now_ms;
        told.map(|later| (life, later))
    }

    fn has(&self, number: u64) -> bool {
        usize::try_from(number).ok().and_then(|place| self.lives.get(place)).is_some_and(|life| *life > 0)
    }
}

/// Why a message that `first` handled was given to `life`.
fn reason(lives: &[Life], first: usize, life: usize) -> &'static str {
    match lives.get(first) {
        Some(known) if known.ended == Ended::Killed && first != life => "its process was killed",
        Some(known) if !known.resumed_us.is_empty() => "its process had been stopped",
        _ if first == life => "the same process, which could not commit",
        _ => "its process could not commit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_us: i64, what: What, group: u8, number: u64) -> Event {
        Event { at_us, what, group, attempt: 1, direct: true, topic: 0, queue: 0, offset: number, number }
    }

    /// Both groups handle these numbers, all of them ordinary ones of one key.
    fn diary(numbers: &[u64]) -> Vec<Event> {
        let mut events = Vec::new();
        for group in [0, 1] {
            events.push(event(1, What::Assigned, group, 0));
            events.extend(
                (10..).zip(numbers).map(|(at_us, number)| event(at_us, What::Handled, group, *number)),
            );
        }
        events
    }

    fn numbers() -> Vec<u64> {
        let of_key = (0..10_000).filter(|number| key_of(*number) == 0 && fate(*number) == Fate::Handled);
        of_key.take(4).collect()
    }

    fn judged(
        diaries: &[Vec<Event>],
        lives: &[Life],
        acknowledged: &[u64],
        dead: &BTreeMap<u64, Vec<u32>>,
    ) -> Findings {
        let mut judge = Judge::new(10_000, lives.to_vec());
        for (life, events) in diaries.iter().enumerate() {
            for event in events {
                judge.take(life, event);
            }
            judge.end_life();
        }
        judge.judge(acknowledged, dead)
    }

    fn simply(diary: Vec<Event>, acknowledged: &[u64]) -> Findings {
        judged(&[diary], &[Life::default()], acknowledged, &BTreeMap::new())
    }

    #[test]
    fn what_is_right_passes_and_a_repetition_is_counted() {
        let numbers = numbers();
        let findings = simply(diary(&numbers), &numbers);
        assert_eq!((findings.count, findings.ordered, findings.grants), (0, (4, 1), 2));
        let again = [&numbers[..2], &numbers[..]].concat();
        let findings = simply(diary(&again), &numbers);
        assert_eq!((findings.count, findings.again[GROUPS[0]].values().sum::<usize>()), (0, 2));
        let killed = Life { ended: Ended::Killed, ..Life::default() };
        let mut lives = [killed, Life::default()];
        let mut later = diary(&numbers);
        for event in &mut later {
            event.at_us += 100_000;
        }
        let findings = judged(&[diary(&numbers[..2]), later.clone()], &lives, &numbers, &BTreeMap::new());
        assert_eq!((findings.count, findings.again[GROUPS[1]]["its process was killed"]), (0, 2));
        lives.reverse();
        let findings = judged(&[later, diary(&numbers[..2])], &lives, &numbers, &BTreeMap::new());
        assert_eq!((findings.count, findings.again[GROUPS[1]]["its process was killed"]), (0, 2));
    }

    #[test]
    fn a_missing_message_a_wrong_order_and_a_stranger_are_found() {
        let numbers = numbers();
        assert_eq!(simply(diary(&numbers[..3]), &numbers).count, 2, "one in each group");
        let mut swapped = numbers.clone();
        swapped.swap(1, 2);
        assert_eq!(simply(diary(&swapped), &numbers).count, 1);
        assert_eq!(simply(vec![event(1, What::Handled, 0, 10_000)], &[]).count, 1);
    }

    #[test]
    fn two_owners_are_found_unless_one_was_stopped() {
        let numbers = numbers();
        // Granted before the first one began with its last message.
        let other = |at_us| {
            let of =
                |group| [event(at_us, What::Assigned, group, 0), event(20, What::Handled, group, numbers[3])];
            [0, 1].into_iter().flat_map(of).collect::<Vec<_>>()
        };
        let mut lives = [Life::default(), Life::default()];
        let none = BTreeMap::new();
        assert_eq!(judged(&[diary(&numbers), other(14)], &lives, &numbers, &none).count, 0);
        assert_eq!(judged(&[diary(&numbers), other(11)], &lives, &numbers, &none).count, 2);
        assert_eq!(judged(&[other(11), diary(&numbers)], &lives, &numbers, &none).count, 2);
        lives[0].resumed_us.push(12);
        let findings = judged(&[diary(&numbers), other(11)], &lives, &numbers, &none);
        assert_eq!((findings.count, findings.excused), (0, 2));
    }

    #[test]
    fn a_handler_without_a_grant_is_found() {
        let numbers = numbers();
        let mut diary = diary(&numbers);
        let stray = vec![event(12, What::Handled, 0, numbers[3])];
        diary.retain(|event| event.group == 0 || event.what != What::Assigned);
        let lives = [Life::default(), Life::default()];
        let findings = judged(&[stray, diary], &lives, &numbers, &BTreeMap::new());
        assert_eq!(findings.count, 1, "{:?}", findings.violations);
    }

    #[test]
    fn failing_messages_are_accounted_for() {
        let dying = (0..10_000).find(|number| fate(*number) == Fate::Dead).unwrap();
        let mut life: Vec<Event> = Vec::new();
        for attempt in 1..=ATTEMPTS_MAX {
            life.push(Event { attempt, ..event(i64::from(attempt), What::Failed, 1 - IN_ORDER, dying) });
        }
        life.push(event(1, What::Handled, IN_ORDER, dying));
        let judged = |life: &[Event], letters: &[u32]| {
            let dead = if letters.is_empty() { BTreeMap::new() } else { [(dying, letters.to_vec())].into() };
            judged(&[life.to_vec()], &[Life::default()], &[dying], &dead)
        };
        let attempts = u32::from(ATTEMPTS_MAX);
        let right = judged(&life, &[attempts]);
        assert_eq!((right.violations, right.failing), (Vec::<String>::new(), (0, 1)));
        assert!(judged(&life, &[]).count > 0, "no dead letter");
        assert_eq!(judged(&life, &[attempts, attempts]).count, 1, "two of them");
        assert_eq!(judged(&life, &[attempts - 1]).count, 1, "with another count");
        assert_eq!(judged(&life[1..], &[attempts]).count, 1, "the first attempt is missing");
    }
}
