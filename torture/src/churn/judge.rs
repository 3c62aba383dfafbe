//! What must hold of everything that the members wrote down. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::events::{Event, What};
use super::{ATTEMPTS_MAX, Fate, GROUPS, IN_ORDER, fate, key_of};

/// How long after it was continued a process may still do what it was about to do when it was stopped, us.
const RESUMED_US: i64 = 200_000;
/// Violations that are told in full.
const TOLD_MAX: usize = 20;

/// A member's process: what it wrote, and when it was continued after a SIGSTOP.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) events: Vec<Event>,
    pub(super) resumed_us: Vec<i64>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    pub(super) count: usize,
    /// Messages handled more than once, by group.
    pub(super) repeated: BTreeMap<&'static str, usize>,
    /// Messages handled at all, by group.
    pub(super) handled: BTreeMap<&'static str, usize>,
    /// Handlers that began on a queue of another member because their process was stopped in between.
    pub(super) excused: usize,
}

impl Findings {
    pub(super) fn note(&mut self, violation: impl FnOnce() -> String) {
        self.count += 1;
        if self.violations.len() < TOLD_MAX {
            self.violations.push(violation());
        }
    }
}

/// Judges both groups. `acknowledged` are the numbers stored for certain, `dead` the attempts told of each dead letter.
pub(super) fn judge(lives: &[Life], acknowledged: &[u64], dead: &BTreeMap<u64, Vec<u32>>) -> Findings {
    let mut findings = Findings::default();
    for (group, name) in (0_u8..).zip(GROUPS) {
        handled_at_least_once(lives, (group, name), acknowledged, dead, &mut findings);
        one_owner_at_a_time(lives, (group, name), &mut findings);
    }
    in_order(lives, acknowledged, &mut findings);
    attempts(lives, acknowledged, dead, &mut findings);
    findings
}

fn of_group(lives: &[Life], group: u8) -> impl Iterator<Item = (usize, &Event)> {
    lives
        .iter()
        .enumerate()
        .flat_map(|(life, of)| of.events.iter().map(move |event| (life, event)))
        .filter(move |(_, event)| event.group == group)
}

