//! What old messages, a slow group, memory mode and syncing at intervals mean to a client.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Client, batch, body, config, start_with, stop, until};
use equeue_broker::BrokerConfig;
use equeue_broker::config::{ByteSize, StorageMode, SyncPolicy};
use equeue_net::Code;
use equeue_net::api::{
    AckLevel, CommitItem, CommitOffsets, DescribeTopic, QueueState, SetTopic, TopicRetention, Tries,
};
use equeue_record::{Offset, QueueKey};

/// Small segments, of which two stay.
fn short(dir: &Path) -> BrokerConfig {
    let mut config = config(dir, 1);
    config.storage.segment_bytes_first = ByteSize::mib(1);
    config.storage.segment_bytes_max = ByteSize::mib(1);
    config.retention.segments = 2;
    config.retention.check_ms = 20;
    config
}

fn state(client: &mut Client, topic: &str) -> QueueState {
    client.request(&DescribeTopic { topic: topic.into() }).queues[0]
}

/// Stores `count` messages of 100 KB.
fn fill(client: &mut Client, queue: QueueKey, from: u64, count: u64) {
    for number in from..from + count {
        client.produce_ok(&[(queue, batch(&[&body(number, 100_000)]))]);
    }
}

fn commit(client: &mut Client, queue: QueueKey, offset: u64) {
    let item = CommitItem { queue, offset: Offset(offset), grant_epoch: 0, tries: Tries::default() };
    let answer = client.request(&CommitOffsets { group: "slow".into(), items: vec![item] });
    assert_eq!(answer.outcomes[0].code, Code::Ok);
}

fn set_age(client: &mut Client, topic: &str, ms: u64) {
    let answer = client.request(&SetTopic { topic: topic.into(), retention: Some(TopicRetention::Ms(ms)) });
    assert_eq!(answer.status.code, Code::Ok);
}

#[test]
fn old_messages_go_and_what_is_left_is_read_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(short(dir.path()));
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    fill(&mut client, queue, 0, 60);
    until("retention", || state(&mut client, "orders").start_offset > Offset(30));
    let start = state(&mut client, "orders").start_offset.0;
    let (answer, _) = client.fetch(0, &[(queue, 0)]);
    assert_eq!(answer.outcomes[0].code, Code::OffsetOutOfRange);
    drop(client);
    stop(broker);

    let mut again = short(dir.path());
    again.retention.segments = 0;
    let broker = start_with(again);
    let mut client = Client::connect(broker.address());
    let state = state(&mut client, "orders");
    assert!(state.start_offset.0 >= start && state.high_watermark == Offset(60));
    let found = client.bodies(queue, state.start_offset.0);
    assert!(found.into_iter().eq((state.start_offset.0..60).map(|number| body(number, 100_000))));
    drop(client);
    stop(broker);
}

#[test]
fn messages_that_a_group_has_not_consumed_stay_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut careful = short(dir.path());
    careful.retention.delete_unconsumed = false;
    careful.http_listen = "127.0.0.1:0".to_owned();
    let broker = start_with(careful);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    fill(&mut client, queue, 0, 1);
    commit(&mut client, queue, 0);
    fill(&mut client, queue, 1, 49);
    let metrics = broker.http_address().unwrap();
    until("retention blocked", || {
        common::get(metrics, "/metrics").1.contains("equeue_log_retention_blocked{log=\"0\"} 1")
    });
    assert_eq!(state(&mut client, "orders").start_offset, Offset(0));
    commit(&mut client, queue, 50);
    until("retention", || state(&mut client, "orders").start_offset > Offset(20));
    assert!(!common::get(metrics, "/metrics").1.contains("unconsumed_deleted_total{log=\"0\"} 1"));
    drop(client);
    stop(broker);
}

#[test]
fn memory_mode_is_bounded_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let memory = || {
        let mut config = config(dir.path(), 1);
        config.storage.mode = StorageMode::Memory;
        config.http_listen = "127.0.0.1:0".to_owned();
        config
    };
    let broker = start_with(memory());
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    let answer = client.produce(&[(queue, batch(&[&body(0, 100)]))]);
    assert_eq!((answer.outcomes[0].code, answer.outcomes[0].level), (Code::Ok, AckLevel::Memory));
    let metrics = broker.http_address().unwrap();
    assert!(common::get(metrics, "/metrics").1.contains("equeue_storage_in_memory 1"));
    // More than twice of what may be kept: half of 64 MiB.
    let mut sent = 1;
    while sent < 800 {
        match client.produce_one(queue, &body(sent, 100_000)) {
            Code::Ok => sent += 1,
            // The oldest are about to go.
            Code::DiskFull | Code::Busy => std::thread::sleep(Duration::from_millis(5)),
            other => panic!("{other:?}"),
        }
    }
    let state = state(&mut client, "orders");
    assert!(state.start_offset > Offset(300) && state.high_watermark == Offset(800), "{state:?}");
    let found = client.bodies(queue, state.start_offset.0);
    assert!(found.into_iter().eq((state.start_offset.0..800).map(|number| body(number, 100_000))));
    drop(client);
    stop(broker);
    assert!(!dir.path().join("log-0").exists(), "no message was written to disk");

    let broker = start_with(memory());
    let mut client = Client::connect(broker.address());
    let other = client.create_queue("orders").key;
    assert_ne!(other, queue, "offsets begin anew, so keys do too");
    drop(client);
    stop(broker);
}

