//! Settings of what is delivered later, or again.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::within;

/// Delayed messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelayConfig {
    /// How far ahead a message may be due.
    pub ahead_ms_max: i64,
    /// Messages of one log that may wait.
    pub messages_max: u64,
}

/// Messages that consumers could not handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// A message that was handed back so often becomes a dead letter.
    pub attempts_max: u32,
}

impl Default for DelayConfig {
    fn default() -> Self {
        Self { ahead_ms_max: 40 * 24 * 3600 * 1000, messages_max: 2_000_000 }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts_max: 16 }
    }
}

impl DelayConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("delay.ahead_ms_max", self.ahead_ms_max, 1_000, 365 * 24 * 3600 * 1000)?;
        within("delay.messages_max", self.messages_max, 1_000, 100_000_000)
    }
}

impl RetryConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("retry.attempts_max", self.attempts_max, 1, 1_000)
    }
}
