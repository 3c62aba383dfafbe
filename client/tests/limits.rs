//! Every limit is reached, and told in time and in words that help.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, PATIENCE, consume, create, pull, ready, text};
use equeue_client::{Client, ClientError, EnqueueError, Message, Producer, ProducerOptions, SendError};
use tokio::time::timeout;

/// A producer that knows the route of `topic`.
async fn warm(client: &Client, topic: &str, options: ProducerOptions) -> Producer {
    let producer = client.producer(options);
    producer.send(&Message::new(topic, b"first")).await.expect("stored");
    producer
}

#[tokio::test]
async fn the_window_of_messages_fills_and_empties() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "window", 2).await;
    let options = ProducerOptions { window_messages: 10, ..ProducerOptions::default() };
    let producer = warm(&client, "window", options).await;
    cluster.stop_broker().await;
    let mut deliveries = Vec::new();
    for _ in 0..10 {
        deliveries.push(producer.try_enqueue(&Message::new("window", b"x")).expect("there is room"));
    }
    assert!(matches!(producer.try_enqueue(&Message::new("window", b"x")), Err(EnqueueError::Full)));
    cluster.start_broker();
    // Waits for room, gets it, and is stored.
    timeout(PATIENCE, producer.send(&Message::new("window", b"x"))).await.expect("in time").expect("stored");
    for delivery in deliveries {
        timeout(PATIENCE, delivery).await.expect("in time").expect("stored");
    }
    assert_eq!(producer.stats().acknowledged, 12);
}

#[tokio::test]
async fn the_window_of_bytes_fills() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "bytes", 1).await;
    let timeouts = ProducerOptions { send_timeout: Duration::from_millis(400), ..ProducerOptions::default() };
    let producer = warm(&client, "bytes", ProducerOptions { window_bytes: 10_000, ..timeouts }).await;
    cluster.stop_broker().await;
    let body = vec![1; 3_000];
    let taken: Vec<_> = (0..4).map(|_| producer.try_enqueue(&Message::new("bytes", &body))).collect();
    assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 3);
    // Who holds the room is over its time, and leaves it.
    for delivery in taken.into_iter().flatten() {
        let outcome = timeout(PATIENCE, delivery).await.expect("in time");
        assert!(matches!(outcome, Err(SendError::TimedOut { .. })), "{outcome:?}");
    }
    assert!(producer.try_enqueue(&Message::new("bytes", &[2; 9_999])).is_ok());
}

#[tokio::test]
async fn a_message_times_out_when_the_broker_stays_away() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "late", 1).await;
    let limit = Duration::from_millis(700);
    let producer =
        warm(&client, "late", ProducerOptions { send_timeout: limit, ..ProducerOptions::default() }).await;
    cluster.stop_broker().await;
    let begin = Instant::now();
    let error = producer.send(&Message::new("late", b"x").key(b"k")).await.expect_err("nobody is there");
    assert!(begin.elapsed() >= limit && begin.elapsed() < limit * 4, "{:?}", begin.elapsed());
    assert!(matches!(error, SendError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("late"), "{error}");
    // The producer works again once the broker is back, in a new epoch if need be.
    cluster.start_broker();
    let producing = async { while producer.send(&Message::new("late", b"y").key(b"k")).await.is_err() {} };
    timeout(PATIENCE, producing).await.expect("in time");
    let mut consumer = consume(&client, "late", "g").await;
    let got: Vec<String> = pull(&mut consumer, 2).await.iter().map(text).collect();
    assert_eq!(got, ["first", "y"]);
    assert_eq!(producer.stats().failed, producer.stats().sent - 2);
}

