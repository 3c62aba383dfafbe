//! Lives and rounds: a data directory is begun, tortured for some rounds under load, read to its end, and given up.

mod diskfull;
mod fault;
mod life;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::cli::{DiskfullArgs, PowercutArgs, RunArgs};
use crate::disk::Fs;
use crate::oracle::violation::Class;
use crate::report::Report;
use fault::Fault;
use life::Life;

/// How long the broker is left in peace between two faults.
const PEACE_MS: std::ops::Range<u64> = 200..2000;

/// What to do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What all runs have in common.
    pub(crate) run: RunArgs,
    /// What is done to the broker.
    pub(crate) mode: Mode,
    /// Start of all random numbers.
    pub(crate) seed: u64,
}

/// What is done to the broker.
#[derive(Debug)]
pub(crate) enum Mode {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// The disk loses power.
    PowerCut(PowercutArgs),
    /// The disk runs full.
    DiskFull(DiskfullArgs),
}

impl Plan {
    /// Whether images are mounted: the file system, and whether a machine that cannot is a failure.
    pub(crate) fn needs_images(&self) -> Option<(Fs, bool)> {
        match &self.mode {
            Mode::Kill | Mode::Stop => None,
            Mode::PowerCut(arguments) => Some((arguments.fs, arguments.require)),
            Mode::DiskFull(arguments) => Some((Fs::Ext4, arguments.require)),
        }
    }

    fn name(&self) -> &'static str {
        match self.mode {
            Mode::Kill => "kill",
            Mode::Stop => "stop",
            Mode::PowerCut(_) => "powercut",
            Mode::DiskFull(_) => "diskfull",
        }
    }

    fn disk(&self) -> String {
        match &self.mode {
            Mode::Kill | Mode::Stop => "a directory".to_owned(),
            Mode::PowerCut(PowercutArgs { fs, size, cut, hazard, .. }) => {
                let hazard = hazard.map(|hazard| format!(", {}", hazard.key())).unwrap_or_default();
                format!("{fs:?} ({size} MiB), power cut: {cut:?}{hazard}").to_lowercase()
            }
            Mode::DiskFull(arguments) => format!("ext4 ({} MiB)", arguments.size),
        }
    }

    fn expects_loss(&self) -> bool {
        matches!(&self.mode, Mode::PowerCut(arguments) if arguments.expect_loss)
    }
}

/// The directory of a run; removed at the end unless something is to be looked at.
#[derive(Debug)]
struct Workplace {
    directory: TempDir,
}

impl Workplace {
    fn make(plan: &Plan) -> anyhow::Result<Self> {
        let base = plan.run.dir.clone().unwrap_or_else(std::env::temp_dir);
        std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        // Children get paths in it and do not start here.
        let base = std::path::absolute(&base).context("the directory of the run")?;
        let directory = tempfile::Builder::new()
            .prefix("equeue-torture-")
            .tempdir_in(&base)
            .with_context(|| format!("cannot make a directory in {}", base.display()))?;
        Ok(Self { directory })
    }

    fn life(&self, number: u32) -> anyhow::Result<PathBuf> {
        let path = self.directory.path().join(format!("life-{number}"));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// What the parts of a campaign share.
struct Campaign<'a> {
    plan: &'a Plan,
    workplace: Workplace,
    random: SmallRng,
    report: Report,
    progress: ProgressBar,
}

/// Runs all rounds. Violations are in the report; an error means that the run itself could not be done.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Report> {
    let began = Instant::now();
    let mut campaign = Campaign {
        plan,
        workplace: Workplace::make(plan)?,
        random: SmallRng::seed_from_u64(plan.seed),
        report: Report::new(plan.name(), plan.disk(), plan.seed, plan.expects_loss()),
        progress: progress_bar(plan),
    };
    while campaign.going_on() {
        let before = campaign.report.rounds;
        if let Err(error) = campaign.one_life().await {
            // Where damage is expected the broker is right to refuse; otherwise nothing more can be shown.
            if !plan.expects_loss() {
                campaign.report.failure = Some(format!("{error:#}"));
            }
        }
        campaign.report.rounds = campaign.report.rounds.max(before + 1);
    }
    campaign.progress.finish_and_clear();
    let mut report = campaign.report;
    report.took = began.elapsed();
    if !report.passed() || plan.run.keep {
        let path = campaign.workplace.keep();
        crate::say(&format!("data, logs and journals are kept in {}", path.display()));
    }
    Ok(report)
}

impl Campaign<'_> {
    fn going_on(&self) -> bool {
        let report = &self.report;
        let enough = if report.expect_loss {
            report.findings.count(Class::Lost) > 0
        } else {
            report.failure.is_some() || report.findings.total() > 0 && !self.plan.run.keep_going
        };
        report.rounds < self.plan.run.rounds && !enough
    }

    async fn one_life(&mut self) -> anyhow::Result<()> {
        let number = self.report.lives;
        let directory = self.workplace.life(number)?;
        let life = Life::begin(self.plan, &directory, number, self.random.random()).await;
        let mut life = match life {
            Ok(life) => life,
            Err(error) => {
                self.report.lives += 1;
                return Err(error.context("a new data directory could not be brought to work"));
            }
        };
        let result = match &self.plan.mode {
            Mode::DiskFull(_) => self.fill_and_free(&mut life).await,
            _ => self.rounds(&mut life).await,
        };
        life.end(result.is_err(), &mut self.report).await;
        if self.report.findings.total() == 0 && result.is_ok() && !self.plan.run.keep {
            std::fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        result
    }

    /// Fault after fault, until this data directory has had enough.
    async fn rounds(&mut self, life: &mut Life) -> anyhow::Result<()> {
        let of_life = self.plan.run.life.min(self.plan.run.rounds - self.report.rounds);
        for turn in 1..=of_life {
            life.enter_round(self.report.rounds + 1);
            let fault = Fault::draw(&self.plan.mode, &mut self.random);
            let peace = Duration::from_millis(self.random.random_range(PEACE_MS));
            tokio::time::sleep(peace).await;
            self.strike(life, fault).await?;
            self.report.rounds += 1;
            let due = turn % self.plan.run.verify_every == 0 || self.plan.expects_loss();
            if due || turn == of_life {
                life.verify(&mut self.report).await?;
                if life.violations() > 0 && !self.plan.run.keep_going {
                    return Ok(());
                }
            }
            self.tick(life);
        }
        Ok(())
    }

    fn tick(&self, life: &Life) {
        let violations = self.report.findings.total() + life.violations();
        self.progress.set_position(u64::from(self.report.rounds));
        self.progress.set_message(format!(
            "{} acknowledged in this directory, {violations} violations",
            life.acknowledged()
        ));
    }
}

fn progress_bar(plan: &Plan) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} rounds, {elapsed}, {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(plan.run.rounds.into()).with_style(style).with_prefix(plan.name())
}
