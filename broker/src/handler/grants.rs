//! Queues that members of groups own: asked for, kept by heartbeats, given up.
//!
//! **Invariants**: a grant is told once it is durable; a wish for a queue that is held waits on the shard of the queue and
//! nowhere else (for queues of other shards it asks now and then); what a closed connection had asked for is not waited for.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use equeue_net::Code;
use equeue_net::api::{
    CommitOutcome, GrantOutcome, GrantQueues, GrantQueuesAnswer, HeldQueue, LeaseHeartbeat,
    LeaseHeartbeatAnswer, OffsetReset, ReleaseItem, ReleaseQueues, ReleaseQueuesAnswer, Status, Tries,
};
use equeue_record::{Offset, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::log::QueueBounds;
use futures::future::select;

use super::offsets::{commit_outcome, invalid_group, scatter};
use super::{RETRY_MS, fetch, spawn_answer};
use crate::broker::Phase;
use crate::group::{Ask, Beat, Member, group_name_is_valid};
use crate::shard::call::{Call, Reply};
use crate::shard::holds::{self, Writes};
use crate::shard::router::Scatter;
use crate::shard::session::{Held, Session};
use crate::shard::state::Shard;

/// Longest wait for a queue that is held.
const WAIT_MS_MAX: u32 = 30_000;
/// How often a wish looks whether a lease has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same, for queues of other shards.
const LOOK_EVERY_ELSEWHERE: Duration = Duration::from_millis(500);
/// Groups that one connection may hold queues for.
const GROUPS_MAX: usize = 64;

/// A number of milliseconds as it is told.
pub(crate) fn told_ms(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// A queue to keep, and what its owner has of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    held: HeldQueue,
    /// Messages fetched and not handled.
    cached: u32,
}

/// Serves a heartbeat for queues, wherever they are.
pub(crate) fn lease(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: LeaseHeartbeat) {
    let fail = |status| session.fail::<LeaseHeartbeatAnswer>(correlation, status);
    if !group_name_is_valid(&request.group) {
        return fail(invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let lease_ms = told_ms(shard.broker.config.groups.lease_ms);
    let held = match remember(session, &group, request.hash, request.held) {
        Ok(Some(held)) => held,
        Ok(None) => {
            let answer =
                LeaseHeartbeatAnswer { want_full: true, lease_ms, ..LeaseHeartbeatAnswer::default() };
            return session.answer(correlation, &answer);
        }
        Err(status) => return fail(status),
    };
    let (member, generation) = (session.member().incarnation, request.generation);
    let cached: HashMap<QueueKey, u32> =
        request.cached.iter().map(|cached| (cached.queue, cached.messages)).collect();
    let kept = |held: &HeldQueue| Kept { held: *held, cached: cached.get(&held.queue).copied().unwrap_or(0) };
    let kept: Vec<Kept> = held.iter().map(kept).collect();
    let scatter = Scatter {
        queue: |kept: &Kept| kept.held.queue,
        call: Box::new(move |held| Call::Beat { group: Arc::clone(&group), member, generation, held }),
        read: |reply| if let Reply::Beaten(told) = reply { Some(told) } else { None },
        missing: |_, code| Err(code),
    };
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let told = scatter.run(&shard_of_task, kept).await;
        let mut answer = LeaseHeartbeatAnswer { lease_ms, ..LeaseHeartbeatAnswer::default() };
        for (held, told) in held.iter().zip(told) {
            match told {
                Ok(Beat::Kept) => {}
                Ok(Beat::Release) => answer.release.push(held.queue),
                Ok(Beat::Reset { grant_epoch, offset }) => {
                    answer.reset.push(OffsetReset { queue: held.queue, offset, grant_epoch });
                }
                Ok(Beat::Lost) | Err(Code::QueueNotFound | Code::NotOwner) => answer.lost.push(held.queue),
                // Neither extended nor lost: to be asked again.
                Err(code) => {
                    let detail = format!("queue {}: {}", held.queue, code.text());
                    answer.status = Status { retry_after_ms: RETRY_MS, ..Status::new(code, detail) };
                }
            }
        }
        answer
    });
}

/// The list that a heartbeat stands for; `None`: it is not known here.
fn remember(
    session: &Session,
    group: &Arc<str>,
    hash: u64,
    told: Option<Vec<HeldQueue>>,
) -> Result<Option<Rc<[HeldQueue]>>, Status> {
    let mut held = session.held.borrow_mut();
    let Some(queues) = told else {
        let known = held.get(group).filter(|known| known.hash == hash);
        return Ok(known.map(|known| Rc::clone(&known.queues)));
    };
    if held.len() >= GROUPS_MAX && !held.contains_key(group) {
        let detail = format!("one connection holds queues for at most {GROUPS_MAX} groups");
        return Err(Status::new(Code::Invalid, detail));
    }
    let queues: Rc<[HeldQueue]> = Rc::from(queues);
    held.insert(Arc::clone(group), Held { hash, queues: Rc::clone(&queues) });
    Ok(Some(queues))
}

/// Extends leases of queues of this shard. What is told is durable when this ends.
pub(crate) async fn beat_here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    member: u128,
    generation: u64,
    kept: &[Kept],
) -> Vec<Result<Beat, Code>> {
    let (now_ms, rules) = (shard.lease_ms(), shard.group_rules());
    let mut writes = Writes::new(shard, group);
    let mut told = Vec::with_capacity(kept.len());
    for (item, Kept { held, cached }) in kept.iter().enumerate() {
        let spot = holds::spot_to_read(shard, held.queue, group);
        told.push(spot.map(|mut spot| {
            let beat = spot.grant.beat(member, held.grant_epoch, generation, now_ms, rules);
            if beat != Beat::Lost {
                shard.holds.borrow_mut().beaten(held.queue, group, spot.grant, *cached);
            }
            if matches!(beat, Beat::Reset { .. }) {
                writes.rest(item, spot.place, spot.ticket);
            }
            beat
        }));
    }
    for (item, code) in writes.durable(shard).await {
        if let Some(told) = told.get_mut(item) {
            *told = Err(code);
        }
    }
    told
}

