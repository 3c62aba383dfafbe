//! Runs whose consumers begin when producers are through: backlogs that are drained, and sends that are verified.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use equeue_net::api::OffsetAt;

use super::bench::Bench;
use super::setup;
use crate::driver::{self, Load, Outcome};
use crate::verify::{Expect, Verifier};

/// Fills the topics, unless they are to be taken as they are, and drains them.
pub(super) async fn fill_and_drain(bench: &Bench<'_>, load: Load) -> Result<Outcome> {
    let (args, stand) = (bench.args, &bench.stand);
    if args.no_fill {
        let backlog = held(&load).await?;
        let verifier = args.verify.then(|| Verifier::new(Expect::FirstSeen));
        return drain(bench, load, backlog, verifier).await;
    }
    let fill = Load {
        what: "fill",
        consumers: 0,
        messages: Some(setup::backlog(args).saturating_sub(u64::from(load.producers)).max(1)),
        duration: None,
        warmup: Duration::ZERO,
        ..load.clone()
    };
    let expect = Expect::Run { run: fill.run, producers: fill.producers };
    let filled = driver::drive(fill, None, stand).await.context("filling the backlog")?;
    ensure!(filled.errors.is_empty(), "the backlog could not be filled: {:?}", filled.errors);
    if filled.interrupted {
        bail!("stopped while the backlog was being filled");
    }
    eprintln!(
        "Filled {} messages at {:.0} messages/s; draining",
        filled.acknowledged_ever,
        filled.count.messages_per_second()
    );
    let verifier = args.verify.then(|| Verifier::new(expect));
    let outcome = drain(bench, load, filled.acknowledged_ever, verifier).await?;
    Ok(Outcome { sent: filled.sent, ..outcome })
}

/// Sends, then reads everything back: what was acknowledged must be there, once, in order, unchanged.
pub(super) async fn produce_and_verify(bench: &Bench<'_>, load: Load) -> Result<Outcome> {
    let expect = Expect::Run { run: load.run, producers: load.producers };
    let back = Load { consumers: bench.args.consumers, ..load.clone() };
    let produced = driver::drive(load, None, &bench.stand).await?;
    if produced.interrupted {
        return Ok(produced);
    }
    eprintln!("Sent {} messages; reading them back", produced.acknowledged_ever);
    let read = drain(bench, back, produced.acknowledged_ever, Some(Verifier::new(expect))).await?;
    let mut warnings = produced.warnings;
    warnings.extend(read.warnings);
    Ok(Outcome { verifier: read.verifier, warnings, ..produced })
}

async fn drain(bench: &Bench<'_>, load: Load, backlog: u64, verifier: Option<Verifier>) -> Result<Outcome> {
    ensure!(backlog > 0, "topic {} holds nothing to drain", load.topics.join(", "));
    let drain = Load {
        what: "drain",
        producers: 0,
        messages: None,
        duration: None,
        warmup: Duration::ZERO,
        rate: None,
        outage: None,
        backlog,
        ..load
    };
    driver::drive(drain, verifier, &bench.stand).await.context("draining the backlog")
}

/// Messages that the topics hold.
async fn held(load: &Load) -> Result<u64> {
    let client = driver::connect(&load.nameservers, "bench-count").await?;
    let admin = client.admin();
    let mut held = 0;
    for topic in &load.topics {
        let first =
            admin.list_offsets(topic, OffsetAt::First).await.context("asking for the first offsets")?;
        let last = admin.list_offsets(topic, OffsetAt::Last).await.context("asking for the last offsets")?;
        for (first, last) in first.into_iter().zip(last) {
            held += last.result?.0.saturating_sub(first.result?.0);
        }
    }
    client.close().await;
    Ok(held)
}
