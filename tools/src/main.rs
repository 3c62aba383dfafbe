//! The `equeue` command: every role and every operator task is a subcommand.
//!
//! The only `main` of the project. It holds what servers and client share: the command line, settings in layers,
//! logging, output for people and programs. It has no rule of its own about messages.

mod cli;
mod clients;
mod cluster;
mod config;
mod connect;
mod consume;
mod dlq;
mod doctor;
mod failure;
mod group;
mod log;
mod logging;
mod message;
mod output;
mod produce;
mod queue;
mod serve;
mod settings;
mod shell;
mod show;
mod silent;
mod stop;
mod suggest;
mod topic;
mod topic_settings;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::filter::LevelFilter;

use cli::{Cli, Command};
use connect::block_on;

fn main() -> ExitCode {
    // Wrong usage ends here, with clap's message and exit code 2.
    failure::conclude(run(Cli::parse()))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let level = if cli.command.is_server() { LevelFilter::INFO } else { LevelFilter::WARN };
    logging::start(cli.log_format, level)?;
    let format = cli.output;
    match cli.command {
        Command::Standalone(args) => serve::standalone(&args, format),
        Command::Broker(args) => serve::broker(&args, format),
        Command::Nameserver(args) => serve::nameserver(&args, format),
        Command::Config(command) => config::run(&command),
        Command::Doctor(args) => doctor::run(&args, format),
        Command::Topic(command) => block_on(topic::run(command, format)),
        Command::Queue(command) => block_on(queue::run(command, format)),
        Command::Group(command) => block_on(group::run(command, format)),
        Command::Dlq(command) => block_on(dlq::run(command, format)),
        Command::Producers { cluster } => block_on(clients::list(clients::Kind::Producers, &cluster, format)),
        Command::Consumers { cluster } => block_on(clients::list(clients::Kind::Consumers, &cluster, format)),
        Command::BrokerStats { cluster } => block_on(clients::stats(&cluster, format)),
        Command::Produce(args) => block_on(produce::run(args, format)),
        Command::Consume(args) => block_on(consume::run(args, format)),
        Command::Message(command) => block_on(message::run(command, format)),
        Command::Cluster(command) => block_on(cluster::run(command, format)),
        Command::Log(command) => log::run(&command, format),
        Command::Bench(args) => match equeue_bench::run(&args, format == output::Format::Json)? {
            equeue_bench::Outcome::Passed => Ok(()),
            equeue_bench::Outcome::Failed => Err(failure::Told.into()),
        },
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { directory } => shell::man(&directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
