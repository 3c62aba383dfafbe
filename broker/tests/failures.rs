//! A disk that is full, and a disk that fails.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Client, batch, body, config, start_with, stop, until};
use equeue_broker::BrokerError;
use equeue_net::Code;
use equeue_net::api::{CommitItem, CommitOffsets, CreateTopic};
use equeue_record::{Offset, QueueKey};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A small file system in memory, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`: not allowed here.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: a tmpfs cannot be mounted ({error}); it needs root");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn code_of(client: &mut Client, queue: QueueKey, number: u64) -> Code {
    client.produce(&[(queue, batch(&[&body(number, 200_000)]))]).outcomes[0].code
}

#[test]
fn a_full_disk_stops_producers_only_and_only_as_long_as_it_is_full() {
    let Some(disk) = SmallDisk::mount("64m") else { return };
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 24 << 20]).unwrap();
    let mut settings = config(&disk.path().join("data"), 1);
    settings.storage.segment_bytes_max = equeue_broker::config::ByteSize::mib(4);
    let broker = start_with(settings.clone());
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    let mut stored = 0;
    let refused = loop {
        match code_of(&mut client, queue, stored) {
            Code::Ok => stored += 1,
            Code::Busy => std::thread::sleep(Duration::from_millis(5)),
            other => break other,
        }
        assert!(stored < 400, "64 MB cannot hold 80 MB");
    };
    assert_eq!(refused, Code::DiskFull);
    assert!(stored > 20, "{stored}");
    // Consumers go on, and may say how far they are.
    let found = client.bodies(queue, 0);
    assert_eq!(found.len() as u64, stored);
    let items = vec![CommitItem { queue, offset: Offset(stored / 2), grant_epoch: 0 }];
    let told = client.request(&CommitOffsets { group: "g".into(), items }).outcomes[0];
    assert_eq!((told.code, told.committed), (Code::Ok, Some(Offset(stored / 2))));
    // Space returns: producers go on without anybody's help.
    std::fs::remove_file(&filler).unwrap();
    until("producers to go on", || {
        let code = code_of(&mut client, queue, stored);
        assert!(matches!(code, Code::Ok | Code::DiskFull | Code::Busy), "{code:?}");
        code == Code::Ok
    });
    stop(broker);
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let found = client.bodies(queue, 0);
    assert_eq!(found.len() as u64, stored + 1);
    for (number, found) in (0..).zip(found) {
        assert_eq!(found, body(number, 200_000));
    }
    stop(broker);
}

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
        assert_eq!(code_of(&mut client, of_log_0.key, number), Code::Ok);
    }
    limit_files(4096);
    assert_eq!(code_of(&mut client, of_log_0.key, 99), Code::LogFailed);
    limit_files(u64::MAX);
    // For good: a sync that failed once is not tried again.
    assert_eq!(code_of(&mut client, of_log_0.key, 99), Code::LogFailed);
    let items = vec![CommitItem { queue: of_log_0.key, offset: Offset(1), grant_epoch: 0 }];
    let told = client.request(&CommitOffsets { group: "g".into(), items }).outcomes[0];
    assert_eq!(told.code, Code::LogFailed);
    let create = CreateTopic { topic: "u".into(), map: Vec::new(), queues: 1, version: 1, auto: false };
    assert_eq!(client.request(&create).status.code, Code::LogFailed);
    // Log 0 has the catalog: without it no log takes writes.
    assert_eq!(code_of(&mut client, other.key, 99), Code::LogFailed);
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
    assert_eq!(code_of(&mut client, other.key, 0), Code::Ok);
    stop(broker);
}
