//! `equeue dlq`: messages that a group failed to handle for good.
//!
//! Where the group's own offset stands in its dead-letter queues says what was seen to: purging moves it to the end.

use clap::Subcommand;
use equeue_client::{Admin, Client, ClientError, Message, MessageId, Offset, ProducerOptions, Received};
use equeue_net::api::OffsetAt;
use equeue_record::system;
use serde::Serialize;

use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::message::{in_words, line};
use crate::output::{Format, Output, Table, to_stderr};

/// What to do with dead letters.
#[derive(Subcommand, Debug)]
pub(crate) enum DlqCommand {
    /// List the dead letters of a group, oldest first in each queue
    List {
        /// The group
        #[arg(long)]
        group: String,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show one dead letter with its history
    Show {
        /// Its id, as `dlq list` prints it
        id: MessageId,
        /// The group
        #[arg(long)]
        group: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Give dead letters to the group again, their attempts counted from the start
    Resend {
        /// The group
        #[arg(long)]
        group: String,
        /// Only this one; it stays in the list
        #[arg(long)]
        id: Option<MessageId>,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Forget the dead letters of a group
    Purge {
        /// The group
        #[arg(long)]
        group: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Dead letters of one queue that were not purged.
struct Letters {
    queue: u32,
    from: Offset,
    to: Offset,
}

/// A dead letter in a list.
#[derive(Serialize)]
struct Row {
    id: String,
    broker: String,
    queue: u32,
    offset: u64,
    origin_topic: Option<String>,
    origin_queue: Option<u32>,
    origin_offset: Option<u64>,
    attempts: Option<u32>,
    first_failed_ms: Option<i64>,
    last_failed_ms: Option<i64>,
    reason: Option<String>,
    bytes: usize,
}

#[derive(Serialize)]
struct Listing {
    group: String,
    /// All of them, shown or not.
    dead_letters: u64,
    letters: Vec<Row>,
}

#[derive(Serialize)]
struct Done {
    group: String,
    /// Letters resent or purged.
    dead_letters: u64,
}

/// Runs one of the commands.
pub(crate) async fn run(command: DlqCommand, format: Format) -> anyhow::Result<()> {
    match command {
        DlqCommand::List { group, limit, cluster } => list(&group, limit, &cluster, format).await,
        DlqCommand::Show { id, group, cluster } => show(&id, &group, &cluster, format).await,
        DlqCommand::Resend { group, id, cluster } => resend(&group, id, &cluster, format).await,
        DlqCommand::Purge { group, cluster } => purge(&group, &cluster, format).await,
    }
}

/// What is there; nothing for a group that never had a dead letter.
async fn letters(admin: &Admin, group: &str, cluster: &ClusterArgs) -> anyhow::Result<Vec<Letters>> {
    let topic = Admin::dead_letter_topic(group);
    let ends = match admin.list_offsets(&topic, OffsetAt::Last).await {
        Ok(ends) => ends,
        Err(ClientError::TopicNotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(cluster.explain(error)),
    };
    let starts = admin.list_offsets(&topic, OffsetAt::First).await.map_err(|error| cluster.explain(error))?;
    let purged = admin.fetch_offsets(group, &topic).await.map_err(|error| cluster.explain(error))?;
    let mut letters = Vec::new();
    for ((end, start), purged) in ends.into_iter().zip(starts).zip(purged) {
        let explain = |error| cluster.explain(error);
        let purged = purged.result.map_err(explain)?.unwrap_or_default();
        let from = start.result.map_err(explain)?.max(purged);
        letters.push(Letters { queue: end.queue, from, to: end.result.map_err(explain)? });
    }
    Ok(letters)
}

fn count(letters: &[Letters]) -> u64 {
    letters.iter().map(|one| one.to.0.saturating_sub(one.from.0)).sum()
}

async fn list(group: &str, limit: usize, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let letters = letters(&admin, group, cluster).await?;
    let topic = Admin::dead_letter_topic(group);
    let mut rows = Vec::new();
    for queue in &letters {
        for offset in queue.from.0..queue.to.0 {
            if rows.len() == limit {
                break;
            }
            let found = admin.message_at(&topic, queue.queue, Offset(offset)).await;
            rows.extend(found.map_err(|error| cluster.explain(error))?.as_ref().map(row));
        }
    }
    client.close().await;
    let listing = Listing { group: group.to_owned(), dead_letters: count(&letters), letters: rows };
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&listing)?,
        Format::Table => {
            let mut table = Table::new(&["ID", "TOPIC", "QUEUE", "OFFSET", "ATTEMPTS", "BYTES", "REASON"]);
            for row in &listing.letters {
                let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
                table.row([
                    row.id.clone(),
                    row.origin_topic.clone().unwrap_or_else(|| "-".to_owned()),
                    number(row.origin_queue.map(u64::from)),
                    number(row.origin_offset),
                    number(row.attempts.map(u64::from)),
                    row.bytes.to_string(),
                    row.reason.clone().unwrap_or_default(),
                ]);
            }
            table.print(&mut output, "no dead letters")?;
            let left = listing.dead_letters.saturating_sub(listing.letters.len() as u64);
            if left > 0 {
                output.line(format!("and {left} more; `--limit` shows them"))?;
            }
        }
    }
    output.flush()
}

fn row(message: &Received) -> Row {
    let text = |name: &str| {
        let header = message.headers.iter().find(|header| &*header.name == name)?;
        header.value.as_deref().map(|value| String::from_utf8_lossy(value).into_owned())
    };
    Row {
        id: message.id().to_string(),
        broker: message.broker.to_string(),
        queue: message.queue,
        offset: message.offset.0,
        origin_topic: text(system::ORIGIN_TOPIC),
        origin_queue: text(system::ORIGIN_QUEUE).and_then(|text| text.parse().ok()),
        origin_offset: text(system::ORIGIN_OFFSET).and_then(|text| text.parse().ok()),
        attempts: text(system::ATTEMPT).and_then(|text| text.parse().ok()),
        first_failed_ms: text(system::FIRST_FAILED_MS).and_then(|text| text.parse().ok()),
        last_failed_ms: text(system::LAST_FAILED_MS).and_then(|text| text.parse().ok()),
        reason: text(system::REASON),
        bytes: message.body.as_ref().map_or(0, bytes::Bytes::len),
    }
}

/// The dead letter of an id.
async fn find(admin: &Admin, id: &MessageId, group: &str, cluster: &ClusterArgs) -> anyhow::Result<Received> {
    let found = admin.get_message(id).await.map_err(|error| cluster.explain(error))?;
    let topic = Admin::dead_letter_topic(group);
    found.filter(|message| *message.topic == *topic).ok_or_else(|| {
        anyhow::anyhow!(
            "{id} is no dead letter of group {group}; `equeue dlq list --group {group}` shows them"
        )
    })
}

async fn show(id: &MessageId, group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let message = find(&client.admin(), id, group, cluster).await?;
    client.close().await;
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&line(&message))?,
        Format::Table => in_words(&message, &mut output)?,
    }
    output.flush()
}

async fn resend(
    group: &str,
    id: Option<MessageId>,
    cluster: &ClusterArgs,
    format: Format,
) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let mut sent = 0;
    if let Some(id) = id {
        let message = find(&admin, &id, group, cluster).await?;
        send(&client, group, &message).await?;
        sent = 1;
    } else {
        let topic = Admin::dead_letter_topic(group);
        for queue in letters(&admin, group, cluster).await? {
            for offset in queue.from.0..queue.to.0 {
                let found = admin.message_at(&topic, queue.queue, Offset(offset)).await;
                if let Some(message) = found.map_err(|error| cluster.explain(error))? {
                    send(&client, group, &message).await?;
                    sent += 1;
                }
                // One by one: whatever interrupts this, nothing is sent again but perhaps the last one.
                let next = Offset(offset).plus(1);
                let commit = admin.commit_offset(group, &topic, queue.queue, next).await;
                commit.map_err(|error| cluster.explain(error))?;
            }
        }
    }
    client.close().await;
    tell(group, sent, "resent", format)
}

/// Puts a copy into the group's retry queue, without the count of its attempts.
async fn send(client: &Client, group: &str, message: &Received) -> anyhow::Result<()> {
    let kept = message.headers.iter().filter(|header| {
        let own = [system::ATTEMPT, system::ID, system::REASON, system::LAST_FAILED_MS];
        !own.contains(&header.name.as_str())
    });
    let headers: Vec<(&str, Option<&[u8]>)> =
        kept.map(|header| (header.name.as_str(), header.value.as_deref())).collect();
    let topic = Admin::retry_topic(group);
    let copy = Message {
        topic: &topic,
        key: message.key.as_deref(),
        tag: message.tag.as_deref(),
        code: message.code,
        headers: &headers,
        body: message.body.as_deref(),
        create_time_ms: Some(message.create_time_ms),
        deliver_at_ms: None,
        queue: None,
    };
    let producer = client.producer(ProducerOptions { auto_create: false, ..ProducerOptions::default() });
    let sent = producer.send(&copy).await;
    producer.close().await;
    sent.map(drop).map_err(anyhow::Error::from)
}

async fn purge(group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let letters = letters(&admin, group, cluster).await?;
    let topic = Admin::dead_letter_topic(group);
    let mut failed = false;
    let mut purged = 0;
    for queue in letters.iter().filter(|queue| queue.from < queue.to) {
        match admin.commit_offset(group, &topic, queue.queue, queue.to).await {
            Ok(_) => purged += queue.to.0 - queue.from.0,
            Err(error) => {
                failed = true;
                to_stderr(&format!("equeue: queue {}: {:#}", queue.queue, cluster.explain(error)));
            }
        }
    }
    client.close().await;
    tell(group, purged, "purged", format)?;
    if failed { Err(Told.into()) } else { Ok(()) }
}

fn tell(group: &str, dead_letters: u64, what: &str, format: Format) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Done { group: group.to_owned(), dead_letters })?,
        Format::Table => output.line(format!("{dead_letters} dead letters of group {group} {what}"))?,
    }
    output.flush()
}
