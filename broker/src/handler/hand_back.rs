//! `HandBack`: copies messages that a group could not handle to its retry or dead-letter queue, with a mark that this was
//! done, in one append.
//!
//! **Invariants**: a message is copied once, however often it is handed back (its mark is in the append of its copy, and
//! those before are durable when it is looked at), but for one that lies before the committed offset: it is being replayed,
//! and a lost answer makes a second copy of it; nothing is copied under a grant that is not in force.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use equeue_net::api::{HandBack, HandBackAnswer, HandBackItem, HandBackOutcome, Status};
use equeue_net::{Code, hidden};
use equeue_record::{BatchBuilder, Codec, MessageId, Offset, ProducerStamp, QueueKey, Record};
use equeue_storage::io::Io as _;
use equeue_storage::log::{AppendError, AtomicPart};

use super::offsets::invalid_group;
use super::{spawn_answer, topics};
use crate::delay;
use crate::delay::load::LoadError;
use crate::delay::marks::{Bits, Marks};
use crate::delay::ready::Loaded;
use crate::delay::wheel::Waiting;
use crate::group::group_name_is_valid;
use crate::retry::{COPY_GROWTH, Failure, Fate, Source, attempt_of, copy, fate};
use crate::shard::call::{Call, Reply};
use crate::shard::catalog::status_of;
use crate::shard::holds::host_of;
use crate::shard::router::Scatter;
use crate::shard::session::Session;
use crate::shard::state::{LogHost, Shard};
use crate::state_key;

/// Bytes of messages that are read before they are appended: a request may name many of the largest.
const READ_BYTES_MAX: usize = 4 << 20;
/// Bytes that one message takes in an append beside its copy: a batch of its own and a mark.
const MESSAGE_BYTES: usize = 768;

/// Serves `HandBack`, wherever the messages are. What was begun is ended, whether or not the connection lives.
pub(crate) fn hand_back(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: HandBack) {
    let names = [hidden::retry_topic(&request.group), hidden::dead_letter_topic(&request.group)];
    if !group_name_is_valid(&request.group) || names.iter().any(|name| hidden::group_of(name).is_none()) {
        return session.fail::<HandBackAnswer>(correlation, invalid_group(&request.group));
    }
    let group: Arc<str> = Arc::from(request.group);
    let attempts_max = match request.attempts_max {
        0 => shard.broker.config.retry.attempts_max,
        asked => asked,
    };
    let member = session.member().incarnation;
    let scatter = Scatter {
        queue: |item: &HandBackItem| item.queue,
        call: Box::new(move |items| Call::HandBack {
            group: Arc::clone(&group),
            member,
            attempts_max,
            items,
        }),
        read: |reply| if let Reply::HandedBack(told) = reply { Some(told) } else { None },
        missing: outcome,
    };
    let (sender, receiver) = futures::channel::oneshot::channel();
    let shard_of_task = Rc::clone(shard);
    shard.spawn(async move {
        let _ = sender.send(scatter.run(&shard_of_task, request.items).await); // the connection may be closed
    });
    spawn_answer(shard, session, correlation, async move {
        match receiver.await {
            Ok(outcomes) => HandBackAnswer { status: Status::OK, outcomes },
            Err(_) => HandBackAnswer {
                status: Status::new(Code::NotReady, "the broker is stopping"),
                outcomes: Vec::new(),
            },
        }
    });
}

fn outcome(item: &HandBackItem, code: Code) -> HandBackOutcome {
    let HandBackItem { queue, offset, .. } = *item;
    HandBackOutcome { queue, offset, code, attempt: 0, dead: false, repeated: false }
}

