//! Queues opened, closed and removed: EQueue's way to shrink a topic is to forbid sending, let the groups drain the queues,
//! forbid consuming, and remove them. Pure decisions.
//!
//! **Invariants**: only the highest ordinals are removed, and ordinals and keys are never given again to what they named
//! before; a queue that may be sent to or consumed from is not removed unless that is forced; repeating a request
//! changes nothing.

use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{RemoveQueues, SetQueueAccess, Status};

use super::{Catalog, Change, Plan, QueueHome, Topic};

fn refused(code: Code, detail: impl Into<String>) -> Plan {
    Plan::Refused(Status::new(code, detail))
}

fn not_found(name: &str) -> Plan {
    refused(Code::TopicNotFound, format!("topic `{name}` does not exist here"))
}

fn change(catalog: &Catalog, topic: Topic) -> Plan {
    Plan::Change(Change {
        name: Arc::clone(&topic.name),
        topic: Some(Arc::new(topic)),
        next_counter: catalog.next_counter,
    })
}

/// Decides on a [`SetQueueAccess`].
pub fn plan_access(catalog: &Catalog, request: &SetQueueAccess) -> Plan {
    let Some(topic) = catalog.topic(&request.topic) else { return not_found(&request.topic) };
    let queues = topic.map.len();
    let outside = request.ordinals.iter().find(|ordinal| **ordinal as usize >= queues);
    if let Some(ordinal) = outside {
        let detail = format!("topic `{}` has no queue {ordinal}: it has {queues}", topic.name);
        return refused(Code::QueueNotFound, detail);
    }
    let mut next = Topic::clone(topic);
    for home in &mut next.queues {
        if request.ordinals.is_empty() || request.ordinals.contains(&home.ordinal) {
            home.writable = request.send.unwrap_or(home.writable);
            home.readable = request.consume.unwrap_or(home.readable);
        }
    }
    if next == **topic { Plan::Unchanged } else { change(catalog, next) }
}

/// The queues of this broker that a request removes.
pub fn removed_by(catalog: &Catalog, request: &RemoveQueues) -> Vec<QueueHome> {
    let Some(topic) = catalog.topic(&request.topic) else { return Vec::new() };
    topic.queues.iter().filter(|home| home.ordinal as usize >= request.map.len()).copied().collect()
}

/// Decides on a [`RemoveQueues`]; that the queues are drained is looked at before.
pub fn plan_remove(catalog: &Catalog, request: &RemoveQueues) -> Plan {
    let Some(topic) = catalog.topic(&request.topic) else { return not_found(&request.topic) };
    let same = |map: &[Arc<str>]| map.iter().map(AsRef::as_ref).eq(request.map.iter().map(String::as_str));
    if request.version == topic.version && same(&topic.map) {
        return Plan::Unchanged;
    }
    if request.version <= topic.version {
        let detail =
            format!("topic `{}` is at version {} with {} queues", topic.name, topic.version, topic.map.len());
        return refused(Code::VersionConflict, detail);
    }
    if request.map.is_empty() {
        let detail = format!("topic `{}` must keep a queue; delete the topic instead", topic.name);
        return refused(Code::Invalid, detail);
    }
    if !topic.map.get(..request.map.len()).is_some_and(same) {
        let detail = format!(
            "the new map must be the first of the {} queues that topic `{}` has: only the highest are removed",
            topic.map.len(),
            topic.name
        );
        return refused(Code::VersionConflict, detail);
    }
    let open: Vec<u32> = removed_by(catalog, request)
        .iter()
        .filter(|home| home.writable || home.readable)
        .map(|home| home.ordinal)
        .collect();
    if !open.is_empty() && !request.force {
        let detail = format!(
            "queues {open:?} of topic `{}` are open: forbid sending, wait until they are drained, forbid consuming",
            topic.name
        );
        return refused(Code::NotDrained, detail);
    }
    let mut next = Topic::clone(topic);
    next.version = request.version;
    next.map.truncate(request.map.len());
    next.queues.retain(|home| (home.ordinal as usize) < request.map.len());
    change(catalog, next)
}

#[cfg(test)]
mod tests {
    use equeue_net::api::CreateTopic;

    use super::super::{Owner, plan_create};
    use super::*;

    fn catalog() -> Catalog {
        let owner = Owner { broker: "a", group: 7, logs: 2, default_queues: 4, auto_create: false };
        let map = ["a", "b", "a", "a"].map(str::to_owned).to_vec();
        let request = CreateTopic { topic: "t".into(), map, queues: 0, version: 1, auto: false };
        made(&Catalog::default(), plan_create(&Catalog::default(), owner, &request))
    }

    fn made(catalog: &Catalog, plan: Plan) -> Catalog {
        match plan {
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

    fn access(ordinals: &[u32], send: Option<bool>, consume: Option<bool>) -> SetQueueAccess {
        SetQueueAccess { topic: "t".into(), ordinals: ordinals.to_vec(), send, consume }
    }

    fn remove(queues: usize, version: u64, force: bool) -> RemoveQueues {
        let map = ["a", "b", "a", "a"].iter().take(queues).map(|name| (*name).to_owned()).collect();
        RemoveQueues { topic: "t".into(), map, version, force }
    }

    #[test]
    fn access_is_set_for_own_queues_only_and_repeating_changes_nothing() {
        let before = catalog();
        let sealed = access(&[1, 3], Some(false), None);
        let after = made(&before, plan_access(&before, &sealed));
        let flags = |catalog: &Catalog| -> Vec<(u32, bool, bool)> {
            let queues = &catalog.topic("t").unwrap().queues;
            queues.iter().map(|home| (home.ordinal, home.writable, home.readable)).collect()
        };
        assert_eq!(flags(&after), [(0, true, true), (2, true, true), (3, false, true)]);
        assert_eq!(after.topic("t").unwrap().version, 1, "the map is the same");
        assert_eq!(plan_access(&after, &sealed), Plan::Unchanged);
        let all = made(&after, plan_access(&after, &access(&[], None, Some(false))));
        assert!(flags(&all).iter().all(|(_, _, readable)| !readable));
        assert_eq!(code(plan_access(&before, &access(&[4], Some(true), None))), Code::QueueNotFound);
    }

    #[test]
    fn queues_are_removed_from_the_end_when_they_are_closed() {
        let open = catalog();
        assert_eq!(code(plan_remove(&open, &remove(3, 2, false))), Code::NotDrained);
        let closed = made(&open, plan_access(&open, &access(&[3], Some(false), Some(false))));
        let smaller = made(&closed, plan_remove(&closed, &remove(3, 2, false)));
        let topic = smaller.topic("t").unwrap();
        assert_eq!((topic.map.len(), topic.queues.len(), topic.version), (3, 2, 2));
        assert_eq!(smaller.queues().len(), 2);
        assert_eq!(plan_remove(&smaller, &remove(3, 2, false)), Plan::Unchanged);
        assert_eq!(code(plan_remove(&smaller, &remove(2, 2, false))), Code::VersionConflict);
        assert_eq!(code(plan_remove(&smaller, &remove(0, 3, true))), Code::Invalid);
        let other = RemoveQueues { map: vec!["b".into()], ..remove(1, 3, true) };
        assert_eq!(code(plan_remove(&smaller, &other)), Code::VersionConflict);
        let forced = made(&smaller, plan_remove(&smaller, &remove(1, 3, true)));
        assert_eq!(forced.topic("t").unwrap().queues.len(), 1);
    }
}
