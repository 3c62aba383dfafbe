//! Requests: which handler serves which kind, and what is refused before any of them.
//!
//! **Invariants**: every request is answered exactly once, unless it is one-way or its connection ends; nothing here
//! waits - what takes time is a task of its own, or a place on a list.

pub(crate) mod clients;
pub(crate) mod delayed;
pub(crate) mod describe;
pub(crate) mod fetch;
pub(crate) mod grants;
pub(crate) mod group_admin;
pub(crate) mod groups;
pub(crate) mod hand_back;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod session;
pub(crate) mod topics;

use std::rc::Rc;

use equeue_net::api::{Answer, Kind, Request, Role, Status};
use equeue_net::frame::{FLAG_ANSWER, FLAG_ONE_WAY, Frame};
use equeue_net::transport::{CloseReason, Connection, Handler};
use equeue_net::{Code, put_failure};

use crate::broker::Phase;
use crate::shard::complete;
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// Gives the frames of one connection to their handlers.
pub(crate) struct FrameHandler {
    shard: Rc<Shard>,
    session: Rc<Session>,
}

impl FrameHandler {
    pub(crate) fn new(shard: &Rc<Shard>, link: &Rc<Connection>) -> Self {
        let session = Rc::new(Session::new(shard.session_id(), Rc::clone(link), shard.logs.len()));
        shard.stats.connections.add(1);
        shard.stats.connections_opened.add(1);
        Self { shard: Rc::clone(shard), session }
    }
}

impl Handler for FrameHandler {
    fn on_frames(&mut self, _: &Rc<Connection>, frames: &mut Vec<Frame>) {
        let (shard, session) = (&self.shard, &self.session);
        let mut frames = frames.drain(..);
        while let Some(frame) = frames.next() {
            let waits = !session.backlog.borrow().is_empty() || !shard.stalled.borrow().is_empty();
            if !has_room(shard, &frame) || (waits && is_produce(&frame)) {
                stall(shard, session, frame, frames);
                return;
            }
            dispatch(shard, session, &frame);
            if session.link.is_closed() {
                return;
            }
        }
    }

    fn on_close(&mut self, _: &Rc<Connection>, reason: &CloseReason) {
        let (shard, session) = (&self.shard, &self.session);
        match reason {
            CloseReason::PeerClosed | CloseReason::Stopped => {
                tracing::debug!(peer = %session.link.peer(), %reason, "connection closed");
            }
            CloseReason::Frame(_) | CloseReason::Refused(_) | CloseReason::Truncated { .. } => {
                shard.stats.protocol_errors.add(1);
                tracing::warn!(peer = %session.link.peer(), %reason, "connection closed");
            }
            _ => tracing::info!(peer = %session.link.peer(), %reason, "connection closed"),
        }
        shard.stats.connections.sub(1);
        shard.presence.borrow_mut().closed(session.id);
        groups::closed(shard, session);
        let mut fetches = Vec::new();
        shard.parked.borrow_mut().close(session.id, &mut fetches);
        drop(fetches);
        fetch::count_parked(shard);
        let bytes = session.closed();
        shard.unanswered_bytes.set(shard.unanswered_bytes.get().saturating_sub(bytes));
        shard.stalled.borrow_mut().retain(|stalled| !Rc::ptr_eq(stalled, session));
        complete::resume(shard);
    }
}

fn is_produce(frame: &Frame) -> bool {
    frame.head.kind == Kind::Produce as u16
}

/// Whether the shard has room for the bytes of a request. One request alone always has.
fn has_room(shard: &Shard, frame: &Frame) -> bool {
    let used = shard.unanswered_bytes.get();
    let limit = shard.broker.config.storage.pending_bytes_max.as_usize();
    !is_produce(frame) || used == 0 || used + frame.payload.len() <= limit
}

/// Keeps the frames and stops reading until there is room.
fn stall(shard: &Shard, session: &Rc<Session>, frame: Frame, rest: impl Iterator<Item = Frame>) {
    shard.stats.produce_waits.add(1);
    let mut backlog = session.backlog.borrow_mut();
    if backlog.is_empty() {
        session.link.set_paused(true);
        shard.stalled.borrow_mut().push_back(Rc::clone(session));
    }
    backlog.push_back(frame);
    backlog.extend(rest);
}

