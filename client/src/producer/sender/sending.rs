//! Batches become requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::api::{Produce, ProduceAnswer, ProduceItem};
use equeue_net::limits::PRODUCE_ITEMS_MAX;
use equeue_record::{ProducerStamp, QueueKey, RecordError};
use tracing::warn;

use super::super::outbox::Audience;
use super::super::queue::{Queue, TakePlan, Way};
use super::super::shared::{Counters, Shared};
use super::{EXPIRY_EVERY, OnTheWay, Sender, Sent, earliest};
use crate::connection::{Connection, Waiting};
use crate::{ClientError, SendError};

/// A request is closed once it holds so many bytes: the broker answers a request as a whole.
const REQUEST_BYTES: usize = 1 << 20;
/// Requests on the way at most.
const REQUESTS_MAX: usize = 16;
/// With fewer requests than this on the way unfinished batches are sent too: one travels while the one before it is
/// being made durable. With more, batches grow instead.
const REQUESTS_EAGER: usize = 2;

impl Sender {
    /// Sends what may be sent; tells when to look again, if time alone can change something.
    pub(super) fn pump(&mut self, now: Instant) -> Option<Instant> {
        let connection = self.connection.clone()?;
        let linger = self.shared.options.linger;
        let in_flight_max = self.shared.options.max_in_flight_per_queue.clamp(1, 5);
        while self.in_flight.len() < REQUESTS_MAX {
            let partial = self.in_flight.len() < REQUESTS_EAGER;
            let plan = TakePlan { partial, linger, in_flight_max };
            if !plan.partial && !self.look {
                break;
            }
            let mut request = Gathering::default();
            let mut visited = 0;
            // Every queue is looked at once, unless there is more than a request holds.
            while visited < self.active.len() && request.has_room() {
                // The next request begins with the queue after the last one looked at.
                self.turn = (self.turn + 1) % self.active.len();
                visited += 1;
                let Some(queue) = self.active.get(self.turn) else { break };
                let (way, key) = queue.place_on(&self.lane);
                // Where it has moved to, another lane sends for it as soon as nothing is on the way here. While the
                // producer is closed that lane may have ended: then the broker passes it on to its other shard.
                let passes_on = way == Way::OtherShard && self.shared.is_closing();
                if way != Way::Here && !passes_on {
                    continue;
                }
                self.send_one_way(queue, key, &connection);
                request.gather(&self.shared, queue, key, plan, now);
            }
            let all_taken = request.has_room();
            if !request.items.is_empty() && !self.send(&connection, request) {
                // The batches are to be sent again, and at once they would fail again.
                return Some(if connection.is_ended() { now } else { now + EXPIRY_EVERY });
            }
            if all_taken {
                self.look = false;
                break;
            }
        }
        self.next_time(now, linger)
    }

    /// When a linger or a pause is over, if that is what a queue waits for.
    fn next_time(&mut self, now: Instant, linger: Duration) -> Option<Instant> {
        let lingers = !linger.is_zero() && self.in_flight.len() < REQUESTS_EAGER;
        let was_due = self.again_at.is_some_and(|at| at <= now);
        if was_due {
            // What was due and is not on its way waits for an answer, or is looked at again.
            let again = self.active.iter().filter_map(|queue| queue.outbox().again_at(now));
            self.again_at = again.filter(|at| *at > now).min();
        }
        if !lingers {
            return self.again_at;
        }
        let ends = self.active.iter().filter_map(|queue| queue.intake().linger_until(linger));
        earliest(self.again_at, ends.filter(|at| *at > now).min())
    }

    /// Sends a request; `false`: it could not be, and its batches are settled as lost.
    fn send(&mut self, connection: &Arc<Connection>, request: Gathering) -> bool {
        let Gathering { items, wire, pieces, bytes } = request;
        let produce = Produce { level: self.shared.options.level, items: wire };
        let sent = connection.request(&produce, pieces, bytes);
        let on_the_way = OnTheWay { items, connection: Arc::clone(connection) };
        let waiting = match sent {
            Ok(waiting) => waiting,
            Err(error) => {
                self.settle(&on_the_way, Err(error));
                return false;
            }
        };
        self.in_flight.push(Box::pin(answer(on_the_way, waiting)));
        true
    }

    /// Sends what nobody acknowledges.
    fn send_one_way(&self, queue: &Queue, key: Option<QueueKey>, connection: &Connection) {
        let Some(batch) = queue.intake().one_way.take() else { return };
        let count = u64::from(batch.builder.record_count());
        let sent = match (key, batch.builder.finish(ProducerStamp::NONE)) {
            (Some(key), Ok(bytes)) => {
                let items = vec![ProduceItem { queue: key, bytes: wire_len(bytes.len()) }];
                connection.one_way(&Produce { level: self.shared.options.level, items }, bytes).is_ok()
            }
            _ => false,
        };
        if !sent {
            Counters::add(&self.shared.counters.dropped, count);
        }
    }
}

/// A request in the making.
#[derive(Default)]
struct Gathering {
    items: Vec<Sent>,
    wire: Vec<ProduceItem>,
    pieces: Vec<bytes::Bytes>,
    bytes: usize,
}

impl Gathering {
    fn has_room(&self) -> bool {
        self.bytes < REQUEST_BYTES && self.items.len() < PRODUCE_ITEMS_MAX
    }

    /// Takes what the queue has to send, as long as there is room.
    fn gather(
        &mut self,
        shared: &Shared,
        queue: &Arc<Queue>,
        key: Option<QueueKey>,
        plan: TakePlan,
        now: Instant,
    ) {
        let Some(key) = key else { return };
        while self.has_room() {
            match queue.next(plan, now) {
                Ok(Some(batch)) => {
                    if let Some(messages) = batch.again {
                        Counters::add(&shared.counters.retried, u64::from(messages));
                    } else {
                        Counters::add(&shared.counters.batches, 1);
                        Counters::add(&shared.counters.bytes, batch.bytes.len() as u64);
                    }
                    self.bytes += batch.bytes.len();
                    self.wire.push(ProduceItem { queue: key, bytes: wire_len(batch.bytes.len()) });
                    self.pieces.push(batch.bytes);
                    self.items.push(Sent { queue: Arc::clone(queue), number: batch.number, key });
                }
                Ok(None) => return,
                Err((audience, error)) => fail_to_freeze(shared, queue, &audience, &error),
            }
        }
    }
}

fn fail_to_freeze(shared: &Shared, queue: &Queue, audience: &Audience, error: &RecordError) {
    warn!(topic = %queue.topic, queue = queue.ordinal, %error, "a batch cannot be made");
    let error =
        SendError::Encoding { topic: Arc::clone(&queue.topic), queue: queue.ordinal, source: error.clone() };
    shared.tell(audience, Err(error));
}

async fn answer(request: OnTheWay, waiting: Waiting) -> (OnTheWay, Result<ProduceAnswer, ClientError>) {
    let answer = match waiting.frame().await {
        Ok(frame) => request.connection.decode::<ProduceAnswer>(&frame),
        Err(error) => Err(error),
    };
    (request, answer)
}

/// A batch's length on the wire.
fn wire_len(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a batch is shorter than a frame, whose limit fits 32 bits")
}
