//! Membership of groups: heartbeats to the shard that keeps a group, leaving, closed connections.
//!
//! **Invariant**: a generation is told once it is durable, together with the lists that it stands for and no others.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{
    GroupHeartbeat, GroupHeartbeatAnswer, GroupTopic, LeaveGroup, LeaveGroupAnswer, Status, group_shard,
};

use super::grants::{leave_here, told_ms};
use super::offsets::invalid_group;
use super::{RETRY_MS, spawn_answer};
use crate::group::{Change, Joined, Link, Member, group_name_is_valid};
use crate::shard::call::{Call, Reply};
use crate::shard::mesh::Pool;
use crate::shard::serve::execute;
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// A generation that a member claims counts as no more than this: so there is always room for the next one.
const GENERATION_CLAIM_MAX: u64 = 1 << 62;
/// Generations made for one heartbeat while the group goes on changing.
const TRIES_MAX: usize = 8;
/// Groups that one connection may be a member of.
const CONNECTION_GROUPS_MAX: usize = 64;

/// Serves a heartbeat of a member.
pub(crate) fn heartbeat(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, beat: GroupHeartbeat) {
    let fail = |status| session.fail::<GroupHeartbeatAnswer>(correlation, status);
    if !group_name_is_valid(&beat.group) {
        return fail(invalid_group(&beat.group));
    }
    let to = group_shard(&beat.group, shard.shards());
    {
        let mut groups = session.groups.borrow_mut();
        if groups.len() >= CONNECTION_GROUPS_MAX && !groups.contains_key(beat.group.as_str()) {
            let detail = format!("one connection belongs to at most {CONNECTION_GROUPS_MAX} groups");
            return fail(Status::new(Code::Invalid, detail));
        }
        groups.insert(Arc::from(beat.group.as_str()), to);
    }
    let link = Link { id: link_id(shard, session), address: session.link.peer().to_string() };
    let call = Call::GroupBeat { member: session.member(), link, beat };
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        match ask(&shard_of_task, to, call).await {
            Some(Reply::GroupBeaten(answer)) => answer,
            _ => GroupHeartbeatAnswer {
                status: Status::busy(RETRY_MS, "the shard of this group has too much to do"),
                ..GroupHeartbeatAnswer::default()
            },
        }
    });
}

fn link_id(shard: &Shard, session: &Session) -> u64 {
    (u64::from(shard.index) << 48) | session.id
}

/// Asks one shard, this one included.
pub(crate) async fn ask(shard: &Rc<Shard>, to: u16, call: Call) -> Option<Reply> {
    if to == shard.index {
        return Some(Box::pin(execute(shard, call)).await);
    }
    shard.mesh.ask(to, Pool::Quick, call).ok()?.await.ok()
}

/// Takes a heartbeat of a member of a group of this shard.
pub(crate) async fn beat_here(
    shard: &Rc<Shard>,
    member: &Member,
    link: Link,
    beat: &GroupHeartbeat,
) -> GroupHeartbeatAnswer {
    let config = &shard.broker.config.groups;
    let mut answer = GroupHeartbeatAnswer {
        session_ms: told_ms(config.session_ms),
        lease_ms: told_ms(config.lease_ms),
        ..GroupHeartbeatAnswer::default()
    };
    let was_here = match was_here(shard, &beat.group).await {
        Ok(was_here) => was_here,
        Err(status) => {
            answer.status = status;
            return answer;
        }
    };
    let joined = shard.registry.borrow_mut().beat(member, beat, was_here, link, shard.lease_ms());
    match joined {
        Joined::Known => {}
        Joined::WantFull => {
            answer.want_full = true;
            return answer;
        }
        Joined::Full => {
            let detail = "there are too many groups, or members or topics of this group, on its coordinator";
            answer.status = Status::busy(1_000, detail);
            return answer;
        }
    }
    if shard.registry.borrow().gathers(&beat.group, shard.lease_ms()) {
        answer.generation = beat.generation; // nothing new is known: it keeps what it has
        return answer;
    }
    if let Err(status) = settle(shard, &beat.group).await {
        answer.status = status;
        return answer;
    }
    let Some(view) = shard.registry.borrow().view(&beat.group, member, beat.generation) else {
        answer.want_full = true; // it left, or its connection closed, while the generation was made
        return answer;
    };
    answer.generation = view.generation;
    answer.conflicts = view.conflicts;
    answer.changed = view.lists.is_some();
    if let Some(lists) = view.lists {
        let catalog = shard.catalog();
        let topic = |(name, tags): (String, Vec<String>)| {
            let known = catalog.topic(&name);
            GroupTopic {
                tags,
                version: known.map_or(0, |topic| topic.version),
                map: known.map_or_else(Vec::new, |topic| topic.map.iter().map(ToString::to_string).collect()),
                name,
            }
        };
        answer.topics = lists.topics.into_iter().map(topic).collect();
        answer.members = lists.members;
    }
    answer
}

