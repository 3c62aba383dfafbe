//! Broker and nameserver stop and start in any order under load: nothing acknowledged is lost, nothing comes twice,
//! order and offsets hold.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Cluster, PATIENCE, consume, create, ready, text};
use equeue_client::{Client, Consumer, Message, Offset, Producer, ProducerOptions, Received};
use tokio::time::timeout;

const PRODUCERS: u32 = 3;
const KEYS: u32 = 5;

/// What a producer was told of its messages: by number.
#[derive(Debug, Default)]
struct Journal {
    acknowledged: BTreeMap<u32, (u32, Offset)>,
    failed: BTreeSet<u32>,
}

/// Sends numbered messages until told to stop, with many on the way.
async fn produce(producer: Producer, topic: &'static str, id: u32, stop: Arc<AtomicBool>) -> Journal {
    let mut deliveries = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (key, body) = (format!("{}", number % KEYS), format!("{id}:{number}"));
        let message = Message::new(topic, body.as_bytes()).key(key.as_bytes());
        deliveries.push((number, producer.enqueue(&message).await.expect("there is room in time")));
        number += 1;
        if number % 64 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut journal = Journal::default();
    for (number, delivery) in deliveries {
        match timeout(PATIENCE, delivery).await.expect("every delivery ends") {
            Ok(receipt) => drop(journal.acknowledged.insert(number, (receipt.queue, receipt.offset))),
            Err(_) => drop(journal.failed.insert(number)),
        }
    }
    journal
}

/// Pulls until everything acknowledged has come and nothing follows.
async fn collect(consumer: &mut Consumer, stop: &AtomicBool) -> Vec<Received> {
    let mut got = Vec::new();
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        // Trouble (a broker that is away) is told by the log; pulling goes on.
        let pulled = consumer.pull(1000, Duration::from_millis(500)).await.unwrap_or_default();
        if stopped && pulled.is_empty() {
            return got;
        }
        got.extend(pulled);
    }
}

/// The oracle: dense offsets, each once; all acknowledged messages where they were said to be; every producer's
/// messages of a queue in the order they were sent.
fn judge(journals: &[Journal], got: &[Received]) {
    let mut next: HashMap<u32, Offset> = HashMap::new();
    let mut last: HashMap<(u32, u32), u32> = HashMap::new();
    let mut seen: HashMap<(u32, u32), (u32, Offset)> = HashMap::new();
    for message in got {
        let expected = next.insert(message.queue, message.offset.plus(1)).unwrap_or_default();
        assert_eq!(message.offset, expected, "a gap or a repetition in queue {}", message.queue);
        let body = text(message);
        let (id, number) = body.split_once(':').expect("as it was sent");
        let (id, number): (u32, u32) = (id.parse().expect("a number"), number.parse().expect("a number"));
        let before = seen.insert((id, number), (message.queue, message.offset));
        assert_eq!(before, None, "message {body} is stored twice");
        let before = last.insert((id, message.queue), number);
        assert!(before.is_none_or(|before| before < number), "{body} comes after {before:?}");
    }
    for (id, journal) in (0_u32..).zip(journals) {
        for (number, place) in &journal.acknowledged {
            assert_eq!(seen.get(&(id, *number)), Some(place), "message {id}:{number} was acknowledged");
        }
    }
}

async fn under_load(
    topic: &'static str,
    mut cluster: Cluster,
    disturb: impl AsyncFnOnce(&mut Cluster, &Client),
) -> (Vec<Journal>, Client) {
    let client = ready(&cluster).await;
    create(&client, topic, 4).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut producers = Vec::new();
    for id in 0..PRODUCERS {
        let options = ProducerOptions { batch_bytes_max: 2048, ..ProducerOptions::default() };
        let producer = client.producer(options);
        producers.push(tokio::spawn(produce(producer, topic, id, Arc::clone(&stop))));
    }
    let mut consumer = consume(&client, topic, "g").await;
    let collected = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&collected);
    let collecting = tokio::spawn(async move { collect(&mut consumer, &done).await });
    disturb(&mut cluster, &client).await;
    stop.store(true, Ordering::Relaxed);
    let mut journals = Vec::new();
    for producer in producers {
        journals.push(timeout(PATIENCE, producer).await.expect("in time").expect("no panic"));
    }
    collected.store(true, Ordering::Relaxed);
    let got = timeout(PATIENCE, collecting).await.expect("in time").expect("no panic");
    let counts: Vec<_> =
        journals.iter().map(|journal| (journal.acknowledged.len(), journal.failed.len())).collect();
    tracing::info!(?counts, received = got.len(), "acknowledged and failed");
    judge(&journals, &got);
    assert!(journals.iter().all(|journal| journal.failed.is_empty()), "nothing had to fail: {counts:?}");
    // A fresh reader sees the same.
    let mut again = consume(&client, topic, "fresh").await;
    let fresh = collect(&mut again, &AtomicBool::new(true)).await;
    judge(&journals, &fresh);
    assert_eq!(fresh.len(), got.len());
    drop(cluster);
    (journals, client)
}

