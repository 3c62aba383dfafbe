//! Two shards: connections are handed over, requests for the other shard's queues are sent on and put together.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use common::{Client, batch, body, start, stop, until};
use equeue_net::Code;
use equeue_net::api::{
    CommitItem, CommitOffsets, DescribeBroker, DescribeTopic, FetchOffsets, ListOffsets, OffsetAt,
    QueueEntry, Tries,
};
use equeue_record::Offset;

fn of_shard(queues: &[QueueEntry], shard: u16) -> Vec<QueueEntry> {
    queues.iter().filter(|queue| queue.shard == shard).copied().collect()
}

#[test]
fn a_connection_is_served_by_the_shard_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    for shard in [0, 1, 1, 0] {
        let client = Client::connect_to(broker.address(), Some(shard));
        assert_eq!((client.hello.shard, client.hello.shards), (shard, 2));
    }
    // A shard that is not there: whoever accepted it keeps it.
    let client = Client::connect_to(broker.address(), Some(77));
    assert!(client.hello.shard < 2);
    let stats = &broker.broker().stats;
    assert_eq!(stats[1].connections_opened.get(), 2);
    drop(client);
    until("all connections to be gone", || stats.iter().all(|shard| shard.connections.get() == 0));
    stop(broker);
}

#[test]
fn requests_over_both_shards_are_put_together_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    for asked in [0, 1] {
        let mut client = Client::connect_to(broker.address(), Some(asked));
        let topic = client.create_topic(&format!("t{asked}"), 4);
        assert_eq!((of_shard(&topic.queues, 0).len(), of_shard(&topic.queues, 1).len()), (2, 2));
        let keys: Vec<_> = topic.queues.iter().map(|queue| queue.key).collect();
        for round in 0..20 {
            let batches: Vec<_> =
                keys.iter().zip(0..).map(|(key, n)| (*key, batch(&[&body(round * 4 + n, 50)]))).collect();
            assert_eq!(client.produce_ok(&batches), [Offset(round); 4]);
        }
        for (key, n) in keys.iter().zip(0..) {
            let expected: Vec<_> = (0..20).map(|round| body(round * 4 + n, 50)).collect();
            assert_eq!(client.bodies(*key, 0), expected);
        }
        let described = client.request(&DescribeTopic { topic: format!("t{asked}") });
        assert_eq!(described.queues.len(), 4);
        assert!(described.queues.iter().all(|state| state.high_watermark == Offset(20)), "{described:?}");
        let items = keys.iter().map(|key| (*key, OffsetAt::Last)).collect();
        let listed = client.request(&ListOffsets { items });
        assert!(
            listed
                .outcomes
                .iter()
                .zip(&keys)
                .all(|(told, key)| told.queue == *key && told.offset == Offset(20))
        );
    }
    assert!(broker.broker().stats.iter().all(|shard| shard.requests_forwarded.get() > 0));
    let described = Client::connect(broker.address()).request(&DescribeBroker {});
    assert_eq!(described.logs.iter().map(|log| (log.log, log.shard)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
    stop(broker);
}

#[test]
fn a_fetch_over_both_shards_waits_on_both() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut producer = Client::connect_to(broker.address(), Some(0));
    let topic = producer.create_topic("t", 4);
    let wanted: Vec<_> = topic.queues.iter().map(|queue| (queue.key, 0)).collect();
    let stats = &broker.broker().stats;
    for (round, target) in
        [of_shard(&topic.queues, 1)[0], of_shard(&topic.queues, 0)[0]].into_iter().enumerate()
    {
        let mut consumer = Client::connect_to(broker.address(), Some(0));
        let mut wanted = wanted.clone();
        if round == 1 {
            wanted.retain(|(key, _)| *key != of_shard(&topic.queues, 1)[0].key);
        }
        let correlation = consumer.send_fetch(1, 30_000, &wanted, &[]);
        until("both shards to have it parked", || stats.iter().all(|shard| shard.fetches_parked.get() == 1));
        producer.produce_ok(&[(target.key, batch(&[b"here"]))]);
        let (answer, batches) = consumer.fetched(correlation);
        assert_eq!(answer.outcomes.iter().map(|outcome| outcome.queue).collect::<Vec<_>>(), [target.key]);
        assert_eq!(batches[0].bodies, [b"here"]);
        until("the other part to be cancelled", || stats.iter().all(|shard| shard.fetches_parked.get() == 0));
    }
    // A connection that closes takes its forwarded fetch with it.
    let mut consumer = Client::connect_to(broker.address(), Some(0));
    let last: Vec<_> = of_shard(&topic.queues, 1)[1..].iter().map(|queue| (queue.key, 0)).collect();
    consumer.send_fetch(1, 30_000, &last, &[]);
    until("the fetch to be parked", || stats[1].fetches_parked.get() == 1);
    drop(consumer);
    until("the forwarded fetch to be cancelled", || stats[1].fetches_parked.get() == 0);
    stop(broker);
}

#[test]
fn commits_go_to_the_queues_logs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect_to(broker.address(), Some(1));
    let topic = client.create_topic("t", 4);
    let keys: Vec<_> = topic.queues.iter().map(|queue| queue.key).collect();
    let batches: Vec<_> = keys.iter().map(|key| (*key, batch(&[b"1", b"2", b"3"]))).collect();
    client.produce_ok(&batches);
    let commit = |offset| CommitOffsets {
        group: "g".into(),
        items: keys
            .iter()
            .map(|key| CommitItem {
                queue: *key,
                offset: Offset(offset),
                grant_epoch: 0,
                tries: Tries::default(),
            })
            .collect(),
    };
    let told = client.request(&commit(2));
    assert!(
        told.outcomes.iter().all(|told| told.code == Code::Ok && told.committed == Some(Offset(2))),
        "{told:?}"
    );
    let asked = FetchOffsets { group: "g".into(), queues: keys.clone() };
    stop(broker);
    // One shard now serves what two did.
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let told = client.request(&asked);
    assert!(told.outcomes.iter().all(|told| told.committed == Some(Offset(2))), "{told:?}");
    for key in &keys {
        assert_eq!(client.bodies(*key, 0).len(), 3);
    }
    stop(broker);
}
