//! Settings of connections.

use equeue_net::frame::FRAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::check::within;
use super::{ByteSize, ConfigError};

/// Limits of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// Connections of the broker.
    pub connections_max: usize,
    /// Largest frame.
    pub frame_bytes_max: ByteSize,
    /// Unacknowledged produce bytes of one connection before its socket is not read any more.
    pub produce_credit_bytes: ByteSize,
    /// Largest answer to one fetch.
    pub answer_bytes_max: ByteSize,
    /// Unsent fetch answers of one connection before its next fetch waits.
    pub answer_queue_bytes_max: ByteSize,
    /// Longest wait of a parked fetch.
    pub fetch_wait_ms_max: u32,
    /// Parked fetches per shard.
    pub parked_fetches_max: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            frame_bytes_max: ByteSize::mib(8),
            produce_credit_bytes: ByteSize::mib(8),
            answer_bytes_max: ByteSize::mib(1),
            answer_queue_bytes_max: ByteSize::mib(2),
            fetch_wait_ms_max: 60_000,
            parked_fetches_max: 100_000,
        }
    }
}

impl NetConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("net.connections_max", self.connections_max, 1, 1_000_000)?;
        within(
            "net.frame_bytes_max",
            self.frame_bytes_max,
            ByteSize::mib(2),
            ByteSize(FRAME_BYTES_MAX as u64),
        )?;
        within(
            "net.produce_credit_bytes",
            self.produce_credit_bytes,
            self.frame_bytes_max,
            ByteSize::gib(1),
        )?;
        within("net.answer_bytes_max", self.answer_bytes_max, ByteSize::kib(4), self.frame_bytes_max)?;
        within(
            "net.answer_queue_bytes_max",
            self.answer_queue_bytes_max,
            self.answer_bytes_max,
            ByteSize::gib(1),
        )?;
        within("net.fetch_wait_ms_max", self.fetch_wait_ms_max, 0, 600_000)?;
        within("net.parked_fetches_max", self.parked_fetches_max, 1, 10_000_000)
    }
}
