//! The group as its coordinator tells it, and which queues fall to this member. Pure: every member that was told the
//! same generation comes to the same result.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use equeue_net::api::{BrokerEntry, BrokerRole, GroupHeartbeatAnswer, GroupMember, GroupTopic, group_shard};
use equeue_net::hidden::is_hidden;
use equeue_record::QueueKey;

use super::super::allocation::{Allocation, AllocationStrategy};
use super::super::filter::TopicFilter;
use super::super::track::{Home, QueueId};
use crate::routes::Snapshot;

/// A group in one generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Its number.
    pub generation: u64,
    /// By client id and incarnation.
    pub members: Vec<GroupMember>,
    /// By name.
    pub topics: BTreeMap<String, GroupTopic>,
    /// To which of `members` the queues of a topic fell before this generation.
    holders: BTreeMap<String, HashMap<u32, usize>>,
}

impl View {
    /// As the coordinator told it.
    pub(crate) fn of(answer: GroupHeartbeatAnswer) -> Self {
        let mut members = answer.members;
        members.sort_by(|a, b| (&a.client_id, a.incarnation).cmp(&(&b.client_id, b.incarnation)));
        let topics = answer.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        let mut holders: BTreeMap<String, HashMap<u32, usize>> = BTreeMap::new();
        for (place, member) in members.iter_mut().enumerate() {
            for held in std::mem::take(&mut member.share) {
                let Some(topic) = member.topics.get(usize::from(held.topic)) else { continue };
                holders.entry(topic.clone()).or_default().insert(held.queue, place);
            }
        }
        Self { generation: answer.generation, members, topics, holders }
    }
}

/// A member with its index in [`View::members`].
type Placed<'a> = (usize, &'a GroupMember);

/// The broker that coordinates all groups: of those alive the master whose data is oldest, ties by name.
pub(crate) fn coordinating<'a>(alive: impl IntoIterator<Item = &'a BrokerEntry>) -> Option<&'a BrokerEntry> {
    let masters = alive.into_iter().filter(|broker| broker.role == BrokerRole::Master);
    masters.min_by_key(|broker| (broker.created_ms, broker.name.as_str()))
}

/// Where the membership of a group is kept: broker, address and shard. While no broker is known to be alive, the rule is
/// applied to all that were ever heard of.
pub(crate) fn coordinator(snapshot: &Snapshot, group: &str) -> Option<(Arc<str>, Arc<str>, u16)> {
    let oldest = coordinating(snapshot.brokers_to_ask().into_iter().map(|broker| &broker.entry))?;
    let address = snapshot.address(&oldest.name)?;
    Some((oldest.name.as_str().into(), Arc::clone(address), group_shard(group, oldest.shards)))
}

/// The readable queues of these topics and where they live. A queue whose broker was never heard of is left out until
/// it is.
pub(crate) fn homes(topics: &[Arc<TopicFilter>], snapshot: &Snapshot) -> BTreeMap<QueueId, Home> {
    let mut homes = BTreeMap::new();
    for topic in topics {
        let Some(route) = snapshot.topics.get(&topic.name) else { continue };
        for place in &route.queues {
            let Some(entry) = place.entry.filter(|entry| entry.readable) else { continue };
            let home = Home { broker: Arc::clone(&place.broker), shard: entry.shard, key: entry.key };
            homes.insert((Arc::clone(&topic.name), number_of(&topic.name, place.ordinal, entry.key)), home);
        }
    }
    homes
}