async fn moment() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_restarts() {
    let disturb = async |cluster: &mut Cluster, _: &Client| {
        for _ in 0..4 {
            moment().await;
            cluster.stop_broker().await;
            moment().await;
            cluster.start_broker();
        }
        moment().await;
    };
    let (journals, client) = under_load("restarts", Cluster::start(), disturb).await;
    assert!(journals.iter().all(|journal| journal.acknowledged.len() > 100), "there was load");
    client.close().await;
}

#[tokio::test]
async fn the_broker_restarts_with_another_number_of_shards() {
    let disturb = async |cluster: &mut Cluster, _: &Client| {
        for shards in [1, 2, 1] {
            moment().await;
            cluster.stop_broker().await;
            cluster.set_shards(shards);
            cluster.start_broker();
            moment().await;
        }
    };
    under_load("shards", Cluster::start_with_shards(2), disturb).await;
}

#[tokio::test]
async fn the_nameserver_restarts() {
    let disturb = async |cluster: &mut Cluster, _: &Client| {
        for _ in 0..3 {
            moment().await;
            cluster.stop_nameserver().await;
            moment().await;
            cluster.start_nameserver();
        }
        moment().await;
    };
    under_load("names", Cluster::start(), disturb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_restart_in_any_order() {
    let disturb = async |cluster: &mut Cluster, _: &Client| {
        moment().await;
        cluster.stop_nameserver().await;
        cluster.stop_broker().await;
        moment().await;
        cluster.start_broker();
        moment().await;
        cluster.start_nameserver();
        moment().await;
        cluster.stop_broker().await;
        cluster.stop_nameserver().await;
        moment().await;
        cluster.start_nameserver();
        moment().await;
        cluster.start_broker();
        moment().await;
    };
    under_load("both", Cluster::start(), disturb).await;
}

#[tokio::test]
async fn a_topic_made_anew_is_read_from_its_start() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    let producer = client.producer(ProducerOptions::default());
    create(&client, "one", 1).await;
    create(&client, "two", 1).await;
    let options = equeue_client::ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![equeue_client::Subscription::all("one"), equeue_client::Subscription::all("two")],
        ..Default::default()
    };
    let mut consumer = client.consumer(options).await.expect("both topics are there");
    for topic in ["one", "two"] {
        producer.send(&Message::new(topic, topic.as_bytes())).await.expect("stored");
    }
    let mut topics: Vec<String> = common::pull(&mut consumer, 2).await.iter().map(text).collect();
    topics.sort();
    assert_eq!(topics, ["one", "two"]);
    // Other keys, offsets from 0.
    client.admin().delete_topic("two").await.expect("the cluster answers");
    create(&client, "two", 2).await;
    let sending = async {
        for queue in 0..2 {
            producer.send(&Message::new("two", b"anew").queue(queue)).await.expect("stored");
        }
    };
    timeout(PATIENCE, sending).await.expect("in time");
    let got = common::pull(&mut consumer, 2).await;
    assert!(got.iter().all(|message| text(message) == "anew" && message.offset == Offset(0)), "{got:?}");
}

#[tokio::test]
async fn queues_added_later_are_picked_up_from_their_first_message() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    let producer = client.producer(ProducerOptions::default());
    create(&client, "grows", 1).await;
    producer.send(&Message::new("grows", b"before")).await.expect("stored");
    let options = equeue_client::ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![equeue_client::Subscription::all("grows")],
        start: equeue_client::StartAt::Last,
        ..Default::default()
    };
    let mut consumer = client.consumer(options).await.expect("the topic is there");
    for result in client.admin().add_queues("grows", 2).await.expect("the cluster answers") {
        result.result.expect("the queues are added");
    }
    let sending = async {
        for queue in [1, 2] {
            // The producer learns of the new queues with its next look at the routes.
            while producer.send(&Message::new("grows", b"added").queue(queue)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(PATIENCE, sending).await.expect("in time");
    // What was there before is passed over; what came into the new queues is not, whenever they are found.
    let got = common::pull(&mut consumer, 2).await;
    assert!(got.iter().all(|message| text(message) == "added"), "{got:?}");
    let mut queues: Vec<u32> = got.iter().map(|message| message.queue).collect();
    queues.sort_unstable();
    assert_eq!(queues, [1, 2]);
}
