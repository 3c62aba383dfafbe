//! A topic of a consumer, and which of its messages are wanted.

use std::sync::Arc;

use equeue_record::tag_hash;

/// See the module.
#[derive(Debug)]
pub(crate) struct TopicFilter {
    /// Its name.
    pub name: Arc<str>,
    /// The tags wanted; none: all messages.
    pub tags: Vec<String>,
    /// Their hashes, for the broker.
    pub hashes: Vec<u32>,
}

impl TopicFilter {
    /// With these tags; `*` among them means all messages.
    pub(crate) fn new(name: &str, mut tags: Vec<String>) -> Self {
        if tags.iter().any(|tag| tag == "*") {
            tags.clear();
        }
        let mut hashes: Vec<u32> = tags.iter().map(|tag| tag_hash(tag)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self { name: name.into(), tags, hashes }
    }

    /// Whether a message with this tag is wanted: the broker's hashes let some others through.
    pub(crate) fn wants(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|wanted| wanted == tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked_exactly() {
        let all = TopicFilter::new("t", Vec::new());
        assert!(all.wants(None) && all.wants(Some("a")));
        let some = TopicFilter::new("t", vec!["a".into(), "b".into(), "a".into()]);
        assert_eq!(some.hashes.len(), 2);
        assert!(some.wants(Some("b")) && !some.wants(Some("c")) && !some.wants(None));
        let star = TopicFilter::new("t", vec!["a".into(), "*".into()]);
        assert!(star.hashes.is_empty() && star.wants(None));
    }
}
