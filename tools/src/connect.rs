//! What every command that talks to a cluster shares: the client, its runtime, and how it names what is not there.

use std::time::Duration;

use anyhow::Context as _;
use equeue_client::{Admin, Client, ClientError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::suggest;

/// How to reach the cluster.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Nameservers of the cluster; one that is away does no harm
    #[arg(
        long,
        env = "EQUEUE_NAMESERVERS",
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:9493",
        help_heading = "Cluster"
    )]
    pub(crate) nameserver: Vec<String>,
    /// Name of the cluster [default: the only one the nameservers know]
    #[arg(
        long,
        env = "EQUEUE_CLUSTER",
        value_name = "NAME",
        hide_env_values = true,
        help_heading = "Cluster"
    )]
    pub(crate) cluster: Option<String>,
}

impl ClusterArgs {
    /// A client of the cluster; it goes on trying while no nameserver answers.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Client::builder()
            .nameservers(self.nameserver.iter().cloned())
            .cluster(self.cluster.clone().unwrap_or_default())
            .connect()
            .await
            .context("cannot start the client")
    }

    /// Says where help is, when nobody answered.
    pub(crate) fn explain(&self, error: ClientError) -> anyhow::Error {
        let nobody = matches!(error, ClientError::NoNameserver { .. } | ClientError::Connect { .. });
        let error = anyhow::Error::new(error);
        if nobody {
            let asked = self.nameserver.join(", ");
            return error.context(format!(
                "no nameserver answered at {asked}; start one (`equeue standalone`), or say where with --nameserver"
            ));
        }
        error
    }
}

/// Runs a command on a runtime of its own. What is still at work when the command is done (a read of stdin) is left.
pub(crate) fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// An RFC 3339 time as milliseconds UTC.
pub(crate) fn millis(time: &str) -> Result<i64, String> {
    let time = OffsetDateTime::parse(time, &Rfc3339)
        .map_err(|error| format!("`{time}` is not a time such as 2026-11-23T08:00:00Z: {error}"))?;
    let millis = time.unix_timestamp_nanos().div_euclid(1_000_000);
    i64::try_from(millis).map_err(|_| "the time is out of range".to_owned())
}

/// `no topic X; did you mean Y?`, with the topics that exist.
pub(crate) async fn no_such_topic(admin: &Admin, topic: &str) -> anyhow::Error {
    let names = topic_names(admin).await;
    let hint = match (suggest::nearest(topic, names.iter().map(String::as_str)), names.as_slice()) {
        (Some(nearest), _) => format!("did you mean `{nearest}`?"),
        (None, []) => format!("the cluster has none yet: `equeue topic create {topic}` makes it"),
        (None, _) => {
            format!("`equeue topic list` shows those that exist, `equeue topic create {topic}` makes it")
        }
    };
    anyhow::anyhow!("no topic `{topic}`; {hint}")
}

/// Names of all topics that can be seen; empty when nobody answers.
async fn topic_names(admin: &Admin) -> Vec<String> {
    let Ok(answers) = admin.list_topics().await else { return Vec::new() };
    let mut names: Vec<String> = answers
        .into_iter()
        .filter_map(|answer| answer.result.ok())
        .flatten()
        .map(|topic| topic.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
