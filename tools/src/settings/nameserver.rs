//! What each setting of a nameserver means and what is allowed there.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use equeue_nameserver::NameserverConfig;
use equeue_net::limits;
use serde_json::Value;

/// One key.
struct Key {
    name: &'static str,
    /// For numbers.
    range: Option<RangeInclusive<u64>>,
    meaning: &'static str,
}

fn keys() -> [Key; 8] {
    let key = |name, range, meaning| Key { name, range, meaning };
    [
        key("name", None, "Name for people, in logs."),
        key("listen", None, "Where brokers and clients connect to, host:port; port 0: any free one."),
        key(
            "broker_timeout_ms",
            Some(2_000..=600_000),
            "A broker that is silent for so long is dropped. Brokers register every 5 s.",
        ),
        key(
            "settle_ms",
            Some(0..=60_000),
            "For so long after the start routes are answered with NOT_READY while no broker has registered: an empty \
             nameserver knows nothing yet, which is not the same as \"no such topic\".",
        ),
        key("connections_max", Some(1..=1_000_000), "Connections open at once; one more is closed."),
        key("brokers_max", Some(1..=limits::BROKERS_MAX as u64), "Brokers over all clusters."),
        key("topics_max", Some(1..=limits::TOPICS_MAX as u64), "Topics of one broker."),
        key("queues_max", Some(1..=100_000_000), "Queues over all brokers."),
    ]
}

/// A commented file with every key at its default.
pub(super) fn document() -> String {
    let defaults = serde_json::to_value(NameserverConfig::default()).unwrap_or_default();
    let mut text = String::from("# Settings of an EQueue nameserver. Every key is shown with its default.\n");
    for key in keys() {
        let _ = write!(text, "\n# {}\n", key.meaning);
        if let Some(range) = &key.range {
            let _ = writeln!(text, "# Allowed: {}..{}", range.start(), range.end());
        }
        // Numbers and plain texts are written alike in JSON and TOML.
        let _ = writeln!(text, "{} = {}", key.name, defaults.get(key.name).unwrap_or(&Value::Null));
    }
    text
}

/// Checks the ranges.
pub(super) fn check(config: &NameserverConfig) -> Result<(), String> {
    let given = serde_json::to_value(config).map_err(|error| error.to_string())?;
    for key in keys() {
        let Some(range) = key.range else { continue };
        let value = given.get(key.name).and_then(Value::as_u64).unwrap_or_default();
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            return Err(format!("setting `{}` is {value}: it must be within {low}..{high}", key.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented_and_in_range() {
        let defaults = serde_json::to_value(NameserverConfig::default()).unwrap();
        let mut known: Vec<&String> = defaults.as_object().unwrap().keys().collect();
        known.sort_unstable();
        let mut documented: Vec<&str> = keys().iter().map(|key| key.name).collect();
        documented.sort_unstable();
        assert_eq!(known, documented);
        check(&NameserverConfig::default()).unwrap();
        let read: NameserverConfig = toml::from_str(&document()).unwrap();
        assert_eq!(read, NameserverConfig::default());
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let said =
            check(&NameserverConfig { broker_timeout_ms: 5, ..NameserverConfig::default() }).unwrap_err();
        assert!(said.contains("broker_timeout_ms") && said.contains("2000"), "{said}");
    }
}