/// The queues that fall to the member `me`.
pub(crate) fn share(
    view: &View,
    me: (&str, u128),
    topics: &[Arc<TopicFilter>],
    strategy: &dyn AllocationStrategy,
    snapshot: &Snapshot,
) -> BTreeSet<QueueId> {
    let mut share = BTreeSet::new();
    for topic in topics {
        let mut subscribed: Vec<Placed<'_>> = (0..)
            .zip(&view.members)
            .filter(|(_, member)| member.topics.iter().any(|name| **name == *topic.name))
            .collect();
        if is_hidden(&topic.name) && subscribed.iter().any(|(_, member)| has_all(view, member)) {
            subscribed.retain(|(_, member)| has_all(view, member));
        }
        let held = view.holders.get(&*topic.name);
        for (members, queues) in classes(&brokers_of(view, &topic.name, snapshot), &subscribed) {
            let names: Vec<&str> = members.iter().map(|(_, member)| member.client_id.as_str()).collect();
            let holder = |queue: &u32| {
                let place = held?.get(queue)?;
                members.binary_search_by_key(place, |(place, _)| *place).ok()
            };
            let holders: Vec<Option<usize>> = queues.iter().map(holder).collect();
            let allocation =
                Allocation { topic: &topic.name, queues: &queues, members: &names, holders: &holders };
            let owners = strategy.owners(&allocation);
            let mine =
                members.iter().position(|(_, member)| (member.client_id.as_str(), member.incarnation) == me);
            let owned = queues.iter().zip(owners).filter(|(_, owner)| owner.is_some() && *owner == mine);
            share.extend(owned.map(|(ordinal, _)| (Arc::clone(&topic.name), *ordinal)));
        }
    }
    share
}

/// Whether a member has subscribed to every topic of the group. Messages of all of them come again from the same queues,
/// which are therefore only for such members, where there are any.
fn has_all(view: &View, member: &GroupMember) -> bool {
    view.topics.keys().filter(|name| !is_hidden(name)).all(|name| member.topics.contains(name))
}

/// What a queue is known by in its topic. Queues of hidden topics are numbered through over the brokers that are alive, so
/// that their ordinals shift when one comes or goes: they are known by their keys.
fn number_of(topic: &str, ordinal: u32, key: QueueKey) -> u32 {
    if is_hidden(topic) { u32::try_from((key.0 ^ (key.0 >> 32)) & 0xffff_ffff).unwrap_or(0) } else { ordinal }
}

/// The queues of a topic and their brokers: from the coordinator's map; of a retry topic, which each broker makes for
/// itself, and where the coordinator knows none, from the routes.
fn brokers_of(view: &View, topic: &str, snapshot: &Snapshot) -> Vec<(u32, String)> {
    match view.topics.get(topic) {
        Some(known) if known.version > 0 && !is_hidden(topic) => {
            (0..).zip(known.map.iter().cloned()).collect()
        }
        _ => {
            let queues = snapshot.topics.get(topic).into_iter().flat_map(|route| &route.queues);
            let known = queues.filter_map(|queue| {
                let number = number_of(topic, queue.ordinal, queue.entry?.key);
                Some((number, String::from(&*queue.broker)))
            });
            let mut known: Vec<(u32, String)> = known.collect();
            known.sort();
            known
        }
    }
}

