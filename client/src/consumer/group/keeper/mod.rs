//! Drives the [`Ownership`] of a consumer: one task that hears what the group, the routes, the brokers and the handlers
//! say, and does what the rules tell it.

mod acting;
mod hearing;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use equeue_net::api::{CachedQueue, HeldQueue};
use equeue_net::limits::OFFSET_ITEMS_MAX;
use equeue_record::Offset;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::super::fetcher::Fetcher;
use super::super::shared::{Shared, Signal};
use super::super::track::{QueueId, Track};
use super::calls::{self, Heard};
use super::lease::Moment;
use super::ownership::{Act, Ownership, Patience, Place};
use super::reach::Reach;
use super::view::{View, coordinator, homes, share};
use crate::ClientError;

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
        let mut told = self.ownership.told(&place);
        let hash = hash_of(&told.held);
        let told_on = beat.told.as_ref().filter(|(_, known)| *known == hash).map(|(on, _)| Weak::clone(on));
        told.cached = self.cached(&place);
        self.call(calls::beat(Arc::clone(&self.shared), place, told, hash, told_on));
    }

    /// How much of each queue was fetched and is not handled.
    fn cached(&self, place: &Place) -> Vec<CachedQueue> {
        let owned = self.shared.owned();
        let cached = |track: &Arc<Track>| {
            let home = track.home();
            let messages = u32::try_from(track.cached()).unwrap_or(u32::MAX);
            let is_told = messages > 0 && home.broker == place.0 && home.shard == place.1;
            is_told.then_some(CachedQueue { queue: home.key, messages })
        };
        owned.values().filter_map(cached).take(OFFSET_ITEMS_MAX).collect()
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
        if options.strategy.uses_holders() {
            self.shared.set_share(view.generation, &share);
        }
        let acts = self.ownership.plan(view.generation, &share, &homes(topics, &snapshot), Moment::now());
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

fn hash_of(held: &[HeldQueue]) -> u64 {
    let mut hasher = DefaultHasher::new();
    held.hash(&mut hasher);
    hasher.finish()
}
