//! A disk that is full.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Client, body, config, start_with, stop, until};
use equeue_broker::BrokerError;
use equeue_broker::data_dir::DataDirError;
use equeue_net::Code;
use equeue_net::api::{CommitItem, CommitOffsets, Tries};
use equeue_record::Offset;

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
        match client.produce_one(queue, &body(stored, 200_000)) {
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
    let items =
        vec![CommitItem { queue, offset: Offset(stored / 2), grant_epoch: 0, tries: Tries::default() }];
    let told = client.request(&CommitOffsets { group: "g".into(), items }).outcomes[0];
    assert_eq!((told.code, told.committed), (Code::Ok, Some(Offset(stored / 2))));
    // Space returns: producers go on without anybody's help.
    std::fs::remove_file(&filler).unwrap();
    until("producers to go on", || {
        let code = client.produce_one(queue, &body(stored, 200_000));
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

#[test]
fn a_first_start_without_space_for_its_logs_is_refused_and_works_when_there_is_some() {
    let Some(disk) = SmallDisk::mount("24m") else { return };
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1; 22 << 20]).unwrap();
    let settings = config(&disk.path().join("data"), 1);
    for _ in 0..2 {
        let refused = equeue_broker::start(settings.clone());
        assert!(
            matches!(refused, Err(BrokerError::DataDir(DataDirError::LogNotBegun { .. }))),
            "{refused:?}"
        );
        assert!(!disk.path().join("data/begun").exists());
    }
    std::fs::remove_file(&filler).unwrap();
    stop(start_with(settings));
    assert!(disk.path().join("data/begun").exists());
}
