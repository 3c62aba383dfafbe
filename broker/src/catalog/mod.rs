//! The catalog: topics, their maps and this broker's queues. Kept as state entries of log 0, given to every shard as
//! an immutable snapshot once a change is durable.
//!
//! **Invariant**: no I/O here; a snapshot never changes.

mod access;
mod codec;
mod queues;
mod settings;
mod topics;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use equeue_net::api::{QueueEntry, TopicSnapshot};
use equeue_record::QueueKey;

pub use access::{plan_access, plan_remove, removed_by};
pub use codec::CatalogError;
pub use queues::{QUEUE_COUNTER_BITS, QueueHome, shard_of};
pub use settings::TopicSettings;
pub use topics::{BROKER_QUEUES_MAX, Owner, Plan, TOPICS_MAX, plan_create, plan_delete, plan_hidden};

use crate::state_key;

/// A topic as this broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Version of the map.
    pub version: u64,
    /// Which broker has which ordinal; index = ordinal.
    pub map: Vec<Arc<str>>,
    /// The queues of this broker, by ordinal.
    pub queues: Vec<QueueHome>,
}

impl Topic {
    /// As it is told to others.
    pub fn snapshot(&self, shards: u16) -> TopicSnapshot {
        let entry = |home: &QueueHome| home.entry(shards);
        TopicSnapshot {
            name: self.name.to_string(),
            version: self.version,
            map: self.map.iter().map(ToString::to_string).collect(),
            queues: self.queues.iter().map(entry).collect(),
        }
    }
}

impl QueueHome {
    /// As it is told to others.
    pub fn entry(&self, shards: u16) -> QueueEntry {
        QueueEntry {
            ordinal: self.ordinal,
            key: self.key,
            shard: shard_of(self.log, shards),
            writable: self.writable,
            readable: self.readable,
        }
    }
}

/// All topics and queues at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    /// With their topics.
    queues: HashMap<QueueKey, (QueueHome, Arc<Topic>)>,
    /// Of the topics that have some.
    settings: BTreeMap<Arc<str>, TopicSettings>,
    next_counter: u64,
}

/// One change: a topic's new form, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    name: Arc<str>,
    topic: Option<Arc<Topic>>,
    next_counter: u64,
}

impl Change {
    /// The state entries that make it durable, to be stored all or none.
    pub fn entries(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut entries = vec![
            (state_key::queue_counter(), Some(codec::encode_counter(self.next_counter))),
            (state_key::topic(&self.name), self.topic.as_deref().map(codec::encode_topic)),
        ];
        if self.topic.is_none() {
            entries.push((state_key::topic_settings(&self.name), None));
        }
        entries
    }
}

impl Catalog {
    /// Reads the catalog from the state entries of log 0, given as (key, value); keys of other kinds are passed over.
    ///
    /// # Errors
    /// An entry of a newer build, or one that contradicts itself.
    pub fn load<'a>(entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        for (key, value) in entries {
            match key.split_first() {
                Some((&state_key::QUEUE_COUNTER, _)) => catalog.next_counter = codec::decode_counter(value)?,
                Some((&state_key::TOPIC, name)) => {
                    let name = std::str::from_utf8(name).map_err(|_| CatalogError::Malformed {
                        entry: String::from_utf8_lossy(name).into_owned(),
                        field: "name",
                    })?;
                    catalog.insert(Arc::new(codec::decode_topic(name, value)?));
                }
                Some((&state_key::TOPIC_SETTINGS, name)) => {
                    let entry = String::from_utf8_lossy(name).into_owned();
                    let settings = TopicSettings::decode(value)
                        .ok_or_else(|| CatalogError::Malformed { entry: entry.clone(), field: "settings" })?;
                    catalog.settings.insert(Arc::from(entry), settings);
                }
                _ => {}
            }
        }
        Ok(catalog)
    }

    /// The catalog after `change`.
    #[must_use]
    pub fn with(&self, change: &Change) -> Self {
        let mut next = self.clone();
        next.next_counter = change.next_counter;
        if let Some(old) = next.topics.remove(&change.name) {
            for queue in &old.queues {
                next.queues.remove(&queue.key);
            }
        }
        match &change.topic {
            Some(topic) => next.insert(Arc::clone(topic)),
            None => {
                next.settings.remove(&change.name);
            }
        }
        next
    }

    /// The catalog with other settings of a topic.
    #[must_use]
    pub fn with_settings(&self, name: &str, settings: TopicSettings) -> Self {
        let mut next = self.clone();
        if settings == TopicSettings::default() {
            next.settings.remove(name);
        } else {
            next.settings.insert(Arc::from(name), settings);
        }
        next
    }

    /// Settings of a topic.
    pub fn settings(&self, name: &str) -> TopicSettings {
        self.settings.get(name).copied().unwrap_or_default()
    }

    fn insert(&mut self, topic: Arc<Topic>) {
        self.queues.extend(topic.queues.iter().map(|queue| (queue.key, (*queue, Arc::clone(&topic)))));
        self.topics.insert(Arc::clone(&topic.name), topic);
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic of a queue of this broker.
    pub fn topic_of(&self, key: QueueKey) -> Option<&Arc<Topic>> {
        self.queues.get(&key).map(|(_, topic)| topic)
    }

    /// Every topic, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// A queue of this broker.
    pub fn queue(&self, key: QueueKey) -> Option<&QueueHome> {
        self.queues.get(&key).map(|(home, _)| home)
    }

    /// Every queue of this broker, in no order.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &QueueHome> {
        self.queues.values().map(|(home, _)| home)
    }
}

#[cfg(test)]
mod tests {
    use equeue_net::api::CreateTopic;

    use super::*;

    fn owner() -> Owner<'static> {
        Owner { broker: "a", group: 7, logs: 2, default_queues: 4, auto_create: false }
    }

    #[test]
    fn what_changes_store_is_what_is_loaded() {
        let mut catalog = Catalog::default();
        let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        stored.insert(vec![state_key::GROUP_OFFSET, 1, 2], vec![9]);
        let mut apply = |catalog: &mut Catalog, plan: Plan| {
            let Plan::Change(change) = plan else { panic!("{plan:?}") };
            for (key, value) in change.entries() {
                match value {
                    Some(value) => stored.insert(key, value),
                    None => stored.remove(&key),
                };
            }
            *catalog = catalog.with(&change);
            let entries = stored.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
            assert_eq!(&Catalog::load(entries).unwrap(), catalog);
        };
        for name in ["x", "y", "z"] {
            let request =
                CreateTopic { topic: name.into(), map: Vec::new(), queues: 3, version: 1, auto: false };
            let plan = plan_create(&catalog, owner(), &request);
            apply(&mut catalog, plan);
        }
        let settings = TopicSettings { retention: equeue_net::api::TopicRetention::Ms(5) };
        catalog = catalog.with_settings("y", settings);
        assert_eq!(catalog.settings("y"), settings);
        let plan = plan_delete(&catalog, "y");
        apply(&mut catalog, plan);
        assert_eq!(catalog.topics().map(|t| t.name.to_string()).collect::<Vec<_>>(), ["x", "z"]);
        assert_eq!(catalog.queues().len(), 6);
    }

    #[test]
    fn a_damaged_entry_is_an_error() {
        let key = state_key::topic("t");
        assert!(Catalog::load([(key.as_slice(), [1, 2, 3].as_slice())]).is_err());
        let key = [state_key::TOPIC, 0xff];
        assert!(Catalog::load([(key.as_slice(), [1].as_slice())]).is_err());
    }
}
