//! What a shard does for the others, and for itself when a request concerns both.

use std::rc::Rc;

use equeue_net::Code;
use equeue_net::api::{CreateTopicAnswer, DeleteTopicAnswer, SetTopicAnswer, Status};
use equeue_net::transport::listener::Accepted;
use equeue_storage::io::Io as _;

use super::call::{Call, Reply, Responder};
use super::generations;
use super::mesh::{Asked, Pool};
use super::state::Shard;
use crate::fetch::Source as _;
use crate::handler::produce::Appends;
use crate::handler::{
    FrameHandler, clients, delayed, describe, fetch, grants, group_admin, groups, hand_back, offsets, topics,
};

/// Calls served before other tasks run.
const TURN_CALLS: usize = 64;

/// Serves the other shards for the life of this one.
pub(crate) async fn run(shard: Rc<Shard>) {
    let mut served = 0;
    while let Some(asked) = shard.mesh.next().await {
        serve(&shard, asked);
        served += 1;
        if served == TURN_CALLS {
            served = 0;
            shard.io.yield_now().await;
        }
    }
}

fn serve(shard: &Rc<Shard>, asked: Asked<Call, Reply>) {
    let Asked { from, body, responder } = asked;
    match body {
        // Appended now: batches of a queue keep the order in which they were sent on.
        Call::Produce { level, batches } => {
            let mut appends = Appends::default();
            for (queue, batch) in batches {
                appends.append(shard, level, queue, batch);
            }
            let settled = appends.settled(Rc::clone(shard), level);
            shard.spawn(async move { responder.reply(Reply::Produced(settled.await)) });
        }
        Call::Fetch { token, wait_ms, job } => {
            fetch::serve_other(
                shard,
                from,
                token,
                wait_ms,
                job,
                Box::new(move |reply| responder.reply(reply)),
            );
        }
        Call::CancelFetch { token } => {
            fetch::cancel_other(shard, from, token);
            responder.reply(Reply::Done);
        }
        Call::GroupsAttended { groups } => {
            shard.attendance.borrow_mut().told(from, groups);
            responder.reply(Reply::Done);
        }
        Call::Serve(accepted) => {
            serve_here(shard, accepted);
            responder.reply(Reply::Done);
        }
        other => spawn_reply(shard, other, responder),
    }
}

fn spawn_reply(shard: &Rc<Shard>, call: Call, responder: Responder) {
    let shard_of_task = Rc::clone(shard);
    shard.spawn(async move { responder.reply(execute(&shard_of_task, call).await) });
}

