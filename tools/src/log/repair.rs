//! `equeue log repair`: shows what a repair gives up, asks, and does it.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use equeue_storage::format::{IDENTITY_FILE, Identity, log_dir_name, parse_log_dir_name};
use equeue_storage::io::block_on;
use equeue_storage::offline;
use equeue_storage::repair::{Act, Place, Plan, carry_out, finish, plan};
use equeue_storage::{LogId, Position};

use crate::failure::{Told, Usage};
use crate::output::{Output, to_stderr};

/// Queues that are listed one by one.
const QUEUES_SHOWN: usize = 20;

/// What is repaired, and how.
#[derive(Args, Debug)]
pub(crate) struct RepairArgs {
    /// The data directory of a broker that does not run
    dir: PathBuf,
    /// Number of the log; may be left out where there is only one
    #[arg(long, value_name = "N")]
    log: Option<u16>,
    #[command(flatten)]
    act: ActArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// One of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct ActArgs {
    /// Set a segment aside and keep what is still whole of it; the log goes on behind what is lost
    #[arg(long, value_name = "SEGMENT", value_parser = segment)]
    quarantine: Option<Position>,
    /// End the log at a position: everything at or behind it is given up
    #[arg(long, value_name = "POSITION", value_parser = segment)]
    cut: Option<Position>,
    /// Finish a repair that was interrupted
    #[arg(long)]
    finish: bool,
    /// Give up a log of which nothing is there any more: the next start begins it anew, with offsets from 0
    #[arg(long)]
    begin_anew: bool,
}

/// A position, or the name of a segment file.
fn segment(text: &str) -> Result<Position, String> {
    let name = text.rsplit('/').next().unwrap_or(text);
    let digits = name.strip_suffix(".seg").unwrap_or(name);
    digits.parse().map(Position).map_err(|_| "neither a position nor the name of a segment file".to_owned())
}

/// Repairs.
pub(super) fn run(args: &RepairArgs) -> anyhow::Result<()> {
    if args.act.begin_anew {
        return begin_anew(args);
    }
    let place = place(&args.dir, args.log)?;
    // Held until the end: no broker starts meanwhile.
    let _lock = offline::lock(&args.dir)?;
    let act = match (args.act.quarantine, args.act.cut) {
        (Some(segment), _) => Act::Quarantine(segment),
        (_, Some(position)) => Act::Cut(position),
        _ => return finish_begun(&args.dir, &place),
    };
    let planned = on_executor(&args.dir, async |io| plan(&io, &place, act).await)?;
    let mut output = Output::stdout();
    for line in preview(&planned) {
        output.line(line)?;
    }
    output.flush()?;
    if !args.yes && !confirmed()? {
        to_stderr("nothing was changed");
        return Err(Told.into());
    }
    let kept = on_executor(&args.dir, async |io| carry_out(&io, &planned).await)?;
    output.line(format!("repaired; what was taken out is in {}", kept.display()))?;
    output.flush()?;
    check_again(&args.dir, place.log, &mut output)
}

fn finish_begun(dir: &Path, place: &Place) -> anyhow::Result<()> {
    let finished = on_executor(dir, async |io| finish(&io, &place.dir).await)?;
    let mut output = Output::stdout();
    let Some((_, kept)) = finished else {
        output.line(format!("no repair of log {} was begun", place.log))?;
        return output.flush();
    };
    output.line(format!("finished; what was taken out is in {}", kept.display()))?;
    output.flush()?;
    check_again(dir, place.log, &mut output)
}

/// Gives up a log that is missing.
fn begin_anew(args: &RepairArgs) -> anyhow::Result<()> {
    let RepairArgs { dir, yes, .. } = args;
    let _lock = offline::lock(dir)?;
    let path = dir.join(IDENTITY_FILE);
    let identity = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let identity = Identity::decode(&identity).with_context(|| format!("cannot use {}", path.display()))?;
    let missing = offline::missing_logs(dir, identity.logs)?;
    let log = match (args.log.map(LogId), missing.as_slice()) {
        (Some(log), _) if missing.contains(&log) => log,
        (None, [log]) => *log,
        (Some(log), _) => bail!("log {log} of {} is not missing: nothing is to be done", dir.display()),
        (None, []) => bail!("no log of {} is missing: nothing is to be done", dir.display()),
        (None, _) => {
            return Err(Usage(format!("{} logs are missing: say which with --log", missing.len())).into());
        }
    };
    if log == LogId(0) {
        bail!(
            "log 0 has the catalog: a new one would give keys of old queues again; begin with another data directory"
        );
    }
    let mut output = Output::stdout();
    output.line(format!("log {log} begins anew at the next start: all that it held is given up"))?;
    output.line(
        "offsets of its queues are given a second time: who knows old ones takes new messages for these",
    )?;
    output.flush()?;
    if !yes && !confirmed()? {
        to_stderr("nothing was changed");
        return Err(Told.into());
    }
    offline::give_up_missing(dir, log)?;
    output.line(format!("log {log} was given up"))?;
    output.flush()
}

