//! Taking back delayed messages, and asking whether they wait.

use std::rc::Rc;

use equeue_net::Code;
use equeue_net::api::{CancelDelayed, CancelDelayedAnswer, Status};
use futures::channel::oneshot;

use super::{RETRY_MS, spawn_answer};
use crate::delay::{self, CancelError};
use crate::shard::call::{Call, Reply};
use crate::shard::mesh::Pool;
use crate::shard::serve;
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// Serves `CancelDelayed`, wherever the message is. What was begun is ended, whether or not the connection lives.
pub(crate) fn cancel(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: CancelDelayed) {
    let call = Call::CancelDelayed(request);
    let reply = if let Some(other) = shard.other_shard(request.queue.target()) {
        shard.stats.requests_forwarded.add(1);
        let Ok(reply) = shard.mesh.ask(other, Pool::Quick, call) else {
            shard.stats.forwards_refused.add(1);
            let status = Status::busy(RETRY_MS, "the shard of this message has too much to do");
            return session.fail::<CancelDelayedAnswer>(correlation, status);
        };
        reply
    } else {
        let (sender, receiver) = oneshot::channel();
        let shard_of_task = Rc::clone(shard);
        shard.spawn(async move {
            let _ = sender.send(serve::execute(&shard_of_task, call).await); // the connection may be closed
        });
        receiver
    };
    spawn_answer(shard, session, correlation, async move {
        match reply.await {
            Ok(Reply::Cancelled(answer)) => answer,
            _ => failed(Status::new(Code::NotReady, "the broker is stopping")),
        }
    });
}

fn failed(status: Status) -> CancelDelayedAnswer {
    CancelDelayedAnswer { status, was_pending: false, due_ms: 0 }
}

/// Takes back a message of this shard; ends when that is durable.
pub(crate) async fn cancel_here(shard: &Rc<Shard>, request: CancelDelayed) -> CancelDelayedAnswer {
    let CancelDelayed { queue, offset, dry_run } = request;
    if !queue.is_delay_queue() {
        return failed(Status::new(Code::Invalid, "this is not the id of a delayed message"));
    }
    let Some(home) = shard.home(queue.target()) else {
        return failed(Status::new(shard.unknown_queue(queue), "the queue of this message is not here"));
    };
    let Some((_, host)) = shard.log_of(&home) else {
        return failed(Status::new(Code::Internal, "the queue belongs to another shard"));
    };
    match delay::cancel(host, queue, offset, dry_run).await {
        Ok(cancelled) => {
            if cancelled.was_pending && !dry_run {
                shard.stats.delayed_cancelled.add(1);
            }
            let (was_pending, due_ms) = (cancelled.was_pending, cancelled.due_ms);
            CancelDelayedAnswer { status: Status::OK, was_pending, due_ms }
        }
        Err(CancelError::NoMessage) => {
            failed(Status::new(Code::OffsetOutOfRange, "no delayed message was ever stored under this id"))
        }
        Err(CancelError::Append(error)) => failed(crate::shard::catalog::status_of(&error)),
    }
}
