//! Messages handed back by a group: copied once, with their history, to its retry queue and in the end to its dead letters.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::collections::BTreeMap;

use common::{Client, batch, start, stop, until};
use equeue_net::Code;
use equeue_net::api::{
    CommitItem, CommitOffsets, CreateTopic, DeleteGroup, DescribeTopic, HandBack, HandBackItem,
    HandBackOutcome, ResetOffsets, Tries,
};
use equeue_record::{BatchView, Decompressor, MessageId, Offset, QueueKey, system};

/// A message with its headers.
#[derive(Debug, PartialEq)]
struct Told {
    body: Vec<u8>,
    headers: BTreeMap<String, String>,
}

fn item(queue: QueueKey, offset: u64, delay_ms: u64) -> HandBackItem {
    HandBackItem {
        queue,
        offset: Offset(offset),
        grant_epoch: 0,
        delay_ms,
        reason: format!("failed at {offset}"),
        tries: Tries::default(),
    }
}

fn hand_back(client: &mut Client, attempts_max: u32, items: Vec<HandBackItem>) -> Vec<HandBackOutcome> {
    let answer = client.request(&HandBack { group: "billing".into(), attempts_max, items });
    assert_eq!(answer.status.code, Code::Ok, "{}", answer.status.detail);
    answer.outcomes
}

/// Queues of a hidden topic by log; none when it is not there.
fn hidden(client: &mut Client, topic: &str) -> Vec<QueueKey> {
    client
        .request(&DescribeTopic { topic: topic.into() })
        .queues
        .iter()
        .map(|queue| queue.queue.key)
        .collect()
}

fn messages(client: &mut Client, queue: QueueKey) -> Vec<Told> {
    let correlation = client.send_fetch(9, 0, &[(queue, 0)], &[]);
    let frame = client.receive().unwrap();
    assert_eq!(frame.head.correlation, correlation);
    let (mut messages, mut payload) = (Vec::new(), &frame.payload[..]);
    while !payload.is_empty() {
        let view = BatchView::parse(payload).unwrap();
        let mut memory = Decompressor::default();
        for record in view.records(&mut memory).unwrap().map(Result::unwrap) {
            let header = |header: equeue_record::Header<'_>| {
                (header.name.to_owned(), String::from_utf8(header.value.unwrap().to_vec()).unwrap())
            };
            messages.push(Told {
                body: record.body.unwrap().to_vec(),
                headers: record.headers().map(header).collect(),
            });
        }
        payload = &payload[view.bytes().len()..];
    }
    messages
}

fn wait_for(client: &mut Client, queue: QueueKey, count: usize) -> Vec<Told> {
    let mut told = Vec::new();
    until("a copy", || {
        told = messages(client, queue);
        told.len() >= count
    });
    told
}

