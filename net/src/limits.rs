//! The longest names and lists that a header may carry, and which names are allowed.
//!
//! A decoder checks each of them before it copies anything out of the frame; a sender that keeps them is never refused
//! for them. What they bound together is bounded once more by the frame limit and the verifier's apparent size.

/// Names of topics, groups, clusters, brokers, clients: bytes on the wire. (What may be *created* is narrower:
/// [`valid_name`].)
pub const NAME_BYTES_MAX: usize = 255;
/// Names that may be given to topics, groups, clusters and brokers: bytes.
pub const VALID_NAME_BYTES_MAX: usize = 249;
/// `host:port`: bytes.
pub const ADDRESS_BYTES_MAX: usize = 262;
/// Text for a person in an answer: bytes. A sender cuts longer text.
pub const DETAIL_BYTES_MAX: usize = 1024;
/// Batches in one Produce request.
pub const PRODUCE_ITEMS_MAX: usize = 4096;
/// Queues in one Fetch request.
pub const FETCH_ITEMS_MAX: usize = 4096;
/// Tag hashes in one Fetch request, over all its queues.
pub const TAG_HASHES_MAX: usize = 8192;
/// Queues in one request about offsets.
pub const OFFSET_ITEMS_MAX: usize = 16_384;
/// Topics that one member of a group subscribes to.
pub const SUBSCRIPTIONS_MAX: usize = 256;
/// Tags of one subscription.
pub const SUBSCRIPTION_TAGS_MAX: usize = 64;
/// Members of one group.
pub const GROUP_MEMBERS_MAX: usize = 1024;
/// Queues of the members' shares of one group, together.
pub const GROUP_SHARES_MAX: usize = 65_536;
/// Groups that one broker knows.
pub const GROUPS_MAX: usize = 16_384;
/// Queues of all topics of one group on one broker, as described.
pub const GROUP_QUEUES_MAX: usize = 100_000;
/// Messages handed back in one request.
pub const HAND_BACK_ITEMS_MAX: usize = 1024;
/// Why a message is handed back: bytes. A sender cuts longer text.
pub const REASON_BYTES_MAX: usize = 256;
/// Clients of one broker, as listed.
pub const CLIENTS_MAX: usize = 65_536;
/// Counters of one broker.
pub const COUNTERS_MAX: usize = 1024;
/// Topics in one request or answer: what a broker or a nameserver may hold.
pub const TOPICS_MAX: usize = 16_384;
/// Queues of one topic.
pub const TOPIC_QUEUES_MAX: usize = 16_384;
/// Brokers in one answer: what a nameserver may hold.
pub const BROKERS_MAX: usize = 4096;
/// Logs of one broker.
pub const LOGS_MAX: usize = 4096;
/// Ways to authenticate that a server may name.
pub const MECHANISMS_MAX: usize = 16;

/// Whether topics, groups, clusters and brokers may bear this name: `[A-Za-z0-9._-]{1,249}`, but not `.` or `..`.
///
/// Such a name needs no quoting in a URL, a metric, a shell or a file name.
pub fn valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=VALID_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && name != "."
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "Orders.v2", "a_b-c.9", "...", &"x".repeat(249)] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\n", "%RETRY%g", &"x".repeat(250)] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
