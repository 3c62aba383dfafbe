//! Where the queues of a topic live, made of what the live brokers told. Pure.
//!
//! **Invariants**: the newest version of a map counts; two maps of the same version are never mixed: one is taken, the
//! same one by every nameserver that hears the same brokers; a queue is live only when the broker that the map names
//! tells its key itself; a queue of a broker that is not alive stays in the route, so that selectors and allocation run
//! over the same queues whoever is alive.

use std::collections::BTreeMap;

use equeue_net::Code;
use equeue_net::api::{BrokerRole, QueueEntry, QueueRoute, TopicRoute, TopicSnapshot};
use equeue_net::hidden::is_hidden;

use crate::registry::{Cluster, Registration};

/// Two maps of one topic have the same version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The topic.
    pub topic: String,
    /// The version.
    pub version: u64,
    /// Two brokers that tell different maps.
    pub brokers: [String; 2],
}

/// The route of a topic; unknown ones have the code `TOPIC_NOT_FOUND` and no queues.
pub fn route(cluster: &Cluster, topic: &str) -> TopicRoute {
    if is_hidden(topic) {
        return hidden_route(cluster, topic);
    }
    let Some(map) = newest(cluster, topic) else {
        return TopicRoute {
            name: topic.to_owned(),
            code: Code::TopicNotFound,
            version: 0,
            queues: Vec::new(),
        };
    };
    let mut own: BTreeMap<&str, BTreeMap<u32, _>> = BTreeMap::new();
    for (broker, snapshot) in told(cluster, topic) {
        own.insert(
            &broker.broker.name,
            snapshot.queues.iter().map(|queue| (queue.ordinal, *queue)).collect(),
        );
    }
    let queues = (0_u32..).zip(&map.map).map(|(ordinal, broker)| QueueRoute {
        ordinal,
        broker: broker.clone(),
        live: own.get(broker.as_str()).and_then(|queues| queues.get(&ordinal)).copied(),
    });
    TopicRoute { name: topic.to_owned(), code: Code::Ok, version: map.version, queues: queues.collect() }
}

/// The route of a topic that brokers make for a group: the queues of all live brokers, by broker and log. There is no
/// version to compare: what is told last counts.
fn hidden_route(cluster: &Cluster, topic: &str) -> TopicRoute {
    let mut brokers: Vec<_> = told(cluster, topic).collect();
    brokers.sort_unstable_by(|(one, _), (other, _)| one.broker.name.cmp(&other.broker.name));
    let queues = brokers
        .iter()
        .flat_map(|(broker, snapshot)| snapshot.queues.iter().map(|queue| (&broker.broker.name, *queue)));
    let queues: Vec<QueueRoute> = (0_u32..)
        .zip(queues)
        .map(|(ordinal, (broker, queue))| QueueRoute {
            ordinal,
            broker: broker.clone(),
            live: Some(QueueEntry { ordinal, ..queue }),
        })
        .collect();
    let code = if queues.is_empty() { Code::TopicNotFound } else { Code::Ok };
    TopicRoute { name: topic.to_owned(), code, version: u64::from(!queues.is_empty()), queues }
}

