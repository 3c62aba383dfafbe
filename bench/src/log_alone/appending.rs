//! The tasks that append to the log, and the clock that counts them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use equeue_record::{BatchBuilder, Codec, ProducerStamp, RecordFields};
use equeue_storage::io::DmaIo;
use equeue_storage::log::{AppendError, CommitLog, LogOptions};
use equeue_storage::retention::{NoAdvisor, RetentionPolicy};
use equeue_storage::types::LogId;
use futures::future::select;
use glommio::timer::sleep;

use super::{Plan, check, queue_key};
use crate::driver::outcome_name;
use crate::histogram::Latencies;
use crate::machine::{all_cpu_ns, now_ns, process_cpu_ns};
use crate::report::Second;
use crate::schedule::{SECOND_NS, share};
use crate::stamp::Stamp;
use crate::verify::Findings;
use crate::workload::BodyPool;

/// Pause of a task whose append found the log busy.
const PAUSE: Duration = Duration::from_micros(200);
/// Time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Counts to be looked at from another thread.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    durable: AtomicU64,
}

impl Sums {
    /// Messages durable so far.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Relaxed)
    }
}

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Appending {
    /// From the append until it was durable.
    pub latency: Latencies,
    /// Messages that became durable in the counted time.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The counted time.
    pub seconds: f64,
    /// CPU time of the process in it: the executor and the kernel's workers.
    pub cpu_seconds: f64,
    /// CPU time of everything else on the machine in it.
    pub others_cpu_seconds: Option<f64>,
    /// Failed appends by kind.
    pub errors: BTreeMap<String, u64>,
    /// Second by second.
    pub per_second: Vec<Second>,
    /// What reading everything back found.
    pub findings: Option<Findings>,
}

/// What the tasks of the executor share.
struct Shared {
    plan: Plan,
    log: CommitLog<DmaIo>,
    /// A batch, and the bytes of its bodies.
    batches: Vec<(Bytes, u64)>,
    tally: RefCell<Appending>,
    /// What counts, ns of the run's clock.
    from_ns: Cell<u64>,
    until_ns: Cell<u64>,
    /// Durable messages of each queue, at any time.
    durable: Vec<Cell<u64>>,
    last_ns: Cell<u64>,
}

/// Opens a log, appends, closes it.
pub(crate) async fn append(plan: Plan) -> Result<Appending> {
    let io = DmaIo::new(&plan.dir).await.context("preparing direct I/O")?;
    let mut options = LogOptions { flush_depth: usize::from(plan.args.depth), ..LogOptions::default() };
    if let Some(flush_max) = plan.args.flush_max {
        options.flush_bytes_max = flush_max;
    }
    let (log, _) =
        CommitLog::open(io, plan.dir.join("log-0"), LogId(0), options).await.context("opening the log")?;
    for queue in 0..plan.args.queues {
        log.open_queue(queue_key(queue));
    }
    let shared = Rc::new(Shared {
        batches: batches(&plan)?,
        durable: (0..plan.args.queues).map(|_| Cell::new(0)).collect(),
        tally: RefCell::new(Appending::default()),
        from_ns: Cell::new(u64::MAX),
        until_ns: Cell::new(u64::MAX),
        last_ns: Cell::new(0),
        log,
        plan,
    });
    let tasks: Vec<_> = (0..shared.plan.args.tasks)
        .map(|task| glommio::spawn_local(append_task(Rc::clone(&shared), task)))
        .collect();
    match shared.plan.args.log_max {
        None => watch(&shared).await,
        Some(bytes) => {
            select(pin!(watch(&shared)), pin!(keep_at(&shared.log, bytes))).await;
        }
    }
    for task in tasks {
        task.await?;
    }
    let mut tally = shared.tally.take();
    if shared.plan.args.messages.is_some() {
        tally.seconds = seconds(shared.last_ns.get().saturating_sub(shared.from_ns.get()));
    }
    if shared.plan.args.verify {
        let expected: Vec<u64> = shared.durable.iter().map(Cell::get).collect();
        tally.findings = Some(check::read_back(&shared.log, &expected).await?);
    }
    shared.log.close().await.map_err(|error| anyhow!("closing the log: {error}"))?;
    Ok(tally)
}

/// Lets old segments go whenever one is used up, for ever.
async fn keep_at(log: &CommitLog<DmaIo>, bytes: u64) {
    let policy = RetentionPolicy { age_ms: None, bytes_max: Some(bytes), ..RetentionPolicy::default() };
    let mut begun = 0;
    loop {
        begun = log.rolled(begun).await;
        if let Err(error) = log.retain(&policy, &NoAdvisor).await {
            tracing::warn!(%error, "old segments stay");
        }
    }
}

/// A few different batches, which the tasks append again and again: the log copies them anyway.
fn batches(plan: &Plan) -> Result<Vec<(Bytes, u64)>> {
    const BATCHES: u64 = 8;
    (0..BATCHES).map(|seed| batch(plan, seed)).collect()
}

