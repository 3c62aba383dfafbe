//! What is looked at every second about groups: silent members, queues that nobody owns, groups that nobody uses.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use equeue_record::QueueKey;

use super::call::Call;
use super::generations;
use super::holds::{self, Writes};
use super::mesh::Pool;
use super::state::Shard;
use crate::group::{Fate, GroupTopics, clock_jump, fate};
use crate::handler::group_admin;
use crate::process::utc_ms;

/// A queue that nobody owns for longer than three rebalance intervals of 1 s is told of.
const UNOWNED_MS: u64 = 3_000;
/// Ticks between two looks at what is old.
const OLD_EVERY: u64 = 60;
/// A live grant is stored again after so long, so that its age tells when the group was last there.
const REFRESH_MS: i64 = 24 * 3_600_000;
/// Grants stored again at one look.
const REFRESH_MAX: usize = 1024;

/// Looks. Never waits.
pub(crate) fn run(shard: &Rc<Shard>) {
    let now_ms = shard.lease_ms();
    let silent = shard.registry.borrow_mut().expire(now_ms, shard.broker.config.groups.session_ms);
    if silent > 0 {
        tracing::info!(shard = shard.index, members = silent, "members of groups were silent for too long");
    }
    attend(shard, now_ms);
    look_for_unowned(shard, now_ms);
    let tick = shard.sweeps.get();
    shard.sweeps.set(tick + 1);
    if tick.is_multiple_of(OLD_EVERY) && tick > 0 {
        refresh(shard, now_ms);
        refresh_generations(shard);
        forget_old(shard, now_ms);
        let mut holders = HashSet::new();
        let holds = shard.holds.borrow();
        holders.extend(holds.iter().map(|(_, _, hold)| hold.grant.record().member));
        shard.member_names.borrow_mut().retain(|member, _| holders.contains(member));
    }
}

/// Looks which groups have somebody on this shard, and tells the others if that changed.
fn attend(shard: &Shard, now_ms: u64) {
    let holds = shard.holds.borrow();
    shard.stats.groups.set(holds.groups().count() as u64);
    let catalog = shard.catalog();
    let mut here = GroupTopics::new();
    for (queue, name, _) in holds.iter().filter(|(_, _, hold)| hold.grant.is_live(now_ms)) {
        let Some(topic) = catalog.topic_of(queue) else { continue };
        let known = here.get(name).is_some_and(|topics| topics.contains(&topic.name));
        if !known {
            here.entry(Arc::clone(name)).or_default().insert(Arc::clone(&topic.name));
        }
    }
    for (name, topics) in shard.registry.borrow().groups() {
        here.entry(Arc::clone(name)).or_default().extend(topics.map(Arc::from));
    }
    let mut attendance = shard.attendance.borrow_mut();
    attendance.saw(here, (0..shard.shards()).filter(|other| *other != shard.index));
    attendance.tell(|other, groups| {
        // Nobody waits for the answer.
        shard.mesh.ask(other, Pool::System, Call::GroupsAttended { groups }).is_ok()
    });
}

/// Queues that were owned once and are owned by nobody, of groups that are there for their topics.
fn look_for_unowned(shard: &Shard, now_ms: u64) {
    let mut holds = shard.holds.borrow_mut();
    let (attendance, catalog) = (shard.attendance.borrow(), shard.catalog());
    let mut unowned = 0;
    for (queue, name, hold) in holds.iter_mut() {
        let owned = hold.grant.is_live(now_ms) || hold.grant.record().grant_epoch == 0;
        let missed = !owned
            && catalog.queue(queue).is_some_and(|home| home.readable)
            && catalog.topic_of(queue).is_some_and(|topic| attendance.wants(name, &topic.name));
        if !missed {
            hold.unowned_since_ms = None;
            continue;
        }
        let Some(since_ms) = hold.unowned_since_ms else {
            hold.unowned_since_ms = Some(now_ms);
            continue;
        };
        let age_ms = now_ms.saturating_sub(since_ms);
        if age_ms > UNOWNED_MS {
            unowned += 1;
            if age_ms <= UNOWNED_MS + 1_500 {
                tracing::warn!(%queue, group = %name, age_ms, "no member of the group owns this queue");
            }
        }
    }
    shard.stats.queues_unowned.set(unowned);
}

