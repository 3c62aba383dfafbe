//! A disk that fails.
//!
//! The limit on file sizes that stands for the failure holds for the whole process: this file has one test, so that
//! it is alone in its process under every test runner.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it would panic")]

mod common;

use std::path::Path;

use common::{Client, body, config, start_with, stop};
use equeue_broker::BrokerError;
use equeue_net::Code;
use equeue_net::api::{CommitItem, CommitOffsets, CreateTopic, Tries};
use equeue_record::Offset;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Makes every write beyond `bytes` of a file fail, or no more.
fn limit_files(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(hard), hard).unwrap();
}

#[test]
#[expect(unsafe_code, reason = "a signal that would end the process is ignored")]
fn a_failed_write_stops_writes_for_good_and_nothing_acknowledged_is_lost() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal runs no code.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path(), 2);
    settings.http_listen = "127.0.0.1:0".into();
    let broker = start_with(settings);
    let http = broker.http_address().unwrap();
    let mut client = Client::connect_to(broker.address(), Some(0));
    let topic = client.create_topic("t", 2);
    let (of_log_0, other) = (topic.queues[0], topic.queues[1]);
    assert_eq!((of_log_0.shard, other.shard), (0, 1));
    for number in 0..5 {
        assert_eq!(client.produce_one(of_log_0.key, &body(number, 200_000)), Code::Ok);
    }
    // Without the segment that is prepared ahead a log would say that its disk is full.
    common::until("the segments ahead to be prepared", || {
        ["log-0", "log-1"].iter().all(|log| {
            let files = std::fs::read_dir(dir.path().join(log)).unwrap();
            let is_segment = |file: &Path| file.extension().is_some_and(|extension| extension == "seg");
            files.filter(|file| is_segment(&file.as_ref().unwrap().path())).count() == 2
        })
    });
    limit_files(4096);
    assert_eq!(client.produce_one(of_log_0.key, &body(99, 200_000)), Code::LogFailed);
    limit_files(u64::MAX);
    // For good: a sync that failed once is not tried again.
    assert_eq!(client.produce_one(of_log_0.key, &body(99, 200_000)), Code::LogFailed);
    let items =
        vec![CommitItem { queue: of_log_0.key, offset: Offset(1), grant_epoch: 0, tries: Tries::default() }];
    let told = client.request(&CommitOffsets { group: "g".into(), items }).outcomes[0];
    assert_eq!(told.code, Code::LogFailed);
    let create = CreateTopic { topic: "u".into(), map: Vec::new(), queues: 1, version: 1, auto: false };
    assert_eq!(client.request(&create).status.code, Code::LogFailed);
    // Log 0 has the catalog: without it no log takes writes.
    assert_eq!(client.produce_one(other.key, &body(99, 200_000)), Code::LogFailed);
    let found = client.bodies(of_log_0.key, 0);
    assert_eq!(found, (0..5).map(|number| body(number, 200_000)).collect::<Vec<_>>());
    let (status, text) = common::get(http, "/readyz");
    assert_eq!(status, 503, "{text}");
    assert_eq!(common::get(http, "/healthz").0, 200);
    broker.stop();
    let ended = broker.join();
    // Log 1 marks its end when it is idle: that may have failed as well, and be told first.
    assert!(matches!(ended, Err(BrokerError::LogFailed { .. })), "{ended:?}");

    let broker = start_with(config(dir.path(), 2));
    let mut client = Client::connect(broker.address());
    let found = client.bodies(of_log_0.key, 0);
    assert_eq!(found[..5], (0..5).map(|number| body(number, 200_000)).collect::<Vec<_>>());
    assert_eq!(client.produce_one(other.key, &body(0, 200_000)), Code::Ok);
    stop(broker);
}
