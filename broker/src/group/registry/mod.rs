//! The members of groups, as their coordinator knows them: who is there, what the group subscribes to, its generation.
//! Pure; times are those of the lease clock.
//!
//! **Invariants**: all members are told the same lists under the same generation; a generation is told only once it is
//! durable, and is higher than any that a member has told; a group has one set of tags for each topic; groups, members
//! and lists are bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use equeue_net::api::{GroupHeartbeat, GroupMember, MemberState, Membership, ShareQueue, Subscription};
use equeue_net::limits::{GROUP_MEMBERS_MAX, GROUPS_MAX, SUBSCRIPTIONS_MAX};

use super::shares::{self, Claim};

/// How long the members of a group that came from another coordinator, or survived a restart of this one, are waited
/// for: three of their heartbeats. After a restart it counts from when the broker serves.
const GATHER_MS: u64 = 3_000;

/// A client in its present start.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Name of the client.
    pub client_id: Arc<str>,
    /// Its start.
    pub incarnation: u128,
}

/// The connection that a heartbeat came on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Unique in the broker, never used again.
    pub id: u64,
    /// Where it comes from.
    pub address: String,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    told: Membership,
    conflicts: Vec<String>,
    /// What fell to it before the group's generation, as the others are told.
    share: Vec<ShareQueue>,
    seen_ms: u64,
    /// Order of joining.
    joined: u64,
    link: Link,
}

#[derive(Debug, Default)]
struct Group {
    generation: u64,
    /// The newest generation that a member told.
    known: u64,
    /// The newest of them that `generation` was made after.
    heard: u64,
    /// Members of before the coordinator started, or changed, are waited for until then.
    gathers_until_ms: u64,
    /// Counts changes.
    changes: u64,
    /// The changes that `generation` stands for.
    settled: Option<u64>,
    members: BTreeMap<Member, Entry>,
    /// The group's tags for each topic, in order.
    tags: BTreeMap<String, Vec<String>>,
    /// Versions of the topics' maps, as told last.
    versions: BTreeMap<String, u64>,
    joins: u64,
}

/// What a heartbeat comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The member is there.
    Known,
    /// Its lists are not known here.
    WantFull,
    /// There are too many groups or members, or the group subscribes to too many topics.
    Full,
}

/// A change of a group that needs a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    changes: u64,
    /// The new generation must be higher.
    pub above: u64,
}

/// What a member is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The generation.
    pub generation: u64,
    /// What it stands for, unless the member knows it.
    pub lists: Option<GroupLists>,
    /// Topics for which the member has other tags.
    pub conflicts: Vec<String>,
}

/// What a generation stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLists {
    /// The members, with what fell to each before.
    pub members: Vec<GroupMember>,
    /// Topics with the group's tags.
    pub topics: Vec<(String, Vec<String>)>,
}

/// The groups that a shard coordinates.
#[derive(Debug, Default)]
pub struct Registry {
    groups: HashMap<Arc<str>, Group>,
}

impl Registry {
    /// Nobody of this group has come since the start of the broker, which was a moment ago: if the group was here before,
    /// its members are on their way.
    pub fn may_return(&self, group: &str, now_ms: u64) -> bool {
        now_ms < GATHER_MS && !self.groups.contains_key(group)
    }

    /// A member says that it is there. `was_here`: the group was, before the broker was started.
    pub fn beat(
        &mut self,
        member: &Member,
        beat: &GroupHeartbeat,
        was_here: bool,
        link: Link,
        now_ms: u64,
    ) -> Joined {
        if let Some(group) = self.groups.get_mut(beat.group.as_str())
            && let Some(entry) = group.members.get_mut(member)
        {
            entry.seen_ms = now_ms;
            entry.link = link;
            group.known = group.known.max(beat.generation);
            let same = entry.hash == beat.hash;
            return match &beat.full {
                None if same => Joined::Known,
                None => Joined::WantFull,
                Some(told) if same && *told == entry.told => Joined::Known,
                Some(told) => group.change_member(member, beat.hash, told),
            };
        }
        let Some(told) = &beat.full else { return Joined::WantFull };
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(beat.group.as_str()) {
            return Joined::Full;
        }
        let group = self.groups.entry(Arc::from(beat.group.as_str())).or_default();
        // Once, so that nobody can prolong it. The first who come may be new, and say nothing of those on their way.
        if group.gathers_until_ms == 0 {
            if beat.generation > group.generation {
                group.gathers_until_ms = now_ms + GATHER_MS;
            } else if was_here && group.members.is_empty() {
                group.gathers_until_ms = GATHER_MS;
            }
        }
        group.known = group.known.max(beat.generation);
        let joined = group.join(member, beat.hash, told, link, now_ms);
        if group.members.is_empty() {
            self.groups.remove(beat.group.as_str());
        }
        joined
    }

