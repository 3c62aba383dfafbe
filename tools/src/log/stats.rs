//! `equeue log stats`: counts by log and by queue.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use equeue_record::QueueKey;
use equeue_storage::offline::{self, DumpItem, DumpOptions};
use serde::Serialize;

use super::verify::{LogRow, log_rows, log_table};
use crate::output::{Format, Output, Table};

#[derive(Serialize)]
struct QueueRow {
    queue: String,
    first_offset: u64,
    next_offset: u64,
    messages: u64,
    batches: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Stats {
    logs: Vec<LogRow>,
    queues: Vec<QueueRow>,
}

/// Counts what is in the directory.
pub(super) fn run(dir: &Path, format: Format) -> anyhow::Result<()> {
    let spinner = super::spinner(format!("reading {}", dir.display()));
    let read = offline::verify(dir).and_then(|report| Ok((log_rows(&report), queues(dir)?)));
    spinner.finish_and_clear();
    let (logs, queues) = read?;
    let stats = Stats { logs, queues };
    let mut output = Output::stdout();
    match format {
        Format::Json => output.json(&stats)?,
        Format::Table => {
            log_table(&stats.logs).print(&mut output, "no logs yet")?;
            output.line("")?;
            let mut table = Table::new(&["QUEUE", "FIRST", "NEXT", "MESSAGES", "BATCHES", "BYTES"]);
            for row in stats.queues {
                let numbers = [row.first_offset, row.next_offset, row.messages, row.batches, row.bytes];
                table.row(std::iter::once(row.queue).chain(numbers.map(|number| number.to_string())));
            }
            table.print(&mut output, "no messages yet")?;
        }
    }
    output.flush()
}

fn queues(dir: &Path) -> Result<Vec<QueueRow>, offline::OfflineError> {
    let mut queues: BTreeMap<u64, QueueRow> = BTreeMap::new();
    offline::dump(dir, &DumpOptions::default(), |item| {
        if let DumpItem::Batch(batch) = item
            && batch.queue_key != QueueKey::STATE
        {
            let row = queues.entry(batch.queue_key.0).or_insert_with(|| QueueRow {
                queue: batch.queue_key.to_string(),
                first_offset: batch.base_offset.0,
                next_offset: 0,
                messages: 0,
                batches: 0,
                bytes: 0,
            });
            let records = u64::from(batch.record_count);
            row.next_offset = row.next_offset.max(batch.base_offset.0.saturating_add(records));
            row.messages += records;
            row.batches += 1;
            row.bytes += u64::from(batch.length);
        }
        ControlFlow::Continue(())
    })?;
    Ok(queues.into_values().collect())
}
