//! `equeue group`: consumer groups, put together from what each broker knows of its own queues.

mod delete;
mod describe;
mod list;
mod reset;

use clap::Subcommand;
use equeue_client::{Admin, ResetTo};

use crate::connect::ClusterArgs;
use crate::output::Format;
use crate::suggest;

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
        /// Delete the messages that it handed back and its dead letters as well; without this they stay until they are too
        /// old, and are there for a new group of that name
        #[arg(long)]
        purge: bool,
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
        #[arg(long, value_name = "PLACE", value_parser = reset::place)]
        to: ResetTo,
        /// Change nothing, show what would change
        #[arg(long)]
        dry_run: bool,
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(command: GroupCommand, format: Format) -> anyhow::Result<()> {
    match command {
        GroupCommand::List { cluster } => list::run(&cluster, format).await,
        GroupCommand::Describe { name, cluster } => describe::run(&name, &cluster, format).await,
        GroupCommand::Delete { name, purge, cluster } => delete::run(&name, purge, &cluster, format).await,
        GroupCommand::Reset { name, topic, queue, to, dry_run, cluster } => {
            let wish = reset::Wish { group: &name, topic: &topic, queues: &queue, to, dry_run };
            reset::run(&wish, &cluster, format).await
        }
    }
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
