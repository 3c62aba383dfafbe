//! The bytes of an index file. Pure.
//!
//! ```text
//! block 0         header
//! blocks 1..=n    entries, ordered by (queue, offset), up to 102 a block
//! the rest        fences: what each entry block begins with, up to 170 a block
//! ```
//!
//! Every block has a checksum that also covers which block of which segment it is: one that strayed is noticed. The
//! salt of the segment is in the header, so an index of another segment of the same name is not taken.

use equeue_record::{BATCH_HEADER_LEN, Offset, QueueKey};

use super::{Run, Search};
use crate::format::{FORMAT_VERSION, Salt, SegmentHeader};
use crate::types::{LogId, Position};

/// Bytes of each block.
pub(crate) const INDEX_BLOCK_LEN: usize = 4096;
/// Entries in a block.
pub(crate) const ENTRIES_MAX: usize = (INDEX_BLOCK_LEN - FRONT_LEN) / ENTRY_LEN;
/// Fences in a block.
pub(crate) const FENCES_MAX: usize = (INDEX_BLOCK_LEN - FRONT_LEN) / FENCE_LEN;

pub(crate) const MAGIC: [u8; 8] = *b"EQINDEX\x1a";
/// Checksum, count and two bytes of zeros.
pub(crate) const FRONT_LEN: usize = 8;
pub(crate) const ENTRY_LEN: usize = 40;
pub(crate) const FENCE_LEN: usize = 24;

/// A run of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) queue: QueueKey,
    pub(crate) run: Run,
}

/// What an entry block begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) queue: QueueKey,
    pub(crate) base_offset: Offset,
    pub(crate) last_time_ms: i64,
}

/// The first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) log: LogId,
    /// Of the segment.
    pub(crate) position: Position,
    /// Of the segment.
    pub(crate) salt: Salt,
    pub(crate) entries: u64,
    pub(crate) entry_blocks: u32,
    pub(crate) fence_blocks: u32,
}

impl Fence {
    /// Whether the first run of what is looked for lies in this block or a later one.
    pub(crate) fn is_before(&self, queue: QueueKey, search: Search) -> bool {
        self.queue < queue
            || self.queue == queue
                && match search {
                    Search::Offset(offset) => self.base_offset <= offset,
                    Search::Time(time_ms) => self.last_time_ms < time_ms,
                }
    }
}

impl Entry {
    /// Whether it lies before what is looked for.
    pub(crate) fn is_before(&self, queue: QueueKey, search: Search) -> bool {
        self.queue < queue || self.queue == queue && self.run.is_before(search)
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence { queue: self.queue, base_offset: self.run.base_offset, last_time_ms: self.run.last_time_ms }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.queue.0.to_le_bytes());
        out.extend_from_slice(&self.run.base_offset.0.to_le_bytes());
        out.extend_from_slice(&self.run.position.0.to_le_bytes());
        out.extend_from_slice(&self.run.last_time_ms.to_le_bytes());
        out.extend_from_slice(&self.run.record_count.to_le_bytes());
        out.extend_from_slice(&self.run.bytes.to_le_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            queue: QueueKey(u64::from_le_bytes(take(bytes)?)),
            run: Run {
                base_offset: Offset(u64::from_le_bytes(take(bytes)?)),
                position: Position(u64::from_le_bytes(take(bytes)?)),
                last_time_ms: i64::from_le_bytes(take(bytes)?),
                record_count: u32::from_le_bytes(take(bytes)?),
                bytes: u32::from_le_bytes(take(bytes)?),
            },
        })
    }
}

/// The bytes of block `number` with these entries.
pub(crate) fn encode_entries(segment: Position, number: u32, entries: &[Entry]) -> Vec<u8> {
    let mut content = Vec::with_capacity(INDEX_BLOCK_LEN);
    for entry in entries {
        entry.put(&mut content);
    }
    encode_block(segment, number, entries.len(), &content)
}

/// Reads block `number`; `None` when it is not exactly what was written there.
pub(crate) fn decode_entries(segment: Position, number: u32, block: &[u8]) -> Option<Vec<Entry>> {
    let (count, mut content) = decode_block(segment, number, block)?;
    if count > ENTRIES_MAX {
        return None;
    }
    (0..count).map(|_| Entry::take(&mut content)).collect()
}

/// The bytes of block `number` with these fences.
pub(crate) fn encode_fences(segment: Position, number: u32, fences: &[Fence]) -> Vec<u8> {
    let mut content = Vec::with_capacity(INDEX_BLOCK_LEN);
    for fence in fences {
        content.extend_from_slice(&fence.queue.0.to_le_bytes());
        content.extend_from_slice(&fence.base_offset.0.to_le_bytes());
        content.extend_from_slice(&fence.last_time_ms.to_le_bytes());
    }
    encode_block(segment, number, fences.len(), &content)
}

