//! Creating and deleting topics: asked of any shard, done by shard 0.

use std::rc::Rc;

use equeue_net::Code;
use equeue_net::api::{Answer, CreateTopic, CreateTopicAnswer, DeleteTopic, DeleteTopicAnswer, Status};
use futures::channel::oneshot;

use super::{RETRY_MS, spawn_answer};
use crate::catalog::{plan_create, plan_delete, plan_hidden};
use crate::shard::call::{Call, Reply};
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
