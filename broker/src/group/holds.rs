//! Every (group, queue) of a shard: grants and offsets as decided so far, and which of them are still on their way to the
//! disk. Read from the logs once, at the start.
//!
//! **Invariants**: what is here is what the log holds or will hold, in its order; a group is here as long as it has an
//! entry in some queue; the number of groups is bounded; an entry that comes after one was removed has newer epochs.

use std::collections::HashMap;
use std::sync::Arc;

use equeue_net::limits::GROUPS_MAX;
use equeue_record::{Offset, QueueKey};
use equeue_storage::Ticket;
use slab::Slab;
use smallvec::SmallVec;

use super::{Grant, Progress, Rules};

/// A group of this shard, by number.
pub type GroupId = usize;

/// What is known of one (group, queue).
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// As decided.
    pub grant: Grant,
    /// Durable once the log has come so far.
    pub ticket: Ticket,
    /// When the offset moved last, ms UTC; 0: not since the start.
    pub committed_ms: i64,
    /// Messages that its owner has fetched and not handled, as it told last.
    pub cached: u32,
    /// Since when nobody owns it although the group is here, ms of the lease clock.
    pub unowned_since_ms: Option<u64>,
    rate: Rate,
}

/// Messages committed lately.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    since_ms: u64,
    messages: u64,
    last_milli: u64,
}

/// Length of a measurement of the rate.
const RATE_MS: u64 = 5_000;

impl Rate {
    fn add(&mut self, messages: u64, now_ms: u64) {
        self.roll(now_ms);
        self.messages = self.messages.saturating_add(messages);
    }

    fn roll(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.since_ms);
        if passed >= RATE_MS {
            let fresh = passed < 2 * RATE_MS;
            let milli = self.messages.saturating_mul(1_000_000) / passed;
            *self = Self { since_ms: now_ms, messages: 0, last_milli: if fresh { milli } else { 0 } };
        }
    }
}

impl Hold {
    /// Messages committed per 1000 s, over the last whole measurement.
    pub fn rate_milli(&self, now_ms: u64) -> u64 {
        let mut rate = self.rate;
        rate.roll(now_ms);
        rate.last_milli
    }
}

#[derive(Debug)]
struct GroupHolds {
    name: Arc<str>,
    holds: usize,
}

/// The table.
#[derive(Debug, Default)]
pub struct HoldTable {
    names: HashMap<Arc<str>, GroupId>,
    groups: Slab<GroupHolds>,
    holds: HashMap<(QueueKey, GroupId), Hold>,
    by_queue: HashMap<QueueKey, SmallVec<[GroupId; 2]>>,
    /// No epoch of an entry that is not here any more is above this one.
    epochs_over: u32,
}

impl HoldTable {
    /// An empty table; entries removed before had no epochs above `epochs_over`.
    pub fn new(epochs_over: u32) -> Self {
        Self { epochs_over, ..Self::default() }
    }

    /// Takes in what a log holds.
    pub fn load(&mut self, queue: QueueKey, group: &str, record: Progress, now_ms: u64, rules: Rules) {
        let grant = Grant::restored(record, now_ms, rules).above(self.epochs_over);
        self.put(queue, group, grant, Ticket::default(), now_ms, 0);
    }

    /// The number of a group that has something here.
    pub fn group(&self, name: &str) -> Option<GroupId> {
        self.names.get(name).copied()
    }

    /// Whether a group that is not here may come.
    pub fn has_room(&self, name: &str) -> bool {
        self.groups.len() < GROUPS_MAX || self.names.contains_key(name)
    }

    /// What is known of a group in a queue.
    pub fn get(&self, queue: QueueKey, group: &str) -> Option<&Hold> {
        self.holds.get(&(queue, self.group(group)?))
    }

    /// The same, by number.
    pub fn of(&self, queue: QueueKey, group: GroupId) -> Option<&Hold> {
        self.holds.get(&(queue, group))
    }

    /// The grant to decide on, and the ticket that what it says rests on.
    pub fn grant(&self, queue: QueueKey, group: &str) -> (Grant, Ticket) {
        let new = || (Grant::default().above(self.epochs_over), Ticket::default());
        self.get(queue, group).map_or_else(new, |hold| (hold.grant, hold.ticket))
    }

