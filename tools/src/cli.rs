//! The command line: one subcommand per role and operator task. Names are a contract, scripts depend on them.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cluster::ClusterCommand;
use crate::config::ConfigCommand;
use crate::connect::ClusterArgs;
use crate::consume::ConsumeArgs;
use crate::dlq::DlqCommand;
use crate::doctor::DoctorArgs;
use crate::group::GroupCommand;
use crate::log::LogCommand;
use crate::logging::LogFormat;
use crate::message::MessageCommand;
use crate::output::Format;
use crate::produce::ProduceArgs;
use crate::queue::QueueCommand;
use crate::serve::{BrokerArgs, NameserverArgs, StandaloneArgs};
use crate::topic::TopicCommand;

/// A durable message broker: an acknowledged message is on stable storage.
#[derive(Parser, Debug)]
#[command(name = "equeue", version, about, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// How logs are written to stderr; the variable `EQUEUE_LOG` says what is logged
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a nameserver and a broker in one process, for a laptop
    Standalone(StandaloneArgs),
    /// Run a broker
    Broker(BrokerArgs),
    /// Run a nameserver
    Nameserver(NameserverArgs),
    /// Print or check settings files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check whether a broker can run here, with a remedy for each finding
    Doctor(DoctorArgs),
    /// Create, delete and look at topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Add, open, close and remove queues of a topic
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look at consumer groups, move and delete them
    #[command(subcommand)]
    Group(GroupCommand),
    /// Look at the messages that a group failed to handle, give them to it again, forget them
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Send messages: each line of stdin or of a file is one
    Produce(ProduceArgs),
    /// Print messages, and commit what was printed
    Consume(ConsumeArgs),
    /// Look at single messages
    #[command(subcommand)]
    Message(MessageCommand),
    /// Look at the brokers of the cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show what brokers count
    BrokerStats {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// List the producers that brokers know
    Producers {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// List the consumers that brokers know
    Consumers {
        /// Where
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Examine a broker's data directory offline, without changing it
    #[command(subcommand)]
    Log(LogCommand),
    /// Measure a broker, or the commit log alone
    Bench(Box<equeue_bench::cli::BenchArgs>),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// Where to
        directory: PathBuf,
    },
}

impl Command {
    /// Whether it runs until it is stopped, and logs what it does.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Standalone(_) | Self::Broker(_) | Self::Nameserver(_))
    }
}
