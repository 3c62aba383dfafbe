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
    let told = ownership.told(&place());
    ownership.beaten(&place(), &told, answer, now)
}

#[test]
fn a_queue_that_falls_to_another_is_kept_until_that_one_asks() {
    let (mut ownership, now) = owner(&[0, 1], 2);
    assert_eq!(ownership.told(&place()).generation, 1);
    assert!(ownership.plan(2, &share(&[0]), &homes(2), now).is_empty());
    assert_eq!((ownership.told(&place()).held.len(), ownership.told(&place()).generation), (2, 1));
    let release = LeaseHeartbeatAnswer { release: vec![key(1)], ..LeaseHeartbeatAnswer::default() };
    assert_eq!(beat(&mut ownership, &release, now), [Act::Drain(id(1))]);
    assert!(beat(&mut ownership, &release, now).is_empty(), "told once");
    assert_eq!(ownership.told(&place()).held.len(), 2, "its lease is extended while it drains");
    assert_eq!(ownership.drained(&id(1)), Some(Act::Release(id(1))));
    assert_eq!(ownership.told(&place()).held.len(), 1);
    ownership.given_back(&id(1), now);
    assert!(ownership.ask(now.plus(Duration::from_mins(1))).is_empty(), "it is not wished for again");
    ownership.plan(2, &share(&[0]), &homes(2), now);
    assert_eq!(ownership.told(&place()).generation, 2);
}

#[test]
fn a_release_for_an_older_generation_is_not_obeyed_when_the_queue_is_wanted_again() {
    let (mut ownership, now) = owner(&[0], 1);
    let told = ownership.told(&place());
    ownership.plan(2, &share(&[]), &homes(1), now);
    ownership.plan(3, &share(&[0]), &homes(1), now);
    let release = LeaseHeartbeatAnswer { release: vec![key(0)], ..LeaseHeartbeatAnswer::default() };
    assert!(ownership.beaten(&place(), &told, &release, now).is_empty(), "somebody of generation 2 asked");
    assert_eq!(beat(&mut ownership, &release, now), [Act::Drain(id(0))], "somebody of a newer one asks");
}

#[test]
fn what_is_lost_is_wished_for_again_and_what_was_never_told_is_not_lost() {
    let (mut ownership, now) = owner(&[0], 1);
    let lost = LeaseHeartbeatAnswer { lost: vec![key(0)], ..LeaseHeartbeatAnswer::default() };
    assert!(
        ownership.beaten(&place(), &Told::default(), &lost, now).is_empty(),
        "an answer to an older list"
    );
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
    assert_eq!(ownership.told(&place()).held[0].grant_epoch, 8);
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
    assert!(ownership.told(&place()).held.is_empty());
    assert_eq!(ownership.ask(now)[&place()], [(id(0), key(0))]);
    let soon = now.plus(Duration::from_millis(1));
    assert!(matches!(ownership.granted(&id(0), key(0), (7, soon), now), Granted::Begin(_)));
}
