//! `equeue cluster`: the brokers that the nameservers know, and what each of them says of itself.

use clap::Subcommand;
use equeue_client::BrokerResult;
use equeue_net::api::{BrokerEntry, BrokerRole, DescribeBrokerAnswer};
use serde::Serialize;

use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};

/// What to show.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// List the live brokers
    List {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show each broker with its logs, memory and CPU time
    Describe {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

#[derive(Serialize)]
struct BrokerRow {
    name: String,
    cluster: String,
    group: u32,
    role: &'static str,
    address: String,
    http_address: String,
    shards: u16,
}

impl From<&BrokerEntry> for BrokerRow {
    fn from(entry: &BrokerEntry) -> Self {
        Self {
            name: entry.name.clone(),
            cluster: entry.cluster.clone(),
            group: entry.group,
            role: match entry.role {
                BrokerRole::Master => "master",
                BrokerRole::Slave => "slave",
            },
            address: entry.address.clone(),
            http_address: entry.http_address.clone(),
            shards: entry.shards,
        }
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: ClusterCommand, format: Format) -> anyhow::Result<()> {
    match command {
        ClusterCommand::List { cluster } => list(&cluster, format).await,
        ClusterCommand::Describe { cluster } => describe(&cluster, format).await,
    }
}

async fn list(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let brokers = client.admin().cluster().await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let rows: Vec<BrokerRow> = brokers.iter().map(BrokerRow::from).collect();
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&rows)?,
        Format::Table => {
            let mut table = Table::new(&["CLUSTER", "BROKER", "ROLE", "ADDRESS", "HTTP", "SHARDS"]);
            for row in rows {
                let shards = row.shards.to_string();
                table.row([
                    row.cluster,
                    row.name,
                    row.role.to_owned(),
                    row.address,
                    row.http_address,
                    shards,
                ]);
            }
            table.print(&mut output, "no live broker")?;
        }
    }
    output.flush()
}

#[derive(Serialize)]
struct LogRow {
    log: u16,
    shard: u16,
    start_position: u64,
    durable_position: u64,
    state: String,
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    broker: BrokerRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes: Option<u64>,
    logs: Vec<LogRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Described {
    fn new(entry: &BrokerEntry, answer: BrokerResult<DescribeBrokerAnswer>) -> Self {
        let broker = BrokerRow::from(entry);
        match answer.result {
            Ok(answer) => Self {
                broker,
                version: Some(answer.version),
                cpu_seconds: Some(std::time::Duration::from_micros(answer.cpu_us).as_secs_f64()),
                resident_bytes: Some(answer.resident_bytes),
                logs: answer
                    .logs
                    .into_iter()
                    .map(|log| LogRow {
                        log: log.log,
                        shard: log.shard,
                        start_position: log.start_position,
                        durable_position: log.durable_position,
                        state: log.state,
                    })
                    .collect(),
                error: None,
            },
            Err(error) => Self {
                broker,
                version: None,
                cpu_seconds: None,
                resident_bytes: None,
                logs: Vec::new(),
                error: Some(error.to_string()),
            },
        }
    }
}

async fn describe(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let mut described = Vec::new();
    for entry in admin.cluster().await.map_err(|error| cluster.explain(error))? {
        let result = admin.describe_broker(&entry.name).await;
        described.push(Described::new(&entry, BrokerResult { broker: entry.name.as_str().into(), result }));
    }
    client.close().await;
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&described)?,
        Format::Table => {
            for one in &described {
                print(one, &mut output)?;
            }
            if described.is_empty() {
                output.line("no live broker")?;
            }
        }
    }
    output.flush()?;
    if described.iter().all(|one| one.error.is_none()) { Ok(()) } else { Err(Told.into()) }
}

fn print(one: &Described, output: &mut Output) -> anyhow::Result<()> {
    let broker = &one.broker;
    output.line(format!(
        "{} ({} of cluster {}) at {}",
        broker.name, broker.role, broker.cluster, broker.address
    ))?;
    if let Some(error) = &one.error {
        return output.line(format!("  did not answer: {error}"));
    }
    output.line(format!(
        "  version {}, {} shard(s), {} resident, {:.1} s of CPU",
        one.version.as_deref().unwrap_or("?"),
        broker.shards,
        indicatif::BinaryBytes(one.resident_bytes.unwrap_or(0)),
        one.cpu_seconds.unwrap_or(0.0),
    ))?;
    for log in &one.logs {
        output.line(format!(
            "  log {} on shard {}: positions {}..{} durable, {}",
            log.log, log.shard, log.start_position, log.durable_position, log.state
        ))?;
    }
    Ok(())
}
