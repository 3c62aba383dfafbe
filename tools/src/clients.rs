//! `equeue producers`, `equeue consumers` and `equeue broker-stats`: what the brokers know of their clients and themselves.

use equeue_net::api::{BrokerStatsAnswer, ClientEntry};
use serde::Serialize;

use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::silent::{Silent, sort_out, tell_silent};

/// Which clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Producers,
    Consumers,
}

#[derive(Serialize)]
struct ClientRow {
    broker: String,
    client: String,
    incarnation: String,
    address: String,
    shard: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    topics: Vec<String>,
    seen_ms_ago: u64,
}

#[derive(Serialize)]
struct Listing<T> {
    #[serde(flatten)]
    rows: T,
    failed: Vec<Silent>,
}

#[derive(Serialize)]
struct Clients {
    clients: Vec<ClientRow>,
}

/// Lists producers or consumers.
pub(crate) async fn list(kind: Kind, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let answers = client.admin().list_clients().await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let (known, failed) = sort_out(answers);
    let mut clients: Vec<ClientRow> = known
        .into_iter()
        .flat_map(|(broker, entries)| entries.into_iter().filter_map(move |entry| row(kind, &broker, entry)))
        .collect();
    clients.sort_by(|a, b| (&a.client, &a.broker, a.shard).cmp(&(&b.client, &b.broker, b.shard)));
    let ok = failed.is_empty();
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Listing { rows: Clients { clients }, failed })?,
        Format::Table => {
            let mut table =
                Table::new(&["CLIENT", "ADDRESS", "BROKER", "SHARD", "GROUP", "TOPICS", "SEEN MS AGO"]);
            for row in clients {
                table.row([
                    row.client,
                    row.address,
                    row.broker,
                    row.shard.to_string(),
                    row.group,
                    row.topics.join(","),
                    row.seen_ms_ago.to_string(),
                ]);
            }
            let none = if kind == Kind::Producers { "no producers" } else { "no consumers" };
            table.print(&mut output, none)?;
            tell_silent(&mut output, &failed)?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

fn row(kind: Kind, broker: &str, entry: ClientEntry) -> Option<ClientRow> {
    let topics = match kind {
        Kind::Producers => entry.producing,
        Kind::Consumers => entry.consuming,
    };
    (!topics.is_empty()).then(|| ClientRow {
        broker: broker.to_owned(),
        client: entry.client_id,
        incarnation: format!("{:032x}", entry.incarnation),
        address: entry.address,
        shard: entry.shard,
        group: if kind == Kind::Consumers { entry.group } else { String::new() },
        topics,
        seen_ms_ago: entry.seen_ms_ago,
    })
}

#[derive(Serialize)]
struct Stats {
    brokers: Vec<StatsRow>,
}

#[derive(Serialize)]
struct StatsRow {
    broker: String,
    uptime_ms: u64,
    counters: std::collections::BTreeMap<String, u64>,
}

/// Shows the counters of every broker.
pub(crate) async fn stats(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let answers = client.admin().broker_stats().await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let (known, failed) = sort_out(answers);
    let stats = |(broker, answer): (String, BrokerStatsAnswer)| {
        let counters = answer.counters.into_iter().map(|counter| (counter.name, counter.value)).collect();
        StatsRow { broker, uptime_ms: answer.uptime_ms, counters }
    };
    let brokers = known.into_iter().map(stats).collect();
    let ok = failed.is_empty();
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Listing { rows: Stats { brokers }, failed })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "COUNTER", "VALUE"]);
            for row in brokers {
                table.row([row.broker.clone(), "uptime_ms".to_owned(), row.uptime_ms.to_string()]);
                for (name, value) in row.counters {
                    table.row([row.broker.clone(), name, value.to_string()]);
                }
            }
            table.print(&mut output, "no broker answered")?;
            tell_silent(&mut output, &failed)?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}
