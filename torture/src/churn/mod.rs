//! `equeue-torture churn`: members of two groups that join, leave, are killed and are stopped for a while, and brokers that
//! restart, all at random; in the end [`mod@judge`] looks at what everybody wrote down.

mod cluster;
mod events;
mod judge;
mod load;
pub(crate) mod member;
mod members;
mod report;
mod stints;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};

use crate::say;
use cluster::Cluster;
use load::Load;
use members::Members;
use report::Outcome;
use watch::{Calm, Watch};

/// The groups: the first one handles in parallel and fails now and then, the second one keeps the order.
const GROUPS: [&str; 2] = ["churn-parallel", "churn-ordered"];
/// Index of the group that keeps the order.
const IN_ORDER: u8 = 1;
/// Attempts before a message becomes a dead letter.
const ATTEMPTS_MAX: u8 = 4;
/// Keys of messages.
const KEYS: u64 = 64;
/// How long everything may take to be handled once the faults are over.
const SETTLE_LIMIT: Duration = Duration::from_mins(2);

/// What a message's handler does, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Handled,
    /// It fails until this attempt.
    Retried(u8),
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

/// How long a message's handler takes, by its number: about one in a hundred is at work for some ms, so that queues are
/// handed over meanwhile. Of all keys: 97 shares nothing with their number.
const fn work_ms(number: u64) -> Option<u64> {
    if number % 97 == 27 { Some(1 + number / 97 % 20) } else { None }
}

/// The key of a message; each belongs to one producer, so that its order is known.
fn key_of(number: u64) -> u32 {
    u32::try_from(number % KEYS).unwrap_or(0)
}

fn topic_index(topics: &[String], topic: &str) -> Option<u32> {
    topics.iter().position(|known| known == topic).and_then(|index| u32::try_from(index).ok())
}

/// What happens to the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Faults {
    /// Members join, leave, are killed and are stopped for a while; brokers are killed and restarted in order.
    #[default]
    All,
    /// Members and brokers are killed.
    Kills,
    /// Members join and leave, brokers are restarted in order.
    Orderly,
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
    /// Shards of each broker
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) shards: u16,
    /// Ends production after so many messages; the faults go on until all of them were sent, if that takes longer
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) messages: Option<u64>,
    /// What happens to the processes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) faults: Faults,
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
    let calm = Calm::new();
    let mut cluster = Cluster::start(binary, directory.path(), args.shards, calm.clone()).await?;
    let client = cluster.client("churn").await?;
    for topic in &topics {
        for created in client.admin().create_topic(topic, u32::from(args.queues / 2)).await? {
            created.result.with_context(|| format!("topic {topic} on {}", created.broker))?;
        }
    }
    let mut members =
        Members::new(cluster.nameserver(), directory.path(), &topics, args.members, calm.clone());
    members.start_all()?;
    let (stop, stopped) = channel::channel(false);
    let watching = tokio::spawn(Watch::new(client.clone(), topics.clone(), calm).run(stopped.clone()));
    let mut load = Load::start(&client, &topics, args.rate, args.messages.unwrap_or(u64::MAX), &stopped);
    let mut random = SmallRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end || (args.messages.is_some() && !load.is_done()) {
        sleep(Duration::from_millis(random.random_range(300..2_000))).await;
        fault(args, &mut cluster, &mut members, &mut random).await?;
        members.tend()?;
    }
    say("faults are over; waiting until everything is handled");
    stop.send_replace(true);
    let sent = load.finish().await?;
    members.start_all()?;
    let begun = Instant::now();
    let settled = timeout(SETTLE_LIMIT, load::settle(&client, &topics)).await;
    let settle_time = begun.elapsed();
    let watched = watching.await.context("the watch ended")?;
    let dead = load::dead_letters(&client).await?;
    members.stop_all().await?;
    let mut findings = members.judge(sent.below)?.judge(&sent.acknowledged, &dead);
    if settled.is_err() {
        findings.note(|| format!("not everything was handled {SETTLE_LIMIT:?} after the last fault"));
    }
    for violation in &watched.violations {
        findings.note(|| violation.clone());
    }
    client.close().await;
    let outcome = Outcome {
        sent,
        findings,
        seen: watched,
        settle_time,
        restarts: cluster.restarts,
        faults: members.counts,
    };
    outcome.tell();
    let passed = outcome.findings.count == 0;
    if args.keep || !passed {
        directory.disable_cleanup(true);
        say(&format!("what everybody wrote down: {}", directory.path().display()));
    }
    Ok(passed)
}

/// Perhaps something happens.
async fn fault(
    args: &ChurnArgs,
    cluster: &mut Cluster,
    members: &mut Members,
    random: &mut SmallRng,
) -> anyhow::Result<()> {
    match (args.faults, random.random_range(0..20)) {
        (Faults::All, 0) => {
            let kills = random.random_bool(0.5);
            cluster.restart(random, kills).await
        }
        (Faults::Kills, 0..3) => cluster.restart(random, true).await,
        (Faults::Orderly, 0) => cluster.restart(random, false).await,
        (Faults::All, 1..6) | (Faults::Kills, 3..13) => members.kill(random),
        (Faults::All, 6..11) | (Faults::Orderly, 1..11) => members.leave(random).await,
        (Faults::All, 11..14) => members.pause(random, args.pause),
        _ => Ok(()),
    }
}
