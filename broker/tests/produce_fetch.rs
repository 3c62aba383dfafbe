//! What is acknowledged is there: at once, and after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use common::{Client, batch, batch_of, body, config, start, start_with, stop};
use equeue_broker::config::ByteSize;
use equeue_net::Code;
use equeue_net::api::{AckLevel, Produce};
use equeue_record::{Offset, ProducerStamp, QueueKey};

#[test]
fn what_is_produced_is_fetched_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    assert_eq!((client.hello.shard, client.hello.shards), (0, 1));
    let topic = client.create_topic("orders", 3);
    let keys: Vec<QueueKey> = topic.queues.iter().map(|queue| queue.key).collect();
    let mut expected = vec![Vec::new(); keys.len()];
    for round in 0..50_u64 {
        let mut batches = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let bodies: Vec<Vec<u8>> = (0..3).map(|n| body(round * 3 + n, 100 + index)).collect();
            let borrowed: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            batches.push((*key, batch(&borrowed)));
            expected[index].extend(bodies);
        }
        let offsets = client.produce_ok(&batches);
        assert!(offsets.iter().all(|offset| *offset == Offset(round * 3)));
    }
    for (key, expected) in keys.iter().zip(&expected) {
        assert_eq!(&client.bodies(*key, 0), expected);
    }
    stop(broker);

    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let again = client.create_topic("orders", 3);
    assert_eq!(again, topic);
    for (key, expected) in keys.iter().zip(&expected) {
        assert_eq!(&client.bodies(*key, 0), expected);
    }
    // Offsets go on where they were.
    assert_eq!(client.produce_ok(&[(keys[0], batch(&[b"more"]))]), [Offset(150)]);
    stop(broker);
}

#[test]
fn each_batch_has_its_own_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let good = batch(&[b"good"]);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let group = queue.0 >> 40;
    let answer = client.produce(&[
        (queue, good.clone()),
        (QueueKey((group << 40) | 0x00ff_ffff), good.clone()),
        (QueueKey(((group ^ 1) << 40) | 5), good.clone()),
        (queue, flipped.into()),
        (queue, bytes::Bytes::from_static(&[7; 200])),
        (queue, good.clone()),
    ]);
    assert_eq!(answer.status.code, Code::Ok);
    let codes: Vec<Code> = answer.outcomes.iter().map(|outcome| outcome.code).collect();
    assert_eq!(codes[..4], [Code::Ok, Code::QueueNotFound, Code::NotOwner, Code::Corrupt]);
    assert!(matches!(codes[4], Code::Corrupt | Code::Unsupported), "{:?}", codes[4]);
    assert_eq!(codes[5], Code::Ok);
    assert_eq!(answer.outcomes[5].base_offset, Offset(1));
    assert_eq!(answer.outcomes[0].level, AckLevel::Durable);
    assert_eq!(client.bodies(queue, 0), [b"good", b"good"]);
    stop(broker);
}

#[test]
fn levels_are_answered_as_reached() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let mut level = |level| {
        let correlation = client.send_produce(level, 0, &[(queue, batch(&[b"x"]))]);
        let answer = client.answer::<Produce>(correlation);
        (answer.outcomes[0].code, answer.outcomes[0].level)
    };
    assert_eq!(level(AckLevel::Memory), (Code::Ok, AckLevel::Memory));
    assert_eq!(level(AckLevel::Durable), (Code::Ok, AckLevel::Durable));
    assert_eq!(level(AckLevel::Replicated).0, Code::Unsupported);
    stop(broker);
}

#[test]
fn one_way_batches_are_stored_and_never_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    client.produce_one_way(&[(queue, batch(&[b"silent"])), (QueueKey(1), batch(&[b"lost"]))]);
    // The next answer belongs to the next request: nothing came for the one before.
    assert_eq!(client.produce_ok(&[(queue, batch(&[b"loud"]))]), [Offset(1)]);
    assert_eq!(client.bodies(queue, 0), [&b"silent"[..], b"loud"]);
    assert_eq!(broker.broker().stats[0].one_way_dropped.get(), 1);
    stop(broker);
}

#[test]
fn a_batch_sent_twice_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let stamped = |sequence, body: &[u8]| {
        let producer = ProducerStamp { producer_id: 77, producer_epoch: 0, base_sequence: sequence };
        (queue, batch_of(&[body], None, producer))
    };
    let first = stamped(0, b"a");
    assert_eq!(client.produce_ok(&[first.clone(), stamped(1, b"b")]), [Offset(0), Offset(1)]);
    let outcome = client.produce(std::slice::from_ref(&first)).outcomes[0];
    assert_eq!((outcome.code, outcome.base_offset), (Code::Duplicate, Offset(0)));
    let outcome = client.produce(&[stamped(5, b"gap")]).outcomes[0];
    assert_eq!((outcome.code, outcome.base_offset), (Code::SequenceGap, Offset(2)));
    stop(broker);

    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let outcome = client.produce(&[first]).outcomes[0];
    assert_eq!((outcome.code, outcome.base_offset), (Code::Duplicate, Offset(0)));
    assert_eq!(client.bodies(queue, 0), [b"a", b"b"]);
    stop(broker);
}

#[test]
fn old_messages_come_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = common::config(dir.path(), 1);
    config.memory.limit = equeue_broker::config::ByteSize::mib(64); // 16 MiB of cache
    let broker = common::start_with(config);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let rounds = 48;
    for round in 0..rounds {
        let bodies: Vec<Vec<u8>> = (0..8).map(|n| body(round * 8 + n, 100_000)).collect();
        let borrowed: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        client.produce_ok(&[(queue, batch(&borrowed))]);
    }
    let found = client.bodies(queue, 0);
    assert_eq!(found.len() as u64, rounds * 8);
    for (number, found) in (0..).zip(found) {
        assert_eq!(found, body(number, 100_000), "{number}");
    }
    assert!(broker.broker().stats[0].fetches_cold.get() > 0, "38 MB do not fit a cache of 16 MiB");
    stop(broker);
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path(), 1);
    // Large enough that a shard's pending bytes are the limit, and not the space that a segment keeps for commits.
    settings.storage.segment_bytes_first = ByteSize::mib(32);
    settings.storage.segment_bytes_max = ByteSize::mib(32);
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let mut writer = client.stream.try_clone().unwrap();
    let large = body(1, 200_000);
    let sent = batch(&[&large]);
    // 60 MB, far more than a shard holds unanswered: the socket is not read until there is room.
    let writing = std::thread::spawn(move || {
        use std::io::Write as _;
        for correlation in 1000..1300 {
            let request = Produce {
                level: AckLevel::Durable,
                items: vec![equeue_net::api::ProduceItem { queue, bytes: sent.len() as u32 }],
            };
            let mut out = Vec::new();
            equeue_net::frame::put_frame(&mut out, &request, 0, correlation, sent.len()).unwrap();
            out.extend_from_slice(&sent);
            writer.write_all(&out).unwrap();
        }
    });
    for correlation in 1000..1300 {
        let answer = client.answer::<Produce>(correlation);
        assert_eq!(answer.outcomes[0].code, Code::Ok);
        assert_eq!(answer.outcomes[0].base_offset, Offset(u64::from(correlation - 1000)));
    }
    writing.join().unwrap();
    stop(broker);
}
