//! What a change of topics comes to: pure decisions over the catalog as it is.
//!
//! **Invariants**: a topic's map is changed only to a higher version; an ordinal once given to a broker stays there; a
//! queue key is never given twice; the same request made again changes nothing and is OK.

use std::sync::Arc;

use equeue_net::api::{CreateTopic, Status};
use equeue_net::{Code, hidden, limits};

use super::queues::{key_of, log_of};
use super::{Catalog, Change, QueueHome, Topic};
use crate::config::TOPIC_QUEUES_MAX;

/// Topics of one broker at the most.
pub const TOPICS_MAX: usize = limits::TOPICS_MAX;
/// Queues of one broker at the most.
pub const BROKER_QUEUES_MAX: usize = 100_000;

/// What a plan must know of the broker.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Name of the broker.
    pub broker: &'a str,
    /// Number of its group.
    pub group: u32,
    /// Number of its logs.
    pub logs: u16,
    /// Queues of a topic created without a number.
    pub default_queues: u32,
    /// A first send may create its topic.
    pub auto_create: bool,
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is so already.
    Unchanged,
    /// To be made durable, then applied.
    Change(Change),
    /// Not allowed.
    Refused(Status),
}

impl Plan {
    fn refused(code: Code, detail: impl Into<String>) -> Self {
        Self::Refused(Status::new(code, detail))
    }
}

/// Decides on a [`CreateTopic`].
pub fn plan_create(catalog: &Catalog, owner: Owner<'_>, request: &CreateTopic) -> Plan {
    let existing = catalog.topic(&request.topic);
    if request.auto {
        if existing.is_some() {
            return Plan::Unchanged;
        }
        if !owner.auto_create {
            return Plan::refused(
                Code::TopicNotFound,
                format!("topic `{}` does not exist and `auto_create_topics` is off", request.topic),
            );
        }
    }
    if !limits::valid_name(&request.topic) {
        let allowed = format!("1..{} letters, digits, `.`, `_` or `-`", limits::VALID_NAME_BYTES_MAX);
        return Plan::refused(
            Code::Invalid,
            format!("`{}` cannot be a topic's name: use {allowed}", request.topic),
        );
    }
    let map = match wanted_map(owner, request) {
        Ok(map) => map,
        Err(status) => return Plan::Refused(status),
    };
    if request.version == 0 {
        return Plan::refused(Code::Invalid, "the first version of a topic map is 1");
    }
    if let Some(topic) = existing
        && let Some(status) = clash(topic, request.version, &map)
    {
        return Plan::Refused(status);
    }
    allocate(catalog, owner, existing, &request.topic, request.version, map)
}

