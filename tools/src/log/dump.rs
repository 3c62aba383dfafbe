//! `equeue log dump`: one line for each thing in the logs. Salts are never printed.

use std::ops::ControlFlow;
use std::path::PathBuf;

use equeue_record::{BatchHeader, QueueKey, Record};
use equeue_storage::format::{FlushHeader, SegmentHeader};
use equeue_storage::offline::{self, DumpItem, DumpOptions};
use equeue_storage::{LogId, Position};
use serde_json::{Value, json};

use crate::failure::Told;
use crate::output::{Format, Output};

/// What to print.
#[derive(clap::Args, Debug)]
pub(crate) struct DumpArgs {
    /// The data directory of a broker that does not run
    dir: PathBuf,
    /// Only this log
    #[arg(long)]
    log: Option<u16>,
    /// Only flushes at or behind this position
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only batches of the queue with this key, as `log stats` prints it
    #[arg(long, value_name = "KEY", value_parser = queue_key)]
    queue: Option<QueueKey>,
}

fn queue_key(text: &str) -> Result<QueueKey, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map(QueueKey).map_err(|error| format!("{error}; a queue key is a number, decimal or 0x..."))
}

/// Prints what is asked for.
///
/// # Errors
/// [`Told`] when something was damaged: its line says where.
pub(super) fn run(args: &DumpArgs, format: Format) -> anyhow::Result<()> {
    let options = DumpOptions { log: args.log.map(LogId), from: args.from.map(Position), queue: args.queue };
    let mut output = Output::stdout();
    let mut printed = Ok(());
    let mut is_damaged = false;
    offline::dump(&args.dir, &options, |item| {
        is_damaged |= matches!(item, DumpItem::Damaged(_));
        printed = match format {
            Format::Json => output.json_line(&as_json(&item)),
            Format::Table => output.line(in_words(&item)),
        };
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    printed?;
    output.flush()?;
    if is_damaged { Err(Told.into()) } else { Ok(()) }
}

fn in_words(item: &DumpItem<'_>) -> String {
    match item {
        DumpItem::Identity(identity) => format!(
            "broker {} (group {}) of cluster {}, {} log(s), incarnation {}",
            identity.broker_name,
            identity.broker_group,
            identity.cluster_name,
            identity.logs,
            identity.incarnation
        ),
        DumpItem::Log(log) => format!("log {log}"),
        DumpItem::Segment(path, header) => {
            format!("segment {}: positions {}..{}", path.display(), header.position, header.end())
        }
        DumpItem::Flush(header) => format!(
            "  flush {:?} at {}: {} bytes, span {}, epoch {}, durable to {}",
            header.kind, header.position, header.body_len, header.span, header.epoch, header.durable_to
        ),
        DumpItem::Batch(header) => format!(
            "    batch of queue {}: offset {}, {} record(s), {} bytes, producer {} epoch {} sequence {}",
            header.queue_key,
            header.base_offset,
            header.record_count,
            header.length,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence
        ),
        DumpItem::Record(record) => {
            let body = record.body.unwrap_or_default();
            format!("      {}: {} bytes {}", record.offset, body.len(), body.escape_ascii())
        }
        DumpItem::State(key, value) => {
            let value = value.map_or_else(|| "removed".to_owned(), |value| format!("{} bytes", value.len()));
            format!("    state {}: {value}", key.escape_ascii())
        }
        DumpItem::End(position, 0) => format!("end at {position}"),
        DumpItem::End(position, torn) => {
            format!("end at {position}; {torn} bytes behind it were never acknowledged")
        }
        DumpItem::Damaged(damage) => format!("DAMAGED {damage}"),
    }
}

fn as_json(item: &DumpItem<'_>) -> Value {
    match item {
        DumpItem::Identity(identity) => json!({
            "kind": "identity", "cluster": identity.cluster_name, "broker": identity.broker_name,
            "group": identity.broker_group, "logs": identity.logs,
            "incarnation": identity.incarnation.to_string(), "created_ms": identity.created_ms,
        }),
        DumpItem::Log(log) => json!({ "kind": "log", "log": log.0 }),
        DumpItem::Segment(path, header) => segment(path, header),
        DumpItem::Flush(header) => flush(header),
        DumpItem::Batch(header) => batch(header),
        DumpItem::Record(record) => self::record(record),
        DumpItem::State(key, value) => json!({
            "kind": "state", "key": key.escape_ascii().to_string(), "value_bytes": value.map(<[u8]>::len),
        }),
        DumpItem::End(position, torn) => json!({ "kind": "end", "position": position.0, "torn_bytes": torn }),
        DumpItem::Damaged(damage) => json!({
            "kind": "damaged", "file": damage.path.display().to_string(), "position": damage.position.0,
            "reason": damage.reason,
        }),
    }
}

fn segment(path: &std::path::Path, header: &SegmentHeader) -> Value {
    json!({
        "kind": "segment", "file": path.display().to_string(), "log": header.log.0,
        "position": header.position.0, "bytes": header.bytes, "created_ms": header.created_ms,
    })
}

fn flush(header: &FlushHeader) -> Value {
    json!({
        "kind": "flush", "flush": format!("{:?}", header.kind).to_uppercase(), "position": header.position.0,
        "body_bytes": header.body_len, "span": header.span, "epoch": header.epoch.0,
        "durable_to": header.durable_to.0, "snapshot": header.snapshot.map(|position| position.0),
        "time_ms": header.time_ms,
    })
}

fn batch(header: &BatchHeader) -> Value {
    json!({
        "kind": "batch", "queue": header.queue_key.to_string(), "offset": header.base_offset.0,
        "records": header.record_count, "bytes": header.length, "append_time_ms": header.append_time_ms,
        "producer": header.producer_id, "producer_epoch": header.producer_epoch,
        "sequence": header.base_sequence,
    })
}

fn record(record: &Record<'_>) -> Value {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    json!({
        "kind": "record", "offset": record.offset.0, "key": record.key.map(text), "tag": record.tag,
        "code": record.code, "create_time_ms": record.create_time_ms, "body": record.body.map(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keys_are_decimal_or_hexadecimal() {
        assert_eq!(queue_key("0x10"), Ok(QueueKey(16)));
        assert_eq!(queue_key("16"), Ok(QueueKey(16)));
        assert!(queue_key("orders").is_err());
    }
}
