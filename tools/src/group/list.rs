//! `equeue group list`.

use std::collections::BTreeMap;

use equeue_client::BrokerResult;
use equeue_net::api::GroupSummary;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connect::ClusterArgs;
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::silent::{Silent, sort_out, tell_silent};

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct GroupRow {
    group: String,
    state: &'static str,
    members: u32,
    queues: u32,
    lag: u64,
    generation: u64,
    /// Last member or commit.
    active: Option<String>,
    /// When it is forgotten.
    expires: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    groups: Vec<GroupRow>,
    failed: Vec<Silent>,
}

pub(super) async fn run(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let answers = client.admin().list_groups().await.map_err(|error| cluster.explain(error))?;
    client.close().await;
    let listing = merge_lists(answers);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&listing)?,
        Format::Table => {
            let mut table = Table::new(&["GROUP", "STATE", "MEMBERS", "QUEUES", "LAG", "ACTIVE", "EXPIRES"]);
            for row in &listing.groups {
                let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
                table.row([
                    row.group.clone(),
                    row.state.to_owned(),
                    row.members.to_string(),
                    row.queues.to_string(),
                    row.lag.to_string(),
                    time(&row.active),
                    time(&row.expires),
                ]);
            }
            table.print(&mut output, "no groups; `equeue consume --topic T --group G` makes one")?;
            tell_silent(&mut output, &listing.failed)?;
        }
    }
    output.flush()?;
    if listing.failed.is_empty() { Ok(()) } else { Err(Told.into()) }
}

/// One row per group. A member may be known to several brokers: the largest number of them counts.
fn merge_lists(answers: Vec<BrokerResult<Vec<GroupSummary>>>) -> Listing {
    let (known, failed) = sort_out(answers);
    let mut groups: BTreeMap<String, (GroupRow, i64, i64)> = BTreeMap::new();
    for summary in known.into_iter().flat_map(|(_, summaries)| summaries) {
        let (row, active_ms, expires_ms) = groups.entry(summary.name.clone()).or_default();
        row.group = summary.name;
        row.members = row.members.max(summary.members);
        row.queues += summary.queues;
        row.lag += summary.lag;
        row.generation = row.generation.max(summary.generation);
        *active_ms = (*active_ms).max(summary.active_ms);
        *expires_ms = (*expires_ms).max(summary.expires_ms);
    }
    let finish = |(mut row, active_ms, expires_ms): (GroupRow, i64, i64)| {
        row.state = if row.members > 0 { "online" } else { "offline" };
        row.active = moment(active_ms);
        row.expires = moment(expires_ms).filter(|_| row.members == 0);
        row
    };
    Listing { groups: groups.into_values().map(finish).collect(), failed }
}

fn moment(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    time.replace_millisecond(0).ok()?.format(&Rfc3339).ok().filter(|_| ms > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_two_brokers_is_one_row() {
        let summary = |members, lag, active_ms| GroupSummary {
            name: "g".into(),
            members,
            queues: 2,
            lag,
            generation: u64::from(members),
            active_ms,
            expires_ms: 0,
        };
        let answer = |broker: &str, groups| BrokerResult { broker: broker.into(), result: Ok(groups) };
        let listing = merge_lists(vec![
            answer("a", vec![summary(3, 10, 1_000)]),
            answer("b", vec![summary(2, 5, 60_000)]),
        ]);
        let [row] = listing.groups.as_slice() else { panic!("one group") };
        assert_eq!((row.members, row.queues, row.lag, row.state), (3, 4, 15, "online"));
        assert_eq!(row.active.as_deref(), Some("1970-01-01T00:01:00Z"));
    }
}
