//! The brokers that are measured, and the topic on them.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result};
use equeue_client::Admin;

use super::Kind;
use crate::cli::{CpuList, LoadArgs};
use crate::meter::BrokerMeter;
use crate::own_broker::{OwnBroker, OwnBrokerOptions, check_space};
use crate::placement::Placement;
use crate::scratch::Scratch;

/// Memory of the own broker when the backlog is to be read from disk; a quarter of it is cache.
const COLD_MEMORY: &str = "256MiB";
/// How long a new topic may take until the nameserver knows it.
const TOPIC_WITHIN: Duration = Duration::from_secs(30);

/// The brokers to measure, own or not (`None`).
pub(super) fn find(
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
    let backlog_bytes = super::setup::backlog(args) * args.size.mean() as u64;
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

/// Creates the topic unless it is there; how many queues it has, and whether it was there.
pub(super) async fn ensure_topic(
    admin: &Admin,
    topic: &str,
    queues: u32,
    meter: &BrokerMeter,
) -> Result<(u32, bool)> {
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