/// Stores grants again that last without a commit.
fn refresh(shard: &Rc<Shard>, now_ms: u64) {
    let utc_ms = utc_ms();
    let mut old: HashMap<Arc<str>, Vec<QueueKey>> = HashMap::new();
    {
        let holds = shard.holds.borrow();
        let aged = holds.iter().filter(|(_, _, hold)| {
            hold.grant.is_live(now_ms) && utc_ms.saturating_sub(hold.grant.record().stored_ms) > REFRESH_MS
        });
        for (queue, name, _) in aged.take(REFRESH_MAX) {
            old.entry(Arc::clone(name)).or_default().push(queue);
        }
    }
    for (group, queues) in old {
        let mut writes = Writes::new(shard, &group);
        for queue in queues {
            if let Ok(spot) = holds::spot(shard, queue, &group) {
                writes.store(0, spot.place, queue, spot.grant);
            }
        }
        writes.append(shard);
    }
}

/// Stores generations again of groups that have members and do not change: their age tells the same.
fn refresh_generations(shard: &Rc<Shard>) {
    let utc_ms = utc_ms();
    let attendance = shard.attendance.borrow();
    let old = generations::all(shard).into_iter().filter(|(name, stored)| {
        utc_ms.saturating_sub(stored.stored_ms) > REFRESH_MS && attendance.has(name)
    });
    let old: Vec<Arc<str>> = old.map(|(name, _)| name).take(REFRESH_MAX).collect();
    if !old.is_empty() {
        let shard_of_task = Rc::clone(shard);
        shard.spawn(async move { generations::refresh(&shard_of_task, &old).await });
    }
}

/// Forgets groups that had no member and no commit for their retention, and warns before.
fn forget_old(shard: &Rc<Shard>, now_ms: u64) {
    let utc_ms = utc_ms();
    if let Some(drift_ms) = clock_jump(shard.started_utc_ms, utc_ms, shard.now_ms()) {
        tracing::error!(
            drift_ms,
            "the clock of this machine jumped: no group is forgotten until the broker is restarted"
        );
        return;
    }
    let mut active: HashMap<Arc<str>, i64> = HashMap::new();
    let mut note = |name: Arc<str>, seen_ms: i64| {
        let known = active.entry(name).or_insert(seen_ms);
        *known = (*known).max(seen_ms);
    };
    for (_, name, hold) in shard.holds.borrow().iter() {
        let seen_ms = if hold.grant.is_live(now_ms) { i64::MAX } else { hold.grant.record().stored_ms };
        note(Arc::clone(name), seen_ms);
    }
    for (name, stored) in generations::all(shard) {
        note(name, stored.stored_ms);
    }
    shard.warned.borrow_mut().retain(|name| active.contains_key(name));
    let mut expiring = 0;
    for (name, seen_ms) in active {
        let retention_ms = shard.broker.config.groups.retention_ms(&name);
        let fate = fate(seen_ms, utc_ms, retention_ms, shard.now_ms());
        if fate == Fate::Stays || shard.attendance.borrow().has(&name) {
            continue;
        }
        expiring += 1;
        let age_ms = utc_ms.saturating_sub(seen_ms);
        if fate == Fate::Over {
            let shard_of_task = Rc::clone(shard);
            shard.spawn(async move { forget(&shard_of_task, &name, retention_ms).await });
        } else if shard.warned.borrow_mut().insert(Arc::clone(&name)) {
            tracing::warn!(group = %name, age_ms, retention_ms, "nobody uses this group: its offsets will be forgotten soon");
        }
    }
    shard.stats.groups_expiring.set(expiring);
}

/// Forgets what this shard has of a group, unless another one knows better: its members may be kept there, and its
/// queues be in use.
async fn forget(shard: &Rc<Shard>, name: &Arc<str>, retention_ms: i64) {
    if !group_admin::is_unused(shard, name, retention_ms).await {
        return;
    }
    match group_admin::drop_here(shard, name).await {
        Ok(queues) => tracing::warn!(group = %name, queues,
            "group forgotten: nobody used it for its retention (groups.retention_hours)"),
        Err(status) => tracing::warn!(group = %name, %status.code, status.detail, "an old group stays"),
    }
}
