//! Which CPUs the generator and the broker get. Pure.

use anyhow::{Result, ensure};

use crate::cli::LoadArgs;

/// Who runs where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// CPUs of the generator's threads; empty: any.
    pub generator: Vec<usize>,
    /// CPUs of the broker's shards, when the run starts its own; empty: its choice.
    pub broker: Vec<usize>,
    /// What is wrong with that.
    pub warnings: Vec<String>,
}

/// Follows `--pin` and `--broker-pin`. Without them, and with a broker of the run's own, the generator gets the last
/// CPUs (one per thread) and the broker the others, so that neither takes the other's time.
pub fn place(args: &LoadArgs, allowed: &[usize]) -> Result<Placement> {
    let asked = |list: &Option<crate::cli::CpuList>| list.clone().map(|list| list.0);
    for cpu in [&args.pin, &args.broker.broker_pin].into_iter().flatten().flat_map(|list| &list.0) {
        ensure!(allowed.contains(cpu), "CPU {cpu} is not among the CPUs allowed here: {allowed:?}");
    }
    if !args.nameserver.is_empty() {
        return Ok(Placement { generator: asked(&args.pin).unwrap_or_default(), ..Placement::default() });
    }
    let threads = (args.threads as usize).min(allowed.len().saturating_sub(1));
    let broker_pin = asked(&args.broker.broker_pin);
    let generator = asked(&args.pin).unwrap_or_else(|| {
        let rest: Vec<usize> = allowed
            .iter()
            .copied()
            .filter(|cpu| broker_pin.as_ref().is_none_or(|pin| !pin.contains(cpu)))
            .collect();
        rest.get(rest.len().saturating_sub(threads.max(1))..).unwrap_or_default().to_vec()
    });
    let broker = broker_pin
        .unwrap_or_else(|| allowed.iter().copied().filter(|cpu| !generator.contains(cpu)).collect());
    let shared: Vec<usize> = generator.iter().copied().filter(|cpu| broker.contains(cpu)).collect();
    let mut warnings = Vec::new();
    if generator.is_empty() || broker.is_empty() {
        warnings.push("generator and broker SHARE CORES: there are too few to keep them apart".to_owned());
    } else if !shared.is_empty() {
        warnings.push(format!("generator and broker SHARE CORES: {shared:?}"));
    }
    if args.threads as usize > generator.len() && !generator.is_empty() {
        warnings.push(format!("{} generator threads share {} CPUs", args.threads, generator.len()));
    }
    Ok(Placement { generator, broker, warnings })
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

    fn placed(line: &str, allowed: &[usize]) -> Result<Placement> {
        let command = Command::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        place(&command.expect("understood").load, allowed)
    }

    fn apart(generator: &[usize], broker: &[usize]) -> Placement {
        Placement { generator: generator.to_vec(), broker: broker.to_vec(), warnings: Vec::new() }
    }

    #[test]
    fn broker_and_generator_are_kept_apart() {
        assert_eq!(placed("", &[0, 1]).expect("fits"), apart(&[1], &[0]));
        assert_eq!(placed("--threads 2", &[0, 1, 2, 3]).expect("fits"), apart(&[2, 3], &[0, 1]));
        assert_eq!(placed("--pin 0", &[0, 1]).expect("fits"), apart(&[0], &[1]));
        assert_eq!(placed("--broker-pin 1", &[0, 1]).expect("fits"), apart(&[0], &[1]));
    }

    #[test]
    fn sharing_is_told() {
        for (line, allowed) in [
            ("--pin 0 --broker-pin 0", &[0, 1][..]),
            ("", &[0]),
            ("--pin 0,1", &[0, 1]),
            ("--threads 2", &[0, 1]),
        ] {
            assert_eq!(placed(line, allowed).expect("fits").warnings.len(), 1, "{line}");
        }
    }

    #[test]
    fn a_cpu_that_is_not_allowed_is_refused_and_a_cluster_is_not_placed() {
        assert!(placed("--pin 7", &[0, 1]).is_err());
        assert_eq!(placed("--nameserver a:1", &[0, 1]).expect("fits"), Placement::default());
        assert_eq!(placed("--nameserver a:1 --pin 1", &[0, 1]).expect("fits"), apart(&[1], &[]));
    }
}
