//! The broker's figures as metrics: read from the shards when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::broker::{Broker, Phase};
use crate::config::{StorageMode, SyncPolicy};
use crate::process;
use crate::stats::{BUCKETS_US, Figure, Histogram, LogStats, ShardStats};

/// The registry.
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BrokerCollector { broker }));
        Self { registry }
    }

    /// The text that Prometheus reads.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[derive(Debug)]
struct BrokerCollector {
    broker: Arc<Broker>,
}

/// A metric of each shard: name, help, which figure.
type ShardRow = (&'static str, &'static str, fn(&ShardStats) -> &Figure);
/// A metric of each log.
type LogRow = (&'static str, &'static str, fn(&LogStats) -> &Figure);

/// A histogram of each log.
type HistogramRow = (&'static str, &'static str, fn(&LogStats) -> &Histogram);

/// Only grow. `_total` is added by the encoder.
const SHARD_COUNTERS: &[ShardRow] = &[
    ("equeue_messages_produced", "Messages appended", |s| &s.messages_produced),
    ("equeue_bytes_produced", "Bytes of batches appended", |s| &s.bytes_produced),
    ("equeue_batches_produced", "Batches appended", |s| &s.batches_produced),
    ("equeue_produce_requests", "Produce requests", |s| &s.produce_requests),
    ("equeue_batches_duplicate", "Batches that were stored before", |s| &s.batches_duplicate),
    ("equeue_batches_refused", "Batches refused", |s| &s.batches_refused),
    ("equeue_one_way_batches_dropped", "One-way batches that could not be stored", |s| &s.one_way_dropped),
    (
        "equeue_produce_waits",
        "Times that a connection was not read because its shard had too much unanswered",
        |s| &s.produce_waits,
    ),
    ("equeue_fetch_requests", "Fetch requests", |s| &s.fetch_requests),
    ("equeue_bytes_fetched", "Bytes of batches sent to consumers", |s| &s.bytes_fetched),
    ("equeue_bytes_filtered", "Bytes of batches left out by tag filters", |s| &s.bytes_filtered),
    ("equeue_fetches_slow", "Fetches that waited for the disk or for room in their connection", |s| {
        &s.fetches_cold
    }),
    ("equeue_fetches_woken", "Parked fetches woken by messages", |s| &s.fetches_woken),
    ("equeue_fetches_expired", "Parked fetches whose time was over", |s| &s.fetches_expired),
    ("equeue_offsets_committed", "Offsets committed by groups", |s| &s.offsets_committed),
    ("equeue_delayed_accepted", "Messages taken to be delivered later", |s| &s.delayed_accepted),
    ("equeue_delayed_delivered", "Delayed messages delivered", |s| &s.delayed_delivered),
    ("equeue_delayed_cancelled", "Delayed messages cancelled", |s| &s.delayed_cancelled),
    ("equeue_delayed_stuck", "Delayed messages that could not be read or delivered", |s| &s.delayed_stuck),
    ("equeue_handed_back", "Messages that groups handed back", |s| &s.handed_back),
    ("equeue_dead_letters", "Messages that became dead letters", |s| &s.dead_letters),
    ("equeue_grants", "Queues granted to members of groups", |s| &s.grants),
    ("equeue_stale_epochs", "Commits, releases and fetches refused because of their epoch", |s| {
        &s.stale_epochs
    }),
    ("equeue_shard_stalls", "Times that a shard stood still and leases were extended", |s| &s.stalls),
    ("equeue_connections_opened", "Connections served", |s| &s.connections_opened),
    ("equeue_protocol_errors", "Connections closed because of what they sent", |s| &s.protocol_errors),
    ("equeue_requests_forwarded", "Requests sent on to another shard", |s| &s.requests_forwarded),
    ("equeue_forwards_refused", "Requests answered BUSY because another shard had too much to do", |s| {
        &s.forwards_refused
    }),
];

