//! `equeue-torture churn`: members of two groups that join, leave, are killed and are stopped for a while, and brokers that
//! restart, all at random; in the end [`mod@judge`] looks at what everybody wrote down.

mod cluster;
mod events;
mod judge;
pub(crate) mod member;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use equeue_client::{Client, Codec, ConsumerOptions, Message, ProducerOptions, StartAt, Subscription};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::say;
use cluster::{Cluster, Members};
use judge::{Findings, judge};
use watch::Watch;

/// The groups: the first one handles in parallel and fails now and then, the second one keeps the order.
const GROUPS: [&str; 2] = ["churn-parallel", "churn-ordered"];
/// Index of the group that keeps the order.
const IN_ORDER: u8 = 1;
/// Attempts before a message becomes a dead letter.
const ATTEMPTS_MAX: u32 = 4;
/// Keys of messages.
const KEYS: u64 = 64;
/// How long everything may take to be handled once the faults are over.
const SETTLE_LIMIT: Duration = Duration::from_mins(2);

/// What a message's handler does, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Handled,
    /// It fails until this attempt.
    Retried(u32),
    Dead,
}

/// One message in a hundred fails, and one of five of those for good.
const fn fate(number: u64) -> Fate {
    match number % 500 {
        13 | 113 | 213 | 313 => Fate::Retried(3),
        413 => Fate::Dead,
        _ => Fate::Handled,
    }
}

/// The key of a message; each belongs to one producer, so that its order is known.
fn key_of(number: u64) -> u32 {
    u32::try_from(number % KEYS).unwrap_or(0)
}

fn topic_index(topics: &[String], topic: &str) -> Option<u32> {
    topics.iter().position(|known| known == topic).and_then(|index| u32::try_from(index).ok())
}

/// Options of `churn`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChurnArgs {
    /// How long faults go on
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(crate) seconds: u64,
    /// Messages a second, all producers together
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) rate: u32,
    /// Members of each group
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) members: u16,
    /// Number of topics
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) topics: u16,
    /// Queues of each topic, half of them on each broker
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) queues: u16,
    /// Longest time for which a member is stopped, s
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) pause: u64,
    /// Start of all random numbers [default: drawn, and printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The program under test
    #[arg(long, value_name = "PATH", default_value = "target/release/equeue")]
    pub(crate) equeue: PathBuf,
    /// Keep the directory of the run, even when nothing is wrong
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Runs it; whether every promise was kept.
pub(crate) async fn run(args: &ChurnArgs) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(rand::random);
    say(&format!("seed {seed}"));
    let mut directory = tempfile::Builder::new().prefix("equeue-churn-").tempdir().context("no directory")?;
    let topics: Vec<String> = (0..args.topics).map(|topic| format!("churn-{topic}")).collect();
    let binary = std::path::absolute(&args.equeue).context("the path of the program under test")?;
    let mut cluster = Cluster::start(binary, directory.path()).await?;
    let client = cluster.client("churn").await?;
    for topic in &topics {
        for created in client.admin().create_topic(topic, u32::from(args.queues / 2)).await? {
            created.result.with_context(|| format!("topic {topic} on {}", created.broker))?;
        }
    }
    let mut members = Members::new(cluster.nameserver(), directory.path(), &topics, args.members);
    members.start_all()?;
    let (stop, stopped) = channel::channel(false);
    let watching = tokio::spawn(Watch::new(client.clone(), topics.clone()).run(stopped.clone()));
    let load = Load::start(&client, &topics, args.rate, &stopped);
    let mut random = SmallRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(300..2_000))).await;
        match random.random_range(0..20) {
            0 => cluster.restart(&mut random).await?,
            1..6 => members.kill(&mut random)?,
            6..11 => members.leave(&mut random).await?,
            11..14 => members.pause(&mut random, args.pause)?,
            _ => {}
        }
        members.tend(&mut random)?;
    }
    say("faults are over; waiting until everything is handled");
    stop.send_replace(true);
    let acknowledged = load.finish().await?;
    members.start_all()?;
    let settled = timeout(SETTLE_LIMIT, settle(&client, &topics)).await;
    let watched = watching.await.context("the watch ended")?;
    let dead = dead_letters(&client).await?;
    members.stop_all().await?;
    let mut findings = judge(&members.lives()?, &acknowledged, &dead);
    if settled.is_err() {
        findings.note(|| format!("not everything was handled {SETTLE_LIMIT:?} after the last fault"));
    }
    for violation in watched {
        findings.note(|| violation);
    }
    client.close().await;
    report(&findings, acknowledged.len(), dead.len(), &members.counts, cluster.restarts);
    let passed = findings.count == 0;
    if args.keep || !passed {
        directory.disable_cleanup(true);
        say(&format!("what everybody wrote down: {}", directory.path().display()));
    }
    Ok(passed)
}

