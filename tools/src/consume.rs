//! `equeue consume`: prints messages, and commits exactly what it printed.
//!
//! Messages are pulled in chunks; a chunk is written to stdout and handed over, then committed, then the next one is
//! pulled. Whatever ends the command between those steps, a message that is committed was printed; one that was
//! printed but not committed is printed again by the next run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use equeue_client::{
    Client, ClientError, Consumer, ConsumerOptions, QueueEnd, Received, StartAt, Subscription,
};

use crate::connect::{self, ClusterArgs};
use crate::output::{Format, Output};
use crate::show::MessageLine;
use crate::stop::Stop;
use crate::topic;

/// Messages of one chunk.
const CHUNK_MESSAGES: usize = 1_000;
/// How long a pull waits before the ends are looked at again.
const PULL_WAIT: Duration = Duration::from_millis(200);
/// How long queues that nobody serves are waited for before the command gives up telling their ends.
const ENDS_PATIENCE: Duration = Duration::from_secs(30);
/// How long a broker that is away is waited for before what was printed is left uncommitted.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

/// What to read.
#[derive(clap::Args, Debug)]
pub(crate) struct ConsumeArgs {
    /// Topic to read
    #[arg(long)]
    topic: String,
    /// Consumer group; its committed offsets say where to go on
    #[arg(long)]
    group: String,
    /// Only messages with one of these tags
    #[arg(long, value_delimiter = ',', value_name = "TAG")]
    tags: Vec<String>,
    /// Where to begin in queues that the group has not committed yet: first, last, or time:RFC3339
    #[arg(long, default_value = "first", value_name = "PLACE", value_parser = start_at)]
    from: StartAt,
    /// Stop after so many messages
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop where the queues ended when the command started
    #[arg(long)]
    until_end: bool,
    /// Where
    #[command(flatten)]
    cluster: ClusterArgs,
}

fn start_at(text: &str) -> Result<StartAt, String> {
    match text {
        "first" => Ok(StartAt::First),
        "last" => Ok(StartAt::Last),
        _ => {
            let time = text.strip_prefix("time:").ok_or("must be first, last, or time:RFC3339")?;
            connect::millis(time).map(StartAt::Time)
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: ConsumeArgs, format: Format) -> anyhow::Result<()> {
    let client = args.cluster.client().await?;
    let options = ConsumerOptions {
        group: args.group.clone(),
        topics: vec![Subscription { topic: args.topic.clone(), tags: args.tags.clone() }],
        start: args.from,
        commit_interval: None,
        ..ConsumerOptions::default()
    };
    let mut stop = Stop::listen()?;
    if topic::is_surely_missing(&client.admin(), &args.topic).await {
        return Err(connect::no_such_topic(&client.admin(), &args.topic).await);
    }
    let consumer = client.consumer(options).await.map_err(|error| args.cluster.explain(error))?;
    let mut printing = Printing { consumer, output: Output::stdout(), format, left: args.count };
    let result = tokio::select! {
        biased;
        _ = stop.requested() => Ok(None),
        ends = ends(&printing.consumer, &client, &args) => ends,
    };
    let result = match result {
        Ok(ends) => follow(&mut printing, ends.as_ref(), stop).await,
        Err(error) => Err(error),
    };
    close(client, printing.consumer).await;
    result
}

/// Leaves the group; a failure to say goodbye costs nobody anything.
async fn close(client: Client, consumer: Consumer) {
    if let Err(error) = consumer.close().await {
        tracing::debug!(%error, "the consumer did not close in order");
    }
    client.close().await;
}

struct Printing {
    consumer: Consumer,
    output: Output,
    format: Format,
    /// Messages still wanted; none: no end.
    left: Option<u64>,
}

/// With `--until-end`, where the queues end now. Waits for brokers that are away: a queue that nobody serves right now
/// has an end too.
async fn ends(consumer: &Consumer, client: &Client, args: &ConsumeArgs) -> anyhow::Result<Option<Ends>> {
    if !args.until_end {
        return Ok(None);
    }
    let deadline = Instant::now() + ENDS_PATIENCE;
    loop {
        let failure = match all_ends(consumer, client, &args.topic).await {
            Ok(Some(ends)) => return Ok(Some(ends)),
            Ok(None) => anyhow::anyhow!("not every queue of topic {} is served right now", args.topic),
            Err(error) => args.cluster.explain(error),
        };
        if Instant::now() >= deadline {
            return Err(failure.context("cannot tell where the queues end"));
        }
        tokio::time::sleep(PULL_WAIT).await;
    }
}

/// The ends, once the consumer has every queue of the topic.
async fn all_ends(consumer: &Consumer, client: &Client, topic: &str) -> Result<Option<Ends>, ClientError> {
    let routes = client.admin().routes(&[topic]).await?;
    let queues: usize = routes.iter().map(|route| route.queues.len()).sum();
    let ends = consumer.ends().await?;
    Ok((queues > 0 && ends.len() == queues).then(|| Ends::new(ends)))
}

async fn follow(printing: &mut Printing, ends: Option<&Ends>, mut stop: Stop) -> anyhow::Result<()> {
    loop {
        if printing.left == Some(0) || ends.is_some_and(|ends| ends.reached(&printing.consumer)) {
            return Ok(());
        }
        let max = printing
            .left
            .map_or(CHUNK_MESSAGES, |left| usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_MESSAGES));
        // A stop signal takes effect here only: a pull leaves nothing half done when it is dropped.
        let pulled = tokio::select! {
            biased;
            _ = stop.requested() => return Ok(()),
            pulled = printing.consumer.pull(max, PULL_WAIT) => pulled,
        };
        let messages = match pulled {
            Ok(messages) => messages,
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "nothing can be pulled right now, going on");
                tokio::time::sleep(PULL_WAIT).await;
                continue;
            }
            Err(error) => return Err(error).context("cannot read messages"),
        };
        if !messages.is_empty() {
            printing.print(&messages)?;
            printing.commit().await?;
        }
    }
}

