//! The commands that talk to a broker: from the options to the load, and from its outcome to the result.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use equeue_client::{Admin, StartAt};
use equeue_net::api::OffsetAt;
use serde_json::{Map, Value, json};

use crate::cli::{CpuList, LoadArgs};
use crate::driver::{self, Load, Outcome};
use crate::machine;
use crate::meter::BrokerMeter;
use crate::own_broker::{OwnBroker, OwnBrokerOptions, check_space};
use crate::placement::{Placement, place};
use crate::progress::Progress;
use crate::report::Report;
use crate::scratch::Scratch;
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
    const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Both => "both",
            Self::Latency => "latency",
        }
    }

    const fn receives_while_sending(self) -> bool {
        matches!(self, Self::Both | Self::Latency)
    }
}

/// Default length of a run.
const DURATION: Duration = Duration::from_secs(10);
/// Default rate of `latency`, messages per second.
const RATE: u64 = 10_000;
/// Default bytes of a backlog that is to be read from memory.
const BACKLOG_BYTES: u64 = 500_000_000;
/// Default bytes of a backlog that is to be read from disk.
const COLD_BACKLOG_BYTES: u64 = 2_000_000_000;
/// Memory of the own broker when the backlog is to be read from disk; a quarter of it is cache.
const COLD_MEMORY: &str = "256MiB";
/// Bytes in flight per producer at the most, so that the window of the generator never waits for the client's.
const WINDOW_BYTES_MAX: usize = 48 << 20;
/// How long a new topic may take until the nameserver knows it.
const TOPIC_WITHIN: Duration = Duration::from_secs(30);
/// Lateness of the generator that is worth a warning, us (p99).
const LATENESS_US_MAX: f64 = 1000.0;
/// Share of its CPU at which a generator thread is the bottleneck.
const BUSY_MAX: f64 = 0.95;