fn report(
    findings: &Findings,
    acknowledged: usize,
    dead: usize,
    faults: &BTreeMap<&str, u32>,
    restarts: u32,
) {
    say(&format!("messages: {acknowledged} acknowledged, {dead} dead letters"));
    say(&format!("handled: {:?}; more than once: {:?}", findings.handled, findings.repeated));
    say(&format!("faults of members: {faults:?}; restarts of brokers: {restarts}"));
    say(&format!("violations: {}; excused by a stopped process: {}", findings.count, findings.excused));
    for violation in &findings.violations {
        say(&format!("  {violation}"));
    }
}

/// The producers.
struct Load {
    tasks: JoinSet<()>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
}

/// Number of producers.
const PRODUCERS: u64 = 4;

impl Load {
    fn start(client: &Client, topics: &[String], rate: u32, stop: &channel::Receiver<bool>) -> Self {
        let acknowledged: Arc<Mutex<Vec<u64>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for index in 0..PRODUCERS {
            let (client, topics, stop) = (client.clone(), topics.to_vec(), stop.clone());
            tasks.spawn(produce(client, topics, index, rate, stop, Arc::clone(&acknowledged)));
        }
        Self { tasks, acknowledged }
    }

    async fn finish(mut self) -> anyhow::Result<Vec<u64>> {
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        timeout(SETTLE_LIMIT, ending).await.context("the producers do not settle")?;
        Ok(std::mem::take(&mut *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Sends numbers whose keys are this producer's own, ten times a second.
async fn produce(
    client: Client,
    topics: Vec<String>,
    index: u64,
    rate: u32,
    stop: channel::Receiver<bool>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
) {
    let on_delivery = move |number: u64, result: Result<equeue_client::Receipt, equeue_client::SendError>| {
        if result.is_ok() {
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }
    };
    let producer = client.producer(ProducerOptions {
        codec: Codec::None,
        send_timeout: Duration::from_mins(1),
        on_delivery: Some(Arc::new(on_delivery)),
        ..ProducerOptions::default()
    });
    let each = u64::from(rate) / PRODUCERS / 10;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut number = index;
    while !*stop.borrow() {
        tick.tick().await;
        for _ in 0..each.max(1) {
            let (key, body) = (key_of(number).to_le_bytes(), number.to_le_bytes());
            // Messages of a key stay in one topic: their order is that of one queue.
            let topic =
                topics.get(usize::try_from(u64::from(key_of(number)) % topics.len() as u64).unwrap_or(0));
            if let Some(topic) = topic {
                let _ = producer.enqueue_with(&Message::new(topic, &body).key(&key), number).await;
            }
            number += PRODUCERS;
        }
    }
    producer.flush().await;
    producer.close().await;
}

/// Waits until both groups have nothing left, their retry queues included.
async fn settle(client: &Client, topics: &[String]) {
    let mut quiet = 0;
    while quiet < 4 {
        sleep(Duration::from_millis(500)).await;
        quiet = if lag(client, topics).await == Some(0) { quiet + 1 } else { 0 };
    }
}

/// Messages not committed by a group; `None`: not every broker tells.
async fn lag(client: &Client, topics: &[String]) -> Option<u64> {
    let mut lag = 0;
    for group in GROUPS {
        for answer in client.admin().describe_group(group).await.ok()? {
            let answer = answer.result.ok()?;
            let retry = equeue_net::hidden::retry_topic(group);
            for queue in answer.queues {
                let topic = answer.topics.get(usize::from(queue.topic))?;
                if *topic == retry || topics.contains(topic) {
                    lag += queue.high_watermark.0 - queue.committed.map_or(0, |committed| committed.0);
                }
            }
        }
    }
    Some(lag)
}

/// Numbers of the dead letters, and how often each was handed back.
async fn dead_letters(client: &Client) -> anyhow::Result<BTreeMap<u64, Vec<u32>>> {
    let topic = equeue_net::hidden::dead_letter_topic(GROUPS[0]);
    let mut dead: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let options = ConsumerOptions {
        group: "churn-undertaker".to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        ..ConsumerOptions::default()
    };
    // Without a dead letter there is no such topic.
    let Ok(mut consumer) = client.consumer(options).await else { return Ok(dead) };
    loop {
        let letters = consumer.pull(1000, Duration::from_secs(3)).await.context("reading dead letters")?;
        if letters.is_empty() {
            break;
        }
        for letter in letters {
            let number =
                letter.body.as_deref().and_then(|body| Some(u64::from_le_bytes(*body.first_chunk()?)));
            let number = number.context("a dead letter that was not sent")?;
            dead.entry(number).or_default().push(letter.attempt() - 1);
        }
    }
    let _ = consumer.close().await;
    Ok(dead)
}