impl Printing {
    /// Writes the messages and hands them to the reader of stdout. Blocks while that one is slow.
    fn print(&mut self, messages: &[Received]) -> anyhow::Result<()> {
        for message in messages {
            match self.format {
                Format::Json => {
                    self.output.json_line(&MessageLine {
                        id: message.id().to_string(),
                        message,
                        in_full: false,
                    })?;
                }
                Format::Table => {
                    self.output.bytes(message.body.as_deref().unwrap_or_default())?;
                    self.output.bytes(b"\n")?;
                }
            }
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(messages.len() as u64);
        }
        self.output.flush()
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            match self.consumer.commit().await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tracing::warn!(%error, "what was printed cannot be committed right now, trying again");
                    tokio::time::sleep(PULL_WAIT).await;
                }
                Err(error) => return Err(error).context("cannot commit what was printed"),
            }
        }
    }
}

/// Where the queues ended when the command started.
struct Ends(HashMap<(Arc<str>, u32), u64>);

impl Ends {
    fn new(ends: Vec<QueueEnd>) -> Self {
        Self(ends.into_iter().map(|end| ((end.topic, end.queue), end.high_watermark.0)).collect())
    }

    fn reached(&self, consumer: &Consumer) -> bool {
        let positions: HashMap<(Arc<str>, u32), u64> =
            consumer.positions().into_iter().map(|at| ((at.topic, at.queue), at.next.0)).collect();
        self.0.iter().all(|(queue, end)| *end == 0 || positions.get(queue).is_some_and(|next| next >= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood() {
        assert_eq!(start_at("first"), Ok(StartAt::First));
        assert_eq!(start_at("last"), Ok(StartAt::Last));
        assert_eq!(start_at("time:1970-01-01T00:00:01.5Z"), Ok(StartAt::Time(1500)));
        assert!(start_at("time:yesterday").is_err());
        assert!(start_at("middle").is_err());
    }
}