/// Go up and down.
const SHARD_GAUGES: &[ShardRow] = &[
    ("equeue_fetches_parked", "Fetches that wait for messages", |s| &s.fetches_parked),
    ("equeue_connections", "Open connections", |s| &s.connections),
    ("equeue_producers", "Live producers", |s| &s.producers),
    ("equeue_consumers", "Live consumers", |s| &s.consumers),
    ("equeue_groups", "Consumer groups with an offset or a grant here", |s| &s.groups),
    (
        "equeue_group_queues_unowned",
        "Queues that nobody owns for three rebalance intervals though the group is there",
        |s| &s.queues_unowned,
    ),
    (
        "equeue_groups_expiring",
        "Groups without members that are forgotten within a tenth of their time",
        |s| &s.groups_expiring,
    ),
];

const LOG_COUNTERS: &[LogRow] = &[
    ("equeue_log_flushes", "Flushes that became durable", |l| &l.flushes),
    ("equeue_log_written_bytes", "Bytes written, headers and padding counted", |l| &l.written_bytes),
    ("equeue_log_padding_bytes", "Bytes of padding written", |l| &l.padding_bytes),
    ("equeue_log_flush_microseconds", "Time spent in flushes, from write to synced", |l| &l.flush_us),
    ("equeue_log_segments_late", "Segments that were not prepared in time", |l| &l.segments_late),
    ("equeue_log_snapshots", "Snapshots completed", |l| &l.snapshots),
    ("equeue_log_disk_reads", "Windows read from disk", |l| &l.disk_reads),
    ("equeue_log_segments_retired", "Segments deleted by retention", |l| &l.segments_retired),
    ("equeue_log_segments_recycled", "Retired segments used again", |l| &l.segments_recycled),
    ("equeue_log_unconsumed_deleted", "Messages deleted that a group had still to consume", |l| {
        &l.unconsumed_deleted
    }),
    (
        "equeue_log_unconsumed_near",
        "Messages that came near the end of their retention while a group had still to consume them",
        |l| &l.unconsumed_near,
    ),
    ("equeue_log_offsets_skipped", "Offsets that readers were led past: a repair gave them up", |l| {
        &l.offsets_skipped
    }),
    ("equeue_scrub_bytes", "Bytes of sealed segments read again and checked", |l| &l.scrubbed_bytes),
    ("equeue_scrub_passes", "Times that all sealed segments were checked", |l| &l.scrub_passes),
    ("equeue_scrub_errors", "Sealed segments that the device could not read", |l| &l.scrub_errors),
    ("equeue_cache_hits", "Reads answered by the cache", |l| &l.cache_hits),
    ("equeue_cache_misses", "Reads that needed the disk", |l| &l.cache_misses),
];

const LOG_GAUGES: &[LogRow] = &[
    ("equeue_log_start_position_bytes", "First position that is kept", |l| &l.start_position),
    ("equeue_log_durable_position_bytes", "End of what is durable", |l| &l.durable_position),
    ("equeue_delayed_messages", "Delayed messages that wait", |l| &l.delayed),
    ("equeue_scrub_last_pass_milliseconds", "When all sealed segments were last checked, UTC", |l| {
        &l.scrub_last_pass_ms
    }),
    ("equeue_scrub_damaged_segments", "Damaged segments that the last check found", |l| &l.scrub_damaged),
    ("equeue_log_pending_bytes", "Bytes that wait for a flush", |l| &l.pending_bytes),
    ("equeue_log_disk_full", "1: producers are refused for want of space", |l| &l.disk_full),
    ("equeue_log_stored_bytes", "Bytes on disk, prepared segments counted", |l| &l.stored_bytes),
    ("equeue_log_segments", "Segments with messages", |l| &l.segments),
    (
        "equeue_log_retention_blocked",
        "1: the oldest segment stays because a group has not consumed it",
        |l| &l.retention_blocked,
    ),
    ("equeue_log_clock_jumped", "1: the clock jumped, so that nothing is deleted by its age", |l| {
        &l.clock_jumped
    }),
    ("equeue_log_failed", "1: a write or sync failed; restart the broker", |l| &l.failed),
];

/// Every figure of the shards by name, summed over shards and logs.
pub(crate) fn totals(broker: &Broker) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let of_shards = SHARD_COUNTERS
        .iter()
        .chain(SHARD_GAUGES)
        .map(|(name, _, figure)| (*name, broker.stats.iter().map(|stats| figure(stats).get()).sum()));
    let of_logs = LOG_COUNTERS.iter().chain(LOG_GAUGES).map(|(name, _, figure)| {
        (*name, broker.stats.iter().flat_map(|stats| &stats.logs).map(|log| figure(log).get()).sum())
    });
    of_shards.chain(of_logs)
}

