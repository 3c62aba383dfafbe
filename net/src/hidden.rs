//! Topics that brokers make for consumer groups: messages to be tried again, and those that were given up.
//!
//! Their names begin with `%`, which users' topics never do. Each broker has queues of its own in them, one per log; no map
//! names brokers: the route of such a topic is the queues of all live brokers, by broker and log.

use crate::limits::{NAME_BYTES_MAX, valid_name};

const RETRY: &str = "%RETRY%";
const DEAD: &str = "%DLQ%";

/// The topic of messages that a group handed back.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY}{group}")
}

/// The topic of messages that a group failed to handle for good.
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DEAD}{group}")
}

/// Whether a topic is one that brokers make.
pub fn is_hidden(topic: &str) -> bool {
    topic.starts_with('%')
}

/// The group that a hidden topic is of; `None`: no hidden topic has this name.
pub fn group_of(topic: &str) -> Option<&str> {
    let group = topic.strip_prefix(RETRY).or_else(|| topic.strip_prefix(DEAD))?;
    let (name, instance) = group.split_once('@').unwrap_or((group, group));
    (valid_name(name) && valid_name(instance) && topic.len() <= NAME_BYTES_MAX).then_some(group)
}

/// Whether a broker may have a topic of this name: a user's or a hidden one.
pub fn valid_topic(name: &str) -> bool {
    valid_name(name) || group_of(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names() {
        for group in ["billing", "prices@host-1"] {
            for topic in [retry_topic(group), dead_letter_topic(group)] {
                assert!(is_hidden(&topic) && valid_topic(&topic) && !valid_name(&topic));
                assert_eq!(group_of(&topic), Some(group));
            }
        }
        for bad in ["%RETRY%", "%DLQ%a b", "%OTHER%g", "%", "%RETRY%a@b@c", &retry_topic(&"x".repeat(249))] {
            assert!(!valid_topic(bad) && group_of(bad).is_none(), "{bad}");
        }
        assert!(!is_hidden("orders") && valid_topic("orders"));
    }
}