    /// Keeps what was decided without anything to store.
    pub fn update(&mut self, queue: QueueKey, group: &str, grant: Grant) {
        if let Some(group) = self.group(group)
            && let Some(hold) = self.holds.get_mut(&(queue, group))
        {
            hold.grant = grant;
        }
    }

    /// The same for a heartbeat of its owner, who has so many messages of it.
    pub fn beaten(&mut self, queue: QueueKey, group: &str, grant: Grant, cached: u32) {
        if let Some(group) = self.group(group)
            && let Some(hold) = self.holds.get_mut(&(queue, group))
        {
            (hold.grant, hold.cached) = (grant, cached);
        }
    }

    /// Keeps what was decided, and appended with `ticket`.
    pub fn put(
        &mut self,
        queue: QueueKey,
        name: &str,
        grant: Grant,
        ticket: Ticket,
        now_ms: u64,
        utc_ms: i64,
    ) {
        let group = self.intern(name);
        let committed = grant.record().committed;
        if let Some(hold) = self.holds.get_mut(&(queue, group)) {
            let before = hold.grant.record().committed;
            if committed != before {
                let moved = committed.unwrap_or_default().0.saturating_sub(before.unwrap_or_default().0);
                hold.rate.add(moved, now_ms);
                hold.committed_ms = utc_ms;
            }
            if hold.grant.record().member != grant.record().member {
                hold.cached = 0;
            }
            (hold.grant, hold.ticket) = (grant, ticket);
            return;
        }
        let rate = Rate { since_ms: now_ms, ..Rate::default() };
        let hold = Hold { grant, ticket, committed_ms: utc_ms, cached: 0, unowned_since_ms: None, rate };
        self.holds.insert((queue, group), hold);
        self.by_queue.entry(queue).or_default().push(group);
        if let Some(here) = self.groups.get_mut(group) {
            here.holds += 1;
        }
    }

    fn intern(&mut self, name: &str) -> GroupId {
        if let Some(group) = self.group(name) {
            return group;
        }
        let name: Arc<str> = Arc::from(name);
        let group = self.groups.insert(GroupHolds { name: Arc::clone(&name), holds: 0 });
        self.names.insert(name, group);
        group
    }

    /// Forgets a queue that is gone; gives the groups that had something in it.
    pub fn remove_queue(&mut self, queue: QueueKey) -> Vec<Arc<str>> {
        let groups = self.by_queue.remove(&queue).unwrap_or_default();
        let mut names = Vec::with_capacity(groups.len());
        for group in groups {
            self.holds.remove(&(queue, group));
            names.extend(self.groups.get(group).map(|here| Arc::clone(&here.name)));
            self.shrink(group);
        }
        names
    }

    /// Forgets a group in one queue.
    pub fn remove(&mut self, queue: QueueKey, name: &str) {
        let Some(group) = self.group(name) else { return };
        let Some(removed) = self.holds.remove(&(queue, group)) else { return };
        self.epochs_over = self.epochs_over.max(removed.grant.record().grant_epoch);
        if let Some(groups) = self.by_queue.get_mut(&queue) {
            groups.retain(|known| *known != group);
            if groups.is_empty() {
                self.by_queue.remove(&queue);
            }
        }
        self.shrink(group);
    }

    /// One entry of a group is gone.
    fn shrink(&mut self, group: GroupId) {
        let Some(here) = self.groups.get_mut(group) else { return };
        here.holds -= 1;
        if here.holds == 0 {
            let here = self.groups.remove(group);
            self.names.remove(&here.name);
        }
    }

