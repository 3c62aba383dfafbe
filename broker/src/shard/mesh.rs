//! Between shards: requests with a reply each.
//!
//! **Invariants**: nobody ever waits to put something in: a request needs a credit of its pool, the credit stands for a
//! place in the target's inbox *and* for the place of its reply in ours; without one the caller gets its request back
//! and answers BUSY. A reply always finds room. A request that is dropped unanswered is answered all the same, with
//! nothing, so that its credit comes back.
//!
//! Knows nothing of what is asked; built on bounded channels that work between any two threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures::channel::oneshot;
use slab::Slab;

/// What a request waits for decides which credits it uses, so that slow ones never use up those of quick ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Answered as soon as the disk allows.
    Quick,
    /// May wait for messages to come.
    Parked,
    /// The broker's own: catalog, hand-over of connections, cancellations.
    System,
}

/// Credits per pool, from each shard to each other.
pub const CREDITS: [(Pool, usize); 3] = [(Pool::Quick, 256), (Pool::Parked, 1024), (Pool::System, 64)];

const CREDITS_TOTAL: usize = 256 + 1024 + 64;

enum Envelope<Q, R> {
    Request { from: u16, slot: usize, body: Q },
    Reply { from: u16, slot: usize, body: Option<R> },
}

type Sender<Q, R> = flume::Sender<Envelope<Q, R>>;
type Receiver<Q, R> = flume::Receiver<Envelope<Q, R>>;

/// One shard's end of the mesh before it is on its thread.
pub struct MeshEnd<Q, R> {
    index: u16,
    senders: Vec<Sender<Q, R>>,
    inbox: Receiver<Q, R>,
}

/// Makes the ends for `shards` shards.
pub fn build<Q, R>(shards: u16) -> Vec<MeshEnd<Q, R>> {
    // Each other shard may have all its requests here, and all replies to ours on the way.
    let room = usize::from(shards.saturating_sub(1)) * CREDITS_TOTAL * 2;
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| flume::bounded(room.max(1))).unzip();
    let end = |(index, inbox)| MeshEnd { index, senders: senders.clone(), inbox };
    (0..shards).zip(inboxes).map(end).collect()
}

struct Waiting<R> {
    pool: Pool,
    reply: oneshot::Sender<R>,
}

struct Peer<Q, R> {
    sender: Sender<Q, R>,
    used: [Cell<usize>; CREDITS.len()],
    waiting: RefCell<Slab<Waiting<R>>>,
}

/// One shard's end of the mesh, on its thread.
pub struct Mesh<Q, R> {
    index: u16,
    peers: Vec<Peer<Q, R>>,
    inbox: Receiver<Q, R>,
}

/// A request of another shard. Dropping it answers with nothing.
pub struct Asked<Q, R> {
    /// Who asks.
    pub from: u16,
    /// What.
    pub body: Q,
    /// The way back.
    pub responder: Responder<Q, R>,
}

/// The way back of one request.
pub struct Responder<Q, R> {
    mesh: Rc<Mesh<Q, R>>,
    to: u16,
    slot: Option<usize>,
}

/// The answer on its way; ends with an error when the other shard dropped the request.
pub type Reply<R> = oneshot::Receiver<R>;

impl<Q, R> MeshEnd<Q, R> {
    /// Takes the end into use, on the shard's own thread.
    pub fn join(self) -> Rc<Mesh<Q, R>> {
        let peer = |sender| Peer { sender, used: Default::default(), waiting: RefCell::default() };
        Rc::new(Mesh {
            index: self.index,
            peers: self.senders.into_iter().map(peer).collect(),
            inbox: self.inbox,
        })
    }
}

