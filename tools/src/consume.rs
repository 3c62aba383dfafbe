//! `equeue consume`: prints messages, and commits exactly what it printed.
//!
//! Messages are pulled in chunks; a chunk is written to stdout and handed over, then committed, then the next one is
//! pulled. Whatever ends the command between those steps, a message that is committed was printed; one that was
//! printed but not committed is printed again by the next run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use equeue_client::{Admin, Client, ClientError, Consumer, ConsumerOptions, Received, StartAt, Subscription};
use equeue_net::api::OffsetAt;

use crate::connect::{self, ClusterArgs};
use crate::output::{Format, Output};
use crate::show::MessageLine;
use crate::stop::Stop;
use crate::topic;

/// Messages of one chunk.
const CHUNK_MESSAGES: usize = 1_000;
/// How long a pull waits before the ends are looked at again.
const PULL_WAIT: Duration = Duration::from_millis(200);
/// How often the brokers are asked how far the other members of the group are.
const ASK_EVERY: Duration = Duration::from_millis(500);
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
    /// Consumer group; its members share the queues, its committed offsets say where to go on
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
        ends = ends(&client, &args) => ends,
    };
    let result = match result {
        Ok(ends) => follow(&mut printing, ends, stop).await,
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

/// With `--until-end`, where the queues end now, whoever reads them. Waits for brokers that are away: a queue that
/// nobody serves right now has an end too.
async fn ends(client: &Client, args: &ConsumeArgs) -> anyhow::Result<Option<Ends>> {
    if !args.until_end {
        return Ok(None);
    }
    let admin = client.admin();
    let deadline = Instant::now() + ENDS_PATIENCE;
    loop {
        let answers = admin.list_offsets(&args.topic, OffsetAt::Last).await;
        let ends: Result<HashMap<u32, u64>, ClientError> = answers
            .and_then(|answers| answers.into_iter().map(|end| Ok((end.queue, end.result?.0))).collect());
        let error = match ends {
            Ok(ends) => {
                let (group, topic) = (args.group.clone(), args.topic.clone());
                return Ok(Some(Ends { admin, group, topic, left: ends, asked: Instant::now() }));
            }
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(args.cluster.explain(error).context("cannot tell where the queues end"));
        }
        tokio::time::sleep(PULL_WAIT).await;
    }
}

async fn follow(printing: &mut Printing, mut ends: Option<Ends>, mut stop: Stop) -> anyhow::Result<()> {
    loop {
        if printing.left == Some(0) {
            return Ok(());
        }
        if let Some(ends) = &mut ends
            && ends.reached(&printing.consumer).await
        {
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
struct Ends {
    admin: Admin,
    group: String,
    topic: String,
    /// Queues that the group has not read so far.
    left: HashMap<u32, u64>,
    /// When the brokers were last asked how far the other members are.
    asked: Instant,
}

impl Ends {
    /// Whether the group has come that far: this member by what it printed, the others by what they committed.
    async fn reached(&mut self, consumer: &Consumer) -> bool {
        let owned: HashMap<u32, u64> =
            consumer.positions().into_iter().map(|at| (at.queue, at.next.0)).collect();
        self.left.retain(|queue, end| *end > 0 && owned.get(queue).is_none_or(|next| next < end));
        let others = self.left.keys().any(|queue| !owned.contains_key(queue));
        if others && self.asked.elapsed() >= ASK_EVERY {
            self.asked = Instant::now();
            let committed = self.admin.fetch_offsets(&self.group, &self.topic).await.unwrap_or_default();
            for at in committed.into_iter().filter(|at| !owned.contains_key(&at.queue)) {
                let reached = at.result.ok().flatten().map_or(0, |offset| offset.0);
                self.left.retain(|queue, end| *queue != at.queue || *end > reached);
            }
        }
        self.left.is_empty()
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
