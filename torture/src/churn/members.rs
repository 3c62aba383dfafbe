//! The members: processes that come, go, are killed and are stopped for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::process::{Child as Process, Command};
use tokio::time::{Instant, timeout};

use super::events::{self, now_us};
use super::judge::{Ended, Judge, Life};
use super::watch::{Calm, Cause};
use crate::child::die_with_parent;

/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// How long a member counts as one although it is silent: what falls to it is nobody's meanwhile.
const SESSION: Duration = Duration::from_secs(10);
/// How long a member that was continued may take to say so.
const RESUME: Duration = Duration::from_secs(1);

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
    /// Every process so far, with its diary.
    lives: Vec<(PathBuf, Life)>,
    calm: Calm,
    /// What was done to them.
    pub(super) counts: BTreeMap<&'static str, u32>,
}

impl Members {
    pub(super) fn new(
        nameserver: SocketAddr,
        directory: &Path,
        topics: &[String],
        count: u16,
        calm: Calm,
    ) -> Self {
        let seats = (0..count).map(|_| Seat { process: None, due: None, paused: false }).collect();
        let (directory, topics) = (directory.to_owned(), topics.to_vec());
        Self { nameserver, directory, topics, seats, lives: Vec::new(), calm, counts: BTreeMap::new() }
    }

    /// Continues and starts whoever is not there.
    pub(super) fn start_all(&mut self) -> anyhow::Result<()> {
        for seat in 0..self.seats.len() {
            self.revive(seat)?;
        }
        Ok(())
    }

    /// Continues and starts those whose time has come.
    pub(super) fn tend(&mut self) -> anyhow::Result<()> {
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
        let Some(seat) = self.running(random).and_then(|index| self.seats.get_mut(index)) else {
            return Ok(());
        };
        if let Some((mut process, life)) = seat.process.take() {
            process.start_kill().context("cannot kill a member")?;
            seat.due = Some(Instant::now() + Duration::from_millis(random.random_range(0..4000)));
            if let Some((_, life)) = self.lives.get_mut(life) {
                life.ended = Ended::Killed;
            }
            *self.counts.entry("killed").or_default() += 1;
        }
        Ok(())
    }

    /// SIGTERM: it drains, commits and leaves.
    pub(super) async fn leave(&mut self, random: &mut SmallRng) -> anyhow::Result<()> {
        let Some(seat) = self.running(random).and_then(|index| self.seats.get_mut(index)) else {
            return Ok(());
        };
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
        let Some(index) = self.running(random) else { return Ok(()) };
        let Some(seat) = self.seats.get_mut(index) else { return Ok(()) };
        if let Some((process, _)) = &seat.process {
            signal(process, Signal::SIGSTOP)?;
            seat.paused = true;
            let pause = Duration::from_millis(random.random_range(500..=seconds_max * 1000));
            seat.due = Some(Instant::now() + pause);
            self.calm.disturb(Cause::Stopped(index), SESSION);
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

    /// Takes in what all of them wrote down about the messages with numbers below `sent`.
    pub(super) fn judge(&self, sent: u64) -> anyhow::Result<Judge> {
        let mut judge = Judge::new(sent, self.lives.iter().map(|(_, life)| life.clone()).collect());
        for (index, (diary, _)) in self.lives.iter().enumerate() {
            // One that was killed at once wrote nothing.
            if diary.exists() {
                events::read(diary, |event| judge.take(index, &event))?;
            }
            judge.end_life();
        }
        Ok(judge)
    }

    /// A seat whose member runs.
    fn running(&self, random: &mut SmallRng) -> Option<usize> {
        let count = self.seats.len();
        let first = random.random_range(0..count);
        (0..count)
            .map(|step| (first + step) % count)
            .find(|index| self.seats.get(*index).is_some_and(|seat| seat.process.is_some() && !seat.paused))
    }

    fn revive(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(seat) = self.seats.get_mut(index) else { return Ok(()) };
        seat.due = None;
        if let Some((process, life)) = &seat.process {
            if std::mem::replace(&mut seat.paused, false) {
                if let Some((_, life)) = self.lives.get_mut(*life) {
                    life.resumed_us.push(now_us());
                }
                signal(process, Signal::SIGCONT)?;
                self.calm.over(Cause::Stopped(index), RESUME);
            }
            return Ok(());
        }
        let life = self.lives.len();
        let diary = self.directory.join(format!("member-{life}.diary"));
        let log = std::fs::File::create(self.directory.join(format!("member-{life}.log")))?;
        let program = std::env::current_exe().context("this program is not there")?;
        let mut command = Command::new(program);
        die_with_parent(command.as_std_mut());
        let process = command
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
        self.lives.push((diary, Life::default()));
        Ok(())
    }
}

fn signal(process: &Process, signal: Signal) -> anyhow::Result<()> {
    let id = process.id().context("a member ended by itself")?;
    let id = Pid::from_raw(i32::try_from(id).context("a process id")?);
    kill(id, signal).with_context(|| format!("cannot send {signal} to a member"))
}
