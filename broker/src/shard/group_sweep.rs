//! What is looked at every second about groups: silent members, queues that nobody owns, groups that nobody uses.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use equeue_record::QueueKey;

use super::holds::{self, Writes};
use super::state::Shard;
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
/// The broker must have run for so long before it forgets a group: members may still come back after an outage.
const RUN_MS_MIN: u64 = 600_000;
/// Difference between the clocks' progress from which on times are not trusted.
const CLOCK_JUMP_MS: i64 = 3_600_000;

/// Looks. Never waits.
pub(crate) fn run(shard: &Rc<Shard>) {
    let now_ms = shard.lease_ms();
    let silent = shard.registry.borrow_mut().expire(now_ms, shard.broker.config.groups.session_ms);
    if silent > 0 {
        tracing::info!(shard = shard.index, members = silent, "members of groups were silent for too long");
    }
    look_for_unowned(shard, now_ms);
    let tick = shard.sweeps.get();
    shard.sweeps.set(tick + 1);
    if tick.is_multiple_of(OLD_EVERY) && tick > 0 {
        refresh(shard, now_ms);
        forget_old(shard, now_ms);
        let mut holders = HashSet::new();
        let holds = shard.holds.borrow();
        holders.extend(holds.iter().map(|(_, _, hold)| hold.grant.record().member));
        shard.member_names.borrow_mut().retain(|member, _| holders.contains(member));
    }
}

/// Queues that were owned once, of groups that are there, and are owned by nobody.
fn look_for_unowned(shard: &Shard, now_ms: u64) {
    let mut holds = shard.holds.borrow_mut();
    shard.stats.groups.set(holds.groups().count() as u64);
    let mut present: HashSet<Arc<str>> = holds
        .iter()
        .filter(|(_, _, hold)| hold.grant.is_live(now_ms))
        .map(|(_, name, _)| Arc::clone(name))
        .collect();
    present.extend(shard.registry.borrow().groups().map(|(name, ..)| Arc::clone(name)));
    if present.is_empty() {
        shard.stats.queues_unowned.set(0);
        return;
    }
    let mut unowned = 0;
    for (queue, name, hold) in holds.iter_mut() {
        let owned = hold.grant.is_live(now_ms) || hold.grant.record().grant_epoch == 0;
        let readable = shard.home(queue).is_some_and(|home| home.readable);
        if owned || !readable || !present.contains(name) {
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
            hold.grant.is_live(now_ms) && utc_ms - hold.grant.record().stored_ms > REFRESH_MS
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

/// Forgets groups that had no member and no commit for their retention, and warns before.
fn forget_old(shard: &Rc<Shard>, now_ms: u64) {
    let utc_ms = utc_ms();
    let passed_ms = i64::try_from(shard.now_ms()).unwrap_or(i64::MAX);
    let drift_ms = (utc_ms - shard.started_utc_ms - passed_ms).abs();
    if drift_ms > CLOCK_JUMP_MS {
        tracing::error!(
            drift_ms,
            "the clock of this machine jumped: no group is forgotten until the broker is restarted"
        );
        return;
    }
    let mut active: HashMap<Arc<str>, i64> = HashMap::new();
    for (_, name, hold) in shard.holds.borrow().iter() {
        let seen = if hold.grant.is_live(now_ms) { i64::MAX } else { hold.grant.record().stored_ms };
        let known = active.entry(Arc::clone(name)).or_insert(0);
        *known = (*known).max(seen);
    }
    let mut expiring = 0;
    for (name, seen_ms) in active {
        let retention_ms = shard.broker.config.groups.retention_ms(&name);
        let age_ms = utc_ms.saturating_sub(seen_ms);
        if age_ms <= retention_ms - retention_ms / 10 || shard.registry.borrow().members(&name) > 0 {
            continue;
        }
        expiring += 1;
        if age_ms > retention_ms && shard.now_ms() > RUN_MS_MIN {
            let shard_of_task = Rc::clone(shard);
            shard.spawn(async move {
                // Its members may be kept by another shard, and its queues be in use there.
                if !group_admin::is_unused(&shard_of_task, &name, retention_ms).await {
                    return;
                }
                match group_admin::drop_here(&shard_of_task, &name).await {
                    Ok(queues) => tracing::warn!(group = %name, queues, age_ms,
                        "group forgotten: nobody used it for its retention (groups.retention_hours)"),
                    Err(status) => {
                        tracing::warn!(group = %name, %status.code, status.detail, "an old group stays");
                    }
                }
            });
        } else if shard.warned.borrow_mut().insert(Arc::clone(&name)) {
            tracing::warn!(group = %name, age_ms, retention_ms, "nobody uses this group: its offsets will be forgotten soon");
        }
    }
    shard.stats.groups_expiring.set(expiring);
    let holds = shard.holds.borrow();
    shard.warned.borrow_mut().retain(|name| holds.group(name).is_some());
}
