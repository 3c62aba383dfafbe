//! Puts a load on a broker: threads with producers and consumers, started together, watched, stopped together.
//!
//! A run has three stages: *prepare* (clients connect, each producer has its first message acknowledged, consumers own
//! their queues), *go* (from here on the timetable runs; what counts begins after the warm-up), *stop*.

mod consuming;
mod ledger;
mod pace;
mod producing;
mod thread;
mod watcher;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use equeue_client::{Client, StartAt};
use tokio::sync::{mpsc, watch};

use crate::cli::{SizeRange, Spread};
use crate::histogram::Latencies;
use crate::meter::BrokerMeter;
use crate::progress::Progress;
use crate::report::{Consumed, Count, Second};
use crate::verify::{Sent, Verifier};
use consuming::{ConsumeTally, QueueProgress, Receiving};
use ledger::{Ledger, Span};
use thread::Part;

/// What is put on the broker.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Load {
    /// Number of the run, in every body.
    pub run: u32,
    /// Where the cluster is asked for.
    pub nameservers: Vec<String>,
    /// Topic of the messages.
    pub topic: String,
    /// Its queues.
    pub queues: u32,
    /// Group of the consumers.
    pub group: String,
    /// Where the consumers begin.
    pub start: StartAt,
    /// Producers.
    pub producers: u32,
    /// Consumers.
    pub consumers: u32,
    /// Sizes of the bodies.
    pub sizes: SizeRange,
    /// Bodies carry a checksum.
    pub checked: bool,
    /// Ends after so many counted messages of all producers.
    pub messages: Option<u64>,
    /// Ends after this time.
    pub duration: Option<Duration>,
    /// Time at the start that does not count.
    pub warmup: Duration,
    /// Open loop at this rate.
    pub rate: Option<u64>,
    /// Messages in flight per producer.
    pub window: u32,
    /// Largest batch.
    pub batch_max: Option<usize>,
    /// How long a batch waits for company.
    pub linger: Duration,
    /// How messages are spread over the queues.
    pub spread: Spread,
    /// One client for all of a thread.
    pub share_client: bool,
    /// Threads.
    pub threads: u32,
    /// CPUs of the threads, dealt out in turn; empty: any.
    pub cpus: Vec<usize>,
    /// Percentiles second by second are wanted.
    pub by_second: bool,
    /// Messages that the consumers are to receive when there are no producers.
    pub backlog: u64,
    /// What other runs left in the topic does not count.
    pub own_only: bool,
}

impl Load {
    /// Only consumers, of a backlog.
    const fn drains(&self) -> bool {
        self.producers == 0
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Connecting.
    Prepare,
    /// The load is on.
    Go {
        /// Where the timetable begins.
        start_ns: u64,
        /// What counts.
        span: Span,
    },
    /// It is over.
    Stop,
}

/// What a thread tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// Its clients are connected.
    Prepared,
    /// Its producers have nothing more to send, and all their answers.
    Produced,
    /// It cannot go on.
    Failed(anyhow::Error),
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Acknowledged in the measured time; without producers: received.
    pub count: Count,
    /// Received, when there were producers and consumers.
    pub consumed: Option<Consumed>,
    /// To the acknowledgement.
    pub latency: Latencies,
    /// Without the generator's lateness.
    pub service: Option<Latencies>,
    /// The generator's lateness.
    pub lateness: Option<Latencies>,
    /// Until a consumer had it.
    pub end_to_end: Latencies,
    /// Failures by code.
    pub errors: BTreeMap<String, u64>,
    /// Second by second.
    pub per_second: Vec<Second>,
    /// What each producer sent, in the order of their numbers.
    pub sent: Vec<Sent>,
    /// Messages acknowledged at any time.
    pub acknowledged_ever: u64,
    /// What looked at the bodies.
    pub verifier: Option<Verifier>,
    /// CPU time of the broker, s.
    pub broker_cpu_seconds: Option<f64>,
    /// CPU time of this process, s.
    pub client_cpu_seconds: f64,
    /// CPU time of everything else on the machine, s; `None` when the broker may be elsewhere.
    pub others_cpu_seconds: Option<f64>,
    /// The time over which CPU time was counted, s.
    pub cpu_counted_seconds: f64,
    /// Share of its time that the busiest thread computed.
    pub busiest: f64,
    /// What limits the worth of the figures.
    pub warnings: Vec<String>,
}

