//! Decisions about groups in queues of this shard: taken in memory, appended to the queue's log, told once durable.
//!
//! **Invariants**: a decision that stores something takes effect when the log has taken it, and before anything else is
//! decided; what is told never rests on something that is not durable.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use equeue_net::Code;
use equeue_record::QueueKey;
use equeue_storage::Ticket;
use equeue_storage::log::{AtomicPart, QueueBounds};

use super::answers::{Tickets, note};
use super::catalog::{ENTRIES_MAX, status_of};
use super::state::{LogHost, Shard};
use crate::group::{CommitDecision, Grant, HoldTable, Progress, Rules, epoch_floor};
use crate::process::utc_ms;
use crate::state_key;

/// A decision that is to be stored.
struct Entry {
    item: usize,
    queue: QueueKey,
    grant: Grant,
}

/// The decisions of one request on one group; items are numbered by the request.
pub(crate) struct Writes {
    group: Arc<str>,
    /// By place of the log.
    entries: Vec<Vec<Entry>>,
    /// Items that rest on the log at a place.
    rests: Vec<(usize, usize)>,
    tickets: Tickets,
    failed: Vec<(usize, Code)>,
}

/// Where a decision is taken.
#[derive(Clone, Copy)]
pub(crate) struct Spot {
    /// Place of the log.
    pub(crate) place: usize,
    /// Of the queue.
    pub(crate) bounds: QueueBounds,
    /// To decide on.
    pub(crate) grant: Grant,
    /// What `grant` says is durable with this.
    pub(crate) ticket: Ticket,
}

/// The log of a queue of this shard, or what is told instead.
pub(crate) fn host_of(shard: &Shard, queue: QueueKey) -> Result<(usize, &LogHost), Code> {
    let home = shard.home(queue).ok_or_else(|| shard.unknown_queue(queue))?;
    shard.log_of(&home).ok_or(Code::Internal)
}

/// Where a group is in a queue of this shard, to decide on a change.
pub(crate) fn spot(shard: &Shard, queue: QueueKey, group: &str) -> Result<Spot, Code> {
    let spot = spot_to_read(shard, queue, group)?;
    if shard.broker.writes_stopped() { Err(Code::LogFailed) } else { Ok(spot) }
}

/// The same, for what stores nothing.
pub(crate) fn spot_to_read(shard: &Shard, queue: QueueKey, group: &str) -> Result<Spot, Code> {
    let (place, host) = host_of(shard, queue)?;
    let bounds = host.log.bounds(queue).ok_or(Code::QueueNotFound)?;
    let (grant, ticket) = shard.holds.borrow().grant(queue, group);
    Ok(Spot { place, bounds, grant, ticket })
}

impl Writes {
    pub(crate) fn new(shard: &Shard, group: &Arc<str>) -> Self {
        Self {
            group: Arc::clone(group),
            entries: shard.logs.iter().map(|_| Vec::new()).collect(),
            rests: Vec::new(),
            tickets: Tickets::new(),
            failed: Vec::new(),
        }
    }

    /// An item that stores what was decided.
    pub(crate) fn store(&mut self, item: usize, place: usize, queue: QueueKey, grant: Grant) {
        if let Some(entries) = self.entries.get_mut(place) {
            entries.push(Entry { item, queue, grant });
            self.rests.push((item, place));
        }
    }

    /// An item that tells what was decided before.
    pub(crate) fn rest(&mut self, item: usize, place: usize, ticket: Ticket) {
        note(&mut self.tickets, place, ticket);
        self.rests.push((item, place));
    }

    /// An item that was decided at `spot`; gives what is told of it.
    pub(crate) fn note(
        &mut self,
        shard: &Shard,
        item: usize,
        queue: QueueKey,
        spot: Spot,
        decided: CommitDecision,
    ) -> Code {
        match decided {
            CommitDecision::Store(_) => {
                self.store(item, spot.place, queue, spot.grant);
                Code::Ok
            }
            CommitDecision::Keep => {
                shard.holds.borrow_mut().update(queue, &self.group, spot.grant);
                self.rest(item, spot.place, spot.ticket);
                Code::Ok
            }
            CommitDecision::Refuse(code) => {
                if matches!(code, Code::StaleEpoch | Code::OffsetReset) {
                    shard.stats.stale_epochs.add(1);
                }
                self.rest(item, spot.place, spot.ticket);
                code
            }
        }
    }

    /// Appends everything; what the log took is in effect.
    pub(crate) fn append(&mut self, shard: &Shard) {
        let (now_ms, utc_ms) = (shard.lease_ms(), utc_ms());
        for (place, entries) in self.entries.iter_mut().enumerate() {
            let Some(host) = shard.logs.get(place) else { continue };
            for entries in std::mem::take(entries).chunks_mut(ENTRIES_MAX) {
                if !shard.holds.borrow().has_room(&self.group) {
                    self.failed.extend(entries.iter().map(|entry| (entry.item, Code::Busy)));
                    continue;
                }
                let part = |entry: &mut Entry| AtomicPart::State {
                    key: Bytes::from(state_key::group_offset(entry.queue, &self.group)),
                    value: Some(Bytes::from(entry.grant.stamp(utc_ms).encode())),
                };
                match host.log.append_atomic(entries.iter_mut().map(part).collect()) {
                    Ok(ticket) => {
                        note(&mut self.tickets, place, ticket);
                        let mut holds = shard.holds.borrow_mut();
                        for entry in entries {
                            holds.put(entry.queue, &self.group, entry.grant, ticket, now_ms, utc_ms);
                        }
                    }
                    Err(error) => {
                        let code = status_of(&error).code;
                        self.failed.extend(entries.iter().map(|entry| (entry.item, code)));
                    }
                }
            }
        }
    }

    /// Waits until all of it is durable; gives the items that are not, and why. Stored things stay stored when this is
    /// dropped.
    pub(crate) async fn durable(self, shard: &Rc<Shard>) -> Vec<(usize, Code)> {
        let Self { tickets, rests, mut failed, .. } = self;
        for (place, ticket) in tickets {
            let Some(host) = shard.logs.get(place) else { continue };
            if host.log.wait_durable(ticket).await.is_err() {
                let resting = rests.iter().filter(|(_, of)| *of == place);
                failed.extend(resting.map(|(item, _)| (*item, Code::LogFailed)));
            }
        }
        failed
    }
}

/// Reads what the logs of this shard hold of groups. Before anything is served.
pub(crate) fn load(shard: &Shard) {
    let (now_ms, rules) = (shard.lease_ms(), shard.group_rules());
    *shard.holds.borrow_mut() = HoldTable::new(epoch_floor(shard.started_utc_ms));
    for host in &shard.logs {
        let mut unread = 0_usize;
        host.log.state_with_prefix(&[state_key::GROUP_OFFSET], &mut |key, value| match (
            state_key::read_group_offset(key),
            Progress::decode(value),
        ) {
            (Some((queue, group)), Some(record)) => {
                shard.holds.borrow_mut().load(queue, group, record, now_ms, rules);
            }
            _ => unread += 1,
        });
        if unread > 0 {
            tracing::error!(log = %host.id, entries = unread,
                "stored offsets of groups have a layout that this build does not know; those groups begin anew: use the newer build");
        }
    }
}

/// What the rules are here.
pub(crate) fn rules(config: &crate::config::BrokerConfig) -> Rules {
    Rules {
        lease_ms: config.groups.lease_ms,
        wish_ms: config.groups.session_ms,
        check_epochs: !config.hazards.no_grant_epoch,
    }
}
