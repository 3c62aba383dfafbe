//! A consumer in its group: the background tasks, what may be asked of every kind of consumer, and the way out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use equeue_net::Code;
use equeue_net::api::{ListOffsets, ListOffsetsOutcome, OffsetAt};
use equeue_record::Offset;
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::group::keeper::{Initial, Keeper, Order};
use super::group::view::{coordinator, homes};
use super::group::{calls, member};
use super::options::StartAt;
use super::shared::{Shared, by_shard};
use super::track::{HandledBy, QueueId, Track};
use super::{ConsumerOptions, QueueEnd, QueuePosition, committer};
use crate::ClientError;
use crate::client::ClientInner;

/// How long the first queues are waited for, once the group is known: others may hold them for longer.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// Figures of a consumer since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Messages that were gone (by retention) before they could be fetched.
    pub missed: u64,
    /// Queues that were lost without having been given back: what was not committed is handled again by others.
    pub lost_grants: u64,
    /// Queues that were given up while a handler was at work.
    pub fenced: u64,
    /// Changes of the group.
    pub rebalances: u64,
    /// Messages handed back, to come again.
    pub handed_back: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages that wait for the application, or are at work with handlers.
    pub pending_messages: u64,
    /// Their bytes.
    pub pending_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    /// End with this.
    tasks: Vec<AbortHandle>,
    /// The heartbeats to the coordinator: they end before the goodbye.
    heart: AbortHandle,
    left: bool,
}

impl Membership {
    /// Joins the group; resolves when the first queues are granted, or are known to be held by others.
    pub(super) async fn join(
        client: Arc<ClientInner>,
        options: ConsumerOptions,
        by_handlers: bool,
    ) -> Result<Self, ClientError> {
        options.check()?;
        for topic in &options.topics {
            client.routes.resolve(&topic.topic).await?;
        }
        let commit_interval = options.commit_interval;
        let (shared, signals) = Shared::new(client, options, by_handlers);
        let shared = Arc::new(shared);
        shared.client.routes.want(&shared.retry_topic());
        let patience = shared.pool.request_timeout();
        // Brokers that are away are asked for their ends when they are back.
        let initial = initial(&shared, patience).await;
        let (views, mut view) = watch::channel(None);
        let (orders, order) = mpsc::channel(1);
        let heart = tokio::spawn(member::run(Arc::clone(&shared), views)).abort_handle();
        let (keeper, mut settled) =
            Keeper::new(Arc::clone(&shared), view.clone(), signals, order, initial, heart.clone());
        let mut tasks = vec![tokio::spawn(keeper.run()).abort_handle()];
        if let Some(every) = commit_interval {
            tasks.push(tokio::spawn(committer::run(Arc::clone(&shared), every)).abort_handle());
        }
        let membership = Self { shared, orders, tasks, heart, left: false };
        // A consumer works from the first grant on; that none comes yet does not fail it.
        if timeout(patience, view.wait_for(Option::is_some)).await.is_ok() {
            let _ = timeout(SETTLE_MAX, settled.wait_for(|settled| *settled)).await;
        }
        Ok(membership)
    }

    /// Drains, commits and releases every queue, and leaves the group.
    pub(super) async fn leave(mut self) -> Result<(), ClientError> {
        let (done, outcome) = oneshot::channel();
        if self.orders.send(Order::Leave(done)).await.is_err() {
            return Err(ClientError::Closed);
        }
        let outcome = outcome.await.unwrap_or(Err(ClientError::Closed));
        self.left = true;
        outcome
    }

    /// Next offset of every queue that this member owns.
    pub(super) fn positions(&self) -> Vec<QueuePosition> {
        let position = |track: &Arc<Track>| QueuePosition {
            topic: Arc::clone(&track.topic.name),
            queue: track.ordinal,
            next: track.delivered(),
            committed: track.committed(),
            high_watermark: track.high_watermark(),
            paused: track.is_paused(),
        };
        let retry = self.shared.retry_topic();
        self.shared.tracks().iter().filter(|track| *track.topic.name != *retry).map(position).collect()
    }

    /// Asks the brokers for the end of every queue.
    pub(super) async fn ends(&self) -> Result<Vec<QueueEnd>, ClientError> {
        let retry = self.shared.retry_topic();
        let tracks = self.shared.tracks().into_iter().filter(|track| *track.topic.name != *retry);
        let shards = by_shard(tracks, |track| track.home());
        let ends = shards.into_iter().map(|(place, tracks)| ends(&self.shared, place, tracks));
        let ends: Result<Vec<Vec<QueueEnd>>, ClientError> = join_all(ends).await.into_iter().collect();
        let mut ends: Vec<QueueEnd> = ends?.into_iter().flatten().collect();
        ends.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        Ok(ends)
    }