fn batch(plan: &Plan, seed: u64) -> Result<(Bytes, u64)> {
    let messages = plan.args.batch_messages;
    let bytes_max = (messages as usize).saturating_mul(plan.args.size.high + 64) + 4096;
    let mut builder = BatchBuilder::new(Codec::None, bytes_max);
    let mut pool = BodyPool::new(plan.args.size.clone(), seed);
    let mut bytes = 0;
    for sequence in 0..u64::from(messages) {
        let size = pool.next_size();
        let stamp = Stamp { run: 0, producer: 0, sequence, sent_ns: 0 };
        let fields = RecordFields { body: Some(pool.body(size, &stamp, true)), ..RecordFields::default() };
        if let Err(error) = builder.push(&fields) {
            bail!("{messages} messages of {} bytes are no batch: {error}", plan.args.size);
        }
        bytes += size as u64;
    }
    Ok((builder.finish(ProducerStamp::NONE).context("building a batch")?, bytes))
}

/// Appends batch after batch, each when the one before is durable.
async fn append_task(shared: Rc<Shared>, task: u32) -> Result<()> {
    let args = &shared.plan.args;
    let messages = u64::from(args.batch_messages);
    let queue = task % args.queues;
    let quota = args.messages.map(|total| share(total.div_ceil(messages), task, args.tasks));
    let (batch, bytes) =
        shared.batches.get(task as usize % shared.batches.len()).context("there are batches")?.clone();
    let mut counted = 0;
    while quota.is_none_or(|quota| counted < quota) && !shared.plan.stop.load(Ordering::Relaxed) {
        let begun = now_ns();
        if begun >= shared.until_ns.get() {
            break;
        }
        let appended = match shared.log.append(queue_key(queue), batch.clone()) {
            Ok(appended) => appended,
            Err(error @ AppendError::Busy { .. }) => {
                *shared.tally.borrow_mut().errors.entry(outcome_name(&error)).or_insert(0) += 1;
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => bail!("appending: {error}"),
        };
        shared
            .log
            .wait_durable(appended.ticket)
            .await
            .map_err(|error| anyhow!("waiting for a flush: {error}"))?;
        shared.note(queue, begun, messages, bytes);
        counted += u64::from(begun >= shared.from_ns.get());
    }
    Ok(())
}

impl Shared {
    fn note(&self, queue: u32, begun_ns: u64, messages: u64, bytes: u64) {
        let now = now_ns();
        self.last_ns.set(now);
        if let Some(durable) = self.durable.get(queue as usize) {
            durable.set(durable.get() + messages);
        }
        self.plan.sums.durable.fetch_add(messages, Ordering::Relaxed);
        let mut tally = self.tally.borrow_mut();
        if (self.from_ns.get()..self.until_ns.get()).contains(&now) {
            tally.messages += messages;
            tally.bytes += bytes;
        }
        if begun_ns >= self.from_ns.get() {
            tally.latency.record(now - begun_ns);
        }
    }
}

/// Starts and stops what counts, and takes the count of each second.
async fn watch(shared: &Rc<Shared>) {
    let args = &shared.plan.args;
    sleep(Duration::from_secs_f64(args.warmup)).await;
    let from_ns = now_ns();
    shared.from_ns.set(from_ns);
    let until_ns = shared.plan.duration.map_or(u64::MAX, |duration| {
        from_ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    });
    shared.until_ns.set(until_ns);
    let (cpu, all) = (process_cpu_ns(), all_cpu_ns());
    let (mut last, mut next_second) = (0, from_ns + SECOND_NS);
    loop {
        sleep(LOOK_EVERY).await;
        let now = now_ns();
        let messages = shared.tally.borrow().messages;
        let enough = args.messages.is_some_and(|total| messages >= total) || Rc::strong_count(shared) == 1;
        if now >= next_second {
            let mut tally = shared.tally.borrow_mut();
            let second = u32::try_from(tally.per_second.len()).unwrap_or(u32::MAX);
            let second = Second { second, seconds: 1.0, acknowledged: messages - last, ..Second::default() };
            tally.per_second.push(second);
            last = messages;
            next_second += SECOND_NS;
        }
        if enough || now >= until_ns || shared.plan.stop.load(Ordering::Relaxed) {
            let mut tally = shared.tally.borrow_mut();
            tally.seconds = seconds(now.min(until_ns) - from_ns);
            let cpu_ns = process_cpu_ns() - cpu;
            tally.cpu_seconds = seconds(cpu_ns);
            let all_ns = all_cpu_ns().zip(all).map(|(after, before)| after - before);
            tally.others_cpu_seconds = all_ns.map(|all_ns| seconds(all_ns.saturating_sub(cpu_ns)));
            return;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a day in ns needs 47 bits")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
