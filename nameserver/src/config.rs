//! The settings of a nameserver.

use serde::{Deserialize, Serialize};

/// Settings; each has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NameserverConfig {
    /// Name for people.
    pub name: String,
    /// `host:port` to listen on; port 0: one that the system chooses.
    pub listen: String,
    /// A broker that is silent for so long is dropped. Brokers register every 5 s.
    pub broker_timeout_ms: u64,
    /// For so long after the start, routes are answered with `NOT_READY` while no broker has registered: an empty
    /// nameserver knows nothing yet, which is not the same as "no such topic".
    pub settle_ms: u64,
    /// Connections open at once.
    pub connections_max: usize,
    /// Brokers over all clusters.
    pub brokers_max: usize,
    /// Topics of one broker.
    pub topics_max: usize,
    /// Queues over all brokers.
    pub queues_max: usize,
}

impl Default for NameserverConfig {
    fn default() -> Self {
        Self {
            name: "nameserver".to_owned(),
            listen: "127.0.0.1:9493".to_owned(),
            broker_timeout_ms: 10_000,
            settle_ms: 6_000,
            connections_max: 10_000,
            brokers_max: 1_000,
            topics_max: 10_000,
            queues_max: 1_000_000,
        }
    }
}
