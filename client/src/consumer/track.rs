//! One queue that a consumer reads: where it lives and how far each stage has come.
//!
//! Stages, each at or behind the one before it: fetched, delivered (handed to the application), handled (may be
//! committed), committed (durable on the broker).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use equeue_record::{Offset, QueueKey, tag_hash};

use super::progress::Progress;

/// A topic of a consumer, and which of its messages are wanted.
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
    /// With these tags.
    pub(crate) fn new(name: &str, tags: Vec<String>) -> Self {
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

/// Where a queue lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// Name of its broker.
    pub broker: Arc<str>,
    /// Shard that serves it.
    pub shard: u16,
    /// Its key.
    pub key: QueueKey,
}

/// A queue being read. It may move to another shard; a queue made anew (another key) gets a new track.
#[derive(Debug)]
pub(crate) struct Track {
    /// Its topic.
    pub topic: Arc<TopicFilter>,
    /// Its number in the topic.
    pub ordinal: u32,
    home: ArcSwap<Home>,
    /// Grant under which it is read; 0: none is asked for.
    pub grant_epoch: u32,
    /// Check of the cluster's name.
    pub cluster_check: u16,
    fetched: AtomicU64,
    delivered: AtomicU64,
    handled: AtomicU64,
    committed: AtomicU64,
    progress: Mutex<Progress>,
}

impl Track {
    /// A queue that is read from `start` on; `committed` is what the broker has.
    pub(crate) fn new(
        topic: Arc<TopicFilter>,
        ordinal: u32,
        home: Home,
        start: Offset,
        committed: Option<Offset>,
        cluster_check: u16,
    ) -> Self {
        let mut progress = Progress::default();
        progress.skip_to(start);
        Self {
            topic,
            ordinal,
            home: ArcSwap::from_pointee(home),
            grant_epoch: 0,
            cluster_check,
            fetched: AtomicU64::new(start.0),
            delivered: AtomicU64::new(start.0),
            handled: AtomicU64::new(start.0),
            // Without a committed offset even the start is worth a commit: it pins `StartAt`.
            committed: AtomicU64::new(committed.map_or(u64::MAX, |committed| committed.0)),
            progress: Mutex::new(progress),
        }
    }

    /// Where it lives.
    pub(crate) fn home(&self) -> Arc<Home> {
        self.home.load_full()
    }

    /// It lives elsewhere now.
    pub(crate) fn set_home(&self, home: Home) {
        self.home.store(Arc::new(home));
    }

    /// Next offset to fetch.
    pub(crate) fn fetched(&self) -> Offset {
        Offset(self.fetched.load(Ordering::Acquire))
    }

    /// Goes on fetching here.
    pub(crate) fn set_fetched(&self, next: Offset) {
        self.fetched.store(next.0, Ordering::Release);
    }

    /// Next offset to deliver.
    pub(crate) fn delivered(&self) -> Offset {
        Offset(self.delivered.load(Ordering::Acquire))
    }

    /// Everything before `next` was delivered.
    pub(crate) fn set_delivered(&self, next: Offset) {
        self.delivered.store(next.0, Ordering::Release);
    }

    /// The queue ends before what was read of it: everything begins anew at `next`.
    pub(crate) fn rewind(&self, next: Offset) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Progress::default();
        progress.skip_to(next);
        self.delivered.store(next.0, Ordering::Release);
        self.handled.store(next.0, Ordering::Release);
    }

    /// Everything before may be committed.
    pub(crate) fn handled(&self) -> Offset {
        Offset(self.handled.load(Ordering::Acquire))
    }

    /// Everything delivered so far is handled.
    pub(crate) fn handle_delivered(&self) {
        let delivered = self.delivered();
        self.with_progress(|progress| progress.skip_to(delivered));
    }

    /// Changes the progress of the handlers.
    pub(crate) fn with_progress(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut progress);
        self.handled.fetch_max(progress.handled().0, Ordering::AcqRel);
    }

    /// What is to be committed, if there is something.
    pub(crate) fn to_commit(&self) -> Option<Offset> {
        let committed = self.committed.load(Ordering::Acquire);
        let handled = self.handled();
        (committed == u64::MAX || handled.0 > committed).then_some(handled)
    }

    /// The broker has committed it.
    pub(crate) fn set_committed(&self, committed: Offset) {
        self.committed.store(committed.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(committed: Option<u64>) -> Track {
        let topic = Arc::new(TopicFilter::new("t", Vec::new()));
        let home = Home { broker: "b".into(), shard: 0, key: QueueKey(1) };
        Track::new(topic, 0, home, Offset(10), committed.map(Offset), 0)
    }

    #[test]
    fn only_handled_messages_are_committed() {
        let track = track(Some(10));
        assert_eq!(track.to_commit(), None);
        track.set_delivered(Offset(15));
        assert_eq!(track.to_commit(), None);
        track.handle_delivered();
        assert_eq!(track.to_commit(), Some(Offset(15)));
        track.set_committed(Offset(15));
        assert_eq!(track.to_commit(), None);
    }

    #[test]
    fn a_group_without_offset_commits_its_start() {
        assert_eq!(track(None).to_commit(), Some(Offset(10)));
    }

    #[test]
    fn tags_are_checked_exactly() {
        let all = TopicFilter::new("t", Vec::new());
        assert!(all.wants(None) && all.wants(Some("a")));
        let some = TopicFilter::new("t", vec!["a".into(), "b".into(), "a".into()]);
        assert_eq!(some.hashes.len(), 2);
        assert!(some.wants(Some("b")) && !some.wants(Some("c")) && !some.wants(None));
    }
}
