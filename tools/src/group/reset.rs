//! `equeue group reset`.

use equeue_client::{Offset, QueueReset, ResetTo};
use serde::Serialize;

use super::no_such_group;
use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
use crate::output::{Format, Output, Table};
use crate::topic;

/// `first`, `last`, `offset:N` or `time:RFC3339`.
pub(super) fn place(text: &str) -> Result<ResetTo, String> {
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

/// What to reset.
pub(super) struct Wish<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) queues: &'a [u32],
    pub(super) to: ResetTo,
    pub(super) dry_run: bool,
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

pub(super) async fn run(wish: &Wish<'_>, cluster: &ClusterArgs, format: Format) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_understood() {
        assert_eq!(place("first"), Ok(ResetTo::First));
        assert_eq!(place("offset:12"), Ok(ResetTo::Offset(Offset(12))));
        assert_eq!(place("time:1970-01-01T00:00:01.5Z"), Ok(ResetTo::Time(1500)));
        for wrong in ["offset", "offset:x", "time:noon", "middle"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
