//! What operators ask about groups and do to them: each shard answers for its own queues.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::{
    DeleteGroup, DeleteGroupAnswer, DescribeGroup, DescribeGroupAnswer, GrantHolder, GroupQueueState,
    GroupSummary, ListGroups, ListGroupsAnswer, MemberState, ResetOffsets, ResetOffsetsAnswer, ResetOutcome,
    Status,
};
use equeue_net::limits::GROUPS_MAX;
use equeue_record::{Offset, QueueKey};
use equeue_storage::Ticket;
use equeue_storage::log::{AtomicPart, QueueBounds};

use super::groups::ask;
use super::offsets::invalid_group;
use super::{RETRY_MS, fetch, spawn_answer};
use crate::fetch::Source as _;
use crate::group::{CommitDecision, Grant, Hold, group_name_is_valid};
use crate::process::utc_ms;
use crate::shard::call::{Call, Reply};
use crate::shard::catalog::{ENTRIES_MAX, status_of};
use crate::shard::generations;
use crate::shard::holds::{self, Writes};
use crate::shard::router::Scatter;
use crate::shard::session::Session;
use crate::shard::state::{LogHost, Shard};
use crate::state_key;

/// When a group is to be deleted again whose members may come back.
const AFTER_START_MS: u32 = 1_000;

/// What one shard knows of one group.
#[derive(Clone, Debug)]
pub(crate) struct GroupHere {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) members: Vec<MemberState>,
    /// With the holder; the topic index is not set.
    pub(crate) queues: Vec<(GroupQueueState, Option<GrantHolder>)>,
    /// When it last had a member or a commit here, ms UTC.
    pub(crate) active_ms: i64,
}

/// What this shard knows of all groups, or of one.
pub(crate) fn groups_here(shard: &Shard, only: Option<&Arc<str>>) -> Vec<GroupHere> {
    let (now_ms, utc_ms) = (shard.lease_ms(), utc_ms());
    let mut groups: BTreeMap<Arc<str>, GroupHere> = BTreeMap::new();
    let empty = |name: &Arc<str>| GroupHere {
        name: Arc::clone(name),
        generation: 0,
        members: Vec::new(),
        queues: Vec::new(),
        active_ms: 0,
    };
    let registry = shard.registry.borrow();
    for (name, ..) in registry.groups().filter(|(name, ..)| only.is_none_or(|only| only == *name)) {
        let (generation, members) = registry.describe(name, now_ms);
        groups.insert(Arc::clone(name), GroupHere { generation, members, active_ms: utc_ms, ..empty(name) });
    }
    let stored = match only {
        Some(only) => {
            generations::of(shard, only).map(|stored| (Arc::clone(only), stored)).into_iter().collect()
        }
        None => generations::all(shard),
    };
    for (name, stored) in stored {
        let here = groups.entry(name).or_insert_with_key(empty);
        here.generation = here.generation.max(stored.generation);
        here.active_ms = here.active_ms.max(stored.stored_ms);
    }
    let holds = shard.holds.borrow();
    for (queue, name, hold) in holds.iter().filter(|(_, name, _)| only.is_none_or(|only| only == *name)) {
        let Some(bounds) = shard.bounds(queue) else { continue };
        let here = groups.entry(Arc::clone(name)).or_insert_with(|| empty(name));
        let active_ms = if hold.grant.is_live(now_ms) { utc_ms } else { hold.grant.record().stored_ms };
        here.active_ms = here.active_ms.max(active_ms);
        here.queues.push(queue_state(shard, queue, hold, bounds, now_ms));
    }
    groups.into_values().collect()
}

fn queue_state(
    shard: &Shard,
    queue: QueueKey,
    hold: &Hold,
    bounds: QueueBounds,
    now_ms: u64,
) -> (GroupQueueState, Option<GrantHolder>) {
    let record = hold.grant.record();
    let state = GroupQueueState {
        queue,
        topic: 0,
        ordinal: shard.home(queue).map_or(0, |home| home.ordinal),
        holder: None,
        grant_epoch: record.grant_epoch,
        lease_left_ms: super::grants::told_ms(hold.grant.lease_left_ms(now_ms)),
        committed: record.committed,
        committed_ms: hold.committed_ms,
        rate_milli: hold.rate_milli(now_ms),
        cached: if hold.grant.is_live(now_ms) { hold.cached } else { 0 },
        start_offset: bounds.start,
        high_watermark: bounds.durable_end,
    };
    let holder = hold.grant.is_live(now_ms).then(|| GrantHolder {
        client_id: shard
            .member_names
            .borrow()
            .get(&record.member)
            .map_or_else(String::new, ToString::to_string),
        incarnation: record.member,
    });
    (state, holder)
}

