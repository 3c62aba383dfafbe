//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::churn::ChurnArgs;
use crate::churn::member::MemberArgs;
use crate::disk::Fs;

/// Tortures the release binary `equeue` under load and proves that nothing acknowledged is lost.
///
/// Exit codes: 0 every promise was kept, 1 one was broken or the run failed, 2 wrong usage, 77 skipped because this
/// machine does not allow it.
#[derive(Parser, Debug)]
#[command(name = "equeue-torture", version, max_term_width = 110)]
pub(crate) struct Cli {
    /// How the result is printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// What to do to the broker
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object.
    Json,
}

/// What to do to the broker.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Kill it with SIGKILL at random moments
    Kill(RunArgs),
    /// Stop it with SIGTERM: the next start must find an orderly stop
    Stop(RunArgs),
    /// Cut the power of its disk: a file system in a loop-mounted image that is shut down at random moments
    Powercut(PowercutArgs),
    /// Fill its disk, then free it again
    Diskfull(DiskfullArgs),
    /// Let members of groups join, leave, die and pause, and brokers restart
    Churn(ChurnArgs),
    /// A member of a churn
    #[command(hide = true)]
    ChurnMember(MemberArgs),
}

/// What all runs have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// How often
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rounds: u32,
    /// Start of all random numbers [default: drawn, and printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where a directory for the run is made [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The program under test
    #[arg(long, value_name = "PATH", default_value = "target/release/equeue")]
    pub(crate) equeue: PathBuf,
    /// Rounds in one data directory; then a new one is begun
    #[arg(long, default_value_t = 20, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) life: u32,
    /// Read every queue from its start after so many rounds
    #[arg(long, default_value_t = 5, value_name = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) verify_every: u32,
    /// Messages a second, all producers together
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) rate: u32,
    /// Number of producers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) producers: u16,
    /// Number of topics
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) topics: u16,
    /// Queues of each topic
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) queues: u16,
    /// Which processes the servers run in
    #[arg(long, value_enum, default_value_t)]
    pub(crate) servers: ServersArg,
    /// Setting of the broker as KEY=VALUE, for example `storage.flush_depth=1`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
    /// Go on after violations
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Keep the directory of the run, even when nothing is wrong
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Which processes the servers run in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServersArg {
    /// One way in one data directory, the other way in the next.
    #[default]
    Alternate,
    /// `equeue standalone`.
    Standalone,
    /// `equeue nameserver` and `equeue broker`; only the broker is tortured.
    Split,
}

/// Options of `powercut`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PowercutArgs {
    /// What all runs have in common
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// File system under test
    #[arg(long, value_enum, default_value = "ext4")]
    pub(crate) fs: Fs,
    /// Size of the image, MiB
    #[arg(long, default_value_t = 1024, value_name = "MIB", value_parser = clap::value_parser!(u64).range(320..=65_536))]
    pub(crate) size: u64,
    /// Where the power is cut
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cut: CutArg,
    /// What the broker does at that moment
    #[arg(long, value_enum, default_value_t)]
    pub(crate) broker: BrokerAtCut,
    /// Switch a mechanism of the broker off, to see that this test can fail
    #[arg(long, value_enum)]
    pub(crate) hazard: Option<Hazard>,
    /// Done when an acknowledged message was lost; failed otherwise
    #[arg(long)]
    pub(crate) expect_loss: bool,
    /// Fail instead of being skipped where it cannot run
    #[arg(long)]
    pub(crate) require: bool,
}

/// Where the power is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CutArg {
    /// In the file system: what reached the device stays
    Fs,
    /// In the device: what it was not told to flush is lost
    Device,
    /// Either, at random; in the device where a loss is expected
    #[default]
    Both,
}

/// What the broker does while the power is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BrokerAtCut {
    /// It was stopped just before: all that anybody heard of it was said before the cut, and counts
    Stopped,
    /// It runs on for a moment and sees its disk fail; what is heard from then on does not count
    Running,
    /// Either, at random; stopped where a loss is expected
    #[default]
    Both,
}

/// A mechanism to switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hazard {
    /// Acknowledge without syncing
    NoSync,
    /// Do not sync the active segment before recovery decides where it ends
    NoRecoverySync,
    /// Go on in the next segment before the last one is sealed and synced
    NoRollBarrier,
    /// Do not sync the directory after renames
    NoDirSync,
    /// Answer a duplicate before its original is durable
    EarlyDuplicate,
    /// Serve reads past the durable end
    NoHighWatermark,
}

impl Hazard {
    /// The key of the broker that switches it on.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::NoSync => "hazards.no_sync",
            Self::NoRecoverySync => "hazards.no_recovery_sync",
            Self::NoRollBarrier => "hazards.no_roll_barrier",
            Self::NoDirSync => "hazards.no_dir_sync",
            Self::EarlyDuplicate => "hazards.early_duplicate",
            Self::NoHighWatermark => "hazards.no_high_watermark",
        }
    }
}

/// Options of `diskfull`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DiskfullArgs {
    /// What all runs have in common
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Size of the image, MiB
    #[arg(long, default_value_t = 40, value_name = "MIB", value_parser = clap::value_parser!(u64).range(32..=4096))]
    pub(crate) size: u64,
    /// Fail instead of being skipped where it cannot run
    #[arg(long)]
    pub(crate) require: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE")?;
    let well_formed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '_';
    if key.is_empty() || !key.chars().all(well_formed) {
        return Err(format!("{key:?} is not a key"));
    }
    Ok((variable(key), value.to_owned()))
}

/// The environment variable of a key of the broker.
pub(crate) fn variable(key: &str) -> String {
    format!("EQUEUE_BROKER__{}", key.to_uppercase().replace('.', "__"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_becomes_a_variable() {
        let (name, value) = setting("storage.flush_depth=1").unwrap();
        assert_eq!((name.as_str(), value.as_str()), ("EQUEUE_BROKER__STORAGE__FLUSH_DEPTH", "1"));
        assert!(setting("storage").is_err() && setting("=1").is_err() && setting("A b=1").is_err());
    }
}
