//! Looks at the groups while faults happen: no commit goes back, no queue stays without an owner.
//!
//! A queue may be without an owner for as long as its group cannot know better: while a member is stopped and has not been
//! silent long enough to be none any more, and while a coordinator that restarted waits for the members of before. Whoever
//! makes such a fault says so ([`Calm`]); the time counts from when it is over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use equeue_client::{Client, QueueKey};
use tokio::sync::watch::Receiver;
use tokio::time::sleep;

use super::GROUPS;

/// How often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a queue may be without an owner: three intervals of 1 s, and the time between looks.
const UNOWNED_MAX: Duration = Duration::from_millis(3_500);
/// How long the first members may take.
const BEGIN: Duration = Duration::from_secs(10);

/// Why a group may not know better for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The first members come.
    Begin,
    /// The member in this seat is stopped.
    Stopped(usize),
    /// A broker is away.
    Broker,
}

/// Until when the groups cannot be expected to give each queue an owner, by cause.
#[derive(Clone, Debug)]
pub(super) struct Calm(Arc<Mutex<BTreeMap<Cause, Instant>>>);

impl Calm {
    /// Members come for the first time.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(BTreeMap::from([(Cause::Begin, Instant::now() + BEGIN)]))))
    }

    /// It begins, and lasts so long at the most.
    pub(super) fn disturb(&self, cause: Cause, at_most: Duration) {
        self.causes().insert(cause, Instant::now() + at_most);
    }

    /// It is over so soon, unless it was before.
    pub(super) fn over(&self, cause: Cause, within: Duration) {
        if let Some(until) = self.causes().get_mut(&cause) {
            *until = (*until).min(Instant::now() + within);
        }
    }

    fn from(&self) -> Option<Instant> {
        self.causes().values().max().copied()
    }

    fn causes(&self) -> MutexGuard<'_, BTreeMap<Cause, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) violations: Vec<String>,
    /// Looks at a group.
    pub(super) looks: u64,
    /// Longest time for which a queue was seen without an owner, whatever the reason.
    pub(super) unowned_max: Duration,
}

/// See the module.
pub(super) struct Watch {
    client: Client,
    topics: Vec<String>,
    calm: Calm,
    committed: HashMap<(usize, QueueKey), u64>,
    unowned: HashMap<(usize, QueueKey), Instant>,
    seen: Seen,
}

impl Watch {
    pub(super) fn new(client: Client, topics: Vec<String>, calm: Calm) -> Self {
        let (committed, unowned) = (HashMap::new(), HashMap::new());
        Self { client, topics, calm, committed, unowned, seen: Seen::default() }
    }

    /// Looks until the faults are over; what was wrong.
    pub(super) async fn run(mut self, stop: Receiver<bool>) -> Seen {
        while !*stop.borrow() {
            sleep(LOOK_EVERY).await;
            for (index, group) in GROUPS.iter().enumerate() {
                self.look(index, group).await;
            }
        }
        self.seen
    }

    async fn look(&mut self, index: usize, group: &str) {
        let before = std::mem::take(&mut self.unowned);
        self.unowned.extend(before.iter().filter(|((of, _), _)| *of != index));
        let Ok(answers) = self.client.admin().describe_group(group).await else { return };
        self.seen.looks += 1;
        let now = Instant::now();
        for answer in answers.into_iter().filter_map(|answer| answer.result.ok()) {
            for queue in &answer.queues {
                let topic = answer.topics.get(usize::from(queue.topic));
                let Some(topic) = topic.filter(|topic| self.topics.contains(topic)) else { continue };
                let key = (index, queue.queue);
                if let Some(committed) = queue.committed {
                    let last = self.committed.insert(key, committed.0).unwrap_or(0);
                    if committed.0 < last {
                        self.seen.violations.push(format!(
                            "group {group}: the commit of queue {} of {topic} went back from {last} to {committed}",
                            queue.ordinal
                        ));
                    }
                }
                if queue.holder.is_none() {
                    let since = before.get(&key).copied().unwrap_or(now);
                    self.seen.unowned_max = self.seen.unowned_max.max(now - since);
                    let counted_from = self.calm.from().map_or(since, |from| from.max(since));
                    let counted = now.saturating_duration_since(counted_from);
                    if counted > UNOWNED_MAX {
                        self.seen.violations.push(format!(
                            "group {group}: queue {} of {topic} has had no owner for {:?}, for {counted:?} of it \
                             without a reason",
                            queue.ordinal,
                            now - since
                        ));
                        continue; // told once for each such time
                    }
                    self.unowned.insert(key, since);
                }
            }
        }
    }
}