/// Copies messages of this shard; ends when it is durable.
pub(crate) async fn here(
    shard: &Rc<Shard>,
    group: &Arc<str>,
    member: u128,
    attempts_max: u32,
    items: &[HandBackItem],
) -> Vec<HandBackOutcome> {
    let mut outcomes: Vec<HandBackOutcome> = items.iter().map(|item| outcome(item, Code::Internal)).collect();
    let mut by_log: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, (item, told)) in items.iter().zip(&mut outcomes).enumerate() {
        match host_of(shard, item.queue) {
            Ok((place, _)) => by_log.entry(place).or_default().push(at),
            Err(code) => told.code = code,
        }
    }
    for (place, ats) in by_log {
        let Some(host) = shard.logs.get(place) else { continue };
        let wanted: Vec<&HandBackItem> = ats.iter().filter_map(|at| items.get(*at)).collect();
        let told = Handing { shard, host, group, member, attempts_max }.run(&wanted).await;
        for (at, one) in ats.into_iter().zip(told) {
            if let Some(slot) = outcomes.get_mut(at) {
                *slot = one;
            }
        }
    }
    outcomes
}

/// A request's messages of one log.
struct Handing<'a> {
    shard: &'a Rc<Shard>,
    host: &'a LogHost,
    group: &'a Arc<str>,
    member: u128,
    attempts_max: u32,
}

/// Where the messages of a queue come from.
struct Origin {
    topic: Arc<str>,
    ordinal: u32,
}

/// One append that is being made.
#[derive(Default)]
struct Append {
    batches: BTreeMap<QueueKey, BatchBuilder>,
    /// Due times of the copies that go to the delay queue, in their order.
    due_ms: Vec<i64>,
    /// Messages copied: place in the request, attempt, fate.
    copied: Vec<(usize, u32, Fate)>,
    /// The same messages: one may be named twice.
    offsets: HashSet<(QueueKey, Offset)>,
    bytes: usize,
}

