//! Any entries as a slice of a snapshot, as state entries and behind a GAP, and any bytes as the body of a flush of any
//! kind: taken or refused, never a panic.
//!
//! The input: kind of flush (1 byte), flags (1 byte), then entries: length of key and of value (1 byte each, 255: no
//! value), key, value.
#![no_main]

use equeue_record::{BROKER_PART_LEN, BrokerStamp, MasterEpoch, Offset, QueueKey, stamp};
use equeue_storage::Position;
use equeue_storage::format::{
    FLUSH_HEADER_LEN, FlushHeader, FlushKind, GapPrefix, Salt, SnapshotPrefix, StateBatchBuilder,
};
use equeue_storage::offline::check_body;
use libfuzzer_sys::fuzz_target;

fn header(kind: FlushKind, body: &[u8]) -> FlushHeader {
    let position = Position(1 << 20);
    FlushHeader {
        kind,
        epoch: MasterEpoch(1),
        position,
        body_len: body.len() as u32,
        span: (FLUSH_HEADER_LEN + body.len()).next_multiple_of(4096) as u32,
        body_crc: crc32c::crc32c(body),
        chain: 0,
        snapshot: None,
        time_ms: 0,
        salt: Salt::from_bits(1),
        durable_to: position,
        next_salt: None,
    }
}

fn batch(mut entries: &[u8]) -> Option<Vec<u8>> {
    let mut builder = StateBatchBuilder::new(1 << 16);
    while let [key, value, rest @ ..] = entries {
        let key_len = usize::from(*key).min(rest.len());
        let (key, rest) = rest.split_at(key_len);
        let value_len = usize::from(*value).min(rest.len());
        let (value, rest) = if *value == 255 { (None, rest) } else {
            let (value, rest) = rest.split_at(value_len);
            (Some(value), rest)
        };
        builder.push(key, value).ok()?;
        entries = rest;
    }
    let mut bytes = builder.finish().ok()?.to_vec();
    let front: &mut [u8; BROKER_PART_LEN] = bytes.first_chunk_mut()?;
    stamp(
        front,
        &BrokerStamp {
            base_offset: Offset(0),
            append_time_ms: 1,
            queue_key: QueueKey::STATE,
            master_epoch: MasterEpoch(1),
        },
    );
    Some(bytes)
}

fuzz_target!(|input: &[u8]| {
    let [kind, flags, rest @ ..] = input else { return };
    let kind = FlushKind::ALL[usize::from(*kind) % FlushKind::ALL.len()];
    let _ = check_body(&header(kind, rest), rest);
    let Some(batch) = batch(rest) else { return };
    let begin = Position(1 << 20);
    let prefix = SnapshotPrefix { begin, as_of: begin, index: 0, is_begin: true, is_end: flags & 1 != 0 };
    let gap = GapPrefix { resume: None, previous_end: None, resume_link: 0 };
    for (kind, body) in [
        (FlushKind::Snapshot, [&prefix.encode()[..], &batch].concat()),
        (FlushKind::Gap, [&gap.encode()[..], &batch, &batch].concat()),
        (FlushKind::Data, batch.clone()),
    ] {
        let _ = check_body(&header(kind, &body), &body);
    }
});