/// Goes on with the frames that were kept, as far as there is room.
pub(crate) fn drain_backlog(shard: &Rc<Shard>, session: &Rc<Session>) {
    loop {
        let next = session.backlog.borrow_mut().pop_front_if(|frame| has_room(shard, frame));
        let Some(frame) = next else { return };
        dispatch(shard, session, &frame);
    }
}

/// Serves one request.
fn dispatch(shard: &Rc<Shard>, session: &Rc<Session>, frame: &Frame) {
    let correlation = frame.head.correlation;
    if frame.head.flags & FLAG_ANSWER != 0 {
        return session.refuse("the peer sent an answer to nothing");
    }
    let Some(kind) = Kind::from_number(frame.head.kind) else {
        let status = Status::new(Code::Unsupported, format!("request kind {} is not known", frame.head.kind));
        return fail_kind(session, frame.head.kind, correlation, &status);
    };
    if frame.head.flags & FLAG_ONE_WAY != 0 && kind != Kind::Produce {
        return session.refuse("only Produce may be one-way");
    }
    if let Some(status) = refusal(shard, session, kind) {
        if frame.head.flags & FLAG_ONE_WAY == 0 {
            fail_kind(session, frame.head.kind, correlation, &status);
        }
        return;
    }
    match kind {
        Kind::Produce => produce::handle(shard, session, frame),
        Kind::Fetch => fetch::handle(shard, session, frame),
        Kind::Hello => serve(session, frame, |request| session::hello(shard, session, &request)),
        Kind::Heartbeat => serve(session, frame, |request| session::heartbeat(shard, session, request)),
        Kind::CommitOffsets => {
            later(session, frame, |request| offsets::commit(shard, session, correlation, request));
        }
        Kind::FetchOffsets => {
            later(session, frame, |request| offsets::fetch(shard, session, correlation, request));
        }
        Kind::ListOffsets => {
            later(session, frame, |request| offsets::list(shard, session, correlation, request));
        }
        Kind::CreateTopic => {
            later(session, frame, |request| topics::create(shard, session, correlation, request));
        }
        Kind::DeleteTopic => {
            later(session, frame, |request| topics::delete(shard, session, correlation, request));
        }
        Kind::SetTopic => {
            later(session, frame, |request| topics::set(shard, session, correlation, request));
        }
        Kind::ListTopics => serve(session, frame, |request| describe::list_topics(shard, &request)),
        Kind::DescribeTopic => {
            later(session, frame, |request| describe::topic(shard, session, correlation, &request));
        }
        Kind::DescribeBroker => {
            later(session, frame, |request| describe::broker(shard, session, correlation, &request));
        }
        Kind::HandBack => {
            later(session, frame, |request| hand_back::hand_back(shard, session, correlation, request));
        }
        Kind::CancelDelayed => {
            later(session, frame, |request| delayed::cancel(shard, session, correlation, request));
        }
        Kind::GroupHeartbeat
        | Kind::LeaveGroup
        | Kind::LeaseHeartbeat
        | Kind::GrantQueues
        | Kind::ReleaseQueues => group_member(shard, session, frame, kind),
        Kind::ListGroups | Kind::DescribeGroup | Kind::DeleteGroup | Kind::ResetOffsets => {
            group_operator(shard, session, frame, kind);
        }
        Kind::SetQueueAccess => {
            later(session, frame, |request| topics::set_access(shard, session, correlation, request));
        }
        Kind::RemoveQueues => {
            later(session, frame, |request| topics::remove_queues(shard, session, correlation, request));
        }
        Kind::ListClients => {
            later(session, frame, |request| clients::list(shard, session, correlation, &request));
        }
        Kind::BrokerStats => serve(session, frame, |request| clients::stats(shard, &request)),
        Kind::Authenticate
        | Kind::RegisterBroker
        | Kind::UnregisterBroker
        | Kind::GetRoutes
        | Kind::GetCluster => {
            let status =
                Status::new(Code::Unsupported, format!("{} is not served by this broker", kind.name()));
            fail_kind(session, frame.head.kind, correlation, &status);
        }
    }
}

