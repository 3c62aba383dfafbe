//! One data directory with its servers, clients and evidence.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use equeue_client::Client;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::diskfull::FILLS;
use super::fault::AtCut;
use super::{Mode, Plan};
use crate::child::Usage;
use crate::cli::{ServersArg, variable};
use crate::disk::{Cut, Fs, Mount, PowerImage, make_image};
use crate::journal::Journal;
use crate::load::{GROUPS, Load, Shape, Shared, reader};
use crate::oracle::Evidence;
use crate::oracle::violation::Class;
use crate::report::Report;
use crate::servers::{self, Servers, Topology};

/// Sends and pulls work again so long after the broker is ready, at the latest (C9).
const HEALING_LIMIT: Duration = Duration::from_secs(10);
/// How long the first start may take to be known to all.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// How long the groups that read along may take to the ends once nothing is sent.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);
/// When nothing was heard for so long, nothing more of a broker that is gone is to come.
const SILENCE: Duration = Duration::from_millis(100);
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// How often a waiting caller looks.
const GLANCE: Duration = Duration::from_millis(5);
/// Files that keep space on a small disk, to be deleted one after the other.
const BALLAST: &str = "ballast";

/// Where the data lie.
pub(super) enum Site {
    /// In a directory.
    Plain,
    /// On a disk whose power can be cut.
    Power(PowerImage),
    /// On a small disk.
    Small(Mount),
}

/// A data directory in use. Fields are dropped in this order: clients, processes, disk.
pub(super) struct Life {
    load: Option<Load>,
    client: Client,
    /// The processes.
    pub(super) servers: Servers,
    /// Where the data lie.
    pub(super) site: Site,
    /// What is written down.
    pub(super) shared: Arc<Shared>,
    readings: u32,
    /// Where the image of the last cut is kept, if it is.
    keep_cuts: Option<PathBuf>,
}

impl Life {
    /// Makes the disk, starts the servers and the load.
    pub(super) async fn begin(plan: &Plan, directory: &Path, number: u32, seed: u64) -> anyhow::Result<Self> {
        let mut random = SmallRng::seed_from_u64(seed);
        let (site, data) = make_site(plan, directory)?;
        let shape = shape(plan);
        let settings = settings(plan, &mut random);
        let mut journal = Journal::create(&directory.join("journal.txt"))?;
        journal.remark(&format!("life {number}, seed {}, {settings:?}", plan.seed));
        let servers = Servers::start(servers::Plan {
            binary: plan.run.equeue.clone(),
            topology: topology(plan.run.servers, number),
            data,
            logs: directory.to_owned(),
            settings,
        })
        .await?;
        let client = Client::builder()
            .nameservers([servers.nameserver_address().to_string()])
            .client_id("torture")
            .connect_timeout(Duration::from_secs(1))
            .connect()
            .await
            .context("cannot make a client")?;
        create_topics(&client, &shape).await?;
        let evidence = Evidence::new(random.random(), shape.queue_count(), shape.producers, &GROUPS);
        let shared = Arc::new(Shared::new(evidence, journal, shape));
        let load = Load::start(&client, &shared, random.random());
        let keep_cuts = plan.run.keep.then(|| directory.join("last-cut.img"));
        let life = Self { load: Some(load), client, servers, site, shared, readings: 0, keep_cuts };
        life.works_again().await.context("in a new data directory")?;
        Ok(life)
    }

    /// A round begins.
    pub(super) fn enter_round(&self, round: u32) {
        self.shared.records().evidence.findings().enter(round);
        self.remark(&format!("round {round}"));
    }

    /// Something for the journal.
    pub(super) fn remark(&self, text: &str) {
        self.shared.records().journal.remark(text);
    }

    /// Violations in this life.
    pub(super) fn violations(&self) -> u64 {
        self.shared.records().evidence.findings().total()
    }

