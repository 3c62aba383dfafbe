//! Offsets: commits of groups, what they committed, first, last and by time.

use std::rc::Rc;
use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{
    CommitItem, CommitOffsets, CommitOffsetsAnswer, CommitOutcome, FetchOffsets, FetchOffsetsAnswer,
    ListOffsets, ListOffsetsAnswer, ListOffsetsOutcome, OffsetAt, ReleaseItem, Status,
};
use equeue_record::{Offset, QueueKey};
use equeue_storage::log::ReadError;

use super::spawn_answer;
use crate::group::{CommitDecision, Progress, group_name_is_valid};
use crate::shard::call::{Call, Reply};
use crate::shard::holds::{self, Writes, host_of};
use crate::shard::router::Scatter;
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// What is told of a name that no group can have.
pub(crate) fn invalid_group(name: &str) -> Status {
    Status::new(Code::Invalid, format!("`{name}` cannot be a group's name"))
}

/// An item of a request whose outcome tells where a group is in a queue.
pub(crate) trait OfQueue {
    /// The queue.
    fn queue(&self) -> QueueKey;
}

impl OfQueue for CommitItem {
    fn queue(&self) -> QueueKey {
        self.queue
    }
}

impl OfQueue for ReleaseItem {
    fn queue(&self) -> QueueKey {
        self.queue
    }
}

impl OfQueue for QueueKey {
    fn queue(&self) -> QueueKey {
        *self
    }
}

/// A request on such items that is split over the shards of their queues.
pub(crate) fn scatter<I: OfQueue>(call: impl Fn(Vec<I>) -> Call + 'static) -> Scatter<I, CommitOutcome> {
    Scatter {
        queue: I::queue,
        call: Box::new(call),
        read: |reply| if let Reply::Committed(told) = reply { Some(told) } else { None },
        missing: |item, code| commit_outcome(item.queue(), code, None),
    }
}

/// Serves a commit, wherever its queues are.
pub(crate) fn commit(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: CommitOffsets) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<CommitOffsetsAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let member = session.member().incarnation;
    let scatter = scatter(move |items| Call::Commit { group: Arc::clone(&group), member, items });
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let outcomes = scatter.run(&shard_of_task, request.items).await;
        CommitOffsetsAnswer { status: Status::OK, outcomes }
    });
}

/// Serves a question for committed offsets.
pub(crate) fn fetch(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: FetchOffsets) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<FetchOffsetsAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let scatter = scatter(move |queues| Call::FetchOffsets { group: Arc::clone(&group), queues });
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let outcomes = scatter.run(&shard_of_task, request.queues).await;
        FetchOffsetsAnswer { status: Status::OK, outcomes }
    });
}

/// Serves a question for offsets of queues.
pub(crate) fn list(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: ListOffsets) {
    let scatter = Scatter {
        queue: |item: &(QueueKey, OffsetAt)| item.0,
        call: Box::new(|items| Call::ListOffsets { items }),
        read: |reply| if let Reply::Listed(told) = reply { Some(told) } else { None },
        missing: |item, code| ListOffsetsOutcome { queue: item.0, code, offset: Offset(0) },
    };
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let outcomes = scatter.run(&shard_of_task, request.items).await;
        ListOffsetsAnswer { status: Status::OK, outcomes }
    });
}

/// What is told of a group in a queue.
pub(crate) fn commit_outcome(queue: QueueKey, code: Code, progress: Option<Progress>) -> CommitOutcome {
    let progress = progress.unwrap_or_default();
    CommitOutcome { queue, code, committed: progress.committed, grant_epoch: progress.grant_epoch }
}

/// Takes back what was not made durable.
pub(crate) fn fail(outcomes: &mut [CommitOutcome], failed: Vec<(usize, Code)>) {
    for (item, code) in failed {
        if let Some(outcome) = outcomes.get_mut(item) {
            *outcome = commit_outcome(outcome.queue, code, None);
        }
    }
}

/// Commits in queues of this shard; ends when it is durable.
pub(crate) async fn commit_here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    member: u128,
    items: &[CommitItem],
) -> Vec<CommitOutcome> {
    let (now_ms, rules) = (shard.lease_ms(), shard.group_rules());
    let mut writes = Writes::new(shard, group);
    let mut outcomes = Vec::with_capacity(items.len());
    let mut stored = 0;
    for (place, item) in items.iter().enumerate() {
        let mut spot = match holds::spot(shard, item.queue, group) {
            Ok(spot) => spot,
            Err(code) => {
                outcomes.push(commit_outcome(item.queue, code, None));
                continue;
            }
        };
        let by = (member, item.grant_epoch);
        let decided = spot.grant.commit(by, (item.offset, item.tries), spot.bounds, now_ms, rules);
        stored += u64::from(matches!(decided, CommitDecision::Store(_)));
        let record = spot.grant.record();
        let code = writes.note(shard, place, item.queue, spot, decided);
        outcomes.push(commit_outcome(item.queue, code, Some(record)));
    }
    writes.append(shard);
    let failed = writes.durable(shard).await;
    shard.stats.offsets_committed.add(stored.saturating_sub(failed.len() as u64));
    fail(&mut outcomes, failed);
    outcomes
}

/// Where a group is in queues of this shard, durably.
pub(crate) async fn fetch_here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    queues: &[QueueKey],
) -> Vec<CommitOutcome> {
    let mut writes = Writes::new(shard, group);
    let mut outcomes = Vec::with_capacity(queues.len());
    for (item, queue) in queues.iter().enumerate() {
        outcomes.push(match host_of(shard, *queue) {
            Ok((place, _)) => {
                let (grant, ticket) = shard.holds.borrow().grant(*queue, group);
                writes.rest(item, place, ticket);
                commit_outcome(*queue, Code::Ok, Some(grant.record()))
            }
            Err(code) => commit_outcome(*queue, code, None),
        });
    }
    fail(&mut outcomes, writes.durable(shard).await);
    outcomes
}

/// Offsets of queues of this shard.
pub(crate) async fn list_here(shard: &Rc<Shard>, items: &[(QueueKey, OffsetAt)]) -> Vec<ListOffsetsOutcome> {
    let mut outcomes = Vec::with_capacity(items.len());
    for (queue, at) in items {
        let (code, offset) = match offset_at(shard, *queue, *at).await {
            Ok(offset) => (Code::Ok, offset),
            Err(code) => (code, Offset(0)),
        };
        outcomes.push(ListOffsetsOutcome { queue: *queue, code, offset });
    }
    outcomes
}

async fn offset_at(shard: &Rc<Shard>, queue: QueueKey, at: OffsetAt) -> Result<Offset, Code> {
    let log = host_of(shard, queue)?.1.log.clone();
    let bounds = log.bounds(queue).ok_or(Code::QueueNotFound)?;
    match at {
        OffsetAt::First => Ok(bounds.start),
        OffsetAt::Last => Ok(bounds.durable_end),
        OffsetAt::Time(time_ms) => log.offset_at_time(queue, time_ms).await.map_err(|error| {
            tracing::error!(%queue, %error, "an offset could not be found by time");
            if matches!(error, ReadError::Damaged { .. }) { Code::DataDamaged } else { Code::Internal }
        }),
    }
}