/// The queues that may go to the same members, together: a member gets no queue of a broker that it cannot reach.
/// Queues that nobody can reach are left out.
fn classes<'a>(brokers: &[(u32, String)], members: &[Placed<'a>]) -> Vec<(Vec<Placed<'a>>, Vec<u32>)> {
    let mut classes: BTreeMap<Vec<bool>, Vec<u32>> = BTreeMap::new();
    for (ordinal, broker) in brokers {
        let reached = members.iter().map(|(_, member)| !member.unreachable.contains(broker)).collect();
        classes.entry(reached).or_default().push(*ordinal);
    }
    classes
        .into_iter()
        .map(|(reached, queues)| {
            let members: Vec<_> = members
                .iter()
                .zip(reached)
                .filter(|(_, reached)| *reached)
                .map(|(member, _)| *member)
                .collect();
            (members, queues)
        })
        .filter(|(members, _)| !members.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use equeue_net::api::{GetRoutesAnswer, ShareQueue};

    use super::super::super::allocation::{Average, Sticky};
    use super::*;

    fn member(name: &str, incarnation: u128, topics: &[&str], unreachable: &[&str]) -> GroupMember {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        GroupMember {
            client_id: name.into(),
            incarnation,
            topics: own(topics),
            unreachable: own(unreachable),
            share: Vec::new(),
        }
    }

    fn view(members: Vec<GroupMember>, maps: &[(&str, &[&str])]) -> View {
        let topic = |(name, map): &(&str, &[&str])| GroupTopic {
            name: (*name).into(),
            tags: Vec::new(),
            version: 1,
            map: map.iter().map(ToString::to_string).collect(),
        };
        let topics = maps.iter().map(topic).collect();
        View::of(GroupHeartbeatAnswer { generation: 1, members, topics, ..GroupHeartbeatAnswer::default() })
    }

    fn shares(view: &View, topics: &[&str]) -> Vec<Vec<(String, u32)>> {
        shares_by(&Average, view, topics)
    }

    fn shares_by(strategy: &dyn AllocationStrategy, view: &View, topics: &[&str]) -> Vec<Vec<(String, u32)>> {
        let topics: Vec<_> = topics.iter().map(|name| Arc::new(TopicFilter::new(name, Vec::new()))).collect();
        let of = |member: &GroupMember| {
            let me = (member.client_id.as_str(), member.incarnation);
            let share = share(view, me, &topics, strategy, &Snapshot::default());
            share.into_iter().map(|(topic, ordinal)| (topic.to_string(), ordinal)).collect()
        };
        view.members.iter().map(of).collect()
    }

    fn broker(name: &str, created_ms: i64) -> BrokerEntry {
        BrokerEntry {
            cluster: "default".into(),
            name: name.into(),
            group: 1,
            role: BrokerRole::Master,
            master_epoch: 0,
            address: format!("{name}:9494"),
            http_address: String::new(),
            shards: 4,
            incarnation: 1,
            created_ms,
        }
    }

    fn told(snapshot: &Snapshot, brokers: Vec<BrokerEntry>) -> Snapshot {
        snapshot.merge(GetRoutesAnswer { brokers, ..GetRoutesAnswer::default() }, &BTreeSet::new())
    }

    #[test]
    fn the_master_with_the_oldest_data_coordinates_and_of_several_the_first_by_name() {
        let name = |brokers: &[BrokerEntry]| coordinating(brokers).map(|broker| broker.name.clone());
        let (a, b, c) = (broker("a", 30), broker("b", 20), broker("c", 20));
        assert_eq!(name(&[]), None);
        assert_eq!(name(std::slice::from_ref(&a)).as_deref(), Some("a"));
        // In whatever order they are told.
        for brokers in [[&a, &b, &c], [&c, &b, &a], [&b, &a, &c]] {
            assert_eq!(name(&brokers.map(BrokerEntry::clone)).as_deref(), Some("b"));
        }
        let slave = BrokerEntry { role: BrokerRole::Slave, ..broker("d", 10) };
        assert_eq!(name(&[slave.clone(), a, c]).as_deref(), Some("c"));
        assert_eq!(name(&[slave]), None);
    }

    #[test]
    fn who_is_away_does_not_coordinate_unless_all_are() {
        let (old, young) = (broker("old", 1), broker("young", 2));
        let of = |snapshot: &Snapshot| coordinator(snapshot, "billing").map(|(name, ..)| name.to_string());
        let both = told(&Snapshot::default(), vec![old.clone(), young.clone()]);
        assert_eq!(of(&Snapshot::default()), None);
        let found = coordinator(&both, "billing").expect("there are brokers");
        assert_eq!(found, ("old".into(), "old:9494".into(), group_shard("billing", 4)));
        let one = told(&both, vec![young.clone()]);
        assert_eq!(of(&one).as_deref(), Some("young"));
        // A nameserver that knows nobody takes nothing away.
        assert_eq!(of(&told(&one, Vec::new())).as_deref(), Some("old"));
        assert_eq!(of(&told(&one, vec![old, young])).as_deref(), Some("old"));
    }

    #[test]
    fn members_share_the_queues_of_the_topics_they_want() {
        // Told in any order; two members bear the same name.
        let members =
            vec![member("b", 1, &["t", "u"], &[]), member("a", 9, &["t"], &[]), member("a", 2, &["t"], &[])];
        let view = view(members, &[("t", &["x"; 4]), ("u", &["x"; 2])]);
        let t = |ordinal| ("t".to_owned(), ordinal);
        let u = |ordinal| ("u".to_owned(), ordinal);
        assert_eq!(shares(&view, &["t", "u"]), [vec![t(0), t(1)], vec![t(2)], vec![t(3), u(0), u(1)]]);
    }

    #[test]
    fn messages_to_be_tried_again_go_to_members_that_want_all_topics_where_there_are_any() {
        let members = |list: &[(&str, &[&str])]| {
            let member = |(name, topics): &(&str, &[&str])| {
                let topics: Vec<&str> = topics.iter().copied().chain(["%RETRY%g"]).collect();
                member(name, 1, &topics, &[])
            };
            list.iter().map(member).collect::<Vec<_>>()
        };
        let maps: &[(&str, &[&str])] = &[("t", &["x"]), ("u", &["x"]), ("%RETRY%g", &[])];
        let chosen = |list: &[(&str, &[&str])]| {
            let view = view(members(list), maps);
            view.members.iter().map(|member| has_all(&view, member)).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[("a", &["t"]), ("b", &["t", "u"])]), [false, true]);
        assert_eq!(chosen(&[("a", &["t"]), ("b", &["u"])]), [false, false]);
        assert_eq!(chosen(&[("a", &["t", "u"]), ("b", &["u", "t"])]), [true, true]);
    }

    #[test]
    fn a_sticky_group_moves_only_what_a_new_member_is_to_get() {
        let held = |topic, queues: &[u32]| {
            queues.iter().map(|&queue| ShareQueue { topic, queue }).collect::<Vec<ShareQueue>>()
        };
        // "c" is new and the first in order; the shares of the others are not what they would get anew.
        let members = vec![
            GroupMember { share: held(1, &[1, 3, 5]), ..member("z", 1, &["u", "t"], &[]) },
            GroupMember { share: held(0, &[0, 2, 4]), ..member("y", 1, &["t"], &[]) },
            member("c", 1, &["t"], &[]),
        ];
        let view = view(members, &[("t", &["x"; 6])]);
        let t = |ordinals: &[u32]| ordinals.iter().map(|&at| ("t".to_owned(), at)).collect::<Vec<_>>();
        assert_eq!(shares_by(&Sticky, &view, &["t"]), [t(&[4, 5]), t(&[0, 2]), t(&[1, 3])]);
        assert_eq!(shares(&view, &["t"]), [t(&[0, 1]), t(&[2, 3]), t(&[4, 5])]);
        // Who cannot reach a broker keeps nothing of it, and the others keep theirs.
        let members = vec![
            GroupMember { share: held(0, &[0, 1]), ..member("a", 1, &["t"], &["x"]) },
            GroupMember { share: held(0, &[2, 4]), ..member("b", 1, &["t"], &[]) },
            GroupMember { share: held(0, &[3, 5]), ..member("c", 1, &["t"], &[]) },
        ];
        let view = super::tests::view(members, &[("t", &["x", "y", "x", "x", "x", "x"])]);
        assert_eq!(shares_by(&Sticky, &view, &["t"]), [t(&[1]), t(&[0, 2, 4]), t(&[3, 5])]);
    }

    #[test]
    fn a_broker_that_a_member_cannot_reach_is_left_out_of_its_share_alone() {
        let members = vec![member("a", 1, &["t"], &["y"]), member("b", 1, &["t"], &[])];
        let map: &[&str] = &["x", "y", "x", "y"];
        let shares = shares(&view(members, &[("t", map)]), &["t"]);
        let ordinals =
            |share: &Vec<(String, u32)>| share.iter().map(|(_, ordinal)| *ordinal).collect::<Vec<_>>();
        assert_eq!(ordinals(&shares[0]), [0]);
        assert_eq!(ordinals(&shares[1]), [1, 2, 3]);
        let nobody = vec![member("a", 1, &["t"], &["y"])];
        let alone = self::shares(&view(nobody, &[("t", map)]), &["t"]);
        assert_eq!(ordinals(&alone[0]), [0, 2]);
    }
}
