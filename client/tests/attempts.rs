//! Attempts to handle a message: counted over restarts, made by members that want its topic, repeated in a replay.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, PATIENCE, create, ready, text};
use equeue_client::{
    Client, ConsumerOptions, Context, HandlerError, Message, ProducerOptions, PushConsumer, PushOptions,
    Received, StartAt, Subscription,
};
use equeue_record::Offset;
use tokio::time::{Instant, sleep, timeout};

/// What handlers were given: the body, and which attempt it was.
type Seen = Arc<Mutex<Vec<(String, u32)>>>;

fn options(topics: &[&str]) -> ConsumerOptions {
    ConsumerOptions {
        group: "g".to_owned(),
        topics: topics.iter().map(|topic| Subscription::all(*topic)).collect(),
        commit_interval: Some(Duration::from_millis(50)),
        ..ConsumerOptions::default()
    }
}

/// A member whose handler fails for a message whenever `fails` says so of its body and attempt.
async fn member(
    client: &Client,
    topics: &[&str],
    push: PushOptions,
    seen: &Seen,
    fails: impl Fn(&str, u32) -> bool + Send + Sync + 'static,
) -> PushConsumer {
    let seen = Arc::clone(seen);
    let handler = move |message: Received, context: Context| {
        let (body, attempt) = (text(&message), context.attempt());
        let fails = fails(&body, attempt);
        seen.lock().expect("no handler panics").push((body, attempt));
        async move { if fails { Err(HandlerError::retry("as told")) } else { Ok(()) } }
    };
    let starting = client.push_consumer(options(topics), push, handler);
    timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts")
}

