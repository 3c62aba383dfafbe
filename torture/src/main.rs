//! `equeue-torture`: proves the durability of the release binary `equeue` by doing to it what happens to brokers.
//!
//! A broker runs as a child process under load; it is killed, stopped, or its disk loses power or runs full; it is
//! started again, and so on. All the while an oracle writes down what producers and consumers were told, and compares
//! it with what a fresh consumer reads. The map:
//!
//! - [`content`]: messages that can be made again from their names; [`oracle`]: what was told, what contradicts it
//!   (both pure); [`journal`]: the same on disk, for people;
//! - [`load`]: producers and consumers that go on through every fault;
//! - [`child`], [`servers`]: the processes under test; [`disk`]: images whose power can be cut;
//! - [`churn`]: members of groups that come, go, die and pause, with an oracle of its own;
//! - [`campaign`]: lives, rounds and faults; [`report`]: the result.
//!
//! **Invariants**: the oracle's knowledge lies outside the directory that is tortured; a check that could not be made
//! is a violation, never a pass; no child, mount or loop device outlives the process; all waiting has a limit.

mod campaign;
mod child;
mod churn;
mod cli;
mod content;
mod disk;
mod journal;
mod load;
mod oracle;
mod report;
mod servers;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use campaign::{Mode, Plan};
use cli::{Cli, Command, Format};
use report::Report;

/// How long client tasks may take to notice that the run is over.
const END_LIMIT: Duration = Duration::from_secs(5);
/// As test harnesses understand it.
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::Churn(args) => return conclude(churn_on(churn::run(args))),
        Command::ChurnMember(args) => return conclude(churn_on(churn::member::run(args)).map(|()| true)),
        _ => {}
    }
    match run(&cli) {
        Ok(Outcome::Done(report)) => {
            let mut stdout = std::io::stdout().lock();
            let printed = match cli.output {
                Format::Table => report.write_table(&mut stdout),
                Format::Json => report.write_json(&mut stdout),
            };
            if printed.and_then(|()| stdout.flush()).is_ok() && report.passed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Ok(Outcome::Skipped(reason)) => {
            say(&format!("skipped: {reason}"));
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn conclude(passed: anyhow::Result<bool>) -> ExitCode {
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn churn_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(END_LIMIT);
    outcome
}

/// How a run ended.
enum Outcome {
    Done(Box<Report>),
    Skipped(String),
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let plan = Plan::new(&cli.command)?;
    if let Some((fs, require)) = plan.needs_images() {
        let obstacle = disk::obstacle(fs).or_else(|| {
            // Before the first thread: a namespace belongs to a thread and to those that it starts.
            disk::enter_namespace().err().map(|error| format!("{error:#}"))
        });
        match obstacle {
            Some(reason) if require => anyhow::bail!("cannot run here: {reason}"),
            Some(reason) => return Ok(Outcome::Skipped(reason)),
            None => {}
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Children are started from here, the main thread, which outlives them: they die with it.
    let report = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        tokio::select! {
            report = campaign::run(&plan) => report,
            _ = interrupt.recv() => anyhow::bail!("interrupted; seed {}", plan.seed),
            _ = terminate.recv() => anyhow::bail!("terminated; seed {}", plan.seed),
        }
    });
    // A client task that spins would keep the result from being told.
    runtime.shutdown_timeout(END_LIMIT);
    Ok(Outcome::Done(Box::new(report?)))
}

impl Plan {
    fn new(command: &Command) -> anyhow::Result<Self> {
        let (run, mode) = match command {
            Command::Kill(run) => (run, Mode::Kill),
            Command::Stop(run) => (run, Mode::Stop),
            Command::Powercut(arguments) => (&arguments.run, Mode::PowerCut(arguments.clone())),
            Command::Diskfull(arguments) => (&arguments.run, Mode::DiskFull(arguments.clone())),
            Command::Churn(_) | Command::ChurnMember(_) => anyhow::bail!("churn has a plan of its own"),
        };
        let mut run = run.clone();
        // The child is started from other directories, and errors shall name it in full.
        run.equeue = std::path::absolute(&run.equeue).context("the path of the program under test")?;
        anyhow::ensure!(
            run.equeue.is_file(),
            "{} is not there; `cargo build --release` makes it, or give --equeue PATH",
            run.equeue.display()
        );
        let seed = run.seed.unwrap_or_else(rand::random);
        say(&format!("seed {seed}"));
        Ok(Self { run, mode, seed })
    }
}

/// Tells people something while a run goes on.
pub(crate) fn say(text: &str) {
    // Nobody who cannot be told is worth failing for.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
