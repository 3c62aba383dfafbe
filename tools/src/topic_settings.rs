//! `equeue topic set`: settings of a topic on every broker.

use std::str::FromStr;

use equeue_broker::config::Span;
use equeue_client::{BrokerResult, ClientError, Code, TopicRetention};
use serde::Serialize;

use crate::connect::{self, ClusterArgs};
use crate::failure::Told;
use crate::output::{Format, Output, Table};

/// How long the messages of a topic stay, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetentionArg(pub(crate) TopicRetention);

impl FromStr for RetentionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let retention = match text {
            "broker" => TopicRetention::Broker,
            "forever" => TopicRetention::Ms(0),
            text => match text.parse::<Span>() {
                Ok(Span(ms @ 1..)) => TopicRetention::Ms(ms),
                _ => {
                    return Err(
                        "write a length of time such as 3d, 12h or 30m, `forever` or `broker`".to_owned()
                    );
                }
            },
        };
        Ok(Self(retention))
    }
}

/// As [`RetentionArg`] reads it.
fn show(retention: TopicRetention) -> String {
    match retention {
        TopicRetention::Broker => "broker".to_owned(),
        TopicRetention::Ms(0) => "forever".to_owned(),
        TopicRetention::Ms(ms) => Span(ms).to_string(),
    }
}

#[derive(Serialize)]
struct BrokerRow {
    broker: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Set<'a> {
    topic: &'a str,
    ok: bool,
    brokers: Vec<BrokerRow>,
}

fn row(answer: BrokerResult<TopicRetention>) -> Option<BrokerRow> {
    let broker = answer.broker.to_string();
    match answer.result {
        Ok(retention) => Some(BrokerRow { broker, ok: true, retention: Some(show(retention)), error: None }),
        // A broker without queues of the topic has nothing to set.
        Err(ClientError::Refused { code: Code::TopicNotFound, .. } | ClientError::TopicNotFound { .. }) => {
            None
        }
        Err(error) => Some(BrokerRow { broker, ok: false, retention: None, error: Some(error.to_string()) }),
    }
}

/// Sets what is given, and prints what holds then.
pub(crate) async fn set(
    topic: &str,
    retention: Option<RetentionArg>,
    cluster: &ClusterArgs,
    format: Format,
) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let admin = client.admin();
    let retention = retention.map(|RetentionArg(retention)| retention);
    let answers =
        admin.set_topic_retention(topic, retention).await.map_err(|error| cluster.explain(error))?;
    let brokers: Vec<_> = answers.into_iter().filter_map(row).collect();
    if brokers.is_empty() {
        return Err(connect::no_such_topic(&admin, topic).await);
    }
    client.close().await;

    let ok = brokers.iter().all(|row| row.ok);
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&Set { topic, ok, brokers })?,
        Format::Table => {
            let mut table = Table::new(&["BROKER", "RETENTION", "RESULT"]);
            for row in brokers {
                let retention = row.retention.unwrap_or_else(|| "-".to_owned());
                table.row([row.broker, retention, row.error.unwrap_or_else(|| "ok".to_owned())]);
            }
            table.print(&mut output, "")?;
        }
    }
    output.flush()?;
    if ok { Ok(()) } else { Err(Told.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_read() {
        for text in ["3d", "36h", "30m", "90s", "forever", "broker"] {
            let RetentionArg(retention) = text.parse().unwrap();
            assert_eq!(show(retention), text);
        }
        for text in ["", "0", "3", "3 weeks", "-1d"] {
            assert!(text.parse::<RetentionArg>().is_err(), "{text}");
        }
    }
}