#[tokio::test]
async fn unknown_topics_are_told_or_made() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    let strict = client.producer(ProducerOptions { auto_create: false, ..ProducerOptions::default() });
    let outcome = strict.try_enqueue(&Message::new("nowhere", b"x"));
    assert!(matches!(outcome, Err(EnqueueError::NoRoute { .. })), "{outcome:?}");
    let error = timeout(PATIENCE, strict.send(&Message::new("nowhere", b"x"))).await.expect("in time");
    assert!(matches!(error, Err(SendError::NoRoute { .. })), "{error:?}");
    let missing = client.consumer(equeue_client::ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![equeue_client::Subscription::all("nowhere")],
        ..Default::default()
    });
    let error = timeout(PATIENCE, missing).await.expect("in time").expect_err("no such topic");
    assert!(matches!(error, ClientError::TopicNotFound { attempts: 5, .. }), "{error}");

    let easy = client.producer(ProducerOptions::default());
    easy.send(&Message::new("made", b"x")).await.expect("made by the first message");
    assert_eq!(client.admin().list_offsets("made", equeue_net::api::OffsetAt::Last).await.unwrap().len(), 4);
}

#[tokio::test]
async fn messages_beyond_the_limits_are_refused_alone() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "large", 1).await;
    let producer = warm(&client, "large", ProducerOptions::default()).await;
    let small = producer.try_enqueue(&Message::new("large", b"before")).expect("there is room");
    let refused = producer.try_enqueue(&Message::new("large", &vec![0; 9 << 20]));
    assert!(matches!(refused, Err(EnqueueError::Rejected(SendError::TooLarge { .. }))), "{refused:?}");
    let long_tag = "t".repeat(300);
    let refused = producer.send(&Message::new("large", b"x").tag(&long_tag)).await;
    assert!(matches!(refused, Err(SendError::TooLarge { size: 300, .. })), "{refused:?}");
    let refused = producer.send(&Message::new("large", b"x").queue(7)).await;
    assert!(matches!(refused, Err(SendError::NoRoute { .. })), "{refused:?}");
    small.await.expect("stored");
    // Larger than a batch usually is: goes alone.
    producer.send(&Message::new("large", &vec![7; 700_000])).await.expect("stored");
    let mut consumer = consume(&client, "large", "g").await;
    let got = pull(&mut consumer, 3).await;
    assert_eq!(got[2].body.as_ref().map(bytes::Bytes::len), Some(700_000));
    assert_eq!(producer.stats().failed, 0, "what was refused was never taken");
}

#[tokio::test]
async fn a_closed_producer_takes_nothing_and_loses_nothing() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "closed", 2).await;
    let linger = Duration::from_mins(1);
    let producer = warm_with_linger(&client, linger).await;
    let deliveries: Vec<_> = (0..100)
        .map(|_| producer.try_enqueue(&Message::new("closed", b"x")).expect("there is room"))
        .collect();
    timeout(PATIENCE, producer.close()).await.expect("closing does not linger");
    for delivery in deliveries {
        delivery.await.expect("stored before it was closed");
    }
    let outcome = producer.send(&Message::new("closed", b"x")).await;
    assert_eq!(outcome, Err(SendError::Closed));
}

async fn warm_with_linger(client: &Client, linger: Duration) -> Producer {
    let producer = client.producer(ProducerOptions { linger, ..ProducerOptions::default() });
    let first = producer.enqueue(&Message::new("closed", b"x")).await.expect("the route is known");
    timeout(PATIENCE, producer.flush()).await.expect("flushing does not linger");
    first.await.expect("stored");
    producer
}

#[tokio::test]
async fn a_client_starts_without_any_server() {
    let mut cluster = Cluster::start();
    cluster.stop_broker().await;
    cluster.stop_nameserver().await;
    let client = cluster.client().await;
    let producer = client.producer(ProducerOptions::default());
    let message = Message::new("early", b"x");
    let sending = producer.send(&message);
    let servers = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.start_nameserver();
        cluster.start_broker();
    };
    let (outcome, ()) = tokio::join!(timeout(PATIENCE, sending), servers);
    outcome.expect("in time").expect("stored");
}
