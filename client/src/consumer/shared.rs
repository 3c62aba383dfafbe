//! What the handle and the background tasks of a consumer share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use equeue_net::preamble::Purpose;
use equeue_record::Offset;
use tokio::sync::{Notify, mpsc};

use super::fetcher::Fetcher;
use super::options::ConsumerOptions;
use super::received::ReceivedBatch;
use super::track::{Home, TopicFilter, Track};
use crate::ClientError;
use crate::client::ClientInner;
use crate::connection::{Connection, Endpoint};
use crate::pool::Pool;

/// What a fetcher hands to the application's side, in the order of each queue.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Messages.
    Batch(ReceivedBatch),
    /// There is nothing wanted before this offset.
    Skipped(Arc<Track>, Offset),
    /// The queue ends before what was read of it: it goes on here.
    Rewound(Arc<Track>, Offset),
    /// Something the application should know; fetching goes on.
    Trouble(ClientError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The client.
    pub client: Arc<ClientInner>,
    /// The consumer's own connections.
    pub pool: Arc<Pool>,
    /// The settings.
    pub options: ConsumerOptions,
    /// The topics.
    pub topics: Vec<Arc<TopicFilter>>,
    /// Where the fetchers put what they fetched; bounded by `buffered`.
    pub fetched: mpsc::UnboundedSender<Fetched>,
    /// Commits are made one at a time.
    pub committing: tokio::sync::Mutex<()>,
    /// Messages that were gone before they could be fetched.
    pub lost: AtomicU64,
    buffered: AtomicUsize,
    room: Notify,
    reading: Mutex<Reading>,
}

/// The queues being read; which they are is the assigner's work.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// By topic and ordinal.
    pub tracks: HashMap<(Arc<str>, u32), Arc<Track>>,
    /// By broker and shard.
    pub fetchers: HashMap<(Arc<str>, u16), Arc<Fetcher>>,
}

impl Shared {
    /// Reads nothing yet.
    pub(crate) fn new(
        client: Arc<ClientInner>,
        options: ConsumerOptions,
        fetched: mpsc::UnboundedSender<Fetched>,
    ) -> Self {
        let filter =
            |topic: &super::Subscription| Arc::new(TopicFilter::new(&topic.topic, topic.tags.clone()));
        let topics = options.topics.iter().map(filter).collect();
        let pool = Arc::new(client.pool.another());
        pool.present(|heartbeat| {
            heartbeat.group.clone_from(&options.group);
            heartbeat.consuming = options.topics.iter().map(|topic| topic.topic.clone()).collect();
        });
        Self {
            client,
            pool,
            topics,
            fetched,
            committing: tokio::sync::Mutex::default(),
            lost: AtomicU64::new(0),
            buffered: AtomicUsize::new(0),
            room: Notify::new(),
            reading: Mutex::default(),
            options,
        }
    }

    /// The queues being read.
    pub(crate) fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All tracks, by topic and ordinal.
    pub(crate) fn tracks(&self) -> Vec<Arc<Track>> {
        let mut tracks: Vec<Arc<Track>> = self.reading().tracks.values().cloned().collect();
        tracks.sort_by(|a, b| (&a.topic.name, a.ordinal).cmp(&(&b.topic.name, b.ordinal)));
        tracks
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

    /// Hands something to the application's side.
    pub(crate) fn hand(&self, fetched: Fetched) {
        if let Fetched::Batch(batch) = &fetched {
            self.buffered.fetch_add(batch.len_bytes(), Ordering::AcqRel);
        }
        // Without a receiver the consumer is gone, and its tasks are about to end.
        let _ = self.fetched.send(fetched);
    }

    /// The application's side took a batch.
    pub(crate) fn taken(&self, bytes: usize) {
        let before = self.buffered.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.options.prefetch_bytes {
            self.room.notify_waiters();
        }
    }

    /// Whether more may be fetched when so many bytes are about to be handed on.
    pub(crate) fn has_room_beside(&self, coming: usize) -> bool {
        self.buffered.load(Ordering::Acquire) + coming < self.options.prefetch_bytes
    }

    /// Waits until more may be fetched; tells how much.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let room = self.room.notified();
            let buffered = self.buffered.load(Ordering::Acquire);
            if buffered < self.options.prefetch_bytes {
                return self.options.fetch_bytes_max.min(self.options.prefetch_bytes - buffered);
            }
            room.await;
        }
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
