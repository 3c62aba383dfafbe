//! Consumers take in no more than they may, and go on when what they have is handled.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, PATIENCE, create, ready, until};
use equeue_client::{
    Client, ConsumerOptions, Context, HandlerError, Message, OnError, ProducerOptions, PushConsumer,
    PushOptions, Received, StartAt, Subscription,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// Bytes of a message: about one fits into an answer.
const SIZE: usize = 20_000;
/// Messages of each queue.
const EACH: usize = 30;

/// Handled messages of each queue.
type Done = Arc<Mutex<BTreeMap<u32, usize>>>;

fn options(topic: &str, group: &str) -> ConsumerOptions {
    ConsumerOptions {
        group: group.to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        fetch_bytes_max: SIZE * 3 / 2,
        ..ConsumerOptions::default()
    }
}

/// Messages of two queues, a batch each.
async fn backlog(client: &Client, topic: &str) {
    create(client, topic, 2).await;
    let producer = client.producer(ProducerOptions::default());
    let body = vec![7; SIZE];
    for number in 0..2 * EACH {
        let queue = u32::from(number >= EACH);
        producer.send(&Message::new(topic, &body).queue(queue)).await.expect("stored");
    }
}

/// One that handles a message of queue 0 for each permit, and those of queue 1 at once unless `both` wait.
async fn start(
    client: &Client,
    options: ConsumerOptions,
    both: bool,
) -> (PushConsumer, Arc<Semaphore>, Done) {
    let (gate, done) = (Arc::new(Semaphore::new(0)), Done::default());
    let (shut, count) = (Arc::clone(&gate), Arc::clone(&done));
    let handler = move |message: Received, _: Context| {
        let (gate, done) = (Arc::clone(&shut), Arc::clone(&count));
        async move {
            if both || message.queue == 0 {
                gate.acquire().await.expect("it stays open").forget();
            }
            *done.lock().unwrap().entry(message.queue).or_default() += 1;
            Ok(())
        }
    };
    let push = PushOptions { parallel: 2, ..PushOptions::sequential() };
    let starting = client.push_consumer(options, push, handler);
    let consumer = timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts");
    (consumer, gate, done)
}

/// Messages and bytes that wait or are at work.
fn pending(consumer: &PushConsumer) -> (u64, u64) {
    let stats = consumer.stats();
    (stats.pending_messages, stats.pending_bytes)
}

/// Waits until as much is pending as may be, and looks for a while whether more is taken in.
async fn full(
    consumer: &PushConsumer,
    least: impl Fn((u64, u64)) -> bool,
    most: impl Fn((u64, u64)) -> bool,
) {
    until("as much as may be", || least(pending(consumer))).await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        assert!(most(pending(consumer)), "more than may be: {:?}", pending(consumer));
        sleep(Duration::from_millis(5)).await;
    }
}

/// Lets messages be handled one by one; never more than may be is pending, and nothing in the end.
async fn drain(
    consumer: PushConsumer,
    gate: &Semaphore,
    done: &Done,
    waits: usize,
    most: impl Fn((u64, u64)) -> bool,
) {
    let count = || done.lock().unwrap().values().sum::<usize>();
    let begun = count();
    for permits in 1..=waits {
        gate.add_permits(1);
        until("the next one", || count() >= begun + permits).await;
        assert!(most(pending(&consumer)), "more than may be: {:?}", pending(&consumer));
    }
    until("everything", || count() == 2 * EACH).await;
    until("nothing is pending", || pending(&consumer) == (0, 0)).await;
    assert_eq!(*done.lock().unwrap(), BTreeMap::from([(0, EACH), (1, EACH)]), "each once");
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
}

#[tokio::test]
async fn no_more_messages_are_taken_in_than_may_be_pending() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    backlog(&client, "messages").await;
    let limited = ConsumerOptions { pending_messages_max: 10, ..options("messages", "g") };
    let (consumer, gate, done) = start(&client, limited, true).await;
    // An answer and the one that was asked for before it came.
    let most = |(messages, _)| messages <= 11;
    full(&consumer, |(messages, _)| messages >= 10, most).await;
    drain(consumer, &gate, &done, 2 * EACH, most).await;
}

#[tokio::test]
async fn no_more_bytes_are_taken_in_than_may_be_pending() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    backlog(&client, "bytes").await;
    let limit = 5 * SIZE;
    let limited = ConsumerOptions { prefetch_bytes: limit, ..options("bytes", "g") };
    let (consumer, gate, done) = start(&client, limited, true).await;
    let (least, most) = (limit as u64, (limit + SIZE) as u64);
    full(&consumer, |(_, bytes)| bytes >= least, |(_, bytes)| bytes < most).await;
    drain(consumer, &gate, &done, 2 * EACH, |(_, bytes)| bytes < most).await;
}

#[tokio::test]
async fn a_queue_at_its_limit_holds_up_no_other() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    backlog(&client, "queues").await;
    let by_messages = ConsumerOptions { queue_pending_messages_max: 6, ..options("queues", "by-messages") };
    let by_bytes = ConsumerOptions { queue_pending_bytes_max: 6 * SIZE, ..options("queues", "by-bytes") };
    for limited in [by_messages, by_bytes] {
        let (consumer, gate, done) = start(&client, limited, false).await;
        until("all of the other queue", || done.lock().unwrap().get(&1) == Some(&EACH)).await;
        // As above: an answer and the one that was asked for before it came.
        let most = |(messages, _)| messages <= 7;
        full(&consumer, |(messages, _)| messages >= 6, most).await;
        assert_eq!(done.lock().unwrap().get(&0), None);
        drain(consumer, &gate, &done, EACH, most).await;
    }
}

#[tokio::test]
async fn what_failed_is_pending_no_more_once_it_is_settled() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "settled", 1).await;
    // Batches of many messages: those behind a failed one go back to their queue.
    let bodies: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let producer = client.producer(ProducerOptions::default());
    let messages: Vec<Message<'_>> =
        bodies.iter().map(|body| Message::new("settled", body.as_bytes())).collect();
    for outcome in producer.send_batch(&messages).await {
        outcome.expect("stored");
    }
    for (group, on_error) in [("held", OnError::HoldQueue), ("handed", OnError::HandBack)] {
        let done = Done::default();
        let count = Arc::clone(&done);
        let handler = move |message: Received, context: Context| {
            let fails = common::text(&message).ends_with('7') && context.attempt() == 1;
            if fails {
                return std::future::ready(Err(HandlerError::retry("not yet")));
            }
            *count.lock().unwrap().entry(0).or_default() += 1;
            std::future::ready(Ok(()))
        };
        let push = PushOptions {
            on_error: Some(on_error),
            retry_steps: vec![Duration::from_millis(10)],
            ..PushOptions::default()
        };
        let starting = client.push_consumer(options("settled", group), push, handler);
        let consumer = timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts");
        until("everything", || done.lock().unwrap().get(&0) == Some(&100)).await;
        until("nothing is pending", || pending(&consumer) == (0, 0)).await;
        timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    }
}
