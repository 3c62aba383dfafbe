//! Drives the [`Ownership`] of a consumer: one task that hears what the group, the routes, the brokers and the handlers
//! say, and does what the rules tell it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use equeue_net::api::{GrantOutcome, HeldQueue, LeaseHeartbeatAnswer, ReleaseItem};
use equeue_net::{Code, Remedy};
use equeue_record::{MessageId, Offset};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::super::events::AssignmentEvent;
use super::super::fetcher::Fetcher;
use super::super::options::StartAt;
use super::super::shared::{Shared, Signal};
use super::super::track::{HandledBy, Home, QueueId, Start, Track};
use super::calls::{self, Grants, Heard};
use super::lease::Moment;
use super::ownership::{Act, Granted, Ownership, Patience, Place};
use super::reach::Reach;
use super::view::{View, coordinator, homes, share};
use crate::ClientError;
use crate::routes::with_causes;

/// How often leases are extended.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often a broker that cannot be reached is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Where the queues stood when the consumer started: [`StartAt`] is for them, a queue that is added later is read from
/// its first record. With the end of each, where it was asked for.
pub(crate) type Initial = HashMap<QueueId, Option<Offset>>;

/// An order to the keeper.
pub(crate) enum Order {
    /// Drain, commit and release everything, and leave the group.
    Leave(oneshot::Sender<Left>),
}

/// How the last commits went.
pub(crate) type Left = Result<(), ClientError>;

/// Heartbeats to one shard.
#[derive(Default)]
struct Beat {
    last: Option<Moment>,
    under_way: bool,
    /// The list that was told, on which connection.
    told: Option<(Weak<crate::connection::Connection>, u64)>,
}

/// See the module.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    views: watch::Receiver<Option<Arc<View>>>,
    signals: mpsc::Receiver<Signal>,
    orders: mpsc::Receiver<Order>,
    /// Told once the first share is granted, or known to be held by others.
    settled: watch::Sender<bool>,
    ownership: Ownership,
    initial: Initial,
    reach: Reach,
    beats: BTreeMap<Place, Beat>,
    fetchers: HashMap<Place, Arc<Fetcher>>,
    fetching: JoinSet<()>,
    calls: FuturesUnordered<BoxFuture<'static, Heard>>,
    probed: Option<Moment>,
    leaving: Option<(oneshot::Sender<Left>, Left)>,
    /// The heartbeats to the coordinator: they end before the goodbye.
    heart: AbortHandle,
    /// Places where something was granted: they hear the goodbye.
    visited: BTreeSet<Place>,
}

