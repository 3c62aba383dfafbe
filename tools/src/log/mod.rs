//! `equeue log`: looks at a data directory without a broker; only `repair` changes something there.

mod dump;
mod repair;
mod stats;
mod verify;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use indicatif::ProgressBar;

use crate::output::Format;
use dump::DumpArgs;
use repair::RepairArgs;

/// What to do with a data directory.
#[derive(Subcommand, Debug)]
pub(crate) enum LogCommand {
    /// Check every header, checksum, batch and record; exits with 1 and names file and position of each damage
    Verify {
        /// The data directory of a broker that does not run
        dir: PathBuf,
    },
    /// Print everything that is in the logs, in the order in which it lies there
    Dump(DumpArgs),
    /// Count what the logs hold, by log and by queue
    Stats {
        /// The data directory of a broker that does not run
        dir: PathBuf,
    },
    /// Make a log open again that is damaged: shows what is given up, and asks. Keeps everything it takes out
    Repair(RepairArgs),
}

/// Runs one of the commands.
pub(crate) fn run(command: &LogCommand, format: Format) -> anyhow::Result<()> {
    match command {
        LogCommand::Verify { dir } => verify::run(dir, format),
        LogCommand::Dump(args) => dump::run(args, format),
        LogCommand::Stats { dir } => stats::run(dir, format),
        LogCommand::Repair(args) => repair::run(args),
    }
}

/// Something that moves while a large directory is read, on a terminal only.
fn spinner(text: String) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(text);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
