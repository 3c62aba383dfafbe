//! Offsets: commits of groups, what they committed, first, last and by time.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::{
    CommitItem, CommitOffsets, CommitOffsetsAnswer, CommitOutcome, FetchOffsets, FetchOffsetsAnswer,
    ListOffsets, ListOffsetsAnswer, ListOffsetsOutcome, OffsetAt, Status,
};
use equeue_record::{Offset, QueueKey};
use equeue_storage::log::{AppendError, AtomicPart, ReadError};

use super::spawn_answer;
use crate::group::{CommitDecision, Progress, decide_commit, group_name_is_valid};
use crate::shard::answers::{Tickets, note};
use crate::shard::call::{Call, Reply};
use crate::shard::catalog::ENTRIES_MAX;
use crate::shard::router::Scatter;
use crate::shard::session::Session;
use crate::shard::state::{LogHost, Shard};
use crate::state_key;

pub(crate) fn invalid_group(name: &str) -> Status {
    Status::new(Code::Invalid, format!("`{name}` cannot be a group's name"))
}

/// Serves a commit, wherever its queues are.
pub(crate) fn commit(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: CommitOffsets) {
    if !group_name_is_valid(&request.group) {
        return session.fail::<CommitOffsetsAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let scatter = Scatter {
        queue: |item: &CommitItem| item.queue,
        call: Box::new(move |items| Call::Commit { group: Arc::clone(&group), items }),
        read: |reply| if let Reply::Committed(told) = reply { Some(told) } else { None },
        missing: |item, code| outcome(item.queue, code, None),
    };
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
    let scatter = Scatter {
        queue: |queue: &QueueKey| *queue,
        call: Box::new(move |queues| Call::FetchOffsets { group: Arc::clone(&group), queues }),
        read: |reply| if let Reply::Committed(told) = reply { Some(told) } else { None },
        missing: |queue, code| outcome(*queue, code, None),
    };
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

fn outcome(queue: QueueKey, code: Code, progress: Option<Progress>) -> CommitOutcome {
    let progress = progress.unwrap_or_default();
    CommitOutcome { queue, code, committed: progress.committed, grant_epoch: progress.grant_epoch }
}

/// The log of a queue of this shard, or what is told instead.
pub(crate) fn host_of(shard: &Shard, queue: QueueKey) -> Result<(usize, &LogHost), Code> {
    let home = shard.home(queue).ok_or_else(|| shard.unknown_queue(queue))?;
    shard.log_of(&home).ok_or(Code::Internal)
}

/// What is durable of a group in a queue.
fn durable_progress(host: &LogHost, key: &[u8]) -> Result<Option<Progress>, Code> {
    let Some(value) = host.log.state(key) else { return Ok(None) };
    let progress = Progress::decode(&value);
    if progress.is_none() {
        tracing::error!(?key, "a stored group offset has a layout that this build does not know");
    }
    progress.map(Some).ok_or(Code::Internal)
}

/// What is in force of a group in a queue: appended, or durable.
pub(crate) fn current_progress(host: &LogHost, key: &[u8]) -> Result<Option<Progress>, Code> {
    let pending = host.offsets.borrow().pending(key);
    match pending {
        Some((progress, _)) => Ok(Some(progress)),
        None => durable_progress(host, key),
    }
}

/// Commits in queues of this shard; ends when it is durable.
pub(crate) async fn commit_here(shard: &Rc<Shard>, group: &str, items: &[CommitItem]) -> Vec<CommitOutcome> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut tickets = Tickets::new();
    for items in items.chunks(ENTRIES_MAX) {
        append_commits(shard, group, items, &mut outcomes, &mut tickets);
    }
    for (place, ticket) in tickets {
        let Some(host) = shard.logs.get(place) else { continue };
        if host.log.wait_durable(ticket).await.is_err() {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.code == Code::Ok) {
                outcome.code = Code::LogFailed;
            }
        }
    }
    outcomes
}

