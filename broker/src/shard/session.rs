//! A connection as the shard sees it: who is there, what waits to be answered, what waits to be looked at.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use equeue_net::api::{Answer, HeldQueue, Status};
use equeue_net::frame::{FLAG_ANSWER, Frame, FrameError, put_frame};
use equeue_net::transport::{CloseReason, Connection, Hold};
use equeue_storage::log::LogSlice;
use futures::channel::oneshot;
use slab::Slab;

use super::answers::Answers;
use crate::fetch::FetchJob;
use crate::group::Member;

/// Who asks. Every handler is given one; there is no authentication yet, so there is one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Nobody in particular; may do everything.
    Anonymous,
}

/// What an unanswered Produce request holds: bytes of its connection and of its shard.
#[derive(Debug)]
pub(crate) struct ProduceHold {
    /// Against the connection.
    pub(crate) _connection: Hold,
    /// Against the shard; given back by the shard when it answers.
    pub(crate) bytes: usize,
}

/// A fetch that waits for the disk or for room in the connection.
#[derive(Debug)]
pub(crate) struct SlowFetch {
    pub(crate) correlation: u32,
    pub(crate) job: FetchJob,
}

/// A list that a member told, and its hash.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) hash: u64,
    pub(crate) queues: Rc<[HeldQueue]>,
}

/// One connection of this shard.
#[derive(Debug)]
pub(crate) struct Session {
    /// Number of the connection, never used again.
    pub(crate) id: u64,
    /// The transport.
    pub(crate) link: Rc<Connection>,
    /// It said Hello.
    pub(crate) greeted: Cell<bool>,
    /// Who is there.
    pub(crate) principal: Principal,
    /// The client, as its Hello named it.
    pub(crate) client: RefCell<Member>,
    /// What the member holds here by its last full heartbeat, by group.
    pub(crate) held: RefCell<HashMap<Arc<str>, Held>>,
    /// Groups that it heartbeats for, and the shard that keeps their members.
    pub(crate) groups: RefCell<HashMap<Arc<str>, u16>>,
    /// Answers that wait for durability.
    pub(crate) answers: RefCell<Answers<ProduceHold>>,
    /// Frames that wait for the shard to have room for their bytes. While there are any, the socket is not read.
    pub(crate) backlog: RefCell<VecDeque<Frame>>,
    /// Fetches that wait for the disk or for room, in order.
    pub(crate) slow_fetches: RefCell<VecDeque<SlowFetch>>,
    /// A task goes through `slow_fetches`.
    pub(crate) slow_running: Cell<bool>,
    /// Fetches that other shards serve for it, by fetch id: dropped when a newer one replaces them.
    forwarded_fetches: RefCell<HashMap<u32, oneshot::Sender<()>>>,
    /// Dropped when the connection closes: what was forwarded for it ends then.
    forwarded: RefCell<Slab<oneshot::Sender<()>>>,
}

impl Session {
    pub(crate) fn new(id: u64, link: Rc<Connection>, logs: usize) -> Self {
        Self {
            id,
            link,
            greeted: Cell::new(false),
            principal: Principal::Anonymous,
            client: RefCell::default(),
            held: RefCell::default(),
            groups: RefCell::default(),
            answers: RefCell::new(Answers::new(logs)),
            backlog: RefCell::default(),
            slow_fetches: RefCell::default(),
            slow_running: Cell::new(false),
            forwarded_fetches: RefCell::default(),
            forwarded: RefCell::default(),
        }
    }

    /// The member that this connection belongs to.
    pub(crate) fn member(&self) -> Member {
        self.client.borrow().clone()
    }

    /// Queues an answer; one that does not fit a frame becomes an error.
    pub(crate) fn answer<A: Answer>(&self, correlation: u32, answer: &A) {
        let put = |answer: &A| self.link.push(|out| put_frame(out, answer, FLAG_ANSWER, correlation, 0));
        if let Err(error) = put(answer) {
            tracing::warn!(kind = A::KIND.name(), %error, "an answer does not fit a frame");
            self.fail::<A>(correlation, Status::new(equeue_net::Code::Internal, error.to_string()));
        }
    }

    /// Queues an answer that carries only a status.
    pub(crate) fn fail<A: Answer>(&self, correlation: u32, status: Status) {
        let answer = A::failed(status);
        // A status always fits: its text is cut to a limit.
        let _ = self.link.push(|out| put_frame(out, &answer, FLAG_ANSWER, correlation, 0));
    }

    /// Queues a frame head that `head` writes, and the log memory that follows it.
    pub(crate) fn answer_with(
        &self,
        pieces: Vec<LogSlice>,
        head: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>,
    ) -> Result<(), FrameError> {
        self.link.push(head)?;
        for piece in pieces {
            self.link.push_shared(equeue_net::transport::Shared { memory: piece.memory, range: piece.range });
        }
        Ok(())
    }

    /// Lets queued answers go; needed outside of the reading task.
    pub(crate) fn kick(&self) {
        self.link.kick();
    }

    /// Ends the connection because of what it sent.
    pub(crate) fn refuse(&self, why: &'static str) {
        self.link.close(CloseReason::Refused(why));
    }

    /// Something is done elsewhere for this connection: the receiver ends when the connection closes. To be given
    /// back with [`Session::settled`].
    pub(crate) fn forwarding(&self) -> (usize, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (self.forwarded.borrow_mut().insert(sender), receiver)
    }

    /// A fetch that other shards serve; the receiver ends when a newer one with its id comes.
    pub(crate) fn forward_fetch(&self, fetch_id: u32) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.forwarded_fetches.borrow_mut().insert(fetch_id, sender);
        receiver
    }

    /// A newer fetch has come: the one of the same id is to be answered now.
    pub(crate) fn replace_forwarded(&self, fetch_id: u32) {
        self.forwarded_fetches.borrow_mut().remove(&fetch_id);
    }

    /// It is answered; forgets it unless a newer one has its place.
    pub(crate) fn fetch_answered(&self, fetch_id: u32) {
        let mut fetches = self.forwarded_fetches.borrow_mut();
        if fetches.get(&fetch_id).is_some_and(oneshot::Sender::is_canceled) {
            fetches.remove(&fetch_id);
        }
    }

    /// It is done.
    pub(crate) fn settled(&self, key: usize) {
        self.forwarded.borrow_mut().try_remove(key);
    }

    /// Requests of this connection that are being done elsewhere.
    pub(crate) fn forwarded(&self) -> usize {
        self.forwarded.borrow().len()
    }

    /// The connection is over: nothing of it is to be left. Gives the bytes that it held against the shard.
    pub(crate) fn closed(&self) -> usize {
        let mut bytes = 0;
        self.answers.borrow_mut().clear(|request| bytes += request.hold.bytes);
        self.backlog.borrow_mut().clear();
        self.slow_fetches.borrow_mut().clear();
        self.forwarded.borrow_mut().clear();
        self.forwarded_fetches.borrow_mut().clear();
        self.held.borrow_mut().clear();
        bytes
    }
}