    /// Messages acknowledged in this life.
    pub(super) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged()
    }

    /// Before anything is done to it the broker must be well (C10).
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        let Some(broker) = self.servers.broker() else { return Ok(()) };
        let (ended, alarms) = (broker.ended()?, broker.alarms());
        let log = broker.log_end();
        self.note_alarms(&alarms);
        if let Some(status) = ended {
            self.shared.violation(Class::Crash, || format!("the broker ended by itself: {status}\n{log}"));
        }
        Ok(())
    }

    /// What the broker holds now.
    pub(super) fn usage(&mut self) -> Usage {
        self.servers.broker().and_then(|broker| broker.usage()).unwrap_or_default()
    }

    /// Panics are violations (C10).
    pub(super) fn note_alarms(&self, alarms: &[String]) {
        for alarm in alarms {
            self.shared.violation(Class::Crash, || format!("the broker's log says: {alarm}"));
        }
    }

    /// Waits until a message is acknowledged and one is read; how long the first took (C9).
    pub(super) async fn works_again(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let (acknowledged, pulled) = (self.shared.acknowledged(), self.shared.pulled());
        let mut first_ack = None;
        while began.elapsed() < HEALING_LIMIT {
            if self.shared.acknowledged() > acknowledged {
                let took = *first_ack.get_or_insert_with(|| began.elapsed());
                if self.shared.pulled() > pulled {
                    return Ok(took);
                }
            }
            tokio::time::sleep(GLANCE).await;
        }
        let missing = if first_ack.is_some() { "read" } else { "acknowledged" };
        self.shared.violation(Class::Stuck, || {
            format!("no message is {missing} within {HEALING_LIMIT:?} of the broker's being ready")
        });
        anyhow::bail!("no message is {missing} within {HEALING_LIMIT:?}")
    }

    /// A new group joins, reads everything and commits (C9).
    pub(super) async fn join_and_commit(&self, group: &str) -> anyhow::Result<()> {
        reader::join_and_commit(&self.client, &self.shared, group).await
    }

    /// Committed offsets must be what the groups were told (C7).
    pub(super) async fn check_commits(&self) -> anyhow::Result<()> {
        reader::check_commits(&self.client, &self.shared).await
    }

    /// Holds the producers, reads everything from its start, compares, and lets them go on.
    pub(super) async fn verify(&mut self, report: &mut Report) -> anyhow::Result<()> {
        self.readings += 1;
        let group = format!("fresh-{}", self.readings);
        let load = self.load.as_mut().context("the load has been stopped")?;
        load.pause().await?;
        self.remark(&format!("reading {}", self.readings));
        let read = reader::read_all(&self.client, &self.shared, &group).await?;
        report.verified(read);
        self.catch_up().await?;
        self.check_commits().await?;
        if let Some(load) = &self.load {
            load.resume();
        }
        Ok(())
    }

    /// The groups that read along must come to the ends when nothing is sent (C6, C9).
    pub(super) async fn catch_up(&self) -> anyhow::Result<()> {
        let ends = reader::ends(&self.client, &self.shared).await?;
        let began = Instant::now();
        loop {
            let behind = self.behind(&ends);
            if behind.is_empty() {
                return Ok(());
            }
            if began.elapsed() > CATCH_UP_LIMIT {
                self.shared.violation(Class::Stuck, || {
                    format!("within {CATCH_UP_LIMIT:?} not read to the end: {}", behind.join(", "))
                });
                anyhow::bail!("the groups that read along do not come to the ends");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn behind(&self, ends: &[u64]) -> Vec<String> {
        let records = self.shared.records();
        let mut behind = Vec::new();
        for group in records.evidence.groups() {
            for (queue, (pulled, end)) in group.pulled_to().iter().zip(ends).enumerate() {
                if pulled < end {
                    behind.push(format!("group {} queue #{queue} at {pulled} of {end}", group.name()));
                }
            }
        }
        behind
    }

    /// Cuts the power of the disk, ends the broker with it, and gives the disk its power back.
    pub(super) async fn cut_power(&mut self, cut: Cut, process: AtCut) -> anyhow::Result<()> {
        let Site::Power(image) = &mut self.site else {
            anyhow::bail!("there is no disk whose power can be cut");
        };
        match process {
            AtCut::Stopped => {
                self.servers.freeze_broker()?;
                image.cut(cut)?;
            }
            AtCut::Running(afterlife) => {
                self.shared.records().evidence.go_dark();
                image.cut(cut)?;
                tokio::time::sleep(afterlife).await;
            }
        }
        // What it says about a disk that is gone is its own affair.
        self.servers.kill_broker()?;
        image.detach(cut)?;
        image.heal(self.keep_cuts.as_deref())?;
        if process != AtCut::Stopped {
            self.silence().await?;
            self.shared.records().evidence.go_light();
        }
        self.remark("the power is back");
        Ok(())
    }

    /// Waits until all that the last broker said has been heard.
    async fn silence(&self) -> anyhow::Result<()> {
        let (began, mut heard) = (Instant::now(), (0, 0));
        loop {
            tokio::time::sleep(SILENCE).await;
            let now = (self.shared.acknowledged(), self.shared.pulled());
            if now == heard {
                return Ok(());
            }
            anyhow::ensure!(
                began.elapsed() < SILENCE_LIMIT,
                "clients hear of a broker that is gone for {SILENCE_LIMIT:?}"
            );
            heard = now;
        }
    }

    /// Gives space back on a small disk.
    pub(super) fn drop_ballast(&self, piece: u64) -> anyhow::Result<()> {
        let Site::Small(mount) = &self.site else { anyhow::bail!("there is no ballast here") };
        std::fs::remove_file(mount.directory().join(format!("{BALLAST}-{piece}")))
            .context("cannot remove the ballast")
    }

    /// Ends everything and hands what was found to the report. `failed`: the broker may be in any state.
    pub(super) async fn end(mut self, failed: bool, report: &mut Report) {
        match self.load.take() {
            Some(load) if failed => load.abort().await,
            Some(load) => load.stop().await,
            None => {}
        }
        self.client.close().await;
        let stopped =
            if failed { self.servers.kill_broker().map(|_| None) } else { self.servers.stop_broker().await };
        match stopped {
            Ok(None) => {}
            Ok(Some(reason)) => self.shared.violation(Class::Crash, || reason),
            Err(error) => self.shared.violation(Class::Crash, || format!("{error:#}")),
        }
        report.absorb(&mut self.shared.records().evidence);
    }
}

/// The place for the data of a life, and the data directory in it.
fn make_site(plan: &Plan, directory: &Path) -> anyhow::Result<(Site, PathBuf)> {
    Ok(match &plan.mode {
        Mode::Kill | Mode::Stop => (Site::Plain, directory.join("data")),
        Mode::PowerCut(arguments) => {
            let image = PowerImage::create(directory, arguments.fs, arguments.size << 20)?;
            let data = image.directory().join("data");
            (Site::Power(image), data)
        }
        Mode::DiskFull(arguments) => {
            let image = directory.join("small.img");
            make_image(&image, Fs::Ext4, arguments.size << 20)?;
            let mount = Mount::of(&image, &directory.join("disk"))?;
            let piece = (arguments.size << 20) / 2 / FILLS;
            let ballast = vec![0x5a; usize::try_from(piece).context("the size")?];
            for piece in 0..FILLS {
                std::fs::write(mount.directory().join(format!("{BALLAST}-{piece}")), &ballast)
                    .context("cannot write the ballast")?;
            }
            let data = mount.directory().join("data");
            (Site::Small(mount), data)
        }
    })
}

fn topology(servers: ServersArg, life: u32) -> Topology {
    match servers {
        ServersArg::Standalone => Topology::Standalone,
        ServersArg::Alternate if life.is_multiple_of(2) => Topology::Standalone,
        ServersArg::Alternate | ServersArg::Split => Topology::Split,
    }
}

fn shape(plan: &Plan) -> Shape {
    let timeouts: &[u64] = match plan.mode {
        // Impatient: what a full disk refuses is to be given up soon.
        Mode::DiskFull(_) => &[2],
        // Some give up while the broker is away, others wait for it and send again.
        _ => &[30_000, 700, 30_000, 5000],
    };
    let unit = if matches!(plan.mode, Mode::DiskFull(_)) { 1000 } else { 1 };
    Shape {
        topics: (1..=plan.run.topics).map(|number| format!("torture-{number}")).collect(),
        queues: plan.run.queues,
        producers: plan.run.producers,
        rate: plan.run.rate,
        send_timeouts: timeouts.iter().map(|timeout| Duration::from_millis(timeout * unit)).collect(),
    }
}

/// Settings of a life's broker: small segments and caches half of the time, so that rolls, snapshots and reads from
/// disk happen within seconds.
fn settings(plan: &Plan, random: &mut SmallRng) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &str| settings.push((variable(key), value.to_owned()));
    let bytes = match &plan.mode {
        Mode::DiskFull(_) => Some(("1MiB", "2MiB", "2MiB")),
        // A crash uses up what is prepared: large segments would fill the image within a few rounds.
        Mode::PowerCut(_) if random.random_bool(0.5) => Some(("1MiB", "2MiB", "2MiB")),
        Mode::PowerCut(_) => Some(("2MiB", "4MiB", "3MiB")),
        // A roll every second or so: kills hit it as well.
        _ if random.random_bool(0.33) => Some(("1MiB", "2MiB", "2MiB")),
        _ => random.random_bool(0.5).then_some(("2MiB", "4MiB", "3MiB")),
    };
    if let Some((first, max, snapshot)) = bytes {
        set("storage.segment_bytes_first", first);
        set("storage.segment_bytes_max", max);
        set("storage.snapshot_bytes", snapshot);
    }
    set("memory.limit", if random.random_bool(0.5) { "96MiB" } else { "256MiB" });
    set("shards", if random.random_bool(0.5) { "1" } else { "2" });
    set("logs", if random.random_bool(0.5) { "2" } else { "3" });
    if let Mode::PowerCut(arguments) = &plan.mode
        && let Some(hazard) = arguments.hazard
    {
        set(hazard.key(), "true");
    }
    settings.extend(plan.run.settings.iter().cloned());
    settings
}

async fn create_topics(client: &Client, shape: &Shape) -> anyhow::Result<()> {
    let began = Instant::now();
    for topic in &shape.topics {
        loop {
            let created = client.admin().create_topic(topic, shape.queues.into()).await;
            let reason = match created {
                Ok(results) if results.is_empty() => "no broker is known yet".to_owned(),
                Ok(results) => match results.into_iter().find_map(|result| result.result.err()) {
                    None => break,
                    Some(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            anyhow::ensure!(began.elapsed() < BEGIN_LIMIT, "cannot create topic {topic}: {reason}");
            tokio::time::sleep(GLANCE).await;
        }
    }
    Ok(())
}
