//! Requests that concern queues of several shards: split, sent on, and their answers put together in the order asked.
//!
//! **Invariants**: what is sent on is sent before the next frame of the connection is looked at, so a queue's batches
//! keep their order; a shard that cannot take more makes its part BUSY and nothing else.

use std::rc::Rc;

use bytes::Bytes;
use equeue_net::api::{AckLevel, FetchAnswer, FetchOutcome, Status};
use equeue_net::frame::FRAME_BYTES_MAX;
use equeue_net::transport::Shared;
use equeue_net::{Code, put_fetch_answer};
use equeue_record::QueueKey;
use futures::StreamExt as _;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::FuturesUnordered;

use super::call::{Call, Reply};
use super::mesh::Pool;
use super::session::{ProduceHold, Session};
use super::state::Shard;
use super::{complete, serve};
use crate::fetch::{FetchJob, JobItem};
use crate::handler::produce::{self, Appends, Remote};
use crate::handler::{RETRY_MS, fetch as fetch_handler};

/// A Produce request of which a part is for other shards.
pub(crate) struct Forward {
    pub(crate) correlation: u32,
    pub(crate) one_way: bool,
    pub(crate) level: AckLevel,
    /// What was appended here; the other shards' places hold BUSY.
    pub(crate) appends: Appends,
    pub(crate) remote: Vec<Remote>,
    pub(crate) hold: ProduceHold,
}

/// Sends batches to their shards now, and answers when all of it is done.
pub(crate) fn produce(shard: &Rc<Shard>, session: &Rc<Session>, forward: Forward) {
    let Forward { correlation, one_way, level, appends, remote, hold } = forward;
    let mut replies = Vec::with_capacity(remote.len());
    for (to, batches) in remote {
        let (places, batches): (Vec<usize>, Vec<(QueueKey, Bytes)>) =
            batches.into_iter().map(|(place, queue, batch)| (place, (queue, batch))).unzip();
        shard.stats.requests_forwarded.add(1);
        match shard.mesh.ask(to, Pool::Quick, Call::Produce { level, batches }) {
            Ok(reply) => replies.push((places, reply)),
            Err(_) => shard.stats.forwards_refused.add(1),
        }
    }
    let (shard_of_task, session) = (Rc::clone(shard), Rc::clone(session));
    shard.spawn(async move {
        let shard = shard_of_task;
        let mut outcomes = appends.settled(Rc::clone(&shard), level).await;
        for (places, reply) in replies {
            let told = match reply.await {
                Ok(Reply::Produced(told)) if told.len() == places.len() => told,
                // The other shard is gone: they may be stored or not, so the producer must not take them for refused.
                _ => vec![produce::refused(Code::LogFailed, RETRY_MS); places.len()],
            };
            for (place, outcome) in places.into_iter().zip(told) {
                if let Some(slot) = outcomes.get_mut(place) {
                    *slot = outcome;
                }
            }
        }
        if one_way {
            produce::count_dropped(&shard, &outcomes);
        } else {
            produce::answer(&session, correlation, &outcomes);
            session.kick();
        }
        shard.unanswered_bytes.set(shard.unanswered_bytes.get().saturating_sub(hold.bytes));
        drop(hold);
        complete::resume(&shard);
    });
}

type Answered = LocalBoxFuture<'static, Option<Reply>>;

/// Asks every shard concerned (this one included), answers with what the first gives and the others have by then.
pub(crate) fn fetch(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, mut job: FetchJob) {
    let mut parts: Vec<(u16, Vec<JobItem>)> = Vec::new();
    for item in std::mem::take(&mut job.items) {
        let of = shard.other_shard(item.queue).unwrap_or(shard.index);
        match parts.iter_mut().find(|(known, _)| *known == of) {
            Some((_, items)) => items.push(item),
            None => parts.push((of, vec![item])),
        }
    }
    job.bytes_max /= parts.len().max(1);
    let token = shard.fetch_token.replace(shard.fetch_token.get().wrapping_add(1));
    let wait_ms = job.deadline_ms.saturating_sub(shard.now_ms());
    let replies: FuturesUnordered<Answered> = FuturesUnordered::new();
    let mut asked = Vec::with_capacity(parts.len());
    for (of, items) in parts {
        let part = job.part(items);
        if of == shard.index {
            let (sender, receiver) = oneshot::channel();
            let reply = Box::new(move |reply| {
                let _ = sender.send(reply); // nobody waits any more
            });
            fetch_handler::serve_other(shard, shard.index, token, wait_ms, part, reply);
            replies.push(Box::pin(async move { receiver.await.ok() }));
        } else {
            shard.stats.requests_forwarded.add(1);
            if let Ok(reply) = shard.mesh.ask(of, Pool::Parked, Call::Fetch { token, wait_ms, job: part }) {
                replies.push(Box::pin(async move { reply.await.ok() }));
            } else {
                shard.stats.forwards_refused.add(1);
                continue;
            }
        }
        asked.push(of);
    }
    if replies.is_empty() {
        let status = Status::busy(RETRY_MS, "the shards of these queues have too much to do");
        return session.fail::<FetchAnswer>(correlation, status);
    }
    let replaced = session.forward_fetch(job.fetch_id);
    let (key, closed) = session.forwarding();
    let gathering = Gathering { token, asked, replies, replaced, key, closed };
    shard.spawn(gathering.run(Rc::clone(shard), Rc::clone(session), correlation, job.fetch_id));
}

