//! The brokers that are alive, with the snapshots they sent. Pure: the time is given, nothing is logged here.
//!
//! **Invariants**: a name stands for one start of one broker; nothing that an older start says counts once a newer one
//! is known; a broker is forgotten only by its own word, or after a silence in which it could have been heard; the
//! number of brokers, topics and queues is limited.

use std::collections::BTreeMap;

use equeue_net::Code;
use equeue_net::api::{BrokerEntry, BrokerRole, RegisterBroker, Status, TopicSnapshot};
use equeue_net::hidden::valid_topic;
use equeue_net::limits::valid_name;

use crate::routes;

/// Limits and times of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryLimits {
    /// A broker that is silent for so long is forgotten.
    pub broker_timeout_ms: u64,
    /// Brokers over all clusters.
    pub brokers_max: usize,
    /// Topics of one broker.
    pub topics_max: usize,
    /// Queues over all brokers: entries of maps and of brokers' own queues.
    pub queues_max: usize,
}

/// What a live broker told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The broker.
    pub broker: BrokerEntry,
    /// Its topics by name.
    pub topics: BTreeMap<String, TopicSnapshot>,
    /// When it was heard last, in the registry's own milliseconds.
    seen_ms: u64,
    /// What it counts against `queues_max`.
    queues: usize,
}

/// The live brokers of one cluster, by name.
pub type Cluster = BTreeMap<String, Registration>;

/// What a registration changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Nothing but the time.
    Renewed,
    /// The snapshot; `conflicts` are those that it makes anew.
    Changed {
        /// The broker was not known, or is another start of it.
        new: bool,
        /// Topics of which it tells another map of the same version than others do.
        conflicts: Vec<routes::Conflict>,
    },
}

/// Who is alive.
#[derive(Clone, Debug)]
pub struct Registry {
    limits: RegistryLimits,
    clusters: BTreeMap<String, Cluster>,
    queues: usize,
    /// When [`Registry::expire`] ran last.
    expired_ms: u64,
    /// A registration was ever accepted.
    ever: bool,
}

impl Registry {
    /// Nobody is known. `now_ms` counts from any fixed moment.
    pub fn new(limits: RegistryLimits, now_ms: u64) -> Self {
        Self { limits, clusters: BTreeMap::new(), queues: 0, expired_ms: now_ms, ever: false }
    }

    /// The live brokers by cluster.
    pub fn clusters(&self) -> &BTreeMap<String, Cluster> {
        &self.clusters
    }

    /// Whether any broker ever registered.
    pub fn has_heard(&self) -> bool {
        self.ever
    }

    /// Number of live brokers.
    pub fn broker_count(&self) -> usize {
        self.clusters.values().map(BTreeMap::len).sum()
    }

    /// Takes a broker's snapshot in the place of its last.
    ///
    /// # Errors
    /// The answer for the broker: a name that is not allowed or used by another, or a limit.
    pub fn register(&mut self, now_ms: u64, request: RegisterBroker) -> Result<Registered, Status> {
        let RegisterBroker { broker, topics } = request;
        check_names(&broker, &topics)?;
        self.check_identity(&broker)?;
        let known = self.clusters.get(&broker.cluster).and_then(|cluster| cluster.get(&broker.name));
        let queues: usize = topics.iter().map(|topic| topic.map.len() + topic.queues.len()).sum();
        self.check_limits(known, topics.len(), queues)?;

        let new = known.is_none_or(|known| known.broker.incarnation != broker.incarnation);
        let topic_count = topics.len();
        let topics: BTreeMap<_, _> = topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        if topics.len() != topic_count {
            return Err(Status::new(Code::Invalid, "a topic is named twice"));
        }
        let known_queues = known.map_or(0, |known| known.queues);
        if let Some(known) = known
            && known.broker == broker
            && known.topics == topics
        {
            if let Some(known) =
                self.clusters.get_mut(&broker.cluster).and_then(|it| it.get_mut(&broker.name))
            {
                known.seen_ms = now_ms;
            }
            return Ok(Registered::Renewed);
        }
        let before = known.map(|known| &known.topics);
        let conflicts = match self.clusters.get(&broker.cluster) {
            Some(cluster) => routes::new_conflicts(cluster, &broker.name, before, &topics),
            None => Vec::new(),
        };
        self.queues = self.queues - known_queues + queues;
        self.ever = true;
        let (cluster, name) = (broker.cluster.clone(), broker.name.clone());
        let registration = Registration { broker, topics, seen_ms: now_ms, queues };
        self.clusters.entry(cluster).or_default().insert(name, registration);
        Ok(Registered::Changed { new, conflicts })
    }

