//! The stages of a queue, and its lives.

use std::time::Duration;

use equeue_record::{BatchBuilder, BrokerStamp, Codec, MasterEpoch, ProducerStamp, RecordFields, stamp};

use super::super::group::lease::Moment;
use super::super::received::ReceivedBatch;
use super::*;

const NO_LIMIT: Load = Load { messages: usize::MAX, bytes: usize::MAX };

fn track(committed: Option<u64>, handled_by: HandledBy) -> Arc<Track> {
    let topic = Arc::new(TopicFilter::new("t", Vec::new()));
    let home = Home { broker: "b".into(), shard: 0, key: QueueKey(1) };
    let start = Start {
        offset: Offset(10),
        committed: committed.map(Offset),
        grant_epoch: 3,
        tries: Tries::default(),
    };
    let feed = Arc::new(Feed::new(NO_LIMIT, NO_LIMIT));
    let track = Track::new(topic, 0, home, start, 0, (feed, handled_by));
    track.lease.extend(Moment::now(), Duration::from_hours(1));
    Arc::new(track)
}

/// As if a batch were taken and a handler began with it.
fn begin(track: &Arc<Track>, life: u32, first: u64, end: u64) -> bool {
    let mut state = track.state();
    state.progress.begin(Offset(first), Offset(end));
    state.delivered = Offset(end);
    drop(state);
    track.begin(life)
}

fn due(offset: u64, grant_epoch: u32) -> Due {
    Due { offset: Offset(offset), tries: Tries::default(), grant_epoch }
}

fn skip(track: &Arc<Track>, end: u64) -> bool {
    let (asked, epoch) = track.ask().expect("it is wanted");
    assert_eq!(epoch, 3);
    track.hand(asked, Item::Skipped(Offset(end)), Offset(end))
}

#[test]
fn only_handled_messages_are_committed() {
    let track = track(Some(10), HandledBy::Calls);
    assert_eq!(track.to_commit(), None);
    assert!(track.set_delivered(0, Offset(15)));
    assert_eq!(track.to_commit(), None);
    track.handle_delivered();
    assert_eq!(track.to_commit(), Some(due(15, 3)));
    track.set_committed(due(15, 3), Offset(15));
    assert_eq!(track.to_commit(), None);
}

#[tokio::test]
async fn what_was_dropped_with_a_lapsed_lease_is_fetched_once_it_holds() {
    let track = track(Some(10), HandledBy::Calls);
    let fetcher = Arc::new(Notify::new());
    track.set_fetcher(Some(Arc::clone(&fetcher)));
    assert!(skip(&track, 15));
    // Nothing is asked for from behind what waits until that is dropped; then from there, which the fetcher must hear.
    track.drop_ahead();
    track.renewed();
    tokio::time::timeout(Duration::from_secs(5), fetcher.notified()).await.expect("the fetcher is woken");
    assert!(skip(&track, 15));
}

#[tokio::test]
async fn attempts_are_committed_with_the_offset_that_waits_for_them() {
    let track = track(Some(10), HandledBy::Handlers);
    let tries = |count| Tries { count, since_ms: 7 };
    assert!(begin(&track, 0, 10, 12));
    track.hold(0, Offset(10), tries(1), Duration::from_hours(1));
    let due = Due { offset: Offset(10), tries: tries(1), grant_epoch: 3 };
    assert_eq!(track.to_commit(), Some(due));
    track.set_committed(due, Offset(10));
    assert_eq!(track.to_commit(), None);
    // While a handler is at it they are not forgotten by the broker, and only more are news.
    assert_eq!(track.take_tries(Offset(10)), Some(tries(1)));
    assert_eq!(track.to_commit(), None);
    track.hold(0, Offset(10), tries(2), Duration::from_hours(1));
    assert_eq!(track.to_commit().map(|due| due.tries), Some(tries(2)));
    // Of another message nothing is known, nor after the queue was turned back.
    track.done(0, Offset(10), Offset(11));
    assert_eq!(track.to_commit(), Some(self::due(11, 3)));
    track.turn_to(Offset(10));
    assert_eq!(track.take_tries(Offset(10)), None);
    // Whoever gets the queue next goes on counting.
    let (topic, home) = (Arc::clone(&track.topic), (*track.home()).clone());
    let start = Start { offset: Offset(10), committed: Some(Offset(10)), grant_epoch: 4, tries: tries(2) };
    let feed = Arc::new(Feed::new(NO_LIMIT, NO_LIMIT));
    let next = Track::new(topic, 0, home, start, 0, (feed, HandledBy::Handlers));
    assert_eq!(next.to_commit(), None);
    assert_eq!(next.take_tries(Offset(10)), Some(tries(2)));
}