/// Serves wishes for queues, wherever they are.
pub(crate) fn grant(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: GrantQueues) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<GrantQueuesAnswer>(correlation, invalid_group(&request.group));
    }
    let lease_ms = shard.broker.config.groups.lease_ms;
    let wish =
        Wish { group: Arc::from(request.group), member: session.member(), generation: request.generation };
    let elsewhere = request.queues.iter().any(|queue| shard.other_shard(*queue).is_some());
    let shard_of_task = Rc::clone(shard);
    if !elsewhere {
        let wait_ms = u64::from(request.wait_ms_max.min(WAIT_MS_MAX));
        return spawn_answer(shard, session, correlation, async move {
            let (outcomes, waited_ms) = wait_for(&shard_of_task, &wish, &request.queues, wait_ms).await;
            GrantQueuesAnswer { status: Status::OK, lease_ms: told_ms(lease_ms + waited_ms), outcomes }
        });
    }
    let wait_ms = u64::from(request.wait_ms_max.min(WAIT_MS_MAX));
    spawn_answer(shard, session, correlation, async move {
        let begun_ms = shard_of_task.now_ms();
        loop {
            let wish = wish.clone();
            let scatter = Scatter {
                queue: |queue: &QueueKey| *queue,
                call: Box::new(move |queues| Call::Grant { wish: wish.clone(), queues }),
                read: |reply| if let Reply::Granted(told) = reply { Some(told) } else { None },
                missing: |queue, code| refused(*queue, code, None),
            };
            let waited_ms = shard_of_task.now_ms().saturating_sub(begun_ms);
            let outcomes = scatter.run(&shard_of_task, request.queues.clone()).await;
            if is_over(&shard_of_task, &outcomes, waited_ms, wait_ms) {
                return GrantQueuesAnswer {
                    status: Status::OK,
                    lease_ms: told_ms(lease_ms + waited_ms),
                    outcomes,
                };
            }
            shard_of_task.io.sleep(LOOK_EVERY_ELSEWHERE).await;
        }
    });
}

/// Who wants queues.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) group: Arc<str>,
    pub(crate) member: Member,
    pub(crate) generation: u64,
}

/// Asks until one queue is granted or refused; gives how long it waited before the last decision.
async fn wait_for(
    shard: &Rc<Shard>,
    wish: &Wish,
    queues: &[QueueKey],
    wait_ms: u64,
) -> (Vec<GrantOutcome>, u64) {
    let begun_ms = shard.now_ms();
    loop {
        let heard = shard.released.heard();
        let waited_ms = shard.now_ms().saturating_sub(begun_ms);
        let outcomes = grant_here(shard, wish, queues).await;
        if is_over(shard, &outcomes, waited_ms, wait_ms) {
            return (outcomes, waited_ms);
        }
        select(heard, std::pin::pin!(shard.io.sleep(LOOK_EVERY))).await;
    }
}

/// Whether a wish is answered now: something is decided, or it has waited long enough.
fn is_over(shard: &Shard, outcomes: &[GrantOutcome], waited_ms: u64, wait_ms: u64) -> bool {
    let all_held = outcomes.iter().all(|outcome| outcome.code == Code::QueueHeld);
    !all_held || outcomes.is_empty() || waited_ms >= wait_ms || shard.broker.phase() == Phase::Stopping
}

fn refused(queue: QueueKey, code: Code, bounds: Option<QueueBounds>) -> GrantOutcome {
    GrantOutcome {
        queue,
        code,
        grant_epoch: 0,
        committed: None,
        start_offset: bounds.map_or(Offset(0), |bounds| bounds.start),
        high_watermark: bounds.map_or(Offset(0), |bounds| bounds.durable_end),
        tries: Tries::default(),
    }
}

