//! `equeue topic`: on every broker of the cluster, told per broker.

use std::collections::BTreeMap;

use clap::Subcommand;
use equeue_client::{Admin, BrokerResult, ClientError, Code};
use equeue_net::hidden::is_hidden;
use serde::Serialize;

use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::topic_settings::{self, RetentionArg};

/// What to do with topics.
#[derive(Subcommand, Debug)]
pub(crate) enum TopicCommand {
    /// Create a topic on every broker, or complete a half-created one
    Create {
        /// Name of the topic
        name: String,
        /// Queues on each broker [default: the broker's `default_queues`]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
        queues: Option<u32>,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Delete a topic from every broker, with its messages
    Delete {
        /// Name of the topic
        name: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Set how long the messages of a topic stay; without options show it
    Set {
        /// Name of the topic
        name: String,
        /// `3d`, `12h`, ..; `forever`; `broker`: what the brokers' settings say
        #[arg(long)]
        retention: Option<RetentionArg>,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// List the topics
    List {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show the queues of a topic: where they are and what they hold
    Describe {
        /// Name of the topic
        name: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(command: TopicCommand, format: Format) -> anyhow::Result<()> {
    match command {
        TopicCommand::Create { name, queues, cluster } => {
            create(&name, queues.unwrap_or(0), &cluster, format).await
        }
        TopicCommand::Delete { name, cluster } => delete(&name, &cluster, format).await,
        TopicCommand::Set { name, retention, cluster } => {
            topic_settings::set(&name, retention, &cluster, format).await
        }
        TopicCommand::List { cluster } => list(&cluster, format).await,
        TopicCommand::Describe { name, cluster } => describe(&name, &cluster, format).await,
    }
}

/// What one broker said, as it is printed.
#[derive(Serialize)]
struct BrokerRow {
    broker: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Created<'a> {
    topic: &'a str,
    ok: bool,
    brokers: Vec<BrokerRow>,
}

async fn create(topic: &str, queues: u32, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let answers = client.admin().create_topic(topic, queues).await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    anyhow::ensure!(!answers.is_empty(), "the cluster has no live broker; start one and try again");

    let brokers: Vec<BrokerRow> = answers.into_iter().map(|answer| broker_row(answer, topic)).collect();
    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Created { topic, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "QUEUES", "RESULT"]);
            for row in brokers {
                let queues = row.queues.map_or_else(|| "-".to_owned(), |queues| queues.to_string());
                table.row([row.broker, queues, row.error.unwrap_or_else(|| "ok".to_owned())]);
            }
            table.print(&mut output, "")?;
            if !ok {
                output.line(format!("`equeue topic create {topic}` again completes it where it failed."))?;
            }
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

async fn delete(topic: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    if is_surely_missing(&admin, topic).await {
        return Err(connect::no_such_topic(&admin, topic).await);
    }
    let answers = admin.delete_topic(topic).await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let row = |answer: BrokerResult<()>| BrokerRow {
        broker: answer.broker.to_string(),
        // A broker that does not have it is as it shall be.
        ok: matches!(&answer.result, Ok(()) | Err(ClientError::Refused { code: Code::TopicNotFound, .. })),
        queues: None,
        error: answer.result.err().map(|error| error.to_string()),
    };
    let brokers: Vec<BrokerRow> = answers.into_iter().map(row).collect();
    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Created { topic, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "RESULT"]);
            for row in brokers {
                table.row([row.broker, row.error.unwrap_or_else(|| "deleted".to_owned())]);
            }
            table.print(&mut output, "")?;
            if !ok {
                output.line(format!("`equeue topic delete {topic}` again completes it where it failed."))?;
            }
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

fn broker_row(answer: BrokerResult<equeue_net::api::TopicSnapshot>, topic: &str) -> BrokerRow {
    let broker = answer.broker.to_string();
    match answer.result {
        Ok(snapshot) => BrokerRow { broker, ok: true, queues: Some(snapshot.queues.len()), error: None },
        Err(error) => {
            let error = match &error {
                ClientError::Refused { code: Code::TopicExists, .. } => {
                    format!("it exists; `equeue topic describe {topic}` shows it")
                }
                error => error.to_string(),
            };
            BrokerRow { broker, ok: false, queues: None, error: Some(error) }
        }
    }
}

#[derive(Default, Serialize)]
struct Listed {
    name: String,
    queues: usize,
    version: u64,
    /// Brokers of the map, and how many of their queues answered.
    brokers: Vec<String>,
    queues_live: usize,
}

#[derive(Serialize)]
struct Listing {
    topics: Vec<Listed>,
    failed: Vec<BrokerRow>,
}

async fn list(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let answers = client.admin().list_topics().await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let listing = merge_listings(answers);

    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&listing)?,
        Format::Table => {
            let mut table = Table::new(&["TOPIC", "QUEUES", "LIVE", "BROKERS"]);
            for topic in &listing.topics {
                let (queues, live) = (topic.queues.to_string(), topic.queues_live.to_string());
                table.row([topic.name.clone(), queues, live, topic.brokers.join(",")]);
            }
            table.print(&mut output, "no topics; `equeue topic create NAME` makes one")?;
            for row in &listing.failed {
                let error = row.error.as_deref().unwrap_or_default();
                output.line(format!("broker {} did not answer: {error}", row.broker))?;
            }
        }
    }
    output.flush()?;
    if listing.failed.is_empty() { Ok(()) } else { Err(Told.into()) }
}

/// One row per topic, whatever number of brokers told of it.
fn merge_listings(answers: Vec<BrokerResult<Vec<equeue_net::api::TopicSnapshot>>>) -> Listing {
    let mut topics: BTreeMap<String, Listed> = BTreeMap::new();
    let mut failed = Vec::new();
    for answer in answers {
        let broker = answer.broker.to_string();
        match answer.result {
            Ok(snapshots) => {
                // What brokers make for groups is shown with the groups.
                for snapshot in snapshots.into_iter().filter(|topic| !is_hidden(&topic.name)) {
                    let listed = topics.entry(snapshot.name.clone()).or_default();
                    listed.name = snapshot.name;
                    listed.queues_live += snapshot.queues.len();
                    if snapshot.version >= listed.version {
                        listed.version = snapshot.version;
                        listed.queues = snapshot.map.len();
                        listed.brokers = snapshot.map;
                        listed.brokers.sort_unstable();
                        listed.brokers.dedup();
                    }
                }
            }
            Err(error) => {
                failed.push(BrokerRow { broker, ok: false, queues: None, error: Some(error.to_string()) });
            }
        }
    }
    Listing { topics: topics.into_values().collect(), failed }
}

#[derive(Serialize)]
struct QueueRow {
    queue: u32,
    broker: String,
    key: String,
    shard: u16,
    writable: bool,
    readable: bool,
    first_offset: u64,
    next_offset: u64,
    messages: u64,
}

#[derive(Serialize)]
struct Described<'a> {
    topic: &'a str,
    version: u64,
    queues: Vec<QueueRow>,
    /// Ordinals of the map whose broker did not tell of them.
    missing: Vec<u32>,
    failed: Vec<BrokerRow>,
}

async fn describe(topic: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let answers = admin.describe_topic(topic).await.map_err(|error| cluster.explain(error))?;
    let described = merge_descriptions(topic, answers);
    if described.queues.is_empty() && described.failed.is_empty() {
        return Err(connect::no_such_topic(&admin, topic).await);
    }
    client.close().await;
    print_description(&described, format)?;
    if described.failed.is_empty() && described.missing.is_empty() { Ok(()) } else { Err(Told.into()) }
}

fn merge_descriptions(
    topic: &str,
    answers: Vec<BrokerResult<equeue_net::api::DescribeTopicAnswer>>,
) -> Described<'_> {
    let mut described =
        Described { topic, version: 0, queues: Vec::new(), missing: Vec::new(), failed: Vec::new() };
    let mut map_len = 0;
    for answer in answers {
        let broker = answer.broker.to_string();
        match answer.result {
            Ok(answer) => {
                if answer.version >= described.version {
                    described.version = answer.version;
                    map_len = answer.map.len();
                }
                described.queues.extend(answer.queues.into_iter().map(|state| QueueRow {
                    queue: state.queue.ordinal,
                    broker: broker.clone(),
                    key: state.queue.key.to_string(),
                    shard: state.queue.shard,
                    writable: state.queue.writable,
                    readable: state.queue.readable,
                    first_offset: state.start_offset.0,
                    next_offset: state.high_watermark.0,
                    messages: state.high_watermark.0.saturating_sub(state.start_offset.0),
                }));
            }
            // A broker without queues of the topic has nothing to tell of it.
            Err(
                ClientError::Refused { code: Code::TopicNotFound, .. } | ClientError::TopicNotFound { .. },
            ) => (),
            Err(error) => {
                described.failed.push(BrokerRow {
                    broker,
                    ok: false,
                    queues: None,
                    error: Some(error.to_string()),
                });
            }
        }
    }
    described.queues.sort_unstable_by_key(|row| row.queue);
    let told = |ordinal: &u32| described.queues.iter().any(|row| row.queue == *ordinal);
    described.missing =
        (0..u32::try_from(map_len).unwrap_or(u32::MAX)).filter(|ordinal| !told(ordinal)).collect();
    described
}

fn print_description(described: &Described<'_>, format: Format) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(described)?,
        Format::Table => {
            let mut table =
                Table::new(&["QUEUE", "BROKER", "SHARD", "FIRST", "NEXT", "MESSAGES", "SEND", "CONSUME"]);
            let switch = |on: bool| if on { "allowed" } else { "forbidden" }.to_owned();
            for row in &described.queues {
                table.row([
                    row.queue.to_string(),
                    row.broker.clone(),
                    row.shard.to_string(),
                    row.first_offset.to_string(),
                    row.next_offset.to_string(),
                    row.messages.to_string(),
                    switch(row.writable),
                    switch(row.readable),
                ]);
            }
            table.print(&mut output, "no queue is reachable")?;
            for ordinal in &described.missing {
                output.line(format!("queue {ordinal} is not reachable: its broker is away"))?;
            }
            for row in &described.failed {
                let error = row.error.as_deref().unwrap_or_default();
                output.line(format!("broker {} did not answer: {error}", row.broker))?;
            }
        }
    }
    output.flush()
}

/// Whether the cluster surely has no such topic: every broker answered, and none of them knows it.
pub(crate) async fn is_surely_missing(admin: &Admin, topic: &str) -> bool {
    match admin.list_topics().await {
        Ok(answers) => {
            !answers.is_empty()
                && answers.iter().all(|answer| {
                    answer.result.as_ref().is_ok_and(|topics| topics.iter().all(|known| known.name != topic))
                })
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use equeue_net::api::TopicSnapshot;

    use super::*;

    fn snapshot(name: &str, version: u64, map: &[&str]) -> TopicSnapshot {
        let map = map.iter().map(ToString::to_string).collect();
        TopicSnapshot { name: name.into(), version, map, queues: Vec::new() }
    }

    #[test]
    fn a_topic_of_two_brokers_is_one_row_with_the_newest_map() {
        let answer = |broker: &str, topics| BrokerResult { broker: Arc::from(broker), result: Ok(topics) };
        let listing = merge_listings(vec![
            answer("b", vec![snapshot("t", 2, &["b", "a", "a"])]),
            answer("a", vec![snapshot("t", 1, &["a"])]),
            BrokerResult { broker: Arc::from("c"), result: Err(ClientError::Closed) },
        ]);
        let [topic] = listing.topics.as_slice() else { panic!("one topic") };
        assert_eq!((topic.queues, topic.version), (3, 2));
        assert_eq!(topic.brokers, ["a", "b"]);
        assert_eq!(listing.failed.len(), 1, "a broker that did not answer is told");
    }
}
