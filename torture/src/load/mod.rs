//! The load of a life: producers and consumers that go on through every fault, and what they are told.

mod consumers;
mod producers;
pub(crate) mod reader;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use equeue_client::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::content::{Name, Seen};
use crate::journal::Journal;
use crate::oracle::Evidence;
use crate::oracle::violation::Class;

/// The groups that read along.
pub(crate) const GROUPS: [&str; 2] = ["along-explicit", "along-periodic"];

/// How long producers may take to settle: the longest send timeout and more.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);
/// How long tasks may take to end.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Shape of the load.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Topics.
    pub(crate) topics: Vec<String>,
    /// Queues of each.
    pub(crate) queues: u16,
    /// Producers.
    pub(crate) producers: u16,
    /// Messages a second, all producers together.
    pub(crate) rate: u32,
    /// Longest time a message may take, by producer in turn.
    pub(crate) send_timeouts: Vec<Duration>,
}

impl Shape {
    /// Queues over all topics.
    pub(crate) fn queue_count(&self) -> u16 {
        u16::try_from(self.topics.len()).unwrap_or(u16::MAX).saturating_mul(self.queues)
    }

    /// Topic and ordinal of a queue.
    pub(crate) fn place(&self, queue: u16) -> Option<(&str, u32)> {
        let topic = self.topics.get(usize::from(queue.checked_div(self.queues)?))?;
        Some((topic, u32::from(queue % self.queues)))
    }

    /// Index of a queue of a topic.
    pub(crate) fn index(&self, topic: &str, ordinal: u32) -> Option<u16> {
        let topic = self.topics.iter().position(|known| known == topic)?;
        let ordinal = u16::try_from(ordinal).ok().filter(|ordinal| *ordinal < self.queues)?;
        u16::try_from(topic).ok()?.checked_mul(self.queues)?.checked_add(ordinal)
    }
}

/// What the tasks of a life write down.
#[derive(Debug)]
pub(crate) struct Records {
    /// For the oracle.
    pub(crate) evidence: Evidence,
    /// For people.
    pub(crate) journal: Journal,
}

/// What the tasks of a life share.
#[derive(Debug)]
pub(crate) struct Shared {
    records: Mutex<Records>,
    acknowledged: AtomicU64,
    pulled: AtomicU64,
    /// Sends that failed because the disk is full.
    disk_full: AtomicU64,
    /// The shape of the load.
    pub(crate) shape: Shape,
}

impl Shared {
    /// Of a life that begins.
    pub(crate) fn new(evidence: Evidence, journal: Journal, shape: Shape) -> Self {
        Self {
            records: Mutex::new(Records { evidence, journal }),
            acknowledged: AtomicU64::new(0),
            pulled: AtomicU64::new(0),
            disk_full: AtomicU64::new(0),
            shape,
        }
    }

    /// The records. Never held across an await.
    pub(crate) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Messages given to the groups that read along so far.
    pub(crate) fn pulled(&self) -> u64 {
        self.pulled.load(Ordering::Relaxed)
    }

    /// Sends that failed because the disk is full, so far.
    pub(crate) fn disk_full(&self) -> u64 {
        self.disk_full.load(Ordering::Relaxed)
    }

    fn note_acknowledged(&self, name: Name, queue: u16, offset: u64) {
        let mut records = self.records();
        records.evidence.acknowledge(name, queue, offset);
        records.journal.acknowledged(name, offset);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    fn note_failed(&self, name: Name, certain: bool) {
        let mut records = self.records();
        records.evidence.fail(name, certain);
        records.journal.failed(name, certain);
    }

    fn note_pulled(&self, group: usize, queue: u16, offset: u64, seen: &Seen<'_>) {
        self.records().evidence.pull(group, queue, offset, seen);
        self.pulled.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that breaks a promise.
    pub(crate) fn violation(&self, class: Class, detail: impl FnOnce() -> String) {
        self.records().evidence.findings().note(class, detail);
    }
}

/// What producers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Send,
    /// Settle all that was sent, say so, and wait.
    Pause,
    Stop,
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    orders: watch::Sender<Order>,
    settled: mpsc::Receiver<()>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Starts all producers and consumers.
    pub(crate) fn start(client: &Client, shared: &Arc<Shared>, seed: u64) -> Self {
        let (orders, order) = watch::channel(Order::Send);
        let (tell, settled) = mpsc::channel(usize::from(shared.shape.producers).max(1));
        let mut tasks = JoinSet::new();
        for index in 0..shared.shape.producers {
            let producer = producers::Task::new(client, shared, index, seed);
            tasks.spawn(producer.run(order.clone(), tell.clone()));
        }
        for (index, name) in GROUPS.iter().enumerate() {
            let consumer = consumers::Task::new(client.clone(), Arc::clone(shared), index, name, seed);
            tasks.spawn(consumer.run(order.clone()));
        }
        Self { shared: Arc::clone(shared), orders, settled, tasks }
    }

    /// Waits until every message that was sent has its answer; producers then wait for [`Load::resume`]. Consumers
    /// go on.
    pub(crate) async fn pause(&mut self) -> anyhow::Result<()> {
        self.orders.send_replace(Order::Pause);
        for _ in 0..self.shared.shape.producers {
            let Ok(told) = tokio::time::timeout(SETTLE_LIMIT, self.settled.recv()).await else {
                self.shared.violation(Class::Stuck, || {
                    format!("a producer's flush did not return within {SETTLE_LIMIT:?}")
                });
                anyhow::bail!("the producers do not settle");
            };
            told.context("a producer task ended by itself")?;
        }
        self.shared.records().evidence.settled();
        Ok(())
    }

    /// Producers go on.
    pub(crate) fn resume(&self) {
        self.orders.send_replace(Order::Send);
    }

    /// Ends all tasks at once; what they were about is not known any more.
    pub(crate) async fn abort(mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends all tasks in order. The broker must be there.
    pub(crate) async fn stop(mut self) {
        self.orders.send_replace(Order::Stop);
        let end = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_LIMIT, end).await.is_err() {
            self.shared.violation(Class::Stuck, || {
                format!("{} client tasks did not end within {END_LIMIT:?}", self.tasks.len())
            });
            self.tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_an_index_and_a_place() {
        let shape = Shape {
            topics: vec!["a".to_owned(), "b".to_owned()],
            queues: 3,
            producers: 1,
            rate: 1,
            send_timeouts: Vec::new(),
        };
        assert_eq!(shape.queue_count(), 6);
        for queue in 0..6 {
            let (topic, ordinal) = shape.place(queue).unwrap();
            assert_eq!(shape.index(topic, ordinal), Some(queue));
        }
        assert_eq!((shape.place(6), shape.index("c", 0), shape.index("a", 3)), (None, None, None));
    }
}
