//! An index file with some runs, changed by the input, and any bytes as one: nothing, or exactly runs that were
//! written - whatever was changed, unless the change puts a checksum right.
//!
//! The input: number of entries (2 bytes), then changes of 6 bytes: block, place in it, what to do, values.
#![no_main]

use equeue_storage::format::{Salt, SegmentHeader};
use equeue_storage::offline::{IndexedRun, index_bytes, read_index};
use equeue_storage::{LogId, Position};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;

const SEGMENT: SegmentHeader = SegmentHeader {
    log: LogId(1),
    position: Position(3 << 20),
    bytes: 1 << 20,
    salt: Salt::from_bits(0x5a17),
    created_ms: 0,
 has_gaps: false,
};

fn runs(count: u64) -> Vec<IndexedRun> {
    (0..count)
        .map(|n| IndexedRun {
            queue: equeue_record::QueueKey(1 + n / 7),
            base_offset: equeue_record::Offset(n * 10),
            record_count: 10,
            position: Position(SEGMENT.position.0 + 4096 * (1 + n)),
            bytes: 500,
            last_time_ms: 1000 + n as i64,
        })
        .collect()
}

/// Applies the changes; true when one of them puts a checksum right.
fn change(image: &mut Vec<u8>, changes: &[u8]) -> bool {
    let mut is_forged = false;
    for change in changes.chunks_exact(6).take(64) {
        let blocks = image.len().div_ceil(BLOCK).max(1);
        let begin = usize::from(change[0]) % blocks * BLOCK;
        let at = begin + usize::from(u16::from_le_bytes([change[1], change[2]])) % BLOCK;
        match change[3] % 6 {
            0 => image.truncate(at),
            1 if begin + BLOCK <= image.len() => {
                let from = usize::from(change[4]) % blocks * BLOCK;
                if let Some(other) = image.get(from..from + BLOCK).map(<[u8]>::to_vec) {
                    image[begin..begin + BLOCK].copy_from_slice(&other);
                }
            }
            2 if begin + BLOCK <= image.len() => {
                is_forged = true;
                let mut crc = crc32c::crc32c(&SEGMENT.position.0.to_le_bytes());
                crc = crc32c::crc32c_append(crc, &((begin / BLOCK) as u32).to_le_bytes());
                crc = crc32c::crc32c_append(crc, &image[begin + 4..begin + BLOCK]);
                image[begin..begin + 4].copy_from_slice(&crc.to_le_bytes());
            }
            3 => image.extend_from_slice(&[change[5]; 100]),
            _ if at < image.len() => image[at] ^= change[5],
            _ => {}
        }
    }
    is_forged
}

fuzz_target!(|input: &[u8]| {
    let _ = read_index(&SEGMENT, input);
    let Some((count, changes)) = input.split_first_chunk::<2>() else { return };
    let written = runs(u64::from(u16::from_le_bytes(*count)) % 400);
    let whole = index_bytes(&SEGMENT, &written);
    assert_eq!(read_index(&SEGMENT, &whole).as_ref(), Some(&written));
    let mut image = whole.clone();
    let is_forged = change(&mut image, changes);
    if let Some(found) = read_index(&SEGMENT, &image)
        && !is_forged
    {
        assert_eq!((found, image), (written, whole));
    }
});