/// Runs a command to its result.
pub(crate) async fn measure(kind: Kind, args: &LoadArgs) -> Result<Report> {
    check(kind, args)?;
    let placement = place(args, &machine::allowed_cpus()?)?;
    let run = rand::random();
    let mut warnings = placement.warnings.clone();
    let (meter, nameservers) = target(kind, args, &placement, &mut warnings)?;
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
    let (queues, existed) = ensure_topic(&admin, &topic, args.queues, &meter).await?;
    let mut load = load(kind, args, &placement, run, topic, queues, nameservers);
    if existed && kind.receives_while_sending() {
        load.start = StartAt::Last;
    }
    let config = config(args, &load, &placement, existed);
    let progress = Progress::new(kind.name(), kind == Kind::Latency);
    let outcome = if kind == Kind::Consume {
        fill_and_drain(args, load, &meter, &progress).await
    } else {
        let expect = Expect::Run { run, producers: load.producers };
        let verifier = (args.verify && load.consumers > 0).then(|| Verifier::new(expect));
        driver::drive(load, verifier, &meter, &progress).await
    };
    progress.finish();
    let report = report(kind, args, config, outcome?, warnings);
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

/// The brokers to measure, own or not (`None`).
fn target(
    kind: Kind,
    args: &LoadArgs,
    placement: &Placement,
    warnings: &mut Vec<String>,
) -> Result<(Option<BrokerMeter>, Vec<String>)> {
    if !args.nameserver.is_empty() {
        if args.nameserver.iter().any(|address| is_loopback(address)) {
            warnings.push(
                "the nameserver is on this machine: brokers may share cores with the generator".to_owned(),
            );
        }
        return Ok((None, args.nameserver.clone()));
    }
    let scratch = Scratch::new(args.broker.data.as_deref())?;
    if scratch.in_memory() {
        warnings.push(format!("{} lies in memory: syncing costs nothing there", scratch.path().display()));
    }
    let backlog_bytes = backlog(args) * args.size.mean() as u64;
    check_space(scratch.path(), if kind == Kind::Consume { 2 * backlog_bytes } else { 1 << 30 })?;
    let memory_limit = (kind == Kind::Consume).then(|| memory_limit(args.cold, backlog_bytes));
    let options = OwnBrokerOptions { cpus: placement.broker.clone(), memory_limit };
    eprintln!(
        "No --nameserver: starting a standalone broker in {} (CPUs {}; generator: CPUs {})",
        scratch.path().display(),
        cpus_text(&placement.broker),
        cpus_text(&placement.generator)
    );
    let broker = OwnBroker::start(scratch, &options)?;
    let nameservers = vec![broker.nameserver().to_owned()];
    Ok((Some(BrokerMeter::Own(Box::new(Mutex::new(broker)))), nameservers))
}

/// So that the cache (a quarter of it) holds the backlog, or just not.
fn memory_limit(cold: bool, backlog_bytes: u64) -> String {
    if cold {
        return COLD_MEMORY.to_owned();
    }
    let gib = (6 * backlog_bytes).div_ceil(1 << 30).clamp(1, 16);
    format!("{gib}GiB")
}

fn cpus_text(cpus: &[usize]) -> String {
    if cpus.is_empty() { "any".to_owned() } else { CpuList(cpus.to_vec()).to_string() }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn backlog(args: &LoadArgs) -> u64 {
    let bytes = if args.cold { COLD_BACKLOG_BYTES } else { BACKLOG_BYTES };
    args.messages.unwrap_or_else(|| (bytes / args.size.mean().max(1) as u64).max(1))
}

/// Creates the topic unless it is there; how many queues it has, and whether it was there.
async fn ensure_topic(admin: &Admin, topic: &str, queues: u32, meter: &BrokerMeter) -> Result<(u32, bool)> {
    let mut existed = true;
    let deadline = tokio::time::Instant::now() + TOPIC_WITHIN;
    let mut last = anyhow::anyhow!("the nameserver does not know it");
    while tokio::time::Instant::now() < deadline {
        meter.check_alive()?;
        match admin.routes(&[topic]).await {
            Ok(routes) => {
                let found =
                    routes.iter().find(|route| route.name == topic).map_or(0, |route| route.queues.len());
                if found > 0 {
                    return Ok((u32::try_from(found).context("counting queues")?, existed));
                }
            }
            Err(error) => last = error.into(),
        }
        existed = false;
        match admin.create_topic(topic, queues).await {
            Ok(results) => {
                if let Some(error) = results.into_iter().find_map(|result| result.result.err()) {
                    last = error.into();
                }
            }
            Err(error) => last = error.into(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(last.context(format!("topic {topic} was not there after {TOPIC_WITHIN:?}")))
}

fn load(
    kind: Kind,
    args: &LoadArgs,
    placement: &Placement,
    run: u32,
    topic: String,
    queues: u32,
    nameservers: Vec<String>,
) -> Load {
    let window_max = u32::try_from(WINDOW_BYTES_MAX / args.size.high).unwrap_or(u32::MAX).max(1);
    let window = if args.sync_send { 1 } else { args.window.min(window_max) };
    let seconds = args.duration.map_or(DURATION, Duration::from_secs_f64);
    Load {
        run,
        nameservers,
        topic,
        queues,
        group: format!("bench-{run:08x}"),
        start: StartAt::First,
        producers: args.producers,
        consumers: if kind == Kind::Produce { 0 } else { args.consumers },
        sizes: args.size,
        checked: args.verify,
        messages: args.messages,
        duration: args.messages.is_none().then_some(seconds),
        warmup: Duration::from_secs_f64(args.warmup),
        rate: if kind == Kind::Latency { Some(args.rate.unwrap_or(RATE)) } else { args.rate },
        window,
        batch_max: args.batch_max,
        linger: Duration::from_micros(args.linger_us),
        spread: args.spread,
        share_client: args.share_client,
        threads: args.threads,
        cpus: placement.generator.clone(),
        by_second: kind == Kind::Latency,
        backlog: 0,
    }
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
            messages: Some(backlog(args).saturating_sub(u64::from(load.producers)).max(1)),
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

fn config(args: &LoadArgs, load: &Load, placement: &Placement, topic_existed: bool) -> Map<String, Value> {
    let config = json!({
        "nameserver": args.nameserver,
        "own_broker": args.nameserver.is_empty(),
        "topic": load.topic,
        "topic_existed": topic_existed,
        "queues": load.queues,
        "producers": load.producers,
        "consumers": load.consumers,
        "size": args.size.to_string(),
        "messages": args.messages,
        "duration": load.duration.map(|duration| duration.as_secs_f64()),
        "warmup": args.warmup,
        "rate": load.rate,
        "window": load.window,
        "sync_send": args.sync_send,
        "batch_max": args.batch_max,
        "linger_us": args.linger_us,
        "spread": args.spread.name(),
        "share_client": args.share_client,
        "threads": args.threads,
        "pin": placement.generator,
        "broker_pin": placement.broker,
        "cold": args.cold,
        "no_fill": args.no_fill,
        "verify": args.verify,
    });
    match config {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn report(
    kind: Kind,
    args: &LoadArgs,
    config: Map<String, Value>,
    outcome: Outcome,
    warnings: Vec<String>,
) -> Report {
    let mut report = Report::new(kind.name(), config, outcome.count);
    report.warnings = warnings;
    report.latency_us = outcome.latency.percentiles();
    report.service_us = outcome.service.as_ref().and_then(crate::histogram::Latencies::percentiles);
    report.lateness_us = outcome.lateness.as_ref().and_then(crate::histogram::Latencies::percentiles);
    report.end_to_end_us = outcome.end_to_end.percentiles();
    report.broker_cpu_seconds = outcome.broker_cpu_seconds;
    report.client_cpu_seconds = outcome.client_cpu_seconds;
    if let Some(verifier) = &outcome.verifier {
        let sent = (!outcome.sent.is_empty()).then_some(outcome.sent.as_slice());
        report.set_findings(&verifier.finish(sent));
    }
    report.errors = outcome.errors;
    report.consumed = outcome.consumed;
    report.per_second = outcome.per_second;
    report.warnings.extend(outcome.warnings);
    report.note_steadiness();
    note_generator(&mut report, args, outcome.busiest);
    report
}

/// Says when the figures are the generator's and not the broker's.
fn note_generator(report: &mut Report, args: &LoadArgs, busiest: f64) {
    if busiest > BUSY_MAX {
        let percent = busiest * 100.0;
        report.warnings.push(format!(
            "the generator is the bottleneck: a thread of it was busy for {percent:.0} % of the time (see --threads)"
        ));
    }
    if let Some(lateness) = report.lateness_us.filter(|lateness| lateness.p99 > LATENESS_US_MAX) {
        report.warnings.push(format!(
            "the generator fell behind its timetable: p99 {:.0} us, max {:.0} us (latency counts from the timetable)",
            lateness.p99, lateness.max
        ));
    }
    if let Some(rate) = args.rate {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let share = report.messages_per_second / rate as f64;
        if share < 0.99 {
            let percent = share * 100.0;
            report.warnings.push(format!("only {percent:.1} % of the rate asked for was acknowledged"));
        }
    }
    if cfg!(debug_assertions) {
        report.warnings.push("a debug build: the figures say nothing".to_owned());
    }
}

/// Whether a folder can be written to, told before anything is started.
pub(crate) fn check_json_path(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    ensure!(dir.is_dir(), "--json: there is no folder {}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised() {
        for yes in ["127.0.0.1:9493", "localhost:1", "[::1]:9493", "127.8.0.1:1"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["10.0.0.1:9493", "broker.example:1", "[2001:db8::1]:1"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

    #[test]
    fn a_backlog_fits_the_cache_or_does_not() {
        assert_eq!(memory_limit(false, 500_000_000), "3GiB");
        assert_eq!(memory_limit(false, 1), "1GiB");
        assert_eq!(memory_limit(false, u64::MAX / 8), "16GiB");
        assert_eq!(memory_limit(true, 1), COLD_MEMORY);
    }
}