    /// The group was elsewhere, or here before a restart, and its members are about to come: nobody is told a generation
    /// without them yet.
    pub fn gathers(&self, group: &str, now_ms: u64) -> bool {
        self.groups.get(group).is_some_and(|group| now_ms < group.gathers_until_ms)
    }

    /// Compares the versions of the group's topic maps with those told last; any number that differs with the map does.
    pub fn look_at_topics(&mut self, group: &str, version: impl Fn(&str) -> u64) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let now: BTreeMap<String, u64> =
            group.tags.keys().map(|topic| (topic.clone(), version(topic))).collect();
        if now != group.versions {
            group.versions = now;
            group.changes += 1;
        }
    }

    /// What needs a new generation before anything is told; `None`: nothing.
    pub fn unsettled(&self, group: &str) -> Option<Change> {
        let group = self.groups.get(group)?;
        // What a member claims is heard once: a claim that no generation can be above must not be asked for for ever.
        let is_settled =
            group.settled == Some(group.changes) && group.known <= group.heard.max(group.generation);
        (!is_settled).then_some(Change { changes: group.changes, above: group.known.max(group.generation) })
    }

    /// A generation for that change is durable.
    pub fn settle(&mut self, group: &str, change: Change, generation: u64) {
        if let Some(group) = self.groups.get_mut(group) {
            group.generation = group.generation.max(generation);
            group.settled = Some(change.changes);
            group.heard = group.heard.max(change.above);
            group.fix_shares();
        }
    }

    /// What a member is told that knows the generation `known`; `None`: it is none. To be asked when nothing is
    /// unsettled.
    pub fn view(&self, group: &str, member: &Member, known: u64) -> Option<View> {
        let group = self.groups.get(group)?;
        let me = group.members.get(member)?;
        let lists = (known != group.generation).then(|| GroupLists {
            members: group
                .members
                .iter()
                .map(|(member, entry)| GroupMember { share: entry.share.clone(), ..entry.told_of(member) })
                .collect(),
            topics: group.tags.iter().map(|(topic, tags)| (topic.clone(), tags.clone())).collect(),
        });
        Some(View { generation: group.generation, lists, conflicts: me.conflicts.clone() })
    }

    /// A member leaves; whether it was there.
    pub fn leave(&mut self, group: &str, member: &Member) -> bool {
        self.remove(group, |known, _| known == member) > 0
    }

    /// A connection closed. A member that was heard on another one since stays.
    pub fn closed(&mut self, group: &str, member: &Member, link: u64) -> bool {
        self.remove(group, |known, entry| known == member && entry.link.id == link) > 0
    }

    /// Members that have been silent for `session_ms` or longer are none any more; how many.
    pub fn expire(&mut self, now_ms: u64, session_ms: u64) -> usize {
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        let silent = |_: &Member, entry: &Entry| now_ms.saturating_sub(entry.seen_ms) >= session_ms;
        names.iter().map(|name| self.remove(name, silent)).sum()
    }

    fn remove(&mut self, name: &str, leaves: impl Fn(&Member, &Entry) -> bool) -> usize {
        let Some(group) = self.groups.get_mut(name) else { return 0 };
        let before = group.members.len();
        group.members.retain(|member, entry| !leaves(member, entry));
        let gone = before - group.members.len();
        if gone > 0 {
            group.changed();
        }
        if group.members.is_empty() {
            self.groups.remove(name);
        }
        gone
    }

    /// Number of members.
    pub fn members(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, |group| group.members.len())
    }

    /// Generation and members, for people.
    pub fn describe(&self, group: &str, now_ms: u64) -> (u64, Vec<MemberState>) {
        let Some(group) = self.groups.get(group) else { return (0, Vec::new()) };
        let state = |(member, entry): (&Member, &Entry)| MemberState {
            member: entry.told_of(member),
            address: entry.link.address.clone(),
            seen_ms_ago: now_ms.saturating_sub(entry.seen_ms),
        };
        (group.generation, group.members.iter().map(state).collect())
    }

    /// Every group that has members, with the topics that they want.
    pub fn groups(&self) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = &str>)> {
        self.groups.iter().map(|(name, group)| (name, group.tags.keys().map(String::as_str)))
    }
}

