//! Looks at the groups while faults happen: no commit goes back, no queue stays without an owner.

use std::collections::HashMap;
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

/// See the module.
pub(super) struct Watch {
    client: Client,
    topics: Vec<String>,
    committed: HashMap<(usize, QueueKey), u64>,
    unowned: HashMap<(usize, QueueKey), Instant>,
    violations: Vec<String>,
}

impl Watch {
    pub(super) fn new(client: Client, topics: Vec<String>) -> Self {
        Self { client, topics, committed: HashMap::new(), unowned: HashMap::new(), violations: Vec::new() }
    }

    /// Looks until the faults are over; what was wrong.
    pub(super) async fn run(mut self, stop: Receiver<bool>) -> Vec<String> {
        let begin = Instant::now();
        while !*stop.borrow() {
            sleep(LOOK_EVERY).await;
            for (index, group) in GROUPS.iter().enumerate() {
                self.look(index, group, begin.elapsed() > BEGIN).await;
            }
        }
        self.violations
    }

    async fn look(&mut self, index: usize, group: &str, owners: bool) {
        let Ok(answers) = self.client.admin().describe_group(group).await else {
            self.unowned.clear();
            return;
        };
        let now = Instant::now();
        let before = std::mem::take(&mut self.unowned);
        self.unowned.extend(before.iter().filter(|((of, _), _)| *of != index));
        for answer in answers.into_iter().filter_map(|answer| answer.result.ok()) {
            for queue in &answer.queues {
                let topic = answer.topics.get(usize::from(queue.topic));
                let Some(topic) = topic.filter(|topic| self.topics.contains(topic)) else { continue };
                let key = (index, queue.queue);
                if let Some(committed) = queue.committed {
                    let last = self.committed.insert(key, committed.0).unwrap_or(0);
                    if committed.0 < last {
                        self.violations.push(format!("group {group}: the commit of queue {} of {topic} went back from {last} to {committed}", queue.ordinal));
                    }
                }
                if queue.holder.is_none() && owners {
                    let since = before.get(&key).copied().unwrap_or(now);
                    if now - since > UNOWNED_MAX {
                        self.violations.push(format!(
                            "group {group}: queue {} of {topic} has had no owner for {:?}",
                            queue.ordinal,
                            now - since
                        ));
                        continue;
                    }
                    self.unowned.insert(key, since);
                }
            }
        }
    }
}
