//! Pulling in other ways: without an asynchronous runtime, and as a stream.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, committed_by_queue, create, nothing_more, pull, ready, text};
use equeue_client::{
    BlockingConsumer, Client, ClientError, Consumer, ConsumerOptions, Message, MessageStream, Offset,
    ProducerOptions, StartAt, Subscription,
};
use futures::StreamExt as _;
use tokio::time::timeout;

fn options(topic: &str) -> ConsumerOptions {
    ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        commit_interval: None,
        ..ConsumerOptions::default()
    }
}

async fn member(client: &Client, options: ConsumerOptions) -> Consumer {
    timeout(PATIENCE, client.consumer(options)).await.expect("in time").expect("the consumer starts")
}

async fn send(client: &Client, topic: &str, numbers: std::ops::Range<u32>) {
    let producer = client.producer(ProducerOptions::default());
    for number in numbers {
        producer.send(&Message::new(topic, number.to_string().as_bytes())).await.expect("stored");
    }
}

async fn next(stream: &mut MessageStream) -> Result<String, ClientError> {
    let next = timeout(PATIENCE, stream.next()).await.expect("in time").expect("it does not end");
    next.map(|message| text(&message))
}

fn strings(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[test]
fn a_program_without_a_runtime_pulls_commits_and_leaves() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(async {
        let client = ready(&cluster).await;
        create(&client, "blocking", 1).await;
        send(&client, "blocking", 0..20).await;
        client
    });
    let pulled = |consumer: &mut BlockingConsumer, count: usize| {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            let messages = consumer.pull(count - bodies.len(), PATIENCE).expect("pulling goes on");
            assert!(!messages.is_empty(), "only {bodies:?}");
            bodies.extend(messages.iter().map(text));
        }
        bodies
    };
    let start = || BlockingConsumer::start(cluster.builder(), options("blocking"));
    let mut consumer = start().expect("the consumer starts");
    assert_eq!(pulled(&mut consumer, 10), strings(0..10));
    consumer.commit().expect("it is committed");
    assert_eq!(pulled(&mut consumer, 5), strings(10..15));
    let position = consumer.positions().remove(0);
    assert_eq!((position.next, position.committed), (Offset(15), Some(Offset(10))));
    consumer.consumer().seek("blocking", 0, Offset(3)).expect("it is owned");
    assert_eq!(pulled(&mut consumer, 2), strings(3..5));
    consumer.close().expect("what is not committed stays so");
    // The queues were given back: nobody waits for a lease.
    let mut consumer = start().expect("the consumer starts");
    assert_eq!(pulled(&mut consumer, 10), strings(10..20));
    assert!(consumer.pull(1, Duration::from_millis(100)).expect("pulling goes on").is_empty());
    consumer.commit().expect("it is committed");
    consumer.close().expect("it leaves");
    assert_eq!(runtime.block_on(committed_by_queue(&client, "g", "blocking")), [20]);

    let unknown = BlockingConsumer::start(cluster.builder(), options("nowhere"));
    assert!(matches!(unknown, Err(ClientError::TopicNotFound { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_stream_gives_each_message_once_and_then_the_consumer_back() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "stream", 1).await;
    send(&client, "stream", 0..10).await;
    let mut stream = member(&client, options("stream")).await.into_stream();
    let mut bodies = Vec::new();
    for _ in 0..10 {
        bodies.push(next(&mut stream).await.expect("pulling goes on"));
    }
    // Who does not wait for the next one loses nothing.
    for number in 10..15 {
        let waited = timeout(Duration::from_millis(1), stream.next()).await;
        assert!(waited.is_err(), "nothing was sent: {waited:?}");
        send(&client, "stream", number..number + 1).await;
        bodies.push(next(&mut stream).await.expect("pulling goes on"));
    }
    assert_eq!(bodies, strings(0..15));
    // A wait for the next one that was given up is in the stream still.
    assert!(timeout(Duration::from_millis(1), stream.next()).await.is_err());
    send(&client, "stream", 15..18).await;
    let back = timeout(PATIENCE, stream.into_consumer()).await.expect("in time");
    let mut consumer = back.expect("the stream has not ended");
    let rest: Vec<String> = pull(&mut consumer, 3).await.iter().map(text).collect();
    assert_eq!(rest, strings(15..18));
    nothing_more(&mut consumer).await;
    consumer.commit().await.expect("it is committed");
    assert_eq!(committed_by_queue(&client, "g", "stream").await, [18]);
}

#[tokio::test]
async fn a_message_of_a_stream_is_handled_when_the_next_one_is_asked_for() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "periodic", 1).await;
    send(&client, "periodic", 0..5).await;
    let periodic =
        ConsumerOptions { commit_interval: Some(Duration::from_millis(50)), ..options("periodic") };
    let mut stream = member(&client, periodic).await.into_stream();
    for _ in 0..3 {
        next(&mut stream).await.expect("pulling goes on");
    }
    let committed = async |wanted: u64| {
        while committed_by_queue(&client, "g", "periodic").await != [wanted] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, committed(2)).await.expect("those before the last one");
    // A stream that is dropped gives the queues back as they are: the last message comes again.
    drop(stream);
    let mut consumer = member(&client, options("periodic")).await;
    let again: Vec<String> = pull(&mut consumer, 3).await.iter().map(text).collect();
    assert_eq!(again, strings(2..5));
}

#[tokio::test]
async fn a_stream_tells_of_trouble_and_goes_on() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    for topic in ["agreed", "disputed"] {
        create(&client, topic, 1).await;
    }
    let tagged = Subscription { topic: "disputed".into(), tags: vec!["red".into()] };
    let both = |disputed: Subscription| ConsumerOptions {
        topics: vec![Subscription::all("agreed"), disputed],
        ..options("agreed")
    };
    let first = member(&client, both(tagged)).await;
    let mut stream = member(&client, both(Subscription::all("disputed"))).await.into_stream();
    let told = next(&mut stream).await;
    assert!(matches!(told, Err(ClientError::SubscriptionConflict { .. })), "{told:?}");
    // The other member leaves, so that both topics fall to this one.
    first.close().await.expect("it leaves");
    send(&client, "agreed", 0..2).await;
    send(&client, "disputed", 2..4).await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        bodies.push(next(&mut stream).await.expect("pulling goes on"));
    }
    bodies.sort();
    assert_eq!(bodies, strings(0..4));
}
