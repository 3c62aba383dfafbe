//! From settings to the policy of one log. Pure.

use equeue_net::api::TopicRetention;
use equeue_storage::retention::RetentionPolicy;

use crate::bootstrap::SEGMENTS_IN_MEMORY;
use crate::config::{BrokerConfig, RetentionConfig, StorageMode};

/// The policy of each of `logs` logs. Limits of the broker are shared out; `topics` are the ages of the topics
/// with queues in the log: it keeps its segments as long as the most patient of them asks.
pub(crate) fn log_policy(
    config: &BrokerConfig,
    logs: u16,
    topics: impl IntoIterator<Item = TopicRetention>,
) -> RetentionPolicy {
    let policy = policy_of(&config.retention, logs, topics);
    if config.storage.mode == StorageMode::Disk {
        return policy;
    }
    // Memory is bounded before anything else; the space of two segments is left for what is prepared.
    let bytes = config.memory_bytes_per_log(logs);
    RetentionPolicy {
        bytes_max: Some(bytes / SEGMENTS_IN_MEMORY * (SEGMENTS_IN_MEMORY - 2)),
        disk_free_min: 1,
        delete_unconsumed: true,
        ..policy
    }
}

fn policy_of(
    config: &RetentionConfig,
    logs: u16,
    topics: impl IntoIterator<Item = TopicRetention>,
) -> RetentionPolicy {
    let for_ever = |ms: u64| if ms == 0 { u64::MAX } else { ms };
    let age_of = |topic| match topic {
        TopicRetention::Broker => for_ever(config.age.0),
        TopicRetention::Ms(ms) => for_ever(ms),
    };
    let age_ms = topics.into_iter().map(age_of).max().unwrap_or_else(|| for_ever(config.age.0));
    let bytes = config.bytes.0 / u64::from(logs.max(1));
    RetentionPolicy {
        age_ms: i64::try_from(age_ms).ok(),
        bytes_max: (config.bytes.0 > 0).then_some(bytes),
        segments_max: (config.segments > 0).then_some(config.segments),
        disk_free_min: config.disk_free_min.0,
        delete_unconsumed: config.delete_unconsumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Span};

    #[test]
    fn what_is_zero_is_off_and_bytes_are_shared_out() {
        let config = RetentionConfig::default();
        let policy = policy_of(&config, 4, []);
        assert_eq!(policy, RetentionPolicy::default());
        let config = RetentionConfig { age: Span(0), bytes: ByteSize::gib(4), segments: 7, ..config };
        let policy = policy_of(&config, 4, [TopicRetention::Ms(5), TopicRetention::Broker]);
        assert_eq!((policy.age_ms, policy.bytes_max, policy.segments_max), (None, Some(1 << 30), Some(7)));
    }

    #[test]
    fn the_most_patient_topic_decides() {
        let config = RetentionConfig { age: Span::days(7), ..RetentionConfig::default() };
        let own = |days: u64| TopicRetention::Ms(Span::days(days).0);
        let age = |topics: &[TopicRetention]| policy_of(&config, 1, topics.iter().copied()).age_ms;
        assert_eq!(age(&[]), Some(Span::days(7).as_ms()));
        assert_eq!(age(&[own(3)]), Some(Span::days(3).as_ms()));
        assert_eq!(age(&[own(3), TopicRetention::Broker]), Some(Span::days(7).as_ms()));
        assert_eq!(age(&[own(3), own(30), TopicRetention::Broker]), Some(Span::days(30).as_ms()));
        assert_eq!(age(&[own(3), own(0)]), None);
    }
}
