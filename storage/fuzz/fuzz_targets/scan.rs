//! A segment with some flushes, changed by the input, read to its end: the walk ends, and gives only flushes that
//! were written, in order, from the first on - whatever was changed, unless the change forges a header.
//!
//! The input: how the segment must end (1 byte), then changes of 6 bytes: block, place in it, what to do, values.
#![no_main]

use equeue_record::MasterEpoch;
use equeue_storage::format::{
    Chain, FLUSH_HEADER_LEN, FlushHeader, FlushKind, Salt, SealBody, SegmentHeader,
};
use equeue_storage::segment::{Ending, FirstFlush, Step, TailSearch, Walk, holds_flush};
use equeue_storage::{LogId, Position};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;
const BLOCKS: usize = 24;

const SEGMENT: SegmentHeader = SegmentHeader {
    log: LogId(1),
    position: Position(3 << 20),
    bytes: 1 << 20,
    salt: Salt::from_bits(0x5a17),
    created_ms: 0,
 has_gaps: false,
};

/// Flushes of one to three blocks, the last one SEAL; those in the middle know that the first are synced.
fn written() -> (Vec<u8>, Vec<(FlushHeader, Vec<u8>)>) {
    let mut image = vec![0; BLOCKS * BLOCK];
    let mut flushes = Vec::new();
    let mut chain = Chain { position: SEGMENT.first_flush(), link: Some(7) };
    for (index, blocks) in [1, 2, 1, 3, 1, 2, 1].into_iter().enumerate() {
        let is_seal = index == 6;
        let body = if is_seal {
            SealBody { next: SEGMENT.end() }.encode().to_vec()
        } else {
            vec![index as u8 + 1; blocks * BLOCK - FLUSH_HEADER_LEN - index]
        };
        let header = FlushHeader {
            kind: if is_seal { FlushKind::Seal } else { FlushKind::Data },
            epoch: MasterEpoch(1),
            position: chain.position,
            body_len: body.len() as u32,
            span: (blocks * BLOCK) as u32,
            body_crc: crc32c::crc32c(&body),
            chain: chain.link.unwrap(),
            snapshot: None,
            time_ms: 0,
            salt: SEGMENT.salt,
            durable_to: flushes.last().map_or(SEGMENT.position, |(last, _): &(FlushHeader, _)| last.position),
            next_salt: is_seal.then_some(Salt::from_bits(9)),
        };
        let at = (header.position.0 - SEGMENT.first_flush().0) as usize;
        image[at..at + FLUSH_HEADER_LEN].copy_from_slice(&header.encode());
        image[at + FLUSH_HEADER_LEN..][..body.len()].copy_from_slice(&body);
        chain = Chain::after(&header);
        flushes.push((header, body));
    }
    (image, flushes)
}

/// Applies the changes; true when one of them puts a checksum right.
fn change(image: &mut Vec<u8>, changes: &[u8]) -> bool {
    let mut is_forged = false;
    for change in changes.chunks_exact(6).take(64) {
        let begin = usize::from(change[0]) % BLOCKS * BLOCK;
        let at = begin + usize::from(u16::from_le_bytes([change[1], change[2]])) % BLOCK;
        let Some(block) = image.get_mut(begin..begin + BLOCK) else { continue };
        match change[3] % 8 {
            0 => block.fill(0),
            1 => block.fill(change[4]),
            // A block from elsewhere, as a write that went astray.
            2 => {
                let from = usize::from(change[4]) % BLOCKS * BLOCK;
                if let Some(other) = image.get(from..from + BLOCK).map(<[u8]>::to_vec) {
                    image[begin..begin + BLOCK].copy_from_slice(&other);
                }
            }
            3 => image.truncate(at),
            4 => {
                is_forged = true;
                let crc = crc32c::crc32c(&block[..60]);
                block[60..64].copy_from_slice(&crc.to_le_bytes());
                let crc = crc32c::crc32c(&block[60..124]);
                block[124..128].copy_from_slice(&crc.to_le_bytes());
            }
            // Mostly into headers.
            5 => block[usize::from(change[1]) % FLUSH_HEADER_LEN] = change[5],
            _ => image[at] ^= change[5],
        }
    }
    is_forged
}

fn at(image: &[u8], position: Position) -> &[u8] {
    let begin = (position.0 - SEGMENT.first_flush().0) as usize;
    image.get(begin..).unwrap_or_default()
}

fuzz_target!(|input: &[u8]| {
    let Some((ending, changes)) = input.split_first() else { return };
    let (mut image, flushes) = written();
    let is_forged = change(&mut image, changes);
    let ending = match ending % 10 {
        0 => Ending::Open,
        1 => Ending::Sealed,
        blocks => Ending::At(SEGMENT.first_flush().plus(u64::from(blocks - 2) * BLOCK as u64)),
    };
    let _ = FirstFlush::of_block(&SEGMENT, &image);
    let _ = holds_flush(&SEGMENT, SEGMENT.first_flush(), &image);

    let from = Chain { position: SEGMENT.first_flush(), link: Some(7) };
    let mut walk = Walk::new(SEGMENT, from, ending);
    let mut given = 0;
    loop {
        let position = walk.position();
        match walk.step(at(&image, position)) {
            Step::Flush(header, body) => {
                assert!(walk.position() > position);
                if !is_forged {
                    let (written, written_body) = &flushes[given];
                    assert_eq!((&header, body), (written, written_body.as_slice()));
                }
                given += 1;
            }
            Step::Suspect(reason) => {
                let mut search = TailSearch::new(SEGMENT, position, reason);
                let (begin, _) = search.range();
                search.look(begin, at(&image, begin));
                let decided = search.decide(ending);
                // What was synced for some flush that is left is never cut off silently.
                let says = |(header, _): &&(FlushHeader, _)| {
                    FlushHeader::decode(at(&image, header.position)).as_ref() == Ok(header)
                        && header.durable_to > position
                };
                if !is_forged && ending == Ending::Open && flushes.iter().any(|flush| says(&flush)) {
                    assert!(decided.is_err());
                }
                return;
            }
            Step::Short(_) | Step::End(_) | Step::Damaged(_) => return,
        }
    }
});
