//! The header of a record batch: where each field lies, reading it, stamping the broker's part.
//!
//! ```text
//! offset size field
//!  0     8   base_offset          broker part: what the broker assigns,
//!  8     8   append_time_ms       with a check of its own over bytes 0..32
//! 16     8   queue_key
//! 24     4   master_epoch
//! 28     4   producer_crc         CRC32C of bytes 36..length
//! 32     4   broker_crc           CRC32C of bytes 0..32
//! 36     4   length               bytes of the whole batch, this header included
//! 40     1   version
//! 41     1   codec                0 none, 1 lz4, 2 zstd
//! 42     2   flags                bit 0 control, 1 transactional, 2 time type, 3 tag hashes follow, 4 delayed
//! 44     4   record_count         1..
//! 48     8   producer_id          -1: none
//! 56     4   base_sequence        wrapping i32
//! 60     2   producer_epoch
//! 62     2   reserved, 0
//! 64     8   base_create_time_ms
//! 72     8   max_create_time_ms
//! 80     4   records_len          bytes of the records section once unpacked
//! 84     4   reserved, 0
//! 88     ..  records section, perhaps compressed
//!        4*n tag hashes, one a record, when flag bit 3 is set
//! ```
//!
//! All numbers are little endian; alignment is relative to the batch, so that readers assume nothing of memory.
//! `producer_crc` lies under `broker_crc`: a stamp belongs to one batch and cannot be moved to another.

use crate::codec::Codec;
use crate::error::RecordError;
use crate::ids::{MasterEpoch, Offset, QueueKey};

/// Bytes in front of the records section.
pub const BATCH_HEADER_LEN: usize = 88;
/// Bytes in front of the batch that the producer's checksum does not cover: what the broker stamps.
pub const BROKER_PART_LEN: usize = 36;
/// Format version in each batch.
pub const BATCH_VERSION: u8 = 1;
/// `producer_id` of a batch whose producer asks for no sequence checks.
pub const NO_PRODUCER: i64 = -1;
/// Most records in one batch.
pub const RECORDS_MAX: u32 = 1 << 20;
/// Largest records section once unpacked, in bytes: what a reader may have to allocate.
pub const RECORDS_BYTES_MAX: usize = 16 << 20;
/// Bytes of one tag hash.
pub(crate) const TAG_HASH_LEN: usize = 4;
/// Shortest record: its length, attributes, time delta and code.
pub(crate) const RECORD_LEN_MIN: usize = 4;

/// Flags of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFlags(u16);

impl BatchFlags {
    /// The records are the broker's own (state entries), not messages.
    pub const CONTROL: Self = Self(1);
    /// Reserved for transactions.
    pub const TRANSACTIONAL: Self = Self(1 << 1);
    /// Reserved: create times are the broker's append time.
    pub const APPEND_TIME: Self = Self(1 << 2);
    /// A tag hash of each record follows the records.
    pub const TAG_HASHES: Self = Self(1 << 3);
    /// The records have times before which they are not to be delivered: the broker keeps the batch until then.
    pub const DELAYED: Self = Self(1 << 4);
    const KNOWN: u16 = 0b1_1111;

    /// The bits as stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` set.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A header whose structure has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; means nothing before the broker stamped it.
    pub base_offset: Offset,
    /// Broker's time at append, ms UTC; means nothing before the broker stamped it.
    pub append_time_ms: i64,
    /// The queue; means nothing before the broker stamped it.
    pub queue_key: QueueKey,
    /// The master's generation; means nothing before the broker stamped it.
    pub master_epoch: MasterEpoch,
    /// CRC32C of bytes `36..length`.
    pub producer_crc: u32,
    /// CRC32C of bytes `0..32`.
    pub broker_crc: u32,
    /// Bytes of the whole batch.
    pub length: u32,
    /// How the records are compressed.
    pub codec: Codec,
    /// See [`BatchFlags`].
    pub flags: BatchFlags,
    /// Records in the batch, at least 1.
    pub record_count: u32,
    /// Random id of the producer, or [`NO_PRODUCER`].
    pub producer_id: i64,
    /// Sequence of the first record; wraps.
    pub base_sequence: i32,
    /// Generation of the producer.
    pub producer_epoch: i16,
    /// Create time of the first record, ms UTC.
    pub base_create_time_ms: i64,
    /// Latest create time, ms UTC.
    pub max_create_time_ms: i64,
    /// Bytes of the records section once unpacked.
    pub records_len: u32,
}

