//! Completions and man pages, generated from the command line's own definition.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::output::Output;

/// Prints the completions.
pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "equeue", &mut script);
    let mut output = Output::stdout();
    output.bytes(&script)?;
    output.flush()
}

/// Writes one page per command.
pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("cannot write the man pages into {}", directory.display()))
}
