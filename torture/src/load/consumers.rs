//! One group that reads along with one member at a time, commits, and now and then gets a new member.

use std::sync::Arc;
use std::time::Duration;

use equeue_client::{Client, Consumer, ConsumerOptions, Received, StartAt, Subscription};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Order, Shared};
use crate::content::Seen;

/// Most messages of one pull.
const PULL_MAX: usize = 1000;
/// How long a pull, a commit or a close may take before the state of the run is looked at again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failed call.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A group to be run.
pub(super) struct Task {
    client: Client,
    shared: Arc<Shared>,
    group: usize,
    name: &'static str,
    /// Commits itself; otherwise the client does so in the background.
    explicit: bool,
    random: SmallRng,
}

impl Task {
    pub(super) fn new(
        client: Client,
        shared: Arc<Shared>,
        group: usize,
        name: &'static str,
        seed: u64,
    ) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ 0x00c0_ffee ^ group as u64);
        Self { client, shared, group, name, explicit: group.is_multiple_of(2), random }
    }

    pub(super) async fn run(mut self, order: watch::Receiver<Order>) {
        let going_on = || *order.borrow() != Order::Stop;
        while going_on() {
            let options = ConsumerOptions {
                group: self.name.to_owned(),
                topics: self.shared.shape.topics.iter().map(Subscription::all).collect(),
                start: StartAt::First,
                commit_interval: (!self.explicit).then_some(Duration::from_millis(200)),
                wait_max: Duration::from_secs(1),
                ..ConsumerOptions::default()
            };
            let Ok(mut consumer) = self.client.consumer(options).await else {
                tokio::time::sleep(BACK_OFF).await;
                continue;
            };
            if let Some((group, _)) = self.shared.records().evidence.group(self.group) {
                group.renew();
            }
            let retire = Instant::now() + Duration::from_millis(self.random.random_range(2000..12_000));
            while going_on() && Instant::now() < retire {
                self.step(&mut consumer).await;
            }
            let positions = positions(&self.shared, &consumer);
            // What a periodic committer leaves behind is committed on the way out.
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, consumer.close()).await
                && !self.explicit
            {
                self.committed(&positions);
            }
        }
    }

    async fn step(&mut self, consumer: &mut Consumer) {
        match consumer.pull(PULL_MAX, Duration::from_millis(200)).await {
            Ok(messages) => {
                for message in &messages {
                    self.note(message);
                }
            }
            Err(_) => tokio::time::sleep(BACK_OFF).await,
        }
        if self.explicit && self.random.random_bool(0.2) {
            let positions = positions(&self.shared, consumer);
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, consumer.commit()).await {
                self.committed(&positions);
            }
        }
    }

    fn note(&self, message: &Received) {
        let queue = self.shared.shape.index(&message.topic, message.queue).unwrap_or(u16::MAX);
        self.shared.note_pulled(self.group, queue, message.offset.0, &seen(message));
    }

    fn committed(&self, positions: &[(u16, u64)]) {
        let mut records = self.shared.records();
        for (queue, next) in positions {
            records.evidence.commit(self.group, *queue, *next);
        }
    }
}

/// Where a consumer stands. A queue that it was given nothing of yet says nothing about commits.
fn positions(shared: &Shared, consumer: &Consumer) -> Vec<(u16, u64)> {
    let positions = consumer.positions();
    let index = |topic: &str, queue| shared.shape.index(topic, queue);
    positions
        .iter()
        .filter_map(|position| Some((index(&position.topic, position.queue)?, position.next.0)))
        .collect()
}

/// A received message as the oracle looks at it.
pub(super) fn seen(message: &Received) -> Seen<'_> {
    Seen {
        key: message.key.as_deref(),
        tag: message.tag.as_deref(),
        code: message.code,
        header_count: message.headers.len(),
        header: message.headers.first().map(|header| (header.name.as_str(), header.value.as_deref())),
        body: message.body.as_deref(),
    }
}
