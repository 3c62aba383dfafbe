//! `equeue config`: the settings files.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use equeue_broker::BrokerConfig;
use equeue_nameserver::NameserverConfig;

use crate::failure::Usage;
use crate::output::Output;
use crate::settings::{self, Settings as _};

/// What to do with settings files.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Print a commented file with every key, its default and its range
    Default {
        /// Whose settings
        role: Role,
    },
    /// Check a file; says which key is wrong and what is allowed
    Check {
        /// The file
        file: PathBuf,
        /// Whose settings they are [default: whichever role knows its keys]
        #[arg(long)]
        role: Option<Role>,
    },
}

/// A server role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Stores messages.
    Broker,
    /// Tells where queues live.
    Nameserver,
}

/// Runs one of the commands.
pub(crate) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    let mut output = Output::stdout();
    match command {
        ConfigCommand::Default { role: Role::Broker } => output.bytes(BrokerConfig::document().as_bytes())?,
        ConfigCommand::Default { role: Role::Nameserver } => {
            output.bytes(NameserverConfig::document().as_bytes())?;
        }
        ConfigCommand::Check { file, role } => {
            let role = check(file, *role)?;
            output.line(format!("{}: valid settings of a {}", file.display(), role.name()))?;
        }
    }
    output.flush()
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Broker => BrokerConfig::ROLE,
            Self::Nameserver => NameserverConfig::ROLE,
        }
    }

    fn check(self, file: &std::path::Path) -> anyhow::Result<()> {
        match self {
            Self::Broker => settings::check_file::<BrokerConfig>(file),
            Self::Nameserver => settings::check_file::<NameserverConfig>(file),
        }
    }
}

/// Checks for the role asked, or for the one that fits; the complaint is the broker's when none does, unless only
/// the nameserver's keys are there.
fn check(file: &std::path::Path, role: Option<Role>) -> anyhow::Result<Role> {
    // A file that is wrong is what the command looks for: failed (1), not wrong usage (2).
    let failed = |error: anyhow::Error| match error.downcast::<Usage>() {
        Ok(Usage(text)) => anyhow::anyhow!(text),
        Err(error) => error,
    };
    if let Some(role) = role {
        return role.check(file).map(|()| role).map_err(failed);
    }
    let Err(of_broker) = Role::Broker.check(file) else { return Ok(Role::Broker) };
    match Role::Nameserver.check(file) {
        Ok(()) => Ok(Role::Nameserver),
        Err(_) => Err(failed(of_broker)),
    }
}