/// Runs work on the files of a data directory.
fn on_executor<T, E: std::error::Error + Send + Sync + 'static>(
    dir: &Path,
    work: impl AsyncFnOnce(equeue_storage::io::DmaIo) -> Result<T, E>,
) -> anyhow::Result<T> {
    Ok(block_on(dir, work).with_context(|| format!("cannot use io_uring on {}", dir.display()))??)
}

/// The log that is meant.
fn place(dir: &Path, log: Option<u16>) -> anyhow::Result<Place> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut logs: Vec<LogId> = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {}", dir.display()))?.file_name();
        logs.extend(name.to_str().and_then(parse_log_dir_name));
    }
    logs.sort_unstable();
    let log = match (log.map(LogId), logs.as_slice()) {
        (Some(log), _) if logs.contains(&log) => log,
        (Some(log), _) => bail!("{} has no log {log}", dir.display()),
        (None, [log]) => *log,
        (None, []) => bail!("{} is no data directory: it holds no logs", dir.display()),
        (None, _) => return Err(Usage(format!("there are {} logs: say which with --log", logs.len())).into()),
    };
    Ok(Place { dir: dir.join(log_dir_name(log)), log })
}

/// What would be done, in words.
fn preview(plan: &Plan) -> Vec<String> {
    let loss = &plan.loss;
    let mut lines = vec![match plan.intent.act {
        Act::Cut(_) => format!("log {} ends at {} then", plan.place.log, plan.end),
        Act::Quarantine(segment) => {
            format!(
                "segment {segment} of log {}: {} bytes are whole and stay in the log",
                plan.place.log, plan.kept_bytes
            )
        }
    }];
    for (from, to) in &loss.ranges {
        lines.push(format!("given up: {} bytes at {from}..{to}", to.0.saturating_sub(from.0)));
    }
    if loss.flushes > 0 {
        lines.push(format!(
            "in whole flushes among them: {} messages and {} state entries (topics, committed offsets)",
            loss.messages, loss.state_entries
        ));
    }
    for (queue, (from, to)) in loss.queues.iter().take(QUEUES_SHOWN) {
        lines.push(format!(
            "queue {queue}: offsets {from} up to {to} are affected; no new message gets one of them"
        ));
    }
    if loss.queues.len() > QUEUES_SHOWN {
        lines.push(format!("and {} more queues", loss.queues.len() - QUEUES_SHOWN));
    }
    for name in &plan.set_aside {
        lines.push(format!("set aside in lost+found: {name}"));
    }
    lines
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(
            Usage("nobody is there to be asked: say --yes if this is what you want".to_owned()).into()
        );
    }
    to_stderr("Do this? Messages that were acknowledged are given up. Type yes:");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

/// Tells whether damage is left in the log.
fn check_again(dir: &Path, log: LogId, output: &mut Output) -> anyhow::Result<()> {
    let report = offline::verify(dir)?;
    let folder = dir.join(log_dir_name(log));
    let left: Vec<_> = report.damaged.iter().filter(|damage| damage.path.starts_with(&folder)).collect();
    for damage in &left {
        output.line(format!("still damaged: {damage}"))?;
    }
    if left.is_empty() {
        output.line(format!("log {log} is sound"))?;
    }
    output.flush()?;
    if left.is_empty() { Ok(()) } else { Err(Told.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_named_by_position_or_file() {
        for text in ["1048576", "00000000000001048576.seg", "/data/log-0/00000000000001048576.seg"] {
            assert_eq!(segment(text), Ok(Position(1 << 20)));
        }
        assert!(segment("x.seg").is_err() && segment("").is_err() && segment("-1").is_err());
    }
}