    /// Two live brokers never share a name or, as masters, a group: their queues would have the same keys. A broker that
    /// starts again is known by its data directory (group and creation time), wherever it listens now.
    fn check_identity(&self, broker: &BrokerEntry) -> Result<(), Status> {
        let Some(cluster) = self.clusters.get(&broker.cluster) else { return Ok(()) };
        if let Some(known) = cluster.get(&broker.name).map(|known| &known.broker)
            && known.incarnation != broker.incarnation
            && (known.group, known.created_ms) != (broker.group, broker.created_ms)
        {
            let detail = format!(
                "the name {} is used by the broker of another data directory at {}",
                broker.name, known.address
            );
            return Err(Status::new(Code::Invalid, detail));
        }
        let twin = cluster.values().map(|other| &other.broker).find(|other| {
            other.name != broker.name
                && other.group == broker.group
                && other.role == BrokerRole::Master
                && broker.role == BrokerRole::Master
        });
        match twin {
            Some(twin) => {
                let detail =
                    format!("the broker group {} is used by {} at {}", broker.group, twin.name, twin.address);
                Err(Status::new(Code::Invalid, detail))
            }
            None => Ok(()),
        }
    }

    fn check_limits(&self, known: Option<&Registration>, topics: usize, queues: usize) -> Result<(), Status> {
        let over = |what: &str, limit: usize| {
            Err(Status::busy(5000, format!("this nameserver takes at most {limit} {what}")))
        };
        if known.is_none() && self.broker_count() >= self.limits.brokers_max {
            return over("brokers", self.limits.brokers_max);
        }
        if topics > self.limits.topics_max {
            return over("topics of one broker", self.limits.topics_max);
        }
        if self.queues - known.map_or(0, |known| known.queues) + queues > self.limits.queues_max {
            return over("queues", self.limits.queues_max);
        }
        Ok(())
    }

    /// A broker stops. Only the start that is known can end itself. Returns whether it was known.
    pub fn unregister(&mut self, cluster: &str, name: &str, incarnation: u128) -> bool {
        let Some(brokers) = self.clusters.get_mut(cluster) else { return false };
        if brokers.get(name).is_none_or(|known| known.broker.incarnation != incarnation) {
            return false;
        }
        if let Some(gone) = brokers.remove(name) {
            self.queues -= gone.queues;
        }
        if brokers.is_empty() {
            self.clusters.remove(cluster);
        }
        true
    }

    /// Forgets who was silent for too long, and returns them. To be called every `every_ms`: where it was called much
    /// later (the process or machine stood still) nobody could be heard, and that time does not count.
    pub fn expire(&mut self, now_ms: u64, every_ms: u64) -> Vec<BrokerEntry> {
        let late_ms = now_ms.saturating_sub(self.expired_ms).saturating_sub(2 * every_ms);
        self.expired_ms = now_ms;
        let timeout_ms = self.limits.broker_timeout_ms;
        let mut gone = Vec::new();
        self.clusters.retain(|_, brokers| {
            brokers.retain(|_, known| {
                known.seen_ms = known.seen_ms.saturating_add(late_ms).min(now_ms);
                let alive = now_ms - known.seen_ms < timeout_ms;
                if !alive {
                    self.queues -= known.queues;
                    gone.push(known.broker.clone());
                }
                alive
            });
            !brokers.is_empty()
        });
        gone
    }
}

