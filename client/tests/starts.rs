//! Where consumers begin: at a time, at the ends whatever was committed, behind what retention took.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, committed_by_queue, create, nothing_more, pull, ready, text};
use equeue_broker::config::ByteSize;
use equeue_client::{
    Client, Consumer, ConsumerOptions, Message, Offset, ProducerOptions, Receipt, StartAt, Subscription,
};
use equeue_net::api::OffsetAt;
use tokio::time::{sleep, timeout};

fn options(topic: &str, group: &str, start: StartAt) -> ConsumerOptions {
    ConsumerOptions {
        group: group.to_owned(),
        topics: vec![Subscription::all(topic)],
        start,
        commit_interval: None,
        ..ConsumerOptions::default()
    }
}

async fn member(client: &Client, options: ConsumerOptions) -> Consumer {
    timeout(PATIENCE, client.consumer(options)).await.expect("in time").expect("the consumer starts")
}

/// Numbers, each in a batch of its own, to one queue after the other.
async fn send(client: &Client, topic: &str, queues: u32, numbers: std::ops::Range<u32>) -> Vec<Receipt> {
    let producer = client.producer(ProducerOptions::default());
    let mut receipts = Vec::new();
    for number in numbers {
        let body = number.to_string();
        let message = Message::new(topic, body.as_bytes()).queue(number % queues);
        receipts.push(producer.send(&message).await.expect("stored"));
    }
    receipts
}

async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<u32> {
    let pulled = pull(consumer, count).await;
    let mut numbers: Vec<u32> = pulled.iter().map(|message| text(message).parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn a_group_begins_at_a_time() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "times", 2).await;
    let before = send(&client, "times", 2, 0..10).await;
    let last = before.iter().map(|receipt| receipt.append_time_ms).max().expect("ten of them");
    // Nothing of what follows has the same time.
    sleep(Duration::from_millis(10)).await;
    let after = send(&client, "times", 2, 10..20).await;
    let first = after.iter().map(|receipt| receipt.append_time_ms).min().expect("ten of them");
    assert!(last < first, "{last} {first}");
    for (group, time, begins) in [("after", last + 1, 10), ("exactly", first, 10), ("long-ago", 0, 0)] {
        let mut consumer = member(&client, options("times", group, StartAt::Time(time))).await;
        let expected: Vec<u32> = (begins..20).collect();
        assert_eq!(numbers(&mut consumer, expected.len()).await, expected, "{group}");
        nothing_more(&mut consumer).await;
        assert_eq!(consumer.lost(), 0, "what was not wanted is not lost");
    }
    // Nothing was stored since: what comes next does.
    let mut late = member(&client, options("times", "late", StartAt::Time(i64::MAX))).await;
    nothing_more(&mut late).await;
    send(&client, "times", 2, 20..22).await;
    assert_eq!(numbers(&mut late, 2).await, [20, 21]);
    late.commit().await.expect("it is committed");
    late.close().await.expect("all is committed");
    // The time is for a group that has committed nothing.
    let mut again = member(&client, options("times", "late", StartAt::Time(0))).await;
    nothing_more(&mut again).await;
}

#[tokio::test]
async fn what_was_committed_is_ignored_where_that_is_asked_for_and_does_not_go_back() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "again", 1).await;
    send(&client, "again", 1, 0..20).await;
    let mut consumer = member(&client, options("again", "g", StartAt::First)).await;
    assert_eq!(numbers(&mut consumer, 10).await.len(), 10);
    consumer.commit().await.expect("it is committed");
    consumer.close().await.expect("all is committed");

    let ignoring = |start| ConsumerOptions { ignore_committed: true, ..options("again", "g", start) };
    let mut consumer = member(&client, ignoring(StartAt::First)).await;
    assert_eq!(numbers(&mut consumer, 5).await, (0..5).collect::<Vec<_>>());
    consumer.commit().await.expect("nothing is to be committed");
    assert_eq!(committed_by_queue(&client, "g", "again").await, [10], "commits do not go back");
    assert_eq!(numbers(&mut consumer, 10).await, (5..15).collect::<Vec<_>>());
    consumer.commit().await.expect("it is committed");
    assert_eq!(committed_by_queue(&client, "g", "again").await, [15]);
    consumer.close().await.expect("all is committed");

    let mut consumer = member(&client, ignoring(StartAt::Last)).await;
    send(&client, "again", 1, 20..22).await;
    assert_eq!(numbers(&mut consumer, 2).await, [20, 21], "what lies between is passed over");
    consumer.close().await.expect("it leaves");
    // Who does not ask for it goes on where the group is.
    let mut consumer = member(&client, options("again", "g", StartAt::Last)).await;
    assert_eq!(numbers(&mut consumer, 7).await, (15..22).collect::<Vec<_>>());
    nothing_more(&mut consumer).await;
}

