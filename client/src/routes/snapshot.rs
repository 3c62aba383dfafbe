//! What a client knows of its cluster, and how an answer of a nameserver changes it. Pure.
//!
//! **Invariant**: what a nameserver does *not* say never takes knowledge away (it may have been started a moment ago,
//! brokers register every 5 s); only a broker's own refusal makes a route suspect, and only a suspect topic is
//! forgotten or replaced by an older map.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{BrokerEntry, GetRoutesAnswer, QueueEntry, TopicRoute, TopicSnapshot};
use equeue_net::hidden::is_hidden;

/// A broker that was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownBroker {
    /// What its registration said last.
    pub entry: BrokerEntry,
    /// Its address, shared.
    pub address: Arc<str>,
    /// The nameserver asked last knows it as alive.
    pub alive: bool,
}

/// One queue of a topic's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuePlace {
    /// Its number in the topic.
    pub ordinal: u32,
    /// Name of its broker.
    pub broker: Arc<str>,
    /// Key, shard and switches as its broker told last; `None`: its broker was never heard of.
    pub entry: Option<QueueEntry>,
    /// The nameserver asked last knows its broker as alive.
    pub alive: bool,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Version of its map.
    pub version: u64,
    /// Its queues; index = ordinal.
    pub queues: Vec<QueuePlace>,
}

/// Everything known at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// By name.
    pub brokers: BTreeMap<Arc<str>, KnownBroker>,
    /// By name.
    pub topics: HashMap<Arc<str>, Arc<Topic>>,
}

impl Snapshot {
    /// Live brokers first by name; the others are left out unless none is alive.
    pub(crate) fn brokers_to_ask(&self) -> Vec<&KnownBroker> {
        let alive: Vec<_> = self.brokers.values().filter(|broker| broker.alive).collect();
        if alive.is_empty() { self.brokers.values().collect() } else { alive }
    }

    /// Address of a broker.
    pub(crate) fn address(&self, broker: &str) -> Option<&Arc<str>> {
        self.brokers.get(broker).map(|broker| &broker.address)
    }

    /// Name of the cluster of a broker.
    pub(crate) fn cluster_of(&self, broker: &str) -> Option<&str> {
        self.brokers.get(broker).map(|broker| broker.entry.cluster.as_str())
    }

    /// With the answer of a nameserver taken in. `suspects` are topics that a broker refused. What a nameserver that has
    /// just started does not know yet is taken for what it was: otherwise the oldest broker could seem to be away, and
    /// members of a group would turn to another coordinator, each in its own moment.
    pub(crate) fn merge(&self, answer: GetRoutesAnswer, suspects: &BTreeSet<Arc<str>>) -> Self {
        let settling = answer.settling;
        let brokers = self.merge_brokers(answer.brokers, settling);
        let mut topics = self.topics.clone();
        for topic in topics.values_mut() {
            if topic.queues.iter().any(|queue| queue.alive != is_alive(&brokers, queue)) {
                let mut changed = Topic::clone(topic);
                for queue in &mut changed.queues {
                    queue.alive = is_alive(&brokers, queue);
                }
                *topic = Arc::new(changed);
            }
        }
        for route in answer.topics {
            let suspect = suspects.contains(route.name.as_str());
            if route.code != Code::Ok {
                if suspect && route.code == Code::TopicNotFound {
                    topics.remove(route.name.as_str());
                }
                continue;
            }
            let known = topics.get(route.name.as_str());
            if known.is_some_and(|known| known.version > route.version && !suspect) {
                continue;
            }
            // A hidden topic has the queues of the brokers that are known.
            let shrinks = |known: &Arc<Topic>| known.queues.len() > route.queues.len();
            if settling && is_hidden(&route.name) && known.is_some_and(shrinks) {
                continue;
            }
            let mut topic = merge_topic(known.map(Arc::as_ref), route);
            for queue in topic.queues.iter_mut().filter(|_| settling) {
                queue.alive = is_alive(&brokers, queue);
            }
            topics.insert(Arc::clone(&topic.name), Arc::new(topic));
        }
        Self { brokers, topics }
    }

