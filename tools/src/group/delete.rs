//! `equeue group delete`.

use equeue_client::BrokerResult;
use serde::Serialize;

use super::no_such_group;
use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};

#[derive(Serialize)]
struct BrokerRow {
    broker: String,
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

pub(super) async fn run(group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let answers = admin.delete_group(group).await.map_err(|error| cluster.explain(error))?;
    if answers.is_empty() {
        return Err(no_such_group(&admin, group).await);
    }
    client.close().await;
    let row = |answer: BrokerResult<()>| BrokerRow {
        broker: answer.broker.to_string(),
        ok: answer.result.is_ok(),
        error: answer.result.err().map(|error| error.to_string()),
    };
    let brokers: Vec<BrokerRow> = answers.into_iter().map(row).collect();
    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Deleted { group, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "RESULT"]);
            for row in brokers {
                table.row([row.broker, row.error.unwrap_or_else(|| "deleted".to_owned())]);
            }
            table.print(&mut output, "")?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}