/// What the broker writes in front of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerStamp {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Time at append, ms UTC.
    pub append_time_ms: i64,
    /// The queue.
    pub queue_key: QueueKey,
    /// The master's generation.
    pub master_epoch: MasterEpoch,
}

impl BatchHeader {
    /// Reads and checks the header of the batch that `bytes` begins with: every field is in its range, and the whole
    /// batch is there. Checksums are not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_LEN>() else {
            return Err(RecordError::Truncated { needed: BATCH_HEADER_LEN, have: bytes.len() });
        };
        let [version, codec] = array(head, 40);
        if version != BATCH_VERSION {
            return Err(RecordError::Version { found: version, known: BATCH_VERSION });
        }
        let header = Self {
            base_offset: Offset(u64::from_le_bytes(array(head, 0))),
            append_time_ms: i64::from_le_bytes(array(head, 8)),
            queue_key: QueueKey(u64::from_le_bytes(array(head, 16))),
            master_epoch: MasterEpoch(u32::from_le_bytes(array(head, 24))),
            producer_crc: u32::from_le_bytes(array(head, 28)),
            broker_crc: u32::from_le_bytes(array(head, 32)),
            length: u32::from_le_bytes(array(head, 36)),
            codec: Codec::from_number(codec)
                .ok_or(RecordError::Field { field: "codec", value: u64::from(codec) })?,
            flags: BatchFlags(u16::from_le_bytes(array(head, 42))),
            record_count: u32::from_le_bytes(array(head, 44)),
            producer_id: i64::from_le_bytes(array(head, 48)),
            base_sequence: i32::from_le_bytes(array(head, 56)),
            producer_epoch: i16::from_le_bytes(array(head, 60)),
            base_create_time_ms: i64::from_le_bytes(array(head, 64)),
            max_create_time_ms: i64::from_le_bytes(array(head, 72)),
            records_len: u32::from_le_bytes(array(head, 80)),
        };
        let reserved =
            u64::from(u16::from_le_bytes(array(head, 62))) | u64::from(u32::from_le_bytes(array(head, 84)));
        if reserved != 0 {
            return Err(RecordError::Field { field: "reserved", value: reserved });
        }
        header.check_ranges()?;
        let length = header.len();
        if length > bytes.len() {
            return Err(RecordError::Truncated { needed: length, have: bytes.len() });
        }
        Ok(header)
    }

    /// Bytes of the whole batch.
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// A batch has at least one record.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The offset after the last record.
    pub const fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.record_count as u64)
    }

    /// Bytes of the records section as stored.
    pub const fn stored_records_len(&self) -> usize {
        self.len() - BATCH_HEADER_LEN - self.tag_hashes_len()
    }

    /// Bytes of the tag hashes after the records.
    pub const fn tag_hashes_len(&self) -> usize {
        if self.flags.has(BatchFlags::TAG_HASHES) { self.record_count as usize * TAG_HASH_LEN } else { 0 }
    }

    fn check_ranges(&self) -> Result<(), RecordError> {
        let field = |field, value: u64| Err(RecordError::Field { field, value });
        if self.flags.bits() & !BatchFlags::KNOWN != 0 {
            return field("flags", u64::from(self.flags.bits()));
        }
        if self.record_count == 0 || self.record_count > RECORDS_MAX {
            return field("record_count", u64::from(self.record_count));
        }
        let records_len = self.records_len as usize;
        if records_len > RECORDS_BYTES_MAX || records_len < self.record_count as usize * RECORD_LEN_MIN {
            return field("records_len", u64::from(self.records_len));
        }
        let beside_records = BATCH_HEADER_LEN + self.tag_hashes_len();
        match self.len().checked_sub(beside_records) {
            None | Some(0) => return field("length", u64::from(self.length)),
            Some(stored) if self.codec == Codec::None && stored != records_len => {
                return field("records_len", u64::from(self.records_len));
            }
            Some(_) => {}
        }
        if self.base_offset.0.checked_add(u64::from(self.record_count)).is_none() {
            return field("base_offset", self.base_offset.0);
        }
        if self.max_create_time_ms < self.base_create_time_ms {
            return field("max_create_time_ms", self.max_create_time_ms.cast_unsigned());
        }
        if self.producer_id < NO_PRODUCER {
            return field("producer_id", self.producer_id.cast_unsigned());
        }
        Ok(())
    }

    /// Writes the producer's part (bytes `36..88`) and leaves the broker's part zero but for `producer_crc`, which the
    /// caller fills with [`put_producer_crc`] once the records stand.
    pub(crate) fn encode_producer_part(&self, head: &mut [u8; BATCH_HEADER_LEN]) {
        head[..BROKER_PART_LEN].fill(0);
        head[36..40].copy_from_slice(&self.length.to_le_bytes());
        head[40] = BATCH_VERSION;
        head[41] = self.codec.number();
        head[42..44].copy_from_slice(&self.flags.bits().to_le_bytes());
        head[44..48].copy_from_slice(&self.record_count.to_le_bytes());
        head[48..56].copy_from_slice(&self.producer_id.to_le_bytes());
        head[56..60].copy_from_slice(&self.base_sequence.to_le_bytes());
        head[60..62].copy_from_slice(&self.producer_epoch.to_le_bytes());
        head[62..64].fill(0);
        head[64..72].copy_from_slice(&self.base_create_time_ms.to_le_bytes());
        head[72..80].copy_from_slice(&self.max_create_time_ms.to_le_bytes());
        head[80..84].copy_from_slice(&self.records_len.to_le_bytes());
        head[84..88].fill(0);
    }
}

