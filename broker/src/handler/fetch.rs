//! Fetch: answered from memory inside the read of the request; parked when there is nothing; a task when the disk or the
//! connection's room must be waited for.
//!
//! **Invariants**: between finding nothing and parking nothing is awaited, so no flush is missed; a connection has at
//! most one task that reads the disk for it; a fetch is answered once.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use equeue_net::api::{FetchAnswer, FetchRef, Status};
use equeue_net::frame::Frame;
use equeue_net::{Code, put_fetch_answer};
use equeue_record::QueueKey;
use equeue_storage::log::ReadError;

use super::RETRY_MS;
use crate::broker::Phase;
use crate::fetch::{FetchJob, Gather, Gathered, Step};
use crate::long_poll::OwnerId;
use crate::shard::call::Reply;
use crate::shard::router;
use crate::shard::session::{Session, SlowFetch};
use crate::shard::state::Shard;

/// Fetches of one connection that wait for the disk or for room.
const SLOW_FETCHES_MAX: usize = 256;
/// Set in the owner of a fetch that is done for another connection's shard.
const PEER_OWNER: OwnerId = 1 << 63;

/// Where an answer goes.
pub(crate) enum FetchTo {
    /// To a connection of this shard.
    Session { session: Rc<Session>, correlation: u32 },
    /// To whoever put several shards' answers together.
    Other {
        owner: OwnerId,
        /// Not wanted any more: to be answered at once.
        cancelled: Rc<Cell<bool>>,
        reply: Box<dyn FnOnce(Reply)>,
    },
}

/// A fetch that waits for messages.
pub(crate) struct ParkedFetch {
    job: FetchJob,
    to: FetchTo,
}

impl FetchTo {
    fn owner(&self) -> OwnerId {
        match self {
            Self::Session { session, .. } => session.id,
            Self::Other { owner, .. } => *owner,
        }
    }

    /// Waiting makes no sense any more.
    fn is_over(&self) -> bool {
        match self {
            Self::Session { session, .. } => session.link.is_closed(),
            Self::Other { cancelled, .. } => cancelled.get(),
        }
    }
}

/// Serves a Fetch request.
pub(crate) fn handle(shard: &Rc<Shard>, session: &Rc<Session>, frame: &Frame) {
    let correlation = frame.head.correlation;
    let invalid =
        |detail: String| session.fail::<FetchAnswer>(correlation, Status::new(Code::Invalid, detail));
    let request = match FetchRef::decode(&frame.header) {
        Ok(request) => request,
        Err(error) => return invalid(error.to_string()),
    };
    shard.stats.fetch_requests.add(1);
    let limits = &shard.broker.config.net;
    let wait_ms = request.wait_ms_max().min(limits.fetch_wait_ms_max);
    let deadline_ms = if wait_ms == 0 { 0 } else { shard.now_ms() + u64::from(wait_ms) };
    let member = session.client.borrow().incarnation;
    let Some(job) = FetchJob::read(&request, member, limits.answer_bytes_max.as_usize(), deadline_ms) else {
        return invalid("an item names tag hashes that are not there".to_owned());
    };
    replace_older(shard, session.id, job.fetch_id);
    session.replace_forwarded(job.fetch_id);
    if job.queues().any(|queue| shard.other_shard(queue).is_some()) {
        return router::fetch(shard, session, correlation, job);
    }
    serve(shard, job, FetchTo::Session { session: Rc::clone(session), correlation });
}

/// Serves a part of a fetch for another shard's (or this one's) connection.
pub(crate) fn serve_other(
    shard: &Rc<Shard>,
    from: u16,
    token: u32,
    wait_ms: u64,
    mut job: FetchJob,
    reply: Box<dyn FnOnce(Reply)>,
) {
    let owner = other_owner(from, token);
    let cancelled = Rc::new(Cell::new(false));
    job.deadline_ms = if wait_ms == 0 { 0 } else { shard.now_ms() + wait_ms };
    shard.peer_fetches.borrow_mut().insert(owner, Rc::clone(&cancelled));
    serve(shard, job, FetchTo::Other { owner, cancelled, reply });
}

fn other_owner(from: u16, token: u32) -> OwnerId {
    PEER_OWNER | (u64::from(from) << 32) | u64::from(token)
}

/// Answers that part now, with what there is.
pub(crate) fn cancel_other(shard: &Rc<Shard>, from: u16, token: u32) {
    let owner = other_owner(from, token);
    if let Some(cancelled) = shard.peer_fetches.borrow().get(&owner) {
        cancelled.set(true);
    }
    let mut fetches = Vec::new();
    shard.parked.borrow_mut().close(owner, &mut fetches);
    answer_empty(shard, fetches);
}