/// Puts the load on and waits until it is through.
pub(crate) async fn drive(
    load: Load,
    verifier: Option<Verifier>,
    meter: &BrokerMeter,
    progress: &Progress,
) -> Result<Outcome> {
    let load = Arc::new(load);
    let receiving = Arc::new(Receiving {
        run: load.run,
        timed: !load.drains() && load.sizes.carries_stamp(),
        drains: load.drains(),
        own_only: load.own_only && load.sizes.carries_stamp(),
        progress: QueueProgress::new(),
        verifier: verifier.map(Mutex::new),
    });
    let parts: Vec<Part> = (0..load.threads).map(|index| part(&load, index)).collect();
    let (stage, _) = watch::channel(Stage::Prepare);
    let (events, mut inbox) = mpsc::unbounded_channel();
    let mut threads = Vec::with_capacity(parts.len());
    for part in &parts {
        let name = format!("generator-{}", part.index);
        let (load, receiving, part) = (Arc::clone(&load), Arc::clone(&receiving), part.clone());
        let (stage, events) = (stage.subscribe(), events.clone());
        let body = move || {
            thread::run(&load, &receiving, &part, stage, &events).unwrap_or_else(|error| {
                let _ = events.send(Event::Failed(error));
                thread::Busy::default()
            })
        };
        threads.push(std::thread::Builder::new().name(name).spawn(body).context("starting a thread")?);
    }
    let mut watcher = watcher::Watcher::new(&load, &parts, meter, progress);
    let ended = watcher.watch(&stage, &mut inbox).await;
    stage.send_replace(Stage::Stop);
    let mut busy_ns = Vec::with_capacity(threads.len());
    for thread in threads {
        let busy =
            tokio::task::spawn_blocking(move || thread.join()).await.context("waiting for a thread")?;
        let busy = busy.map_err(|_| anyhow::anyhow!("a thread of the generator panicked"))?;
        busy_ns.push(busy);
    }
    ended?;
    let verifier = Arc::into_inner(receiving)
        .and_then(|receiving| receiving.verifier)
        .map(|verifier| verifier.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    let outcome = watcher.outcome();
    let busiest = busy_ns.iter().map(|busy| watcher::ratio(busy.cpu_ns, busy.wall_ns)).fold(0.0, f64::max);
    Ok(Outcome { verifier, busiest, ..outcome })
}

/// Deals producers, consumers and CPUs out in turn.
fn part(load: &Load, index: u32) -> Part {
    let mine = |count: u32| (0..count).filter(|number| number % load.threads == index).collect::<Vec<u32>>();
    let producers = mine(load.producers);
    let cpu = load.cpus.get(index as usize % load.cpus.len().max(1));
    let ledger = Ledger::new(producers.len(), load.window, load.rate.is_some(), load.by_second);
    Part {
        index,
        consumers: mine(load.consumers),
        cpus: cpu.map(|cpu| vec![*cpu]).unwrap_or_default(),
        ledger: Arc::new(Mutex::new(ledger)),
        tally: Arc::new(Mutex::new(ConsumeTally::new(load.by_second))),
        producers,
    }
}

/// A client of the cluster behind these nameservers.
pub(crate) async fn connect(nameservers: &[String], name: &str) -> Result<Client> {
    Client::builder()
        .nameservers(nameservers.iter().cloned())
        .client_id(name)
        .connect()
        .await
        .with_context(|| format!("connecting {name} to nameservers {}", nameservers.join(", ")))
}

/// Short name of an error: the broker's code where there is one, else the kind of failure.
pub(crate) fn outcome_name(error: &impl Debug) -> String {
    let text = format!("{error:?}");
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        text.get(..end).unwrap_or_default().to_owned()
    };
    text.split_once(" code: ").map_or_else(|| word(&text), |(_, code)| word(code))
}

#[cfg(test)]
mod tests {
    use equeue_client::{Code, SendError};

    use super::*;

    #[test]
    fn errors_are_counted_by_code() {
        let refused =
            SendError::Refused { broker: "b".into(), topic: "t".into(), queue: 1, code: Code::DiskFull };
        assert_eq!(outcome_name(&refused), "DiskFull");
        assert_eq!(outcome_name(&SendError::Closed), "Closed");
        let no_route = SendError::NoRoute { topic: "t".into(), reason: "r".into() };
        assert_eq!(outcome_name(&no_route), "NoRoute");
    }
}