/// Grants queues of this shard as far as they are free; ends when it is durable.
pub(crate) async fn grant_here(shard: &Rc<Shard>, wish: &Wish, queues: &[QueueKey]) -> Vec<GrantOutcome> {
    let mut writes = Writes::new(shard, &wish.group);
    let mut outcomes = Vec::with_capacity(queues.len());
    for (item, queue) in queues.iter().enumerate() {
        outcomes.push(decide_grant(shard, wish, *queue, item, &mut writes));
    }
    writes.append(shard);
    for (item, code) in writes.durable(shard).await {
        if let Some(outcome) = outcomes.get_mut(item) {
            *outcome = GrantOutcome { code, grant_epoch: 0, committed: None, ..*outcome };
        }
    }
    let granted = outcomes.iter().filter(|outcome| outcome.code == Code::Ok);
    let changed: Vec<QueueKey> = granted.map(|outcome| outcome.queue).collect();
    if !changed.is_empty() {
        shard.stats.grants.add(changed.len() as u64);
        let name = Arc::clone(&wish.member.client_id);
        shard.member_names.borrow_mut().insert(wish.member.incarnation, name);
        fetch::wake(shard, &changed); // whoever had it before is told so
    }
    outcomes
}

fn decide_grant(
    shard: &Shard,
    wish: &Wish,
    queue: QueueKey,
    item: usize,
    writes: &mut Writes,
) -> GrantOutcome {
    let mut spot = match holds::spot(shard, queue, &wish.group) {
        Ok(spot) => spot,
        Err(code) => return refused(queue, code, None),
    };
    let bounds = Some(spot.bounds);
    if shard.home(queue).is_some_and(|home| !home.readable) {
        return refused(queue, Code::QueueHidden, bounds);
    }
    let now_ms = shard.lease_ms();
    let asked = spot.grant.ask(wish.member.incarnation, wish.generation, now_ms, shard.group_rules());
    match asked {
        Ask::Store(_) => writes.store(item, spot.place, queue, spot.grant),
        Ask::Again => writes.rest(item, spot.place, spot.ticket),
        Ask::Held | Ask::Stale | Ask::UsedUp => {}
    }
    if !matches!(asked, Ask::Store(_)) {
        shard.holds.borrow_mut().update(queue, &wish.group, spot.grant);
    }
    let record = spot.grant.record();
    let granted = GrantOutcome {
        code: Code::Ok,
        grant_epoch: record.grant_epoch,
        committed: record.committed,
        tries: record.tries,
        ..refused(queue, Code::Ok, bounds)
    };
    match asked {
        Ask::Store(_) | Ask::Again => granted,
        Ask::Held => refused(queue, Code::QueueHeld, bounds),
        Ask::Stale => refused(queue, Code::StaleGeneration, bounds),
        Ask::UsedUp => refused(queue, Code::Internal, bounds),
    }
}

/// Serves releases, wherever the queues are.
pub(crate) fn release(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: ReleaseQueues) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<ReleaseQueuesAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let member = session.member().incarnation;
    let scatter = scatter(move |items| Call::Release { group: Arc::clone(&group), member, items });
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let outcomes = scatter.run(&shard_of_task, request.items).await;
        ReleaseQueuesAnswer { status: Status::OK, outcomes }
    });
}

/// Releases queues of this shard; ends when it is durable.
pub(crate) async fn release_here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    member: u128,
    items: &[ReleaseItem],
) -> Vec<CommitOutcome> {
    let rules = shard.group_rules();
    let mut writes = Writes::new(shard, group);
    let mut outcomes = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let mut spot = match holds::spot(shard, item.queue, group) {
            Ok(spot) => spot,
            Err(code) => {
                outcomes.push(commit_outcome(item.queue, code, None));
                continue;
            }
        };
        let commit = item.commit.map(|offset| (offset, item.tries));
        let decided = spot.grant.release((member, item.grant_epoch), commit, spot.bounds, rules);
        let record = spot.grant.record();
        let code = writes.note(shard, place, item.queue, spot, decided);
        outcomes.push(commit_outcome(item.queue, code, Some(record)));
    }
    writes.append(shard);
    shard.released.ring();
    super::offsets::fail(&mut outcomes, writes.durable(shard).await);
    outcomes
}

/// Frees what a member has on this shard; ends when it is durable.
pub(crate) async fn leave_here(shard: &Rc<Shard>, group: &Arc<str>, member: u128) {
    let held = shard.holds.borrow().of_group(group);
    let mut writes = Writes::new(shard, group);
    for (item, (queue, hold)) in held.into_iter().enumerate() {
        let mut grant = hold.grant;
        if let Ok((place, _)) = holds::host_of(shard, queue)
            && grant.leave(member).is_some()
        {
            writes.store(item, place, queue, grant);
        }
    }
    writes.append(shard);
    shard.released.ring();
    for (_, code) in writes.durable(shard).await {
        tracing::warn!(group = %group, %code, "a queue of a member that left is free only when its lease ends");
    }
}
