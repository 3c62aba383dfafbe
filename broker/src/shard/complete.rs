//! After a flush: answers go out, fetches wake, connections that waited for room go on. One task per log.

use std::rc::Rc;

use equeue_net::api::Status;
use equeue_net::put_produce_answer;
use equeue_record::QueueKey;
use equeue_storage::Ticket;

use super::answers::Unanswered;
use super::session::{ProduceHold, Session};
use super::state::{LogHost, Shard};
use crate::handler::{self, fetch};

/// Goes on for the life of the shard.
pub(crate) async fn run(shard: Rc<Shard>, place: usize) {
    let Some(host) = shard.logs.get(place) else { return };
    let mut queues = Vec::new();
    loop {
        host.events.signal.wait().await;
        let durable = host.events.take(&mut queues);
        flushed(&shard, host, place, durable, &queues);
        if let Some(reason) = host.events.failure() {
            failed(&shard, host, place, &reason);
            return;
        }
    }
}

fn flushed(shard: &Rc<Shard>, host: &LogHost, place: usize, durable: Ticket, queues: &[QueueKey]) {
    let now_us = shard.now_us();
    let waiters = host.waiters.take();
    let mut left = Vec::with_capacity(waiters.len());
    for session in waiters {
        let more = session.answers.borrow_mut().complete(place, durable, |request| {
            if let Some(stats) = shard.log_stats(place) {
                stats.durable_wait.observe(now_us.saturating_sub(request.since_us));
            }
            send(shard, &session, request);
        });
        session.kick();
        if more {
            left.push(session);
        }
    }
    // While the waiters were gone through nothing was appended: what is on the list now are those with more.
    host.waiters.borrow_mut().append(&mut left);
    fetch::wake(shard, queues);
    resume(shard);
}

/// Queues the answer of a request and gives back what it held.
#[expect(clippy::needless_pass_by_value, reason = "what the request holds against its connection ends here")]
fn send(shard: &Shard, session: &Session, request: Unanswered<ProduceHold>) {
    shard.unanswered_bytes.set(shard.unanswered_bytes.get().saturating_sub(request.hold.bytes));
    let put =
        |out: &mut Vec<u8>| put_produce_answer(out, request.correlation, &Status::OK, &request.outcomes);
    if let Err(error) = session.link.push(put) {
        tracing::error!(%error, "a Produce answer does not fit a frame");
    }
}

/// Lets connections whose requests did not fit go on, in the order in which they stopped.
pub(crate) fn resume(shard: &Rc<Shard>) {
    loop {
        let Some(session) = shard.stalled.borrow_mut().pop_front() else { return };
        handler::drain_backlog(shard, &session);
        if !session.backlog.borrow().is_empty() {
            shard.stalled.borrow_mut().push_front(session);
            return;
        }
        session.link.set_paused(false);
        session.kick();
    }
}

/// Nothing more becomes durable: who waits is told, readers go on.
fn failed(shard: &Rc<Shard>, host: &LogHost, place: usize, reason: &str) {
    tracing::error!(log = %host.id, reason, "the log failed a write or sync and takes nothing more until a restart");
    shard.broker.log_failed(host.id.0);
    if let Some(stats) = shard.log_stats(place) {
        stats.failed.set(1);
    }
    for session in host.waiters.take() {
        session.answers.borrow_mut().fail(place, |request| send(shard, &session, request));
        session.kick();
    }
    resume(shard);
}