fn handled_at_least_once(
    lives: &[Life],
    (group, name): (u8, &'static str),
    acknowledged: &[u64],
    dead: &BTreeMap<u64, Vec<u32>>,
    findings: &mut Findings,
) {
    let mut handled: HashMap<u64, usize> = HashMap::new();
    for (_, event) in of_group(lives, group).filter(|(_, event)| event.what == What::Handled) {
        *handled.entry(event.number).or_default() += 1;
    }
    for number in acknowledged {
        let is_dead = group != IN_ORDER && dead.contains_key(number);
        if !handled.contains_key(number) && !is_dead {
            findings.note(|| format!("group {name}: message {number} was acknowledged and never handled"));
        }
    }
    findings.repeated.insert(name, handled.values().filter(|times| **times > 1).count());
    findings.handled.insert(name, handled.len());
}

/// When, which life, what.
type Step = (i64, usize, What);

/// Once a member has begun on a queue, the one before does not begin on it again without a new grant.
fn one_owner_at_a_time(lives: &[Life], (group, name): (u8, &'static str), findings: &mut Findings) {
    let mut queues: BTreeMap<(u32, u32), Vec<Step>> = BTreeMap::new();
    let counts = |event: &Event| match event.what {
        What::Began => event.direct,
        What::Assigned | What::GivenUp => true,
        What::Handled | What::Failed => false,
    };
    for (life, event) in of_group(lives, group).filter(|(_, event)| counts(event)) {
        queues.entry((event.topic, event.queue)).or_default().push((event.at_us, life, event.what));
    }
    for ((topic, queue), mut events) in queues {
        events.sort_unstable();
        let mut granted: HashMap<usize, i64> = HashMap::new();
        let mut owner: Option<(usize, i64)> = None;
        for (at_us, life, what) in events {
            match what {
                What::Assigned => drop(granted.insert(life, at_us)),
                What::GivenUp => drop(granted.remove(&life)),
                _ => match owner {
                    Some((last, _)) if last == life => owner = Some((life, at_us)),
                    Some((last, last_us)) => {
                        // The new owner's grant must be younger than what the last one began.
                        if granted.get(&life).is_none_or(|granted| *granted < last_us) {
                            let excused = [life, last].iter().any(|life| {
                                lives.get(*life).is_some_and(|of| {
                                    of.resumed_us.iter().any(|resumed| {
                                        (0..RESUMED_US).contains(&(at_us - resumed))
                                            || (0..RESUMED_US).contains(&(last_us - resumed))
                                    })
                                })
                            });
                            if excused {
                                findings.excused += 1;
                            } else {
                                findings.note(|| format!("group {name}: queue {queue} of topic {topic} had two owners: life {life} began at {at_us}, life {last} at {last_us}"));
                            }
                        }
                        owner = Some((life, at_us));
                    }
                    None => owner = Some((life, at_us)),
                },
            }
        }
    }
}

/// In the group that keeps the order, nothing of a key is handled before everything acknowledged before it was.
fn in_order(lives: &[Life], acknowledged: &[u64], findings: &mut Findings) {
    let mut expected: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut sorted = acknowledged.to_vec();
    sorted.sort_unstable();
    for number in sorted {
        expected.entry(key_of(number)).or_default().push(number);
    }
    let mut began: Vec<(i64, u64)> = of_group(lives, IN_ORDER)
        .filter(|(_, event)| event.what == What::Handled)
        .map(|(_, event)| (event.at_us, event.number))
        .collect();
    began.sort_unstable();
    let mut reached: HashMap<u32, usize> = HashMap::new();
    for (_, number) in began {
        let key = key_of(number);
        let Some(Ok(place)) = expected.get(&key).map(|numbers| numbers.binary_search(&number)) else {
            // Stored, but not acknowledged.
            continue;
        };
        let reached = reached.entry(key).or_default();
        if place > *reached {
            findings.note(|| {
                format!("key {key}: message {number} was handled before one that was sent before it")
            });
        }
        *reached = (*reached).max(place + 1);
    }
}

/// Failing messages are handled at the attempt that works, or die after the last one.
fn attempts(lives: &[Life], acknowledged: &[u64], dead: &BTreeMap<u64, Vec<u32>>, findings: &mut Findings) {
    let acknowledged: HashSet<u64> = acknowledged.iter().copied().collect();
    let mut seen: BTreeMap<u64, (BTreeSet<u32>, BTreeSet<u32>)> = BTreeMap::new();
    for (_, event) in of_group(lives, 1 - IN_ORDER) {
        let attempts = seen.entry(event.number).or_default();
        match event.what {
            What::Failed => drop(attempts.0.insert(event.attempt.into())),
            What::Handled => drop(attempts.1.insert(event.attempt.into())),
            _ => {}
        }
    }
    for (number, (failed, handled)) in seen {
        let (all_failed, all_handled): (BTreeSet<u32>, BTreeSet<u32>) = match fate(number) {
            Fate::Handled => (BTreeSet::new(), BTreeSet::from([1])),
            Fate::Retried(works_at) => ((1..works_at).collect(), BTreeSet::from([works_at])),
            Fate::Dead => ((1..=ATTEMPTS_MAX).collect(), BTreeSet::new()),
        };
        if acknowledged.contains(&number) && (failed != all_failed || handled != all_handled) {
            findings.note(|| format!("message {number} failed at attempts {failed:?} and was handled at {handled:?}; expected {all_failed:?} and {all_handled:?}"));
        }
    }
    for number in acknowledged.iter().filter(|number| fate(**number) == Fate::Dead) {
        match dead.get(number).map(Vec::as_slice) {
            Some([attempts]) if *attempts == ATTEMPTS_MAX => {}
            found => findings.note(|| {
                format!(
                    "message {number} is to be one dead letter after {ATTEMPTS_MAX} attempts, found {found:?}"
                )
            }),
        }
    }
    for number in dead.keys().filter(|number| fate(**number) != Fate::Dead) {
        findings.note(|| format!("message {number} became a dead letter and should not"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_us: i64, what: What, group: u8, number: u64) -> Event {
        Event { at_us, what, group, attempt: 1, direct: true, topic: 0, queue: 0, offset: number, number }
    }

    /// Both groups handle these numbers, all of them ordinary ones of one key.
    fn lives(numbers: &[u64]) -> Vec<Life> {
        let mut life = Life::default();
        for group in [0, 1] {
            life.events.push(event(1, What::Assigned, group, 0));
            for (at_us, number) in (10..).zip(numbers) {
                life.events.push(event(at_us, What::Began, group, *number));
                life.events.push(event(at_us, What::Handled, group, *number));
            }
        }
        vec![life]
    }

    fn numbers() -> Vec<u64> {
        let of_key = (0..10_000).filter(|number| key_of(*number) == 0 && fate(*number) == Fate::Handled);
        of_key.take(4).collect()
    }

    #[test]
    fn what_is_right_passes_and_a_repetition_is_counted() {
        let numbers = numbers();
        assert_eq!(judge(&lives(&numbers), &numbers, &BTreeMap::new()).count, 0);
        let again = [&numbers[..2], &numbers[..]].concat();
        let findings = judge(&lives(&again), &numbers, &BTreeMap::new());
        assert_eq!((findings.count, findings.repeated[GROUPS[0]]), (0, 2));
    }

    #[test]
    fn a_missing_message_and_a_wrong_order_are_found() {
        let numbers = numbers();
        assert_eq!(judge(&lives(&numbers[..3]), &numbers, &BTreeMap::new()).count, 2, "one in each group");
        let mut swapped = numbers.clone();
        swapped.swap(1, 2);
        assert!(judge(&lives(&swapped), &numbers, &BTreeMap::new()).count > 0);
    }

    #[test]
    fn two_owners_are_found_unless_one_was_stopped() {
        let numbers = numbers();
        let mut lives = lives(&numbers);
        let mut other = Life::default();
        for group in [0, 1] {
            // Granted before the first one began with its last message.
            other.events.push(event(11, What::Assigned, group, 0));
            other.events.push(event(20, What::Began, group, numbers[3]));
        }
        lives.push(other);
        assert_eq!(judge(&lives, &numbers, &BTreeMap::new()).count, 2);
        lives[1].resumed_us.push(19);
        let findings = judge(&lives, &numbers, &BTreeMap::new());
        assert_eq!((findings.count, findings.excused), (0, 2));
    }

    #[test]
    fn failing_messages_are_accounted_for() {
        let dying = (0..100_000).find(|number| fate(*number) == Fate::Dead).unwrap();
        let mut life = Life::default();
        for attempt in 1..=ATTEMPTS_MAX {
            let failed = event(i64::from(attempt), What::Failed, 1 - IN_ORDER, dying);
            life.events.push(Event { attempt: u8::try_from(attempt).unwrap(), ..failed });
        }
        life.events.push(event(1, What::Handled, IN_ORDER, dying));
        let lives = [life];
        let dead = BTreeMap::from([(dying, vec![ATTEMPTS_MAX])]);
        assert_eq!(judge(&lives, &[dying], &dead).violations, Vec::<String>::new());
        assert!(judge(&lives, &[dying], &BTreeMap::new()).count > 0);
        let twice = BTreeMap::from([(dying, vec![ATTEMPTS_MAX, ATTEMPTS_MAX])]);
        assert_eq!(judge(&lives, &[dying], &twice).count, 1);
    }
}