/// Reads the fences of block `number`, adding them to `out`; `None` when it is not exactly what was written there.
pub(crate) fn decode_fences(
    segment: Position,
    number: u32,
    block: &[u8],
    out: &mut Vec<Fence>,
) -> Option<()> {
    let (count, mut content) = decode_block(segment, number, block)?;
    if count > FENCES_MAX {
        return None;
    }
    for _ in 0..count {
        out.push(Fence {
            queue: QueueKey(u64::from_le_bytes(take(&mut content)?)),
            base_offset: Offset(u64::from_le_bytes(take(&mut content)?)),
            last_time_ms: i64::from_le_bytes(take(&mut content)?),
        });
    }
    Some(())
}

impl IndexHeader {
    /// Bytes of the whole file.
    pub(crate) const fn file_len(&self) -> u64 {
        (1 + self.entry_blocks as u64 + self.fence_blocks as u64) * INDEX_BLOCK_LEN as u64
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(INDEX_BLOCK_LEN);
        content.extend_from_slice(&MAGIC);
        content.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        content.extend_from_slice(&self.log.0.to_le_bytes());
        content.extend_from_slice(&[0; 4]);
        content.extend_from_slice(&self.position.0.to_le_bytes());
        content.extend_from_slice(&self.salt.to_bits().to_le_bytes());
        content.extend_from_slice(&self.entries.to_le_bytes());
        content.extend_from_slice(&self.entry_blocks.to_le_bytes());
        content.extend_from_slice(&self.fence_blocks.to_le_bytes());
        encode_block(self.position, 0, 0, &content)
    }

    /// Reads the header of the index of a segment; `None` when it is not that.
    pub(crate) fn decode(segment: &SegmentHeader, block: &[u8]) -> Option<Self> {
        let (_, mut content) = decode_block(segment.position, 0, block)?;
        let bytes = &mut content;
        let magic: [u8; 8] = take(bytes)?;
        let version = u16::from_le_bytes(take(bytes)?);
        let log = LogId(u16::from_le_bytes(take(bytes)?));
        let _: [u8; 4] = take(bytes)?;
        let header = Self {
            log,
            position: Position(u64::from_le_bytes(take(bytes)?)),
            salt: Salt::from_bits(u64::from_le_bytes(take(bytes)?)),
            entries: u64::from_le_bytes(take(bytes)?),
            entry_blocks: u32::from_le_bytes(take(bytes)?),
            fence_blocks: u32::from_le_bytes(take(bytes)?),
        };
        let blocks = header.entries.div_ceil(ENTRIES_MAX as u64);
        let fences = u64::from(header.entry_blocks).div_ceil(FENCES_MAX as u64);
        // A later version is written anew: indexes are made from the segments. A run has a batch at least, so there are no more
        // than the segment has room for: what is made of these numbers is bounded.
        let is_ours = magic == MAGIC
            && version == FORMAT_VERSION
            && header.log == segment.log
            && header.position == segment.position
            && header.salt == segment.salt
            && header.entries <= segment.bytes / BATCH_HEADER_LEN as u64
            && blocks == u64::from(header.entry_blocks)
            && fences == u64::from(header.fence_blocks);
        is_ours.then_some(header)
    }
}

/// The bytes of a whole index file. Logs write theirs in slices, see [`super::IndexWriter`].
pub(crate) fn encode_index(segment: &SegmentHeader, entries: &[Entry]) -> Vec<u8> {
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    let (mut content, mut fences) = (Vec::new(), Vec::new());
    for part in entries.chunks(ENTRIES_MAX) {
        content.extend(encode_entries(segment.position, next(), part));
        fences.extend(part.first().map(Entry::fence));
    }
    let entry_blocks = fences.len();
    for part in fences.chunks(FENCES_MAX) {
        content.extend(encode_fences(segment.position, next(), part));
    }
    let fence_blocks = entry_blocks.div_ceil(FENCES_MAX);
    let narrow = |blocks: usize| u32::try_from(blocks).expect("runs of a segment are fewer");
    let header = IndexHeader {
        log: segment.log,
        position: segment.position,
        salt: segment.salt,
        entries: entries.len() as u64,
        entry_blocks: narrow(entry_blocks),
        fence_blocks: narrow(fence_blocks),
    };
    [header.encode(), content].concat()
}

/// Reads a whole index file; `None` when it is not exactly what was written for the segment.
pub(crate) fn parse_index(segment: &SegmentHeader, bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut blocks = bytes.chunks(INDEX_BLOCK_LEN);
    let header = IndexHeader::decode(segment, blocks.next()?)?;
    if header.file_len() != bytes.len() as u64 {
        return None;
    }
    let (mut entries, mut firsts, mut fences) = (Vec::new(), Vec::new(), Vec::new());
    for number in (1..).take(header.entry_blocks as usize) {
        let block = decode_entries(segment.position, number, blocks.next()?)?;
        firsts.extend(block.first().map(Entry::fence));
        entries.extend(block);
    }
    for number in (1 + header.entry_blocks..).take(header.fence_blocks as usize) {
        decode_fences(segment.position, number, blocks.next()?, &mut fences)?;
    }
    (fences == firsts && entries.len() as u64 == header.entries).then_some(entries)
}

