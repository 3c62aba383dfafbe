//! How a run ended, and its result for people and programs.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// How a run ended that came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Measured, and every demand (`--assert`, `--verify`) was met.
    Passed,
    /// Measured, but a demand was not met. Exit code 1.
    Failed,
}

impl Outcome {
    /// Exit code of the process.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
        }
    }
}

/// Prints a result as a table, or as JSON with `json` or where `path` is `-`; writes it as JSON to another `path`.
pub(crate) fn print(
    value: &Value,
    table: impl FnOnce() -> String,
    path: Option<&Path>,
    json: bool,
) -> Result<()> {
    let to_stdout = path.is_some_and(|path| path.as_os_str() == "-");
    let text = if json || to_stdout { pretty(value)? } else { table() };
    io::stdout().lock().write_all(text.as_bytes()).context("printing the result")?;
    match path.filter(|_| !to_stdout) {
        Some(path) => fs::write(path, pretty(value)?).with_context(|| format!("writing {}", path.display())),
        None => Ok(()),
    }
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value).context("writing the result as JSON")? + "\n")
}