/// What all shards know, put together by group.
async fn gather(shard: &Rc<Shard>, only: Option<Arc<str>>) -> Result<BTreeMap<Arc<str>, GroupHere>, Status> {
    let mut groups: BTreeMap<Arc<str>, GroupHere> = BTreeMap::new();
    for to in 0..shard.shards() {
        let Some(Reply::Groups(more)) = ask(shard, to, Call::Groups { only: only.clone() }).await else {
            return Err(Status::busy(RETRY_MS, format!("shard {to} has too much to do")));
        };
        for group in more {
            match groups.entry(Arc::clone(&group.name)) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(group);
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.generation = known.generation.max(group.generation);
                    known.active_ms = known.active_ms.max(group.active_ms);
                    known.members.extend(group.members);
                    known.queues.extend(group.queues);
                }
            }
        }
    }
    Ok(groups)
}

impl GroupHere {
    /// Members that heartbeat here, or at least hold something here.
    fn members_count(&self) -> usize {
        let mut present: Vec<u128> = self.members.iter().map(|state| state.member.incarnation).collect();
        present.extend(self.queues.iter().filter_map(|(_, holder)| Some(holder.as_ref()?.incarnation)));
        present.sort_unstable();
        present.dedup();
        present.len()
    }

    fn summary(&self, retention_ms: i64) -> GroupSummary {
        let lag = |(state, _): &(GroupQueueState, Option<GrantHolder>)| {
            let from = state.committed.unwrap_or(state.start_offset).max(state.start_offset);
            state.high_watermark.0.saturating_sub(from.0)
        };
        let members = self.members_count();
        GroupSummary {
            name: self.name.to_string(),
            members: u32::try_from(members).unwrap_or(u32::MAX),
            queues: u32::try_from(self.queues.len()).unwrap_or(u32::MAX),
            lag: self.queues.iter().map(lag).sum(),
            generation: self.generation,
            active_ms: self.active_ms,
            expires_ms: if members > 0 { 0 } else { self.active_ms.saturating_add(retention_ms) },
        }
    }
}

/// Serves `ListGroups`.
pub(crate) fn list(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, _: &ListGroups) {
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let config = &shard_of_task.broker.config.groups;
        match gather(&shard_of_task, None).await {
            Ok(groups) => {
                let groups = groups.values().take(GROUPS_MAX);
                let groups = groups.map(|group| group.summary(config.retention_ms(&group.name))).collect();
                ListGroupsAnswer { status: Status::OK, groups }
            }
            Err(status) => ListGroupsAnswer { status, groups: Vec::new() },
        }
    });
}

/// Serves `DescribeGroup`.
pub(crate) fn describe(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: &DescribeGroup) {
    let name: Arc<str> = Arc::from(request.group.as_str());
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let gathered = gather(&shard_of_task, Some(Arc::clone(&name))).await;
        match gathered.map(|mut groups| groups.remove(&name)) {
            Ok(Some(group)) => described(&shard_of_task, group),
            Ok(None) => DescribeGroupAnswer { status: not_found(&name), ..DescribeGroupAnswer::default() },
            Err(status) => DescribeGroupAnswer { status, ..DescribeGroupAnswer::default() },
        }
    });
}

fn not_found(name: &str) -> Status {
    Status::new(
        Code::GroupNotFound,
        format!("group `{name}` has no members, offsets, grants or generation on this broker"),
    )
}

fn described(shard: &Shard, group: GroupHere) -> DescribeGroupAnswer {
    let catalog = shard.catalog();
    let mut topic_of: HashMap<QueueKey, &Arc<str>> = HashMap::new();
    for topic in catalog.topics() {
        topic_of.extend(topic.queues.iter().map(|home| (home.key, &topic.name)));
    }
    let mut answer = DescribeGroupAnswer {
        generation: group.generation,
        members: group.members,
        ..DescribeGroupAnswer::default()
    };
    for (mut state, holder) in group.queues {
        let Some(topic) = topic_of.get(&state.queue) else { continue };
        let is_topic = |known: &String| known.as_str() == topic.as_ref();
        let Some(index) = place_of(&mut answer.topics, is_topic, || topic.to_string()) else { break };
        state.topic = index;
        state.holder = holder.and_then(|holder| {
            let incarnation = holder.incarnation;
            place_of(&mut answer.holders, |known| known.incarnation == incarnation, || holder)
        });
        answer.queues.push(state);
    }
    let topics = &answer.topics;
    answer.queues.sort_by(|one, two| {
        let name = |state: &GroupQueueState| topics.get(usize::from(state.topic)).cloned();
        (name(one), one.ordinal).cmp(&(name(two), two.ordinal))
    });
    answer
}

