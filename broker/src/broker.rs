//! What all shards of one broker know: fixed at start, or a flag that anyone may read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use equeue_net::api::{AckLevel, BrokerEntry, BrokerRole};

use crate::catalog::Owner;
use crate::config::{BrokerConfig, StorageMode, SyncPolicy};
use crate::stats::ShardStats;

/// Where the broker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Shards are opening their logs.
    Starting = 0,
    /// All shards serve.
    Ready = 1,
    /// An orderly stop was asked for.
    Stopping = 2,
}

/// Facts of one broker.
#[derive(Debug)]
pub struct Broker {
    /// The settings, checked.
    pub config: BrokerConfig,
    /// Number of the broker's group.
    pub group: u32,
    /// When the data directory was created, ms UTC.
    pub created_ms: i64,
    /// Number of logs.
    pub logs: u16,
    /// Number of shards.
    pub shards: u16,
    /// Random for this start.
    pub incarnation: u128,
    /// `host:port` that clients are told.
    pub address: String,
    /// `host:port` of metrics; empty: none.
    pub http_address: String,
    /// Largest batch that a log stores, bytes.
    pub batch_bytes_max: usize,
    /// Figures, by shard.
    pub stats: Vec<Arc<ShardStats>>,
    phase: AtomicU8,
    /// Bit 0: a log failed. Bit 1: log 0 did.
    failed: AtomicU8,
}

const A_LOG_FAILED: u8 = 1;
const LOG_0_FAILED: u8 = 2;

/// What is decided before the shards start.
#[derive(Debug)]
pub(crate) struct BrokerFacts {
    pub(crate) config: BrokerConfig,
    pub(crate) group: u32,
    pub(crate) created_ms: i64,
    pub(crate) logs: u16,
    pub(crate) address: String,
    pub(crate) http_address: String,
    pub(crate) batch_bytes_max: usize,
}

impl Broker {
    /// What an acknowledgement that was asked for at `level` means here at the most.
    pub(crate) fn level_reached(&self, level: AckLevel) -> AckLevel {
        let storage = &self.config.storage;
        if storage.mode == StorageMode::Memory || storage.sync == SyncPolicy::Interval {
            AckLevel::Memory
        } else {
            level
        }
    }

    pub(crate) fn new(facts: BrokerFacts) -> Self {
        let shards = facts.config.shard_count();
        let logs_of = |shard: u16| usize::from((facts.logs + shards - 1 - shard) / shards);
        Self {
            stats: (0..shards).map(|shard| Arc::new(ShardStats::new(logs_of(shard)))).collect(),
            config: facts.config,
            group: facts.group,
            created_ms: facts.created_ms,
            logs: facts.logs,
            shards,
            incarnation: uuid::Uuid::new_v4().as_u128(),
            address: facts.address,
            http_address: facts.http_address,
            batch_bytes_max: facts.batch_bytes_max,
            phase: AtomicU8::new(Phase::Starting as u8),
            failed: AtomicU8::new(0),
        }
    }

    /// Where the broker is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// A log of this broker failed a write or sync.
    pub fn is_poisoned(&self) -> bool {
        self.failed.load(Ordering::Relaxed) != 0
    }

    /// Log 0 failed, so no shard takes writes any more.
    pub fn writes_stopped(&self) -> bool {
        self.failed.load(Ordering::Relaxed) & LOG_0_FAILED != 0
    }

    pub(crate) fn log_failed(&self, log: u16) {
        let bits = if log == 0 { A_LOG_FAILED | LOG_0_FAILED } else { A_LOG_FAILED };
        self.failed.fetch_or(bits, Ordering::Relaxed);
    }

    /// As the cluster sees it.
    pub fn entry(&self) -> BrokerEntry {
        BrokerEntry {
            cluster: self.config.cluster.clone(),
            name: self.config.name.clone(),
            group: self.group,
            role: BrokerRole::Master,
            master_epoch: 0,
            address: self.address.clone(),
            http_address: self.http_address.clone(),
            shards: self.shards,
            incarnation: self.incarnation,
            created_ms: self.created_ms,
        }
    }

    /// As the catalog's rules see it.
    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner {
            broker: &self.config.name,
            group: self.group,
            logs: self.logs,
            default_queues: self.config.default_queues,
            auto_create: self.config.auto_create_topics,
        }
    }

    /// Time between registrations.
    pub(crate) fn register_every(&self) -> Duration {
        Duration::from_millis(self.config.timers.register_ms)
    }
}