/// Serves a request of a member of a group.
fn group_member(shard: &Rc<Shard>, session: &Rc<Session>, frame: &Frame, kind: Kind) {
    let correlation = frame.head.correlation;
    match kind {
        Kind::GroupHeartbeat => {
            later(session, frame, |request| groups::heartbeat(shard, session, correlation, request));
        }
        Kind::LeaveGroup => {
            later(session, frame, |request| groups::leave(shard, session, correlation, request));
        }
        Kind::LeaseHeartbeat => {
            later(session, frame, |request| grants::lease(shard, session, correlation, request));
        }
        Kind::GrantQueues => {
            later(session, frame, |request| grants::grant(shard, session, correlation, request));
        }
        _ => later(session, frame, |request| grants::release(shard, session, correlation, request)),
    }
}

/// Serves a request of an operator about groups.
fn group_operator(shard: &Rc<Shard>, session: &Rc<Session>, frame: &Frame, kind: Kind) {
    let correlation = frame.head.correlation;
    match kind {
        Kind::ListGroups => {
            later(session, frame, |request| group_admin::list(shard, session, correlation, &request));
        }
        Kind::DescribeGroup => {
            later(session, frame, |request| group_admin::describe(shard, session, correlation, &request));
        }
        Kind::DeleteGroup => {
            later(session, frame, |request| group_admin::delete(shard, session, correlation, &request));
        }
        _ => later(session, frame, |request| group_admin::reset(shard, session, correlation, request)),
    }
}

/// Why a request is not even looked at.
fn refusal(shard: &Shard, session: &Session, kind: Kind) -> Option<Status> {
    let row = kind.row();
    if row.role == Role::Nameserver {
        return Some(Status::new(Code::Unsupported, format!("{} is answered by nameservers", kind.name())));
    }
    if !session.greeted.get() && kind != Kind::Hello {
        return Some(Status::new(Code::Unauthenticated, "the first request of a connection is Hello"));
    }
    if shard.broker.phase() == Phase::Stopping {
        return Some(Status::new(Code::NotReady, "the broker is stopping"));
    }
    if session.forwarded() >= FORWARDED_MAX {
        return Some(Status::busy(RETRY_MS, "too many requests of this connection are under way"));
    }
    permit(session, kind)
}

/// Requests of one connection that tasks are busy with.
const FORWARDED_MAX: usize = 1024;
/// When to ask again after BUSY, ms.
pub(crate) const RETRY_MS: u32 = 20;

/// Whether this principal may do that: with one kind of principal, everything.
fn permit(session: &Session, kind: Kind) -> Option<Status> {
    let row = kind.row();
    match (session.principal, row.operation, row.resource) {
        (crate::shard::session::Principal::Anonymous, _, _) => None,
    }
}

/// Reads a request that is answered at once, and answers it.
fn serve<R: Request>(session: &Session, frame: &Frame, answer: impl FnOnce(R) -> R::Answer) {
    match R::decode(&frame.header) {
        Ok(request) => session.answer(frame.head.correlation, &answer(request)),
        Err(error) => {
            session.fail::<R::Answer>(frame.head.correlation, Status::new(Code::Invalid, error.to_string()));
        }
    }
}

/// Reads a request that its handler answers later.
fn later<R: Request>(session: &Session, frame: &Frame, handle: impl FnOnce(R)) {
    match R::decode(&frame.header) {
        Ok(request) => handle(request),
        Err(error) => {
            session.fail::<R::Answer>(frame.head.correlation, Status::new(Code::Invalid, error.to_string()));
        }
    }
}

/// Runs the rest of a request as a task that ends with the connection, and sends its answer.
pub(crate) fn spawn_answer<A: Answer + 'static>(
    shard: &Rc<Shard>,
    session: &Rc<Session>,
    correlation: u32,
    work: impl Future<Output = A> + 'static,
) {
    let (shard_of_task, session) = (Rc::clone(shard), Rc::clone(session));
    shard.tasks.set(shard.tasks.get() + 1);
    // Now: the connection may close before the task runs for the first time.
    let (key, closed) = session.forwarding();
    shard.spawn(async move {
        let work = std::pin::pin!(work);
        if let futures::future::Either::Left((answer, _)) = futures::future::select(work, closed).await {
            session.answer(correlation, &answer);
            session.kick();
        }
        session.settled(key);
        shard_of_task.tasks.set(shard_of_task.tasks.get() - 1);
    });
}

/// Answers a request of any kind with a status.
fn fail_kind(session: &Session, kind: u16, correlation: u32, status: &Status) {
    let put = session.link.push(|out| put_failure(out, kind, correlation, status));
    debug_assert!(put.is_ok(), "a status fits a frame");
}