/// The place of an entry in a list, put there if it is not; `None`: a u16 does not count so far.
fn place_of<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Option<u16> {
    let place = list.iter().position(is).unwrap_or(list.len());
    let index = u16::try_from(place).ok().filter(|index| *index < u16::MAX)?;
    if place == list.len() {
        list.push(make());
    }
    Some(index)
}

/// Serves `DeleteGroup`: nothing is forgotten unless nobody is there on any shard.
pub(crate) fn delete(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: &DeleteGroup) {
    let name: Arc<str> = Arc::from(request.group.as_str());
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        DeleteGroupAnswer {
            status: delete_everywhere(&shard_of_task, &name).await.err().unwrap_or(Status::OK),
        }
    });
}

async fn delete_everywhere(shard: &Rc<Shard>, name: &Arc<str>) -> Result<(), Status> {
    let group = gather(shard, Some(Arc::clone(name))).await?.remove(name);
    let group = group.ok_or_else(|| not_found(name))?;
    let present = group.members_count();
    if present > 0 {
        return Err(is_active(name, present));
    }
    let was_here = group.generation > 0 && group.active_ms < shard.started_utc_ms;
    if was_here && shard.registry.borrow().may_return(name, shard.lease_ms()) {
        let detail = format!("the broker has just been started: members of group `{name}` may come back");
        return Err(Status::busy(AFTER_START_MS, detail));
    }
    for to in 0..shard.shards() {
        match ask(shard, to, Call::DropGroup { group: Arc::clone(name) }).await {
            Some(Reply::Dropped(result)) => result?,
            _ => {
                return Err(Status::busy(
                    RETRY_MS,
                    format!("shard {to} has too much to do; delete it again"),
                ));
            }
        };
    }
    tracing::info!(group = %name, "group deleted");
    Ok(())
}

fn is_active(name: &str, present: usize) -> Status {
    Status::new(
        Code::GroupActive,
        format!("group `{name}` has {present} members; stop them, or wait until their leases end"),
    )
}

/// Whether a group has nobody on any shard, and had nobody for `age_ms`.
pub(crate) async fn is_unused(shard: &Rc<Shard>, name: &Arc<str>, age_ms: i64) -> bool {
    let Ok(mut groups) = gather(shard, Some(Arc::clone(name))).await else { return false };
    let old =
        |group: GroupHere| group.members_count() == 0 && utc_ms().saturating_sub(group.active_ms) > age_ms;
    groups.remove(name).is_some_and(old)
}

/// Forgets a group on this shard, unless somebody is there; ends when it is durable. Gives how many queues it had.
pub(crate) async fn drop_here(shard: &Rc<Shard>, name: &Arc<str>) -> Result<usize, Status> {
    let now_ms = shard.lease_ms();
    let entries = shard.holds.borrow().of_group(name);
    let live = entries.iter().filter(|(_, hold)| hold.grant.is_live(now_ms)).count();
    let members = shard.registry.borrow().members(name);
    if live + members > 0 {
        return Err(is_active(name, live.max(members)));
    }
    let mut waits = Vec::new();
    let mut failed = None;
    for (place, host) in shard.logs.iter().enumerate() {
        let here = |queue: &QueueKey| holds::host_of(shard, *queue).is_ok_and(|(of, _)| of == place);
        let queues: Vec<QueueKey> = entries.iter().map(|(queue, _)| *queue).filter(here).collect();
        let mut others = Vec::new();
        let generation = state_key::group_generation(name);
        if shard.index == 0 && place == 0 && host.log.state(&generation).is_some() {
            others.push(generation);
        }
        for queue in &queues {
            others.extend(marks(host, *queue, name));
        }
        // Marks first: without them a message may be handed back twice, but never be taken for handed back.
        let mut appended = remove(host, &others);
        for queues in queues.chunks(ENTRIES_MAX) {
            let Ok(ticket) = appended else { break };
            waits.push((place, ticket));
            let keys: Vec<Vec<u8>> =
                queues.iter().map(|queue| state_key::group_offset(*queue, name)).collect();
            appended = remove(host, &keys);
            if appended.is_ok() {
                let mut holds = shard.holds.borrow_mut();
                for queue in queues {
                    holds.remove(*queue, name);
                }
            }
        }
        match appended {
            Ok(ticket) => waits.push((place, ticket)),
            Err(status) => failed = Some(status),
        }
    }
    for (place, ticket) in waits {
        if let Some(host) = shard.logs.get(place) {
            host.log.wait_durable(ticket).await.map_err(|error| status_of(&error))?;
        }
    }
    failed.map_or(Ok(entries.len()), Err)
}