/// Answers from memory, or finds a place to wait.
fn serve(shard: &Rc<Shard>, mut job: FetchJob, to: FetchTo) {
    if let FetchTo::Session { session, .. } = &to
        && (!session.link.has_room() || session.slow_running.get())
    {
        return serve_slowly(shard, job, to);
    }
    let mut gather = Gather::default();
    match gather.run(&mut job, shard.as_ref()) {
        Step::Disk { .. } => serve_slowly(shard, job, to),
        Step::Done => settle(shard, gather, job, to),
    }
}

/// Answers what was found, or parks.
fn settle(shard: &Rc<Shard>, gather: Gather, mut job: FetchJob, to: FetchTo) {
    let is_last = shard.now_ms() >= job.deadline_ms || shard.broker.phase() == Phase::Stopping;
    if gather.has_something() || to.is_over() || is_last {
        let gathered = gather.finish(&mut job, shard.as_ref());
        answer(shard, &job, to, gathered);
    } else {
        park(shard, job, to);
    }
}

/// Waits for a flush that brings something. What was found must have been found since the last await.
fn park(shard: &Rc<Shard>, job: FetchJob, to: FetchTo) {
    let (owner, fetch_id, deadline_ms) = (to.owner(), job.fetch_id, job.deadline_ms);
    replace_older(shard, owner, fetch_id);
    let queues: smallvec::SmallVec<[QueueKey; 8]> = job.queues().collect();
    let parked = shard.parked.borrow_mut().park(
        owner,
        fetch_id,
        queues.into_iter(),
        deadline_ms,
        ParkedFetch { job, to },
    );
    match parked {
        Ok(()) if deadline_ms < shard.park_look_ms.get() => shard.park_timer.set(),
        Ok(()) => {}
        Err(fetch) => answer_empty(shard, vec![fetch]), // the table is full: ask again
    }
    count_parked(shard);
}

/// A newer fetch of the same id makes the parked one answered at once.
fn replace_older(shard: &Rc<Shard>, owner: OwnerId, fetch_id: u32) {
    let older = shard.parked.borrow_mut().take(owner, fetch_id);
    answer_empty(shard, older);
}

fn answer_empty(shard: &Rc<Shard>, fetches: impl IntoIterator<Item = ParkedFetch>) {
    for ParkedFetch { mut job, to } in fetches {
        let gathered = Gather::default().finish(&mut job, shard.as_ref());
        answer(shard, &job, to, gathered);
    }
    count_parked(shard);
}

/// Tells the figures how many are parked.
pub(crate) fn count_parked(shard: &Shard) {
    shard.stats.fetches_parked.set(shard.parked.borrow().len() as u64);
}

/// A flush brought something to these queues.
pub(crate) fn wake(shard: &Rc<Shard>, queues: &[QueueKey]) {
    let mut woken = Vec::new();
    {
        let mut parked = shard.parked.borrow_mut();
        if parked.is_empty() {
            return;
        }
        for queue in queues {
            parked.wake(*queue, &mut woken);
        }
    }
    shard.stats.fetches_woken.add(woken.len() as u64);
    for ParkedFetch { job, to } in woken {
        serve(shard, job, to);
    }
    count_parked(shard);
}

/// The broker stops: everyone who waits is answered.
pub(crate) fn answer_all_parked(shard: &Rc<Shard>) {
    let mut all = Vec::new();
    shard.parked.borrow_mut().take_all(&mut all);
    answer_empty(shard, all);
}

/// These queues are gone.
pub(crate) fn forget(shard: &Rc<Shard>, queues: impl IntoIterator<Item = QueueKey>) {
    let mut woken = Vec::new();
    for queue in queues {
        shard.parked.borrow_mut().forget_queue(queue, &mut woken);
    }
    for ParkedFetch { job, to } in woken {
        serve(shard, job, to);
    }
    count_parked(shard);
}

