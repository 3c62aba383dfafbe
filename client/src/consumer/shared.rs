//! What the handle and the background tasks of a consumer share.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use equeue_net::api::ShareQueue;
use equeue_net::hidden::retry_topic;
use equeue_net::limits::OFFSET_ITEMS_MAX;
use equeue_net::preamble::Purpose;
use equeue_record::Offset;
use tokio::sync::{Notify, mpsc};

use super::feed::{Feed, Load};
use super::filter::TopicFilter;
use super::options::ConsumerOptions;
use super::track::{HandledBy, Home, QueueId, Track};
use crate::ClientError;
use crate::client::ClientInner;
use crate::connection::{Connection, Endpoint};
use crate::pool::Pool;

/// Signals that wait for the keeper; one that does not fit comes again with the next heartbeat.
const SIGNALS_MAX: usize = 4096;

/// What an answer to a fetch or a commit said of a grant.
#[derive(Debug)]
pub(crate) enum Signal {
    /// This epoch is not in force.
    Stale(Arc<Track>, u32),
    /// The offset was reset, under this epoch.
    Reset(Arc<Track>, Offset, u32),
}

/// Figures of a consumer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Messages that were gone before they could be fetched.
    pub missed: AtomicU64,
    /// Grants that ended without being given back.
    pub lost_grants: AtomicU64,
    /// Queues given up while a handler was at work with them.
    pub fenced: AtomicU64,
    /// Generations of the group taken over.
    pub rebalances: AtomicU64,
    /// Messages handed back to come again, and those that became dead letters.
    pub handed_back: AtomicU64,
    /// See `handed_back`.
    pub dead: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The client.
    pub client: Arc<ClientInner>,
    /// The consumer's own connections: it is a member of its own.
    pub pool: Arc<Pool>,
    /// The settings.
    pub options: ConsumerOptions,
    /// The group; with the instance where it is a broadcast.
    pub group: String,
    /// The topics, and last the group's retry topic.
    pub topics: Vec<Arc<TopicFilter>>,
    /// What was fetched.
    pub feed: Arc<Feed>,
    /// Who says what is handled.
    pub handled_by: HandledBy,
    /// Commits are made one at a time.
    pub committing: tokio::sync::Mutex<()>,
    /// Figures.
    pub counters: Counters,
    /// The group's subscription is to be replaced still.
    pub replaces: AtomicBool,
    /// Beats to the coordinator now.
    pub beat_soon: Notify,
    /// A queue that drains may be drained.
    pub drained: Notify,
    signals: mpsc::Sender<Signal>,
    tracks: Mutex<HashMap<QueueId, Arc<Track>>>,
    unreachable: Mutex<Vec<Arc<str>>>,
    share: Mutex<Share>,
}

/// What falls to this member, as the group is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    /// The generation in which it does.
    pub generation: u64,
    /// Indexes of topics are into [`Shared::topics`].
    pub queues: Vec<ShareQueue>,
}

impl Shared {
    /// Reads nothing yet. The receiver is for the keeper.
    pub(crate) fn new(
        client: Arc<ClientInner>,
        options: ConsumerOptions,
        by_handlers: bool,
    ) -> (Self, mpsc::Receiver<Signal>) {
        let group = options.group_name();
        let mut topics: Vec<Arc<TopicFilter>> = options
            .topics
            .iter()
            .map(|topic| Arc::new(TopicFilter::new(&topic.topic, topic.tags.clone())))
            .collect();
        topics.push(Arc::new(TopicFilter::new(&retry_topic(&group), Vec::new())));
        let pool = Arc::new(client.pool.another());
        pool.present(|heartbeat| {
            heartbeat.group.clone_from(&group);
            heartbeat.consuming = options.topics.iter().map(|topic| topic.topic.clone()).collect();
        });
        let limit = Load { messages: options.pending_messages_max, bytes: options.prefetch_bytes };
        let limit_per_queue =
            Load { messages: options.queue_pending_messages_max, bytes: options.queue_pending_bytes_max };
        let handled_by = match (by_handlers, options.commit_interval) {
            (true, _) => HandledBy::Handlers,
            (false, Some(_)) => HandledBy::Calls,
            (false, None) => HandledBy::Commits,
        };
        let (signals, receiver) = mpsc::channel(SIGNALS_MAX);
        let shared = Self {
            client,
            pool,
            group,
            topics,
            feed: Arc::new(Feed::new(limit, limit_per_queue)),
            handled_by,
            committing: tokio::sync::Mutex::default(),
            counters: Counters::default(),
            replaces: AtomicBool::new(options.replace_subscription),
            beat_soon: Notify::new(),
            drained: Notify::new(),
            signals,
            tracks: Mutex::default(),
            unreachable: Mutex::default(),
            share: Mutex::default(),
            options,
        };
        (shared, receiver)
    }

