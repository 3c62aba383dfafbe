//! A topic on two brokers, one of which goes away and comes back.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Cluster, PATIENCE, consume, create, nothing_more, pull, ready, text};
use equeue_client::{
    AssignmentEvent, AssignmentListener, Client, ClientError, Code, Consumer, ConsumerOptions, Message,
    Offset, ProducerOptions, StartAt, Subscription, key_hash,
};
use tokio::time::timeout;

#[tokio::test]
async fn keyed_messages_wait_for_their_broker_and_others_go_elsewhere() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    // Ordinals are dealt out in turn: even ones on a, odd ones on b.
    create(&client, "both", 2).await;
    let producer = client.producer(ProducerOptions::default());
    for queue in 0..4 {
        let receipt = producer.send(&Message::new("both", b"first").queue(queue)).await.expect("stored");
        assert_eq!(&*receipt.broker, if queue % 2 == 0 { "broker-a" } else { "broker-b" });
    }
    let keys: Vec<String> = (0..40).map(|number| format!("key-{number}")).collect();
    let of_b = |key: &&String| key_hash(key.as_bytes()) % 4 % 2 == 1;
    let (b, a): (Vec<&String>, Vec<&String>) = keys.iter().partition(of_b);

    cluster.stop_broker_at(1).await;
    let waiting: Vec<_> = b
        .iter()
        .map(|key| producer.try_enqueue(&Message::new("both", key.as_bytes()).key(key.as_bytes())))
        .map(|delivery| delivery.expect("there is room"))
        .collect();
    let begin = Instant::now();
    for key in &a {
        let message = Message::new("both", key.as_bytes()).key(key.as_bytes());
        producer.send(&message).await.expect("its broker is there");
    }
    // 300 messages without a key are more than one turn over all queues.
    for number in 0..300 {
        let body = format!("free-{number}");
        let receipt =
            producer.send(&Message::new("both", body.as_bytes())).await.expect("another broker is there");
        assert_eq!(&*receipt.broker, "broker-a");
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "nobody waited for a timeout");
    let mut consumer = consume(&client, "both", "g").await;
    let from_a = pull(&mut consumer, 2 + a.len() + 300).await;
    assert!(from_a.iter().all(|message| &*message.broker == "broker-a"));

    cluster.start_broker_at(1);
    for delivery in waiting {
        let receipt = timeout(PATIENCE, delivery).await.expect("in time").expect("stored once it is back");
        assert_eq!(&*receipt.broker, "broker-b");
    }
    // The consumer picks the broker up, and the keyed messages came where they belong.
    let from_b = pull(&mut consumer, 2 + b.len()).await;
    let got: BTreeSet<String> = from_b.iter().map(text).filter(|body| body != "first").collect();
    assert_eq!(got, b.iter().map(|key| (*key).clone()).collect());
    nothing_more(&mut consumer).await;
    assert_eq!(producer.stats().failed, 0);
    // And messages without a key go there again.
    let back = async {
        while &*producer.send(&Message::new("both", b"free")).await.expect("stored").broker != "broker-b" {}
    };
    timeout(PATIENCE, back).await.expect("the broker is used again");
}

/// The only queue of a topic is on this broker.
async fn create_at(client: &Client, topic: &str, broker: &str) {
    let results = client.admin().create_topic_with(topic, vec![broker.to_owned()]).await.expect("answers");
    for result in results {
        result.result.expect("the topic is created");
    }
}

#[tokio::test]
async fn a_group_with_members_is_deleted_on_no_broker() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    create_at(&client, "here", "broker-a").await;
    create_at(&client, "there", "broker-b").await;
    let producer = client.producer(ProducerOptions::default());
    producer.send(&Message::new("there", b"x")).await.expect("stored");
    // It leaves an offset on b and nobody there.
    let mut gone = consume(&client, "there", "g").await;
    assert_eq!(pull(&mut gone, 1).await.len(), 1);
    gone.commit().await.expect("committed");
    gone.close().await.expect("it leaves");
    let member = consume(&client, "here", "g").await;
    let joined = async {
        while member.positions().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, joined).await.expect("it owns its queue");

    let admin = client.admin();
    let refused = admin.delete_group("g").await.expect("the cluster answers");
    let codes: Vec<_> = refused
        .iter()
        .map(|told| match &told.result {
            Err(ClientError::Refused { code, .. }) => (&*told.broker, *code),
            other => panic!("{}: {other:?}", told.broker),
        })
        .collect();
    assert_eq!(codes, [("broker-a", Code::GroupActive)]);
    let kept = admin.fetch_offsets("g", "there").await.expect("the route is known");
    assert_eq!(*kept[0].result.as_ref().expect("broker-b answers"), Some(Offset(1)));

    member.close().await.expect("it leaves");
    let deleted = admin.delete_group("g").await.expect("the cluster answers");
    assert!(deleted.iter().all(|told| told.result.is_ok()), "{deleted:?}");
    let gone = admin.fetch_offsets("g", "there").await.expect("the route is known");
    assert_eq!(*gone[0].result.as_ref().expect("broker-b answers"), None);
}

