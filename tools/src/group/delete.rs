//! `equeue group delete`.

use equeue_client::{Admin, BrokerResult, ClientError, Code};
use equeue_net::hidden::{dead_letter_topic, retry_topic};
use serde::Serialize;

use super::no_such_group;
use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};

#[derive(Serialize)]
struct BrokerRow {
    broker: String,
    /// The topic that was to be deleted; none: the group itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Deleted<'a> {
    group: &'a str,
    ok: bool,
    brokers: Vec<BrokerRow>,
}

pub(super) async fn run(
    group: &str,
    purge: bool,
    cluster: &ClusterArgs,
    format: Format,
) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let answers = admin.delete_group(group).await.map_err(|error| cluster.explain(error))?;
    let mut brokers: Vec<BrokerRow> = answers.into_iter().map(|answer| row(answer, None)).collect();
    // A group with members keeps what they handed back.
    if purge && brokers.iter().all(|row| row.ok) {
        let purged = delete_topics(&admin, group).await.map_err(|error| cluster.explain(error))?;
        brokers.extend(purged);
    }
    if brokers.is_empty() {
        return Err(no_such_group(&admin, group).await);
    }
    client.close().await;
    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Deleted { group, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "WHAT", "RESULT"]);
            for row in brokers {
                let what = row.topic.unwrap_or_else(|| "group".to_owned());
                table.row([row.broker, what, row.error.unwrap_or_else(|| "deleted".to_owned())]);
            }
            table.print(&mut output, "")?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

/// The group's retry and dead-letter topics, where they are.
async fn delete_topics(admin: &Admin, group: &str) -> Result<Vec<BrokerRow>, ClientError> {
    let mut rows = Vec::new();
    for topic in [retry_topic(group), dead_letter_topic(group)] {
        let answers = admin.delete_topic(&topic).await?;
        let is_missing = |answer: &BrokerResult<()>| {
            matches!(answer.result, Err(ClientError::Refused { code: Code::TopicNotFound, .. }))
        };
        let there = answers.into_iter().filter(|answer| !is_missing(answer));
        rows.extend(there.map(|answer| row(answer, Some(topic.clone()))));
    }
    Ok(rows)
}

fn row(answer: BrokerResult<()>, topic: Option<String>) -> BrokerRow {
    BrokerRow {
        broker: answer.broker.to_string(),
        topic,
        ok: answer.result.is_ok(),
        error: answer.result.err().map(|error| error.to_string()),
    }
}
