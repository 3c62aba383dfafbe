//! `[groups]`: consumer groups.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{refuse, within};

/// Consumer groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupsConfig {
    /// How long a grant lasts without a heartbeat.
    pub lease_ms: u64,
    /// A member that is silent for so long is none any more.
    pub session_ms: u64,
    /// A member whose connection closes is none any more, at once. Its grants last as long as their leases.
    pub rebalance_on_close: bool,
    /// A group without members and commits for so long is forgotten.
    pub retention_hours: u64,
    /// The same for an instance of a broadcast group (`group@instance`).
    pub broadcast_retention_hours: u64,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            lease_ms: 5_000,
            session_ms: 10_000,
            rebalance_on_close: true,
            retention_hours: 30 * 24,
            broadcast_retention_hours: 7 * 24,
        }
    }
}

impl GroupsConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // A member beats once a second, and gives up the last second of its lease.
        within("groups.lease_ms", self.lease_ms, 3_000, 300_000)?;
        within("groups.session_ms", self.session_ms, 2_000, 600_000)?;
        if self.session_ms < self.lease_ms {
            let expected = format!("it must be at least groups.lease_ms ({})", self.lease_ms);
            return Err(refuse("groups.session_ms", self.session_ms, expected));
        }
        within("groups.retention_hours", self.retention_hours, 1, 10 * 365 * 24)?;
        within("groups.broadcast_retention_hours", self.broadcast_retention_hours, 1, 10 * 365 * 24)
    }

    /// How long a group without members is kept, ms.
    pub fn retention_ms(&self, group: &str) -> i64 {
        let hours = if group.contains('@') { self.broadcast_retention_hours } else { self.retention_hours };
        i64::try_from(hours * 3_600_000).unwrap_or(i64::MAX)
    }
}
