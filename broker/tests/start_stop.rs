//! Starting, what prevents it, stopping, and being asked how it is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::net::TcpStream;

use common::{Client, batch, config, get, start, start_with, stop};
use equeue_broker::BrokerError;
use equeue_broker::data_dir::DataDirError;

#[test]
fn metrics_and_health_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path(), 2);
    settings.http_listen = "127.0.0.1:0".into();
    let broker = start_with(settings);
    let http = broker.http_address().unwrap();
    assert_eq!(get(http, "/healthz").0, 200);
    assert_eq!(get(http, "/readyz").0, 200);
    assert_eq!(get(http, "/nothing").0, 404);
    let mut client = Client::connect_to(broker.address(), Some(0));
    let queue = client.create_queue("t").key;
    client.produce_ok(&[(queue, batch(&[b"1", b"2", b"3"]))]);
    let (status, text) = get(http, "/metrics");
    assert_eq!(status, 200);
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "`{line}` in\n{text}");
    has("equeue_messages_produced_total{shard=\"0\"} 3");
    has("equeue_messages_produced_total{shard=\"1\"} 0");
    has("equeue_ready 1");
    has("equeue_log_failed{log=\"1\"} 0");
    has("# TYPE equeue_durable_wait_seconds histogram");
    assert!(text.contains("equeue_durable_wait_seconds_count{log=\"0\"} 1"), "{text}");
    assert!(text.contains("equeue_process_resident_memory_bytes "));
    assert!(text.trim_end().ends_with("# EOF"));
    stop(broker);
    assert!(TcpStream::connect(http).is_err(), "nothing listens after the end");
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 1);
    let refused = equeue_broker::start(config(dir.path(), 1));
    assert!(matches!(refused, Err(BrokerError::DataDir(DataDirError::Locked(_)))), "{refused:?}");
    Client::connect(broker.address());
    stop(broker);
    stop(start(dir.path(), 1));
}

#[test]
fn a_data_directory_of_another_broker_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    stop(start(dir.path(), 1));
    let mut settings = config(dir.path(), 1);
    settings.name = "somebody-else".into();
    let refused = equeue_broker::start(settings).unwrap_err().to_string();
    assert!(refused.contains("broker-1") && refused.contains("somebody-else"), "{refused}");
}

#[test]
fn a_port_in_use_is_an_error_and_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = config(dir.path(), 1);
    settings.listen = taken.local_addr().unwrap().to_string();
    let refused = equeue_broker::start(settings);
    assert!(matches!(refused, Err(BrokerError::Bind { key: "listen", .. })), "{refused:?}");
    stop(start(dir.path(), 1));
}

#[test]
fn a_damaged_log_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect(broker.address());
    let topic = client.create_topic("t", 2);
    for queue in &topic.queues {
        client.produce_ok(&[(queue.key, batch(&[&[7; 10_000]]))]);
    }
    stop(broker);
    let log = dir.path().join("log-1");
    let segment = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "seg"));
    let segment = segment.expect("a segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[0] ^= 0xff;
    std::fs::write(&segment, bytes).unwrap();
    let refused = equeue_broker::start(config(dir.path(), 2));
    assert!(matches!(refused, Err(BrokerError::Open { log: 1, shard: 1, .. })), "{refused:?}");
    // What runs is ended: the directory is free again, for a look with other tools.
    let refused = equeue_broker::start(config(dir.path(), 2));
    assert!(matches!(refused, Err(BrokerError::Open { log: 1, .. })), "{refused:?}");
}

#[test]
fn a_stop_ends_open_connections_after_answering_them() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect_to(broker.address(), Some(0));
    let topic = client.create_topic("t", 2);
    let mut parked = Client::connect_to(broker.address(), Some(1));
    let correlation = parked.send_fetch(1, 30_000, &[(topic.queues[1].key, 0)], &[]);
    common::until("the fetch to be parked", || {
        broker.broker().stats.iter().map(|shard| shard.fetches_parked.get()).sum::<u64>() == 1
    });
    let sent =
        client.send_produce(equeue_net::api::AckLevel::Durable, 0, &[(topic.queues[0].key, batch(&[b"x"]))]);
    let stats = &broker.broker().stats[0];
    common::until("the request to be taken", || stats.batches_produced.get() == 1);
    let begun = std::time::Instant::now();
    stop(broker);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(parked.fetched(correlation).0.outcomes.len(), 0);
    assert!(parked.receive().is_none());
    let answer = client.answer::<equeue_net::api::Produce>(sent);
    assert_eq!(answer.outcomes[0].code, equeue_net::Code::Ok);
    assert!(client.receive().is_none());
}

#[test]
fn it_can_be_started_and_stopped_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    stop(start(dir.path(), 2));
    let before = open();
    for round in 0..5 {
        let broker = start(dir.path(), if round % 2 == 0 { 1 } else { 2 });
        let mut client = Client::connect(broker.address());
        let queue = client.create_queue("t").key;
        let offsets = client.produce_ok(&[(queue, batch(&[b"x"]))]);
        assert_eq!(offsets[0].0, round);
        stop(broker);
    }
    // glommio keeps an eventfd or two per executor that has ended (DataDog/glommio#448).
    assert!(open() <= before + 5 * 2 * 4, "{before} descriptors became {}", open());
}
