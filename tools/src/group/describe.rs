//! `equeue group describe`.

use std::collections::BTreeMap;

use equeue_client::BrokerResult;
use equeue_net::api::DescribeGroupAnswer;
use serde::Serialize;

use super::no_such_group;
use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::silent::{Silent, sort_out, tell_silent};

#[derive(Serialize)]
struct MemberRow {
    client: String,
    incarnation: String,
    address: String,
    topics: Vec<String>,
    unreachable: Vec<String>,
    seen_ms_ago: u64,
    queues: usize,
}

#[derive(Serialize)]
struct QueueRow {
    topic: String,
    queue: u32,
    broker: String,
    client: Option<String>,
    #[serde(skip)]
    incarnation: u128,
    grant_epoch: u32,
    committed: Option<u64>,
    end: u64,
    lag: u64,
    /// Messages per second.
    rate: f64,
    /// Messages that the member has fetched and not handled.
    cached: u32,
    lease_left_ms: u32,
}

#[derive(Serialize)]
struct Described<'a> {
    group: &'a str,
    generation: u64,
    members: Vec<MemberRow>,
    queues: Vec<QueueRow>,
    failed: Vec<Silent>,
}

pub(super) async fn run(group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let answers = admin.describe_group(group).await.map_err(|error| cluster.explain(error))?;
    if answers.is_empty() {
        return Err(no_such_group(&admin, group).await);
    }
    client.close().await;
    let described = merge_descriptions(group, answers);
    print_description(&described, format)?;
    if described.failed.is_empty() { Ok(()) } else { Err(Told.into()) }
}

fn merge_descriptions(group: &str, answers: Vec<BrokerResult<DescribeGroupAnswer>>) -> Described<'_> {
    let (known, failed) = sort_out(answers);
    let mut members: BTreeMap<(String, u128), MemberRow> = BTreeMap::new();
    let mut queues = Vec::new();
    let mut generation = 0;
    for (broker, answer) in known {
        generation = generation.max(answer.generation);
        for state in answer.members {
            let key = (state.member.client_id.clone(), state.member.incarnation);
            members.entry(key).or_insert_with(|| MemberRow {
                client: state.member.client_id,
                incarnation: format!("{:032x}", state.member.incarnation),
                address: state.address,
                topics: state.member.topics,
                unreachable: state.member.unreachable,
                seen_ms_ago: state.seen_ms_ago,
                queues: 0,
            });
        }
        for state in answer.queues {
            let holder = state.holder.and_then(|holder| answer.holders.get(usize::from(holder)));
            let begin = state.committed.unwrap_or(state.start_offset).max(state.start_offset);
            queues.push(QueueRow {
                topic: answer.topics.get(usize::from(state.topic)).cloned().unwrap_or_default(),
                queue: state.ordinal,
                broker: broker.clone(),
                client: holder.map(|holder| holder.client_id.clone()),
                incarnation: holder.map_or(0, |holder| holder.incarnation),
                grant_epoch: state.grant_epoch,
                committed: state.committed.map(|committed| committed.0),
                end: state.high_watermark.0,
                lag: state.high_watermark.0.saturating_sub(begin.0),
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                rate: state.rate_milli as f64 / 1000.0,
                cached: state.cached,
                lease_left_ms: state.lease_left_ms,
            });
        }
    }
    queues.sort_by(|a, b| (&a.topic, a.queue, &a.broker).cmp(&(&b.topic, b.queue, &b.broker)));
    for ((client, incarnation), member) in &mut members {
        let holds =
            |queue: &&QueueRow| queue.client.as_ref() == Some(client) && queue.incarnation == *incarnation;
        member.queues = queues.iter().filter(holds).count();
    }
    Described { group, generation, members: members.into_values().collect(), queues, failed }
}

fn print_description(described: &Described<'_>, format: Format) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(described)?,
        Format::Table => {
            let mut table = Table::new(&["MEMBER", "ADDRESS", "QUEUES", "SEEN MS AGO", "TOPICS"]);
            for row in &described.members {
                table.row([
                    row.client.clone(),
                    row.address.clone(),
                    row.queues.to_string(),
                    row.seen_ms_ago.to_string(),
                    row.topics.join(","),
                ]);
            }
            table.print(&mut output, "no members")?;
            output.line("")?;
            let mut table = Table::new(&[
                "TOPIC",
                "QUEUE",
                "BROKER",
                "MEMBER",
                "COMMITTED",
                "END",
                "LAG",
                "RATE",
                "CACHED",
            ]);
            for row in &described.queues {
                let committed =
                    row.committed.map_or_else(|| "-".to_owned(), |committed| committed.to_string());
                table.row([
                    row.topic.clone(),
                    row.queue.to_string(),
                    row.broker.clone(),
                    row.client.clone().unwrap_or_else(|| "-".to_owned()),
                    committed,
                    row.end.to_string(),
                    row.lag.to_string(),
                    format!("{:.1}", row.rate),
                    row.cached.to_string(),
                ]);
            }
            table.print(&mut output, "no queues")?;
            tell_silent(&mut output, &described.failed)?;
        }
    }
    output.flush()
}