/// How long something took, by log.
const LOG_HISTOGRAMS: &[HistogramRow] = &[
    ("equeue_durable_wait_seconds", "From the arrival of a Produce request to its durability", |l| {
        &l.durable_wait
    }),
    (
        "equeue_delay_late_seconds",
        "From when a delayed message was due to the append that delivered it",
        |l| &l.delay_late,
    ),
];

impl Collector for BrokerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for row in SHARD_COUNTERS {
            self.shard_row(&mut encoder, row, MetricType::Counter)?;
        }
        for row in SHARD_GAUGES {
            self.shard_row(&mut encoder, row, MetricType::Gauge)?;
        }
        for row in LOG_COUNTERS {
            self.log_row(&mut encoder, row, MetricType::Counter)?;
        }
        for row in LOG_GAUGES {
            self.log_row(&mut encoder, row, MetricType::Gauge)?;
        }
        self.histograms(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl BrokerCollector {
    /// Each log with its number and figures.
    fn logs(&self) -> impl Iterator<Item = (String, &LogStats)> {
        let shards = self.broker.shards;
        (0_u16..).zip(&self.broker.stats).flat_map(move |(shard, stats)| {
            (0_u16..).zip(&stats.logs).map(move |(place, log)| ((place * shards + shard).to_string(), log))
        })
    }

    fn shard_row(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        row: &ShardRow,
        kind: MetricType,
    ) -> fmt::Result {
        let (name, help, figure) = row;
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (shard, stats) in self.broker.stats.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            encode_number(metric.encode_family(&labels)?, kind, figure(stats).get())?;
        }
        Ok(())
    }

    fn log_row(&self, encoder: &mut DescriptorEncoder<'_>, row: &LogRow, kind: MetricType) -> fmt::Result {
        let (name, help, figure) = row;
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (log, stats) in self.logs() {
            let labels = [("log", log)];
            encode_number(metric.encode_family(&labels)?, kind, figure(stats).get())?;
        }
        Ok(())
    }

    fn histograms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, which) in LOG_HISTOGRAMS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (log, stats) in self.logs() {
                let (counts, sum_us) = which(stats).read();
                let bounds = BUCKETS_US.iter().map(|us| seconds(*us)).chain([f64::MAX]);
                let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
                let labels = [("log", log)];
                let mut family = metric.encode_family(&labels)?;
                family.encode_histogram::<[(&str, &str); 0]>(
                    seconds(sum_us),
                    counts.iter().sum(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let usage = process::usage();
        let storage = &self.broker.config.storage;
        let in_memory = u64::from(storage.mode == StorageMode::Memory);
        let interval = if storage.sync == SyncPolicy::Interval { storage.sync_interval_ms } else { 0 };
        let ready = u64::from(self.broker.phase() == Phase::Ready && !self.broker.is_poisoned());
        let gauges = [
            ("equeue_ready", "1: the broker serves", ready),
            ("equeue_storage_in_memory", "1: messages are kept in memory only", in_memory),
            (
                "equeue_storage_sync_interval_ms",
                "0: synced before acknowledged; else the time it may take",
                interval,
            ),
            ("equeue_process_resident_memory_bytes", "Resident memory of the process", usage.resident_bytes),
            ("equeue_process_open_descriptors", "Open descriptors of the process", usage.descriptors),
        ];
        for (name, help, value) in gauges {
            encode_number(
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?,
                MetricType::Gauge,
                value,
            )?;
        }
        let cpu = ConstCounter::new(seconds(usage.cpu_us));
        cpu.encode(encoder.encode_descriptor(
            "equeue_process_cpu_seconds",
            "CPU time of the process, user and system",
            None,
            MetricType::Counter,
        )?)
    }
}

fn encode_number(
    encoder: prometheus_client::encoding::MetricEncoder<'_>,
    kind: MetricType,
    value: u64,
) -> Result<(), fmt::Error> {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of more than 285 years are not met")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
