//! Headers of membership: who belongs to a group, and to what it subscribes.

use flatbuffers::{Vector, WIPOffset};

use super::read::{Check, incarnation, root};
use super::write::{self, Builder, Structs};
use crate::api::{
    DecodeError, GroupHeartbeat, GroupHeartbeatAnswer, GroupMember, GroupTopic, Kind, Membership, Message,
    ShareQueue, Subscription,
};
use crate::limits::{
    BROKERS_MAX, GROUP_MEMBERS_MAX, OFFSET_ITEMS_MAX, SUBSCRIPTION_TAGS_MAX, SUBSCRIPTIONS_MAX,
    TOPIC_QUEUES_MAX,
};
use crate::schema::wire;

fn subscription(b: &mut Builder, entry: &Subscription) -> WIPOffset<wire::Subscription<'static>> {
    let topic = b.create_string(&entry.topic);
    let tags = write::names(b, &entry.tags);
    wire::Subscription::create(
        b,
        &wire::SubscriptionArgs { topic: Some(topic), tags, replace: entry.replace },
    )
}

/// A member as the others see it.
pub(super) fn member(b: &mut Builder, entry: &GroupMember) -> WIPOffset<wire::GroupMember<'static>> {
    let client_id = write::text(b, &entry.client_id);
    let topics = write::names(b, &entry.topics);
    let unreachable = write::names(b, &entry.unreachable);
    let share = share(b, &entry.share);
    wire::GroupMember::create(
        b,
        &wire::GroupMemberArgs {
            client_id,
            incarnation: Some(&write::incarnation(entry.incarnation)),
            topics,
            unreachable,
            share,
        },
    )
}

fn share(b: &mut Builder, queues: &[ShareQueue]) -> Structs<wire::ShareQueue> {
    write::structs(b, queues.iter().map(|entry| wire::ShareQueue::new(entry.queue, entry.topic)))
}

fn topic(b: &mut Builder, entry: &GroupTopic) -> WIPOffset<wire::GroupTopic<'static>> {
    let name = b.create_shared_string(&entry.name);
    let tags = write::names(b, &entry.tags);
    let map = write::names(b, &entry.map);
    wire::GroupTopic::create(b, &wire::GroupTopicArgs { name: Some(name), tags, version: entry.version, map })
}

impl Check {
    /// A member of a group.
    pub(super) fn member(self, entry: wire::GroupMember<'_>) -> Result<GroupMember, DecodeError> {
        let topics = self.names("member.topics", entry.topics(), SUBSCRIPTIONS_MAX)?;
        Ok(GroupMember {
            client_id: self.name("member.client_id", entry.client_id())?,
            incarnation: incarnation(entry.incarnation()),
            unreachable: self.names("member.unreachable", entry.unreachable(), BROKERS_MAX)?,
            share: self.share("member.share", entry.share(), topics.len())?,
            topics,
        })
    }

    fn share(
        self,
        field: &'static str,
        queues: Option<Vector<'_, wire::ShareQueue>>,
        topics: usize,
    ) -> Result<Vec<ShareQueue>, DecodeError> {
        self.list(field, queues, OFFSET_ITEMS_MAX, |entry| {
            let known = usize::from(entry.topic()) < topics;
            let queue = ShareQueue { topic: entry.topic(), queue: entry.queue() };
            known.then_some(queue).ok_or_else(|| self.refuse(field))
        })
    }

    fn subscription(self, entry: wire::Subscription<'_>) -> Result<Subscription, DecodeError> {
        Ok(Subscription {
            topic: self.required_name("subscription.topic", entry.topic())?,
            tags: self.names("subscription.tags", entry.tags(), SUBSCRIPTION_TAGS_MAX)?,
            replace: entry.replace(),
        })
    }

    fn group_topic(self, entry: wire::GroupTopic<'_>) -> Result<GroupTopic, DecodeError> {
        Ok(GroupTopic {
            name: self.required_name("topic.name", entry.name())?,
            tags: self.names("topic.tags", entry.tags(), SUBSCRIPTION_TAGS_MAX)?,
            version: entry.version(),
            map: self.names("topic.map", entry.map(), TOPIC_QUEUES_MAX)?,
        })
    }
}

impl Message for GroupHeartbeat {
    const KIND: Kind = Kind::GroupHeartbeat;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let none = Membership::default();
            let told = self.full.as_ref().unwrap_or(&none);
            let subscriptions = write::tables(b, &told.subscriptions, subscription);
            let unreachable = write::names(b, &told.unreachable);
            let share = share(b, &told.share);
            wire::GroupHeartbeat::create(
                b,
                &wire::GroupHeartbeatArgs {
                    group: Some(group),
                    generation: self.generation,
                    membership_hash: self.hash,
                    full: self.full.is_some(),
                    subscriptions,
                    unreachable,
                    share,
                    share_generation: told.share_generation,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GroupHeartbeat<'_>>(Self::KIND, header)?;
        let subscriptions =
            check.list("subscriptions", table.subscriptions(), SUBSCRIPTIONS_MAX, |entry| {
                check.subscription(entry)
            })?;
        let unreachable = check.names("unreachable", table.unreachable(), BROKERS_MAX)?;
        let mut topics: Vec<&str> = subscriptions.iter().map(|entry| entry.topic.as_str()).collect();
        topics.sort_unstable();
        if !topics.is_sorted_by(|before, after| before < after) {
            return Err(check.refuse("subscriptions.topic"));
        }
        let share = check.share("share", table.share(), subscriptions.len())?;
        let share_generation = table.share_generation();
        let told = !subscriptions.is_empty() || !unreachable.is_empty() || share_generation > 0;
        if told && !table.full() {
            return Err(check.refuse("full"));
        }
        Ok(Self {
            group: check.required_name("group", table.group())?,
            generation: table.generation(),
            hash: table.membership_hash(),
            full: table.full().then_some(Membership { subscriptions, unreachable, share, share_generation }),
        })
    }
}

impl Message for GroupHeartbeatAnswer {
    const KIND: Kind = Kind::GroupHeartbeat;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let members = write::tables(b, &self.members, member);
            let topics = write::tables(b, &self.topics, topic);
            let conflicts = write::names(b, &self.conflicts);
            wire::GroupHeartbeatAnswer::create(
                b,
                &wire::GroupHeartbeatAnswerArgs {
                    status: Some(&status),
                    detail,
                    generation: self.generation,
                    session_ms: self.session_ms,
                    lease_ms: self.lease_ms,
                    want_full: self.want_full,
                    changed: self.changed,
                    members,
                    topics,
                    conflicts,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GroupHeartbeatAnswer<'_>>(Self::KIND, header)?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            generation: table.generation(),
            session_ms: table.session_ms(),
            lease_ms: table.lease_ms(),
            want_full: table.want_full(),
            changed: table.changed(),
            members: check
                .list("members", table.members(), GROUP_MEMBERS_MAX, |entry| check.member(entry))?,
            topics: check
                .list("topics", table.topics(), SUBSCRIPTIONS_MAX, |entry| check.group_topic(entry))?,
            conflicts: check.names("conflicts", table.conflicts(), SUBSCRIPTIONS_MAX)?,
        })
    }
}

write::one_name! { LeaveGroup LeaveGroupArgs group; }
write::status_only! { LeaveGroupAnswer LeaveGroupAnswerArgs LeaveGroup; }
