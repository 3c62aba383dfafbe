//! Which queues a consumer shall read, and what has to change for it. Pure.
//!
//! A consumer reads every queue of its topics; the list is where an allocation to several members would cut in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::track::{Home, TopicFilter, Track};
use crate::routes::Snapshot;

/// A queue to read, and where it lives.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Its topic.
    pub topic: Arc<TopicFilter>,
    /// Its number in the topic.
    pub ordinal: u32,
    /// Where it lives.
    pub home: Home,
    /// Check of the cluster's name.
    pub cluster_check: u16,
}

/// The steps from what is read to what shall be read.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Not read so far, or made anew.
    pub begin: Vec<Wanted>,
    /// Served by another shard or broker now.
    pub moved: Vec<(Arc<Track>, Home)>,
    /// No longer there.
    pub end: Vec<Arc<Track>>,
}

/// Every readable queue of the topics. A queue whose broker was never heard of is left out until it is.
pub(crate) fn wanted(topics: &[Arc<TopicFilter>], snapshot: &Snapshot) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for topic in topics {
        let Some(route) = snapshot.topics.get(&topic.name) else { continue };
        for place in &route.queues {
            let Some(entry) = place.entry.filter(|entry| entry.readable) else { continue };
            let cluster = snapshot.cluster_of(&place.broker).unwrap_or_default();
            wanted.push(Wanted {
                topic: Arc::clone(topic),
                ordinal: place.ordinal,
                home: Home { broker: Arc::clone(&place.broker), shard: entry.shard, key: entry.key },
                cluster_check: equeue_record::MessageId::cluster_check(cluster),
            });
        }
    }
    wanted
}

/// What has to change.
pub(crate) fn changes(wanted: Vec<Wanted>, tracks: &HashMap<(Arc<str>, u32), Arc<Track>>) -> Changes {
    let mut changes = Changes::default();
    let mut kept = HashSet::new();
    for wanted in wanted {
        let key = (Arc::clone(&wanted.topic.name), wanted.ordinal);
        match tracks.get(&key) {
            Some(track) if track.home().key == wanted.home.key => {
                if *track.home() != wanted.home {
                    changes.moved.push((Arc::clone(track), wanted.home));
                }
                kept.insert(key);
            }
            _ => changes.begin.push(wanted),
        }
    }
    changes.end =
        tracks.iter().filter(|(key, _)| !kept.contains(*key)).map(|(_, track)| Arc::clone(track)).collect();
    changes
}

#[cfg(test)]
mod tests {
    use equeue_record::{Offset, QueueKey};

    use super::*;

    fn want(ordinal: u32, shard: u16, key: u64) -> Wanted {
        Wanted {
            topic: Arc::new(TopicFilter::new("t", Vec::new())),
            ordinal,
            home: Home { broker: "b".into(), shard, key: QueueKey(key) },
            cluster_check: 0,
        }
    }

    fn track(wanted: &Wanted) -> ((Arc<str>, u32), Arc<Track>) {
        let track = Track::new(
            Arc::clone(&wanted.topic),
            wanted.ordinal,
            wanted.home.clone(),
            Offset(0),
            None,
            wanted.cluster_check,
        );
        ((Arc::clone(&wanted.topic.name), wanted.ordinal), Arc::new(track))
    }

    #[test]
    fn queues_begin_move_and_end() {
        let tracks: HashMap<_, _> =
            [want(0, 0, 10), want(1, 0, 11), want(2, 0, 12), want(3, 0, 13)].iter().map(track).collect();
        // 0 stays, 1 changed its shard, 2 was made anew, 3 is gone, 4 is new.
        let next = vec![want(0, 0, 10), want(1, 1, 11), want(2, 0, 99), want(4, 0, 14)];
        let changes = changes(next, &tracks);
        let begin: Vec<u32> = changes.begin.iter().map(|wanted| wanted.ordinal).collect();
        let moved: Vec<u32> = changes.moved.iter().map(|(track, _)| track.ordinal).collect();
        let mut end: Vec<u32> = changes.end.iter().map(|track| track.ordinal).collect();
        end.sort_unstable();
        assert_eq!((begin, moved, end), (vec![2, 4], vec![1], vec![2, 3]));
    }
}