    /// With what a broker said of a topic that it just created: known at once, not only when the broker registered.
    pub(crate) fn learn(&self, broker: &str, snapshot: &TopicSnapshot) -> Self {
        let mut next = self.clone();
        let newer =
            next.topics.get(snapshot.name.as_str()).is_none_or(|known| known.version <= snapshot.version);
        if newer {
            let queues = (0_u32..)
                .zip(&snapshot.map)
                .map(|(ordinal, owner)| equeue_net::api::QueueRoute {
                    ordinal,
                    broker: owner.clone(),
                    live: snapshot
                        .queues
                        .iter()
                        .find(|own| own.ordinal == ordinal && owner == broker)
                        .copied(),
                })
                .collect();
            let route =
                TopicRoute { name: snapshot.name.clone(), code: Code::Ok, version: snapshot.version, queues };
            let topic = merge_topic(next.topics.get(snapshot.name.as_str()).map(Arc::as_ref), route);
            next.topics.insert(Arc::clone(&topic.name), Arc::new(topic));
        }
        next
    }

    fn merge_brokers(&self, answered: Vec<BrokerEntry>, settling: bool) -> BTreeMap<Arc<str>, KnownBroker> {
        let mut brokers = self.brokers.clone();
        for broker in brokers.values_mut() {
            broker.alive &= settling;
        }
        for entry in answered {
            let known = KnownBroker { address: entry.address.as_str().into(), entry, alive: true };
            brokers.insert(known.entry.name.as_str().into(), known);
        }
        brokers
    }
}

fn is_alive(brokers: &BTreeMap<Arc<str>, KnownBroker>, queue: &QueuePlace) -> bool {
    queue.entry.is_some() && brokers.get(&queue.broker).is_some_and(|broker| broker.alive)
}

/// The route told, with what was known before of queues whose broker is away.
fn merge_topic(known: Option<&Topic>, route: TopicRoute) -> Topic {
    let queues = route
        .queues
        .into_iter()
        .map(|queue| {
            let before = known
                .and_then(|known| known.queues.get(queue.ordinal as usize))
                .filter(|before| *before.broker == *queue.broker);
            QueuePlace {
                ordinal: queue.ordinal,
                broker: before
                    .map_or_else(|| queue.broker.as_str().into(), |before| Arc::clone(&before.broker)),
                alive: queue.live.is_some(),
                entry: queue.live.or_else(|| before.and_then(|before| before.entry)),
            }
        })
        .collect();
    let name = known.map_or_else(|| route.name.as_str().into(), |known| Arc::clone(&known.name));
    Topic { name, version: route.version, queues }
}

#[cfg(test)]
mod tests {
    use equeue_net::api::{BrokerRole, QueueRoute, Status};
    use equeue_record::QueueKey;

    use super::*;

    fn broker(name: &str) -> BrokerEntry {
        BrokerEntry {
            cluster: "default".into(),
            name: name.into(),
            group: 1,
            role: BrokerRole::Master,
            master_epoch: 1,
            address: format!("{name}:9494"),
            http_address: String::new(),
            shards: 1,
            incarnation: 1,
            created_ms: 0,
        }
    }

    fn queue(ordinal: u32, broker: &str, key: Option<u64>) -> QueueRoute {
        let live = key.map(|key| QueueEntry {
            ordinal,
            key: QueueKey(key),
            shard: 0,
            writable: true,
            readable: true,
        });
        QueueRoute { ordinal, broker: broker.into(), live }
    }

    fn answer(brokers: &[&str], version: u64, queues: Vec<QueueRoute>) -> GetRoutesAnswer {
        let code = if queues.is_empty() { Code::TopicNotFound } else { Code::Ok };
        GetRoutesAnswer {
            status: Status::OK,
            brokers: brokers.iter().map(|name| broker(name)).collect(),
            topics: vec![TopicRoute { name: "t".into(), code, version, queues }],
            settling: false,
        }
    }

    fn keys(snapshot: &Snapshot) -> Vec<(Option<u64>, bool)> {
        let topic = &snapshot.topics["t"];
        topic.queues.iter().map(|queue| (queue.entry.map(|entry| entry.key.0), queue.alive)).collect()
    }