#[test]
fn syncing_at_intervals_is_told_in_each_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), 1);
    config.storage.sync = SyncPolicy::Interval;
    config.storage.sync_interval_ms = 20;
    let broker = start_with(config.clone());
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("orders").key;
    for number in 0..50 {
        let answer = client.produce(&[(queue, batch(&[&body(number, 50_000)]))]);
        assert_eq!((answer.outcomes[0].code, answer.outcomes[0].level), (Code::Ok, AckLevel::Memory));
    }
    drop(client);
    stop(broker);
    let broker = start_with(config);
    let mut client = Client::connect(broker.address());
    assert_eq!(client.bodies(queue, 0).len(), 50);
    drop(client);
    stop(broker);
}

#[test]
fn a_topic_may_have_an_age_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = short(dir.path());
    config.shards = 2;
    config.logs = 2;
    config.memory.limit = ByteSize::mib(128);
    config.retention.segments = 0;
    let broker = start_with(config.clone());
    let mut client = Client::connect(broker.address());
    let brief = client.create_topic("brief", 2);
    let lasting = client.create_topic("lasting", 2);
    let unknown = client.request(&SetTopic { topic: "other".into(), retention: None });
    assert_eq!(unknown.status.code, Code::TopicNotFound);
    let ms = Some(TopicRetention::Ms(300));
    let answer = client.request(&SetTopic { topic: "brief".into(), retention: ms });
    assert_eq!((answer.status.code, answer.retention), (Code::Ok, TopicRetention::Ms(300)));
    for number in 0..10 {
        for queue in brief.queues.iter().chain(&lasting.queues) {
            client.produce_ok(&[(queue.key, batch(&[&body(number, 100)]))]);
        }
    }
    let starts = |client: &mut Client, topic: &str| -> Vec<u64> {
        let answer = client.request(&DescribeTopic { topic: topic.into() });
        answer.queues.iter().map(|state| state.start_offset.0).collect()
    };
    until("the end of the topic's age", || starts(&mut client, "brief") == [10, 10]);
    assert_eq!(starts(&mut client, "lasting"), [0, 0]);
    assert_eq!(client.bodies(lasting.queues[0].key, 0).len(), 10);
    drop(client);
    stop(broker);

    let broker = start_with(config);
    let mut client = Client::connect(broker.address());
    assert_eq!((starts(&mut client, "brief"), starts(&mut client, "lasting")), (vec![10, 10], vec![0, 0]));
    let kept = client.request(&SetTopic { topic: "brief".into(), retention: None });
    assert_eq!(kept.retention, TopicRetention::Ms(300));
    let back = SetTopic { topic: "brief".into(), retention: Some(TopicRetention::Broker) };
    assert_eq!(client.request(&back).retention, TopicRetention::Broker);
    drop(client);
    stop(broker);
}

/// Where the only queue of a topic begins.
fn start_of(client: &mut Client, topic: &str) -> u64 {
    state(client, topic).start_offset.0
}

#[test]
fn after_a_start_at_which_all_looks_too_old_a_topics_age_waits_for_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = short(dir.path());
    config.retention.segments = 0;
    let broker = start_with(config.clone());
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("brief").key;
    fill(&mut client, queue, 0, 5);
    drop(client);
    stop(broker);

    // As with a clock that is ahead until it is set.
    std::thread::sleep(Duration::from_millis(1500));
    let broker = start_with(config);
    let mut client = Client::connect(broker.address());
    set_age(&mut client, "brief", 1000);
    fill(&mut client, queue, 5, 1);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(start_of(&mut client, "brief"), 0);
    assert_eq!(client.bodies(queue, 0).len(), 6);
    drop(client);
    stop(broker);
}

#[test]
fn a_backlog_that_goes_by_its_topics_age_is_warned_of_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = short(dir.path());
    config.retention.segments = 0;
    config.http_listen = "127.0.0.1:0".to_owned();
    let broker = start_with(config);
    let mut client = Client::connect(broker.address());
    let metrics = broker.http_address().unwrap();
    let counted = |what: &str, messages: u64| {
        let line = format!("equeue_log_unconsumed_{what}_total{{log=\"0\"}} {messages}");
        common::get(metrics, "/metrics").1.lines().any(|found| found == line)
    };
    let queue = client.create_queue("brief").key;
    let other = client.create_queue("nobody").key;
    for number in 0..10 {
        for queue in [queue, other] {
            client.produce_ok(&[(queue, batch(&[&body(number, 100)]))]);
        }
    }
    commit(&mut client, queue, 4);
    set_age(&mut client, "brief", 3000);
    set_age(&mut client, "nobody", 3000);
    until("the warning", || counted("near", 6));
    assert!(counted("deleted", 0));
    until("the end of the topic's age", || start_of(&mut client, "brief") == 10);
    until("the count", || counted("deleted", 6));
    assert!(counted("near", 6), "once a message");
    drop(client);
    stop(broker);
}

#[test]
fn a_topics_age_lets_nothing_go_that_a_group_has_not_consumed_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut careful = short(dir.path());
    careful.retention.segments = 0;
    careful.retention.delete_unconsumed = false;
    let broker = start_with(careful);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("brief").key;
    fill(&mut client, queue, 0, 10);
    commit(&mut client, queue, 4);
    set_age(&mut client, "brief", 200);
    until("the end of the topic's age", || start_of(&mut client, "brief") == 4);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(start_of(&mut client, "brief"), 4);
    commit(&mut client, queue, 10);
    until("the rest", || start_of(&mut client, "brief") == 10);
    drop(client);
    stop(broker);
}
