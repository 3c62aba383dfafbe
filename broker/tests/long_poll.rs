//! Fetches that wait: woken by their queues only, replaced, ended in time, gone with their connection.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Client, batch, batch_of, start, stop, until};
use equeue_net::Code;
use equeue_net::api::DeleteTopic;
use equeue_record::{NO_PRODUCER, Offset, ProducerStamp, tag_hash};

#[test]
fn a_message_wakes_exactly_those_who_wait_for_its_queue() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut producer = Client::connect(broker.address());
    let queues = producer.create_topic("t", 4).queues;
    let stats = &broker.broker().stats[0];
    let mut waiting: Vec<(Client, u32)> = Vec::new();
    for queue in &queues {
        let mut client = Client::connect(broker.address());
        let correlation = client.send_fetch(1, 30_000, &[(queue.key, 0)], &[]);
        waiting.push((client, correlation));
    }
    until("four fetches to be parked", || stats.fetches_parked.get() == 4);
    producer.produce_ok(&[(queues[2].key, batch(&[b"for two"]))]);
    let (client, correlation) = &mut waiting[2];
    let (answer, batches) = client.fetched(*correlation);
    assert_eq!(answer.outcomes[0].code, Code::Ok);
    assert_eq!(batches[0].bodies, [b"for two"]);
    assert_eq!(stats.fetches_woken.get(), 1);
    assert_eq!(stats.fetches_parked.get(), 3);
    for index in [0, 1, 3] {
        assert!(waiting[index].0.is_silent_for(Duration::from_millis(20)), "{index}");
    }
    stop(broker);
}

#[test]
fn one_fetch_over_many_queues_gets_what_came() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut producer = Client::connect(broker.address());
    let keys: Vec<_> = producer.create_topic("t", 8).queues.iter().map(|queue| queue.key).collect();
    let mut consumer = Client::connect(broker.address());
    let wanted: Vec<_> = keys.iter().map(|key| (*key, 0)).collect();
    let correlation = consumer.send_fetch(1, 30_000, &wanted, &[]);
    until("the fetch to be parked", || broker.broker().stats[0].fetches_parked.get() == 1);
    producer.produce_ok(&[(keys[5], batch(&[b"five"])), (keys[1], batch(&[b"one"]))]);
    let (answer, batches) = consumer.fetched(correlation);
    let mut queues: Vec<_> = answer.outcomes.iter().map(|outcome| outcome.queue).collect();
    queues.sort_unstable();
    assert_eq!(queues, [keys[1], keys[5]]);
    assert_eq!(batches.len(), 2);
    stop(broker);
}

#[test]
fn a_fetch_ends_in_time_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let begun = Instant::now();
    let (answer, batches) = client.fetch(200, &[(queue, 0)]);
    let took = begun.elapsed();
    assert_eq!(answer.status.code, Code::Ok);
    assert!(answer.outcomes.is_empty() && batches.is_empty());
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    assert!(client.fetch(0, &[(queue, 0)]).0.outcomes.is_empty());
    stop(broker);
}

#[test]
fn a_newer_fetch_of_the_same_id_replaces_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let older = client.send_fetch(7, 30_000, &[(queue, 0)], &[]);
    let other = client.send_fetch(8, 30_000, &[(queue, 0)], &[]);
    let newer = client.send_fetch(7, 30_000, &[(queue, 0)], &[]);
    let (answer, _) = client.fetched(older);
    assert_eq!((answer.fetch_id, answer.outcomes.len()), (7, 0));
    until("two fetches to be parked", || broker.broker().stats[0].fetches_parked.get() == 2);
    Client::connect(broker.address()).produce_ok(&[(queue, batch(&[b"x"]))]);
    let mut told: Vec<u32> = (0..2).map(|_| client.receive().unwrap().head.correlation).collect();
    told.sort_unstable();
    assert_eq!(told, [other, newer]);
    stop(broker);
}

#[test]
fn a_closed_connection_leaves_no_fetch_behind() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let stats = &broker.broker().stats[0];
    client.send_fetch(1, 30_000, &[(queue, 0)], &[]);
    client.send_fetch(2, 30_000, &[(queue, 0)], &[]);
    until("two fetches to be parked", || stats.fetches_parked.get() == 2);
    drop(client);
    until("the fetches to be forgotten", || stats.fetches_parked.get() == 0);
    stop(broker);
}

#[test]
fn a_deleted_topic_ends_its_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let correlation = client.send_fetch(1, 30_000, &[(queue, 0)], &[]);
    until("the fetch to be parked", || broker.broker().stats[0].fetches_parked.get() == 1);
    let mut admin = Client::connect(broker.address());
    assert_eq!(admin.request(&DeleteTopic { topic: "t".into() }).status.code, Code::Ok);
    let (answer, _) = client.fetched(correlation);
    assert_eq!(answer.outcomes[0].code, Code::QueueNotFound);
    assert_eq!(client.produce(&[(queue, batch(&[b"x"]))]).outcomes[0].code, Code::QueueNotFound);
    stop(broker);
}

#[test]
fn a_tag_filter_skips_and_tells_how_far() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let nobody = ProducerStamp { producer_id: NO_PRODUCER, producer_epoch: 0, base_sequence: 0 };
    let tagged = |tag, body: &[u8]| (queue, batch_of(&[body], Some(tag), nobody));
    client.produce_ok(&[tagged("a", b"1"), tagged("b", b"2"), tagged("b", b"3"), tagged("a", b"4")]);
    let correlation = client.send_fetch(1, 0, &[(queue, 0)], &[tag_hash("a")]);
    let (answer, batches) = client.fetched(correlation);
    assert_eq!(batches.iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [Offset(0), Offset(3)]);
    assert_eq!(answer.outcomes[0].next_offset, Offset(4));
    // What the filter leaves out does not wake for good, but the time is told when it is over.
    let correlation = client.send_fetch(1, 400, &[(queue, 4)], &[tag_hash("a")]);
    let mut producer = Client::connect(broker.address());
    until("the fetch to be parked", || broker.broker().stats[0].fetches_parked.get() == 1);
    producer.produce_ok(&[tagged("b", b"5")]);
    let (answer, batches) = client.fetched(correlation);
    assert!(batches.is_empty());
    assert_eq!((answer.outcomes[0].bytes, answer.outcomes[0].next_offset), (0, Offset(5)));
    stop(broker);
}