    /// A queue that this member owns.
    pub(super) fn own(&self, topic: &str, queue: u32) -> Result<Arc<Track>, ClientError> {
        let id: QueueId = (topic.into(), queue);
        self.shared.track(&id).ok_or(ClientError::QueueNotFound {
            topic: id.0,
            queue,
            reason: "this member does not own it",
        })
    }

    /// Figures.
    pub(super) fn stats(&self) -> ConsumerStats {
        let counters = &self.shared.counters;
        let load = self.shared.feed.load();
        ConsumerStats {
            missed: counters.missed.load(Ordering::Relaxed),
            lost_grants: counters.lost_grants.load(Ordering::Relaxed),
            fenced: counters.fenced.load(Ordering::Relaxed),
            rebalances: counters.rebalances.load(Ordering::Relaxed),
            handed_back: counters.handed_back.load(Ordering::Relaxed),
            dead: counters.dead.load(Ordering::Relaxed),
            pending_messages: load.messages as u64,
            pending_bytes: load.bytes as u64,
        }
    }
}

impl Drop for Membership {
    /// Without an orderly end: the queues are given up as they are, so that others need not wait for the leases.
    fn drop(&mut self) {
        self.heart.abort();
        self.tasks.iter().for_each(AbortHandle::abort);
        let shared = Arc::clone(&self.shared);
        let Ok(runtime) = tokio::runtime::Handle::try_current().ok().filter(|_| !self.left).ok_or(()) else {
            shared.pool.end_all("the consumer was closed");
            return;
        };
        shared.feed.close();
        let snapshot = shared.client.routes.load_full();
        let mut places: std::collections::BTreeSet<_> = shared
            .tracks()
            .iter()
            .map(|track| {
                track.end();
                (Arc::clone(&track.home().broker), track.home().shard)
            })
            .collect();
        places.extend(coordinator(&snapshot, &shared.group).map(|(broker, _, shard)| (broker, shard)));
        runtime.spawn(async move {
            join_all(places.into_iter().map(|place| calls::leave(&shared, place))).await;
            shared.pool.end_all("the consumer was closed");
        });
    }
}

/// The queues that are there now, and where they end if that is where to begin.
async fn initial(shared: &Shared, patience: Duration) -> Initial {
    let homes = homes(&shared.topics, &shared.client.routes.load());
    let mut initial: Initial = homes.keys().map(|id| (id.clone(), None)).collect();
    if shared.options.start != StartAt::Last {
        return initial;
    }
    let shards = by_shard(homes, |(_, home)| Arc::new(home.clone()));
    let asking = shards.into_iter().map(async |((broker, shard), queues)| {
        timeout(patience, async {
            let connection = shared.connect(&broker, shard).await?;
            let items = queues.iter().map(|(_, home)| (home.key, OffsetAt::Last)).collect();
            let answer = connection.call(&ListOffsets { items }).await?;
            let ends: HashMap<_, _> = answer
                .outcomes
                .into_iter()
                .filter(|outcome| outcome.code == Code::Ok)
                .map(|outcome| (outcome.queue, outcome.offset))
                .collect();
            Ok::<Vec<(QueueId, Option<Offset>)>, ClientError>(
                queues.into_iter().map(|(id, home)| (id, ends.get(&home.key).copied())).collect(),
            )
        })
        .await
    });
    initial.extend(join_all(asking).await.into_iter().flatten().flatten().flatten());
    initial
}

/// The ends of the queues of one shard.
async fn ends(
    shared: &Shared,
    (broker, shard_number): (Arc<str>, u16),
    tracks: Vec<Arc<Track>>,
) -> Result<Vec<QueueEnd>, ClientError> {
    let connection = shared.connect(&broker, shard_number).await?;
    let items = tracks.iter().map(|track| (track.home().key, OffsetAt::Last)).collect();
    let answer = connection.call(&ListOffsets { items }).await?;
    let end = |(track, outcome): (&Arc<Track>, ListOffsetsOutcome)| match outcome.code {
        Code::Ok => {
            track.set_high_watermark(outcome.offset);
            Ok(QueueEnd {
                topic: Arc::clone(&track.topic.name),
                queue: track.ordinal,
                high_watermark: outcome.offset,
            })
        }
        code => Err(ClientError::Refused {
            server: Arc::clone(&broker),
            request: "ListOffsets",
            code,
            retry_after_ms: 0,
            detail: format!("queue {} of topic {}", track.ordinal, track.topic.name).into(),
        }),
    };
    tracks.iter().zip(answer.outcomes).map(end).collect()
}

/// Everything delivered is handled where calls say so; nothing waits for what was handed over.
pub(super) fn settle(shared: &Shared, tracks: impl IntoIterator<Item = Arc<Track>>) {
    for track in tracks {
        track.handle_delivered();
        if shared.handled_by == HandledBy::Calls {
            shared.look_at_drained(&track);
        }
    }
}