/// Answers fetches whose time is over; goes on for the life of the shard.
pub(crate) async fn run_deadlines(shard: Rc<Shard>) {
    use equeue_storage::io::Io as _;
    loop {
        let next = shard.parked.borrow().next_deadline_ms();
        shard.park_look_ms.set(next.unwrap_or(u64::MAX));
        let waited = std::time::Duration::from_millis(next.map_or(0, |at| at.saturating_sub(shard.now_ms())));
        let signal = std::pin::pin!(shard.park_timer.wait());
        if next.is_none() {
            signal.await;
        } else if !waited.is_zero() {
            let sleep = std::pin::pin!(shard.io.sleep(waited));
            futures::future::select(sleep, signal).await;
        }
        let mut expired = Vec::new();
        shard.parked.borrow_mut().expire(shard.now_ms(), &mut expired);
        shard.stats.fetches_expired.add(expired.len() as u64);
        answer_empty(&shard, expired);
    }
}

/// Hands a fetch to the task of its connection that waits for the disk and for room.
fn serve_slowly(shard: &Rc<Shard>, job: FetchJob, to: FetchTo) {
    shard.stats.fetches_cold.add(1);
    match to {
        FetchTo::Session { session, correlation } => {
            if session.slow_fetches.borrow().len() >= SLOW_FETCHES_MAX {
                let status = Status::busy(RETRY_MS, "too many fetches of this connection wait");
                session.fail::<FetchAnswer>(correlation, status);
                return session.kick();
            }
            session.slow_fetches.borrow_mut().push_back(SlowFetch { correlation, job });
            if !session.slow_running.replace(true) {
                let shard_of_task = Rc::clone(shard);
                shard.spawn(run_slowly(shard_of_task, session));
            }
        }
        to @ FetchTo::Other { .. } => {
            let shard_of_task = Rc::clone(shard);
            shard.spawn(async move { read_and_settle(&shard_of_task, job, to).await });
        }
    }
}

/// Serves the waiting fetches of a connection, one after the other.
async fn run_slowly(shard: Rc<Shard>, session: Rc<Session>) {
    loop {
        session.link.room().await;
        let next = session.slow_fetches.borrow_mut().pop_front();
        let Some(SlowFetch { correlation, job }) = next else { break };
        if session.link.is_closed() {
            break;
        }
        read_and_settle(&shard, job, FetchTo::Session { session: Rc::clone(&session), correlation }).await;
    }
    session.slow_running.set(false);
}

/// Gathers with the help of the disk. Ends by answering, or by parking after a look at memory that found nothing.
async fn read_and_settle(shard: &Rc<Shard>, mut job: FetchJob, to: FetchTo) {
    loop {
        let mut gather = Gather::default();
        let mut waited = false;
        while let Step::Disk { queue, offset, bytes_max } = gather.run(&mut job, shard.as_ref()) {
            waited = true;
            let result = match shard
                .home(queue)
                .and_then(|home| shard.log_of(&home).map(|(_, host)| host.log.clone()))
            {
                Some(log) => log.read(queue, offset, bytes_max).await,
                None => Err(ReadError::NoQueue { queue }),
            };
            gather.supply(&mut job, shard.as_ref(), result);
        }
        if !waited || gather.has_something() || to.is_over() {
            return settle(shard, gather, job, to);
        }
    }
}

/// Sends an answer.
fn answer(shard: &Rc<Shard>, job: &FetchJob, to: FetchTo, gathered: Gathered) {
    shard.stats.bytes_fetched.add(gathered.bytes as u64);
    shard.stats.bytes_filtered.add(gathered.filtered_bytes as u64);
    match to {
        FetchTo::Session { session, correlation } => {
            let Gathered { outcomes, pieces, bytes, .. } = gathered;
            let put = session.answer_with(pieces, |out| {
                put_fetch_answer(out, correlation, &Status::OK, job.fetch_id, &outcomes, bytes)
            });
            if let Err(error) = put {
                tracing::error!(%error, "a Fetch answer does not fit a frame");
                session.fail::<FetchAnswer>(correlation, Status::new(Code::Internal, error.to_string()));
            }
            session.kick();
        }
        FetchTo::Other { owner, reply, .. } => {
            shard.peer_fetches.borrow_mut().remove(&owner);
            // Log memory belongs to this thread: what goes to another one is copied.
            let copy = |piece: &equeue_storage::log::LogSlice| {
                let memory: &[u8] = (*piece.memory).as_ref();
                Bytes::copy_from_slice(memory.get(piece.range.clone()).unwrap_or_default())
            };
            let payload = gathered.pieces.iter().map(copy).collect();
            reply(Reply::Fetched { outcomes: gathered.outcomes, payload });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_other_shards_are_apart() {
        assert_ne!(other_owner(0, 1), other_owner(1, 0));
        assert_ne!(other_owner(0, 0), 0);
        assert_eq!(other_owner(3, 7) & PEER_OWNER, PEER_OWNER);
    }
}