/// Whether the batch that `bytes` begins with says that its records are delayed. One look at its flags: nothing else of
/// it is checked.
pub fn is_delayed(bytes: &[u8]) -> bool {
    let flags = bytes.get(42..44).and_then(|field| field.try_into().ok()).map_or(0, u16::from_le_bytes);
    BatchFlags(flags).has(BatchFlags::DELAYED)
}

/// Writes what the broker assigns; `producer_crc` (bytes `28..32`) is kept and taken under the stamp's own check.
pub fn stamp(front: &mut [u8; BROKER_PART_LEN], stamp: &BrokerStamp) {
    front[0..8].copy_from_slice(&stamp.base_offset.0.to_le_bytes());
    front[8..16].copy_from_slice(&stamp.append_time_ms.to_le_bytes());
    front[16..24].copy_from_slice(&stamp.queue_key.0.to_le_bytes());
    front[24..28].copy_from_slice(&stamp.master_epoch.0.to_le_bytes());
    let crc = crc32c::crc32c(&front[..32]);
    front[32..36].copy_from_slice(&crc.to_le_bytes());
}

/// Computes and writes `producer_crc` of a batch whose producer part and records stand.
pub(crate) fn put_producer_crc(batch: &mut [u8]) {
    if let Some((front, covered)) = batch.split_first_chunk_mut::<BROKER_PART_LEN>() {
        front[28..32].copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    }
}

/// `N` bytes of the header from `at` on.
fn array<const N: usize>(head: &[u8; BATCH_HEADER_LEN], at: usize) -> [u8; N] {
    head.get(at..at + N).and_then(|field| field.try_into().ok()).expect("fields lie inside the header")
}
