//! One queue of a topic as a producer uses it: its intake, its outbox, its route and the lane that sends for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use equeue_record::{QueueKey, RecordError};

use super::intake::Intake;
use super::lane::Lane;
use super::outbox::{Audience, Outbox, ToSend};
use crate::routes::QueuePlace;

/// A queue. **Invariant**: `lane` changes only under the intake's lock, and only while no batch is on its way; the
/// outbox is used by the sender of that lane alone (its lock is there for the change of lanes).
#[derive(Debug)]
pub(crate) struct Queue {
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Its number in the topic.
    pub ordinal: u32,
    /// Its messages are delayed.
    pub delayed: bool,
    intake: Mutex<Intake>,
    outbox: Mutex<Outbox>,
    route: ArcSwap<QueuePlace>,
    lane: ArcSwap<Lane>,
}

/// Where a queue lives, seen from a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// There, as far as is known.
    Here,
    /// On another shard of the same broker.
    OtherShard,
    /// On another broker.
    OtherBroker,
}

/// How a sender takes batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakePlan {
    /// Unfinished batches too.
    pub partial: bool,
    /// How long an unfinished batch waits.
    pub linger: Duration,
    /// Batches that may be on their way.
    pub in_flight_max: usize,
}

impl Queue {
    /// A queue that nothing was sent to.
    pub(crate) fn new(topic: Arc<str>, route: QueuePlace, lane: Arc<Lane>, delayed: bool) -> Self {
        Self {
            topic,
            ordinal: route.ordinal,
            delayed,
            intake: Mutex::default(),
            outbox: Mutex::new(Outbox::new(|| rand::random::<i64>() & i64::MAX)),
            route: ArcSwap::from_pointee(route),
            lane: ArcSwap::new(lane),
        }
    }

    /// Its unsent batches. Nobody but the lane's sender may hold this lock and the outbox's at the same time.
    pub(crate) fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its sent batches.
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it lives.
    pub(crate) fn route(&self) -> Arc<QueuePlace> {
        self.route.load_full()
    }

    /// Where it lives, seen from this lane, and its key there, as long as sending to it is allowed.
    pub(crate) fn place_on(&self, lane: &Lane) -> (Way, Option<QueueKey>) {
        let route = self.route.load();
        let way = match *route.broker == *lane.broker {
            true if route.entry.is_none_or(|entry| entry.shard == lane.shard) => Way::Here,
            true => Way::OtherShard,
            false => Way::OtherBroker,
        };
        (way, route.entry.filter(|entry| entry.writable).map(|entry| entry.key))
    }

    /// Its key, as long as sending to it is allowed.
    pub(crate) fn key(&self) -> Option<QueueKey> {
        self.route.load().entry.filter(|entry| entry.writable).map(|entry| entry.key)
    }

    /// The lane that sends for it.
    pub(crate) fn lane(&self) -> Arc<Lane> {
        self.lane.load_full()
    }

    /// Puts the queue on its lane's list, unless it is on it, and wakes the sender. The intake's lock is held. `false`: the
    /// sender has ended, and nobody will send what is there.
    pub(crate) fn list(self: &Arc<Self>, intake: &mut Intake) -> bool {
        let lane = self.lane.load();
        if intake.listed {
            if intake.has_whole() {
                lane.note_whole();
            }
            lane.wake();
        } else {
            intake.listed = lane.list(Arc::clone(self));
        }
        intake.listed
    }

    /// Takes a new route. The lane changes at once when nothing is unsettled; otherwise its sender hands the queue
    /// over once nothing is on its way.
    pub(crate) fn reroute(&self, route: QueuePlace, lane: &Arc<Lane>) {
        let intake = self.intake();
        self.route.store(Arc::new(route));
        if intake.listed {
            self.lane.load().note_moved();
        } else {
            self.lane.store(Arc::clone(lane));
        }
    }

    /// Gives the queue to another lane, when nothing is on its way. To be called by the sender of the present lane,
    /// which forgets the queue afterwards.
    pub(crate) fn hand_over(self: &Arc<Self>, to: &Arc<Lane>) -> bool {
        let mut intake = self.intake();
        let is_idle = {
            let outbox = self.outbox();
            if outbox.on_wire() {
                return false;
            }
            intake.is_empty() && outbox.is_empty()
        };
        // A sender that has ended (the producer is being closed) would never send it.
        if !is_idle && !to.list(Arc::clone(self)) {
            return false;
        }
        self.outbox().end_pause(); // it was for the other place
        intake.listed = !is_idle;
        self.lane.store(Arc::clone(to));
        true
    }

    /// The next batch to put on the wire: one to be sent again, or a new one. Whom to tell when a batch cannot be
    /// frozen.
    pub(crate) fn next(
        &self,
        plan: TakePlan,
        now: Instant,
    ) -> Result<Option<ToSend>, (Audience, RecordError)> {
        let mut outbox = self.outbox();
        if let Some(again) = outbox.resend(now) {
            return Ok(Some(again));
        }
        if !outbox.has_room(plan.in_flight_max) {
            return Ok(None);
        }
        // The intake is not locked while records are packed and their checksum is taken.
        let batch = self.intake().take(plan.partial, plan.linger, now);
        batch.map(|batch| outbox.freeze(batch)).transpose()
    }

    /// Takes the queue off its lane's list when nothing is left to do.
    pub(crate) fn unlist_if_idle(&self) -> bool {
        let mut intake = self.intake();
        if intake.is_empty() && self.outbox().is_empty() {
            intake.listed = false;
        }
        !intake.listed
    }
}
