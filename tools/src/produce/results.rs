//! What became of each line, written as soon as it is known.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use equeue_client::{Receipt, SendError};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::failure::OutputClosed;
use crate::output::{Format, Output, to_stderr};

/// What became of a line.
pub(super) enum Outcome {
    /// It is stored.
    Acknowledged(Receipt),
    /// It failed for good.
    Failed(String),
}

/// What the writer is told.
pub(super) enum Event {
    /// What became of the line of this number.
    Line(u64, Outcome),
    /// Nothing follows.
    End,
}

impl From<Result<Receipt, SendError>> for Outcome {
    fn from(result: Result<Receipt, SendError>) -> Self {
        match result {
            Ok(receipt) => Self::Acknowledged(receipt),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Counts of all lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Stored.
    pub(super) acknowledged: u64,
    /// Failed.
    pub(super) failed: u64,
    /// Nobody reads stdout any more.
    pub(super) output_closed: bool,
}

#[derive(Serialize)]
struct AcknowledgedLine<'a> {
    line: u64,
    id: String,
    broker: &'a str,
    /// Null for a delayed message: it has no place before it is due.
    queue: Option<u32>,
    offset: Option<u64>,
}

#[derive(Serialize)]
struct FailedLine<'a> {
    line: u64,
    error: &'a str,
}

/// Writes results until [`Event::End`]. Gives a permit back for each; closes the semaphore when nobody reads
/// stdout any more.
pub(super) fn start(
    results: Receiver<Event>,
    format: Format,
    permits: Arc<Semaphore>,
    bar: Option<ProgressBar>,
) -> anyhow::Result<JoinHandle<Tally>> {
    thread::Builder::new()
        .name("write-results".to_owned())
        .spawn(move || {
            let mut writer = Writer { format, output: Output::stdout(), bar, tally: Tally::default() };
            if let Err(error) = writer.run(&results, &permits) {
                writer.tally.output_closed = true;
                if !error.is::<OutputClosed>() {
                    to_stderr(&format!("equeue: {error:#}"));
                }
                permits.close();
                // What is in flight is still counted.
                while let Ok(Event::Line(_, outcome)) = results.recv() {
                    writer.count(&outcome);
                }
            }
            writer.tally
        })
        .context("cannot start a thread")
}

struct Writer {
    format: Format,
    output: Output,
    bar: Option<ProgressBar>,
    tally: Tally,
}

impl Writer {
    fn run(&mut self, results: &Receiver<Event>, permits: &Semaphore) -> anyhow::Result<()> {
        while let Ok(first) = results.recv() {
            let mut next = Ok(first);
            let mut written = 0;
            // Everything that is there already goes out in one write.
            while let Ok(Event::Line(line, outcome)) = &next {
                self.count(outcome);
                self.write(*line, outcome)?;
                written += 1;
                next = results.try_recv();
            }
            self.output.flush()?;
            permits.add_permits(written);
            if matches!(next, Ok(Event::End)) {
                break;
            }
        }
        Ok(())
    }

    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Acknowledged(_) => self.tally.acknowledged += 1,
            Outcome::Failed(_) => self.tally.failed += 1,
        }
    }

    fn write(&mut self, line: u64, outcome: &Outcome) -> anyhow::Result<()> {
        match (self.format, outcome) {
            (Format::Json, Outcome::Acknowledged(receipt)) => self.output.json_line(&AcknowledgedLine {
                line,
                id: receipt.id().to_string(),
                broker: &receipt.broker,
                queue: receipt.place().map(|(queue, _)| queue),
                offset: receipt.place().map(|(_, offset)| offset.0),
            }),
            (Format::Json, Outcome::Failed(error)) => self.output.json_line(&FailedLine { line, error }),
            (Format::Table, Outcome::Acknowledged(_)) => Ok(()),
            (Format::Table, Outcome::Failed(error)) => {
                let told = format!("line {line}: {error}");
                match &self.bar {
                    Some(bar) => bar.suspend(|| to_stderr(&told)),
                    None => to_stderr(&told),
                }
                Ok(())
            }
        }
    }
}