/// The keys of what a group has handed back in a queue.
fn marks(host: &LogHost, queue: QueueKey, group: &str) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let prefix = state_key::handed_back_by(queue, group);
    host.log.state_with_prefix(&prefix, &mut |key, _| keys.push(key.to_vec()));
    keys
}

/// Appends the end of entries; gives the ticket of the last of them.
fn remove(host: &LogHost, keys: &[Vec<u8>]) -> Result<Ticket, Status> {
    let mut last = Ticket::default();
    for keys in keys.chunks(ENTRIES_MAX) {
        let part = |key: &Vec<u8>| AtomicPart::State { key: Bytes::copy_from_slice(key), value: None };
        let parts = keys.iter().map(part).collect();
        last = host.log.append_atomic(parts).map_err(|error| status_of(&error))?;
    }
    Ok(last)
}

/// Serves `ResetOffsets`, wherever the queues are.
pub(crate) fn reset(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: ResetOffsets) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<ResetOffsetsAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let dry_run = request.dry_run;
    if !dry_run {
        tracing::info!(group = %group, queues = request.items.len(), "offsets are reset");
    }
    let scatter = Scatter {
        queue: |item: &(QueueKey, Offset)| item.0,
        call: Box::new(move |items| Call::Reset { group: Arc::clone(&group), dry_run, items }),
        read: |reply| if let Reply::Reset(told) = reply { Some(told) } else { None },
        missing: |item, code| reset_outcome(item.0, code, (Grant::default(), Grant::default()), None),
    };
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let outcomes = scatter.run(&shard_of_task, request.items).await;
        ResetOffsetsAnswer { status: Status::OK, outcomes }
    });
}

fn reset_outcome(
    queue: QueueKey,
    code: Code,
    (before, after): (Grant, Grant),
    bounds: Option<QueueBounds>,
) -> ResetOutcome {
    ResetOutcome {
        queue,
        code,
        before: before.record().committed,
        after: after.record().committed.unwrap_or_default(),
        grant_epoch: after.record().grant_epoch,
        start_offset: bounds.map_or(Offset(0), |bounds| bounds.start),
        high_watermark: bounds.map_or(Offset(0), |bounds| bounds.durable_end),
    }
}

/// Resets offsets in queues of this shard; ends when it is durable, and those who read under the old grants are told.
pub(crate) async fn reset_here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    dry_run: bool,
    items: &[(QueueKey, Offset)],
) -> Vec<ResetOutcome> {
    let mut writes = Writes::new(shard, group);
    let mut outcomes = Vec::with_capacity(items.len());
    for (item, (queue, offset)) in items.iter().enumerate() {
        let spot = match holds::spot(shard, *queue, group) {
            Ok(spot) => spot,
            Err(code) => {
                outcomes.push(reset_outcome(*queue, code, Default::default(), None));
                continue;
            }
        };
        let mut grant = spot.grant;
        let code = match grant.reset(*offset, spot.bounds) {
            CommitDecision::Store(_) if !dry_run => {
                // What comes again may fail again, and then must be handed back again.
                match holds::host_of(shard, *queue).map(|(_, host)| remove(host, &marks(host, *queue, group)))
                {
                    Ok(Ok(_)) => {
                        writes.store(item, spot.place, *queue, grant);
                        Code::Ok
                    }
                    Ok(Err(status)) => status.code,
                    Err(code) => code,
                }
            }
            CommitDecision::Store(_) | CommitDecision::Keep => Code::Ok,
            CommitDecision::Refuse(code) => code,
        };
        outcomes.push(reset_outcome(*queue, code, (spot.grant, grant), Some(spot.bounds)));
    }
    writes.append(shard);
    for (item, code) in writes.durable(shard).await {
        if let Some(outcome) = outcomes.get_mut(item) {
            outcome.code = code;
        }
    }
    if !dry_run {
        let queues: Vec<QueueKey> = items.iter().map(|(queue, _)| *queue).collect();
        fetch::wake(shard, &queues);
    }
    outcomes
}
