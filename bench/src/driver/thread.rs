//! One thread of the generator: a current-thread runtime with its share of the producers and consumers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use equeue_client::{
    Client, Consumer, ConsumerOptions, HashOfKey, ProducerOptions, QueueSelector, RoundRobin, Subscription,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::consuming::{PREFETCH_BYTES, Receiving, consume};
use super::ledger::{Ledger, Span};
use super::part::Part;
use super::producing::{Sender, settle_in};
use super::{Event, Load, Stage};
use crate::cli::Spread;
use crate::machine;

/// How long closing a client may take at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// How busy a thread was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    /// CPU time from the start to the end of the load.
    pub cpu_ns: u64,
    /// The time between.
    pub wall_ns: u64,
}

/// Runs a part to its end.
pub(crate) fn run(
    load: &Arc<Load>,
    receiving: &Arc<Receiving>,
    part: &Part,
    stage: watch::Receiver<Stage>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<Busy> {
    if !part.cpus.is_empty() {
        machine::bind_to(&part.cpus)?;
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let busy = runtime.block_on(drive_part(load, receiving, part, stage, events));
    runtime.shutdown_timeout(CLOSE_WITHIN);
    busy
}

async fn drive_part(
    load: &Arc<Load>,
    receiving: &Arc<Receiving>,
    part: &Part,
    mut stage: watch::Receiver<Stage>,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<Busy> {
    let mut clients = Clients { load: Arc::clone(load), open: Vec::new() };
    let mut senders = Vec::with_capacity(part.producers.len());
    for (place, number) in part.producers.iter().enumerate() {
        let producer =
            clients.next("producer", *number).await?.producer(producer_options(load, &part.ledger));
        let mut sender = Sender::new(Arc::clone(load), producer, part, place, *number)?;
        sender.prime().await?;
        senders.push(sender);
    }
    let mut receivers = JoinSet::new();
    start_consumers(&mut clients, &mut receivers, receiving, part, &stage).await?;
    let _ = events.send(Event::Prepared);
    let Some((start_ns, span)) = wait_for_start(&mut stage).await else { return Ok(Busy::default()) };
    let (wall, cpu) = (machine::now_ns(), machine::thread_cpu_ns());
    let mut sending: JoinSet<Result<()>> =
        senders.into_iter().map(|sender| sender.run(start_ns, span)).collect();
    let produced = async {
        while let Some(ended) = sending.join_next().await {
            ended.context("a producer panicked")??;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = produced => outcome?,
        () = stopped(&mut stage) => {}
    }
    let mut busy = Busy { cpu_ns: machine::thread_cpu_ns() - cpu, wall_ns: machine::now_ns() - wall };
    let _ = events.send(Event::Produced);
    stopped(&mut stage).await;
    if !part.consumers.is_empty() {
        busy = Busy { cpu_ns: machine::thread_cpu_ns() - cpu, wall_ns: machine::now_ns() - wall };
    }
    receivers.shutdown().await;
    clients.close().await;
    Ok(busy)
}

async fn start_consumers(
    clients: &mut Clients,
    receivers: &mut JoinSet<()>,
    receiving: &Arc<Receiving>,
    part: &Part,
    stage: &watch::Receiver<Stage>,
) -> Result<()> {
    for number in &part.consumers {
        let consumer = clients.consumer(*number).await?;
        let (receiving, tally) = (Arc::clone(receiving), Arc::clone(&part.tally));
        receivers.spawn(consume(consumer, *number, receiving, tally, stage.clone()));
    }
    Ok(())
}

/// `None` when the run ends before it starts.
async fn wait_for_start(stage: &mut watch::Receiver<Stage>) -> Option<(u64, Span)> {
    let stage = stage.wait_for(|stage| !matches!(stage, Stage::Prepare)).await.ok()?;
    match *stage {
        Stage::Go { start_ns, span } => Some((start_ns, span)),
        Stage::Prepare | Stage::Stop => None,
    }
}

async fn stopped(stage: &mut watch::Receiver<Stage>) {
    let _ = stage.wait_for(|stage| matches!(stage, Stage::Stop)).await;
}

fn producer_options(load: &Load, ledger: &Arc<Mutex<Ledger>>) -> ProducerOptions {
    let mut options = ProducerOptions {
        linger: load.linger,
        window_messages: load.window as usize,
        on_delivery: Some(settle_in(ledger)),
        auto_create: false,
        selector: selector(load.spread),
        ..ProducerOptions::default()
    };
    options.window_bytes = options.window_bytes.max(2 * load.sizes.high);
    if let Some(batch_max) = load.batch_max {
        options.batch_bytes_max = batch_max;
    }
    options
}

fn selector(spread: Spread) -> Arc<dyn QueueSelector> {
    match spread {
        Spread::Client | Spread::Producer => Arc::new(HashOfKey::default()),
        Spread::Message => Arc::new(RoundRobin::default()),
    }
}

/// The clients of a thread.
struct Clients {
    load: Arc<Load>,
    open: Vec<Client>,
}

impl Clients {
    /// A client for one more producer or consumer.
    async fn next(&mut self, role: &str, number: u32) -> Result<Client> {
        if self.load.share_client
            && let Some(client) = self.open.first()
        {
            return Ok(client.clone());
        }
        let client = super::connect(&self.load.nameservers, &format!("bench-{role}-{number}")).await?;
        self.open.push(client.clone());
        Ok(client)
    }

    async fn consumer(&mut self, number: u32) -> Result<Consumer> {
        let client = self.next("consumer", number).await?;
        let options = ConsumerOptions {
            group: self.load.group.clone(),
            topics: self.load.topics.iter().map(Subscription::all).collect(),
            start: self.load.start,
            instance: format!("bench-{number}"),
            prefetch_bytes: PREFETCH_BYTES,
            ..ConsumerOptions::default()
        };
        client.consumer(options).await.context("starting a consumer")
    }

    async fn close(self) {
        let close = futures::future::join_all(self.open.iter().map(Client::close));
        if tokio::time::timeout(CLOSE_WITHIN, close).await.is_err() {
            tracing::debug!("clients did not close within {CLOSE_WITHIN:?}");
        }
    }
}
