//! Runs one command from its options to its exit code.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cli::{BenchArgs, BenchCommand, LoadArgs, OutputArgs};
use crate::html;
use crate::network::{self, Kind};
use crate::outcome::{Outcome, print};
use crate::report::Report;
use crate::stop::StopRequest;

/// Runs a benchmark to its end and prints the result (`json`: as `--json -` does). Blocks; starts its own threads and runtimes, so it is called
/// from a thread that runs none (the main thread: a broker of the run's own ends with the thread that started it).
///
/// # Errors
/// When nothing could be measured: no broker, no disk, a stop signal.
pub fn run(args: &BenchArgs, json: bool) -> Result<Outcome> {
    let (kind, load) = match &args.command {
        BenchCommand::Produce(load) => (Kind::Produce, load),
        BenchCommand::Consume(load) => (Kind::Consume, load),
        BenchCommand::Both(load) => (Kind::Both, load),
        BenchCommand::Latency(load) => (Kind::Latency, load),
        BenchCommand::Storage(storage) => {
            check_output(&storage.output)?;
            return conclude(&crate::log_alone::measure(storage)?, &storage.output, json);
        }
        BenchCommand::Compare(compare) => return crate::compare::run(compare, json),
    };
    check_output(&load.output)?;
    load.hlog.as_deref().map_or(Ok(()), |path| check_folder("--hlog", path))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let report = runtime.block_on(until_signal(kind, load))?;
    drop(runtime);
    conclude(&report, &load.output, json)
}

/// A stop signal ends the run in order, with the figures so far; the broker of its own is stopped, its data removed.
async fn until_signal(kind: Kind, args: &LoadArgs) -> Result<Report> {
    let stop = StopRequest::default();
    tokio::select! {
        report = network::measure(kind, args, stop.clone()) => report,
        ended = stop.watch_signals() => {
            ended?;
            bail!("stopped by a signal")
        }
    }
}

fn check_output(output: &OutputArgs) -> Result<()> {
    let json = output.json.as_deref().filter(|path| path.as_os_str() != "-");
    json.map_or(Ok(()), |path| check_folder("--json", path))?;
    output.html.as_deref().map_or(Ok(()), |path| check_folder("--html", path))
}

/// Whether the file's folder is there, told before anything is started.
fn check_folder(option: &str, path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    ensure!(dir.is_dir(), "{option}: there is no folder {}", dir.display());
    Ok(())
}

/// Prints the result and checks what was demanded of it.
fn conclude(report: &Report, output: &OutputArgs, json: bool) -> Result<Outcome> {
    let value = serde_json::to_value(report).context("writing the result as JSON")?;
    print(&value, || report.table(), output.json.as_deref(), json)?;
    if let Some(path) = output.html.as_deref() {
        fs::write(path, html::page(&value)?).with_context(|| format!("writing {}", path.display()))?;
    }
    let mut outcome = Outcome::Passed;
    if report.interrupted && !output.assert.is_empty() {
        eprintln!("assertion failed: the run was interrupted before its time");
        outcome = Outcome::Failed;
    }
    for failed in output.assert.iter().filter_map(|assertion| assertion.check(&value).err()) {
        eprintln!("assertion failed: {failed}");
        outcome = Outcome::Failed;
    }
    if report.is_wrong() {
        eprintln!("verification failed");
        outcome = Outcome::Failed;
    }
    Ok(outcome)
}