impl<Q, R> Mesh<Q, R> {
    /// This shard's number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.peers.len()).expect("built for a u16 of shards")
    }

    /// Sends a request to another shard; the reply comes through what is returned. Never waits.
    ///
    /// # Errors
    /// No credit is left (or the shard is this one, unknown or gone): the request comes back.
    pub fn ask(&self, to: u16, pool: Pool, body: Q) -> Result<Reply<R>, Q> {
        let Some(peer) = self.peers.get(usize::from(to)).filter(|_| to != self.index) else {
            return Err(body);
        };
        let (used, limit) = peer.credit(pool);
        if used.get() >= limit {
            return Err(body);
        }
        let (reply, answer) = oneshot::channel();
        let slot = peer.waiting.borrow_mut().insert(Waiting { pool, reply });
        match peer.sender.try_send(Envelope::Request { from: self.index, slot, body }) {
            Ok(()) => {
                used.set(used.get() + 1);
                Ok(answer)
            }
            Err(error) => {
                peer.waiting.borrow_mut().remove(slot);
                match error.into_inner() {
                    Envelope::Request { body, .. } => Err(body),
                    Envelope::Reply { .. } => unreachable!("what comes back is what was sent"),
                }
            }
        }
    }

    /// The next request of another shard; replies are given to who waits for them on the way. `None`: all are gone.
    pub async fn next(self: &Rc<Self>) -> Option<Asked<Q, R>> {
        loop {
            match self.inbox.recv_async().await.ok()? {
                Envelope::Request { from, slot, body } => {
                    let responder = Responder { mesh: Rc::clone(self), to: from, slot: Some(slot) };
                    return Some(Asked { from, body, responder });
                }
                Envelope::Reply { from, slot, body } => self.replied(from, slot, body),
            }
        }
    }

    fn replied(&self, from: u16, slot: usize, body: Option<R>) {
        let peer = self.peers.get(usize::from(from)).expect("only shards of the mesh send into it");
        let waiting = peer.waiting.borrow_mut().remove(slot);
        let (used, _) = peer.credit(waiting.pool);
        used.set(used.get() - 1);
        if let Some(body) = body {
            let _ = waiting.reply.send(body); // who asked may have gone
        }
    }

    /// Requests of ours that are not answered yet.
    pub fn outstanding(&self) -> usize {
        self.peers.iter().flat_map(|peer| &peer.used).map(Cell::get).sum()
    }
}

impl<Q, R> Peer<Q, R> {
    fn credit(&self, pool: Pool) -> (&Cell<usize>, usize) {
        let [quick, parked, system] = &self.used;
        let [(_, quick_max), (_, parked_max), (_, system_max)] = CREDITS;
        match pool {
            Pool::Quick => (quick, quick_max),
            Pool::Parked => (parked, parked_max),
            Pool::System => (system, system_max),
        }
    }
}

impl<Q, R> Responder<Q, R> {
    /// Answers.
    pub fn reply(mut self, body: R) {
        self.send(Some(body));
    }

    fn send(&mut self, body: Option<R>) {
        let Some(slot) = self.slot.take() else { return };
        let Some(peer) = self.mesh.peers.get(usize::from(self.to)) else { return };
        let sent = peer.sender.try_send(Envelope::Reply { from: self.mesh.index, slot, body });
        debug_assert!(
            !matches!(sent, Err(flume::TrySendError::Full(_))),
            "the asker's credit holds a place for the reply"
        );
    }
}