    /// The group's retry topic.
    pub(crate) fn retry_topic(&self) -> String {
        retry_topic(&self.group)
    }

    /// The tags wanted of a topic.
    pub(crate) fn tags_of(&self, topic: &str) -> Vec<String> {
        let filter = self.topics.iter().find(|filter| *filter.name == *topic);
        filter.map_or_else(Vec::new, |filter| filter.tags.clone())
    }

    /// The queues that this member owns.
    pub(crate) fn owned(&self) -> MutexGuard<'_, HashMap<QueueId, Arc<Track>>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them.
    pub(crate) fn track(&self, id: &QueueId) -> Option<Arc<Track>> {
        self.owned().get(id).cloned()
    }

    /// All tracks, by topic and ordinal.
    pub(crate) fn tracks(&self) -> Vec<Arc<Track>> {
        let mut tracks: Vec<Arc<Track>> = self.owned().values().cloned().collect();
        tracks.sort_by(|a, b| (&a.topic.name, a.ordinal).cmp(&(&b.topic.name, b.ordinal)));
        tracks
    }

    /// Brokers that this member cannot reach.
    pub(crate) fn unreachable(&self) -> Vec<Arc<str>> {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the group, when they are others than before.
    pub(crate) fn set_unreachable(&self, brokers: Vec<Arc<str>>) {
        let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        if *unreachable != brokers {
            *unreachable = brokers;
            drop(unreachable);
            self.beat_soon.notify_one();
        }
    }

    /// What falls to this member.
    pub(crate) fn share(&self) -> Share {
        self.share.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the group soon: the next generation may follow at once. Of a share of more queues than a heartbeat holds the rest is not told.
    pub(crate) fn set_share(&self, generation: u64, share: &BTreeSet<QueueId>) {
        let queue = |(topic, queue): &QueueId| {
            let at = self.topics.iter().position(|filter| filter.name == *topic)?;
            Some(ShareQueue { topic: u16::try_from(at).ok()?, queue: *queue })
        };
        let queues = share.iter().filter_map(queue).take(OFFSET_ITEMS_MAX).collect();
        let share = Share { generation, queues };
        let before =
            std::mem::replace(&mut *self.share.lock().unwrap_or_else(PoisonError::into_inner), share);
        if before.generation != generation {
            self.beat_soon.notify_one();
        }
    }

    /// A consume connection to a shard.
    pub(crate) async fn connect(
        &self,
        broker: &Arc<str>,
        shard: u16,
    ) -> Result<Arc<Connection>, ClientError> {
        let address = self.client.routes.load().address(broker).cloned();
        let address = address.ok_or_else(|| ClientError::BrokerAway { broker: Arc::clone(broker) })?;
        self.pool.get(&Endpoint { address, shard: Some(shard), purpose: Purpose::Consume }).await
    }

    /// Tells the keeper.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = self.signals.try_send(signal);
    }

    /// The application or a handler is done with something of a queue.
    pub(crate) fn look_at_drained(&self, track: &Track) {
        if track.is_draining() {
            self.drained.notify_one();
        }
    }

    /// A message was handed back: where the retry queue is not known yet, the routes are asked for.
    pub(crate) fn expect_retries(&self) {
        let retry = self.retry_topic();
        if !self.client.routes.load().topics.contains_key(retry.as_str()) {
            self.client.routes.refresh();
        }
    }

    /// Messages were gone before they could be fetched.
    pub(crate) fn missed(&self, messages: u64) {
        self.counters.missed.fetch_add(messages, Ordering::Relaxed);
    }
}

/// Tracks by where they live.
pub(crate) fn by_shard<T>(
    items: impl IntoIterator<Item = T>,
    home: impl Fn(&T) -> Arc<Home>,
) -> HashMap<(Arc<str>, u16), Vec<T>> {
    let mut shards: HashMap<(Arc<str>, u16), Vec<T>> = HashMap::new();
    for item in items {
        let home = home(&item);
        shards.entry((Arc::clone(&home.broker), home.shard)).or_default().push(item);
    }
    shards
}