/// Does what is asked, with the queues of this shard.
pub(crate) async fn execute(shard: &Rc<Shard>, call: Call) -> Reply {
    match call {
        Call::Commit { group, member, items } => {
            Reply::Committed(offsets::commit_here(shard, &group, member, &items).await)
        }
        Call::FetchOffsets { group, queues } => {
            Reply::Committed(offsets::fetch_here(shard, &group, &queues).await)
        }
        Call::Beat { .. }
        | Call::Grant { .. }
        | Call::Release { .. }
        | Call::Leave { .. }
        | Call::GroupBeat { .. }
        | Call::GroupClosed { .. }
        | Call::Generation { .. }
        | Call::RaiseGeneration { .. } => execute_for_member(shard, call).await,
        Call::Groups { only } => Reply::Groups(group_admin::groups_here(shard, only.as_ref())),
        Call::DropGroup { group } => Reply::Dropped(group_admin::drop_here(shard, &group).await),
        Call::Reset { group, dry_run, items } => {
            Reply::Reset(group_admin::reset_here(shard, &group, dry_run, &items).await)
        }
        Call::Clients => Reply::Clients(clients::clients_here(shard)),
        Call::Undrained { queues } => Reply::Undrained(topics::undrained_here(shard, queues)),
        Call::SetQueueAccess(request) => Reply::AccessSet(topics::set_access_here(shard, &request).await),
        Call::RemoveQueues(request) => Reply::Removed(topics::remove_queues_here(shard, &request).await),
        Call::ListOffsets { items } => Reply::Listed(offsets::list_here(shard, &items).await),
        Call::Bounds { queues } => {
            Reply::Bounds(queues.into_iter().map(|queue| shard.bounds(queue)).collect())
        }
        Call::HandBack { group, member, attempts_max, items } => {
            Reply::HandedBack(hand_back::here(shard, &group, member, attempts_max, &items).await)
        }
        Call::MakeHidden { topic } if shard.index == 0 => {
            Reply::Made(topics::make_hidden_here(shard, &topic).await)
        }
        Call::MakeHidden { .. } => Reply::Made(Err(misrouted())),
        Call::CancelDelayed(request) => Reply::Cancelled(delayed::cancel_here(shard, request).await),
        Call::Logs => Reply::Logs(describe::logs_here(shard)),
        Call::SetCatalog(catalog) => {
            super::catalog::adopt(shard, &catalog);
            Reply::Done
        }
        Call::CreateTopic(request) if shard.index == 0 => {
            Reply::Created(topics::create_here(shard, request).await)
        }
        Call::DeleteTopic(request) if shard.index == 0 => {
            Reply::Deleted(topics::delete_here(shard, request).await)
        }
        Call::SetTopic(request) if shard.index == 0 => {
            Reply::TopicSet(topics::set_here(shard, request).await)
        }
        Call::SetTopic(_) => {
            Reply::TopicSet(SetTopicAnswer { status: misrouted(), ..SetTopicAnswer::default() })
        }
        Call::CreateTopic(_) => Reply::Created(CreateTopicAnswer { status: misrouted(), topic: None }),
        Call::DeleteTopic(_) => Reply::Deleted(DeleteTopicAnswer { status: misrouted() }),
        Call::Produce { .. }
        | Call::Fetch { .. }
        | Call::CancelFetch { .. }
        | Call::GroupsAttended { .. }
        | Call::Serve(_) => Reply::Done,
    }
}

/// Does what a member of a group asks.
async fn execute_for_member(shard: &Rc<Shard>, call: Call) -> Reply {
    match call {
        Call::Beat { group, member, generation, held } => {
            Reply::Beaten(grants::beat_here(shard, &group, member, generation, &held).await)
        }
        Call::Grant { wish, queues } => Reply::Granted(grants::grant_here(shard, &wish, &queues).await),
        Call::Release { group, member, items } => {
            Reply::Committed(grants::release_here(shard, &group, member, &items).await)
        }
        Call::Leave { group, member } => {
            groups::leave_shard(shard, &group, &member).await;
            Reply::Done
        }
        Call::GroupBeat { member, link, beat } => {
            Reply::GroupBeaten(groups::beat_here(shard, &member, link, &beat).await)
        }
        Call::GroupClosed { group, member, link } => {
            shard.registry.borrow_mut().closed(&group, &member, link);
            Reply::Done
        }
        Call::RaiseGeneration { group, above } if shard.index == 0 => {
            Reply::Generation(generations::raise(shard, &group, above).await)
        }
        Call::Generation { group } if shard.index == 0 => {
            Reply::Generation(Ok(generations::of(shard, &group).map_or(0, |stored| stored.generation)))
        }
        Call::Generation { .. } | Call::RaiseGeneration { .. } => Reply::Generation(Err(misrouted())),
        _ => Reply::Done,
    }
}

fn misrouted() -> Status {
    Status::new(Code::Internal, "topics are changed on shard 0")
}

/// Gives an accepted socket to the shard that it names; to this one if that cannot take it.
pub(crate) fn place(shard: &Rc<Shard>, accepted: Accepted) {
    if accepted.preamble.tls {
        tracing::info!(peer = %accepted.peer, "connection refused: TLS is not served here");
        return;
    }
    match accepted.preamble.shard {
        Some(wanted) if wanted != shard.index => {
            if let Err(Call::Serve(accepted)) = shard.mesh.ask(wanted, Pool::System, Call::Serve(accepted)) {
                serve_here(shard, accepted);
            }
        }
        _ => serve_here(shard, accepted),
    }
}

fn serve_here(shard: &Rc<Shard>, accepted: Accepted) {
    let Accepted { fd, peer, permit, .. } = accepted;
    let served = shard.connections.serve(fd, peer, permit, |link| FrameHandler::new(shard, link));
    if let Err(error) = served {
        tracing::warn!(%peer, %error, "an accepted connection could not be served");
    }
}
