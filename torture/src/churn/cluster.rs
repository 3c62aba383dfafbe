//! The processes: a nameserver, two brokers, and the members.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use equeue_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::process::{Child as Process, Command};
use tokio::time::{Instant, sleep, timeout};

use super::events::{self, now_us};
use super::judge::Life;
use crate::child::{Child, Spec};

/// How long a start may take.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// Nameserver and brokers.
pub(super) struct Cluster {
    binary: PathBuf,
    directory: PathBuf,
    nameserver: SocketAddr,
    _nameserver: Child,
    brokers: Vec<(Option<Child>, SocketAddr)>,
    pub(super) restarts: u32,
}

impl Cluster {
    pub(super) async fn start(binary: PathBuf, directory: &Path) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let spec = spec(&binary, directory, "nameserver", &["nameserver", "--listen", &any.to_string()]);
        let mut nameserver = Child::spawn(&spec)?;
        let (addresses, _) = nameserver.ready(READY_LIMIT).await.context("the nameserver did not start")?;
        let address = addresses.nameserver.context("the nameserver tells no address")?;
        let mut cluster = Self {
            binary,
            directory: directory.to_owned(),
            nameserver: address,
            _nameserver: nameserver,
            brokers: vec![(None, any), (None, any)],
            restarts: 0,
        };
        for index in 0..2 {
            cluster.start_broker(index).await?;
        }
        Ok(cluster)
    }

    pub(super) fn nameserver(&self) -> SocketAddr {
        self.nameserver
    }

    /// A client, once both brokers are known.
    pub(super) async fn client(&self, name: &str) -> anyhow::Result<Client> {
        let client =
            Client::builder().nameservers([self.nameserver.to_string()]).client_id(name).connect().await?;
        let known = async {
            while client.admin().cluster().await.map_or(true, |brokers| brokers.len() < 2) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(READY_LIMIT, known).await.context("the brokers do not register")?;
        Ok(client)
    }

    /// Restarts one of the brokers, killed or stopped in order.
    pub(super) async fn restart(&mut self, random: &mut SmallRng) -> anyhow::Result<()> {
        let index = random.random_range(0..2);
        let (broker, _) = self.brokers.get_mut(index).context("there are two brokers")?;
        if let Some(mut child) = broker.take() {
            if random.random_bool(0.5) {
                child.kill()?;
            } else {
                child.terminate(STOP_LIMIT).await?;
            }
        }
        sleep(Duration::from_millis(random.random_range(0..1500))).await;
        self.restarts += 1;
        self.start_broker(index).await
    }

    async fn start_broker(&mut self, index: usize) -> anyhow::Result<()> {
        let (slot, address) = self.brokers.get_mut(index).context("there are two brokers")?;
        let name = format!("broker-{index}");
        let (listen, nameserver) = (address.to_string(), self.nameserver.to_string());
        let data = self.directory.join(&name);
        let mut spec = spec(
            &self.binary,
            &self.directory,
            &name,
            &["broker", "--nameserver", &nameserver, "--listen", &listen, "--http-listen", "off"],
        );
        spec.arguments.extend([OsString::from("--data"), data.into()]);
        spec.environment = [("name", name.as_str()), ("shards", "1"), ("memory.limit", "256MiB")]
            .map(|(key, value)| (crate::cli::variable(key), value.to_owned()))
            .to_vec();
        let mut child = Child::spawn(&spec)?;
        let (addresses, _) = child.ready(READY_LIMIT).await.context("a broker did not start")?;
        *address = addresses.broker.unwrap_or(*address);
        *slot = Some(child);
        Ok(())
    }
}

fn spec(binary: &Path, directory: &Path, name: &str, arguments: &[&str]) -> Spec {
    Spec {
        binary: binary.to_owned(),
        arguments: ["--output", "json"].iter().chain(arguments).map(OsString::from).collect(),
        environment: Vec::new(),
        log: directory.join(format!("{name}.log")),
    }
}

/// A member's place: one process after the other lives in it.
struct Seat {
    process: Option<(Process, usize)>,
    /// When it is started again, or continued.
    due: Option<Instant>,
    paused: bool,
}

/// The members, each with two consumers.
pub(super) struct Members {
    nameserver: SocketAddr,
    directory: PathBuf,
    topics: Vec<String>,
    seats: Vec<Seat>,
    /// Diary and pauses of every process so far.
    diaries: Vec<(PathBuf, Vec<i64>)>,
    /// What was done to them.
    pub(super) counts: BTreeMap<&'static str, u32>,
}

impl Members {
    pub(super) fn new(nameserver: SocketAddr, directory: &Path, topics: &[String], count: u16) -> Self {
        let seats = (0..count).map(|_| Seat { process: None, due: None, paused: false }).collect();
        let (directory, topics) = (directory.to_owned(), topics.to_vec());
        Self { nameserver, directory, topics, seats, diaries: Vec::new(), counts: BTreeMap::new() }
    }