/// The names of all topics that a live broker tells of.
pub fn topic_names(cluster: &Cluster) -> Vec<&str> {
    let mut names: Vec<&str> =
        cluster.values().flat_map(|known| known.topics.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the live masters tell of a topic. (A slave tells what its master told.)
fn told<'a>(
    cluster: &'a Cluster,
    topic: &'a str,
) -> impl Iterator<Item = (&'a Registration, &'a TopicSnapshot)> {
    cluster
        .values()
        .filter(|known| known.broker.role == BrokerRole::Master)
        .filter_map(move |known| Some((known, known.topics.get(topic)?)))
}

/// The newest version; of several maps with it the one of the broker whose data is oldest, ties by name - the order in
/// which a group's coordinator is chosen.
fn newest<'a>(cluster: &'a Cluster, topic: &'a str) -> Option<&'a TopicSnapshot> {
    let preference = |known: &'a Registration| (known.broker.created_ms, &known.broker.name);
    let mut best: Option<(&Registration, &TopicSnapshot)> = None;
    for (broker, snapshot) in told(cluster, topic) {
        let better = best.is_none_or(|(other, other_snapshot)| {
            snapshot.version > other_snapshot.version
                || (snapshot.version == other_snapshot.version && preference(broker) < preference(other))
        });
        if better {
            best = Some((broker, snapshot));
        }
    }
    best.map(|(_, snapshot)| snapshot)
}

/// The conflicts that the new topics of `broker` make with the other brokers of its cluster and that its topics
/// `before` did not make.
pub fn new_conflicts(
    cluster: &Cluster,
    broker: &str,
    before: Option<&BTreeMap<String, TopicSnapshot>>,
    topics: &BTreeMap<String, TopicSnapshot>,
) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (name, snapshot) in topics.iter().filter(|(name, _)| !is_hidden(name)) {
        let told_before = before.and_then(|before| before.get(name));
        if told_before.is_some_and(|old| old.version == snapshot.version && old.map == snapshot.map) {
            continue;
        }
        let other = told(cluster, name).find(|(other, told)| {
            other.broker.name != broker && told.version == snapshot.version && told.map != snapshot.map
        });
        if let Some((other, _)) = other {
            conflicts.push(Conflict {
                topic: name.clone(),
                version: snapshot.version,
                brokers: [broker.to_owned(), other.broker.name.clone()],
            });
        }
    }
    conflicts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::tests::{LIMITS, snapshot, topic};
    use crate::registry::{Registered, Registry};

    fn registry(snapshots: Vec<(&str, Vec<TopicSnapshot>)>) -> Registry {
        let mut registry = Registry::new(LIMITS, 0);
        for (name, topics) in snapshots {
            registry.register(0, snapshot(name, 1, topics)).unwrap();
        }
        registry
    }

    fn live(route: &TopicRoute) -> Vec<bool> {
        route.queues.iter().map(|queue| queue.live.is_some()).collect()
    }

    #[test]
    fn queues_of_live_brokers_have_keys_and_the_others_keep_their_place() {
        let map = &["a", "b", "a", "gone"];
        let registry =
            registry(vec![("a", vec![topic("t", 1, map, "a")]), ("b", vec![topic("t", 1, map, "b")])]);
        let route = route(&registry.clusters()["default"], "t");
        assert_eq!((route.code, route.version), (Code::Ok, 1));
        assert_eq!(live(&route), [true, true, true, false]);
        assert_eq!(route.queues.iter().map(|queue| queue.ordinal).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(route.queues[3].broker, "gone");
        assert_eq!(route.queues[1].live.unwrap().ordinal, 1);
    }

    #[test]
    fn a_hidden_topic_is_what_all_live_brokers_have_of_it() {
        let name = "%RETRY%billing";
        let registry = registry(vec![
            ("b", vec![topic(name, 1, &["b", "b"], "b")]),
            ("a", vec![topic(name, 1, &["a"], "a")]),
        ]);
        let cluster = &registry.clusters()["default"];
        let route = route(cluster, name);
        let told: Vec<_> = route.queues.iter().map(|queue| (queue.ordinal, queue.broker.as_str())).collect();
        assert_eq!((route.code, told), (Code::Ok, vec![(0, "a"), (1, "b"), (2, "b")]));
        assert!(
            route.queues.iter().all(|queue| queue.live.is_some_and(|live| live.ordinal == queue.ordinal))
        );
        assert_eq!(super::route(cluster, "%RETRY%other").code, Code::TopicNotFound);
    }

    #[test]
    fn the_newest_map_counts_and_a_half_applied_change_is_seen() {
        let old = topic("t", 1, &["a", "b"], "b");
        let registry = registry(vec![("a", vec![topic("t", 2, &["a", "b", "b"], "a")]), ("b", vec![old])]);
        let route = route(&registry.clusters()["default"], "t");
        assert_eq!(route.version, 2);
        assert_eq!(live(&route), [true, true, false], "b has not made its second queue yet");
    }

    #[test]
    fn a_broker_that_is_not_the_owner_cannot_claim_a_queue() {
        let claim = topic("t", 1, &["b"], "b");
        let registry = registry(vec![("a", vec![topic("t", 2, &["a"], "a")]), ("b", vec![claim])]);
        let route = route(&registry.clusters()["default"], "t");
        assert_eq!(route.queues.len(), 1);
        assert_eq!(route.queues[0].broker, "a");
    }

    #[test]
    fn an_unknown_topic_is_told_as_such() {
        let registry = registry(vec![("a", vec![topic("t", 1, &["a"], "a")])]);
        let cluster = &registry.clusters()["default"];
        assert_eq!(route(cluster, "u").code, Code::TopicNotFound);
        assert_eq!(topic_names(cluster), ["t"]);
    }

    #[test]
    fn a_conflict_is_told_once_and_never_merged() {
        let mut registry = registry(vec![("a", vec![topic("t", 3, &["a", "a"], "a")])]);
        let clash = snapshot("b", 1, vec![topic("t", 3, &["b"], "b")]);
        let conflict = Conflict { topic: "t".into(), version: 3, brokers: ["b".to_owned(), "a".to_owned()] };
        let told = registry.register(0, clash.clone()).unwrap();
        assert_eq!(told, Registered::Changed { new: true, conflicts: vec![conflict] });
        let mut again = clash;
        again.topics.push(topic("u", 1, &["b"], "b"));
        let told = registry.register(0, again).unwrap();
        assert_eq!(told, Registered::Changed { new: false, conflicts: vec![] });
        // Both maps have version 3; a's data is older (its name gives a smaller creation time in these tests).
        let route = route(&registry.clusters()["default"], "t");
        assert_eq!(route.queues.iter().map(|queue| &*queue.broker).collect::<Vec<_>>(), ["a", "a"]);
    }

    proptest! {
        /// Whatever the order of registrations, nameservers that heard the same brokers give the same route.
        #[test]
        fn routes_do_not_depend_on_the_order_of_registrations(
            tellings in proptest::collection::vec(
                (1..4_u64, proptest::collection::vec(0..3_usize, 0..5)), 3..=3),
            order in Just([0_usize, 1, 2]).prop_shuffle(),
        ) {
            let brokers = ["a", "b", "c"];
            let register = |registry: &mut Registry, number: usize| {
                let (version, owners) = &tellings[number];
                let map: Vec<_> = owners.iter().map(|owner| brokers[*owner]).collect();
                let topics = vec![topic("t", *version, &map, brokers[number])];
                registry.register(0, snapshot(brokers[number], 1, topics)).unwrap();
            };
            let (mut one, mut other) = (Registry::new(LIMITS, 0), Registry::new(LIMITS, 0));
            (0..3).for_each(|number| register(&mut one, number));
            for number in &order {
                register(&mut other, *number);
            }
            let found = route(&one.clusters()["default"], "t");
            prop_assert_eq!(&found, &route(&other.clusters()["default"], "t"));
            // The route is exactly one of the maps told, of the newest version.
            let newest = tellings.iter().map(|(version, _)| *version).max().unwrap();
            prop_assert_eq!(found.version, newest);
            let map: Vec<_> = found.queues.iter().map(|queue| queue.broker.as_str()).collect();
            let known = |(version, owners): &(u64, Vec<usize>)| {
                *version == newest && owners.iter().map(|owner| brokers[*owner]).eq(map.iter().copied())
            };
            prop_assert!(tellings.iter().any(known));
        }
    }
}
