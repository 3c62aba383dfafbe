//! Puts a load on a broker: threads with producers and consumers, started together, watched, stopped together.
//!
//! A run has three stages: *prepare* (clients connect, each producer has its first message acknowledged, consumers own
//! their queues), *go* (from here on the timetable runs; what counts begins after the warm-up), *stop*.

mod collector;
mod consuming;
mod ledger;
mod maker;
mod moments;
mod pace;
mod part;
mod producing;
mod scenes;
mod thread;
mod watcher;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use equeue_client::{Client, StartAt};
use tokio::sync::{mpsc, watch};

use crate::cli::Spread;
use crate::hlog::Hlog;
use crate::keys::Keys;
use crate::meter::BrokerMeter;
use crate::progress::Progress;
use crate::report::{Backlog, Consumed, Count, Outage, Second};
use crate::sizes::Sizes;
use crate::stop::StopRequest;
use crate::times::Times;
use crate::verify::{Sent, Verifier};
use collector::Collector;
use consuming::{QueueProgress, Receiving};
use ledger::Span;
use moments::Moments;
use part::Part;
pub(crate) use scenes::OutagePlan;

/// What all loads of a run share.
pub(crate) struct Stand {
    /// The broker, from outside.
    pub meter: BrokerMeter,
    /// What is shown.
    pub progress: Progress,
    /// The wish to end.
    pub stop: StopRequest,
    /// The histogram log.
    pub hlog: Option<RefCell<Hlog>>,
    moments: Arc<Moments>,
}

impl Stand {
    pub(crate) fn new(meter: BrokerMeter, progress: Progress, stop: StopRequest, hlog: Option<Hlog>) -> Self {
        Self { meter, progress, stop, hlog: hlog.map(RefCell::new), moments: Arc::new(Moments::new()) }
    }
}

/// What is put on the broker.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// What it is, for logs.
    pub what: &'static str,
    /// Number of the run, in every body.
    pub run: u32,
    /// Where the cluster is asked for.
    pub nameservers: Vec<String>,
    /// Topics of the messages.
    pub topics: Vec<String>,
    /// Queues of each topic; of the one that has the most, where they differ.
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
    pub sizes: Sizes,
    /// Keys of the messages.
    pub keys: Keys,
    /// Messages are to be delivered so much later.
    pub delay: Duration,
    /// Consumers begin so long after the measured time does.
    pub pause: Option<Duration>,
    /// The broker is ended and started again.
    pub outage: Option<OutagePlan>,
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
    /// Messages that the consumers are to receive when there are no producers.
    pub backlog: u64,
    /// What other runs left in the topic does not count.
    pub own_only: bool,
}

impl Load {
    /// Queues of all topics.
    fn places(&self) -> usize {
        self.topics.len() * self.queues as usize
    }

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
    /// How long messages took.
    pub times: Times,
    /// Failures by code.
    pub errors: BTreeMap<String, u64>,
    /// Second by second.
    pub per_second: Vec<Second>,
    /// What each producer sent, in the order of their numbers.
    pub sent: Vec<Sent>,
    /// Messages acknowledged at any time.
    pub acknowledged_ever: u64,
    /// Delayed messages that came too early.
    pub early: u64,
    /// What consumers that began late had to catch up with.
    pub backlog: Option<Backlog>,
    /// The time without a broker.
    pub outage: Option<Outage>,
    /// Bytes that the broker read from and wrote to disk.
    pub disk: Option<(u64, u64)>,
    /// A stop signal ended it.
    pub interrupted: bool,
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
pub(crate) async fn drive(load: Load, verifier: Option<Verifier>, stand: &Stand) -> Result<Outcome> {
    let load = Arc::new(load);
    let receiving = Arc::new(receiving(&load, verifier, &stand.moments));
    let parts: Vec<Part> = (0..load.threads).map(|index| Part::of(&load, index, &stand.moments)).collect();
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
    let mut hlog = stand.hlog.as_ref().map(RefCell::borrow_mut);
    let collector = Collector::new(&load, &parts, &stand.meter, hlog.as_deref_mut());
    let mut watcher = watcher::Watcher::new(&load, &parts, stand, collector);
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

fn receiving(load: &Load, verifier: Option<Verifier>, moments: &Arc<Moments>) -> Receiving {
    Receiving {
        run: load.run,
        timed: !load.drains() && load.sizes.carries_stamp(),
        drains: load.drains(),
        waits: load.drains() || load.pause.is_some(),
        own_only: load.own_only && load.sizes.carries_stamp(),
        delay_ns: u64::try_from(load.delay.as_nanos()).unwrap_or(u64::MAX),
        topics: (0..).zip(&load.topics).map(|(index, topic)| (topic.clone(), index)).collect(),
        queues: load.queues,
        progress: QueueProgress::new(load.places()),
        moments: Arc::clone(moments),
        verifier: verifier.map(Mutex::new),
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
