//! The route cache: where each queue lives. Asked of one nameserver at random, every 5 s and at once when an answer
//! shows that the route is stale.
//!
//! Reading the routes takes no lock. Nameservers that do not answer never stop anything: the last routes stay in force.

mod snapshot;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use equeue_net::Code;
use equeue_net::api::{GetCluster, GetRoutes, GetRoutesAnswer, Request, TopicSnapshot};
use equeue_net::preamble::Purpose;
use rand::seq::SliceRandom as _;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

pub(crate) use snapshot::{QueuePlace, Snapshot, Topic};

use crate::ClientError;
use crate::connection::Endpoint;
use crate::pool::Pool;
use crate::retry::Backoff;

/// How often routes are asked for.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// How often a missing route is asked for before it counts as missing.
const ATTEMPTS_MAX: u32 = 5;
/// Longest pause between two of these attempts, and between rounds in which no nameserver answered.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Shortest pause between two rounds that were asked for, so that stale answers in numbers do not become a storm.
const ROUND_PAUSE: Duration = Duration::from_millis(20);

/// The routes of a client.
#[derive(Debug)]
pub(crate) struct Routes {
    cluster: String,
    nameservers: Vec<Arc<str>>,
    pool: Arc<Pool>,
    snapshot: ArcSwap<Snapshot>,
    /// Taken for changes of `snapshot`, never for reading it.
    wishes: Mutex<Wishes>,
    /// Rounds asked for so far.
    asked: AtomicU64,
    wake: Notify,
    rounds: watch::Sender<Rounds>,
}

#[derive(Debug, Default)]
struct Wishes {
    /// Topics in use.
    topics: BTreeSet<Arc<str>>,
    /// Topics that a broker refused since the last round.
    suspects: BTreeSet<Arc<str>>,
}

/// What came of the rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    /// Every wish up to this number has been asked.
    done: u64,
    /// Why the last round failed.
    failed: Option<ClientError>,
}

impl Routes {
    /// Nothing known yet.
    pub(crate) fn new(cluster: String, nameservers: Vec<Arc<str>>, pool: Arc<Pool>) -> Self {
        Self {
            cluster,
            nameservers,
            pool,
            snapshot: ArcSwap::default(),
            wishes: Mutex::default(),
            asked: AtomicU64::new(0),
            wake: Notify::new(),
            rounds: watch::Sender::default(),
        }
    }

    /// What is known now.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// What is known now, to keep.
    pub(crate) fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Resolves after each round.
    pub(crate) fn watch(&self) -> watch::Receiver<Rounds> {
        self.rounds.subscribe()
    }

    /// Keeps a topic's route from now on; whether that is new.
    pub(crate) fn want(&self, topic: &str) -> bool {
        let mut wishes = self.wishes();
        !wishes.topics.contains(topic) && wishes.topics.insert(topic.into())
    }

    /// Asks for a round soon, and does not wait for it.
    pub(crate) fn refresh(&self) -> u64 {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake.notify_one();
        ticket
    }

    /// A broker refused this topic's route: asks for a round, whose word on the topic counts more than what is known.
    pub(crate) fn suspect(&self, topic: &Arc<str>) {
        self.wishes().suspects.insert(Arc::clone(topic));
        self.refresh();
    }

    /// Takes in what a broker said of a topic that it created.
    pub(crate) fn learn(&self, broker: &str, topic: &TopicSnapshot) {
        let _changing = self.wishes();
        self.snapshot.store(Arc::new(self.snapshot.load().learn(broker, topic)));
    }

    /// The route of a topic, asked for up to five times.
    pub(crate) async fn resolve(&self, topic: &str) -> Result<Arc<Topic>, ClientError> {
        self.want(topic);
        let mut backoff = Backoff::new(PAUSE_MAX);
        let mut attempts = 0;
        loop {
            if let Some(known) = self.load().topics.get(topic) {
                return Ok(Arc::clone(known));
            }
            if attempts == ATTEMPTS_MAX {
                return Err(ClientError::TopicNotFound { topic: topic.into(), attempts });
            }
            if attempts > 0 {
                sleep(backoff.pause()).await;
            }
            attempts += 1;
            let round = self.round().await;
            if attempts == ATTEMPTS_MAX {
                round?;
            }
        }
    }

    /// One round, from now on; its outcome.
    pub(crate) async fn round(&self) -> Result<(), ClientError> {
        let ticket = self.refresh();
        let mut rounds = self.rounds.subscribe();
        match rounds.wait_for(|rounds| rounds.done >= ticket).await {
            Ok(rounds) => rounds.failed.clone().map_or(Ok(()), Err),
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// Refreshes the routes for ever.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let mut backoff = Backoff::new(PAUSE_MAX);
        let mut failing = false;
        loop {
            let ticket = self.asked.load(Ordering::SeqCst);
            let (topics, suspects) = {
                let mut wishes = self.wishes();
                (wishes.topics.clone(), std::mem::take(&mut wishes.suspects))
            };
            let outcome = self.ask_any(&topics).await;
            let failed = match outcome {
                Ok(answer) => {
                    let _changing = self.wishes();
                    self.snapshot.store(Arc::new(self.snapshot.load().merge(answer, &suspects)));
                    None
                }
                Err(error) => {
                    self.wishes().suspects.extend(suspects);
                    Some(error)
                }
            };
            if failing != failed.is_some() {
                failing = failed.is_some();
                if let Some(error) = &failed {
                    warn!(%error, "no nameserver answers; the last known routes stay in force");
                } else {
                    info!("a nameserver answers");
                }
            }
            self.rounds.send_replace(Rounds { done: ticket, failed });
            let pause = if failing {
                backoff.pause()
            } else {
                backoff.reset();
                REFRESH_EVERY
            };
            if self.asked.load(Ordering::SeqCst) == ticket {
                let _ = timeout(pause, self.wake.notified()).await;
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// The routes of `topics`, or only the brokers when there are none (no topics would mean all).
    async fn ask_any(&self, topics: &BTreeSet<Arc<str>>) -> Result<GetRoutesAnswer, ClientError> {
        let cluster = self.cluster.clone();
        if topics.is_empty() {
            let answer = self.call(&GetCluster { cluster }).await?;
            return Ok(GetRoutesAnswer {
                status: answer.status,
                brokers: answer.brokers,
                topics: Vec::new(),
                settling: false, // who asks for no topic is in no group
            });
        }
        let topics = topics.iter().map(|topic| String::from(&**topic)).collect();
        self.call(&GetRoutes { cluster, topics }).await
    }

    /// Asks the nameservers, in random order, until one answers.
    pub(crate) async fn call<R: Request>(&self, request: &R) -> Result<R::Answer, ClientError> {
        let mut order = self.nameservers.clone();
        order.shuffle(&mut rand::rng());
        let mut last = "no nameserver is configured".into();
        for address in &order {
            let endpoint = Endpoint { address: Arc::clone(address), shard: None, purpose: Purpose::Admin };
            let outcome = match self.pool.get_at_once(&endpoint).await {
                Ok(connection) => connection.call(request).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                // An answer, and the same from each of them.
                Err(error @ ClientError::Refused { code: Code::Invalid | Code::Forbidden, .. }) => {
                    return Err(error);
                }
                Err(error) => last = with_causes(&error),
            }
        }
        Err(ClientError::NoNameserver { asked: order.len(), last })
    }

    /// Name of the cluster asked for; empty: the only one.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    fn wishes(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.into()
}