/// Whether members of before the start of this broker may come back to a group; `false`: they have, or had the time.
async fn was_here(shard: &Rc<Shard>, group: &str) -> Result<bool, Status> {
    if !shard.registry.borrow().may_return(group, shard.lease_ms()) {
        return Ok(false);
    }
    match ask(shard, 0, Call::Generation { group: Arc::from(group) }).await {
        Some(Reply::Generation(stored)) => Ok(stored? > 0),
        _ => Err(Status::busy(RETRY_MS, "shard 0 has too much to do")),
    }
}

/// Makes generations until one stands for the group as it is.
async fn settle(shard: &Rc<Shard>, group: &str) -> Result<(), Status> {
    for _ in 0..TRIES_MAX {
        let Some(_) = unsettled(shard, group) else { return Ok(()) };
        let _turn = shard.generation_change.lock().await;
        let Some(change) = unsettled(shard, group) else { return Ok(()) };
        let above = change.above.min(GENERATION_CLAIM_MAX);
        let call = Call::RaiseGeneration { group: Arc::from(group), above };
        match ask(shard, 0, call).await {
            Some(Reply::Generation(Ok(generation))) => {
                shard.registry.borrow_mut().settle(group, change, generation);
            }
            Some(Reply::Generation(Err(status))) => return Err(status),
            _ => return Err(Status::busy(RETRY_MS, "shard 0 has too much to do")),
        }
    }
    Err(Status::busy(RETRY_MS, format!("group `{group}` changes all the time")))
}

fn unsettled(shard: &Shard, group: &str) -> Option<Change> {
    let catalog = shard.catalog();
    let mut registry = shard.registry.borrow_mut();
    registry.look_at_topics(group, |topic| {
        catalog.topic(topic).map_or(0, |topic| {
            // A topic that is made anew begins at version 1 again, perhaps with other queues.
            let mut hasher = DefaultHasher::new();
            (topic.version, &topic.map).hash(&mut hasher);
            hasher.finish()
        })
    });
    registry.unsettled(group)
}

/// Serves a farewell: on every shard, so that whatever the member has on this broker is free.
pub(crate) fn leave(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: LeaveGroup) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<LeaveGroupAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    session.groups.borrow_mut().remove(&group);
    session.held.borrow_mut().remove(&group);
    let (member, shard_of_task) = (session.member(), Rc::clone(shard));
    spawn_answer(shard, session, correlation, async move {
        let mut status = Status::OK;
        for to in 0..shard_of_task.shards() {
            let call = Call::Leave { group: Arc::clone(&group), member: member.clone() };
            if ask(&shard_of_task, to, call).await.is_none() {
                status =
                    Status::busy(RETRY_MS, "a shard has too much to do; its grants end with their leases");
            }
        }
        LeaveGroupAnswer { status }
    });
}

/// A member leaves this shard.
pub(crate) async fn leave_shard(shard: &Rc<Shard>, group: &Arc<str>, member: &Member) {
    shard.registry.borrow_mut().leave(group, member);
    leave_here(shard, group, member.incarnation).await;
}

/// A connection is closed: its member leaves the groups that it heartbeat for on it, but keeps its grants.
pub(crate) fn closed(shard: &Rc<Shard>, session: &Session) {
    let groups = session.groups.take();
    if !shard.broker.config.groups.rebalance_on_close {
        return;
    }
    let (member, link) = (session.member(), link_id(shard, session));
    for (group, to) in groups {
        if to == shard.index {
            shard.registry.borrow_mut().closed(&group, &member, link);
        } else {
            // Without a credit the member is missed when it has been silent long enough.
            let _ =
                shard.mesh.ask(to, Pool::System, Call::GroupClosed { group, member: member.clone(), link });
        }
    }
}