    /// Continues and starts whoever is not there.
    pub(super) fn start_all(&mut self) -> anyhow::Result<()> {
        for seat in 0..self.seats.len() {
            self.revive(seat)?;
        }
        Ok(())
    }

    /// Continues and starts those whose time has come.
    pub(super) fn tend(&mut self, _random: &mut SmallRng) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<usize> = (0..)
            .zip(&self.seats)
            .filter(|(_, seat)| seat.due.is_some_and(|due| due <= now))
            .map(|(seat, _)| seat)
            .collect();
        due.into_iter().try_for_each(|seat| self.revive(seat))
    }

    /// kill -9.
    pub(super) fn kill(&mut self, random: &mut SmallRng) -> anyhow::Result<()> {
        let Some(seat) = self.running(random) else { return Ok(()) };
        if let Some((mut process, _)) = seat.process.take() {
            process.start_kill().context("cannot kill a member")?;
            seat.due = Some(Instant::now() + Duration::from_millis(random.random_range(0..4000)));
            *self.counts.entry("killed").or_default() += 1;
        }
        Ok(())
    }

    /// SIGTERM: it drains, commits and leaves.
    pub(super) async fn leave(&mut self, random: &mut SmallRng) -> anyhow::Result<()> {
        let Some(seat) = self.running(random) else { return Ok(()) };
        if let Some((mut process, _)) = seat.process.take() {
            signal(&process, Signal::SIGTERM)?;
            let status = timeout(STOP_LIMIT, process.wait()).await.context("a member does not stop")??;
            seat.due = Some(Instant::now() + Duration::from_millis(random.random_range(0..4000)));
            *self.counts.entry(if status.success() { "left" } else { "left in disorder" }).or_default() += 1;
        }
        Ok(())
    }

    /// SIGSTOP for a while.
    pub(super) fn pause(&mut self, random: &mut SmallRng, seconds_max: u64) -> anyhow::Result<()> {
        let Some(seat) = self.running(random) else { return Ok(()) };
        if let Some((process, _)) = &seat.process {
            signal(process, Signal::SIGSTOP)?;
            seat.paused = true;
            seat.due =
                Some(Instant::now() + Duration::from_millis(random.random_range(500..=seconds_max * 1000)));
            *self.counts.entry("stopped").or_default() += 1;
        }
        Ok(())
    }

    /// Ends all of them in order.
    pub(super) async fn stop_all(&mut self) -> anyhow::Result<()> {
        for seat in &mut self.seats {
            if let Some((mut process, _)) = seat.process.take() {
                signal(&process, Signal::SIGTERM)?;
                timeout(STOP_LIMIT, process.wait()).await.context("a member does not stop")??;
            }
        }
        Ok(())
    }

    /// What all of them wrote down.
    pub(super) fn lives(&self) -> anyhow::Result<Vec<Life>> {
        let life = |(diary, resumed_us): &(PathBuf, Vec<i64>)| {
            // One that was killed at once wrote nothing.
            let events = if diary.exists() { events::read(diary)? } else { Vec::new() };
            Ok(Life { events, resumed_us: resumed_us.clone() })
        };
        self.diaries.iter().map(life).collect()
    }

    fn running(&mut self, random: &mut SmallRng) -> Option<&mut Seat> {
        let count = self.seats.len();
        let first = random.random_range(0..count);
        let index = (0..count).map(|step| (first + step) % count).find(|index| {
            self.seats.get(*index).is_some_and(|seat| seat.process.is_some() && !seat.paused)
        })?;
        self.seats.get_mut(index)
    }

    fn revive(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(seat) = self.seats.get_mut(index) else { return Ok(()) };
        seat.due = None;
        if let Some((process, life)) = &seat.process {
            if std::mem::replace(&mut seat.paused, false) {
                if let Some((_, resumed)) = self.diaries.get_mut(*life) {
                    resumed.push(now_us());
                }
                signal(process, Signal::SIGCONT)?;
            }
            return Ok(());
        }
        let life = self.diaries.len();
        let diary = self.directory.join(format!("member-{life}.diary"));
        let log = std::fs::File::create(self.directory.join(format!("member-{life}.log")))?;
        let program = std::env::current_exe().context("this program is not there")?;
        let process = Command::new(program)
            .arg("churn-member")
            .args(["--nameserver", &self.nameserver.to_string(), "--name", &format!("member-{index}")])
            .args(["--topics", &self.topics.join(","), "--diary"])
            .arg(&diary)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a member")?;
        seat.process = Some((process, life));
        seat.paused = false;
        self.diaries.push((diary, Vec::new()));
        Ok(())
    }
}

fn signal(process: &Process, signal: Signal) -> anyhow::Result<()> {
    let id = process.id().context("a member ended by itself")?;
    let id = Pid::from_raw(i32::try_from(id).context("a process id")?);
    kill(id, signal).with_context(|| format!("cannot send {signal} to a member"))
}
