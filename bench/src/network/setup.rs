//! From the options of a command to the load that it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use equeue_client::StartAt;
use serde_json::{Map, Value, json};

use super::Kind;
use crate::cli::{HowEnded, LoadArgs};
use crate::driver::{Load, OutagePlan};
use crate::placement::Placement;

/// Default length of a run.
const DURATION: Duration = Duration::from_secs(10);
/// Default length of each of several runs.
const DURATION_OF_EACH: Duration = Duration::from_secs(5);
/// When the broker of an outage is ended.
const OUTAGE_AT: Duration = Duration::from_secs(2);
/// Default rate of `latency`, messages per second.
pub(super) const RATE: u64 = 10_000;
/// Default bytes of a backlog that is to be read from memory.
const BACKLOG_BYTES: u64 = 500_000_000;
/// Default bytes of a backlog that is to be read from disk.
const COLD_BACKLOG_BYTES: u64 = 2_000_000_000;
/// Bytes in flight per producer at the most, so that the window of the generator never waits for the client's.
const WINDOW_BYTES_MAX: usize = 48 << 20;

/// Messages of a backlog.
pub(super) fn backlog(args: &LoadArgs) -> u64 {
    let bytes = if args.cold { COLD_BACKLOG_BYTES } else { BACKLOG_BYTES };
    args.messages.unwrap_or_else(|| (bytes / args.size.mean().max(1) as u64).max(1))
}

/// What is put on the broker: on these topics of so many queues, at this rate.
pub(super) fn load(
    kind: Kind,
    args: &LoadArgs,
    placement: &Placement,
    run: u32,
    (topics, queues): (Vec<String>, u32),
    rate: Option<u64>,
) -> Load {
    let window_max = u32::try_from(WINDOW_BYTES_MAX / args.size.high).unwrap_or(u32::MAX).max(1);
    let window = if args.sync_send { 1 } else { args.window.min(window_max) };
    let several = args.find_max || !args.sweep.is_empty();
    let default = if several { DURATION_OF_EACH } else { DURATION };
    let seconds = args.duration.map_or(default, Duration::from_secs_f64);
    Load {
        what: kind.name(),
        run,
        nameservers: Vec::new(),
        topics,
        queues,
        group: format!("bench-{run:08x}"),
        start: StartAt::First,
        producers: args.producers,
        consumers: if kind == Kind::Produce { 0 } else { args.consumers },
        sizes: args.size.clone(),
        keys: args.keys,
        delay: Duration::from_millis(args.delay_ms),
        pause: args.backlog.map(Duration::from_secs_f64),
        outage: args.outage.map(|how| OutagePlan {
            killed: how == HowEnded::Kill,
            after: args.outage_at.map_or(OUTAGE_AT, Duration::from_secs_f64),
        }),
        checked: args.verify,
        messages: args.messages,
        duration: args.messages.is_none().then_some(seconds),
        warmup: Duration::from_secs_f64(args.warmup),
        rate: if kind == Kind::Latency { Some(rate.unwrap_or(RATE)) } else { rate },
        window,
        batch_max: args.batch_max,
        linger: Duration::from_micros(args.linger_us),
        spread: args.spread,
        share_client: args.share_client,
        threads: args.threads,
        cpus: placement.generator.clone(),
        backlog: 0,
        own_only: !args.no_fill,
    }
}

/// Old messages of a topic are passed over; the few that are not do not count.
pub(super) fn shortly_before_now() -> StartAt {
    const CLOCKS_DIFFER_MAX: Duration = Duration::from_mins(1);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = since_epoch.saturating_sub(CLOCKS_DIFFER_MAX);
    StartAt::Time(i64::try_from(before.as_millis()).unwrap_or(i64::MAX))
}

/// What was asked for, as the result tells it.
pub(super) fn config(
    args: &LoadArgs,
    load: &Load,
    placement: &Placement,
    topic_existed: bool,
) -> Map<String, Value> {
    let config = json!({
        "nameserver": args.nameserver,
        "own_broker": args.nameserver.is_empty(),
        "topic": load.topics.first(),
        "topics": load.topics.len(),
        "topic_existed": topic_existed,
        "queues": load.queues,
        "producers": load.producers,
        "consumers": load.consumers,
        "size": args.size.to_string(),
        "keys": args.keys.to_string(),
        "delay_ms": args.delay_ms,
        "backlog": args.backlog,
        "outage_at": load.outage.map(|outage| outage.after.as_secs_f64()),
        "outage_kills": load.outage.map(|outage| outage.killed),
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