impl<Q, R> Drop for Responder<Q, R> {
    fn drop(&mut self) {
        self.send(None);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    type End = Rc<Mesh<u32, String>>;

    fn pair() -> (End, End) {
        let mut ends = build(2).into_iter();
        (ends.next().unwrap().join(), ends.next().unwrap().join())
    }

    /// Takes in what has come without waiting: replies are delivered, a request is given.
    fn poll(mesh: &Rc<Mesh<u32, String>>) -> Option<Asked<u32, String>> {
        futures::FutureExt::now_or_never(mesh.next()).flatten()
    }

    #[test]
    fn a_request_gets_its_reply() {
        let (one, two) = pair();
        let first = one.ask(1, Pool::Quick, 7).unwrap();
        let second = one.ask(1, Pool::Quick, 8).unwrap();
        let asked: Vec<_> = std::iter::from_fn(|| poll(&two)).collect();
        assert_eq!(asked.iter().map(|a| (a.from, a.body)).collect::<Vec<_>>(), [(0, 7), (0, 8)]);
        for request in asked.into_iter().rev() {
            let text = request.body.to_string();
            request.responder.reply(text);
        }
        assert!(poll(&one).is_none());
        assert_eq!(block_on(first).unwrap(), "7");
        assert_eq!(block_on(second).unwrap(), "8");
        assert_eq!(one.outstanding(), 0);
    }

    #[test]
    fn credits_bound_each_pool_and_come_back() {
        let (one, two) = pair();
        for (pool, limit) in CREDITS {
            let replies: Vec<_> = (0..limit).map(|_| one.ask(1, pool, 1).unwrap()).collect();
            assert_eq!(one.ask(1, pool, 9).err(), Some(9));
            drop(replies); // a caller that goes away does not free the place of its reply
            assert_eq!(one.ask(1, pool, 9).err(), Some(9));
        }
        let mut asked: Vec<_> = std::iter::from_fn(|| poll(&two)).collect();
        assert_eq!(asked.len(), CREDITS_TOTAL);
        asked.pop().unwrap().responder.reply(String::new());
        assert!(poll(&one).is_none());
        assert!(one.ask(1, Pool::System, 1).is_ok());
    }

    #[test]
    fn full_both_ways_still_has_room_for_every_reply() {
        let (one, two) = pair();
        let fill = |mesh: &Rc<Mesh<u32, String>>, to| {
            CREDITS
                .iter()
                .flat_map(|&(pool, limit)| (0..limit).map(move |_| pool))
                .map(|pool| mesh.ask(to, pool, 1).unwrap())
                .collect::<Vec<_>>()
        };
        let (from_one, from_two) = (fill(&one, 1), fill(&two, 0));
        let at_two: Vec<_> = std::iter::from_fn(|| poll(&two)).collect();
        let at_one: Vec<_> = std::iter::from_fn(|| poll(&one)).collect();
        for request in at_one.into_iter().chain(at_two) {
            request.responder.reply("done".to_owned());
        }
        assert!(poll(&one).is_none() && poll(&two).is_none());
        for reply in from_one.into_iter().chain(from_two) {
            assert_eq!(block_on(reply).unwrap(), "done");
        }
    }

    #[test]
    fn a_dropped_request_is_answered_with_nothing() {
        let (one, two) = pair();
        let reply = one.ask(1, Pool::Parked, 1).unwrap();
        drop(poll(&two));
        assert!(poll(&one).is_none());
        assert!(block_on(reply).is_err());
        assert_eq!(one.outstanding(), 0);
    }

    #[test]
    fn itself_and_strangers_are_not_asked() {
        let (one, _two) = pair();
        assert_eq!(one.ask(0, Pool::Quick, 1).err(), Some(1));
        assert_eq!(one.ask(2, Pool::Quick, 1).err(), Some(1));
    }

    #[test]
    fn works_between_threads() {
        let mut ends = build::<u32, u32>(2).into_iter();
        let (one, two) = (ends.next().unwrap(), ends.next().unwrap());
        let thread = std::thread::spawn(move || {
            let mesh = two.join();
            block_on(async {
                for _ in 0..1000 {
                    let asked = mesh.next().await.unwrap();
                    let body = asked.body * 2;
                    asked.responder.reply(body);
                }
            });
        });
        let mesh = one.join();
        block_on(async {
            for number in 0..1000 {
                let reply = mesh.ask(1, Pool::Quick, number).unwrap();
                let pump = std::pin::pin!(mesh.next());
                match futures::future::select(reply, pump).await {
                    futures::future::Either::Left((answer, _)) => assert_eq!(answer, Ok(number * 2)),
                    futures::future::Either::Right(_) => panic!("nobody asks here"),
                }
            }
        });
        thread.join().unwrap();
    }
}
