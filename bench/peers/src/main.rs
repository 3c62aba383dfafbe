//! Puts the load of `equeue bench produce` on NATS JetStream, through its own Rust client: producers with a connection
//! each, single messages, a window of unacknowledged ones. Prints one JSON object with the keys of `equeue bench --json`
//! that a comparison needs.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, context::PublishAckFuture, stream};
use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

/// Publishes messages and waits for their acknowledgements.
#[derive(Parser, Clone)]
struct Options {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:4222")]
    server: String,
    /// Producers, each with a connection
    #[arg(long, default_value_t = 1)]
    producers: usize,
    /// Streams; producers are shared out between them
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Messages of all producers
    #[arg(long, default_value_t = 100_000)]
    messages: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 1000)]
    size: usize,
    /// Messages in flight per producer
    #[arg(long, default_value_t = 10_000)]
    window: usize,
    /// Process of the server, for its CPU time
    #[arg(long)]
    pid: Option<u32>,
}

/// Times of all producers, ns.
type Times = Arc<Mutex<Histogram<u64>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.producers > 0 && options.streams > 0 && options.window > 0, "counts begin at 1");
    let mut contexts = Vec::new();
    for _ in 0..options.producers {
        contexts.push(connect(&options).await?);
    }
    let admin = contexts.first().context("there is a producer")?;
    for number in 0..options.streams {
        let config = stream::Config {
            name: format!("bench-{number}"),
            subjects: vec![format!("bench.{number}")],
            storage: stream::StorageType::File,
            ..stream::Config::default()
        };
        admin.create_stream(config).await.with_context(|| format!("making stream bench-{number}"))?;
    }
    let times: Times = Arc::new(Mutex::new(Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?));
    let cpu_before = options.pid.and_then(cpu_seconds);
    let begun = Instant::now();
    let each = options.messages / options.producers;
    let producers: Vec<_> = contexts
        .into_iter()
        .enumerate()
        .map(|(number, context)| {
            let subject = format!("bench.{}", number % options.streams);
            tokio::spawn(produce(context, subject, each, options.clone(), Arc::clone(&times)))
        })
        .collect();
    for producer in producers {
        producer.await.context("a producer panicked")??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = options.pid.and_then(cpu_seconds).zip(cpu_before).map(|(after, before)| after - before);
    let messages = each * options.producers;
    let times = times.lock().map_err(|_| anyhow::anyhow!("a producer panicked"))?;
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    let result = serde_json::json!({
        "command": "nats", "messages": messages, "seconds": seconds,
        "messages_per_second": messages as f64 / seconds,
        "latency_us": {"p50": us(0.5), "p90": us(0.9), "p99": us(0.99), "p99_9": us(0.999), "p99_99": us(0.9999),
                       "max": times.max() as f64 / 1000.0},
        "broker_cpu_seconds": cpu,
    });
    println!("{result}");
    Ok(())
}

async fn connect(options: &Options) -> Result<jetstream::Context> {
    let client = async_nats::ConnectOptions::new()
        .client_capacity(options.window.max(1024))
        .connect(&options.server)
        .await
        .with_context(|| format!("connecting to {}", options.server))?;
    // The window is this program's: the client's own bound and time limits shall not be what is measured.
    let context = jetstream::context::ContextBuilder::new()
        .max_ack_inflight(options.window)
        .timeout(Duration::from_secs(30))
        .ack_timeout(Duration::from_secs(30))
        .build(client);
    Ok(context)
}

/// Publishes with a full window: the channel between sending and settling holds what is in flight.
async fn produce(
    context: jetstream::Context,
    subject: String,
    messages: usize,
    options: Options,
    times: Times,
) -> Result<()> {
    if options.window == 1 {
        return produce_one_by_one(&context, &subject, messages, &options, &times).await;
    }
    let (sent, mut in_flight) = mpsc::channel::<(Instant, PublishAckFuture)>(options.window);
    let settle = tokio::spawn(async move {
        while let Some((begun, ack)) = in_flight.recv().await {
            ack.await.context("an acknowledgement")?;
            record(&times, begun);
        }
        anyhow::Ok(())
    });
    let body = Bytes::from(vec![0x5a; options.size]);
    for _ in 0..messages {
        let begun = Instant::now();
        let ack = context.publish(subject.clone(), body.clone()).await.context("publishing")?;
        if sent.send((begun, ack)).await.is_err() {
            break;
        }
    }
    drop(sent);
    settle.await.context("settling panicked")?
}

async fn produce_one_by_one(
    context: &jetstream::Context,
    subject: &str,
    messages: usize,
    options: &Options,
    times: &Times,
) -> Result<()> {
    let body = Bytes::from(vec![0x5a; options.size]);
    for _ in 0..messages {
        let begun = Instant::now();
        let ack = context.publish(subject.to_owned(), body.clone()).await.context("publishing")?;
        ack.await.context("an acknowledgement")?;
        record(times, begun);
    }
    Ok(())
}

fn record(times: &Times, begun: Instant) {
    let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    if let Ok(mut times) = times.lock() {
        times.saturating_record(ns.max(1));
    }
}

/// User and system time of a process, s.
fn cpu_seconds(pid: u32) -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((fields.next()?.ok()? + fields.next()?.ok()?) / TICKS_PER_SECOND)
}
