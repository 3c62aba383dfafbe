//! `equeue produce`: a line is a message, many in flight, each told when it is acknowledged.
//!
//! Three parties: a thread that reads lines, the producer, and a thread that writes results. Each waits for the next
//! one, so memory stays bounded whatever is slow: lines by the producer's window, results by permits that are
//! given back once a result is written.

mod lines;
mod results;

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use equeue_client::{Admin, Client, Message, Producer, ProducerOptions, SendError};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;

use crate::connect::{self, ClusterArgs};
use crate::failure::{OutputClosed, Told};
use crate::output::Format;
use crate::stop::Stop;
use crate::topic;
use lines::Lines;
use results::{Event, Outcome, Tally};

/// Results that may wait to be written, and messages that may be in flight, together.
const IN_FLIGHT_MAX: usize = 10_000;
/// Chunks of lines that may wait for the producer.
const CHUNKS_MAX: usize = 2;
/// Pause before the route to a topic is asked for again.
const ROUTE_RETRY: Duration = Duration::from_millis(200);

/// What to send.
#[derive(clap::Args, Debug)]
pub(crate) struct ProduceArgs {
    /// Topic to send to
    #[arg(long)]
    topic: String,
    /// Key of every message: all go to the same queue, in order
    #[arg(long)]
    key: Option<String>,
    /// Tag of every message, for consumers to filter by
    #[arg(long)]
    tag: Option<String>,
    /// File to read instead of stdin
    #[arg(long)]
    file: Option<PathBuf>,
    /// Consumers see the messages only after so long
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    delay: Option<Duration>,
    /// How long a message may wait for its acknowledgement, a broker that is away included
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = timeout)]
    timeout: Duration,
    /// Where
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// `30s`, `500ms`, or a bare number of seconds.
fn timeout(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    if parsed.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(parsed) }
}

/// Runs the command.
///
/// # Errors
/// [`Told`] when a message failed: each has been told by its line.
pub(crate) async fn run(args: ProduceArgs, format: Format) -> anyhow::Result<()> {
    let (source, bar) = open(&args)?;
    let client = args.cluster.client().await?;
    let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let (results, received) = mpsc::channel();
    let writer = results::start(received, format, Arc::clone(&permits), bar.clone())?;
    let producer = client.producer(options(&args, &results));

    let begun = Instant::now();
    let lines = lines::start(source, CHUNKS_MAX)?;
    let sending = Sending { args: &args, admin: client.admin(), producer, permits, results, bar };
    let stop_reason = sending.all(lines).await;
    finish(client, sending.producer).await;
    // A writer that has ended already has seen its reader go.
    let _ = sending.results.send(Event::End);

    let tally = writer.join().map_err(|_| anyhow::anyhow!("the writer of results panicked"))?;
    if let Some(bar) = sending.bar {
        bar.finish_and_clear();
    }
    conclude(stop_reason, tally, begun.elapsed())
}

fn open(args: &ProduceArgs) -> anyhow::Result<(Box<dyn Read + Send>, Option<ProgressBar>)> {
    let Some(path) = &args.file else { return Ok((Box::new(io::stdin()), None)) };
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
    let bar = io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}");
        ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    Ok((Box::new(file), bar))
}

fn options(args: &ProduceArgs, results: &mpsc::Sender<Event>) -> ProducerOptions {
    let results = results.clone();
    ProducerOptions {
        send_timeout: args.timeout,
        window_messages: IN_FLIGHT_MAX,
        on_delivery: Some(Arc::new(move |outcomes| {
            for (line, result) in outcomes.iter() {
                // The writer ends early only when nobody reads our stdout any more.
                let _ = results.send(Event::Line(line, Outcome::from(result)));
            }
        })),
        ..ProducerOptions::default()
    }
}

/// Waits for what is in flight; a second Ctrl-C does not (see [`Stop`]).
async fn finish(client: Client, producer: Producer) {
    producer.close().await;
    client.close().await;
}

struct Sending<'a> {
    args: &'a ProduceArgs,
    admin: Admin,
    producer: Producer,
    permits: Arc<Semaphore>,
    results: mpsc::Sender<Event>,
    bar: Option<ProgressBar>,
}

impl Sending<'_> {
    /// Sends until the lines end, a stop signal comes, or something makes the rest pointless.
    async fn all(&self, lines: tokio::sync::mpsc::Receiver<io::Result<Lines>>) -> anyhow::Result<()> {
        let mut stop = Stop::listen()?;
        tokio::select! {
            biased;
            signal = stop.requested() => Err(anyhow::anyhow!("stopped by {signal} before the end of the input")),
            result = self.every_line(lines) => result,
        }
    }

    async fn every_line(
        &self,
        mut lines: tokio::sync::mpsc::Receiver<io::Result<Lines>>,
    ) -> anyhow::Result<()> {
        while let Some(chunk) = lines.recv().await {
            let chunk = chunk.context("cannot read the input")?;
            for (line, body) in chunk.iter() {
                // Closed by the writer, once nobody reads its results.
                let Ok(permit) = self.permits.acquire().await else { return Err(OutputClosed.into()) };
                permit.forget();
                match body {
                    Ok(body) => self.one(line, body).await?,
                    Err(too_long) => {
                        drop(self.results.send(Event::Line(line, Outcome::Failed(too_long.to_string()))));
                    }
                }
            }
            if let Some(bar) = &self.bar {
                bar.inc(chunk.bytes());
            }
        }
        Ok(())
    }

    /// Hands one line to the producer. A topic that nobody serves right now is waited for like a broker that is
    /// away; one that surely does not exist ends the command.
    async fn one(&self, line: u64, body: &[u8]) -> anyhow::Result<()> {
        let message = Message {
            topic: &self.args.topic,
            key: self.args.key.as_deref().map(str::as_bytes),
            tag: self.args.tag.as_deref(),
            body: Some(body),
            ..Message::default()
        };
        let message = self.args.delay.map_or(message, |delay| message.delay(delay));
        let deadline = Instant::now() + self.args.timeout;
        loop {
            let Err(error) = self.producer.enqueue_with(&message, line).await else { return Ok(()) };
            if matches!(error, SendError::NoRoute { .. }) {
                if topic::is_surely_missing(&self.admin, &self.args.topic).await {
                    return Err(connect::no_such_topic(&self.admin, &self.args.topic).await);
                }
                if Instant::now() < deadline {
                    tokio::time::sleep(ROUTE_RETRY).await;
                    continue;
                }
            }
            drop(self.results.send(Event::Line(line, Outcome::Failed(error.to_string()))));
            return Ok(());
        }
    }
}

fn conclude(stop_reason: anyhow::Result<()>, tally: Tally, elapsed: Duration) -> anyhow::Result<()> {
    let all = tally.acknowledged + tally.failed;
    if all > 0 || stop_reason.is_ok() {
        // A count for people: the loss of precision past 2^52 messages is theirs to bear.
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = tally.acknowledged as f64 / elapsed.as_secs_f64().max(1e-6);
        crate::output::to_stderr(&format!(
            "{} of {all} messages acknowledged, {} failed, in {:.3} s ({rate:.0} messages/s)",
            tally.acknowledged,
            tally.failed,
            elapsed.as_secs_f64(),
        ));
    }
    if tally.output_closed {
        return Err(OutputClosed.into());
    }
    stop_reason?;
    if tally.failed == 0 { Ok(()) } else { Err(Told.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_durations_or_seconds() {
        assert_eq!(timeout("30"), Ok(Duration::from_secs(30)));
        assert_eq!(timeout("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(timeout("0").is_err() && timeout("soon").is_err());
    }
}
