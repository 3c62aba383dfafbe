//! `equeue group`: consumer groups, put together from what each broker knows of its own queues.

use std::collections::BTreeMap;

use clap::Subcommand;
use equeue_client::{Admin, BrokerResult, Offset, QueueReset, ResetTo};
use equeue_net::api::{DescribeGroupAnswer, GroupSummary};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::{suggest, topic};

/// What to do with groups.
#[derive(Subcommand, Debug)]
pub(crate) enum GroupCommand {
    /// List the groups, online and offline, with their lag and age
    List {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Show the members of a group, and of each queue: who has it, where the group is, how far behind
    Describe {
        /// Name of the group
        name: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Forget a group and its offsets; only without members
    Delete {
        /// Name of the group
        name: String,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Set where a group goes on; running consumers do so at once
    Reset {
        /// Name of the group
        name: String,
        /// Topic
        #[arg(long)]
        topic: String,
        /// Only this queue; may be given again [default: all]
        #[arg(long, value_name = "QUEUE")]
        queue: Vec<u32>,
        /// Where to: first, last, offset:N, or time:RFC3339
        #[arg(long, value_name = "PLACE", value_parser = reset_to)]
        to: ResetTo,
        /// Change nothing, show what would change
        #[arg(long)]
        dry_run: bool,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

fn reset_to(text: &str) -> Result<ResetTo, String> {
    match text.split_once(':') {
        None if text == "first" => Ok(ResetTo::First),
        None if text == "last" => Ok(ResetTo::Last),
        Some(("offset", offset)) => offset
            .parse()
            .map(|offset| ResetTo::Offset(Offset(offset)))
            .map_err(|error| format!("`{offset}` is not an offset: {error}")),
        Some(("time", time)) => connect::millis(time).map(ResetTo::Time),
        _ => Err("must be first, last, offset:N or time:RFC3339".to_owned()),
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: GroupCommand, format: Format) -> anyhow::Result<()> {
    match command {
        GroupCommand::List { cluster } => list(&cluster, format).await,
        GroupCommand::Describe { name, cluster } => describe(&name, &cluster, format).await,
        GroupCommand::Delete { name, cluster } => delete(&name, &cluster, format).await,
        GroupCommand::Reset { name, topic, queue, to, dry_run, cluster } => {
            let wish = Wish { group: &name, topic: &topic, queues: &queue, to, dry_run };
            reset(&wish, &cluster, format).await
        }
    }
}

/// A broker that did not answer.
#[derive(Serialize)]
struct Silent {
    broker: String,
    error: String,
}

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

async fn list(cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
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

fn sort_out<T>(answers: Vec<BrokerResult<T>>) -> (Vec<(String, T)>, Vec<Silent>) {
    let (mut known, mut failed) = (Vec::new(), Vec::new());
    for answer in answers {
        let broker = answer.broker.to_string();
        match answer.result {
            Ok(value) => known.push((broker, value)),
            Err(error) => failed.push(Silent { broker, error: error.to_string() }),
        }
    }
    (known, failed)
}

fn tell_silent(output: &mut Output, silent: &[Silent]) -> anyhow::Result<()> {
    for Silent { broker, error } in silent {
        output.line(format!("broker {broker} did not answer: {error}"))?;
    }
    Ok(())
}

fn moment(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    time.replace_millisecond(0).ok()?.format(&Rfc3339).ok().filter(|_| ms > 0)
}

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

async fn describe(group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
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
            let mut table =
                Table::new(&["TOPIC", "QUEUE", "BROKER", "MEMBER", "COMMITTED", "END", "LAG", "RATE"]);
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
                ]);
            }
            table.print(&mut output, "no queues")?;
            tell_silent(&mut output, &described.failed)?;
        }
    }
    output.flush()
}

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

async fn delete(group: &str, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
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

struct Wish<'a> {
    group: &'a str,
    topic: &'a str,
    queues: &'a [u32],
    to: ResetTo,
    dry_run: bool,
}

#[derive(Serialize)]
struct ResetRow {
    queue: u32,
    broker: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<QueueReset> for ResetRow {
    fn from(reset: QueueReset) -> Self {
        let (queue, broker) = (reset.queue, reset.broker.to_string());
        match reset.result {
            Ok(outcome) => Self {
                queue,
                broker,
                ok: true,
                before: outcome.before.map(|before| before.0),
                after: Some(outcome.after.0),
                lag: Some(outcome.high_watermark.0.saturating_sub(outcome.after.0)),
                error: None,
            },
            Err(error) => {
                let error = Some(error.to_string());
                Self { queue, broker, ok: false, before: None, after: None, lag: None, error }
            }
        }
    }
}

#[derive(Serialize)]
struct Reset<'a> {
    group: &'a str,
    topic: &'a str,
    dry_run: bool,
    ok: bool,
    queues: Vec<ResetRow>,
}

async fn reset(wish: &Wish<'_>, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    if topic::is_surely_missing(&admin, wish.topic).await {
        return Err(connect::no_such_topic(&admin, wish.topic).await);
    }
    if admin.describe_group(wish.group).await.map_err(|error| cluster.explain(error))?.is_empty() {
        return Err(no_such_group(&admin, wish.group).await);
    }
    let resets = admin
        .reset_offsets(wish.group, wish.topic, wish.queues, wish.to, wish.dry_run)
        .await
        .map_err(|error| cluster.explain(error))?;
    client.close().await;
    let queues: Vec<ResetRow> = resets.into_iter().map(ResetRow::from).collect();
    let ok = queues.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => {
            output.json(&Reset {
                group: wish.group,
                topic: wish.topic,
                dry_run: wish.dry_run,
                ok,
                queues,
            })?;
        }
        Format::Table => {
            let mut table = Table::new(&["QUEUE", "BROKER", "BEFORE", "AFTER", "LAG", "RESULT"]);
            let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            let done = if wish.dry_run { "would be reset" } else { "reset" };
            for row in queues {
                table.row([
                    row.queue.to_string(),
                    row.broker,
                    number(row.before),
                    number(row.after),
                    number(row.lag),
                    row.error.unwrap_or_else(|| done.to_owned()),
                ]);
            }
            table.print(&mut output, "the topic has no queues")?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

/// `no group X; did you mean Y?`, with the groups that exist.
async fn no_such_group(admin: &Admin, group: &str) -> anyhow::Error {
    let answers = admin.list_groups().await.unwrap_or_default();
    let mut names: Vec<String> = answers
        .into_iter()
        .filter_map(|answer| answer.result.ok())
        .flatten()
        .map(|summary| summary.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    let hint = match suggest::nearest(group, names.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if names.is_empty() => "the cluster has none yet".to_owned(),
        None => "`equeue group list` shows those that exist".to_owned(),
    };
    anyhow::anyhow!("no group `{group}`; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood() {
        assert_eq!(reset_to("first"), Ok(ResetTo::First));
        assert_eq!(reset_to("offset:12"), Ok(ResetTo::Offset(Offset(12))));
        assert_eq!(reset_to("time:1970-01-01T00:00:01.5Z"), Ok(ResetTo::Time(1500)));
        for wrong in ["offset", "offset:x", "time:noon", "middle"] {
            assert!(reset_to(wrong).is_err(), "{wrong}");
        }
    }

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
