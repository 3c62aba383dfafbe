//! Reads a whole log back and checks every batch and every body.

use anyhow::{Context as _, Result};
use equeue_record::{BatchView, Decompressor, Offset, split_first};
use equeue_storage::io::Io;
use equeue_storage::log::CommitLog;

use super::queue_key;
use crate::stamp::{BODY_BYTES_MIN, Stamp};
use crate::verify::Findings;

/// Bytes asked for at a time.
const READ_BYTES: usize = 1 << 20;

/// Reads every queue from its start to its end; `durable` says how many messages each must have.
pub(crate) async fn read_back<I: Io>(log: &CommitLog<I>, durable: &[u64]) -> Result<Findings> {
    let mut findings = Findings::default();
    for (queue, expected) in (0_u32..).zip(durable) {
        let found = read_queue(log, queue, &mut findings).await?;
        findings.received += found;
        findings.lost += expected.saturating_sub(found);
        findings.duplicated += found.saturating_sub(*expected);
    }
    Ok(findings)
}

async fn read_queue<I: Io>(log: &CommitLog<I>, queue: u32, findings: &mut Findings) -> Result<u64> {
    let key = queue_key(queue);
    let bounds = log.bounds(key).with_context(|| format!("queue {queue} is not in the log"))?;
    let mut memory = Decompressor::new();
    let (mut offset, mut found) = (bounds.start, 0);
    while offset < bounds.durable_end {
        let read =
            log.read(key, offset, READ_BYTES).await.with_context(|| format!("reading queue {queue}"))?;
        let mut expected = offset;
        for piece in &read.pieces {
            let bytes = (*piece.memory).as_ref().get(piece.range.clone()).unwrap_or_default();
            found += check_piece(bytes, &mut expected, &mut memory, findings);
        }
        if read.next_offset <= offset {
            break;
        }
        offset = read.next_offset;
    }
    Ok(found)
}

/// Checks the batches of a piece; how many good records it holds.
fn check_piece(
    mut bytes: &[u8],
    expected: &mut Offset,
    memory: &mut Decompressor,
    findings: &mut Findings,
) -> u64 {
    let mut good = 0;
    while !bytes.is_empty() {
        let Ok((_, len)) = split_first(bytes) else {
            findings.corrupted += 1;
            return good;
        };
        let (batch, rest) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
        bytes = rest;
        let records = BatchView::parse(batch).and_then(|view| {
            let mut count = 0;
            for record in view.records(memory)? {
                let record = record?;
                let body = record.body.unwrap_or_default();
                findings.reordered += u64::from(record.offset != *expected);
                *expected = record.offset.plus(1);
                if body.len() >= BODY_BYTES_MIN && Stamp::read_checked(body).is_none() {
                    findings.corrupted += 1;
                } else {
                    count += 1;
                }
            }
            Ok(count)
        });
        match records {
            Ok(count) => good += count,
            Err(_) => findings.corrupted += 1,
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use equeue_record::{
        BROKER_PART_LEN, BatchBuilder, BrokerStamp, Codec, MasterEpoch, ProducerStamp, RecordFields,
    };

    use super::*;

    fn stored(base_offset: u64, messages: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 16);
        for sequence in 0..messages {
            let mut body = [7; 50];
            Stamp { run: 0, producer: 0, sequence, sent_ns: 0 }.write(&mut body, true);
            builder.push(&RecordFields { body: Some(&body), ..RecordFields::default() }).expect("room");
        }
        let mut batch = builder.finish(ProducerStamp::NONE).expect("a batch").to_vec();
        let front: &mut [u8; BROKER_PART_LEN] = batch.first_chunk_mut().expect("long enough");
        let stamp = BrokerStamp {
            base_offset: Offset(base_offset),
            append_time_ms: 1,
            queue_key: queue_key(0),
            master_epoch: MasterEpoch(1),
        };
        equeue_record::stamp(front, &stamp);
        batch
    }

    fn check(bytes: &[u8]) -> (u64, Findings) {
        let (mut findings, mut expected) = (Findings::default(), Offset(10));
        let good = check_piece(bytes, &mut expected, &mut Decompressor::new(), &mut findings);
        (good, findings)
    }

    #[test]
    fn whole_batches_in_order_are_clean() {
        let bytes = [stored(10, 3), stored(13, 2)].concat();
        assert_eq!(check(&bytes), (5, Findings::default()));
    }

    #[test]
    fn damage_gaps_and_cuts_are_seen() {
        let good = [stored(10, 3), stored(13, 2)].concat();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let (found, findings) = check(&bad);
            assert!(found < 5 && !findings.is_clean(), "byte {at}");
        }
        assert_eq!(check(&[stored(10, 3), stored(14, 2)].concat()).1.reordered, 1);
        assert!(!check(&good[..good.len() - 1]).1.is_clean());
    }
}