#[tokio::test]
async fn what_is_committed_is_ignored_only_once() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "once", 2).await;
    send(&client, "once", 2, 0..10).await;
    let ignoring = ConsumerOptions { ignore_committed: true, ..options("once", "g", StartAt::First) };
    let mut first = member(&client, ignoring).await;
    assert_eq!(numbers(&mut first, 10).await.len(), 10);
    first.commit().await.expect("it is committed");
    // One of its queues goes to another member and comes back.
    let second = member(&client, options("once", "g", StartAt::First)).await;
    let shared = async {
        while (first.positions().len(), second.positions().len()) != (1, 1) {
            assert!(first.pull(10, Duration::from_millis(20)).await.expect("pulling goes on").is_empty());
        }
    };
    timeout(PATIENCE, shared).await.expect("the queues are shared");
    second.close().await.expect("it leaves");
    let back = async {
        while first.positions().len() < 2 {
            assert!(first.pull(10, Duration::from_millis(20)).await.expect("pulling goes on").is_empty());
        }
    };
    timeout(PATIENCE, back).await.expect("the queue comes back");
    nothing_more(&mut first).await;
}

#[tokio::test]
async fn what_retention_took_before_it_was_consumed_is_counted_as_lost() {
    let cluster = Cluster::start_with(|config| {
        config.storage.segment_bytes_first = ByteSize::mib(1);
        config.storage.segment_bytes_max = ByteSize::mib(1);
        config.retention.segments = 2;
        config.retention.check_ms = 20;
    });
    let client = ready(&cluster).await;
    create(&client, "old", 1).await;
    send(&client, "old", 1, 0..10).await;
    // One has committed and left, one stands still meanwhile.
    let mut consumer = member(&client, options("old", "g", StartAt::First)).await;
    assert_eq!(numbers(&mut consumer, 5).await.len(), 5);
    consumer.commit().await.expect("it is committed");
    consumer.close().await.expect("all is committed");
    let mut paused = member(&client, options("old", "paused", StartAt::First)).await;
    assert_eq!(numbers(&mut paused, 10).await.len(), 10);
    paused.pause("old", 0).expect("it is owned");
    let producer = client.producer(ProducerOptions::default());
    let body = vec![7; 100_000];
    for _ in 10..60 {
        producer.send(&Message::new("old", &body)).await.expect("stored");
    }
    let start = async || {
        let offsets = client.admin().list_offsets("old", OffsetAt::First).await.expect("the route is known");
        offsets[0].result.clone().expect("the broker answers")
    };
    let removed = async {
        while start().await < Offset(30) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, removed).await.expect("retention removes the first ones");

    let mut consumer = member(&client, options("old", "g", StartAt::First)).await;
    let first = pull(&mut consumer, 1).await.remove(0).offset;
    assert!(first >= Offset(30), "it goes on where the queue begins: {first}");
    let rest = pull(&mut consumer, (first.0..59).count()).await;
    assert_eq!(rest.last().map(|message| message.offset), Some(Offset(59)));
    assert_eq!((consumer.lost(), consumer.stats().missed), (first.0 - 5, first.0 - 5));
    consumer.commit().await.expect("it is committed");
    assert_eq!(committed_by_queue(&client, "g", "old").await, [60]);

    paused.resume("old", 0).expect("it is owned");
    let mut came = 0;
    let pulling = async {
        while paused.positions()[0].next < Offset(60) {
            came += paused.pull(100, Duration::from_secs(1)).await.expect("pulling goes on").len();
        }
    };
    timeout(PATIENCE, pulling).await.expect("it reaches the end");
    assert!(came < 50, "the first ones are gone");
    assert_eq!(paused.lost(), 50 - came as u64, "what did not come is lost");
}