#[test]
fn a_message_is_copied_once_and_ends_as_a_dead_letter_with_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    client.produce_ok(&[(queue, batch(&[b"a", b"b", b"c"]))]);
    let told = hand_back(&mut client, 3, vec![item(queue, 9, 0), item(queue, 1, 0)]);
    let brief = |told: &HandBackOutcome| (told.code, told.attempt, told.dead, told.repeated);
    assert_eq!((told[0].code, brief(&told[1])), (Code::OffsetOutOfRange, (Code::Ok, 1, false, false)));
    assert!(hand_back(&mut client, 3, vec![item(queue, 1, 0)])[0].repeated);

    let retry = hidden(&mut client, "%RETRY%billing")[0];
    let copies = wait_for(&mut client, retry, 1);
    assert_eq!(copies.len(), 1, "handed back twice, copied once");
    assert_eq!(copies[0].body, b"b");
    let id: MessageId = copies[0].headers[system::ORIGIN_ID].parse().unwrap();
    assert_eq!((id.queue, id.offset), (queue, Offset(1)));
    assert_eq!(copies[0].headers[system::ORIGIN_TOPIC], "orders");
    assert_eq!(copies[0].headers[system::ATTEMPT], "1");

    assert_eq!(brief(&hand_back(&mut client, 3, vec![item(retry, 0, 100)])[0]), (Code::Ok, 2, false, false));
    let copies = wait_for(&mut client, retry, 2);
    assert_eq!(copies[1].headers[system::ATTEMPT], "2");
    assert!(copies[1].headers.contains_key(system::ID), "it was delayed");
    let dead = hidden(&mut client, "%DLQ%billing")[0];
    assert!(messages(&mut client, dead).is_empty());
    assert_eq!(brief(&hand_back(&mut client, 3, vec![item(retry, 1, 100)])[0]), (Code::Ok, 3, true, false));
    let letters = wait_for(&mut client, dead, 1);
    assert_eq!(letters[0].body, b"b");
    for (name, value) in [
        (system::ATTEMPT, "3"),
        (system::ORIGIN_TOPIC, "orders"),
        (system::ORIGIN_OFFSET, "1"),
        (system::REASON, "failed at 1"),
        (system::FIRST_FAILED_MS, &copies[0].headers[system::FIRST_FAILED_MS]),
    ] {
        assert_eq!(letters[0].headers[name], value, "{name}");
    }
    stop(broker);

    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    assert!(hand_back(&mut client, 3, vec![item(queue, 1, 0)])[0].repeated, "after a restart");
    assert_eq!(brief(&hand_back(&mut client, 3, vec![item(queue, 0, 0)])[0]), (Code::Ok, 1, false, false));
    assert_eq!(wait_for(&mut client, retry, 3)[2].body, b"a");
    stop(broker);
}

#[test]
fn many_messages_of_several_shards_are_copied_in_their_own_logs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect(broker.address());
    let topic = client.create_topic("orders", 4);
    let bodies: Vec<Vec<u8>> = (0..100_u64).map(|number| common::body(number, 30_000)).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(|body| &body[..]).collect();
    let mut items = Vec::new();
    for entry in &topic.queues {
        for part in bodies.chunks(20) {
            client.produce_ok(&[(entry.key, batch(part))]);
        }
        items.extend((0..100).map(|offset| item(entry.key, offset, 0)));
    }
    let told = hand_back(&mut client, 0, items.clone());
    assert!(told.iter().all(|told| told.code == Code::Ok && told.attempt == 1 && !told.repeated));
    for (asked, told) in items.iter().zip(&told) {
        assert_eq!((asked.queue, asked.offset), (told.queue, told.offset));
    }
    assert!(hand_back(&mut client, 0, items).iter().all(|told| told.repeated));
    let mut got = Vec::new();
    let retries = hidden(&mut client, "%RETRY%billing");
    assert_eq!(retries.len(), 2, "one per log");
    for queue in retries {
        let bodies = client.bodies(queue, 0);
        assert_eq!(bodies.len(), 200);
        got.extend(bodies);
    }
    got.sort();
    let mut expected: Vec<&[u8]> = bodies.iter().flat_map(|body| [*body; 4]).collect();
    expected.sort_unstable();
    assert!(got == expected);
    stop(broker);
}

#[test]
fn under_a_stale_grant_nothing_is_copied_and_what_is_replayed_is_copied_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    client.produce_ok(&[(queue, batch(&vec![&b"x"[..]; 2_000]))]);
    let stale = HandBackItem { grant_epoch: 7, ..item(queue, 0, 0) };
    assert_eq!(hand_back(&mut client, 0, vec![stale])[0].code, Code::StaleEpoch);
    let items = (0..1_000).map(|offset| item(queue, offset, 0)).collect();
    assert!(hand_back(&mut client, 0, items).iter().all(|told| told.code == Code::Ok && !told.repeated));
    let commit = CommitItem { queue, offset: Offset(1_500), grant_epoch: 0, tries: Tries::default() };
    client.request(&CommitOffsets { group: "billing".into(), items: vec![commit] });
    let told = hand_back(&mut client, 0, vec![item(queue, 1_400, 0), item(queue, 1_600, 0)]);
    assert_eq!((told[0].repeated, told[1].repeated), (false, false));
    assert!(hand_back(&mut client, 0, vec![item(queue, 1_600, 0)])[0].repeated);
    let retry = hidden(&mut client, "%RETRY%billing")[0];
    assert_eq!(client.bodies(retry, 0).len(), 1_002);
    let unknown = hand_back(&mut client, 0, vec![item(QueueKey(queue.0 + 500), 0, 0)]);
    assert_eq!(unknown[0].code, Code::QueueNotFound);
    stop(broker);
}

