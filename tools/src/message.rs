//! `equeue message`: looks at single messages.

use clap::Subcommand;
use equeue_client::{Admin, Client, MessageId, Offset, Received};
use equeue_net::api::OffsetAt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connect::{self, ClusterArgs};
use crate::output::{Format, Output, Table};
use crate::show::MessageLine;
use crate::topic;

/// Which message.
#[derive(Subcommand, Debug)]
pub(crate) enum MessageCommand {
    /// Show the message of an id, as `produce` and `consume` print it
    Get {
        /// The id
        id: MessageId,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show the message at a place
    At {
        /// Its topic
        #[arg(long)]
        topic: String,
        /// Ordinal of its queue
        #[arg(long)]
        queue: u32,
        /// Its offset
        #[arg(long)]
        offset: u64,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show the last message of each queue of a topic
    Latest {
        /// The topic
        #[arg(long)]
        topic: String,
        /// Only queues of this broker
        #[arg(long)]
        broker: Option<String>,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(command: MessageCommand, format: Format) -> anyhow::Result<()> {
    match command {
        MessageCommand::Get { id, cluster } => {
            let client = cluster.client().await?;
            let found = client.admin().get_message(&id).await.map_err(|error| cluster.explain(error))?;
            let gone =
                || format!("message {id} is not there: it was never stored, or belongs to another cluster");
            one(client, found, gone, format).await
        }
        MessageCommand::At { topic, queue, offset, cluster } => {
            let client = cluster.client().await?;
            known(&client.admin(), &topic).await?;
            let found = client.admin().message_at(&topic, queue, Offset(offset)).await;
            let found = found.map_err(|error| cluster.explain(error))?;
            let gone = || {
                format!(
                    "queue {queue} of topic {topic} has no message at offset {offset}; \
                     `equeue topic describe {topic}` shows which it has"
                )
            };
            one(client, found, gone, format).await
        }
        MessageCommand::Latest { topic, broker, cluster } => {
            let client = cluster.client().await?;
            known(&client.admin(), &topic).await?;
            latest(&client, &topic, broker.as_deref(), &cluster, format).await?;
            client.close().await;
            Ok(())
        }
    }
}

async fn known(admin: &Admin, name: &str) -> anyhow::Result<()> {
    if topic::is_surely_missing(admin, name).await {
        Err(connect::no_such_topic(admin, name).await)
    } else {
        Ok(())
    }
}

async fn one(
    client: Client,
    found: Option<Received>,
    gone: impl FnOnce() -> String,
    format: Format,
) -> anyhow::Result<()> {
    client.close().await;
    let message = found.ok_or_else(|| anyhow::anyhow!(gone()))?;
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&line(&message))?,
        Format::Table => in_words(&message, &mut output)?,
    }
    output.flush()
}

fn line(message: &Received) -> MessageLine<'_> {
    MessageLine { id: message.id().to_string(), message, in_full: true }
}

fn in_words(message: &Received, output: &mut Output) -> anyhow::Result<()> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    output.line(format!("id      {}", message.id()))?;
    output.line(format!(
        "place   topic {}, queue {} on {}, offset {}",
        message.topic, message.queue, message.broker, message.offset
    ))?;
    output.line(format!("created {}", instant(message.create_time_ms)))?;
    output.line(format!("stored  {}", instant(message.append_time_ms)))?;
    output.line(format!("code    {}", message.code))?;
    if let Some(key) = &message.key {
        output.line(format!("key     {}", text(key)))?;
    }
    if let Some(tag) = &message.tag {
        output.line(format!("tag     {tag}"))?;
    }
    for header in &message.headers {
        let value = header.value.as_deref().map(text).unwrap_or_default();
        output.line(format!("header  {}: {value}", header.name))?;
    }
    let body = message.body.as_deref().unwrap_or_default();
    output.line(format!("body    {} bytes", body.len()))?;
    output.bytes(body)?;
    output.bytes(b"\n")
}

fn instant(millis: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{millis} ms"))
}

async fn latest(
    client: &Client,
    topic: &str,
    broker: Option<&str>,
    cluster: &ClusterArgs,
    format: Format,
) -> anyhow::Result<()> {
    let admin = client.admin();
    let ends = admin.list_offsets(topic, OffsetAt::Last).await.map_err(|error| cluster.explain(error))?;
    let mut messages = Vec::new();
    for end in ends.into_iter().filter(|end| broker.is_none_or(|wanted| *end.broker == *wanted)) {
        let next = end.result.map_err(|error| cluster.explain(error))?;
        let Some(last) = next.0.checked_sub(1) else { continue };
        if let Some(message) = admin.message_at(topic, end.queue, Offset(last)).await? {
            messages.push(message);
        }
    }
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&messages.iter().map(line).collect::<Vec<_>>())?,
        Format::Table => {
            let mut table = Table::new(&["QUEUE", "BROKER", "OFFSET", "STORED", "BYTES", "ID"]);
            for message in &messages {
                table.row([
                    message.queue.to_string(),
                    message.broker.to_string(),
                    message.offset.to_string(),
                    instant(message.append_time_ms),
                    message.body.as_ref().map_or(0, bytes::Bytes::len).to_string(),
                    message.id().to_string(),
                ]);
            }
            table.print(&mut output, "no messages yet")?;
        }
    }
    output.flush()
}
