//! The commands that talk to a broker.

mod bench;
mod check;
mod drain;
mod figures;
mod rates;
mod setup;
mod target;

use anyhow::Result;

use crate::cli::LoadArgs;
use crate::report::Report;
use crate::stop::StopRequest;
use bench::Bench;

/// Which of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Producers only.
    Produce,
    /// A backlog, drained.
    Consume,
    /// Both at once.
    Both,
    /// Both at once at a fixed rate.
    Latency,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Both => "both",
            Self::Latency => "latency",
        }
    }

    pub(super) const fn receives_while_sending(self) -> bool {
        matches!(self, Self::Both | Self::Latency)
    }
}

/// Runs a command to its result.
pub(crate) async fn measure(kind: Kind, args: &LoadArgs, stop: StopRequest) -> Result<Report> {
    check::check(kind, args)?;
    let bench = Bench::set_up(kind, args, stop).await?;
    let report = if args.find_max || !args.sweep.is_empty() {
        rates::measure(&bench).await
    } else {
        bench.run(args.rate).await
    };
    bench.take_down().await;
    report
}
