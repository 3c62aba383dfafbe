//! Delayed messages: they come when they are due, once, also after a restart; they can be taken back; they are bounded.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::{Client, batch, config, start, start_with, stop, until};
use equeue_net::Code;
use equeue_net::api::{
    AckLevel, CancelDelayed, CancelDelayedAnswer, DeleteTopic, ListOffsets, OffsetAt, Produce,
    ProduceOutcome, RemoveQueues, SetQueueAccess,
};
use equeue_record::{
    BatchBuilder, BatchView, Codec, Decompressor, MessageId, Offset, ProducerStamp, QueueKey, RecordFields,
    system,
};

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A delayed batch of messages, each with the time at which it is due.
fn delayed(messages: &[(&[u8], i64)], codec: Codec, producer: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 4 << 20);
    builder.set_delayed();
    for (body, due_ms) in messages {
        let fields =
            RecordFields { body: Some(body), deliver_at_ms: Some(*due_ms), ..RecordFields::default() };
        builder.push(&fields).unwrap();
    }
    builder.finish(producer).unwrap()
}

fn send(client: &mut Client, queue: QueueKey, messages: &[(&[u8], i64)]) -> ProduceOutcome {
    client.produce(&[(queue, delayed(messages, Codec::None, ProducerStamp::NONE))]).outcomes[0]
}

fn cancel(client: &mut Client, queue: QueueKey, offset: Offset, dry_run: bool) -> CancelDelayedAnswer {
    client.request(&CancelDelayed { queue: queue.delay_queue(), offset, dry_run })
}

/// Waits until a queue has so many messages; gives them.
fn wait_for(client: &mut Client, queue: QueueKey, messages: usize) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    until("delivery", || {
        bodies = client.bodies(queue, 0);
        bodies.len() >= messages
    });
    bodies
}

#[test]
fn a_message_comes_when_it_is_due_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let begun = now_ms();
    let told =
        send(&mut client, queue, &[(b"later", begun + 900), (b"soon", begun + 300), (b"late", begun - 5)]);
    assert_eq!((told.code, told.base_offset), (Code::Ok, Offset(0)));
    client.produce_ok(&[(queue, batch(&[b"now"]))]);
    // The one that is due already is delivered a moment later; before, offset 2 would be behind the end.
    wait_for(&mut client, queue, 2);
    let correlation = client.send_fetch(1, 10_000, &[(queue, 2)], &[]);
    let (_, soon) = client.fetched(correlation);
    let early = now_ms() - (begun + 300);
    assert!((0..1_000).contains(&early), "a parked fetch is woken {early} ms after it was due");
    assert_eq!(soon[0].bodies, [b"soon"]);
    let bodies = wait_for(&mut client, queue, 4);
    let mut first_two = bodies[..2].to_vec();
    first_two.sort();
    assert_eq!(first_two, [&b"late"[..], b"now"]);
    assert_eq!(bodies[3], b"later");
    stop(broker);
}

#[test]
fn delivered_messages_tell_their_id_and_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let due = now_ms() + 400;
    let messages: Vec<Vec<u8>> = (0..500_u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let messages: Vec<(&[u8], i64)> = messages.iter().map(|body| (&body[..], due)).collect();
    for part in messages.chunks(50) {
        let batch = delayed(part, Codec::Lz4, ProducerStamp::NONE);
        assert_eq!(client.produce(&[(queue, batch)]).outcomes[0].code, Code::Ok);
    }
    wait_for(&mut client, queue, 500);
    let correlation = client.send_fetch(1, 0, &[(queue, 0)], &[]);
    let frame = client.receive().unwrap();
    assert_eq!(frame.head.correlation, correlation);
    let (mut batches, mut ids, mut payload) = (0, Vec::new(), &frame.payload[..]);
    while !payload.is_empty() {
        let view = BatchView::parse(payload).unwrap();
        let mut memory = Decompressor::default();
        for record in view.records(&mut memory).unwrap().map(Result::unwrap) {
            let header = record.headers().find(|header| header.name == system::ID).unwrap();
            let id: MessageId = std::str::from_utf8(header.value.unwrap()).unwrap().parse().unwrap();
            assert_eq!((id.queue, record.deliver_at_ms), (queue.delay_queue(), Some(due)));
            assert_eq!(record.body.unwrap(), &(id.offset.0 as u32).to_le_bytes());
            ids.push(id.offset.0);
        }
        batches += 1;
        payload = &payload[view.bytes().len()..];
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..500).collect::<Vec<_>>());
    assert!(batches <= 5, "{batches} batches for 500 messages of one moment");
    stop(broker);
}

