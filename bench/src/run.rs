//! Runs one command from its options to its exit code.

use crate::cli::BenchArgs;

/// How a run ended that came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Measured, and every demand (`--assert`, `--verify`) was met.
    Passed,
    /// Measured, but a demand was not met. Exit code 1.
    Failed,
}

impl Outcome {
    /// Exit code of the process.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
        }
    }
}

/// Runs a benchmark to its end and prints the result. Blocks; starts its own threads and runtimes, so it is called
/// from a thread that runs none.
///
/// # Errors
/// When nothing could be measured: no broker, no disk, a stop signal.
pub fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("not available in this build: {:?}", args.command)
}
