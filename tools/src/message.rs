//! `equeue message`: looks at single messages.

use clap::Subcommand;
use equeue_client::{Admin, Client, Delayed, MessageId, Offset, Received};
use equeue_net::api::OffsetAt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
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
    /// Take back a delayed message that is not due yet
    Cancel {
        /// Its id, as `produce` prints it
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
        MessageCommand::Get { id, cluster } if id.queue.is_delay_queue() => {
            let client = cluster.client().await?;
            let found = client.admin().delayed(&id).await.map_err(|error| cluster.explain(error))?;
            client.close().await;
            delayed(&id, found, "delivered or cancelled", format)
        }
        MessageCommand::Cancel { id, cluster } => {
            let client = cluster.client().await?;
            let found = client.admin().cancel_delayed(&id).await.map_err(|error| cluster.explain(error))?;
            client.close().await;
            let pending = found.is_some_and(|found| found.pending);
            cancelled(&id, found, format)?;
            if pending { Ok(()) } else { Err(Told.into()) }
        }
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

/// A delayed message in JSON; it has no place before it is due.
#[derive(serde::Serialize)]
struct DelayedLine {
    id: String,
    pending: bool,
    deliver_at_ms: Option<i64>,
    queue: Option<u32>,
    offset: Option<u64>,
}

impl DelayedLine {
    fn new(id: &MessageId, found: Delayed) -> Self {
        let Delayed { pending, due_ms } = found;
        Self { id: id.to_string(), pending, deliver_at_ms: due_ms, queue: None, offset: None }
    }
}

/// A delayed message that was asked for.
fn delayed(id: &MessageId, found: Option<Delayed>, else_is: &str, format: Format) -> anyhow::Result<()> {
    let found = found.ok_or_else(|| not_delayed(id))?;
    let mut output = Output::stdout();
    match (format, found.pending) {
        (Format::Json, _) => output.json(&DelayedLine::new(id, found))?,
        (Format::Table, true) => {
            let due = found.due_ms.map_or_else(|| "at a time that cannot be read".to_owned(), instant);
            output.line(format!("id      {id}\nstate   pending\ndue     {due}"))?;
        }
        (Format::Table, false) => output.line(format!("id      {id}\nstate   {else_is}"))?,
    }
    output.flush()
}

/// What became of taking a message back.
fn cancelled(id: &MessageId, found: Option<Delayed>, format: Format) -> anyhow::Result<()> {
    let found = found.ok_or_else(|| not_delayed(id))?;
    let mut output = Output::stdout();
    match (format, found.pending) {
        (Format::Json, _) => output.json(&DelayedLine::new(id, found))?,
        (Format::Table, true) => output.line(format!("message {id} is cancelled"))?,
        (Format::Table, false) => output.line(format!("message {id} was delivered or cancelled before"))?,
    }
    output.flush()
}

fn not_delayed(id: &MessageId) -> anyhow::Error {
    anyhow::anyhow!("{id} names no delayed message of this cluster, or its broker cannot be reached")
}

pub(crate) fn line(message: &Received) -> MessageLine<'_> {
    MessageLine { id: message.id().to_string(), message, in_full: true }
}

pub(crate) fn in_words(message: &Received, output: &mut Output) -> anyhow::Result<()> {
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