fn check_names(broker: &BrokerEntry, topics: &[TopicSnapshot]) -> Result<(), Status> {
    let mut names = [&broker.cluster, &broker.name].into_iter().filter(|name| !valid_name(name));
    let mut topics = topics.iter().map(|topic| &topic.name).filter(|name| !valid_topic(name));
    match names.next().or_else(|| topics.next()) {
        Some(name) => Err(Status::new(Code::Invalid, format!("{name:?} is no valid name"))),
        None if broker.address.is_empty() => Err(Status::new(Code::Invalid, "the broker tells no address")),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use equeue_net::api::QueueEntry;
    use equeue_record::QueueKey;
    use proptest::prelude::*;

    use super::*;

    pub(crate) const LIMITS: RegistryLimits =
        RegistryLimits { broker_timeout_ms: 10_000, brokers_max: 5, topics_max: 3, queues_max: 100 };

    pub(crate) fn broker(name: &str, incarnation: u128) -> BrokerEntry {
        let group = name.bytes().fold(0, |sum, byte| sum * 31 + u32::from(byte));
        BrokerEntry {
            cluster: "default".into(),
            name: name.into(),
            group,
            role: BrokerRole::Master,
            master_epoch: 1,
            address: format!("{name}:9494"),
            http_address: String::new(),
            shards: 2,
            incarnation,
            created_ms: i64::from(group),
        }
    }

    pub(crate) fn topic(name: &str, version: u64, map: &[&str], own: &str) -> TopicSnapshot {
        let queues = (0_u32..).zip(map).filter(|(_, owner)| **owner == own).map(|(ordinal, _)| QueueEntry {
            ordinal,
            key: QueueKey(u64::from(ordinal) + 1),
            shard: 1,
            writable: true,
            readable: true,
        });
        TopicSnapshot {
            name: name.into(),
            version,
            map: map.iter().map(|&owner| owner.to_owned()).collect(),
            queues: queues.collect(),
        }
    }

    pub(crate) fn snapshot(name: &str, incarnation: u128, topics: Vec<TopicSnapshot>) -> RegisterBroker {
        RegisterBroker { broker: broker(name, incarnation), topics }
    }

    fn new(conflicts: Vec<routes::Conflict>) -> Registered {
        Registered::Changed { new: true, conflicts }
    }

    #[test]
    fn a_broker_lives_from_its_registration_to_its_silence() {
        let mut registry = Registry::new(LIMITS, 0);
        assert!(!registry.has_heard());
        assert_eq!(registry.register(0, snapshot("a", 1, vec![])), Ok(new(vec![])));
        assert_eq!(registry.register(5_000, snapshot("a", 1, vec![])), Ok(Registered::Renewed));
        registry.expire(5_000, 5_000);
        for second in 6..15 {
            assert_eq!(registry.expire(second * 1000, 1000), []);
        }
        assert_eq!(registry.expire(15_000, 1000), [broker("a", 1)]);
        assert!(registry.clusters().is_empty() && registry.has_heard());
    }

    #[test]
    fn time_in_which_nobody_could_be_heard_does_not_count() {
        let mut registry = Registry::new(LIMITS, 0);
        registry.register(1000, snapshot("a", 1, vec![])).unwrap();
        assert_eq!(registry.expire(1000, 1000), []);
        // The process was stopped for an hour.
        assert_eq!(registry.expire(3_601_000, 1000), []);
        for second in 1..8 {
            assert_eq!(registry.expire(3_601_000 + second * 1000, 1000), [], "{second}");
        }
        let gone: usize = (8..20).map(|second| registry.expire(3_601_000 + second * 1000, 1000).len()).sum();
        assert_eq!(gone, 1, "silence afterwards counts");
    }

    #[test]
    fn a_snapshot_replaces_the_one_before() {
        let mut registry = Registry::new(LIMITS, 0);
        registry.register(0, snapshot("a", 1, vec![topic("t", 1, &["a"], "a")])).unwrap();
        let changed = registry.register(1, snapshot("a", 1, vec![topic("u", 1, &["a"], "a")]));
        assert_eq!(changed, Ok(Registered::Changed { new: false, conflicts: vec![] }));
        let topics: Vec<_> = registry.clusters()["default"]["a"].topics.keys().collect();
        assert_eq!(topics, ["u"]);
        assert_eq!(registry.queues, 2);
    }

    #[test]
    fn only_the_known_start_unregisters() {
        let mut registry = Registry::new(LIMITS, 0);
        registry.register(0, snapshot("a", 1, vec![])).unwrap();
        registry.register(0, snapshot("a", 2, vec![])).unwrap();
        assert!(!registry.unregister("default", "a", 1), "the first start was replaced by the second");
        assert!(!registry.unregister("default", "b", 2));
        assert!(!registry.unregister("other", "a", 2));
        assert!(registry.unregister("default", "a", 2));
        assert_eq!(registry.broker_count(), 0);
    }

    #[test]
    fn names_and_groups_are_not_shared() {
        let mut registry = Registry::new(LIMITS, 0);
        registry.register(0, snapshot("a", 1, vec![])).unwrap();
        let mut restarted = snapshot("a", 2, vec![]);
        restarted.broker.address = "elsewhere:9494".into();
        assert_eq!(registry.register(0, restarted), Ok(new(vec![])), "the same data directory: a restart");
        registry.register(0, snapshot("a", 1, vec![])).unwrap();
        let mut twin = snapshot("a", 2, vec![]);
        twin.broker.created_ms += 1;
        let refused = registry.register(0, twin.clone()).unwrap_err();
        assert!(refused.code == Code::Invalid && refused.detail.contains("a:9494"), "{refused:?}");
        registry.expire(20_000, 10_000);
        assert_eq!(registry.register(20_000, twin), Ok(new(vec![])), "the first is silent: the name is free");

        let mut clash = snapshot("b", 3, vec![]);
        clash.broker.group = broker("a", 1).group;
        assert!(registry.register(20_000, clash.clone()).unwrap_err().detail.contains("broker group"));
        clash.broker.role = BrokerRole::Slave;
        assert_eq!(registry.register(20_000, clash), Ok(new(vec![])));
    }

    #[test]
    fn limits_are_kept_and_told() {
        let mut registry = Registry::new(LIMITS, 0);
        for name in ["a", "b", "c", "d", "e"] {
            registry.register(0, snapshot(name, 1, vec![])).unwrap();
        }
        assert_eq!(registry.register(0, snapshot("f", 1, vec![])).unwrap_err().code, Code::Busy);
        let topics: Vec<_> = ["t", "u", "v", "w"].iter().map(|name| topic(name, 1, &["a"], "a")).collect();
        assert_eq!(registry.register(0, snapshot("a", 1, topics)).unwrap_err().code, Code::Busy);
        let wide = |width| vec![topic("t", 1, &vec!["z"; width], "a")];
        assert_eq!(registry.register(0, snapshot("a", 1, wide(101))).unwrap_err().code, Code::Busy);
        registry.register(0, snapshot("a", 1, wide(100))).unwrap();
        registry.register(0, snapshot("a", 1, wide(99))).unwrap();
        assert_eq!(registry.register(0, snapshot("b", 1, wide(2))).unwrap_err().code, Code::Busy);
        assert!(registry.unregister("default", "a", 1));
        registry.register(0, snapshot("b", 1, wide(2))).unwrap();
        let mut bad = snapshot("b", 1, vec![]);
        bad.broker.cluster = "a b".into();
        assert_eq!(registry.register(0, bad).unwrap_err().code, Code::Invalid);
        let twice = vec![topic("t", 1, &[], "c"), topic("t", 2, &[], "c")];
        assert_eq!(registry.register(0, snapshot("c", 1, twice)).unwrap_err().code, Code::Invalid);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Register(u8, u128),
        Unregister(u8, u128),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u8, 0..3_u128).prop_map(|(name, start)| Step::Register(name, start)),
            (0..4_u8, 0..3_u128).prop_map(|(name, start)| Step::Unregister(name, start)),
            (0..4000_u16).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The live brokers are exactly those heard within the timeout and not unregistered since.
        #[test]
        fn a_registry_knows_who_was_heard(steps in proptest::collection::vec(step(), 1..200)) {
            let mut registry = Registry::new(LIMITS, 0);
            let mut model: BTreeMap<String, (u128, u64)> = BTreeMap::new();
            let mut now = 0_u64;
            for step in steps {
                match step {
                    Step::Register(name, start) => {
                        let name = format!("b{name}");
                        let topics = vec![topic("t", 1, &["b0", "b1"], &name)];
                        registry.register(now, snapshot(&name, start, topics)).unwrap();
                        model.insert(name, (start, now));
                    }
                    Step::Unregister(name, start) => {
                        let name = format!("b{name}");
                        let known = model.get(&name).is_some_and(|(known, _)| *known == start);
                        prop_assert_eq!(registry.unregister("default", &name, start), known);
                        if known {
                            model.remove(&name);
                        }
                    }
                    Step::Wait(ms) => {
                        now += u64::from(ms);
                        registry.expire(now, 4000);
                        model.retain(|_, (_, seen)| now - *seen < LIMITS.broker_timeout_ms);
                    }
                }
                let live: BTreeMap<_, _> = registry
                    .clusters()
                    .values()
                    .flatten()
                    .map(|(name, known)| (name.clone(), (known.broker.incarnation, known.seen_ms)))
                    .collect();
                prop_assert_eq!(&live, &model);
                let queues: usize = registry.clusters().values().flatten().map(|(_, known)| known.queues).sum();
                prop_assert_eq!(registry.queues, queues);
            }
        }
    }
}