#[test]
fn a_group_without_offset_commits_its_start() {
    assert_eq!(track(None, HandledBy::Calls).to_commit(), Some(due(10, 3)));
}

#[test]
fn after_a_reset_the_old_handlers_move_nothing() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(begin(&track, 0, 10, 12));
    track.reset(Offset(4), 5);
    track.done(0, Offset(10), Offset(12));
    assert_eq!((track.handled(), track.delivered(), track.to_commit()), (Offset(4), Offset(4), None));
    assert!(!track.begin(0), "nor begin anything");
    assert!(begin(&track, 1, 4, 6));
    track.done(1, Offset(4), Offset(6));
    assert_eq!(track.to_commit(), Some(due(6, 5)));
}

#[test]
fn a_queue_that_drains_waits_for_its_handlers_and_gives_nothing() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(skip(&track, 11));
    assert!(begin(&track, 0, 11, 12));
    assert!(!track.drain());
    assert!(track.take(false).is_none() && track.ask().is_none());
    track.done(0, Offset(11), Offset(12));
    assert!(track.worked() && track.is_drained());
    assert_eq!(track.to_commit().map(|due| due.offset), Some(Offset(12)));
    track.end();
    assert_eq!(track.to_commit(), None);
}

#[test]
fn pulled_messages_are_drained_by_the_next_call_or_by_a_commit() {
    let by_calls = track(Some(10), HandledBy::Calls);
    assert!(by_calls.set_delivered(0, Offset(12)));
    assert!(!by_calls.drain());
    by_calls.handle_delivered();
    assert!(by_calls.is_drained());
    let by_commits = track(Some(10), HandledBy::Commits);
    assert!(by_commits.is_drained());
    assert!(by_commits.set_delivered(0, Offset(12)));
    by_commits.handle_delivered();
    assert!(!by_commits.drain());
    by_commits.set_committed(due(12, 3), Offset(12));
    assert!(by_commits.is_drained());
}

#[test]
fn nothing_is_given_while_paused_or_without_a_lease() {
    let track = track(Some(10), HandledBy::Calls);
    assert!(skip(&track, 11));
    track.set_paused(true);
    assert!(track.take(false).is_none() && track.ask().is_none());
    track.set_paused(false);
    // What waited was dropped and is fetched again.
    assert!(track.take(false).is_none());
    assert_eq!(track.ask().expect("it is wanted").0.offset, Offset(10));
    assert!(skip(&track, 11));
    assert!(matches!(track.take(false), Some((Item::Skipped(Offset(11)), 0, false))));
    let topic = Arc::new(TopicFilter::new("t", Vec::new()));
    let home = Home { broker: "b".into(), shard: 0, key: QueueKey(1) };
    let start = Start { offset: Offset(0), committed: None, grant_epoch: 3, tries: Tries::default() };
    let feed = Arc::new(Feed::new(NO_LIMIT, NO_LIMIT));
    let unleased = Arc::new(Track::new(topic, 0, home, start, 0, (feed, HandledBy::Calls)));
    assert!(skip(&unleased, 1));
    assert!(unleased.take(false).is_none());
    unleased.lease.extend(Moment::now(), Duration::from_secs(5));
    unleased.renewed();
    assert!(unleased.take(false).is_some());
}

/// Hands on a batch of messages from `base` to before `end`, as a fetch brings it.
fn fetched(track: &Arc<Track>, base: u64, end: u64) -> bool {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
    for number in base..end {
        let body = number.to_le_bytes();
        builder.push(&RecordFields { body: Some(&body), ..RecordFields::default() }).unwrap();
    }
    let mut bytes = builder.finish(ProducerStamp::NONE).unwrap().to_vec();
    let assigned = BrokerStamp {
        base_offset: Offset(base),
        append_time_ms: 0,
        queue_key: QueueKey(1),
        master_epoch: MasterEpoch::default(),
    };
    stamp(bytes.first_chunk_mut().unwrap(), &assigned);
    let batch = ReceivedBatch::check(Arc::clone(track), bytes.into(), Offset(base)).unwrap();
    let (asked, _) = track.ask().expect("it is wanted");
    track.answered(asked, Offset(end));
    track.hand(asked, Item::Batch(batch), Offset(end))
}