#[test]
fn what_waits_survives_restarts_and_comes_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut queue = QueueKey(0);
    for round in 0..3_u32 {
        let broker = start(dir.path(), 2);
        let mut client = Client::connect(broker.address());
        if round == 0 {
            queue = client.create_queue("t").key;
        }
        let now = now_ms();
        for number in 0..200_u32 {
            let body = (round * 1000 + number).to_le_bytes();
            let due = now + i64::from(number) * 10;
            assert_eq!(send(&mut client, queue, &[(&body, due)]).code, Code::Ok);
            expected.push(body.to_vec());
        }
        stop(broker); // in the middle of the deliveries
    }
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    wait_for(&mut client, queue, expected.len());
    let mut bodies = client.bodies(queue, 0);
    bodies.sort();
    expected.sort();
    assert_eq!(bodies, expected);
    stop(broker);
}

#[test]
fn a_message_that_was_taken_back_never_comes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect_to(broker.address(), Some(0));
    let topic = client.create_topic("t", 2);
    for entry in &topic.queues {
        let (queue, due) = (entry.key, now_ms() + 700);
        send(&mut client, queue, &[(b"0", due), (b"1", due), (b"2", due)]);
        let told = cancel(&mut client, queue, Offset(1), true);
        assert_eq!((told.status.code, told.was_pending, told.due_ms), (Code::Ok, true, due));
        assert!(cancel(&mut client, queue, Offset(1), false).was_pending);
        assert!(!cancel(&mut client, queue, Offset(1), false).was_pending);
        assert!(!cancel(&mut client, queue, Offset(1), true).was_pending);
        assert_eq!(cancel(&mut client, queue, Offset(3), false).status.code, Code::OffsetOutOfRange);
    }
    let no_id = CancelDelayed { queue: topic.queues[0].key, offset: Offset(0), dry_run: false };
    assert_eq!(client.request(&no_id).status.code, Code::Invalid);
    for entry in &topic.queues {
        assert_eq!(wait_for(&mut client, entry.key, 2), [b"0", b"2"]);
        assert!(!cancel(&mut client, entry.key, Offset(2), false).was_pending, "delivered already");
    }
    stop(broker);
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    for entry in &topic.queues {
        send(&mut client, entry.key, &[(b"end", now_ms())]);
        assert_eq!(wait_for(&mut client, entry.key, 3), [&b"0"[..], b"2", b"end"]);
    }
    stop(broker);
}

#[test]
fn too_far_ahead_and_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path(), 1);
    settings.delay.messages_max = 1_000;
    settings.delay.ahead_ms_max = 3_600_000;
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let now = now_ms();
    assert_eq!(send(&mut client, queue, &[(b"x", now + 3_700_000)]).code, Code::Invalid);
    assert_eq!(send(&mut client, queue, &vec![(&b"x"[..], now + 3_000_000); 999]).code, Code::Ok);
    let told = send(&mut client, queue, &[(b"x", now + 3_000_000), (b"y", now + 3_000_000)]);
    assert!((told.code, told.retry_after_ms > 0) == (Code::Busy, true));
    assert_eq!(send(&mut client, queue, &[(b"x", now + 3_000_000)]).code, Code::Ok);
    assert_eq!(client.produce_one(queue, b"not delayed"), Code::Ok);
    // Room comes back with what is taken back.
    assert!(cancel(&mut client, queue, Offset(5), false).was_pending);
    assert_eq!(send(&mut client, queue, &[(b"x", now)]).code, Code::Ok);
    assert_eq!(wait_for(&mut client, queue, 2).len(), 2);
    stop(broker);
}

#[test]
fn a_batch_sent_twice_is_delivered_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let producer = ProducerStamp { producer_id: 7, producer_epoch: 0, base_sequence: 0 };
    let bytes = delayed(&[(b"a", now_ms() + 300), (b"b", now_ms() + 300)], Codec::None, producer);
    let correlations = [0; 2].map(|_| client.send_produce(AckLevel::Durable, 0, &[(queue, bytes.clone())]));
    let codes = correlations.map(|correlation| client.answer::<Produce>(correlation).outcomes[0].code);
    assert_eq!(codes, [Code::Ok, Code::Duplicate]);
    assert_eq!(wait_for(&mut client, queue, 2), [b"a", b"b"]);
    assert_eq!(client.produce(&[(queue, bytes)]).outcomes[0].code, Code::Duplicate);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(client.bodies(queue, 0).len(), 2);
    stop(broker);
}

