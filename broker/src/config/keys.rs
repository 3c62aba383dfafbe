//! Every key of the configuration with its default, its range and what it does: the one source of the commented file
//! that `equeue config default broker` prints.

use std::fmt::Write as _;

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Dotted name.
    pub name: &'static str,
    /// Default, as TOML.
    pub default: &'static str,
    /// What is allowed.
    pub range: &'static str,
    /// What it does.
    pub doc: &'static str,
}

macro_rules! keys {
    ($($name:literal = $default:literal, $range:literal, $doc:literal;)*) => {
        /// Every key, in the order of the file.
        pub const KEYS: &[ConfigKey] =
            &[$(ConfigKey { name: $name, default: $default, range: $range, doc: $doc },)*];
    };
}

keys! {
    "name" = r#""broker-1""#, "1..64 letters, digits, . _ -",
        "Name of the broker, unique in its cluster. Recorded in the data directory; another name is refused there.";
    "cluster" = r#""default""#, "1..64 letters, digits, . _ -",
        "Name of the cluster. Recorded in the data directory.";
    "group" = "0", "0..16777215",
        "Number of the broker group, the upper part of every queue key. 0: drawn when the data directory is created.";
    "data_dir" = r#""data/broker""#, "a folder",
        "Where the logs lie. Created when missing; locked while the broker runs.";
    "listen" = r#""127.0.0.1:9494""#, "host:port; port 0: any free one",
        "Where clients connect to.";
    "advertise" = r#""""#, "host:port, or empty",
        "What clients are told to connect to. Empty: the address listened on.";
    "http_listen" = r#""127.0.0.1:9495""#, "host:port, or empty",
        "Where /metrics, /healthz and /readyz are served. Empty: nowhere.";
    "nameservers" = r#"["127.0.0.1:9493"]"#, "0..16 of host:port",
        "All nameservers of the cluster. One that cannot be reached stops nothing.";
    "auto_create_topics" = "false", "true, false",
        "A first send may create its topic.";
    "default_queues" = "4", "1..256",
        "Queues of a topic that is created without a number.";
    "shards" = "0", "0..128",
        "Number of shards, each a thread with its own logs and connections. 0: one less than there are CPUs.";
    "logs" = "0", "0..1024",
        "Number of logs of a new data directory; fixed afterwards. 0: one per shard.";
    "pin" = "[]", "one CPU number per shard, or empty",
        "CPU of each shard. Empty: with several shards shard i gets the i-th CPU allowed; a single one is not pinned.";
    "memory.limit" = r#""1GiB""#, "64MiB..1TiB",
        "The broker keeps below this. A quarter of it is the cache of recent and re-read messages.";
    "storage.mode" = r#""disk""#, "disk, memory",
        "Where messages are kept. memory: nothing is written to disk and everything is gone when the broker stops, topics and offsets too.";
    "storage.memory_bytes" = r#""0B""#, "8MiB per log..half of memory.limit, or 0",
        "With storage.mode memory: bytes of messages kept, past which the oldest go, consumed or not. 0: half of memory.limit.";
    "storage.sync" = r#""always""#, "always, interval",
        "When a message is on stable storage. always: before it is acknowledged. interval: later, a loss of power loses what was acknowledged since; answers then say level memory.";
    "storage.sync_interval_ms" = "100", "1..60000",
        "With storage.sync interval: longest time from an acknowledgement to its sync.";
    "storage.segment_bytes_max" = r#""256MiB""#, "1MiB..16GiB, whole MiB",
        "Largest segment file. Retention works on whole segments.";
    "storage.segment_bytes_first" = r#""16MiB""#, "1MiB..segment_bytes_max, whole MiB",
        "First segment of a log, and after a crash, for which as much is kept free; each next one is twice as large up to the maximum.";
    "storage.flush_bytes_max" = r#""1MiB""#, "8KiB..1MiB, whole 4KiB",
        "Soft cap of one flush (a write and a sync for many messages).";
    "storage.flush_depth" = "2", "1..2",
        "Flushes written at a time.";
    "storage.pending_bytes_max" = r#""8MiB""#, "net.frame_bytes_max..1GiB",
        "Produce bytes of one shard that are not durable yet, past which its sockets are not read any more.";
    "storage.snapshot_bytes" = r#""256MiB""#, "1MiB..16GiB",
        "A snapshot of a log's state is written into it at the latest after so many bytes.";
    "storage.idle_ms" = "100", "10..60000",
        "Quiet time after which a log marks its durable end on disk, at the latest after twice as long.";
    "storage.producers_max" = "100000", "1000..10000000",
        "Producers remembered per log, to recognise batches that are sent twice.";
    "storage.scrub_bytes_per_second" = r#""4MiB""#, "0B..1GiB",
        "Sealed segments of each log are read again and checked at this rate, once an hour at the most. 0B: never.";
    "retention.age" = r#""7d""#, "1m..36500d, or 0",
        "Messages older than this are deleted, in whole segments. 0: they stay. A topic may have an age of its own.";
    "retention.bytes" = r#""0B""#, "four segments per log.., or 0",
        "Most bytes on disk, shared by the logs; past it the oldest segments go, whatever their age. 0: no limit.";
    "retention.segments" = "0", "2..1000000, or 0",
        "Most segments of each log; past it the oldest go. 0: no limit.";
    "retention.disk_free_min" = r#""0B""#, "0..",
        "While the file system has less free space the oldest segments go. 0: producers get DISK_FULL at its end.";
    "retention.delete_unconsumed" = "true", "true, false",
        "Whether messages go that a group, with members or without, has not consumed. false beats all other rules.";
    "retention.check_ms" = "10000", "10..3600000",
        "Time between two looks at what may go.";
    "net.connections_max" = "10000", "1..1000000",
        "Connections of the broker; one more is closed at once.";
    "net.frame_bytes_max" = r#""8MiB""#, "2MiB..8MiB",
        "Largest frame accepted from a client.";
    "net.produce_credit_bytes" = r#""8MiB""#, "64KiB..1GiB",
        "Produce bytes of one connection not acknowledged yet, past which its socket is not read any more.";
    "net.answer_bytes_max" = r#""1MiB""#, "4KiB..frame_bytes_max",
        "Largest answer to one fetch; a single larger batch is sent all the same.";
    "net.answer_queue_bytes_max" = r#""2MiB""#, "answer_bytes_max..1GiB",
        "Unsent fetch answers of one connection, past which its next fetch waits.";
    "net.fetch_wait_ms_max" = "60000", "0..600000",
        "Longest time that a fetch may wait for messages.";
    "net.parked_fetches_max" = "100000", "1..10000000",
        "Fetches per shard that may wait at the same time; one more is answered at once.";
    "timers.register_ms" = "5000", "100..60000",
        "Time between registrations with each nameserver.";
    "timers.presence_ms" = "10000", "1000..600000",
        "Silence after which a producer or consumer is forgotten.";
    "timers.hello_ms" = "5000", "100..60000",
        "Time for a new connection to say who it is.";
    "timers.stop_ms" = "5000", "100..600000",
        "Time for an orderly stop before open connections are cut.";
    "delay.ahead_ms_max" = "3456000000", "1000..31536000000",
        "How far ahead a delayed message may be due; 40 days.";
    "delay.messages_max" = "2000000", "1000..100000000",
        "Delayed messages of one log that may wait, about 20 bytes of memory each; past it producers are told BUSY.";
    "retry.attempts_max" = "16", "1..1000",
        "A message that a group has handed back so often becomes a dead letter, unless the consumer says another number.";
    "groups.lease_ms" = "5000", "3000..300000",
        "How long a consumer owns a queue without a heartbeat; a dead one's queues go to others after it.";
    "groups.session_ms" = "10000", "lease_ms..600000",
        "A consumer that is silent for so long is no member of its group any more.";
    "groups.rebalance_on_close" = "true", "true or false",
        "A consumer whose connection closes is no member any more, at once.";
    "groups.retention_hours" = "720", "1..87600",
        "A group without members and commits for so long is forgotten with its offsets.";
    "groups.broadcast_retention_hours" = "168", "1..87600",
        "The same for an instance of a broadcast group.";
}

/// A commented TOML file with every key at its default.
pub fn default_toml() -> String {
    let mut text = String::from("# Settings of an EQueue broker. Every key is shown with its default.\n");
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = write!(text, "\n# {}\n# Allowed: {}\n{name} = {}\n", key.doc, key.range, key.default);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{KEYS, default_toml};
    use crate::config::BrokerConfig;

    fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeSet<String>) {
        for (name, value) in table {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if name == "hazards" {
                continue; // not for people
            }
            match value {
                toml::Value::Table(inner) => flatten(&name, inner, into),
                _ => assert!(into.insert(name)),
            }
        }
    }

    #[test]
    fn the_printed_file_is_the_defaults() {
        let read: BrokerConfig = toml::from_str(&default_toml()).unwrap();
        assert_eq!(read, BrokerConfig::default());
    }

    #[test]
    fn every_key_is_documented_once() {
        let mut fields = BTreeSet::new();
        flatten("", &toml::Table::try_from(BrokerConfig::default()).unwrap(), &mut fields);
        let mut documented = BTreeSet::new();
        for key in KEYS {
            assert!(documented.insert(key.name.to_owned()), "{} is there twice", key.name);
        }
        assert_eq!(fields, documented);
    }
}
