//! Logs to stderr: `--log-format`, `EQUEUE_LOG`.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::failure::Usage;
use crate::output;

/// The variable that says what is logged, for example `info,equeue_broker=debug`.
const FILTER_VARIABLE: &str = "EQUEUE_LOG";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `level` holds where `EQUEUE_LOG` says nothing: servers tell what they do, commands only what
/// went wrong.
pub(crate) fn start(format: LogFormat, level: LevelFilter) -> anyhow::Result<()> {
    let text = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .parse(&text)
        .map_err(|error| Usage(format!("{FILTER_VARIABLE}={text:?} is not a log filter: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(output::stderr_is_coloured()).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}