#[test]
fn what_waits_for_a_deleted_topic_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let (gone, kept) = (client.create_queue("gone").key, client.create_queue("kept").key);
    let due = now_ms() + 300;
    send(&mut client, gone, &[(b"x", due)]);
    send(&mut client, kept, &[(b"y", due)]);
    assert_eq!(client.request(&DeleteTopic { topic: "gone".into() }).status.code, Code::Ok);
    assert_eq!(cancel(&mut client, gone, Offset(0), false).status.code, Code::QueueNotFound);
    assert_eq!(wait_for(&mut client, kept, 1), [b"y"]);
    stop(broker);
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    send(&mut client, kept, &[(b"z", now_ms())]);
    assert_eq!(wait_for(&mut client, kept, 2), [b"y", b"z"]);
    stop(broker);
}

#[test]
fn a_queue_that_messages_wait_for_is_not_drained() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_topic("t", 2).queues[1].key;
    assert_eq!(send(&mut client, queue, &[(b"x", now_ms() + 3_600_000)]).code, Code::Ok);
    let close =
        SetQueueAccess { topic: "t".into(), ordinals: vec![1], send: Some(false), consume: Some(false) };
    assert_eq!(client.request(&close).status.code, Code::Ok);
    let map = vec![broker.broker().config.name.clone()];
    let remove = RemoveQueues { topic: "t".into(), map, version: 2, force: false };
    assert_eq!(client.request(&remove).status.code, Code::NotDrained);
    assert!(cancel(&mut client, queue, Offset(0), false).was_pending);
    let removed = client.request(&remove);
    assert_eq!(removed.status.code, Code::Ok, "{}", removed.status.detail);
    stop(broker);
}

#[test]
fn what_waits_outlives_its_segment_and_keeps_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || {
        let mut settings = config(dir.path(), 1);
        settings.storage.segment_bytes_first = equeue_broker::config::ByteSize::mib(1);
        settings.storage.segment_bytes_max = equeue_broker::config::ByteSize::mib(1);
        settings.retention.segments = 3;
        settings.retention.check_ms = 100;
        settings
    };
    let broker = start_with(settings());
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let filler = client.create_queue("filler").key;
    let due = now_ms() + 12_000;
    let bodies: Vec<[u8; 4]> = (0..20_u32).map(u32::to_le_bytes).collect();
    let messages: Vec<(&[u8], i64)> = bodies.iter().map(|body| (&body[..], due)).collect();
    assert_eq!(send(&mut client, queue, &messages).code, Code::Ok);
    assert!(cancel(&mut client, queue, Offset(3), false).was_pending);
    let roll = |client: &mut Client| {
        let first = |client: &mut Client| {
            client.request(&ListOffsets { items: vec![(filler, OffsetAt::First)] }).outcomes[0].offset
        };
        let before = first(client);
        until("segments to go", || {
            client.produce_ok(&[(filler, batch(&[&common::body(1, 200_000)]))]);
            first(client).0 > before.0 + 20
        });
    };
    roll(&mut client);
    assert!(cancel(&mut client, queue, Offset(5), false).was_pending, "by the id from before it was carried");
    stop(broker);
    let broker = start_with(settings());
    let mut client = Client::connect(broker.address());
    roll(&mut client);
    assert!(cancel(&mut client, queue, Offset(7), false).was_pending, "carried twice");
    assert!(!cancel(&mut client, queue, Offset(5), true).was_pending);
    assert!(now_ms() < due, "the test was too slow to tell anything");
    let mut numbers: Vec<u32> = wait_for(&mut client, queue, 17)
        .iter()
        .map(|body| u32::from_le_bytes(body[..].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).filter(|number| ![3, 5, 7].contains(number)).collect::<Vec<_>>());
    stop(broker);
}

