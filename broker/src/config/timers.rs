//! Settings of intervals and deadlines.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::within;

/// Intervals and deadlines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimerConfig {
    /// Time between registrations with each nameserver.
    pub register_ms: u64,
    /// Silence after which a producer or consumer is forgotten.
    pub presence_ms: u64,
    /// Time for a connection to say who it is.
    pub hello_ms: u64,
    /// Time for an orderly stop before open connections are cut.
    pub stop_ms: u64,
}

impl Default for TimerConfig {
    fn default() -> Self {
        Self { register_ms: 5_000, presence_ms: 10_000, hello_ms: 5_000, stop_ms: 5_000 }
    }
}

impl TimerConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("timers.register_ms", self.register_ms, 100, 60_000)?;
        within("timers.presence_ms", self.presence_ms, 1_000, 600_000)?;
        within("timers.hello_ms", self.hello_ms, 100, 60_000)?;
        within("timers.stop_ms", self.stop_ms, 100, 600_000)
    }
}