impl Entry {
    /// Without what fell to it: that is of the generation, the rest of now.
    fn told_of(&self, member: &Member) -> GroupMember {
        GroupMember {
            client_id: member.client_id.to_string(),
            incarnation: member.incarnation,
            topics: self.topics().map(str::to_owned).collect(),
            unreachable: self.told.unreachable.clone(),
            share: Vec::new(),
        }
    }

    /// Those without a conflict.
    fn topics(&self) -> impl Iterator<Item = &str> {
        let topics = self.told.subscriptions.iter().map(|subscription| subscription.topic.as_str());
        topics.filter(|topic| !self.conflicts.iter().any(|conflict| conflict == topic))
    }

    fn tags_of(&self, topic: &str) -> Option<Vec<String>> {
        let found = self.told.subscriptions.iter().find(|subscription| subscription.topic == topic)?;
        Some(in_order(&found.tags))
    }
}

fn in_order(tags: &[String]) -> Vec<String> {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    tags
}

impl Group {
    fn join(&mut self, member: &Member, hash: u64, told: &Membership, link: Link, now_ms: u64) -> Joined {
        if self.members.len() >= GROUP_MEMBERS_MAX || !self.has_room(told) {
            return Joined::Full;
        }
        self.joins += 1;
        let entry = Entry {
            hash,
            told: told.clone(),
            conflicts: Vec::new(),
            share: Vec::new(),
            seen_ms: now_ms,
            joined: self.joins,
            link,
        };
        self.members.insert(member.clone(), entry);
        self.replace_tags(&told.subscriptions);
        self.changed();
        Joined::Known
    }

    fn change_member(&mut self, member: &Member, hash: u64, told: &Membership) -> Joined {
        if !self.has_room(told) {
            return Joined::Full;
        }
        let Some(entry) = self.members.get_mut(member) else { return Joined::WantFull };
        entry.hash = hash;
        let before = std::mem::replace(&mut entry.told, told.clone());
        // What fell to a member follows from a generation and makes none.
        if before.subscriptions == told.subscriptions && before.unreachable == told.unreachable {
            return Joined::Known;
        }
        // Only what is new replaces: a list that is told again must not undo what another member did since.
        let new = told.subscriptions.iter().filter(|entry| !before.subscriptions.contains(entry));
        let new: Vec<Subscription> = new.cloned().collect();
        self.replace_tags(&new);
        self.changed();
        Joined::Known
    }

    /// What fell to whom until now is what the members of the next generation are told.
    fn fix_shares(&mut self) {
        let claims: Vec<Claim<'_>> = self
            .members
            .values()
            .map(|entry| Claim { told: &entry.told, topics: entry.topics().collect() })
            .collect();
        let shares = shares::settled(&claims);
        for (entry, share) in self.members.values_mut().zip(shares) {
            entry.share = share;
        }
    }

    /// Topics of all members together are bounded.
    fn has_room(&self, told: &Membership) -> bool {
        let new = told.subscriptions.iter().filter(|entry| !self.tags.contains_key(&entry.topic));
        self.tags.len() + new.count() <= SUBSCRIPTIONS_MAX
    }

    fn replace_tags(&mut self, told: &[Subscription]) {
        for subscription in told.iter().filter(|subscription| subscription.replace) {
            self.tags.insert(subscription.topic.clone(), in_order(&subscription.tags));
        }
    }

    /// Decides anew which tags are the group's: those that are, as long as a member wants them; then those of the member
    /// that joined first.
    fn changed(&mut self) {
        self.changes += 1;
        let mut members: Vec<&Entry> = self.members.values().collect();
        members.sort_unstable_by_key(|entry| entry.joined);
        let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for subscription in members.iter().flat_map(|entry| &entry.told.subscriptions) {
            let topic = &subscription.topic;
            if tags.contains_key(topic) {
                continue;
            }
            let present = self.tags.get(topic);
            let wanted = |tags: &&Vec<String>| {
                members.iter().any(|entry| entry.tags_of(topic).as_ref() == Some(*tags))
            };
            let chosen = present.filter(wanted).cloned().unwrap_or_else(|| in_order(&subscription.tags));
            tags.insert(topic.clone(), chosen);
        }
        self.tags = tags;
        for entry in self.members.values_mut() {
            let conflicts = entry.told.subscriptions.iter().filter(|subscription| {
                self.tags.get(&subscription.topic) != Some(&in_order(&subscription.tags))
            });
            entry.conflicts = conflicts.map(|subscription| subscription.topic.clone()).collect();
        }
    }
}

#[cfg(test)]
mod tests;
