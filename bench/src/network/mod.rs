//! The commands that talk to a broker.

mod figures;
mod setup;
mod target;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use equeue_net::api::OffsetAt;

use crate::cli::LoadArgs;
use crate::driver::{self, Load, Outcome};
use crate::machine;
use crate::meter::BrokerMeter;
use crate::placement::place;
use crate::progress::Progress;
use crate::report::Report;
use crate::verify::{Expect, Verifier};
use crate::workload::BODY_BYTES_MIN;

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
pub(crate) async fn measure(kind: Kind, args: &LoadArgs) -> Result<Report> {
    check(kind, args)?;
    let placement = place(args, &machine::allowed_cpus()?)?;
    let run = rand::random();
    let mut warnings = placement.warnings.clone();
    let (meter, nameservers) = target::find(kind, args, &placement, &mut warnings)?;
    if !placement.generator.is_empty() {
        machine::bind_to(&placement.generator)?;
    }
    let admin_client = driver::connect(&nameservers, "bench-admin").await?;
    let admin = admin_client.admin();
    let meter = match meter {
        Some(own) => own,
        None => BrokerMeter::of_cluster(admin.clone()).await?,
    };
    let topic = args.topic.clone().unwrap_or_else(|| format!("bench-{run:08x}"));
    let (queues, existed) = target::ensure_topic(&admin, &topic, args.queues, &meter).await?;
    let mut load = setup::load(kind, args, &placement, run, topic, queues, nameservers);
    if existed && load.own_only {
        load.start = setup::shortly_before_now();
    }
    let config = setup::config(args, &load, &placement, existed);
    let progress = Progress::new(kind.name(), kind == Kind::Latency);
    let outcome = if kind == Kind::Consume {
        fill_and_drain(args, load, &meter, &progress).await
    } else {
        let expect = Expect::Run { run, producers: load.producers };
        let verifier = (args.verify && load.consumers > 0).then(|| Verifier::new(expect));
        driver::drive(load, verifier, &meter, &progress).await
    };
    progress.finish();
    let report = figures::report(kind, args, config, outcome?, warnings);
    admin_client.close().await;
    Ok(report)
}

/// Options that make no sense together.
fn check(kind: Kind, args: &LoadArgs) -> Result<()> {
    let name = kind.name();
    if kind == Kind::Consume {
        ensure!(args.rate.is_none(), "--rate is for sending; `consume` receives as fast as it can");
        ensure!(
            args.duration.is_none(),
            "`consume` ends when the backlog is drained: give its size with --messages"
        );
    } else {
        ensure!(!args.cold && !args.no_fill, "--cold and --no-fill are for `consume`, not `{name}`");
    }
    let stamped = args.verify || kind.receives_while_sending();
    ensure!(
        !stamped || args.size.carries_stamp(),
        "`{name}`{} needs bodies of at least {BODY_BYTES_MIN} bytes, not {}",
        if args.verify { " with --verify" } else { "" },
        args.size
    );
    if args.verify && kind == Kind::Produce {
        bail!("`produce` receives nothing that could be verified: use `both --verify`");
    }
    Ok(())
}

/// Fills the topic, unless it is to be taken as it is, and drains it.
async fn fill_and_drain(
    args: &LoadArgs,
    load: Load,
    meter: &BrokerMeter,
    progress: &Progress,
) -> Result<Outcome> {
    let mut drain =
        Load { producers: 0, messages: None, duration: None, warmup: Duration::ZERO, ..load.clone() };
    let mut verifier = None;
    let mut sent = None;
    if args.no_fill {
        drain.backlog = held(&load).await?;
        verifier = args.verify.then(|| Verifier::new(Expect::FirstSeen));
    } else {
        let fill = Load {
            consumers: 0,
            messages: Some(setup::backlog(args).saturating_sub(u64::from(load.producers)).max(1)),
            duration: None,
            warmup: Duration::ZERO,
            ..load
        };
        let expect = Expect::Run { run: fill.run, producers: fill.producers };
        let filled = driver::drive(fill, None, meter, progress).await.context("filling the backlog")?;
        ensure!(filled.errors.is_empty(), "the backlog could not be filled: {:?}", filled.errors);
        eprintln!(
            "Filled {} messages at {:.0} messages/s; draining",
            filled.acknowledged_ever,
            filled.count.messages_per_second()
        );
        drain.backlog = filled.acknowledged_ever;
        verifier = args.verify.then(|| Verifier::new(expect)).or(verifier);
        sent = Some(filled.sent);
    }
    ensure!(drain.backlog > 0, "topic {} holds nothing to drain", drain.topic);
    let outcome = driver::drive(drain, verifier, meter, progress).await.context("draining the backlog")?;
    Ok(Outcome { sent: sent.unwrap_or_default(), ..outcome })
}

/// Messages that the topic holds.
async fn held(load: &Load) -> Result<u64> {
    let client = driver::connect(&load.nameservers, "bench-count").await?;
    let admin = client.admin();
    let mut held = 0;
    let first =
        admin.list_offsets(&load.topic, OffsetAt::First).await.context("asking for the first offsets")?;
    let last =
        admin.list_offsets(&load.topic, OffsetAt::Last).await.context("asking for the last offsets")?;
    for (first, last) in first.into_iter().zip(last) {
        held += last.result?.0.saturating_sub(first.result?.0);
    }
    client.close().await;
    Ok(held)
}