impl Keeper {
    /// Owns nothing yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        views: watch::Receiver<Option<Arc<View>>>,
        signals: mpsc::Receiver<Signal>,
        orders: mpsc::Receiver<Order>,
        initial: Initial,
        heart: AbortHandle,
    ) -> (Self, watch::Receiver<bool>) {
        let (settled, is_settled) = watch::channel(false);
        let keeper = Self {
            shared,
            views,
            signals,
            orders,
            settled,
            ownership: Ownership::default(),
            initial,
            reach: Reach::default(),
            beats: BTreeMap::new(),
            fetchers: HashMap::new(),
            fetching: JoinSet::new(),
            calls: FuturesUnordered::new(),
            probed: None,
            leaving: None,
            heart,
            visited: BTreeSet::new(),
        };
        (keeper, is_settled)
    }

    /// Keeps the queues until the consumer leaves the group.
    pub(crate) async fn run(mut self) {
        let mut routes = self.shared.client.routes.watch();
        let shared = Arc::clone(&self.shared);
        loop {
            self.step();
            if self.leaving.is_some() && self.ownership.is_empty() {
                break self.goodbye().await;
            }
            tokio::select! {
                Some(heard) = self.calls.next(), if !self.calls.is_empty() => self.hear(heard),
                changed = self.views.changed(), if self.leaving.is_none() => if changed.is_ok() {
                    self.shared.counters.rebalances.fetch_add(1, Ordering::Relaxed);
                    self.plan();
                },
                _ = routes.changed() => self.plan(),
                () = shared.drained.notified() => self.look_at_drained(),
                Some(signal) = self.signals.recv() => self.take_signal(signal),
                Some(Order::Leave(done)) = self.orders.recv(), if self.leaving.is_none() => self.leave(done),
                () = sleep(TICK) => {}
            }
        }
    }

    /// What time brings: wishes, heartbeats, deadlines.
    fn step(&mut self) {
        let now = Moment::now();
        let options = &self.shared.options;
        let patience = Patience { drain_max: options.drain_max, processing_max: options.processing_max };
        let acts = self.ownership.tick(now, patience);
        self.act(acts);
        let generation = self.generation();
        for (place, asked) in self.ownership.ask(now) {
            self.visited.insert(place.clone());
            self.call(calls::grant(Arc::clone(&self.shared), place, generation, asked));
        }
        for place in self.ownership.places() {
            self.beat(place, now);
        }
        self.beats.retain(|_, beat| {
            beat.under_way || beat.last.is_some_and(|last| now.since(last) < 10 * BEAT_EVERY)
        });
        // What waits for a lease that has lapsed must not stand in the way of others.
        for track in self.shared.owned().values().filter(|track| !track.lease.holds()) {
            track.drop_ahead();
        }
        self.reach(now);
        if !*self.settled.borrow() && self.views.borrow().is_some() && self.ownership.is_settled() {
            self.settled.send_replace(true);
        }
    }

    fn beat(&mut self, place: Place, now: Moment) {
        let beat = self.beats.entry(place.clone()).or_default();
        if beat.under_way || beat.last.is_some_and(|last| now.since(last) < BEAT_EVERY) {
            return;
        }
        (beat.under_way, beat.last) = (true, Some(now));
        let held = self.ownership.held(&place);
        let hash = hash_of(&held);
        let told_on = beat.told.as_ref().filter(|(_, told)| *told == hash).map(|(on, _)| Weak::clone(on));
        let generation = self.ownership.agreed(&place);
        self.call(calls::beat(Arc::clone(&self.shared), place, generation, held, hash, told_on));
    }

    /// Tells the group which brokers cannot be reached, and tries those again.
    fn reach(&mut self, now: Moment) {
        let snapshot = self.shared.client.routes.load();
        let unreachable = self.reach.unreachable(now);
        let alive = |broker: &Arc<str>| snapshot.brokers.get(broker).is_some_and(|broker| broker.alive);
        self.shared.set_unreachable(unreachable.iter().filter(|broker| alive(broker)).cloned().collect());
        if self.probed.is_none_or(|probed| now.since(probed) >= PROBE_EVERY) {
            self.probed = Some(now);
            for broker in unreachable {
                self.calls.push(calls::probe(Arc::clone(&self.shared), broker).boxed());
            }
        }
    }

    fn call(&self, call: impl Future<Output = Heard> + Send + 'static) {
        self.calls.push(call.boxed());
    }

    fn generation(&self) -> u64 {
        self.views.borrow().as_ref().map_or(0, |view| view.generation)
    }

    /// Takes over the group and the routes as they are now.
    fn plan(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        let Some(view) = self.views.borrow_and_update().clone() else { return };
        let snapshot = self.shared.client.routes.load_full();
        let (topics, options) = (&self.shared.topics, &self.shared.options);
        let (client_id, incarnation) = self.shared.pool.identity();
        let share = share(&view, (client_id, incarnation), topics, &*options.strategy, &snapshot);
        let acts = self.ownership.plan(view.generation, &share, &homes(topics, &snapshot), Moment::now());
        self.act(acts);
    }

    fn hear(&mut self, heard: Heard) {
        let now = Moment::now();
        match heard {
            Heard::Grants { place, asked, sent, result } => match result {
                Ok(grants) => self.granted(&place, &asked, sent, &grants),
                Err(error) => {
                    self.failed(&place, &error, now);
                    for (id, _) in &asked {
                        self.ownership.refused(id, now);
                    }
                }
            },
            Heard::Beat { place, told, sent, result } => match result {
                Ok((answer, connection)) => self.beaten(&place, &told, sent, &answer, connection),
                Err(error) => {
                    self.failed(&place, &error, now);
                    if let Some(beat) = self.beats.get_mut(&place) {
                        (beat.under_way, beat.told) = (false, None);
                    }
                }
            },
            Heard::Released { items, result } => {
                if let Err(error) = &result {
                    warn!(group = %self.shared.group, error = %with_causes(error), "queues could not be given back; their leases end by themselves");
                }
                let outcomes = result.clone().unwrap_or_default();
                for (index, (track, item)) in items.into_iter().enumerate() {
                    let code = outcomes.get(index).map(|outcome| outcome.code);
                    self.note_released(&track, item, code, &result);
                    self.ownership.given_back(&track.id(), now);
                }
            }
            Heard::Probed(broker, true) => self.reach.answered(&broker),
            Heard::Probed(_, false) => {}
        }
    }

    /// A last commit that was not made is told to who closes the consumer.
    fn note_released(
        &mut self,
        track: &Track,
        item: ReleaseItem,
        code: Option<Code>,
        result: &Result<Vec<equeue_net::api::CommitOutcome>, ClientError>,
    ) {
        let lost = match (code, result) {
            (Some(Code::Ok), _) => return,
            (_, Err(error)) => error.clone(),
            (code, Ok(_)) => ClientError::Refused {
                server: Arc::clone(&track.home().broker),
                request: "ReleaseQueues",
                code: code.unwrap_or(Code::Internal),
                retry_after_ms: 0,
                detail: format!("queue {} of topic {}", track.ordinal, track.topic.name).into(),
            },
        };
        debug!(topic = %track.topic.name, queue = track.ordinal, error = %lost, "not given back in order");
        if item.commit.is_some()
            && let Some((_, outcome @ Ok(()))) = &mut self.leaving
        {
            *outcome = Err(lost);
        }
    }

    /// A broker did not answer, or not well.
    fn failed(&mut self, place: &Place, error: &ClientError, now: Moment) {
        debug!(broker = %place.0, shard = place.1, error = %with_causes(error), "a request about grants failed");
        if !matches!(error, ClientError::Refused { .. }) {
            self.reach.failed(&place.0, now);
            self.shared.client.routes.refresh();
        }
    }

    fn granted(
        &mut self,
        place: &Place,
        asked: &[(QueueId, equeue_record::QueueKey)],
        sent: Moment,
        grants: &Grants,
    ) {
        let now = Moment::now();
        self.reach.answered(&place.0);
        let lease_end = sent.lease_end(grants.lease);
        let mut unwanted = Vec::new();
        for (id, key) in asked {
            let Some(outcome) = grants.outcomes.iter().find(|outcome| outcome.queue == *key) else {
                self.ownership.refused(id, now);
                continue;
            };
            match outcome.code {
                Code::Ok => match self.ownership.granted(id, *key, (outcome.grant_epoch, lease_end), now) {
                    Granted::Begin(home) => self.begin(id, home, outcome, (sent, grants)),
                    Granted::Known | Granted::Late => {}
                    Granted::Unwanted => unwanted.push(ReleaseItem {
                        queue: *key,
                        grant_epoch: outcome.grant_epoch,
                        commit: None,
                    }),
                },
                Code::QueueHeld => self.ownership.held_elsewhere(id),
                code => {
                    debug!(topic = %id.0, queue = id.1, %code, "not granted");
                    if code == Code::StaleGeneration {
                        self.shared.beat_soon.notify_one();
                    }
                    if code.remedy() == Remedy::RefreshRoute {
                        self.shared.client.routes.suspect(&id.0);
                    }
                    self.ownership.refused(id, now);
                }
            }
        }
        for item in unwanted {
            let (shared, place) = (Arc::clone(&self.shared), place.clone());
            let request = equeue_net::api::ReleaseQueues { group: shared.group.clone(), items: vec![item] };
            tokio::spawn(async move {
                // If it is not heard, the lease ends by itself.
                if let Ok(connection) = shared.connect(&place.0, place.1).await {
                    let _ = connection.call(&request).await;
                }
            });
        }
    }

    /// Reads a queue from now on.
    fn begin(&mut self, id: &QueueId, home: Home, outcome: &GrantOutcome, (sent, grants): (Moment, &Grants)) {
        let Some(topic) = self.shared.topics.iter().find(|topic| topic.name == id.0).cloned() else { return };
        let offset = self.start_of(id, outcome, grants);
        let start = Start { offset, committed: outcome.committed, grant_epoch: outcome.grant_epoch };
        let snapshot = self.shared.client.routes.load();
        let check = MessageId::cluster_check(snapshot.cluster_of(&home.broker).unwrap_or_default());
        let given = (Arc::clone(&self.shared.feed), self.shared.handled_by);
        let track = Arc::new(Track::new(topic, id.1, home, start, check, given));
        track.set_high_watermark(outcome.high_watermark);
        track.lease.extend(sent, grants.lease);
        info!(group = %self.shared.group, topic = %id.0, queue = id.1, epoch = outcome.grant_epoch, from = %offset, "reading");
        self.shared.owned().insert(id.clone(), Arc::clone(&track));
        // Before its first message: a listener may have to prepare for the queue.
        self.tell(&AssignmentEvent::Assigned { topic: Arc::clone(&id.0), queue: id.1, from: offset });
        self.give_to_fetcher(&track);
    }

    fn start_of(&mut self, id: &QueueId, outcome: &GrantOutcome, grants: &Grants) -> Offset {
        let initial = self.initial.get(id).copied();
        let ignored = self.shared.options.ignore_committed && initial.is_some();
        if let Some(committed) = outcome.committed.filter(|_| !ignored) {
            return committed;
        }
        // Only once: what comes back to this consumer goes on where the group is.
        if self.shared.options.ignore_committed {
            self.initial.remove(id);
        }
        match (initial, self.shared.options.start) {
            (None, _) | (_, StartAt::First) => outcome.start_offset,
            (Some(end), StartAt::Last) => end.unwrap_or(outcome.high_watermark),
            (_, StartAt::Time(_)) => {
                grants.starts.get(&outcome.queue).copied().unwrap_or(outcome.start_offset)
            }
        }
    }

    fn beaten(
        &mut self,
        place: &Place,
        told: &[HeldQueue],
        sent: Moment,
        answer: &LeaseHeartbeatAnswer,
        connection: Weak<crate::connection::Connection>,
    ) {
        self.reach.answered(&place.0);
        if let Some(beat) = self.beats.get_mut(place) {
            beat.under_way = false;
            if answer.want_full {
                (beat.told, beat.last) = (None, None);
                return;
            }
            beat.told = Some((connection, hash_of(told)));
        }
        let lease = Duration::from_millis(answer.lease_ms.into());
        for (id, epoch) in self.ownership.held_ids(place) {
            let Some(track) = self.shared.track(&id) else { continue };
            let key = track.home().key;
            let extended =
                told.contains(&HeldQueue { queue: key, grant_epoch: epoch }) && !answer.lost.contains(&key);
            if extended && track.lease.extend(sent, lease) {
                track.look_again();
            }
        }
        let acts = self.ownership.beaten(place, told, answer, Moment::now());
        self.act(acts);
    }

    fn take_signal(&mut self, signal: Signal) {
        let act = match signal {
            Signal::Stale(track, epoch) if self.is_current(&track) => {
                self.ownership.stale(&track.id(), epoch, Moment::now())
            }
            Signal::Reset(track, offset, epoch) if self.is_current(&track) => {
                self.ownership.reset(&track.id(), offset, epoch)
            }
            Signal::Stale(..) | Signal::Reset(..) => None,
        };
        self.act(act);
    }

    fn is_current(&self, track: &Arc<Track>) -> bool {
        self.shared.track(&track.id()).is_some_and(|owned| Arc::ptr_eq(&owned, track))
    }

    fn look_at_drained(&mut self) {
        let drained: Vec<QueueId> = self
            .shared
            .tracks()
            .iter()
            .filter(|track| track.is_draining() && track.is_drained())
            .map(|track| track.id())
            .collect();
        let acts: Vec<Act> = drained.iter().filter_map(|id| self.ownership.drained(id)).collect();
        self.act(acts);
    }

    fn act(&mut self, acts: impl IntoIterator<Item = Act>) {
        let mut releases: BTreeMap<Place, Vec<(Arc<Track>, ReleaseItem)>> = BTreeMap::new();
        let mut acts: std::collections::VecDeque<Act> = acts.into_iter().collect();
        while let Some(act) = acts.pop_front() {
            let id = act.id().clone();
            let Some(track) = self.shared.track(&id) else { continue };
            let (topic, queue) = (Arc::clone(&id.0), id.1);
            match act {
                Act::Move(_, home) => {
                    debug!(%topic, queue, broker = %home.broker, shard = home.shard, "moved");
                    self.take_from_fetcher(&track);
                    track.set_home(home);
                    self.give_to_fetcher(&track);
                }
                Act::Drain(_) => {
                    self.take_from_fetcher(&track);
                    let drained = track.drain();
                    self.tell(&AssignmentEvent::Draining { topic, queue });
                    // Who leaves takes nothing back: what was pulled and not committed is for the next member.
                    let leaving = self.leaving.is_some() && self.shared.handled_by != HandledBy::Handlers;
                    if drained || leaving {
                        acts.extend(self.ownership.drained(&id));
                    }
                }
                Act::Cancel(_) => {
                    warn!(%topic, queue, after = ?self.shared.options.drain_max, "handlers are cancelled: the queue falls to another member");
                    track.cancel();
                    if self.shared.handled_by != HandledBy::Handlers {
                        // Messages in the hands of the application cannot be taken back; unless they are to be
                        // committed by it, their fate is awaited.
                        if self.shared.handled_by == HandledBy::Commits {
                            acts.extend(self.ownership.drained(&id));
                        }
                    }
                }
                Act::Release(_) => {
                    info!(%topic, queue, handled = %track.handled(), "giving the queue back");
                    let home = track.home();
                    let commit = self.last_commit(&track);
                    let item = ReleaseItem { queue: home.key, grant_epoch: track.grant_epoch(), commit };
                    self.remove(&id, &track);
                    releases
                        .entry((Arc::clone(&home.broker), home.shard))
                        .or_default()
                        .push((Arc::clone(&track), item));
                    self.tell(&AssignmentEvent::Released { topic, queue });
                }
                Act::Lose(_) | Act::Fence(_) => {
                    let counters = &self.shared.counters;
                    if matches!(act, Act::Fence(_)) {
                        counters.fenced.fetch_add(1, Ordering::Relaxed);
                        warn!(%topic, queue, after = ?self.shared.options.processing_max, "a handler does not end; its queue is given up, what it does will not count");
                    } else {
                        counters.lost_grants.fetch_add(1, Ordering::Relaxed);
                        warn!(%topic, queue, "the queue is not ours any more");
                    }
                    self.remove(&id, &track);
                    self.tell(&AssignmentEvent::Lost { topic, queue });
                }
                Act::Reset(_, offset, epoch) => {
                    info!(%topic, queue, %offset, epoch, "the offset was reset");
                    track.reset(offset, epoch);
                    self.tell(&AssignmentEvent::Reset { topic, queue, to: offset });
                }
            }
        }
        for (place, items) in releases {
            self.call(calls::release(Arc::clone(&self.shared), place, items));
        }
    }

    /// What is committed with the release. Where the application commits, only what it has.
    fn last_commit(&self, track: &Track) -> Option<Offset> {
        match self.shared.handled_by {
            HandledBy::Commits => None,
            HandledBy::Calls | HandledBy::Handlers => track.to_commit().map(|(offset, _)| offset),
        }
    }

    fn remove(&mut self, id: &QueueId, track: &Arc<Track>) {
        self.take_from_fetcher(track);
        track.end();
        self.shared.owned().remove(id);
    }

    fn give_to_fetcher(&mut self, track: &Arc<Track>) {
        let home = track.home();
        let fetcher = self.fetchers.entry((Arc::clone(&home.broker), home.shard)).or_insert_with(|| {
            let fetcher = Arc::new(Fetcher::new(Arc::clone(&home.broker), home.shard));
            self.fetching.spawn(Arc::clone(&fetcher).run(Arc::clone(&self.shared)));
            fetcher
        });
        track.set_fetcher(Some(fetcher.changed()));
        fetcher.change(|tracks| tracks.push(Arc::clone(track)));
    }

    fn take_from_fetcher(&self, track: &Arc<Track>) {
        let home = track.home();
        track.set_fetcher(None);
        if let Some(fetcher) = self.fetchers.get(&(Arc::clone(&home.broker), home.shard)) {
            fetcher.change(|tracks| tracks.retain(|other| !Arc::ptr_eq(other, track)));
        }
    }

    fn tell(&self, event: &AssignmentEvent) {
        if let Some(listener) = &self.shared.options.on_assignment {
            listener.tell(event);
        }
    }

    fn leave(&mut self, done: oneshot::Sender<Left>) {
        self.heart.abort();
        self.leaving = Some((done, Ok(())));
        let acts = self.ownership.leave(Moment::now());
        self.act(acts);
    }

    /// Everything is given back: nobody needs to wait for this member.
    async fn goodbye(mut self) {
        let snapshot = self.shared.client.routes.load_full();
        let coordinator =
            coordinator(&snapshot, &self.shared.group).map(|(broker, _, shard)| (broker, shard));
        self.visited.extend(coordinator);
        join_all(self.visited.iter().cloned().map(|place| calls::leave(&self.shared, place))).await;
        if let Some((done, outcome)) = self.leaving.take() {
            let _ = done.send(outcome);
        }
    }
}

impl Act {
    const fn id(&self) -> &QueueId {
        match self {
            Self::Move(id, _)
            | Self::Drain(id)
            | Self::Cancel(id)
            | Self::Fence(id)
            | Self::Release(id)
            | Self::Lose(id)
            | Self::Reset(id, ..) => id,
        }
    }
}

fn hash_of(held: &[HeldQueue]) -> u64 {
    let mut hasher = DefaultHasher::new();
    held.hash(&mut hasher);
    hasher.finish()
}