/// The map asked for, checked.
fn wanted_map(owner: Owner<'_>, request: &CreateTopic) -> Result<Vec<Arc<str>>, Status> {
    let refused = |detail: String| Err(Status::new(Code::Invalid, detail));
    if request.map.is_empty() {
        let queues = if request.queues == 0 { owner.default_queues } else { request.queues };
        if queues > TOPIC_QUEUES_MAX {
            return refused(format!("{queues} queues are more than the limit of {TOPIC_QUEUES_MAX}"));
        }
        let broker: Arc<str> = Arc::from(owner.broker);
        return Ok((0..queues).map(|_| Arc::clone(&broker)).collect());
    }
    if request.map.len() > TOPIC_QUEUES_MAX as usize {
        return refused(format!(
            "{} queues are more than the limit of {TOPIC_QUEUES_MAX}",
            request.map.len()
        ));
    }
    if let Some(name) =
        request.map.iter().find(|name| name.is_empty() || name.len() > crate::config::NAME_BYTES_MAX)
    {
        return refused(format!("`{name}` in the topic map cannot be a broker's name"));
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    let map = request.map.iter().map(|name| {
        if let Some(known) = names.iter().find(|known| known.as_ref() == name.as_str()) {
            return Arc::clone(known);
        }
        let name: Arc<str> = Arc::from(name.as_str());
        names.push(Arc::clone(&name));
        name
    });
    Ok(map.collect())
}

/// Why a topic that is there cannot become what is asked for; `None`: it can, or it is so already.
fn clash(topic: &Topic, version: u64, map: &[Arc<str>]) -> Option<Status> {
    let same = topic.map == map;
    if version == topic.version && same {
        return None;
    }
    let extends = map.len() >= topic.map.len() && map.starts_with(&topic.map);
    if version > topic.version && extends {
        return None;
    }
    let code = if version == 1 { Code::TopicExists } else { Code::VersionConflict };
    let reason = if version <= topic.version {
        format!("topic `{}` is at version {} with {} queues", topic.name, topic.version, topic.map.len())
    } else {
        format!(
            "the new map of topic `{}` must begin with its present {} queues",
            topic.name,
            topic.map.len()
        )
    };
    Some(Status::new(code, reason))
}

/// Gives keys and logs to those of the map's ordinals that are this broker's and have none yet.
fn allocate(
    catalog: &Catalog,
    owner: Owner<'_>,
    existing: Option<&Arc<Topic>>,
    name: &str,
    version: u64,
    map: Vec<Arc<str>>,
) -> Plan {
    let mut queues = existing.map_or_else(Vec::new, |topic| topic.queues.clone());
    let mut counter = catalog.next_counter;
    for (ordinal, _) in (0_u32..).zip(&map).filter(|(_, broker)| broker.as_ref() == owner.broker) {
        if queues.iter().any(|queue| queue.ordinal == ordinal) {
            continue;
        }
        let Some(key) = key_of(owner.group, counter) else {
            return Plan::refused(Code::Internal, "the queue keys of this broker are used up");
        };
        let log = log_of(counter, owner.logs);
        queues.push(QueueHome { ordinal, key, log, writable: true, readable: true });
        counter += 1;
    }
    let added = usize::try_from(counter - catalog.next_counter).unwrap_or(usize::MAX);
    if existing.is_some_and(|topic| topic.version == version) && added == 0 {
        return Plan::Unchanged;
    }
    if existing.is_none() && catalog.topics.len() >= TOPICS_MAX {
        return Plan::refused(Code::Busy, format!("this broker has {TOPICS_MAX} topics, the limit"));
    }
    if catalog.queues.len().saturating_add(added) > BROKER_QUEUES_MAX {
        return Plan::refused(
            Code::Busy,
            format!("this broker would have more than {BROKER_QUEUES_MAX} queues"),
        );
    }
    queues.sort_unstable_by_key(|queue| queue.ordinal);
    let name: Arc<str> = Arc::from(name);
    let topic = Arc::new(Topic { name: Arc::clone(&name), version, map, queues });
    Plan::Change(Change { name, topic: Some(topic), next_counter: counter })
}

/// Decides on a hidden topic that this broker needs for a group: a queue in each of its logs, ordinal by log. Its map names
/// nobody else: other brokers have their own.
pub fn plan_hidden(catalog: &Catalog, owner: Owner<'_>, name: &str) -> Plan {
    if catalog.topic(name).is_some() {
        return Plan::Unchanged;
    }
    if hidden::group_of(name).is_none() {
        return Plan::refused(Code::Invalid, format!("`{name}` cannot be a hidden topic's name"));
    }
    if catalog.topics.len() >= TOPICS_MAX
        || catalog.queues.len().saturating_add(usize::from(owner.logs)) > BROKER_QUEUES_MAX
    {
        return Plan::refused(Code::Busy, "this broker has as many topics or queues as it may have");
    }
    let mut queues = Vec::with_capacity(usize::from(owner.logs));
    let mut counter = catalog.next_counter;
    for log in 0..owner.logs {
        let Some(key) = key_of(owner.group, counter) else {
            return Plan::refused(Code::Internal, "the queue keys of this broker are used up");
        };
        let log_id = equeue_storage::LogId(log);
        queues.push(QueueHome { ordinal: u32::from(log), key, log: log_id, writable: true, readable: true });
        counter += 1;
    }
    let broker: Arc<str> = Arc::from(owner.broker);
    let map = queues.iter().map(|_| Arc::clone(&broker)).collect();
    let name: Arc<str> = Arc::from(name);
    let topic = Arc::new(Topic { name: Arc::clone(&name), version: 1, map, queues });
    Plan::Change(Change { name, topic: Some(topic), next_counter: counter })
}

/// Decides on the deletion of a topic.
pub fn plan_delete(catalog: &Catalog, name: &str) -> Plan {
    match catalog.topic(name) {
        None => Plan::refused(Code::TopicNotFound, format!("topic `{name}` does not exist here")),
        Some(topic) => Plan::Change(Change {
            name: Arc::clone(&topic.name),
            topic: None,
            next_counter: catalog.next_counter,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const OWNER: Owner<'static> =
        Owner { broker: "a", group: 7, logs: 2, default_queues: 4, auto_create: false };

    fn request(topic: &str, map: &[&str], version: u64) -> CreateTopic {
        CreateTopic {
            topic: topic.into(),
            map: map.iter().map(|name| (*name).to_owned()).collect(),
            queues: 0,
            version,
            auto: false,
        }
    }

    fn made(catalog: &Catalog, request: &CreateTopic) -> Catalog {
        match plan_create(catalog, OWNER, request) {
            Plan::Change(change) => catalog.with(&change),
            other => panic!("{other:?}"),
        }
    }

    fn code(plan: Plan) -> Code {
        match plan {
            Plan::Refused(status) => status.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_topic_without_a_map_is_all_here() {
        let catalog = made(&Catalog::default(), &request("t", &[], 1));
        let topic = catalog.topic("t").unwrap();
        assert_eq!(topic.map.len(), 4);
        assert_eq!(topic.queues.iter().map(|q| q.log.0).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!(topic.queues[3].key, equeue_record::QueueKey((7 << 40) | 3));
        assert_eq!(catalog.queue(topic.queues[2].key), Some(&topic.queues[2]));
    }

    #[test]
    fn only_own_ordinals_get_queues() {
        let catalog = made(&Catalog::default(), &request("t", &["b", "a", "b", "a"], 1));
        let ordinals: Vec<u32> = catalog.topic("t").unwrap().queues.iter().map(|q| q.ordinal).collect();
        assert_eq!(ordinals, [1, 3]);
    }

    #[test]
    fn repeating_changes_nothing() {
        let asked = request("t", &["a", "b"], 1);
        let catalog = made(&Catalog::default(), &asked);
        assert_eq!(plan_create(&catalog, OWNER, &asked), Plan::Unchanged);
    }

    #[test]
    fn growing_keeps_the_old_queues() {
        let first = made(&Catalog::default(), &request("t", &["a", "b"], 1));
        let second = made(&first, &request("t", &["a", "b", "a"], 2));
        let before = first.topic("t").unwrap().queues[0];
        let after = &second.topic("t").unwrap().queues;
        assert_eq!((after.len(), after[0], after[1].ordinal), (2, before, 2));
        assert_eq!(second.topic("t").unwrap().version, 2);
    }

    #[test]
    fn clashes_are_told_apart() {
        let catalog = made(&Catalog::default(), &request("t", &["a", "b"], 1));
        let catalog = made(&catalog, &request("t", &["a", "b", "b"], 2));
        assert_eq!(code(plan_create(&catalog, OWNER, &request("t", &["a"], 1))), Code::TopicExists);
        assert_eq!(
            code(plan_create(&catalog, OWNER, &request("t", &["a", "b", "a"], 2))),
            Code::VersionConflict
        );
        assert_eq!(
            code(plan_create(&catalog, OWNER, &request("t", &["b", "b", "b"], 3))),
            Code::VersionConflict
        );
        assert_eq!(code(plan_create(&catalog, OWNER, &request("t", &["a", "b"], 3))), Code::VersionConflict);
        assert_eq!(code(plan_create(&catalog, OWNER, &request("u", &["a"], 0))), Code::Invalid);
    }

    #[test]
    fn a_broker_that_missed_a_version_catches_up() {
        let catalog = made(&Catalog::default(), &request("t", &["a"], 5));
        assert_eq!(catalog.topic("t").unwrap().version, 5);
        let catalog = made(&catalog, &request("t", &["a", "b"], 9));
        assert_eq!(catalog.topic("t").unwrap().version, 9);
    }

    #[test]
    fn auto_creation_obeys_its_switch() {
        let mut asked = request("t", &[], 1);
        asked.auto = true;
        assert_eq!(code(plan_create(&Catalog::default(), OWNER, &asked)), Code::TopicNotFound);
        let open = Owner { auto_create: true, ..OWNER };
        let Plan::Change(change) = plan_create(&Catalog::default(), open, &asked) else { panic!() };
        let catalog = Catalog::default().with(&change);
        asked.queues = 9;
        assert_eq!(plan_create(&catalog, OWNER, &asked), Plan::Unchanged);
    }

    #[test]
    fn a_hidden_topic_has_a_queue_in_each_log_and_is_made_by_no_user() {
        let catalog = made(&Catalog::default(), &request("t", &["a"], 1));
        let Plan::Change(change) = plan_hidden(&catalog, OWNER, "%RETRY%billing") else { panic!() };
        let catalog = catalog.with(&change);
        let topic = catalog.topic("%RETRY%billing").unwrap();
        let logs: Vec<(u32, u16)> = topic.queues.iter().map(|queue| (queue.ordinal, queue.log.0)).collect();
        assert_eq!(logs, [(0, 0), (1, 1)]);
        assert_eq!(catalog.topic_of(topic.queues[1].key).map(|topic| &*topic.name), Some("%RETRY%billing"));
        assert_eq!(plan_hidden(&catalog, OWNER, "%RETRY%billing"), Plan::Unchanged);
        assert_eq!(code(plan_hidden(&catalog, OWNER, "%OTHER%billing")), Code::Invalid);
        assert_eq!(code(plan_create(&catalog, OWNER, &request("%RETRY%x", &["a"], 1))), Code::Invalid);
    }

    #[test]
    fn names_and_sizes_are_checked() {
        for name in ["", "a b", "a/b", "..", "é", &"x".repeat(limits::VALID_NAME_BYTES_MAX + 1)] {
            assert_eq!(
                code(plan_create(&Catalog::default(), OWNER, &request(name, &[], 1))),
                Code::Invalid,
                "{name}"
            );
        }
        let many = CreateTopic { queues: TOPIC_QUEUES_MAX + 1, ..request("t", &[], 1) };
        assert_eq!(code(plan_create(&Catalog::default(), OWNER, &many)), Code::Invalid);
        let long = vec!["a"; TOPIC_QUEUES_MAX as usize + 1];
        assert_eq!(code(plan_create(&Catalog::default(), OWNER, &request("t", &long, 1))), Code::Invalid);
        assert_eq!(code(plan_create(&Catalog::default(), OWNER, &request("t", &[""], 1))), Code::Invalid);
    }

    #[test]
    fn topics_and_queues_are_bounded() {
        let mut catalog = Catalog::default();
        for number in 0..(BROKER_QUEUES_MAX / TOPIC_QUEUES_MAX as usize) {
            let asked = CreateTopic { queues: TOPIC_QUEUES_MAX, ..request(&format!("t{number}"), &[], 1) };
            catalog = made(&catalog, &asked);
        }
        let asked = CreateTopic { queues: TOPIC_QUEUES_MAX, ..request("last", &[], 1) };
        assert_eq!(code(plan_create(&catalog, OWNER, &asked)), Code::Busy);
    }

    #[test]
    fn a_deleted_topic_frees_its_name_but_not_its_keys() {
        let first = made(&Catalog::default(), &request("t", &[], 1));
        let old: HashSet<_> = first.topic("t").unwrap().queues.iter().map(|q| q.key).collect();
        let Plan::Change(change) = plan_delete(&first, "t") else { panic!() };
        let second = first.with(&change);
        assert!(second.topic("t").is_none() && second.queues.is_empty());
        let third = made(&second, &request("t", &[], 1));
        assert!(third.topic("t").unwrap().queues.iter().all(|q| !old.contains(&q.key)));
        assert_eq!(code(plan_delete(&second, "t")), Code::TopicNotFound);
    }
}
