//! Keeps the queues being read in step with the routes: asks where a queue begins, gives it to the fetcher of its
//! shard, moves and ends queues.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use equeue_net::Code;
use equeue_net::api::{FetchOffsets, ListOffsets, OffsetAt};
use equeue_record::{Offset, QueueKey};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::assignment::{Wanted, changes, wanted};
use super::fetcher::Fetcher;
use super::options::StartAt;
use super::shared::{Reading, Shared, by_shard};
use super::track::Track;
use crate::ClientError;
use crate::routes::with_causes;

/// How soon queues are tried again whose broker did not tell where to begin.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Assigner {
    shared: Arc<Shared>,
    /// Queues that were in the routes when the consumer started: [`StartAt`] is for them, a queue that is added later
    /// is read from its first record.
    initial: HashSet<(Arc<str>, u32)>,
    /// The fetchers' tasks; they end with this.
    tasks: JoinSet<()>,
    failing: bool,
}

impl Assigner {
    /// Reads nothing yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let snapshot = shared.client.routes.load();
        let initial = shared
            .topics
            .iter()
            .filter_map(|topic| snapshot.topics.get(&topic.name))
            .flat_map(|route| route.queues.iter().map(|queue| (Arc::clone(&route.name), queue.ordinal)))
            .collect();
        drop(snapshot);
        Self { shared, initial, tasks: JoinSet::new(), failing: false }
    }

    /// Follows the routes for ever.
    pub(crate) async fn run(mut self) {
        let mut rounds = self.shared.client.routes.watch();
        // The first step may have been cut short.
        let mut complete = false;
        loop {
            let patience = if complete { Duration::from_mins(1) } else { RETRY_EVERY };
            let _ = timeout(patience, rounds.changed()).await;
            complete = self.step().await;
        }
    }

    /// Takes over the present routes; whether that is done for every queue.
    pub(crate) async fn step(&mut self) -> bool {
        let wanted = wanted(&self.shared.topics, &self.shared.client.routes.load());
        let changes = changes(wanted, &self.shared.reading().tracks);
        for track in &changes.end {
            info!(topic = %track.topic.name, queue = track.ordinal, "no longer reading");
            self.end(track);
        }
        for (track, home) in changes.moved {
            debug!(topic = %track.topic.name, queue = track.ordinal, broker = %home.broker, shard = home.shard, "moved");
            self.take_from_fetcher(&track);
            track.set_home(home);
            self.give_to_fetcher(&track);
        }
        let shards = by_shard(changes.begin, |wanted| Arc::new(wanted.home.clone()));
        let starts = shards.into_iter().map(|((broker, shard), queues)| self.starts(broker, shard, queues));
        let mut complete = true;
        for outcome in join_all(starts).await {
            match outcome {
                Ok(tracks) => tracks.into_iter().for_each(|track| self.begin(&Arc::new(track))),
                Err(error) => {
                    complete = false;
                    if !std::mem::replace(&mut self.failing, true) {
                        warn!(error = %with_causes(&error), "queues cannot be read yet; trying again");
                    }
                }
            }
        }
        self.failing &= !complete;
        complete
    }

    /// Asks a shard where the group begins in each of these queues.
    async fn starts(
        &self,
        broker: Arc<str>,
        shard: u16,
        queues: Vec<Wanted>,
    ) -> Result<Vec<Track>, ClientError> {
        let connection = self.shared.connect(&broker, shard).await?;
        let ask = FetchOffsets {
            group: self.shared.options.group.clone(),
            queues: queues.iter().map(|wanted| wanted.home.key).collect(),
        };
        let answer = connection.call(&ask).await?;
        let mut committed: HashMap<QueueKey, Option<Offset>> = HashMap::new();
        for outcome in answer.outcomes {
            match outcome.code {
                Code::Ok => drop(committed.insert(outcome.queue, outcome.committed)),
                code => self.stale(code, &queues, outcome.queue),
            }
        }
        let fresh: Vec<(QueueKey, OffsetAt)> = queues
            .iter()
            .filter(|wanted| committed.get(&wanted.home.key) == Some(&None))
            .map(|wanted| (wanted.home.key, self.start_of(wanted)))
            .collect();
        let mut first: HashMap<QueueKey, Offset> = HashMap::new();
        if !fresh.is_empty() {
            let answer = connection.call(&ListOffsets { items: fresh }).await?;
            for outcome in answer.outcomes {
                match outcome.code {
                    Code::Ok => drop(first.insert(outcome.queue, outcome.offset)),
                    code => self.stale(code, &queues, outcome.queue),
                }
            }
        }
        let tracks = queues.into_iter().filter_map(|wanted| {
            let committed = *committed.get(&wanted.home.key)?;
            let start = committed.or_else(|| first.get(&wanted.home.key).copied())?;
            let Wanted { topic, ordinal, home, cluster_check } = wanted;
            Some(Track::new(topic, ordinal, home, start, committed, cluster_check))
        });
        Ok(tracks.collect())
    }

    fn start_of(&self, wanted: &Wanted) -> OffsetAt {
        if !self.initial.contains(&(Arc::clone(&wanted.topic.name), wanted.ordinal)) {
            return OffsetAt::First;
        }
        match self.shared.options.start {
            StartAt::First => OffsetAt::First,
            StartAt::Last => OffsetAt::Last,
            StartAt::Time(ms) => OffsetAt::Time(ms),
        }
    }

    /// The broker refused a queue: the route of its topic is asked for again.
    fn stale(&self, code: Code, queues: &[Wanted], key: QueueKey) {
        if let Some(wanted) = queues.iter().find(|wanted| wanted.home.key == key) {
            debug!(topic = %wanted.topic.name, queue = wanted.ordinal, %code, "cannot begin");
            self.shared.client.routes.suspect(&wanted.topic.name);
        }
    }

    fn begin(&mut self, track: &Arc<Track>) {
        debug!(topic = %track.topic.name, queue = track.ordinal, from = %track.fetched(), "reading");
        let key = (Arc::clone(&track.topic.name), track.ordinal);
        self.shared.reading().tracks.insert(key, Arc::clone(track));
        self.give_to_fetcher(track);
    }

    fn end(&mut self, track: &Arc<Track>) {
        self.take_from_fetcher(track);
        let key = (Arc::clone(&track.topic.name), track.ordinal);
        self.shared.reading().tracks.remove(&key);
    }

    fn give_to_fetcher(&mut self, track: &Arc<Track>) {
        let home = track.home();
        let mut reading = self.shared.reading();
        let Reading { fetchers, .. } = &mut *reading;
        let fetcher = fetchers.entry((Arc::clone(&home.broker), home.shard)).or_insert_with(|| {
            let fetcher = Arc::new(Fetcher::new(Arc::clone(&home.broker), home.shard));
            self.tasks.spawn(Arc::clone(&fetcher).run(Arc::clone(&self.shared)));
            fetcher
        });
        fetcher.change(|tracks| tracks.push(Arc::clone(track)));
    }

    fn take_from_fetcher(&self, track: &Arc<Track>) {
        let home = track.home();
        let reading = self.shared.reading();
        if let Some(fetcher) = reading.fetchers.get(&(Arc::clone(&home.broker), home.shard)) {
            fetcher.change(|tracks| tracks.retain(|other| !Arc::ptr_eq(other, track)));
        }
    }
}
