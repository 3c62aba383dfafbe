//! The sender of one lane: gathers ready batches of several queues into Produce requests, keeps a few of them on the
//! way, and settles batches by the answers.
//!
//! One task per (broker, shard). It sleeps unless a batch begins or is whole, an answer comes, or a time is reached:
//! nothing here runs once per message, and nothing looks at every queue each time: with ten thousand queues a look at
//! all of them costs as much as sending a megabyte. Every [`EXPIRY_EVERY`] all are looked at whatever happened.

mod overdue;
mod sending;
mod settling;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::api::ProduceAnswer;
use equeue_net::preamble::Purpose;
use equeue_record::QueueKey;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tracing::{debug, warn};

use super::lane::{Lane, Reach};
use super::queue::{Queue, Way};
use super::shared::Shared;
use crate::connection::{Connection, Endpoint};
use crate::retry::Backoff;
use crate::routes::with_causes;
use crate::{ClientError, SendError};

/// Bytes left free of a frame for its header.
const HEADER_ROOM: usize = 256 << 10;
/// How often timeouts are looked at.
const EXPIRY_EVERY: Duration = Duration::from_millis(100);
/// Longest pause after an answer that asks to try again without saying when.
const AGAIN_PAUSE_MAX: Duration = Duration::from_millis(500);

type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;
type Connecting = Future<Result<Arc<Connection>, ClientError>>;

/// A batch of a request on its way: its number in its queue, and the key under which the queue was asked for, whatever
/// its route has become when the answer comes.
struct Sent {
    queue: Arc<Queue>,
    number: u64,
    key: QueueKey,
}

/// A request on its way: what it holds, in order.
struct OnTheWay {
    items: Vec<Sent>,
    connection: Arc<Connection>,
}

/// See the module.
struct Sender {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    /// Queues with something unsent or unsettled.
    active: Vec<Arc<Queue>>,
    /// Place in `active` that was looked at last.
    turn: usize,
    /// A queue may have more than an unfinished batch to send: worth a look at all of them.
    look: bool,
    /// From when on a batch may be sent again; `None`: none is to be, or it waits for an answer.
    again_at: Option<Instant>,
    /// Batches settled since idle queues were dropped.
    settled: usize,
    /// A queue may belong to another lane now: worth dropping them whatever was settled.
    tidy: bool,
    connection: Option<Arc<Connection>>,
    connecting: Option<Connecting>,
    in_flight: FuturesUnordered<Future<(OnTheWay, Result<ProduceAnswer, ClientError>)>>,
    backoff: Backoff,
    next_expiry: Instant,
    /// What stood in the way last, for the errors of timeouts.
    trouble: Arc<str>,
}

/// Sends for a lane until the producer is closed and everything is settled.
pub(crate) async fn run(shared: Arc<Shared>, lane: Arc<Lane>) {
    let sender = Sender {
        shared,
        lane,
        active: Vec::new(),
        turn: 0,
        look: false,
        again_at: None,
        settled: 0,
        tidy: false,
        connection: None,
        connecting: None,
        in_flight: FuturesUnordered::new(),
        backoff: Backoff::new(AGAIN_PAUSE_MAX),
        next_expiry: Instant::now(),
        trouble: "nothing was tried yet".into(),
    };
    sender.run().await;
}

