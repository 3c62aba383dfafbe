//! The queues and lanes of a producer, as the routes say.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use tracing::warn;

use super::super::lane::{Lane, Reach};
use super::super::queue::Queue;
use super::super::sender;
use super::{Places, Shared, TopicQueueSet};
use crate::routes::{QueuePlace, Topic};

impl Shared {
    /// Takes over the present routes of all topics in use; also after a broker came or went: messages without a place
    /// of their own choose among other queues then.
    pub(crate) fn adopt_routes(self: &Arc<Self>) {
        let mut places = self.places();
        let snapshot = self.client.routes.load();
        let topics = self.topics.load();
        let adopted = topics.keys().filter_map(|name| {
            let route = snapshot.topics.get(name);
            if route.is_none() {
                warn!(topic = %name, "the topic is gone");
            }
            Some((Arc::clone(name), self.queue_set(&mut places, route?)))
        });
        self.topics.store(Arc::new(adopted.collect()));
        // Unreachable so far, and said to be alive: worth an attempt.
        let missed = places.lanes.values().filter(|lane| lane.reach() == Reach::Down);
        missed.for_each(|lane| lane.wake());
    }

    /// Whether the nameserver asked last knows a broker as alive.
    pub(crate) fn is_alive(&self, broker: &str) -> bool {
        self.client.routes.load().brokers.get(broker).is_some_and(|broker| broker.alive)
    }

    /// Begins to use a topic.
    pub(crate) fn adopt_topic(self: &Arc<Self>, route: &Arc<Topic>) {
        let mut places = self.places();
        let mut topics = HashMap::clone(&self.topics.load());
        topics.insert(Arc::clone(&route.name), self.queue_set(&mut places, route));
        self.topics.store(Arc::new(topics));
    }

    fn queue_set(self: &Arc<Self>, places: &mut Places, route: &Arc<Topic>) -> Arc<TopicQueueSet> {
        let queues: Vec<Arc<Queue>> = route
            .queues
            .iter()
            .map(|place| {
                let shard = place.entry.map_or(0, |entry| entry.shard);
                let lane = self.lane(places, &place.broker, shard);
                let key = |delayed| (Arc::clone(&route.name), place.ordinal, delayed);
                let delayed = places.queues.get(&key(true)).cloned();
                let queue = places.queues.entry(key(false)).or_insert_with(|| {
                    Arc::new(Queue::new(Arc::clone(&route.name), place.clone(), Arc::clone(&lane), false))
                });
                for queue in [Some(&*queue), delayed.as_ref()].into_iter().flatten() {
                    if *queue.route() != *place {
                        queue.reroute(place.clone(), &lane);
                    }
                }
                Arc::clone(queue)
            })
            .collect();
        let live = live_ordinals(&queues);
        Arc::new(TopicQueueSet { queues, live })
    }

    /// The same queue for delayed messages.
    pub(super) fn delayed_queue(&self, queue: &Queue) -> Arc<Queue> {
        let mut places = self.places();
        let delayed =
            places.queues.entry((Arc::clone(&queue.topic), queue.ordinal, true)).or_insert_with(|| {
                let route = QueuePlace::clone(&queue.route());
                Arc::new(Queue::new(Arc::clone(&queue.topic), route, queue.lane(), true))
            });
        Arc::clone(delayed)
    }

    /// The lane of the queue's present route.
    pub(crate) fn lane_of(self: &Arc<Self>, queue: &Queue) -> Arc<Lane> {
        let route = queue.route();
        let shard = route.entry.map_or(0, |entry| entry.shard);
        self.lane(&mut self.places(), &route.broker, shard)
    }

    /// A queue of the topic that a batch can go to when its own cannot be reached.
    pub(crate) fn refuge(&self, queue: &Queue) -> Option<Arc<Queue>> {
        let topics = self.topics.load();
        let topic = topics.get(&queue.topic)?;
        let others: Vec<&Arc<Queue>> = topic
            .live
            .iter()
            .filter_map(|ordinal| topic.queues.get(*ordinal as usize))
            .filter(|other| {
                let lane = other.lane();
                other.ordinal != queue.ordinal && lane.reach() != Reach::Down && !lane.is_gone()
            })
            .collect();
        let turn = rand::random::<u32>() as usize % others.len().max(1);
        let other = others.get(turn)?;
        Some(if queue.delayed { self.delayed_queue(other) } else { Arc::clone(other) })
    }

    /// Every queue ever used.
    pub(crate) fn queues(&self) -> Vec<Arc<Queue>> {
        self.places().queues.values().cloned().collect()
    }

    /// Every lane.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lane>> {
        self.places().lanes.values().cloned().collect()
    }

    fn lane(self: &Arc<Self>, places: &mut Places, broker: &Arc<str>, shard: u16) -> Arc<Lane> {
        let lane = places.lanes.entry((Arc::clone(broker), shard)).or_insert_with(|| {
            let lane = Arc::new(Lane::new(Arc::clone(broker), shard));
            self.runtime.spawn(sender::run(Arc::clone(self), Arc::clone(&lane)));
            lane
        });
        Arc::clone(lane)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queues for messages that may go anywhere: those that can be reached, or when none can, all that may be sent to.
fn live_ordinals(queues: &[Arc<Queue>]) -> Vec<u32> {
    let ordinals = |wanted: &dyn Fn(&Queue) -> bool| -> Vec<u32> {
        queues.iter().filter(|queue| wanted(queue)).map(|queue| queue.ordinal).collect()
    };
    let reachable = ordinals(&|queue| {
        queue.key().is_some()
            && match queue.lane().reach() {
                Reach::Up => true,
                Reach::Down => false,
                Reach::Unknown => queue.route().alive,
            }
    });
    if reachable.is_empty() { ordinals(&|queue| queue.key().is_some()) } else { reachable }
}
