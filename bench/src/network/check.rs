//! Which options make no sense together. Pure.

use anyhow::{Result, bail, ensure};

use super::Kind;
use crate::cli::LoadArgs;
use crate::stamp::BODY_BYTES_MIN;

/// Queues of all topics at the most.
const QUEUES_MAX: u32 = 65_536;

/// Refuses what cannot be measured, before anything is started.
pub(super) fn check(kind: Kind, args: &LoadArgs) -> Result<()> {
    let name = kind.name();
    if kind == Kind::Consume {
        ensure!(args.rate.is_none(), "--rate is for sending; `consume` receives as fast as it can");
        ensure!(
            args.duration.is_none(),
            "`consume` ends when the backlog is drained: give its size with --messages"
        );
        ensure!(args.outage.is_none(), "--outage is for `produce`, `both` and `latency`, not `consume`");
    } else {
        ensure!(!args.cold && !args.no_fill, "--cold and --no-fill are for `consume`, not `{name}`");
    }
    if !kind.receives_while_sending() {
        ensure!(args.backlog.is_none(), "--backlog is for `both` and `latency`, not `{name}`");
        ensure!(args.delay_ms == 0, "--delay-ms is for `both` and `latency`, not `{name}`");
    }
    check_rates(kind, args)?;
    ensure!(
        args.topics.saturating_mul(args.queues) <= QUEUES_MAX,
        "{} topics of {} queues are more than {QUEUES_MAX} queues",
        args.topics,
        args.queues
    );
    let stamped = args.verify || kind.receives_while_sending();
    ensure!(
        !stamped || args.size.carries_stamp(),
        "`{name}`{} needs bodies of at least {BODY_BYTES_MIN} bytes, not {}",
        if args.verify { " with --verify" } else { "" },
        args.size
    );
    Ok(())
}

fn check_rates(kind: Kind, args: &LoadArgs) -> Result<()> {
    let several = args.find_max || !args.sweep.is_empty();
    if several && kind != Kind::Latency {
        bail!("--sweep and --find-max are for `latency`, not `{}`", kind.name());
    }
    ensure!(several || args.p99_max.is_none(), "--p99-max is for --sweep and --find-max");
    ensure!(
        !several || (args.outage.is_none() && args.backlog.is_none()),
        "--outage and --backlog are for one run, not for --sweep or --find-max"
    );
    ensure!(
        args.sweep.windows(2).all(|pair| matches!(pair, [low, high] if low < high)),
        "--sweep takes rates in ascending order: {:?}",
        args.sweep
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn checked(kind: Kind, line: &str) -> Result<()> {
        let command = Command::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        check(kind, &command.expect("understood").load)
    }

    #[test]
    fn what_makes_sense_passes_and_the_rest_is_refused() {
        for (kind, line) in [
            (Kind::Consume, "--cold --verify"),
            (Kind::Produce, "--verify --outage kill --size 28"),
            (Kind::Latency, "--sweep 1,2 --p99-max 3"),
            (Kind::Both, "--backlog 3 --delay-ms 5 --topics 10 --queues 1000"),
        ] {
            checked(kind, line).expect(line);
        }
        for (kind, line) in [
            (Kind::Consume, "--rate 5"),
            (Kind::Consume, "--duration 5"),
            (Kind::Consume, "--outage kill"),
            (Kind::Produce, "--cold"),
            (Kind::Produce, "--backlog 3"),
            (Kind::Produce, "--delay-ms 3"),
            (Kind::Both, "--sweep 1,2"),
            (Kind::Latency, "--sweep 2,1"),
            (Kind::Latency, "--p99-max 5"),
            (Kind::Latency, "--find-max --outage stop"),
            (Kind::Latency, "--size 27"),
            (Kind::Produce, "--size 20-90 --verify"),
            (Kind::Produce, "--topics 1000 --queues 100"),
        ] {
            assert!(checked(kind, line).is_err(), "{} {line}", kind.name());
        }
    }
}