impl Sender {
    async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.take_news(now);
            self.expire(now);
            self.keep_connection();
            let wake_at = self.pump(now);
            if self.tidy || self.settled >= self.active.len() || self.in_flight.is_empty() {
                self.drop_idle_queues();
            }
            if self.active.is_empty() && self.in_flight.is_empty() && self.shared.is_closing() {
                if self.lane.end(false) {
                    return;
                }
                continue; // nothing else would wake it
            }
            self.wait(wake_at).await;
        }
    }

    /// Takes in what the application's threads and the routes have told the lane.
    fn take_news(&mut self, now: Instant) {
        let known = self.active.len();
        self.lane.take_listed(&mut self.active);
        // The flags below may have been taken before these were listed: they are judged here.
        for queue in self.active.iter().skip(known) {
            // The intake first: who hands a queue over holds it until the outbox is as it shall be.
            let has_whole = queue.intake().has_whole();
            let again_at = queue.outbox().again_at(now);
            self.again_at = earliest(self.again_at, again_at);
            self.look |= has_whole;
            self.tidy |= queue.place_on(&self.lane).0 != Way::Here;
        }
        self.look |= self.lane.take_whole() || self.again_at.is_some_and(|at| at <= now);
        if self.lane.take_moved() {
            (self.look, self.tidy) = (true, true);
        }
    }

    /// Sleeps until there is something to do, and takes in what woke it.
    async fn wait(&mut self, wake_at: Option<Instant>) {
        let expiry = (!self.active.is_empty()).then_some(self.next_expiry);
        let wake_at = earliest(wake_at, expiry);
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let connecting = async {
            match &mut self.connecting {
                Some(connecting) => connecting.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.lane.woken() => {}
            Some((request, answer)) = self.in_flight.next() => {
                self.settle(&request, answer);
                // What else is there already is taken in one go: sending comes after.
                while let Some(Some((request, answer))) = futures::FutureExt::now_or_never(self.in_flight.next()) {
                    self.settle(&request, answer);
                }
            }
            outcome = connecting => self.connected(outcome),
            () = sleep => {}
        }
    }

    /// Notices the end of the connection, and begins to make one when there is something to send, or when the broker
    /// was unreachable (to notice that it is back).
    fn keep_connection(&mut self) {
        if self.connection.as_ref().is_some_and(|connection| connection.is_ended()) {
            self.connection = None;
            self.shared.client.routes.refresh();
        }
        let missed = self.lane.reach() == Reach::Down && !self.shared.is_closing();
        let wanted = !self.active.is_empty() || missed && self.shared.is_alive(&self.lane.broker);
        if self.connection.is_some() || self.connecting.is_some() || !wanted {
            return;
        }
        let (shared, lane) = (Arc::clone(&self.shared), Arc::clone(&self.lane));
        self.connecting = Some(Box::pin(async move {
            let client = &shared.client;
            let Some(address) = client.routes.load().address(&lane.broker).cloned() else {
                let _ = client.routes.round().await;
                tokio::time::sleep(EXPIRY_EVERY).await;
                return Err(ClientError::BrokerAway { broker: Arc::clone(&lane.broker) });
            };
            let endpoint = Endpoint { address, shard: Some(lane.shard), purpose: Purpose::Produce };
            client.pool.get(&endpoint).await
        }));
    }

    fn connected(&mut self, outcome: Result<Arc<Connection>, ClientError>) {
        self.connecting = None;
        let reach = match outcome {
            Ok(connection) => {
                let limit = connection.hello().batch_bytes_max as usize;
                if limit > 0 {
                    self.shared
                        .limit_batch(limit.min(connection.frame_bytes_max().saturating_sub(HEADER_ROOM)));
                }
                self.connection = Some(connection);
                Reach::Up
            }
            Err(error) => {
                self.trouble = with_causes(&error);
                debug!(broker = %self.lane.broker, shard = self.lane.shard, error = %self.trouble, "cannot send");
                self.shared.client.routes.refresh();
                Reach::Down
            }
        };
        if self.lane.set_reach(reach) {
            match reach {
                Reach::Up => debug!(broker = %self.lane.broker, shard = self.lane.shard, "can send"),
                _ => {
                    warn!(broker = %self.lane.broker, shard = self.lane.shard, error = %self.trouble, "cannot send");
                }
            }
            self.shared.adopt_routes();
        }
        if reach == Reach::Down {
            self.move_free_batches();
        }
    }

    /// Forgets queues with nothing to do, and hands over those that another lane sends for now.
    fn drop_idle_queues(&mut self) {
        (self.settled, self.tidy) = (0, false);
        let (shared, lane) = (&self.shared, &self.lane);
        self.active.retain(|queue| match queue.place_on(lane) {
            (Way::Here, _) => !queue.unlist_if_idle(),
            _ => !queue.hand_over(&shared.lane_of(queue)),
        });
    }
}

impl Drop for Sender {
    /// The runtime ends, or everything is settled: nothing may be left waiting for this task.
    fn drop(&mut self) {
        self.lane.end(true);
        self.lane.take_listed(&mut self.active);
        for queue in &self.active {
            let unsent = {
                let mut intake = queue.intake();
                intake.listed = false; // what comes later finds that nobody sends
                intake.take_all()
            };
            self.shared.fail_unsent(unsent, &SendError::Closed);
            let unsettled = queue.outbox().take_all();
            for settled in unsettled {
                self.tell(settled, Err(SendError::Closed));
            }
        }
    }
}

/// The earlier of two moments, where there is one.
fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}