/// Sends `count` messages of `len` bytes, due evenly over `span` from `lead` after now; gives when each is due.
fn send_many(
    client: &mut Client,
    queues: &[QueueKey],
    count: u64,
    len: usize,
    lead: i64,
    span: i64,
) -> Vec<i64> {
    let begun = now_ms() + lead;
    let count_i = i64::try_from(count).unwrap();
    // Neighbours in the log are due far from one another.
    let due = |number: u64| begun + (i64::try_from(number).unwrap() * 7_919 % count_i) * span / count_i;
    let mut sent = 0;
    while sent < count {
        let numbers: Vec<u64> = (sent..count.min(sent + 500)).collect();
        let bodies: Vec<Vec<u8>> = numbers.iter().map(|number| common::body(*number, len)).collect();
        let messages: Vec<(&[u8], i64)> =
            bodies.iter().zip(&numbers).map(|(body, number)| (&body[..], due(*number))).collect();
        let queue = queues[usize::try_from(sent / 500).unwrap() % queues.len()];
        assert_eq!(send(client, queue, &messages).code, Code::Ok);
        sent += numbers.len() as u64;
    }
    (0..count).map(due).collect()
}

/// Reads all queues until `count` messages came; gives for each message how late it was appended, ms.
fn lateness(client: &mut Client, queues: &[QueueKey], dues: &[i64], patience: Duration) -> Vec<i64> {
    let begun = Instant::now();
    let mut next: BTreeMap<QueueKey, u64> = queues.iter().map(|queue| (*queue, 0)).collect();
    let mut late = vec![None; dues.len()];
    let mut got = 0;
    while got < dues.len() {
        assert!(begun.elapsed() < patience, "{got} of {} came", dues.len());
        let wanted: Vec<(QueueKey, u64)> = next.iter().map(|(queue, offset)| (*queue, *offset)).collect();
        let correlation = client.send_fetch(1, 1_000, &wanted, &[]);
        let frame = client.receive().unwrap();
        assert_eq!(frame.head.correlation, correlation);
        let mut payload = &frame.payload[..];
        while !payload.is_empty() {
            let view = BatchView::parse(payload).unwrap();
            let mut memory = Decompressor::default();
            for record in view.records(&mut memory).unwrap().map(Result::unwrap) {
                let number =
                    usize::try_from(u64::from_le_bytes(record.body.unwrap()[..8].try_into().unwrap()))
                        .unwrap();
                let late_ms = view.header().append_time_ms - dues[number];
                assert!(late_ms >= 0, "message {number} came {late_ms} ms early");
                assert_eq!(late[number].replace(late_ms), None, "message {number} came twice");
                got += 1;
            }
            next.insert(view.header().queue_key, view.header().next_offset().0);
            payload = &payload[view.bytes().len()..];
        }
    }
    let mut late: Vec<i64> = late.into_iter().map(Option::unwrap).collect();
    late.sort_unstable();
    late
}

fn percentile(sorted: &[i64], part: f64) -> i64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a place in a list")]
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

#[test]
fn a_hundred_thousand_wait_and_come_once_and_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path(), 1);
    settings.storage.segment_bytes_max = equeue_broker::config::ByteSize::mib(64);
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let queues: Vec<QueueKey> = client.create_topic("t", 4).queues.iter().map(|entry| entry.key).collect();
    // More than the cache of 16 MiB holds.
    let dues = send_many(&mut client, &queues, 100_000, 300, 12_000, 12_000);
    let late = lateness(&mut client, &queues, &dues, Duration::from_secs(90));
    println!(
        "late by p50 {} p99 {} max {} ms",
        percentile(&late, 0.5),
        percentile(&late, 0.99),
        late[late.len() - 1]
    );
    stop(broker);
}

/// Run with `--release`: `cargo nextest run --release -p equeue-broker --run-ignored all -E 'test(a_million)'`.
#[test]
#[ignore = "a measurement"]
fn a_million_wait_and_ten_thousand_a_second_come_in_time() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut settings = config(dir.path(), 1);
    settings.memory.limit = equeue_broker::config::ByteSize::gib(1);
    settings.storage.segment_bytes_max = equeue_broker::config::ByteSize::mib(256);
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let queues: Vec<QueueKey> = client.create_topic("t", 4).queues.iter().map(|entry| entry.key).collect();
    let begun = Instant::now();
    let dues = send_many(&mut client, &queues, 1_000_000, 1_000, 40_000, 100_000);
    println!("sent in {:?}", begun.elapsed());
    let late = lateness(&mut client, &queues, &dues, Duration::from_mins(4));
    for part in [0.5, 0.9, 0.99, 0.999, 1.0] {
        println!("late by p{} {} ms", part * 100.0, percentile(&late, part));
    }
    assert!(percentile(&late, 0.99) < 100);
    stop(broker);
}