type Events = Arc<Mutex<Vec<AssignmentEvent>>>;

async fn listening(client: &Client, events: &Events) -> Consumer {
    let heard = Arc::clone(events);
    let listener = AssignmentListener::new(move |event: &AssignmentEvent| {
        heard.lock().expect("no listener panics").push(event.clone());
    });
    let options = ConsumerOptions {
        group: "g".into(),
        topics: vec![Subscription::all("both")],
        start: StartAt::First,
        commit_interval: Some(Duration::from_millis(100)),
        on_assignment: Some(listener),
        ..ConsumerOptions::default()
    };
    timeout(PATIENCE, client.consumer(options)).await.expect("in time").expect("the consumer starts")
}

/// Pulls with all until each owns so many queues.
async fn until_owned(members: &mut [Consumer], queues: usize, seen: &mut Vec<String>) {
    let begin = Instant::now();
    while members.iter().any(|member| member.positions().len() != queues) {
        pull_some(members, seen).await;
        let owned: Vec<_> = members.iter().map(|member| member.positions().len()).collect();
        assert!(begin.elapsed() < PATIENCE, "{owned:?} are not {queues} each");
    }
}

/// Pulls with all until this many messages have come.
async fn until_seen(members: &mut [Consumer], count: usize, seen: &mut Vec<String>) {
    let begin = Instant::now();
    while seen.len() < count {
        pull_some(members, seen).await;
        assert!(begin.elapsed() < PATIENCE, "{} of {count} messages", seen.len());
    }
}

async fn pull_some(members: &mut [Consumer], seen: &mut Vec<String>) {
    for member in members {
        // That a broker is away is told; pulling goes on.
        let pulled = member.pull(100, Duration::from_millis(20)).await.unwrap_or_default();
        seen.extend(pulled.iter().map(text));
    }
}

#[tokio::test]
async fn members_go_on_without_their_coordinator_and_with_the_next_one() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    create(&client, "both", 3).await;
    let producer = client.producer(ProducerOptions::default());
    let events = Events::default();
    let mut members = vec![listening(&client, &events).await, listening(&client, &events).await];
    let mut seen = Vec::new();
    until_owned(&mut members, 3, &mut seen).await;
    let before: Vec<Vec<u32>> =
        members.iter().map(|member| member.positions().iter().map(|at| at.queue).collect()).collect();
    events.lock().expect("no listener panics").clear();

    // The one with the oldest data keeps the members. The queues of the other one go on.
    cluster.stop_broker_at(0).await;
    for number in 0..60 {
        let message = Message::new("both", b"x").queue(1 + 2 * (number % 3));
        assert_eq!(&*producer.send(&message).await.expect("b is there").broker, "broker-b");
    }
    let begin = Instant::now();
    until_seen(&mut members, 60, &mut seen).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "nobody waited for a lease: {:?}", begin.elapsed());
    // Past leases, sessions and the wait for the members of before.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        pull_some(&mut members, &mut seen).await;
    }
    assert_eq!(seen.len(), 60, "each message once");
    let moved = events.lock().expect("no listener panics").clone();
    assert!(moved.is_empty(), "both are members at the next coordinator, as before: {moved:?}");

    // The group lives: who joins now gets its part from the next coordinator.
    members.push(listening(&client, &Events::default()).await);
    let joined = async {
        while members[2].positions().is_empty() {
            pull_some(&mut members, &mut seen).await;
        }
    };
    timeout(PATIENCE, joined).await.expect("a queue of b is handed over");
    members.remove(2).close().await.expect("it leaves");
    cluster.start_broker_at(0);
    until_owned(&mut members, 3, &mut seen).await;
    for number in 0..60 {
        producer.send(&Message::new("both", b"x").queue(number % 6)).await.expect("both are there");
    }
    until_seen(&mut members, 120, &mut seen).await;
    let after: Vec<Vec<u32>> =
        members.iter().map(|member| member.positions().iter().map(|at| at.queue).collect()).collect();
    assert_eq!(after, before);
    assert_eq!(seen.len(), 120, "each message once");
}
