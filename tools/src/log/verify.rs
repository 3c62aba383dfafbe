//! `equeue log verify`.

use std::path::Path;

use equeue_storage::offline::{self, Counts, VerifyReport};
use serde::Serialize;

use crate::failure::Told;
use crate::output::{Format, Output, Table};

#[derive(Serialize)]
pub(super) struct LogRow {
    log: u16,
    begin: u64,
    end: u64,
    segments: u64,
    flushes: u64,
    batches: u64,
    messages: u64,
    state_entries: u64,
    body_bytes: u64,
    torn_bytes: u64,
}

#[derive(Serialize)]
struct DamageRow {
    file: String,
    position: u64,
    reason: String,
}

#[derive(Serialize)]
struct Verified {
    sound: bool,
    logs: Vec<LogRow>,
    damaged: Vec<DamageRow>,
}

/// Checks the directory.
pub(super) fn run(dir: &Path, format: Format) -> anyhow::Result<()> {
    let spinner = super::spinner(format!("reading {}", dir.display()));
    let report = offline::verify(dir);
    spinner.finish_and_clear();
    let report = report?;
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&verified(&report))?,
        Format::Table => in_words(&report, &mut output)?,
    }
    output.flush()?;
    if report.is_sound() { Ok(()) } else { Err(Told.into()) }
}

pub(super) fn log_rows(report: &VerifyReport) -> Vec<LogRow> {
    report
        .logs
        .iter()
        .map(|log| {
            let Counts { segments, flushes, batches, records, state_entries, body_bytes } = log.counts;
            LogRow {
                log: log.log.0,
                begin: log.begin.0,
                end: log.end.0,
                segments,
                flushes,
                batches,
                messages: records,
                state_entries,
                body_bytes,
                torn_bytes: log.torn_bytes,
            }
        })
        .collect()
}

pub(super) fn log_table(rows: &[LogRow]) -> Table {
    let mut table = Table::new(&[
        "LOG", "BEGIN", "END", "SEGMENTS", "FLUSHES", "BATCHES", "MESSAGES", "STATE", "BYTES", "TORN",
    ]);
    for row in rows {
        let numbers = [
            u64::from(row.log),
            row.begin,
            row.end,
            row.segments,
            row.flushes,
            row.batches,
            row.messages,
            row.state_entries,
            row.body_bytes,
            row.torn_bytes,
        ];
        table.row(numbers.map(|number| number.to_string()));
    }
    table
}

fn verified(report: &VerifyReport) -> Verified {
    let damaged = report.damaged.iter().map(|damage| DamageRow {
        file: damage.path.display().to_string(),
        position: damage.position.0,
        reason: damage.reason.clone(),
    });
    Verified { sound: report.is_sound(), logs: log_rows(report), damaged: damaged.collect() }
}

fn in_words(report: &VerifyReport, output: &mut Output) -> anyhow::Result<()> {
    log_table(&log_rows(report)).print(output, "no logs yet")?;
    for damage in &report.damaged {
        output.line(format!("damaged: {damage}"))?;
    }
    let totals = report.totals();
    if report.is_sound() {
        output.line(format!("sound: {} messages in {} flushes checked", totals.records, totals.flushes))
    } else {
        output.line(format!(
            "{} damaged place(s): keep a copy of the directory before anything else; what lies behind a damage is \
             still there and `equeue log dump` shows it",
            report.damaged.len()
        ))
    }
}
