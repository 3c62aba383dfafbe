//! `equeue queue`: queues of a topic added, opened, closed and removed.

use clap::{Args, Subcommand};
use equeue_client::{Admin, BrokerResult, ClientError, Code};
use equeue_net::api::TopicSnapshot;
use serde::Serialize;

use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::topic;

/// What to do with queues.
#[derive(Subcommand, Debug)]
pub(crate) enum QueueCommand {
    /// Add queues to a topic, on each of its brokers
    Add {
        /// Topic
        #[arg(long)]
        topic: String,
        /// Queues on each broker
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        count: u32,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Remove the last queues of a topic: forbid sending first, drain them, forbid consuming
    Remove {
        /// Topic
        #[arg(long)]
        topic: String,
        /// How many, over all brokers
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Also when messages are lost that a group has not consumed, and while the queues are open
        #[arg(long)]
        force: bool,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Allow sending
    AllowSend(Which),
    /// Forbid sending: what is there can be consumed
    ForbidSend(Which),
    /// Allow consuming
    AllowConsume(Which),
    /// Forbid consuming
    ForbidConsume(Which),
}

/// Queues of a topic.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Topic
    #[arg(long)]
    topic: String,
    /// Only this queue; may be given again [default: all]
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<u32>,
    /// Where
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(command: QueueCommand, format: Format) -> anyhow::Result<()> {
    match command {
        QueueCommand::Add { topic, count, cluster } => {
            change(&topic, &cluster, format, async |admin| admin.add_queues(&topic, count).await).await
        }
        QueueCommand::Remove { topic, count, force, cluster } => {
            change(&topic, &cluster, format, async |admin| admin.remove_queues(&topic, count, force).await)
                .await
        }
        QueueCommand::AllowSend(which) => access(&which, format, Some(true), None).await,
        QueueCommand::ForbidSend(which) => access(&which, format, Some(false), None).await,
        QueueCommand::AllowConsume(which) => access(&which, format, None, Some(true)).await,
        QueueCommand::ForbidConsume(which) => access(&which, format, None, Some(false)).await,
    }
}

async fn access(
    which: &Which,
    format: Format,
    send: Option<bool>,
    consume: Option<bool>,
) -> anyhow::Result<()> {
    let Which { topic, queue, cluster } = which;
    change(topic, cluster, format, async |admin| admin.set_queue_access(topic, queue, send, consume).await)
        .await
}

#[derive(Serialize)]
struct BrokerRow {
    broker: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Changed<'a> {
    topic: &'a str,
    ok: bool,
    brokers: Vec<BrokerRow>,
}

async fn change(
    name: &str,
    cluster: &ClusterArgs,
    format: Format,
    ask: impl AsyncFnOnce(Admin) -> Result<Vec<BrokerResult<Option<TopicSnapshot>>>, ClientError>,
) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    if topic::is_surely_missing(&admin, name).await {
        return Err(connect::no_such_topic(&admin, name).await);
    }
    let answers = ask(admin).await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    // A broker without queues of the topic has nothing to do.
    let concerned = answers.into_iter().filter(|answer| {
        !matches!(answer.result, Err(ClientError::Refused { code: Code::TopicNotFound, .. }))
    });
    let brokers: Vec<BrokerRow> = concerned.map(row).collect();
    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Changed { topic: name, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "QUEUES", "RESULT"]);
            for row in brokers {
                let queues = row.queues.map_or_else(|| "-".to_owned(), |queues| queues.to_string());
                table.row([row.broker, queues, row.error.unwrap_or_else(|| "ok".to_owned())]);
            }
            table.print(&mut output, "no broker has queues of the topic")?;
            if !ok {
                output.line("Repeating the command completes it where it failed.")?;
            }
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

fn row(answer: BrokerResult<Option<TopicSnapshot>>) -> BrokerRow {
    let broker = answer.broker.to_string();
    match answer.result {
        Ok(snapshot) => BrokerRow {
            broker,
            ok: true,
            version: snapshot.as_ref().map(|snapshot| snapshot.version),
            queues: snapshot.map(|snapshot| snapshot.queues.len()),
            error: None,
        },
        Err(error) => {
            BrokerRow { broker, ok: false, version: None, queues: None, error: Some(error.to_string()) }
        }
    }
}