impl Handing<'_> {
    async fn run(&self, items: &[&HandBackItem]) -> Vec<HandBackOutcome> {
        let _turn = self.host.hand_back.lock().await;
        let mut outcomes: Vec<HandBackOutcome> = items.iter().map(|item| outcome(item, Code::Ok)).collect();
        let mut marks: HashMap<QueueKey, Marks> = HashMap::new();
        for item in items {
            marks.entry(item.queue).or_insert_with(|| self.marks(item.queue));
        }
        // By place, so that each batch is read once.
        let mut unread: VecDeque<usize> = (0..items.len()).collect();
        let place = |at: &usize| items.get(*at).map(|item| (item.queue, item.offset));
        unread.make_contiguous().sort_by_key(place);
        while !unread.is_empty() {
            let messages = self.read_some(items, &mut unread, &marks, &mut outcomes).await;
            if messages.is_empty() {
                continue;
            }
            if let Err(status) = self.make_topics().await {
                fail(&mut outcomes, messages.keys().chain(&unread), status.code);
                break;
            }
            let mut left: VecDeque<usize> = messages.keys().copied().collect();
            let mut tickets = Vec::new();
            while !left.is_empty() {
                match self.append_some(items, &messages, &mut left, &mut marks, &mut outcomes) {
                    Ok(ticket) => tickets.extend(ticket),
                    Err(code) => fail(&mut outcomes, &std::mem::take(&mut left), code),
                }
            }
            // Before the next are read: no more waits for a flush than one portion.
            for ticket in tickets {
                if self.host.log.wait_durable(ticket).await.is_err() {
                    fail(&mut outcomes, messages.keys(), Code::LogFailed);
                }
            }
        }
        let copied = outcomes.iter().filter(|told| told.code == Code::Ok && !told.repeated);
        self.shard.stats.handed_back.add(copied.clone().count() as u64);
        self.shard.stats.dead_letters.add(copied.filter(|told| told.dead).count() as u64);
        outcomes
    }

    /// What of a queue the group has handed back, as far as that is not committed.
    fn marks(&self, queue: QueueKey) -> Marks {
        let mut marks = Marks::default();
        let prefix = state_key::handed_back_by(queue, self.group);
        self.host.log.state_with_prefix(&prefix, &mut |key, value| {
            if let Some((block, bits)) = state_key::read_block(key).zip(Bits::decode(value)) {
                marks.restore(block, bits);
            } else {
                tracing::error!(?key, "hand-back marks have a layout that this build does not know");
            }
        });
        marks
    }

    /// Whether a message may be handed back now; true: that was done before.
    fn check(&self, item: &HandBackItem, marks: &HashMap<QueueKey, Marks>) -> Result<bool, Code> {
        if self.shard.broker.writes_stopped() {
            return Err(Code::LogFailed);
        }
        let (grant, _) = self.shard.holds.borrow().grant(item.queue, self.group);
        grant.permit((self.member, item.grant_epoch), self.shard.lease_ms(), self.shard.group_rules())?;
        let bounds = self.host.log.bounds(item.queue).ok_or(Code::QueueNotFound)?;
        if item.offset >= bounds.durable_end {
            return Err(Code::OffsetOutOfRange);
        }
        // What lies before the committed offset is being replayed: it may fail anew, whatever is marked of it still.
        Ok(grant.record().committed.is_none_or(|committed| item.offset >= committed)
            && marks.get(&item.queue).is_some_and(|marks| marks.is_done(item.offset.0)))
    }

    /// Reads the next of the messages that may be handed back and were not yet: as many as lie in one read, and a few
    /// MiB of them at the most. Nothing of a queue is read twice, however many of its messages are wanted.
    async fn read_some(
        &self,
        items: &[&HandBackItem],
        unread: &mut VecDeque<usize>,
        marks: &HashMap<QueueKey, Marks>,
        outcomes: &mut [HandBackOutcome],
    ) -> BTreeMap<usize, Loaded> {
        let mut messages = BTreeMap::new();
        let Some(first) = unread.front().and_then(|at| items.get(*at)) else { return messages };
        let wanted = unread.iter().map_while(|at| {
            let item = items.get(*at).filter(|item| item.queue == first.queue)?;
            Some(item.offset)
        });
        let wanted: Vec<Offset> = wanted.collect();
        let read = delay::load::some(&self.host.log, first.queue, &wanted, READ_BYTES_MAX).await;
        let (loaded, covered) = match read {
            Ok(read) => read,
            // It concerns the first of them alone.
            Err(error) => {
                let code = self.check(first, marks).err().unwrap_or_else(|| code_of(first, &error));
                if let Some(told) = unread.pop_front().and_then(|at| outcomes.get_mut(at)) {
                    told.code = code;
                }
                return messages;
            }
        };
        let mut loaded = loaded.into_iter().peekable();
        for at in unread.drain(..covered.min(unread.len())) {
            let (Some(item), Some(told)) = (items.get(at), outcomes.get_mut(at)) else { continue };
            let message = loaded.next_if(|(offset, _)| *offset == item.offset);
            match (self.check(item, marks), message) {
                (Err(code), _) => told.code = code,
                (Ok(true), _) => told.repeated = true,
                (Ok(false), Some((_, message))) => _ = messages.insert(at, message),
                (Ok(false), None) => {
                    let missing = LoadError::Missing { queue: item.queue, offset: item.offset };
                    told.code = code_of(item, &missing);
                }
            }
        }
        messages
    }

    fn origin(&self, queue: QueueKey) -> Option<Origin> {
        let catalog = self.shard.catalog();
        let topic = catalog.topic_of(queue)?;
        Some(Origin { topic: Arc::clone(&topic.name), ordinal: catalog.queue(queue)?.ordinal })
    }

    /// Makes the group's hidden topics, both: whoever sends dead letters again needs the retry queue.
    async fn make_topics(&self) -> Result<(), Status> {
        topics::make_hidden(self.shard, &hidden::retry_topic(self.group)).await?;
        topics::make_hidden(self.shard, &hidden::dead_letter_topic(self.group)).await
    }

    fn source<'o>(&self, item: &HandBackItem, origin: &'o Origin) -> Source<'o> {
        let cluster_check = MessageId::cluster_check(&self.shard.broker.config.cluster);
        Source {
            topic: &origin.topic,
            queue: origin.ordinal,
            id: MessageId { cluster_check, queue: item.queue, offset: item.offset },
            is_retry: *origin.topic == *hidden::retry_topic(self.group),
        }
    }

    /// The group's queue in this log for messages of this fate.
    fn queue_for(&self, fate: Fate) -> Option<QueueKey> {
        let name = match fate {
            Fate::Retry => hidden::retry_topic(self.group),
            Fate::Dead => hidden::dead_letter_topic(self.group),
        };
        let catalog = self.shard.catalog();
        catalog.topic(&name)?.queues.iter().find(|queue| queue.log == self.host.id).map(|queue| queue.key)
    }

    /// Appends as many of the messages `left` as fit one append, with their marks. Nothing is awaited here, so what was
    /// checked holds until it is appended.
    fn append_some(
        &self,
        items: &[&HandBackItem],
        messages: &BTreeMap<usize, Loaded>,
        left: &mut VecDeque<usize>,
        marks: &mut HashMap<QueueKey, Marks>,
        outcomes: &mut [HandBackOutcome],
    ) -> Result<Option<equeue_storage::Ticket>, Code> {
        let limit = self.shard.broker.batch_bytes_max;
        let now_ms = self.shard.io.wall_ms();
        let mut append = Append::default();
        while let Some(at) = left.front().copied() {
            let (Some(item), Some(told)) = (items.get(at), outcomes.get_mut(at)) else { break };
            let Some(message) = messages.get(&at) else {
                left.pop_front();
                continue;
            };
            let bytes = message.encoded.len() + COPY_GROWTH + MESSAGE_BYTES;
            if append.bytes > 0 && append.bytes + bytes > limit {
                break;
            }
            left.pop_front();
            match self.add(at, item, message, marks, &mut append, now_ms) {
                Ok(()) if bytes > limit => {
                    // Never appended: the message alone is too large to be copied.
                    append = Append::default();
                    told.code = Code::MessageTooLarge;
                }
                Ok(()) => append.bytes += bytes,
                Err(Refused::Code(code)) => told.code = code,
                Err(Refused::Repeated) => told.repeated = true,
            }
        }
        self.store(items, append, marks, outcomes, now_ms)
    }

    /// Copies one message into the append.
    fn add(
        &self,
        at: usize,
        item: &HandBackItem,
        message: &Loaded,
        marks: &HashMap<QueueKey, Marks>,
        append: &mut Append,
        now_ms: i64,
    ) -> Result<(), Refused> {
        // Once more: the queue may have been granted to another member while the message was read.
        let is_here = append.offsets.contains(&(item.queue, item.offset));
        if self.check(item, marks).map_err(Refused::Code)? || is_here {
            return Err(Refused::Repeated);
        }
        let origin = self.origin(item.queue).ok_or(Refused::Code(Code::QueueNotFound))?;
        let source = self.source(item, &origin);
        let record = Record::from_encoded(&message.encoded, item.offset, message.base_create_time_ms)
            .map_err(|_| Refused::Code(Code::DataDamaged))?;
        let attempt = attempt_of(&source, &record, item.tries);
        let fate = fate(attempt, self.attempts_max);
        let target = self.queue_for(fate).ok_or(Refused::Code(Code::Internal))?;
        let delay_ms = i64::try_from(item.delay_ms).unwrap_or(i64::MAX);
        let delay_ms = delay_ms.min(self.shard.broker.config.delay.ahead_ms_max);
        let due_ms = (fate == Fate::Retry && delay_ms > 0).then(|| now_ms.saturating_add(delay_ms));
        let queue = if due_ms.is_some() { target.delay_queue() } else { target };
        let batch = append.batches.entry(queue).or_insert_with(|| {
            let mut batch = BatchBuilder::new(Codec::None, usize::MAX);
            if due_ms.is_some() {
                batch.set_delayed();
            }
            batch
        });
        let failure = Failure { time_ms: now_ms, reason: &item.reason, tries: item.tries };
        copy(batch, &source, &record, &failure, due_ms).map_err(|_| Refused::Code(Code::MessageTooLarge))?;
        append.due_ms.extend(due_ms);
        append.offsets.insert((item.queue, item.offset));
        append.copied.push((at, attempt, fate));
        Ok(())
    }

    fn store(
        &self,
        items: &[&HandBackItem],
        append: Append,
        marks: &mut HashMap<QueueKey, Marks>,
        outcomes: &mut [HandBackOutcome],
        now_ms: i64,
    ) -> Result<Option<equeue_storage::Ticket>, Code> {
        let Append { batches, due_ms, copied, .. } = append;
        if copied.is_empty() {
            return Ok(None);
        }
        let result = if self.host.delay.table.borrow().has_room(due_ms.len() as u64) {
            let appended = self.append_parts(items, batches, &due_ms, &copied, marks);
            appended.map_err(|error| status_of(&error).code)
        } else {
            Err(Code::Busy)
        };
        for (at, attempt, fate) in copied {
            if let Some(told) = outcomes.get_mut(at) {
                told.attempt = attempt;
                told.dead = fate == Fate::Dead;
                if let Err(code) = &result {
                    told.code = *code;
                }
            }
        }
        if result.is_ok() {
            self.host.delay.due_at(due_ms.into_iter().min().unwrap_or(i64::MAX).max(now_ms));
        }
        result.map(Some)
    }

    fn append_parts(
        &self,
        items: &[&HandBackItem],
        batches: BTreeMap<QueueKey, BatchBuilder>,
        due_ms: &[i64],
        copied: &[(usize, u32, Fate)],
        marks: &mut HashMap<QueueKey, Marks>,
    ) -> Result<equeue_storage::Ticket, AppendError> {
        let mut delayed = None;
        let mut parts = Vec::new();
        for (queue, batch) in batches.into_iter().filter(|(_, batch)| !batch.is_empty()) {
            if queue.is_delay_queue() {
                let number = delay::open_queue(self.host, queue.target())?;
                let end = self.host.log.bounds(queue).map_or(Offset(0), |bounds| bounds.end);
                delayed = Some((number, end));
            }
            let batch = batch.finish(ProducerStamp::NONE)?;
            parts.push(AtomicPart::Batch { queue, batch });
        }
        let mut plans = Vec::new();
        for (queue, of_queue) in marks.iter() {
            let offsets =
                copied.iter().filter_map(|(at, ..)| items.get(*at)).filter(|item| item.queue == *queue);
            let offsets: Vec<u64> = offsets.map(|item| item.offset.0).collect();
            if offsets.is_empty() {
                continue;
            }
            let (grant, _) = self.shard.holds.borrow().grant(*queue, self.group);
            let committed = grant.record().committed;
            let plan = of_queue.plan(offsets, committed.unwrap_or_default().0);
            let blocks = plan.blocks.iter().map(|(block, bits)| (*block, Some(bits.encode())));
            let removed = plan.removed.iter().map(|block| (*block, None));
            parts.extend(blocks.chain(removed).map(|(block, value)| AtomicPart::State {
                key: Bytes::from(state_key::handed_back(*queue, self.group, block)),
                value,
            }));
            plans.push((*queue, plan));
        }
        let ticket = self.host.log.append_atomic(parts)?;
        for (queue, plan) in plans {
            if let Some(of_queue) = marks.get_mut(&queue) {
                of_queue.apply(&plan);
            }
        }
        if let Some((number, base)) = delayed {
            let mut table = self.host.delay.table.borrow_mut();
            for (offset, due_ms) in (base.0..).zip(due_ms) {
                table.insert(Waiting { due_ms: *due_ms, queue: number, offset });
            }
        }
        Ok(ticket)
    }
}

/// Why a message was not copied.
enum Refused {
    Code(Code),
    Repeated,
}

fn code_of(item: &HandBackItem, error: &LoadError) -> Code {
    use equeue_storage::log::ReadError;
    match error {
        LoadError::Read(ReadError::OutOfRange { .. }) => Code::OffsetOutOfRange,
        error => {
            tracing::error!(queue = %item.queue, offset = %item.offset, %error, "a message handed back cannot be read");
            Code::DataDamaged
        }
    }
}

/// Those of them that were to be copied are not.
fn fail<'a>(outcomes: &mut [HandBackOutcome], ats: impl IntoIterator<Item = &'a usize>, code: Code) {
    for at in ats {
        if let Some(told) = outcomes.get_mut(*at).filter(|told| told.code == Code::Ok && !told.repeated) {
            told.code = code;
        }
    }
}
