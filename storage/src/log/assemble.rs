//! Lays the batches of a flush into memory: the one copy that a batch sees in this crate. Pure.
//!
//! Batches are grouped by queue (in the order they came within a queue), so each queue has one contiguous *run*. The
//! broker's part of each batch is stamped in the copy. The checksum of the body is joined from the checksums that the
//! batches brought along; their bytes are not read again.

use equeue_record::{BROKER_PART_LEN, BrokerStamp, MasterEpoch, QueueKey, stamp};

use super::pending::Item;
use crate::crc;
use crate::format::FLUSH_HEADER_LEN;
use crate::index::Run;
use crate::types::Position;

/// Below this length a pass over the bytes, which the copy just left in the nearest cache, is cheaper than a join.
const JOIN_BYTES_MIN: usize = 512;

/// What lies in the body of a flush.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) len: usize,
    pub(crate) crc: u32,
    /// One per queue, in order of queue keys.
    pub(crate) runs: Vec<(QueueKey, Run)>,
}

/// Memory that is used again for each flush.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    order: Vec<u32>,
}

/// Copies `items` behind the header into `memory`, stamped and grouped, and zeroes what is left.
///
/// # Panics
/// When `memory` is too short: the caller has added up the same lengths.
pub(crate) fn assemble(
    items: &[Item],
    scratch: &mut Scratch,
    (position, epoch): (Position, MasterEpoch),
    memory: &mut [u8],
) -> Body {
    let (_, room) = memory.split_at_mut(FLUSH_HEADER_LEN);
    sort(items, &mut scratch.order);
    let mut body = Body::default();
    let mut rest = room;
    for item in scratch.order.iter().filter_map(|index| items.get(*index as usize)) {
        let (copy, after) = rest.split_at_mut(item.batch.len());
        copy.copy_from_slice(&item.batch);
        body.crc = stamp_copy(copy, item, epoch, body.crc);
        let at = position.plus((FLUSH_HEADER_LEN + body.len) as u64);
        add_to_runs(&mut body.runs, item, at);
        body.len += item.batch.len();
        rest = after;
    }
    rest.fill(0);
    body
}

fn sort(items: &[Item], order: &mut Vec<u32>) {
    order.clear();
    order.extend((0..items.len()).filter_map(|index| u32::try_from(index).ok()));
    let queue = |index: &u32| items.get(*index as usize).map(|item| item.queue);
    if !order.is_sorted_by_key(queue) {
        // Unstable with the index as second key is stable, without the memory that a stable sort takes.
        order.sort_unstable_by_key(|index| (queue(index), *index));
    }
}

/// Stamps a copied batch; gives the checksum of everything up to its end.
fn stamp_copy(copy: &mut [u8], item: &Item, epoch: MasterEpoch, crc_before: u32) -> u32 {
    let broker = BrokerStamp {
        base_offset: item.base_offset,
        append_time_ms: item.append_time_ms,
        queue_key: item.queue,
        master_epoch: epoch,
    };
    let (front, covered) =
        copy.split_first_chunk_mut::<BROKER_PART_LEN>().expect("a batch was checked on append");
    stamp(front, &broker);
    let crc = crc32c::crc32c_append(crc_before, front);
    if covered.len() < JOIN_BYTES_MIN {
        crc32c::crc32c_append(crc, covered)
    } else {
        crc::join(crc, item.producer_crc, covered.len())
    }
}

fn add_to_runs(runs: &mut Vec<(QueueKey, Run)>, item: &Item, position: Position) {
    let bytes = u32::try_from(item.batch.len()).expect("a batch is smaller than a window");
    match runs.last_mut() {
        Some((queue, run)) if *queue == item.queue => {
            run.record_count += item.record_count;
            run.bytes += bytes;
            run.last_time_ms = item.append_time_ms;
        }
        _ => runs.push((
            item.queue,
            Run {
                base_offset: item.base_offset,
                position,
                last_time_ms: item.append_time_ms,
                record_count: item.record_count,
                bytes,
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use equeue_record::{BatchBuilder, BatchView, Codec, Offset, ProducerStamp, RecordFields};

    use super::*;

    fn batch(body: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None, 1 << 20);
        builder.push(&RecordFields { body: Some(body), ..RecordFields::default() }).unwrap();
        builder.finish(ProducerStamp::NONE).unwrap()
    }

    fn item(queue: u64, offset: u64, body: &[u8]) -> Item {
        let batch = batch(body);
        Item {
            queue: QueueKey(queue),
            base_offset: Offset(offset),
            append_time_ms: 77,
            record_count: 1,
            producer_crc: u32::from_le_bytes(batch[28..32].try_into().unwrap()),
            ends_unit: true,
            batch,
        }
    }

    #[test]
    fn batches_are_grouped_stamped_and_covered_by_the_checksum() {
        let items = [item(9, 0, b"a"), item(2, 5, &[1; 3000]), item(9, 1, &[2; 600]), item(2, 6, b"d")];
        let mut memory = vec![0xff; 8192];
        let body = assemble(&items, &mut Scratch::default(), (Position(4096), MasterEpoch(3)), &mut memory);

        let bytes = &memory[FLUSH_HEADER_LEN..FLUSH_HEADER_LEN + body.len];
        assert_eq!(body.crc, crc32c::crc32c(bytes));
        assert!(memory[FLUSH_HEADER_LEN + body.len..].iter().all(|byte| *byte == 0));
        let runs: Vec<_> =
            body.runs.iter().map(|(queue, run)| (queue.0, run.base_offset.0, run.record_count)).collect();
        assert_eq!(runs, [(2, 5, 2), (9, 0, 2)]);
        assert_eq!(body.runs[0].1.position, Position(4096 + 128));

        let mut rest = bytes;
        for (queue, offset) in [(2, 5), (2, 6), (9, 0), (9, 1)] {
            let view = BatchView::parse(rest).unwrap();
            assert_eq!((view.header().queue_key.0, view.header().base_offset.0), (queue, offset));
            assert_eq!((view.header().master_epoch, view.header().append_time_ms), (MasterEpoch(3), 77));
            rest = &rest[view.header().len()..];
        }
        assert!(rest.is_empty());
    }
}
