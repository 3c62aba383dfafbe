//! Starting, what prevents it, stopping, and being asked how it is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use common::{Client, batch, config, get, start, start_with, stop};
use equeue_broker::BrokerError;
use equeue_broker::data_dir::DataDirError;
use equeue_storage::{LogId, offline};

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

/// A directory with two logs, each with messages.
fn two_logs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = Client::connect(broker.address());
    for queue in &client.create_topic("t", 2).queues {
        client.produce_ok(&[(queue.key, batch(&[b"x"]))]);
    }
    stop(broker);
    dir
}

/// The broker and `verify` say the same: this log is missing. What the directory holds stays as it is.
fn refused_as_missing(dir: &Path, log: u16) {
    let held = names(dir);
    match equeue_broker::start(config(dir, 2)) {
        Err(BrokerError::DataDir(DataDirError::LogMissing { path, log: found, act })) => {
            assert_eq!((path, found.0), (dir.join(format!("log-{log}")), log));
            let wanted = if log == 0 { "another data directory" } else { "--log 1 --begin-anew" };
            assert!(act.contains(wanted), "{act}");
        }
        other => panic!("{other:?}"),
    }
    let report = offline::verify(dir).unwrap();
    let missing = report.damaged.iter().find(|damaged| damaged.path == dir.join(format!("log-{log}")));
    let missing = missing.unwrap_or_else(|| panic!("{:?}", report.damaged));
    assert!(missing.reason.contains(&format!("log {log} is missing")), "{missing}");
    assert_eq!(names(dir), held);
}

/// It starts, and `verify` finds nothing.
fn starts(dir: &Path) {
    let report = offline::verify(dir).unwrap();
    assert!(report.is_sound(), "{:?}", report.damaged);
    stop(start(dir, 2));
    assert!(offline::verify(dir).unwrap().is_sound());
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn empty(log: &Path) {
    for path in names(log) {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_log_whose_folder_is_missing_is_not_taken_for_a_new_one() {
    for log in [0, 1] {
        let dir = two_logs();
        let kept = dir.path().join("kept");
        std::fs::rename(dir.path().join(format!("log-{log}")), &kept).unwrap();
        refused_as_missing(dir.path(), log);
        refused_as_missing(dir.path(), log);
        std::fs::rename(&kept, dir.path().join(format!("log-{log}"))).unwrap();
        starts(dir.path());
    }
}

#[test]
fn a_log_whose_folder_is_empty_is_not_taken_for_a_new_one() {
    for log in [0, 1] {
        let dir = two_logs();
        let folder = dir.path().join(format!("log-{log}"));
        empty(&folder);
        refused_as_missing(dir.path(), log);
        // What holds no message does not count, nor does another's absence.
        std::fs::write(folder.join("ballast.tmp"), [0; 4096]).unwrap();
        refused_as_missing(dir.path(), log);
        empty(&dir.path().join(format!("log-{}", 1 - log)));
        refused_as_missing(dir.path(), 0);
    }
}

#[test]
fn a_directory_of_an_older_build_is_known_by_what_the_other_logs_hold() {
    let dir = two_logs();
    std::fs::remove_file(dir.path().join("begun")).unwrap();
    let kept = dir.path().join("kept");
    std::fs::rename(dir.path().join("log-1"), &kept).unwrap();
    refused_as_missing(dir.path(), 1);
    std::fs::rename(&kept, dir.path().join("log-1")).unwrap();
    starts(dir.path());
    assert!(dir.path().join("begun").exists(), "it is written down now");
}

#[test]
fn a_first_start_that_was_interrupted_goes_on() {
    // Each log may have come to any of these points when the power went.
    for log in [0, 1] {
        for point in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            stop(start(dir.path(), 2));
            std::fs::remove_file(dir.path().join("begun")).unwrap();
            let folder = dir.path().join(format!("log-{log}"));
            let segment = folder.join(format!("{:020}.seg", 0));
            let header = std::fs::read(&segment).unwrap()[..4096].to_vec();
            let bytes = std::fs::metadata(&segment).unwrap().len();
            empty(&folder);
            match point {
                0 => std::fs::remove_dir(&folder).unwrap(),
                1 => std::fs::write(folder.join("prep-7.tmp"), [0; 4096]).unwrap(),
                _ => {
                    // Prepared, and no OPEN in it.
                    std::fs::write(&segment, header).unwrap();
                    std::fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(bytes).unwrap();
                }
            }
            starts(dir.path());
            assert!(dir.path().join("begun").exists(), "log {log}, point {point}");
        }
    }
    // Nothing but the identity, as of memory mode.
    let dir = tempfile::tempdir().unwrap();
    let mut memory = config(dir.path(), 2);
    memory.storage.mode = equeue_broker::config::StorageMode::Memory;
    for _ in 0..2 {
        stop(start_with(memory.clone()));
        assert!(!dir.path().join("begun").exists());
    }
    starts(dir.path());
}

#[test]
fn a_missing_log_that_was_given_up_begins_anew() {
    let dir = two_logs();
    std::fs::remove_dir_all(dir.path().join("log-1")).unwrap();
    refused_as_missing(dir.path(), 1);
    offline::give_up_missing(dir.path(), LogId(1)).unwrap();
    starts(dir.path());
    // Once.
    empty(&dir.path().join("log-1"));
    refused_as_missing(dir.path(), 1);
}