fn quick(mut push: PushOptions) -> PushOptions {
    push.retry_steps = vec![Duration::from_millis(50)];
    push
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn send(client: &Client, topic: &str, bodies: impl IntoIterator<Item = String>) {
    let producer = client.producer(ProducerOptions::default());
    for body in bodies {
        drop(producer.enqueue(&Message::new(topic, body.as_bytes())).await.expect("there is room"));
    }
    producer.flush().await;
    assert_eq!(producer.stats().failed, 0);
}

async fn stop(consumer: PushConsumer) {
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_holds_its_queue_is_counted_over_restarts_and_dies_with_its_history() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "held", 1).await;
    send(&client, "held", (0..5).map(|number| number.to_string())).await;
    let push = || PushOptions { attempts_max: 9, ..quick(PushOptions::sequential()) };
    let attempts_of = |seen: &Seen, body: &str| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(of, _)| of == body).map(|(_, attempt)| *attempt).collect::<Vec<u32>>()
    };
    let first: Seen = Arc::default();
    let consumer = member(&client, &["held"], push(), &first, |body, _| body == "2").await;
    until("three attempts", || attempts_of(&first, "2").len() >= 3).await;
    stop(consumer).await;
    let before = attempts_of(&first, "2");
    assert_eq!(before, (1..).take(before.len()).collect::<Vec<u32>>());
    cluster.stop_broker().await;
    cluster.start_broker();
    let second: Seen = Arc::default();
    let consumer = member(&client, &["held"], push(), &second, |body, _| body == "2").await;
    until("the dead letter", || consumer.stats().dead == 1).await;
    until("what came after it", || !attempts_of(&second, "4").is_empty()).await;
    stop(consumer).await;
    let after = attempts_of(&second, "2");
    assert_eq!(after.first().copied(), before.last().map(|attempt| attempt + 1));
    assert_eq!(after.last(), Some(&9));
    assert_eq!(attempts_of(&second, "3"), [1]);
    let mut letters = common::consume(&client, "%DLQ%g", "undertaker").await;
    let letter = common::pull(&mut letters, 1).await.remove(0);
    let origin = letter.origin().expect("it is a copy");
    assert_eq!((text(&letter).as_str(), letter.attempt() - 1), ("2", 9));
    let (first_ms, last_ms) = (origin.first_failed_ms.unwrap(), origin.last_failed_ms.unwrap());
    // The pause that the restart fell into may have been shorter.
    assert!(last_ms - first_ms >= 7 * 50, "failed from {first_ms} to {last_ms}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_comes_again_at_a_member_that_wants_its_topic() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    for topic in ["a", "b"] {
        create(&client, topic, 2).await;
    }
    let (both, one): (Seen, Seen) = <(Seen, Seen)>::default();
    let push = || quick(PushOptions::default());
    let fails = |body: &str, attempt: u32| body.starts_with('a') && attempt == 1;
    // Members of one name: the retry queue would fall to either of them.
    let mut members = vec![member(&client, &["a", "b"], push(), &both, fails).await];
    for _ in 0..3 {
        members.push(member(&client, &["b"], push(), &one, fails).await);
    }
    send(&client, "a", (0..20).map(|number| format!("a{number}"))).await;
    send(&client, "b", (0..20).map(|number| format!("b{number}"))).await;
    until("every second attempt", || {
        both.lock().unwrap().iter().filter(|(_, attempt)| *attempt == 2).count() == 20
    })
    .await;
    for consumer in members {
        stop(consumer).await;
    }
    assert!(one.lock().unwrap().iter().all(|(body, _)| body.starts_with('b')));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_never_handles_a_topic_that_it_did_not_ask_for() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    for topic in ["a", "b"] {
        create(&client, topic, 1).await;
    }
    let seen: BTreeMap<&str, Seen> = [("a", Seen::default()), ("b", Seen::default())].into();
    let fails = |_: &str, attempt: u32| attempt == 1;
    let mut members = Vec::new();
    for topic in ["a", "b"] {
        members.push(member(&client, &[topic], quick(PushOptions::default()), &seen[topic], fails).await);
    }
    for topic in ["a", "b"] {
        send(&client, topic, [topic.to_owned()]).await;
    }
    let of = |topic: &str| seen[topic].lock().unwrap().clone();
    until("the first attempts", || of("a").len() + of("b").len() >= 2).await;
    sleep(Duration::from_secs(1)).await;
    // One of them has the retry queue, and its own message again; the other's waits for a member that wants it.
    let waits = if of("a").len() < 2 { "a" } else { "b" };
    assert_eq!(of(waits), [(waits.to_owned(), 1)]);
    stop(members.remove(usize::from(waits == "a"))).await;
    until("the other one", || of(waits).len() == 2).await;
    assert_eq!(of(waits)[1], (waits.to_owned(), 2));
    let other = if waits == "a" { "b" } else { "a" };
    assert!(of(other).iter().all(|(body, _)| body == other));
    stop(members.remove(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_a_replay_comes_again_too() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "again", 1).await;
    send(&client, "again", (0..10).map(|number| number.to_string())).await;
    let seen: Seen = Arc::default();
    let replays = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = Arc::clone(&replays);
    let fails = move |body: &str, attempt: u32| {
        // 3 fails in the first pass as well: that it was handed back then must not count in the second.
        attempt == 1 && (body == "3" || (body == "5" && now.load(std::sync::atomic::Ordering::SeqCst)))
    };
    let consumer = member(&client, &["again"], quick(PushOptions::default()), &seen, fails).await;
    until("the first pass", || seen.lock().unwrap().len() == 11).await;
    let committed = async || {
        let offsets = client.admin().fetch_offsets("g", "again").await.expect("the route is known");
        offsets.iter().all(|at| matches!(at.result, Ok(Some(offset)) if offset == Offset(10)))
    };
    while !committed().await {
        sleep(Duration::from_millis(20)).await;
    }
    replays.store(true, std::sync::atomic::Ordering::SeqCst);
    consumer.seek("again", 0, Offset(0)).expect("it is ours");
    until("the second pass", || seen.lock().unwrap().len() == 11 + 12).await;
    let second = seen.lock().unwrap().split_off(11);
    for body in ["3", "5"] {
        let attempts: Vec<u32> =
            second.iter().filter(|(of, _)| of == body).map(|(_, attempt)| *attempt).collect();
        assert_eq!(attempts, [1, 2], "{body}");
    }
    stop(consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_large_to_be_handed_back_is_handled_again_where_it_is() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "large", 1).await;
    // The largest that the broker takes leaves no room for the headers of a copy.
    let producer = client.producer(ProducerOptions::default());
    let mut sent = 0;
    for bytes in (1 << 19..1 << 20).rev().step_by(128) {
        if producer.send(&Message::new("large", &vec![b'x'; bytes])).await.is_ok() {
            sent = bytes;
            break;
        }
    }
    assert!(sent > 1_000_000, "{sent}");
    send(&client, "large", ["small".to_owned()]).await;
    let seen: Seen = Arc::default();
    let fails = |body: &str, attempt: u32| body.len() > 1_000 && attempt < 3;
    let consumer = member(&client, &["large"], quick(PushOptions::default()), &seen, fails).await;
    until("the third attempt", || {
        seen.lock().unwrap().iter().any(|(body, attempt)| body.len() == sent && *attempt == 3)
    })
    .await;
    stop(consumer).await;
    let offsets = client.admin().fetch_offsets("g", "large").await.expect("the route is known");
    assert_eq!(offsets[0].result.as_ref().ok(), Some(&Some(Offset(2))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_where_its_first_member_began_though_that_committed_nothing() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "pinned", 2).await;
    send(&client, "pinned", (0..10).map(|number| format!("old {number}"))).await;
    let begin = async || {
        let options = ConsumerOptions { start: StartAt::Last, commit_interval: None, ..options(&["pinned"]) };
        timeout(PATIENCE, client.consumer(options)).await.expect("in time").expect("the consumer starts")
    };
    let mut first = begin().await;
    common::nothing_more(&mut first).await;
    let pinned = async || {
        let offsets = client.admin().fetch_offsets("g", "pinned").await.expect("the route is known");
        offsets.iter().all(|at| matches!(at.result, Ok(Some(_))))
    };
    let since = Instant::now();
    while !pinned().await {
        assert!(since.elapsed() < PATIENCE, "where the group begins is not committed");
        sleep(Duration::from_millis(10)).await;
    }
    send(&client, "pinned", (0..10).map(|number| format!("new {number}"))).await;
    assert_eq!(common::pull(&mut first, 10).await.len(), 10);
    // Without a commit, as if its process had died.
    drop(first);
    let mut second = begin().await;
    let mut again: Vec<String> = common::pull(&mut second, 10).await.iter().map(text).collect();
    again.sort_unstable();
    assert_eq!(again, (0..10).map(|number| format!("new {number}")).collect::<Vec<_>>());
}
