//! The sender of one lane: gathers ready batches of several queues into Produce requests, keeps a few of them on the
//! way, and settles batches by the answers.
//!
//! One task per (broker, shard). It sleeps unless a batch begins or is whole, an answer comes, or a time is reached:
//! nothing here runs once per message, and nothing looks at every queue each time: with ten thousand queues a look at
//! all of them costs as much as sending a megabyte. Every [`EXPIRY_EVERY`] all are looked at whatever happened.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::api::{Produce, ProduceAnswer, ProduceItem, ProduceOutcome};
use equeue_net::limits::PRODUCE_ITEMS_MAX;
use equeue_net::preamble::Purpose;
use equeue_record::{MessageId, ProducerStamp, QueueKey, RecordError};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tracing::{debug, warn};

use super::completion::BatchReceipt;
use super::lane::{Lane, Reach};
use super::outbox::{Audience, Settled};
use super::queue::{Queue, TakePlan};
use super::shared::{Counters, Shared};
use crate::connection::{Connection, Endpoint, Waiting};
use crate::retry::{Backoff, BatchStep};
use crate::routes::with_causes;
use crate::{ClientError, Code, SendError};

/// A request is closed once it holds so many bytes: the broker answers a request as a whole.
const REQUEST_BYTES: usize = 1 << 20;
/// Bytes left free of a frame for its header.
const HEADER_ROOM: usize = 256 << 10;
/// Requests on the way at most.
const REQUESTS_MAX: usize = 16;
/// With fewer requests than this on the way unfinished batches are sent too: one travels while the one before it is
/// being made durable. With more, batches grow instead.
const REQUESTS_EAGER: usize = 2;
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
    /// A queue has a batch that must be sent again.
    again: bool,
    /// Batches settled since idle queues were dropped.
    settled: usize,
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
        again: false,
        settled: 0,
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
            self.take_news();
            let idle = self.active.is_empty() && self.in_flight.is_empty();
            if idle && self.shared.is_closing() && self.lane.end(false) {
                return;
            }
            let now = Instant::now();
            self.expire(now);
            self.keep_connection();
            let wake_at = self.pump(now);
            if self.again || self.settled >= self.active.len() || self.in_flight.is_empty() {
                self.drop_idle_queues();
            }
            if self.active.is_empty() && self.in_flight.is_empty() && self.shared.is_closing() {
                continue; // nothing would wake it any more
            }
            self.wait(wake_at).await;
        }
    }

    /// Takes in what the application's threads and the routes have told the lane.
    fn take_news(&mut self) {
        let known = self.active.len();
        self.lane.take_listed(&mut self.active);
        // The flags below may have been taken before these were listed: they are judged here.
        for queue in self.active.iter().skip(known) {
            self.again |= queue.outbox().has_again();
            self.look |= queue.intake().has_whole();
        }
        self.look |= self.lane.take_whole() || self.again;
        if self.lane.take_moved() {
            (self.look, self.settled) = (true, self.active.len());
        }
    }

    /// Sleeps until there is something to do, and takes in what woke it.
    async fn wait(&mut self, wake_at: Option<Instant>) {
        let expiry = (!self.active.is_empty()).then_some(self.next_expiry);
        let wake_at = [wake_at, expiry].into_iter().flatten().min();
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

    /// Sends what may be sent; tells when to look again, if time alone can change something.
    fn pump(&mut self, now: Instant) -> Option<Instant> {
        let connection = self.connection.clone()?;
        let linger = self.shared.options.linger;
        let in_flight_max = self.shared.options.max_in_flight_per_queue.clamp(1, 5);
        while self.in_flight.len() < REQUESTS_MAX {
            let plan = TakePlan { partial: self.in_flight.len() < REQUESTS_EAGER, linger, in_flight_max };
            if !plan.partial && !self.look {
                break;
            }
            let mut request = Gathering::default();
            let mut visited = 0;
            while visited < self.active.len() && request.has_room() {
                // The next request begins with the queue after the last one looked at.
                self.turn = (self.turn + 1) % self.active.len();
                visited += 1;
                let Some(queue) = self.active.get(self.turn) else { break };
                self.send_one_way(queue, &connection);
                request.gather(&self.shared, queue, plan, now);
            }
            if request.items.is_empty() {
                self.look = false;
                break;
            }
            if !self.send(&connection, request) {
                // The batches are to be sent again, and at once they would fail again.
                return Some(if connection.is_ended() { now } else { now + EXPIRY_EVERY });
            }
        }
        self.next_time(now, linger)
    }

    /// When a linger or a pause is over, if that is what a queue waits for.
    fn next_time(&mut self, now: Instant, linger: Duration) -> Option<Instant> {
        if !self.again && (linger.is_zero() || self.in_flight.len() >= REQUESTS_EAGER) {
            return None;
        }
        self.again = false;
        let partial = self.in_flight.len() < REQUESTS_EAGER;
        let mut next: Option<Instant> = None;
        for queue in &self.active {
            let (again, not_before) = {
                let outbox = queue.outbox();
                (outbox.has_again(), outbox.not_before())
            };
            self.again |= again;
            let at = match again {
                true => not_before,
                false if partial => queue.intake().linger_until(linger),
                false => None,
            };
            next = [next, at.filter(|at| *at > now)].into_iter().flatten().min();
        }
        next
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
    fn send_one_way(&self, queue: &Queue, connection: &Connection) {
        let Some(batch) = queue.intake().one_way.take() else { return };
        let count = u64::from(batch.builder.record_count());
        let sent = match (queue.key(), batch.builder.finish(ProducerStamp::NONE)) {
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

    /// Settles the batches of a request by its answer.
    fn settle(&mut self, request: &OnTheWay, answer: Result<ProduceAnswer, ClientError>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.trouble = with_causes(&error);
                for Sent { queue, number, .. } in &request.items {
                    queue.outbox().lost(*number);
                    self.after(queue);
                    self.note_more(queue);
                }
                return;
            }
        };
        let status = &answer.status;
        if status.code != Code::Ok && !status.detail.is_empty() {
            self.trouble = format!("{}: {}", status.code, status.detail).into();
        }
        let whole = ProduceOutcome {
            code: status.code,
            level: self.shared.options.level,
            retry_after_ms: status.retry_after_ms,
            base_offset: equeue_record::Offset(0),
            append_time_ms: 0,
        };
        if status.code == Code::Ok && answer.outcomes.len() != request.items.len() {
            request
                .connection
                .end("a Produce answer has another number of outcomes than its request has batches");
        }
        let mut outcomes = answer.outcomes.into_iter();
        for sent in &request.items {
            let outcome = if status.code == Code::Ok { outcomes.next() } else { Some(whole) };
            match outcome {
                Some(outcome) => self.settle_batch(sent, outcome),
                None => sent.queue.outbox().lost(sent.number),
            }
            self.after(&sent.queue);
            self.note_more(&sent.queue);
        }
    }

    /// A batch of the queue was settled: another one may have waited for that, or it is to be sent again.
    fn note_more(&mut self, queue: &Queue) {
        self.settled += 1;
        self.again |= queue.outbox().has_again();
        self.look |= self.again || queue.intake().has_whole();
    }

    fn settle_batch(&mut self, sent: &Sent, outcome: ProduceOutcome) {
        let (queue, number) = (&sent.queue, sent.number);
        let step = BatchStep::of(outcome.code);
        if !matches!(step, BatchStep::Stored { .. }) {
            self.trouble = outcome.code.text().into();
        }
        match step {
            BatchStep::Stored { duplicate } => {
                self.backoff.reset();
                let settled = queue.outbox().stored(number);
                if let Some(settled) = settled {
                    self.tell(settled, Ok(self.receipt(sent, &outcome, duplicate)));
                }
            }
            BatchStep::Again | BatchStep::Unclear | BatchStep::Reroute => {
                let pause = match outcome.retry_after_ms {
                    0 => self.backoff.pause(),
                    told => Duration::from_millis(told.into()).min(self.shared.options.send_timeout),
                };
                let not_before = Instant::now() + pause;
                queue.outbox().again(number, not_before, step == BatchStep::Unclear);
                if step == BatchStep::Reroute {
                    self.shared.client.routes.suspect(&queue.topic);
                }
            }
            BatchStep::OutOfSequence => queue.outbox().out_of_sequence(number),
            BatchStep::Refused => {
                let settled = queue.outbox().refused(number);
                if let Some(settled) = settled {
                    self.tell(settled, Err(self.refused(queue, outcome.code)));
                }
            }
        }
    }

    /// To be called after every event of an outbox.
    fn after(&self, queue: &Queue) {
        let failed = queue.outbox().settle();
        for settled in failed {
            let error = SendError::OutcomeUnknown { topic: Arc::clone(&queue.topic), queue: queue.ordinal };
            self.tell(settled, Err(error));
        }
    }

    fn tell(&self, settled: Settled, outcome: Result<BatchReceipt, SendError>) {
        if let Some(audience) = settled.audience {
            self.shared.tell(&audience, outcome);
        }
        self.shared.reuse(settled.bytes);
    }

    fn receipt(&self, sent: &Sent, outcome: &ProduceOutcome, duplicate: bool) -> BatchReceipt {
        let snapshot = self.shared.client.routes.load();
        let cluster = snapshot.cluster_of(&self.lane.broker).unwrap_or_default();
        BatchReceipt {
            broker: Arc::clone(&self.lane.broker),
            queue: sent.queue.ordinal,
            queue_key: if sent.queue.delayed { sent.key.delay_queue() } else { sent.key },
            base_offset: outcome.base_offset,
            append_time_ms: outcome.append_time_ms,
            level: outcome.level,
            duplicate,
            cluster_check: MessageId::cluster_check(cluster),
        }
    }

    fn refused(&self, queue: &Queue, code: Code) -> SendError {
        SendError::Refused {
            broker: Arc::clone(&self.lane.broker),
            topic: Arc::clone(&queue.topic),
            queue: queue.ordinal,
            code,
        }
    }

    /// Fails what is over its time, and sends elsewhere what may go elsewhere and cannot go here.
    fn expire(&mut self, now: Instant) {
        if now < self.next_expiry {
            return;
        }
        self.next_expiry = now + EXPIRY_EVERY;
        (self.look, self.again) = (true, true);
        self.settled = self.active.len();
        let limit = self.shared.options.send_timeout;
        for queue in &self.active {
            let error = |outcome_unknown| SendError::TimedOut {
                topic: Arc::clone(&queue.topic),
                queue: queue.ordinal,
                after: limit,
                outcome_unknown,
                last: Arc::clone(&self.trouble),
            };
            let unsent = queue.intake().take_expired(now, limit);
            self.shared.fail_unsent(unsent, &error(false));
            let expired = queue.outbox().expire(now, limit);
            for expired in expired {
                self.shared.tell(&expired.audience, Err(error(expired.unknown)));
            }
            self.drop_old_one_way(queue, now, limit);
            self.after(queue);
        }
        self.move_free_batches();
    }

    fn drop_old_one_way(&self, queue: &Queue, now: Instant, limit: Duration) {
        let mut intake = queue.intake();
        if let Some(old) =
            intake.one_way.take_if(|batch| now.saturating_duration_since(batch.opened) >= limit)
        {
            Counters::add(&self.shared.counters.dropped, u64::from(old.builder.record_count()));
        }
    }

    /// Batches whose messages may go anywhere leave a queue that cannot be sent to.
    fn move_free_batches(&self) {
        let down = self.lane.reach() == Reach::Down;
        for queue in &self.active {
            if !down && queue.key().is_some() {
                continue;
            }
            let Some(refuge) = self.shared.refuge(queue) else { continue };
            let _moving = self.shared.moving();
            let free = queue.intake().take_free();
            if free.is_empty() {
                continue;
            }
            let mut intake = refuge.intake();
            for batch in free {
                Counters::add(&self.shared.counters.moved, u64::from(batch.builder.record_count()));
                intake.adopt(batch);
            }
            refuge.list(&mut intake);
            if refuge.lane().is_gone() {
                // Its sender ended a moment ago: nobody else will tell of these.
                let late = intake.take_all();
                drop(intake);
                self.shared.fail_unsent(late, &SendError::Closed);
            }
        }
    }

    /// Forgets queues with nothing to do, and hands over those that another lane sends for now.
    fn drop_idle_queues(&mut self) {
        self.settled = 0;
        let (shared, lane) = (&self.shared, &self.lane);
        self.active.retain(|queue| {
            if queue.unlist_if_idle() {
                return false;
            }
            let route = queue.route();
            if *route.broker == *lane.broker && route.entry.is_none_or(|entry| entry.shard == lane.shard) {
                return true;
            }
            !queue.hand_over(&shared.lane_of(queue))
        });
    }
}

impl Drop for Sender {
    /// The runtime ends, or everything is settled: nothing may be left waiting for this task.
    fn drop(&mut self) {
        self.lane.end(true);
        self.lane.take_listed(&mut self.active);
        for queue in &self.active {
            let unsent = queue.intake().take_all();
            self.shared.fail_unsent(unsent, &SendError::Closed);
            let unsettled = queue.outbox().take_all();
            for settled in unsettled {
                self.tell(settled, Err(SendError::Closed));
            }
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
    fn gather(&mut self, shared: &Shared, queue: &Arc<Queue>, plan: TakePlan, now: Instant) {
        let Some(key) = queue.key() else { return };
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