/// The parts of a fetch that are with their shards.
struct Gathering {
    token: u32,
    asked: Vec<u16>,
    replies: FuturesUnordered<Answered>,
    /// Ends when a newer fetch of the same id comes.
    replaced: oneshot::Receiver<()>,
    /// Ends when the connection closes; to be given back under this key.
    key: usize,
    closed: oneshot::Receiver<()>,
}

impl Gathering {
    async fn run(mut self, shard: Rc<Shard>, session: Rc<Session>, correlation: u32, fetch_id: u32) {
        let key = self.key;
        let mut ended = select(self.closed, self.replaced);
        let mut told: Vec<Reply> = Vec::new();
        let open = match select(self.replies.next(), &mut ended).await {
            Either::Left((first, _)) => {
                told.extend(first.flatten());
                true
            }
            Either::Right((Either::Left(_), _)) => false,
            Either::Right((Either::Right(_), _)) => true, // replaced by a newer one
        };
        drop(ended);
        session.fetch_answered(fetch_id);
        if !self.replies.is_empty() {
            for of in &self.asked {
                cancel(&shard, *of, self.token).await;
            }
        }
        while let Some(reply) = self.replies.next().await {
            told.extend(reply);
        }
        if open {
            answer(&session, correlation, fetch_id, told);
            session.kick();
        }
        session.settled(key);
    }
}

/// Makes a shard answer its part now. One that answered before knows nothing of it.
async fn cancel(shard: &Rc<Shard>, of: u16, token: u32) {
    use equeue_storage::io::Io as _;
    if of == shard.index {
        return fetch_handler::cancel_other(shard, of, token);
    }
    // Credits come back as fast as the other shard reads its inbox; its own deadline ends the fetch otherwise.
    for _ in 0..100 {
        if shard.mesh.ask(of, Pool::System, Call::CancelFetch { token }).is_ok() {
            return;
        }
        shard.io.sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Puts the parts together, as many as a frame holds; what is left out is asked for again.
fn answer(session: &Session, correlation: u32, fetch_id: u32, told: Vec<Reply>) {
    let mut outcomes: Vec<FetchOutcome> = Vec::new();
    let mut payload: Vec<Bytes> = Vec::new();
    let mut bytes = 0;
    for reply in told {
        let Reply::Fetched { outcomes: more, payload: memory } = reply else { continue };
        let more_bytes: usize = memory.iter().map(Bytes::len).sum();
        if bytes + more_bytes > FRAME_BYTES_MAX / 2 && bytes > 0 {
            continue;
        }
        bytes += more_bytes;
        outcomes.extend(more);
        payload.extend(memory);
    }
    let head =
        session.link.push(|out| put_fetch_answer(out, correlation, &Status::OK, fetch_id, &outcomes, bytes));
    if let Err(error) = head {
        tracing::error!(%error, "a Fetch answer does not fit a frame");
        return session.fail::<FetchAnswer>(correlation, Status::new(Code::Internal, error.to_string()));
    }
    for memory in payload {
        let range = 0..memory.len();
        session.link.push_shared(Shared { memory: Rc::new(memory), range });
    }
}

/// How a request over many queues is split and its answers are read.
pub(crate) struct Scatter<I, O> {
    /// The queue of an item.
    pub(crate) queue: fn(&I) -> QueueKey,
    /// The call for the items of one shard.
    pub(crate) call: Box<dyn Fn(Vec<I>) -> Call>,
    /// The outcomes in a reply, in the order of the call's items.
    pub(crate) read: fn(Reply) -> Option<Vec<O>>,
    /// The outcome of an item that could not be asked about, and why.
    pub(crate) missing: fn(&I, Code) -> O,
}

impl<I, O: 'static> Scatter<I, O> {
    /// Does all of it; outcomes come in the order of `items`.
    pub(crate) async fn run(self, shard: &Rc<Shard>, items: Vec<I>) -> Vec<O> {
        let mut outcomes: Vec<Option<O>> = items.iter().map(|_| None).collect();
        let mut parts: Vec<(u16, Vec<usize>, Vec<I>)> = Vec::new();
        for (place, item) in items.into_iter().enumerate() {
            let of = shard.other_shard((self.queue)(&item)).unwrap_or(shard.index);
            match parts.iter_mut().find(|(known, ..)| *known == of) {
                Some((_, places, items)) => {
                    places.push(place);
                    items.push(item);
                }
                None => parts.push((of, vec![place], vec![item])),
            }
        }
        let mut waiting: Vec<(Vec<usize>, Vec<O>, Answered)> = Vec::with_capacity(parts.len());
        for (of, places, items) in parts {
            // Made now: the items leave for the other shard.
            let code = if of == shard.index { Code::Internal } else { Code::Busy };
            let missing: Vec<O> = items.iter().map(|item| (self.missing)(item, code)).collect();
            let call = (self.call)(items);
            let reply: Answered = if of == shard.index {
                let shard = Rc::clone(shard);
                Box::pin(async move { Some(serve::execute(&shard, call).await) })
            } else {
                shard.stats.requests_forwarded.add(1);
                if let Ok(reply) = shard.mesh.ask(of, Pool::Quick, call) {
                    Box::pin(async move { reply.await.ok() })
                } else {
                    shard.stats.forwards_refused.add(1);
                    Box::pin(std::future::ready(None))
                }
            };
            waiting.push((places, missing, reply));
        }
        for (places, missing, reply) in waiting {
            let told = reply.await.and_then(self.read).filter(|told| told.len() == places.len());
            for (place, outcome) in places.into_iter().zip(told.unwrap_or(missing)) {
                if let Some(slot) = outcomes.get_mut(place) {
                    *slot = Some(outcome);
                }
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("every item is in one part")).collect()
    }
}
