//! A topic on two brokers, one of which goes away and comes back.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Cluster, PATIENCE, consume, create, nothing_more, pull, ready, text};
use equeue_client::{Message, ProducerOptions, key_hash};
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
