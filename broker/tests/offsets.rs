//! Offsets of groups: the rules of a commit, and that what was answered survives.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use common::{Client, batch, start, stop};
use equeue_net::Code;
use equeue_net::api::{
    CommitItem, CommitOffsets, CommitOutcome, DeleteTopic, FetchOffsets, ListOffsets, OffsetAt, Tries,
};
use equeue_record::{Offset, QueueKey};

fn commit(client: &mut Client, queue: QueueKey, offset: u64, grant_epoch: u32) -> CommitOutcome {
    let items = vec![CommitItem { queue, offset: Offset(offset), grant_epoch, tries: Tries::default() }];
    client.request(&CommitOffsets { group: "billing".into(), items }).outcomes[0]
}

fn committed(client: &mut Client, group: &str, queue: QueueKey) -> CommitOutcome {
    client.request(&FetchOffsets { group: group.into(), queues: vec![queue] }).outcomes[0]
}

#[test]
fn commits_are_monotonic_bounded_and_durable() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    client.produce_ok(&[(queue, batch(&[b"1", b"2", b"3", b"4"]))]);
    assert_eq!(committed(&mut client, "billing", queue).committed, None);
    let told = commit(&mut client, queue, 3, 0);
    assert_eq!((told.code, told.committed), (Code::Ok, Some(Offset(3))));
    let told = commit(&mut client, queue, 1, 0);
    assert_eq!((told.code, told.committed), (Code::Ok, Some(Offset(3))), "never back");
    let told = commit(&mut client, queue, 5, 0);
    assert_eq!((told.code, told.committed), (Code::OffsetOutOfRange, Some(Offset(3))));
    assert_eq!(commit(&mut client, queue, 4, 9).code, Code::StaleEpoch);
    assert_eq!(commit(&mut client, QueueKey(queue.0 + 1), 0, 0).code, Code::QueueNotFound);
    assert_eq!(committed(&mut client, "other", queue).committed, None);
    stop(broker);

    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    assert_eq!(committed(&mut client, "billing", queue).committed, Some(Offset(3)));
    let told = commit(&mut client, queue, 4, 0);
    assert_eq!((told.code, told.committed), (Code::Ok, Some(Offset(4))));
    stop(broker);
}

#[test]
fn commits_in_a_row_are_answered_with_what_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let bodies = vec![&b"x"[..]; 100];
    client.produce_ok(&[(queue, batch(&bodies))]);
    let asked: Vec<u32> = (1..=100_u64)
        .map(|offset| {
            let offset = if offset % 3 == 0 { offset - 2 } else { offset };
            let items =
                vec![CommitItem { queue, offset: Offset(offset), grant_epoch: 0, tries: Tries::default() }];
            client.send(&CommitOffsets { group: "billing".into(), items }, 0, &[])
        })
        .collect();
    let mut told = std::collections::HashMap::new();
    for _ in &asked {
        use equeue_net::api::{CommitOffsetsAnswer, Message as _};
        let frame = client.receive().unwrap();
        told.insert(frame.head.correlation, CommitOffsetsAnswer::decode(&frame.header).unwrap().outcomes[0]);
    }
    let values: Vec<u64> = asked.iter().map(|asked| told[asked].committed.unwrap().0).collect();
    assert!(values.is_sorted(), "{values:?}");
    assert_eq!(committed(&mut client, "billing", queue).committed, Some(Offset(100)));
    stop(broker);
}

#[test]
fn names_of_groups_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let answer = client.request(&FetchOffsets { group: "no good".into(), queues: vec![queue] });
    assert_eq!(answer.status.code, Code::Invalid);
    let answer = client.request(&CommitOffsets { group: String::new(), items: Vec::new() });
    assert_eq!(answer.status.code, Code::Invalid);
    stop(broker);
}

#[test]
fn a_deleted_queue_takes_its_offsets_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    client.produce_ok(&[(queue, batch(&[b"1"]))]);
    assert_eq!(commit(&mut client, queue, 1, 0).code, Code::Ok);
    assert_eq!(client.request(&DeleteTopic { topic: "t".into() }).status.code, Code::Ok);
    assert_eq!(committed(&mut client, "billing", queue).code, Code::QueueNotFound);
    let again = client.create_queue("t").key;
    assert_ne!(again, queue, "a key is never used again");
    assert_eq!(committed(&mut client, "billing", again).committed, None);
    assert!(client.bodies(again, 0).is_empty());
    stop(broker);
}

#[test]
fn offsets_are_found_by_place_and_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let times: Vec<i64> = (0..3)
        .map(|_| {
            let answer = client.produce(&[(queue, batch(&[b"x", b"y"]))]);
            std::thread::sleep(std::time::Duration::from_millis(5)); // append times that differ
            answer.outcomes[0].append_time_ms
        })
        .collect();
    let mut at = |at| client.request(&ListOffsets { items: vec![(queue, at)] }).outcomes[0].offset.0;
    assert_eq!((at(OffsetAt::First), at(OffsetAt::Last)), (0, 6));
    assert_eq!((at(OffsetAt::Time(0)), at(OffsetAt::Time(i64::MAX))), (0, 6));
    assert_eq!(at(OffsetAt::Time(times[1])), 2);
    assert_eq!(at(OffsetAt::Time(times[1] + 1)), 4);
    stop(broker);
}
