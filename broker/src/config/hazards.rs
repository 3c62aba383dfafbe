//! Mechanisms of the log that a test switches off, to show that it can fail. Never for production.
//!
//! The section `[hazards]` is read like any other and is left out of [`super::KEYS`], and so of the printed file.

use equeue_storage::log::Hazards;
use serde::{Deserialize, Serialize};

/// One switch per mechanism; all off is the only safe value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct HazardConfig {
    /// Acknowledge without syncing.
    pub no_sync: bool,
    /// Do not sync the active segment before recovery decides where it ends.
    pub no_recovery_sync: bool,
    /// Go on in the next segment before the last one is sealed and synced.
    pub no_roll_barrier: bool,
    /// Take the first invalid flush as the end without looking for evidence behind it.
    pub no_evidence: bool,
    /// Do not check checksums in recovery.
    pub no_crc: bool,
    /// Do not sync the directory after renames.
    pub no_dir_sync: bool,
    /// Answer a duplicate before its original is durable.
    pub early_duplicate: bool,
    /// Serve reads past the durable end.
    pub no_high_watermark: bool,
    /// Take commits, releases and fetches under any grant.
    pub no_grant_epoch: bool,
}

impl HazardConfig {
    /// Whether any mechanism is switched off.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl From<HazardConfig> for Hazards {
    fn from(config: HazardConfig) -> Self {
        let HazardConfig {
            no_sync,
            no_recovery_sync,
            no_roll_barrier,
            no_evidence,
            no_crc,
            no_dir_sync,
            early_duplicate,
            no_high_watermark,
            no_grant_epoch: _, // the broker's own
        } = config;
        Self {
            no_sync,
            no_recovery_sync,
            no_roll_barrier,
            no_evidence,
            no_crc,
            no_dir_sync,
            early_duplicate,
            no_high_watermark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HazardConfig;
    use crate::config::{BrokerConfig, default_toml};

    #[test]
    fn the_switches_are_read_but_not_offered() {
        let read: BrokerConfig = toml::from_str("[hazards]\nno_sync = true").unwrap();
        assert_eq!(read.hazards, HazardConfig { no_sync: true, ..HazardConfig::default() });
        assert!(read.hazards.any() && !BrokerConfig::default().hazards.any());
        assert!(equeue_storage::log::Hazards::from(read.hazards).no_sync);
        assert!(!default_toml().contains("hazards"));
        assert!(toml::from_str::<BrokerConfig>("[hazards]\nno_synk = true").is_err());
    }
}