/// Entries for one log, and the outcomes (by place) that depend on them.
#[derive(Default)]
struct Entries {
    parts: Vec<(Vec<u8>, Progress)>,
    places: Vec<usize>,
}

fn append_commits(
    shard: &Shard,
    group: &str,
    items: &[CommitItem],
    outcomes: &mut Vec<CommitOutcome>,
    tickets: &mut Tickets,
) {
    let mut entries: Vec<Entries> = shard.logs.iter().map(|_| Entries::default()).collect();
    for item in items {
        let decided = decide(shard, group, item, tickets);
        let told = match decided {
            Err(code) => outcome(item.queue, code, None),
            Ok((place, key, CommitDecision::Store(progress), _)) => {
                if let Some(of_log) = entries.get_mut(place) {
                    of_log.parts.push((key, progress));
                    of_log.places.push(outcomes.len());
                }
                outcome(item.queue, Code::Ok, Some(progress))
            }
            Ok((.., CommitDecision::Keep, current)) => outcome(item.queue, Code::Ok, current),
            Ok((.., CommitDecision::Refuse(code), current)) => outcome(item.queue, code, current),
        };
        outcomes.push(told);
    }
    for (place, (host, entries)) in shard.logs.iter().zip(entries).enumerate() {
        if entries.parts.is_empty() {
            continue;
        }
        match append(host, entries.parts) {
            Ok(ticket) => {
                shard.stats.offsets_committed.add(entries.places.len() as u64);
                note(tickets, place, ticket);
            }
            Err(error) => {
                let code = crate::shard::catalog::status_of(&error).code;
                for at in entries.places {
                    if let Some(outcome) = outcomes.get_mut(at) {
                        *outcome = CommitOutcome { code, committed: None, ..*outcome };
                    }
                }
            }
        }
    }
}

type Decided = (usize, Vec<u8>, CommitDecision, Option<Progress>);

/// Decides on one commit; one that rests on a value on its way waits for it.
fn decide(shard: &Shard, group: &str, item: &CommitItem, tickets: &mut Tickets) -> Result<Decided, Code> {
    let (place, host) = host_of(shard, item.queue)?;
    if shard.broker.writes_stopped() {
        return Err(Code::LogFailed);
    }
    let key = state_key::group_offset(item.queue, group);
    let pending = host.offsets.borrow().pending(&key);
    let current = match pending {
        Some((progress, ticket)) => {
            note(tickets, place, ticket);
            Some(progress)
        }
        None => durable_progress(host, &key)?,
    };
    let bounds = host.log.bounds(item.queue).ok_or(Code::QueueNotFound)?;
    Ok((place, key, decide_commit(current, item, bounds), current))
}

fn append(host: &LogHost, parts: Vec<(Vec<u8>, Progress)>) -> Result<equeue_storage::Ticket, AppendError> {
    let part = |(key, progress): &(Vec<u8>, Progress)| AtomicPart::State {
        key: Bytes::copy_from_slice(key),
        value: Some(Bytes::from(progress.encode())),
    };
    let ticket = host.log.append_atomic(parts.iter().map(part).collect())?;
    let mut offsets = host.offsets.borrow_mut();
    for (key, progress) in parts {
        offsets.appended(key, progress, ticket);
    }
    Ok(ticket)
}

/// What is durable of a group in queues of this shard.
pub(crate) fn fetch_here(shard: &Shard, group: &str, queues: &[QueueKey]) -> Vec<CommitOutcome> {
    let one = |queue: QueueKey| {
        let (_, host) = host_of(shard, queue)?;
        durable_progress(host, &state_key::group_offset(queue, group))
    };
    let told = |queue: &QueueKey| match one(*queue) {
        Ok(progress) => outcome(*queue, Code::Ok, progress),
        Err(code) => outcome(*queue, code, None),
    };
    queues.iter().map(told).collect()
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
