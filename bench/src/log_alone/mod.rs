//! `bench storage`: the commit log alone on an executor of its own, without a network.
//!
//! Tasks append prebuilt batches, each with one in flight, and wait until it is durable: what the log does for a
//! broker, without the broker. So its figures are the ceiling of the broker's.

mod appending;
mod check;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use equeue_record::QueueKey;
use equeue_storage::io::blocking_threads;
use glommio::{LocalExecutorBuilder, Placement};
use serde_json::{Map, Value, json};

use crate::cli::StorageArgs;
use crate::environment::{Environment, Mount};
use crate::machine;
use crate::own_broker::check_space;
use crate::progress::Progress;
use crate::report::{Count, Report};
use crate::scratch::Scratch;
use crate::stop::StopRequest;
use appending::{Appending, Sums};

/// Memory that the executor registers for I/O, bytes.
const IO_MEMORY_BYTES: usize = 16 << 20;
/// Longest time that a task keeps the executor from looking at its rings.
const PREEMPT: Duration = Duration::from_millis(1);
/// Default length of a run.
const DURATION: Duration = Duration::from_secs(10);
/// Bytes per second that no disk of a single log is expected to pass, to see that there is room.
const BYTES_PER_SECOND_MAX: u64 = 4_000_000_000;
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the executor's thread is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the log lies.
    pub dir: PathBuf,
    /// The options.
    pub args: StorageArgs,
    /// Counted time, unless a number of messages ends the run.
    pub duration: Option<Duration>,
    /// Set from outside: stop now.
    pub stop: Arc<AtomicBool>,
    /// A stop signal came.
    pub interrupted: Arc<AtomicBool>,
    /// Counts to be looked at from outside.
    pub sums: Arc<Sums>,
}

/// Runs the command to its result. A stop signal ends it in order.
pub(crate) fn measure(args: &StorageArgs) -> Result<Report> {
    let environment = Environment::here();
    let scratch = Scratch::new(args.data.as_deref())?;
    let seconds = args.duration.map_or(DURATION, Duration::from_secs_f64);
    let duration = args.messages.is_none().then_some(seconds);
    let bytes_wanted = match args.messages {
        Some(messages) => 2 * messages * args.size.high as u64,
        None => (seconds.as_secs() + 1).saturating_mul(BYTES_PER_SECOND_MAX),
    };
    // A log that is kept at a size has what is being written and prepared beside it.
    let bytes_wanted = args.log_max.map_or(bytes_wanted, |most| bytes_wanted.min(2 * most));
    check_space(scratch.path(), bytes_wanted)?;
    let cpu = cpu(args)?;
    let plan = Plan {
        dir: scratch.path().to_path_buf(),
        args: args.clone(),
        duration,
        stop: Arc::new(AtomicBool::new(false)),
        interrupted: Arc::new(AtomicBool::new(false)),
        sums: Arc::new(Sums::default()),
    };
    let appending = run_watched(&plan, cpu)?;
    let count = appending.count();
    let mut report = Report::new("storage", config(args, cpu, duration), count);
    report.latency_us = appending.latency.percentiles();
    report.client_cpu_seconds = appending.cpu_seconds;
    report.set_others(appending.others_cpu_seconds, count.seconds);
    report.errors = appending.errors;
    report.per_second = appending.per_second;
    if let Some(findings) = &appending.findings {
        report.set_findings(findings);
    }
    report.curves = BTreeMap::from([("response", appending.latency.curve())]);
    report.environment = environment;
    report.environment.data = Mount::of(scratch.path());
    report.interrupted = plan.interrupted.load(Ordering::Relaxed);
    if report.interrupted {
        report.warnings.push("interrupted: these are the figures so far".to_owned());
    }
    if scratch.in_memory() {
        report
            .warnings
            .push(format!("{} lies in memory: syncing costs nothing there", scratch.path().display()));
    }
    if cfg!(debug_assertions) {
        report.warnings.push("a debug build: the figures say nothing".to_owned());
    }
    report.note_steadiness();
    Ok(report)
}

/// Runs the executor on a thread of its own, and shows how far it is.
fn run_watched(plan: &Plan, cpu: usize) -> Result<Appending> {
    let (plan_there, (ended, mut end)) = (plan.clone(), tokio::sync::oneshot::channel());
    let placement = Placement::Fixed(cpu);
    let threads = blocking_threads(&placement, 1);
    let executor = LocalExecutorBuilder::new(placement)
        .name("log-alone")
        .blocking_thread_pool_placement(threads)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT)
        .spawn(move || async move {
            let _ = ended.send(appending::append(plan_there).await);
        })
        .map_err(|error| anyhow!("starting an executor on CPU {cpu}: {error}"))?;
    let progress = Progress::new("storage", false);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let stop = StopRequest::default();
    stop.measuring();
    let result = runtime.block_on(async {
        let mut signals = std::pin::pin!(stop.watch_signals());
        loop {
            tokio::select! {
                result = &mut end => return result.context("the executor ended without a result")?,
                ended = &mut signals => {
                    ended?;
                    bail!("stopped by a signal");
                }
                () = tokio::time::sleep(LOOK_EVERY) => progress.show(plan.sums.durable(), 0, None),
            }
            if stop.is_asked() {
                plan.stop.store(true, Ordering::Relaxed);
            }
        }
    });
    plan.interrupted.store(stop.is_asked(), Ordering::Relaxed);
    progress.finish();
    plan.stop.store(true, Ordering::Relaxed);
    executor.join().map_err(|error| anyhow!("the executor of the log failed: {error}"))?;
    result
}

/// The CPU of the log.
fn cpu(args: &StorageArgs) -> Result<usize> {
    let allowed = machine::allowed_cpus()?;
    let cpu = match &args.pin {
        Some(list) => list.0.first(),
        None => allowed.first(),
    };
    let cpu = *cpu.context("no CPU is allowed here")?;
    ensure!(allowed.contains(&cpu), "CPU {cpu} is not among the CPUs allowed here: {allowed:?}");
    Ok(cpu)
}

fn config(args: &StorageArgs, cpu: usize, duration: Option<Duration>) -> Map<String, Value> {
    let config = json!({
        "tasks": args.tasks,
        "queues": args.queues,
        "size": args.size.to_string(),
        "batch_messages": args.batch_messages,
        "messages": args.messages,
        "duration": duration.map(|duration| duration.as_secs_f64()),
        "warmup": args.warmup,
        "depth": args.depth,
        "flush_max": args.flush_max,
        "log_max": args.log_max,
        "pin": [cpu],
        "verify": args.verify,
    });
    match config {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The key of a queue: any number but 0 will do.
fn queue_key(queue: u32) -> QueueKey {
    QueueKey(1 << 40 | u64::from(queue))
}

impl Appending {
    /// What was durable in the counted time.
    fn count(&self) -> Count {
        Count { messages: self.messages, bytes: self.bytes, seconds: self.seconds }
    }
}