fn taken(track: &Arc<Track>) -> ReceivedBatch {
    match track.take(false) {
        Some((Item::Batch(batch), ..)) => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_commit_passes_what_left_the_queue_and_was_not_begun_yet() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20));
    let (first, second) = (taken(&track), taken(&track));
    // The worker with the second batch is faster.
    assert!(track.begin(0));
    track.done(0, second.first_offset(), second.next_offset());
    assert_eq!(track.to_commit(), None);
    assert!(track.begin(0));
    track.done(0, first.first_offset(), first.next_offset());
    assert_eq!(track.to_commit(), Some(due(20, 3)));
}

#[test]
fn what_is_put_back_is_given_again_in_the_order_of_the_queue() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20));
    let (first, second) = (taken(&track), taken(&track));
    let load = |batch: &ReceivedBatch| Load { messages: 5, bytes: batch.len_bytes() };
    let (of_first, of_second) = (load(&first), load(&second));
    track.put_back(0, second, of_second);
    track.put_back(0, first.part(Offset(12), Offset(15)), of_first);
    assert_eq!((taken(&track).first_offset(), taken(&track).first_offset()), (Offset(12), Offset(15)));
    assert_eq!(track.handled(), Offset(10), "all of it is still to be handled");
}

#[test]
fn a_queue_that_ends_before_what_was_fetched_forgets_nothing_that_is_at_work() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(fetched(&track, 10, 20));
    let batch = taken(&track);
    assert!(track.begin(0));
    track.done(0, Offset(10), Offset(13));
    // The broker lost its tail: the queue ends at 18.
    track.rewind(Offset(18));
    assert_eq!((track.handled(), track.delivered()), (Offset(13), Offset(13)));
    assert_eq!(track.ask().expect("it is wanted").0.offset, Offset(13));
    track.done(0, Offset(13), batch.next_offset());
    assert_eq!(track.handled(), Offset(13), "what was at work counts no more");
}

#[test]
fn what_comes_again_from_elsewhere_waits_for_whoever_holds_the_queue() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20));
    let first = taken_by_holder(&track);
    let message = Load { messages: 1, bytes: 8 };
    track.load_more(message);
    track.come_again(0, first.part(Offset(10), Offset(11)), message);
    assert!(track.state().listed && !track.state().list(), "one holder at a time");
    // Whoever gives the queue on gives what came again first.
    track.give_again();
    assert_eq!(taken_by_holder(&track).first_offset(), Offset(10));
    track.give_again();
    assert_eq!(taken_by_holder(&track).first_offset(), Offset(15));
}

fn taken_by_holder(track: &Arc<Track>) -> ReceivedBatch {
    match track.take(true) {
        Some((Item::Batch(batch), ..)) => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_dropped_ahead_begins_behind_what_others_are_at() {
    let track = track(Some(10), HandledBy::Handlers);
    assert!(fetched(&track, 10, 15) && fetched(&track, 15, 20) && fetched(&track, 20, 25));
    let (first, second) = (taken(&track), taken(&track));
    let load = |messages| Load { messages, bytes: 8 * messages };
    for (batch, messages) in [(&first, 1), (&second, 2)] {
        track.load_more(load(messages));
        let from = Offset(batch.next_offset().0 - messages as u64 - u64::from(messages == 1));
        track.come_again(0, batch.part(from, Offset(from.0 + messages as u64)), load(messages));
    }
    // 13 of the first batch, 18 and 19 of the second, and the third.
    let before = track.state().waiting.messages;
    track.drop_ahead();
    // A part counts for its whole batch.
    assert_eq!((before, track.state().waiting.messages), (15, 5));
    let (asked, _) = track.ask().expect("it is wanted");
    assert_eq!(asked.offset, Offset(18), "what follows each other is fetched again");
    assert!(fetched(&track, 18, 25));
    assert_eq!((taken(&track).first_offset(), taken(&track).first_offset()), (Offset(13), Offset(18)));
}
