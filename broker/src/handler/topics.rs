//! Creating and deleting topics: asked of any shard, done by shard 0.

use std::rc::Rc;

use equeue_net::Code;
use equeue_net::api::{
    Answer, CreateTopic, CreateTopicAnswer, DeleteTopic, DeleteTopicAnswer, RemoveQueues, RemoveQueuesAnswer,
    SetQueueAccess, SetQueueAccessAnswer, SetTopic, SetTopicAnswer, Status,
};
use equeue_record::{Offset, QueueKey};
use futures::channel::oneshot;

use super::groups::ask;
use super::{RETRY_MS, spawn_answer};
use crate::catalog::{
    TopicSettings, plan_access, plan_create, plan_delete, plan_hidden, plan_remove, removed_by,
};
use crate::fetch::Source as _;
use crate::shard::call::{Call, Reply};
use crate::shard::holds::host_of;
use crate::shard::mesh::Pool;
use crate::shard::session::Session;
use crate::shard::state::Shard;
use crate::shard::{catalog, serve};

/// Serves `CreateTopic`.
pub(crate) fn create(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: CreateTopic) {
    let read = |reply| if let Reply::Created(answer) = reply { Some(answer) } else { None };
    on_shard_0(shard, session, correlation, Call::CreateTopic(request), read);
}

/// Serves `DeleteTopic`.
pub(crate) fn delete(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: DeleteTopic) {
    let read = |reply| if let Reply::Deleted(answer) = reply { Some(answer) } else { None };
    on_shard_0(shard, session, correlation, Call::DeleteTopic(request), read);
}

/// Serves `SetQueueAccess`.
pub(crate) fn set_access(
    shard: &Rc<Shard>,
    session: &Rc<Session>,
    correlation: u32,
    request: SetQueueAccess,
) {
    let read = |reply| if let Reply::AccessSet(answer) = reply { Some(answer) } else { None };
    on_shard_0(shard, session, correlation, Call::SetQueueAccess(request), read);
}

/// Serves `RemoveQueues`.
pub(crate) fn remove_queues(
    shard: &Rc<Shard>,
    session: &Rc<Session>,
    correlation: u32,
    request: RemoveQueues,
) {
    let read = |reply| if let Reply::Removed(answer) = reply { Some(answer) } else { None };
    on_shard_0(shard, session, correlation, Call::RemoveQueues(request), read);
}

/// Serves `SetTopic`.
pub(crate) fn set(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: SetTopic) {
    let read = |reply| if let Reply::TopicSet(answer) = reply { Some(answer) } else { None };
    on_shard_0(shard, session, correlation, Call::SetTopic(request), read);
}

/// Has shard 0 do it; what was begun is ended there, whether or not the connection lives to see it.
fn on_shard_0<A: Answer + 'static>(
    shard: &Rc<Shard>,
    session: &Rc<Session>,
    correlation: u32,
    call: Call,
    read: fn(Reply) -> Option<A>,
) {
    let reply = if shard.index == 0 {
        let (sender, receiver) = oneshot::channel();
        let shard_of_task = Rc::clone(shard);
        shard.spawn(async move {
            let _ = sender.send(serve::execute(&shard_of_task, call).await); // the connection may be closed
        });
        receiver
    } else {
        let Ok(reply) = shard.mesh.ask(0, Pool::System, call) else {
            return session.fail::<A>(correlation, Status::busy(RETRY_MS, "shard 0 has too much to do"));
        };
        reply
    };
    spawn_answer(shard, session, correlation, async move {
        let answer = reply.await.ok().and_then(read);
        answer.unwrap_or_else(|| A::failed(Status::new(Code::NotReady, "the broker is stopping")))
    });
}

/// Creates or completes a topic; on shard 0.
pub(crate) async fn create_here(shard: &Rc<Shard>, request: CreateTopic) -> CreateTopicAnswer {
    let name = request.topic.clone();
    let broker = std::sync::Arc::clone(&shard.broker);
    let result = catalog::change(shard, move |catalog| plan_create(catalog, broker.owner(), &request)).await;
    let topic = shard.catalog().topic(&name).map(|topic| topic.snapshot(shard.shards()));
    if result.is_ok() {
        tracing::info!(topic = name, "topic created or as asked already");
    }
    CreateTopicAnswer { status: result.err().unwrap_or(Status::OK), topic }
}

/// Changes the settings of a topic; on shard 0.
pub(crate) async fn set_here(shard: &Rc<Shard>, request: SetTopic) -> SetTopicAnswer {
    let SetTopic { topic, retention } = request;
    let change = |old: TopicSettings| TopicSettings { retention: retention.unwrap_or(old.retention) };
    match catalog::change_settings(shard, &topic, change).await {
        Ok(settings) => SetTopicAnswer { status: Status::OK, retention: settings.retention },
        Err(status) => SetTopicAnswer { status, ..SetTopicAnswer::default() },
    }
}

/// Deletes a topic; on shard 0.
pub(crate) async fn delete_here(shard: &Rc<Shard>, request: DeleteTopic) -> DeleteTopicAnswer {
    let result = catalog::change(shard, |catalog| plan_delete(catalog, &request.topic)).await;
    if result.is_ok() {
        tracing::info!(topic = request.topic, "topic deleted");
    }
    DeleteTopicAnswer { status: result.err().unwrap_or(Status::OK) }
}