fn encode_block(segment: Position, number: u32, count: usize, content: &[u8]) -> Vec<u8> {
    let count = u16::try_from(count).expect("a block holds a few hundred entries");
    let mut block = Vec::with_capacity(INDEX_BLOCK_LEN);
    block.extend_from_slice(&[0; 4]);
    block.extend_from_slice(&count.to_le_bytes());
    block.extend_from_slice(&[0; 2]);
    block.extend_from_slice(content);
    block.resize(INDEX_BLOCK_LEN, 0);
    let crc = checksum(segment, number, block.get(4..).unwrap_or_default());
    if let Some(front) = block.first_chunk_mut::<4>() {
        *front = crc.to_le_bytes();
    }
    block
}

fn decode_block(segment: Position, number: u32, block: &[u8]) -> Option<(usize, &[u8])> {
    let block = block.get(..INDEX_BLOCK_LEN)?;
    let (crc, rest) = block.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != checksum(segment, number, rest) {
        return None;
    }
    let (count, rest) = rest.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_le_bytes(*count)), rest.get(2..)?))
}

fn checksum(segment: Position, number: u32, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&segment.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &number.to_le_bytes()), bytes)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u64) -> Vec<Entry> {
        (0..count)
            .map(|n| Entry {
                queue: QueueKey(n / 10),
                run: Run {
                    base_offset: Offset(n),
                    position: Position(n * 4096),
                    last_time_ms: -5,
                    record_count: 1,
                    bytes: 77,
                },
            })
            .collect()
    }

    fn segment() -> SegmentHeader {
        SegmentHeader {
            log: LogId(3),
            position: Position(1 << 20),
            bytes: 1 << 20,
            salt: Salt::from_bits(99),
            created_ms: 0,
            has_gaps: false,
        }
    }

    #[test]
    fn blocks_round_trip_full() {
        let written = entries(ENTRIES_MAX as u64);
        let block = encode_entries(Position(4096), 7, &written);
        assert_eq!(block.len(), INDEX_BLOCK_LEN);
        assert_eq!(decode_entries(Position(4096), 7, &block), Some(written.clone()));
        assert_eq!(decode_entries(Position(4096), 8, &block), None, "another block of the file");
        assert_eq!(decode_entries(Position(8192), 7, &block), None, "of another segment");
        let fences: Vec<_> = written.iter().map(Entry::fence).cycle().take(FENCES_MAX).collect();
        let mut read = Vec::new();
        decode_fences(Position(1), 2, &encode_fences(Position(1), 2, &fences), &mut read).unwrap();
        assert_eq!(read, fences);
    }

    #[test]
    fn every_flip_and_truncation_is_noticed() {
        let block = encode_entries(Position(0), 1, &entries(30));
        for bit in 0..block.len() * 8 {
            let mut bad = block.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_entries(Position(0), 1, &bad), None, "flip of bit {bit}");
        }
        assert_eq!(decode_entries(Position(0), 1, &block[..INDEX_BLOCK_LEN - 1]), None);
    }

    #[test]
    fn a_header_belongs_to_one_segment() {
        let header = IndexHeader {
            log: LogId(3),
            position: Position(1 << 20),
            salt: Salt::from_bits(99),
            entries: 103,
            entry_blocks: 2,
            fence_blocks: 1,
        };
        let block = header.encode();
        assert_eq!(IndexHeader::decode(&segment(), &block), Some(header));
        let other = SegmentHeader { salt: Salt::from_bits(98), ..segment() };
        assert_eq!(IndexHeader::decode(&other, &block), None);
        let lying = IndexHeader { entry_blocks: 1, ..header }.encode();
        assert_eq!(IndexHeader::decode(&segment(), &lying), None);
    }

    #[test]
    fn a_header_names_no_more_runs_than_its_segment_has_room_for() {
        let most = segment().bytes / BATCH_HEADER_LEN as u64;
        let header = |entries: u64| {
            let entry_blocks = u32::try_from(entries.div_ceil(ENTRIES_MAX as u64)).unwrap();
            let fence_blocks = entry_blocks.div_ceil(u32::try_from(FENCES_MAX).unwrap());
            let (position, salt) = (segment().position, segment().salt);
            IndexHeader { log: LogId(3), position, salt, entries, entry_blocks, fence_blocks }
        };
        for (entries, is_good) in [(most, true), (most + 1, false), (u64::from(u32::MAX) * 100, false)] {
            let read = IndexHeader::decode(&segment(), &header(entries).encode());
            assert_eq!(read, Some(header(entries)).filter(|_| is_good), "{entries}");
        }
    }
}
