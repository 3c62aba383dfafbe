//! Each limit, named; what is read and what is not.

use super::*;

fn refused(change: impl FnOnce(&mut BrokerConfig)) -> &'static str {
    let mut config = BrokerConfig { shards: 1, ..BrokerConfig::default() };
    change(&mut config);
    config.validate().expect_err("must be refused").key
}

#[test]
fn defaults_are_valid() {
    BrokerConfig::default().validate().unwrap();
}

#[test]
fn each_limit_is_enforced_and_named() {
    assert_eq!(refused(|c| c.name = String::new()), "name");
    assert_eq!(refused(|c| c.name = "a b".into()), "name");
    assert_eq!(refused(|c| c.cluster = "x".repeat(NAME_BYTES_MAX + 1)), "cluster");
    assert_eq!(refused(|c| c.group = GROUP_MAX + 1), "group");
    assert_eq!(refused(|c| c.data_dir = PathBuf::new()), "data_dir");
    assert_eq!(refused(|c| c.listen = "9494".into()), "listen");
    assert_eq!(refused(|c| c.listen = "host:99999".into()), "listen");
    assert_eq!(refused(|c| c.advertise = ":1".into()), "advertise");
    assert_eq!(refused(|c| c.http_listen = "x".into()), "http_listen");
    assert_eq!(refused(|c| c.nameservers = vec!["a:1".into(); NAMESERVERS_MAX + 1]), "nameservers");
    assert_eq!(refused(|c| c.nameservers = vec!["a".into()]), "nameservers");
    assert_eq!(refused(|c| c.default_queues = 0), "default_queues");
    assert_eq!(refused(|c| c.shards = SHARDS_MAX + 1), "shards");
    assert_eq!(refused(|c| c.logs = LOGS_MAX + 1), "logs");
    assert_eq!(refused(|c| c.pin = vec![0, 1]), "pin");
    assert_eq!(refused(|c| c.memory.limit = ByteSize(1)), "memory.limit");
    assert_eq!(refused(|c| c.shards = 64), "memory.limit");
    assert_eq!(refused(|c| c.storage.segment_bytes_max = ByteSize(1)), "storage.segment_bytes_max");
    assert_eq!(refused(|c| c.storage.segment_bytes_first = ByteSize::gib(1)), "storage.segment_bytes_first");
    assert_eq!(
        refused(|c| c.storage.segment_bytes_first = ByteSize((1 << 20) + 4096)),
        "storage.segment_bytes_first"
    );
    assert_eq!(refused(|c| c.storage.flush_bytes_max = ByteSize::mib(2)), "storage.flush_bytes_max");
    assert_eq!(refused(|c| c.storage.flush_bytes_max = ByteSize(10_000)), "storage.flush_bytes_max");
    assert_eq!(refused(|c| c.storage.sync_interval_ms = 0), "storage.sync_interval_ms");
    let in_memory = |c: &mut BrokerConfig| {
        c.storage.mode = StorageMode::Memory;
        c.storage.memory_bytes = ByteSize::gib(2);
    };
    assert_eq!(refused(in_memory), "storage.memory_bytes");
    assert_eq!(refused(|c| c.storage.flush_depth = 3), "storage.flush_depth");
    assert_eq!(refused(|c| c.storage.pending_bytes_max = ByteSize(1)), "storage.pending_bytes_max");
    assert_eq!(refused(|c| c.storage.snapshot_bytes = ByteSize(1)), "storage.snapshot_bytes");
    assert_eq!(refused(|c| c.storage.idle_ms = 0), "storage.idle_ms");
    assert_eq!(refused(|c| c.storage.producers_max = 0), "storage.producers_max");
    assert_eq!(refused(|c| c.retention.age = Span(1)), "retention.age");
    assert_eq!(refused(|c| c.retention.bytes = ByteSize(1)), "retention.bytes");
    assert_eq!(refused(|c| c.retention.segments = 1), "retention.segments");
    assert_eq!(refused(|c| c.retention.disk_free_min = ByteSize(u64::MAX)), "retention.disk_free_min");
    assert_eq!(refused(|c| c.retention.check_ms = 1), "retention.check_ms");
    assert_eq!(
        refused(|c| c.storage.scrub_bytes_per_second = ByteSize::gib(2)),
        "storage.scrub_bytes_per_second"
    );
    assert_eq!(refused(|c| c.net.connections_max = 0), "net.connections_max");
    assert_eq!(refused(|c| c.net.frame_bytes_max = ByteSize(1)), "net.frame_bytes_max");
    assert_eq!(refused(|c| c.net.produce_credit_bytes = ByteSize(1)), "net.produce_credit_bytes");
    assert_eq!(refused(|c| c.net.answer_bytes_max = ByteSize::mib(9)), "net.answer_bytes_max");
    assert_eq!(refused(|c| c.net.answer_queue_bytes_max = ByteSize(1)), "net.answer_queue_bytes_max");
    assert_eq!(refused(|c| c.net.fetch_wait_ms_max = 600_001), "net.fetch_wait_ms_max");
    assert_eq!(refused(|c| c.net.parked_fetches_max = 0), "net.parked_fetches_max");
    assert_eq!(refused(|c| c.timers.register_ms = 1), "timers.register_ms");
    assert_eq!(refused(|c| c.timers.presence_ms = 1), "timers.presence_ms");
    assert_eq!(refused(|c| c.timers.hello_ms = 1), "timers.hello_ms");
    assert_eq!(refused(|c| c.timers.stop_ms = 1), "timers.stop_ms");
    assert_eq!(refused(|c| c.delay.ahead_ms_max = 1), "delay.ahead_ms_max");
    assert_eq!(refused(|c| c.delay.messages_max = 1), "delay.messages_max");
    assert_eq!(refused(|c| c.retry.attempts_max = 0), "retry.attempts_max");
    assert_eq!(refused(|c| c.groups.lease_ms = 1), "groups.lease_ms");
    assert_eq!(refused(|c| c.groups.session_ms = 4_999), "groups.session_ms");
    assert_eq!(refused(|c| c.groups.retention_hours = 0), "groups.retention_hours");
    assert_eq!(refused(|c| c.groups.broadcast_retention_hours = 0), "groups.broadcast_retention_hours");
}

#[test]
fn the_switches_of_null_controls_are_read_but_not_offered() {
    let read: BrokerConfig = toml::from_str("[hazards]\nno_sync = true").unwrap();
    assert_eq!(read.hazards, Hazards { no_sync: true, ..Hazards::default() });
    assert!(read.hazards.any() && !BrokerConfig::default().hazards.any());
    assert!(!default_toml().contains("hazards"));
    assert!(toml::from_str::<BrokerConfig>("[hazards]\nno_synk = true").is_err());
}

#[test]
fn unknown_keys_are_errors() {
    assert!(toml::from_str::<BrokerConfig>("sharts = 2").is_err());
    assert!(toml::from_str::<BrokerConfig>("[storage]\nflush_dept = 2").is_err());
    let read: BrokerConfig = toml::from_str("[memory]\nlimit = \"2GiB\"").unwrap();
    assert_eq!(read.memory.limit, ByteSize::gib(2));
}