/// More than is read before it is appended.
#[test]
fn many_large_messages_are_handed_back_in_one_request() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    let bodies: Vec<Vec<u8>> = (0..24_u8).map(|number| vec![number; 500_000]).collect();
    for bodies in bodies.chunks(2) {
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        client.produce_ok(&[(queue, batch(&bodies))]);
    }
    // In no order; what is not there concerns nobody else.
    let items: Vec<HandBackItem> = (0..25).map(|number| item(queue, number * 7 % 25, 0)).collect();
    let told = hand_back(&mut client, 0, items.clone());
    for (asked, told) in items.iter().zip(&told) {
        let expected = if asked.offset == Offset(24) { Code::OffsetOutOfRange } else { Code::Ok };
        assert_eq!((told.offset, told.code, told.repeated), (asked.offset, expected, false));
    }
    assert!(
        hand_back(&mut client, 0, vec![item(queue, 3, 0), item(queue, 20, 0)])
            .iter()
            .all(|told| told.repeated)
    );
    let retry = hidden(&mut client, "%RETRY%billing")[0];
    let (mut copies, mut next) = (Vec::new(), 0);
    until("every copy", || {
        let more = client.bodies(retry, next);
        next += more.len() as u64;
        copies.extend(more);
        copies.len() >= 24
    });
    copies.sort();
    assert!(copies == bodies);
    stop(broker);
}

#[test]
fn what_comes_again_after_a_reset_or_a_deletion_can_be_handed_back_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    client.produce_ok(&[(queue, batch(&[b"a", b"b"]))]);
    let repeated = |client: &mut Client| {
        let told = hand_back(client, 0, vec![item(queue, 0, 0)]).remove(0);
        assert_eq!(told.code, Code::Ok);
        told.repeated
    };
    assert_eq!((repeated(&mut client), repeated(&mut client)), (false, true));
    let reset = |dry_run| ResetOffsets { group: "billing".into(), dry_run, items: vec![(queue, Offset(0))] };
    assert_eq!(client.request(&reset(true)).outcomes[0].code, Code::Ok);
    assert!(repeated(&mut client), "a preview changes nothing");
    assert_eq!(client.request(&reset(false)).outcomes[0].code, Code::Ok);
    assert_eq!((repeated(&mut client), repeated(&mut client)), (false, true), "after a reset");
    assert_eq!(client.request(&DeleteGroup { group: "billing".into() }).status.code, Code::Ok);
    assert_eq!((repeated(&mut client), repeated(&mut client)), (false, true), "after a deletion");
    let retry = hidden(&mut client, "%RETRY%billing")[0];
    assert_eq!(client.bodies(retry, 0), [b"a", b"a", b"a"]);
    stop(broker);
}

#[test]
fn hidden_topics_are_made_by_brokers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    for topic in ["%RETRY%billing", "%x"] {
        let request = CreateTopic { topic: topic.into(), map: vec![], queues: 1, version: 1, auto: false };
        assert_eq!(client.request(&request).status.code, Code::Invalid);
    }
    let queue = client.create_queue("orders").key;
    let request = HandBack { group: "a b".into(), attempts_max: 0, items: vec![item(queue, 0, 0)] };
    assert_eq!(client.request(&request).status.code, Code::Invalid);
    stop(broker);
}