    /// Every group.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.iter().map(|(_, here)| &here.name)
    }

    /// Every entry: queue, group, what is known.
    pub fn iter(&self) -> impl Iterator<Item = (QueueKey, &Arc<str>, &Hold)> {
        self.holds
            .iter()
            .filter_map(|((queue, group), hold)| Some((*queue, &self.groups.get(*group)?.name, hold)))
    }

    /// The same, to change what is known.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (QueueKey, &Arc<str>, &mut Hold)> {
        let groups = &self.groups;
        self.holds
            .iter_mut()
            .filter_map(|((queue, group), hold)| Some((*queue, &groups.get(*group)?.name, hold)))
    }

    /// Entries of one group.
    pub fn of_group(&self, name: &str) -> Vec<(QueueKey, Hold)> {
        let Some(group) = self.group(name) else { return Vec::new() };
        let of_group =
            |((queue, of), hold): (&(QueueKey, GroupId), &Hold)| (*of == group).then_some((*queue, *hold));
        let mut entries: Vec<_> = self.holds.iter().filter_map(of_group).collect();
        entries.sort_unstable_by_key(|(queue, _)| *queue);
        entries
    }

    /// Where each group is in a queue.
    pub fn committed(&self, queue: QueueKey) -> impl Iterator<Item = (&Arc<str>, Option<Offset>)> {
        let groups = self.by_queue.get(&queue).into_iter().flatten();
        groups.filter_map(move |group| {
            let hold = self.holds.get(&(queue, *group))?;
            Some((&self.groups.get(*group)?.name, hold.grant.record().committed))
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.holds.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use equeue_storage::log::QueueBounds;

    use super::*;
    use crate::group::CommitDecision;

    const BOUNDS: QueueBounds = QueueBounds { start: Offset(0), durable_end: Offset(9), end: Offset(9) };
    const RULES: Rules = Rules { lease_ms: 5_000, wish_ms: 10_000, check_epochs: true };

    fn record(committed: u64) -> Progress {
        Progress { committed: Some(Offset(committed)), ..Progress::default() }
    }

    #[test]
    fn a_group_is_there_as_long_as_it_has_an_entry() {
        let mut table = HoldTable::default();
        table.load(QueueKey(1), "a", record(5), 0, RULES);
        table.load(QueueKey(2), "a", record(6), 0, RULES);
        table.load(QueueKey(2), "b", record(7), 0, RULES);
        assert_eq!(table.len(), 3);
        let at: Vec<_> = table.committed(QueueKey(2)).map(|(name, at)| (name.to_string(), at)).collect();
        assert_eq!(at, [("a".to_owned(), Some(Offset(6))), ("b".to_owned(), Some(Offset(7)))]);
        assert_eq!(table.remove_queue(QueueKey(2)).len(), 2);
        assert_eq!((table.group("b"), table.groups().count()), (None, 1));
        table.remove(QueueKey(1), "a");
        table.remove(QueueKey(1), "a");
        assert!(table.is_empty() && table.by_queue.is_empty() && table.names.is_empty());
    }

    #[test]
    fn epochs_go_on_where_an_entry_was_removed() {
        let mut table = HoldTable::new(5);
        let next = |table: &HoldTable| table.grant(QueueKey(1), "a").0.reset(Offset(1), BOUNDS);
        let epoch = |decided| {
            let CommitDecision::Store(record) = decided else { panic!("{decided:?}") };
            record.grant_epoch
        };
        assert_eq!(epoch(next(&table)), 6);
        table.load(QueueKey(1), "a", Progress { grant_epoch: 9, ..record(1) }, 0, RULES);
        assert_eq!(epoch(next(&table)), 10);
        table.remove(QueueKey(1), "a");
        assert_eq!(epoch(next(&table)), 10);
        // What a tool commits is an entry without an epoch.
        table.load(QueueKey(1), "a", record(1), 0, RULES);
        assert_eq!(epoch(next(&table)), 10);
    }

    #[test]
    fn rates_are_of_the_last_whole_measurement() {
        let mut table = HoldTable::default();
        let commit = |table: &mut HoldTable, to, now_ms| {
            let grant = Grant::restored(record(to), now_ms, RULES);
            table.put(QueueKey(1), "a", grant, Ticket::default(), now_ms, 1);
        };
        commit(&mut table, 0, 0);
        for second in 1..=5 {
            commit(&mut table, second * 100, second * 1_000);
        }
        let rate = |table: &HoldTable, now_ms| table.get(QueueKey(1), "a").unwrap().rate_milli(now_ms);
        assert_eq!(rate(&table, 5_100), 80_000, "400 in 5 s; the last hundred began the next measurement");
        assert_eq!(rate(&table, 60_000), 0);
    }
}