    #[test]
    fn a_broker_that_is_away_is_remembered() {
        let none = BTreeSet::new();
        let both = vec![queue(0, "a", Some(10)), queue(1, "b", Some(20))];
        let first = Snapshot::default().merge(answer(&["a", "b"], 3, both), &none);
        assert_eq!(keys(&first), [(Some(10), true), (Some(20), true)]);
        let one = vec![queue(0, "a", Some(10)), queue(1, "b", None)];
        let second = first.merge(answer(&["a"], 3, one), &none);
        assert_eq!(keys(&second), [(Some(10), true), (Some(20), false)]);
        assert_eq!(second.address("b").map(|address| &**address), Some("b:9494"));
        assert_eq!(second.brokers_to_ask().len(), 1);
        // A nameserver that was just started knows nothing at all.
        let third = second.merge(answer(&[], 0, Vec::new()), &none);
        assert_eq!(keys(&third), [(Some(10), false), (Some(20), false)]);
        assert_eq!(third.brokers_to_ask().len(), 2);
        let both = vec![queue(0, "a", Some(10)), queue(1, "b", Some(20))];
        let fourth = third.merge(answer(&["a", "b"], 3, both), &none);
        assert_eq!(keys(&fourth), keys(&first));
    }

    #[test]
    fn a_nameserver_that_has_just_started_sends_nobody_away() {
        let none = BTreeSet::new();
        let both = || vec![queue(0, "a", Some(10)), queue(1, "b", Some(20))];
        let first = Snapshot::default().merge(answer(&["a", "b"], 3, both()), &none);
        let one = || vec![queue(0, "a", Some(10)), queue(1, "b", None)];
        let settling = GetRoutesAnswer { settling: true, ..answer(&["a"], 3, one()) };
        let second = first.merge(settling, &none);
        assert_eq!((keys(&second), second.brokers_to_ask().len()), (keys(&first), 2));
        // Once it has settled it is believed.
        let third = second.merge(answer(&["a"], 3, one()), &none);
        assert_eq!(keys(&third), [(Some(10), true), (Some(20), false)]);
        assert_eq!(third.brokers_to_ask().len(), 1);
        // The queues of a hidden topic are those of the brokers that are known.
        let hidden = |queues, settling| {
            let mut answer = GetRoutesAnswer { settling, ..answer(&["a", "b"], 1, queues) };
            answer.topics.iter_mut().for_each(|topic| topic.name = "%RETRY%g".into());
            answer
        };
        let known = Snapshot::default().merge(hidden(both(), false), &none);
        let alone = || vec![queue(0, "b", Some(20))];
        let count = |snapshot: &Snapshot| snapshot.topics["%RETRY%g"].queues.len();
        assert_eq!(count(&known.merge(hidden(alone(), true), &none)), 2);
        assert_eq!(count(&known.merge(hidden(alone(), false), &none)), 1);
    }

    #[test]
    fn only_a_suspect_topic_goes_back_or_away() {
        let none = BTreeSet::new();
        let suspects = BTreeSet::from([Arc::from("t")]);
        let first = Snapshot::default().merge(answer(&["a"], 3, vec![queue(0, "a", Some(10))]), &none);
        let older = || answer(&["a"], 1, vec![queue(0, "a", Some(11))]);
        assert_eq!(keys(&first.merge(older(), &none)), [(Some(10), true)]);
        assert_eq!(keys(&first.merge(older(), &suspects)), [(Some(11), true)]);
        let gone = || answer(&["a"], 0, Vec::new());
        assert!(first.merge(gone(), &none).topics.contains_key("t"));
        assert!(!first.merge(gone(), &suspects).topics.contains_key("t"));
    }

    #[test]
    fn a_created_topic_is_known_before_its_broker_registered_it() {
        let created = TopicSnapshot {
            name: "t".into(),
            version: 1,
            map: vec!["a".into(), "b".into()],
            queues: vec![QueueEntry {
                ordinal: 0,
                key: QueueKey(7),
                shard: 2,
                writable: true,
                readable: true,
            }],
        };
        let snapshot = Snapshot::default().learn("a", &created);
        assert_eq!(keys(&snapshot), [(Some(7), true), (None, false)]);
    }
}