/// Makes a hidden topic, if it is not there; on shard 0.
pub(crate) async fn make_hidden_here(shard: &Rc<Shard>, topic: &str) -> Result<(), Status> {
    let broker = std::sync::Arc::clone(&shard.broker);
    catalog::change(shard, |catalog| plan_hidden(catalog, broker.owner(), topic)).await
}

/// Makes a hidden topic, if it is not there; from any shard, which uses it when this ends.
pub(crate) async fn make_hidden(shard: &Rc<Shard>, topic: &str) -> Result<(), Status> {
    if shard.catalog().topic(topic).is_some() {
        return Ok(());
    }
    if shard.index == 0 {
        return make_hidden_here(shard, topic).await;
    }
    let call = Call::MakeHidden { topic: topic.to_owned() };
    let Ok(reply) = shard.mesh.ask(0, Pool::System, call) else {
        return Err(Status::busy(RETRY_MS, "shard 0 has too much to do"));
    };
    match reply.await {
        Ok(Reply::Made(made)) => made,
        _ => Err(Status::new(Code::NotReady, "the broker is stopping")),
    }
}

/// Opens or closes queues; on shard 0.
pub(crate) async fn set_access_here(shard: &Rc<Shard>, request: &SetQueueAccess) -> SetQueueAccessAnswer {
    let result = catalog::change(shard, |catalog| plan_access(catalog, request)).await;
    let topic = shard.catalog().topic(&request.topic).map(|topic| topic.snapshot(shard.shards()));
    if result.is_ok() {
        tracing::info!(topic = request.topic, ordinals = ?request.ordinals, send = ?request.send,
            consume = ?request.consume, "access to queues set");
    }
    SetQueueAccessAnswer { status: result.err().unwrap_or(Status::OK), topic }
}

/// Removes the highest queues of a topic; on shard 0. Unless it is forced, each of them takes and gives nothing any more,
/// and every group has consumed it.
pub(crate) async fn remove_queues_here(shard: &Rc<Shard>, request: &RemoveQueues) -> RemoveQueuesAnswer {
    let refused = if request.force { None } else { not_drained(shard, request).await };
    let result = match refused {
        Some(status) => Err(status),
        None => catalog::change(shard, |catalog| plan_remove(catalog, request)).await,
    };
    let topic = shard.catalog().topic(&request.topic).map(|topic| topic.snapshot(shard.shards()));
    if result.is_ok() {
        tracing::info!(
            topic = request.topic,
            queues = request.map.len(),
            forced = request.force,
            "queues removed"
        );
    }
    RemoveQueuesAnswer { status: result.err().unwrap_or(Status::OK), topic }
}

/// Why messages would be lost. Sending to the queues is forbidden already (the plan looks at that), so nothing is
/// added between this and the removal.
async fn not_drained(shard: &Rc<Shard>, request: &RemoveQueues) -> Option<Status> {
    let removed = removed_by(&shard.catalog(), request);
    let sealed = removed.iter().all(|home| !home.writable);
    if removed.is_empty() || !sealed {
        return None; // the plan tells why
    }
    let mut full = Vec::new();
    for to in 0..shard.shards() {
        let here = removed.iter().filter(|home| crate::catalog::shard_of(home.log, shard.shards()) == to);
        let queues: Vec<QueueKey> = here.map(|home| home.key).collect();
        if queues.is_empty() {
            continue;
        }
        match ask(shard, to, Call::Undrained { queues }).await {
            Some(Reply::Undrained(more)) => full.extend(more),
            _ => return Some(Status::busy(RETRY_MS, format!("shard {to} has too much to do"))),
        }
    }
    let mut ordinals: Vec<u32> =
        removed.iter().filter(|home| full.contains(&home.key)).map(|home| home.ordinal).collect();
    ordinals.sort_unstable();
    (!ordinals.is_empty()).then(|| {
        let detail = format!(
            "queues {ordinals:?} of topic `{}` hold messages that no group, or not every group, has consumed; wait, or force it",
            request.topic
        );
        Status::new(Code::NotDrained, detail)
    })
}

/// Which of these queues of this shard hold messages that not every group has consumed, or that there is no group for.
pub(crate) fn undrained_here(shard: &Shard, queues: Vec<QueueKey>) -> Vec<QueueKey> {
    let holds = shard.holds.borrow();
    let is_full = |queue: &QueueKey| {
        let Some(bounds) = shard.bounds(*queue) else { return false };
        let mut groups = holds.committed(*queue).peekable();
        if delays_messages(shard, *queue) {
            return true;
        }
        let empty = bounds.start == bounds.end;
        let nobody = groups.peek().is_none();
        let behind = |at: Option<Offset>| at.unwrap_or(bounds.start) < bounds.end;
        !empty && (nobody || groups.any(|(_, at)| behind(at)))
    };
    queues.into_iter().filter(is_full).collect()
}

/// Whether messages wait to be delivered to a queue, or may do so as far as is known yet.
fn delays_messages(shard: &Shard, queue: QueueKey) -> bool {
    let Ok((_, host)) = host_of(shard, queue) else { return false };
    let table = host.delay.table.borrow();
    let delayed = table.number(queue).and_then(|number| table.queue(number));
    delayed.is_some_and(|delayed| delayed.waiting > 0 || !host.delay.all_found.get())
}
