//! Consumer groups: who belongs to one, and what its members subscribe to.
//!
//! A *member* is a client id with an incarnation, as Hello told them; it may have many connections. Membership is told
//! to one shard of the group's coordinator.

use super::{Request, Status};

/// The shard of its coordinator that keeps the members of a group.
pub fn group_shard(group: &str, shards: u16) -> u16 {
    let shard = equeue_record::key_hash(group.as_bytes()) % u32::from(shards.max(1));
    u16::try_from(shard).expect("a remainder of a u16 fits it")
}

/// What a member wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Only messages with one of these tags; empty: all.
    pub tags: Vec<String>,
    /// Where the group has other tags for this topic: make these the group's. Otherwise it is a conflict.
    pub replace: bool,
}

/// Joins a group, and stays in it; every second, to shard [`group_shard`] of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group; `group@instance` for an instance of a broadcast group.
    pub group: String,
    /// The newest generation that the member knows; 0: none. Members and topics are told only when it differs.
    pub generation: u64,
    /// Hash of what [`Membership`] holds; chosen by the member.
    pub hash: u64,
    /// The lists are told here; `None`: as before, with the same hash.
    pub full: Option<Membership>,
}

/// What a member tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// What it wants; a topic at most once.
    pub subscriptions: Vec<Subscription>,
    /// Brokers that it cannot reach: their queues are left out of its share.
    pub unreachable: Vec<String>,
    /// What fell to it last: indexes of topics are into `subscriptions`.
    pub share: Vec<ShareQueue>,
    /// The generation in which it did.
    pub share_generation: u64,
}

/// A queue that fell to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareQueue {
    /// Index of the topic among the member's.
    pub topic: u16,
    /// What the members know the queue by in its topic: its ordinal, or a hash of its key in a hidden topic.
    pub queue: u32,
}

/// A member as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Name of the client.
    pub client_id: String,
    /// Its start.
    pub incarnation: u128,
    /// Topics that it is subscribed to without a conflict.
    pub topics: Vec<String>,
    /// Brokers that it cannot reach.
    pub unreachable: Vec<String>,
    /// What fell to it before this generation, a queue to one member at most: indexes of topics are into `topics`.
    pub share: Vec<ShareQueue>,
}

/// A topic of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTopic {
    /// Its name.
    pub name: String,
    /// The group's tags for it; empty: all messages.
    pub tags: Vec<String>,
    /// Version of the map; 0: the coordinator does not know the topic.
    pub version: u64,
    /// Which broker has which ordinal; index = ordinal.
    pub map: Vec<String>,
}

/// Answer to [`GroupHeartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHeartbeatAnswer {
    /// What became of it.
    pub status: Status,
    /// The group's generation: raised by each change of members, subscriptions or topics, durable before it is told.
    pub generation: u64,
    /// A member that is silent for so long is no member any more, ms.
    pub session_ms: u32,
    /// How long a grant lasts without a [`super::LeaseHeartbeat`], ms.
    pub lease_ms: u32,
    /// The hash is not the one known here: tell the lists.
    pub want_full: bool,
    /// The lists below are those of `generation`; otherwise the member's generation is the newest and they are empty.
    pub changed: bool,
    /// By client id and incarnation.
    pub members: Vec<GroupMember>,
    /// By name.
    pub topics: Vec<GroupTopic>,
    /// Topics for which the group has other tags than this member: it gets none of their queues.
    pub conflicts: Vec<String>,
}

/// Leaves a group: to the coordinator, and to every broker that granted something. Grants of the member on that broker
/// end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaveGroup {
    /// The group.
    pub group: String,
}

/// Answer to [`LeaveGroup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaveGroupAnswer {
    /// OK also when it was no member.
    pub status: Status,
}

impl Request for GroupHeartbeat {
    type Answer = GroupHeartbeatAnswer;
}
impl Request for LeaveGroup {
    type Answer = LeaveGroupAnswer;
}
