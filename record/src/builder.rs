//! Building a batch: records are written straight into the memory that will be sent.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::codec::{self, Codec};
use crate::error::RecordError;
use crate::hash::tag_hash;
use crate::header::{
    BATCH_HEADER_LEN, BatchFlags, BatchHeader, NO_PRODUCER, RECORDS_BYTES_MAX, RECORDS_MAX, TAG_HASH_LEN,
    put_producer_crc,
};
use crate::ids::{MasterEpoch, Offset, QueueKey};
use crate::record::RecordFields;
use crate::varint;

/// Who sends the batch, for the broker's sequence check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// Random id, or [`NO_PRODUCER`].
    pub producer_id: i64,
    /// Generation of the producer.
    pub producer_epoch: i16,
    /// Sequence of the batch's first record in its queue; wraps.
    pub base_sequence: i32,
}

impl ProducerStamp {
    /// A batch without sequence checks.
    pub const NONE: Self = Self { producer_id: NO_PRODUCER, producer_epoch: 0, base_sequence: 0 };
}

/// Why a record was not taken; the batch is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// There is no room for it in this batch; it may fit into the next one.
    #[error("the batch has no room for a record of {record_bytes} bytes")]
    Full {
        /// Bytes that the record takes in the batch.
        record_bytes: usize,
    },
    /// It fits into no batch.
    #[error("{what} of {size} is larger than the limit of {limit}")]
    TooLarge {
        /// Which part of the record.
        what: &'static str,
        /// Its size, in bytes unless `what` says otherwise.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// A batch that is being filled.
///
/// Memory: one growing buffer, and one of four bytes a record once a record has a tag. A buffer can be reused by
/// [`BatchBuilder::in_buffer`].
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    codec: Codec,
    bytes_max: usize,
    flags: BatchFlags,
    record_count: u32,
    base_create_time_ms: i64,
    max_create_time_ms: i64,
    /// One a record; empty as long as no record has a tag.
    tag_hashes: Vec<u32>,
}

impl BatchBuilder {
    /// An empty batch that will not grow past `bytes_max` bytes (before compression), header included.
    pub fn new(codec: Codec, bytes_max: usize) -> Self {
        Self::in_buffer(BytesMut::new(), codec, bytes_max)
    }

    /// Like [`BatchBuilder::new`], in memory used before; its content is thrown away.
    pub fn in_buffer(mut buffer: BytesMut, codec: Codec, bytes_max: usize) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEADER_LEN, 0);
        Self {
            buffer,
            codec,
            bytes_max: bytes_max.min(BATCH_HEADER_LEN + RECORDS_BYTES_MAX),
            flags: BatchFlags::default(),
            record_count: 0,
            base_create_time_ms: 0,
            max_create_time_ms: 0,
            tag_hashes: Vec::new(),
        }
    }

    /// Marks the batch as the broker's own.
    pub fn set_control(&mut self) {
        self.flags = self.flags.with(BatchFlags::CONTROL);
    }

    /// Marks the batch as one whose records are to be delivered when they are due.
    pub fn set_delayed(&mut self) {
        self.flags = self.flags.with(BatchFlags::DELAYED);
    }

    /// Whether it is marked so.
    pub const fn is_delayed(&self) -> bool {
        self.flags.has(BatchFlags::DELAYED)
    }

    /// Records so far.
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether there is no record yet.
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes that the batch would have now, before compression.
    pub fn len_bytes(&self) -> usize {
        self.buffer.len() + self.tag_hashes.len() * TAG_HASH_LEN
    }

    /// Appends a record and tells its index.
    ///
    /// # Errors
    /// [`PushError::Full`] when it does not fit beside the records that are there, [`PushError::TooLarge`] when it
    /// would not fit into an empty batch either. The batch is not changed.
    pub fn push(&mut self, record: &RecordFields<'_>) -> Result<u32, PushError> {
        if let Some((what, size, limit)) = record.over_limit() {
            return Err(PushError::TooLarge { what, size, limit });
        }
        let base = if self.is_empty() { record.create_time_ms } else { self.base_create_time_ms };
        let len = record.encoded_len(base);
        let tags_begin = record.tag.is_some() && self.tag_hashes.is_empty();
        let has_tags = record.tag.is_some() || !self.tag_hashes.is_empty();
        let record_bytes = varint::len(len as u64).saturating_add(len).saturating_add(if has_tags {
            TAG_HASH_LEN
        } else {
            0
        });
        let tags_so_far = if tags_begin { self.record_count as usize * TAG_HASH_LEN } else { 0 };
        let after = self.len_bytes().saturating_add(tags_so_far).saturating_add(record_bytes);
        if after > self.bytes_max || self.record_count >= RECORDS_MAX {
            return Err(if BATCH_HEADER_LEN.saturating_add(record_bytes) > self.bytes_max {
                PushError::TooLarge {
                    what: "record",
                    size: record_bytes,
                    limit: self.bytes_max.saturating_sub(BATCH_HEADER_LEN),
                }
            } else {
                PushError::Full { record_bytes }
            });
        }
        if self.is_empty() {
            self.base_create_time_ms = base;
            self.max_create_time_ms = base;
        }
        self.max_create_time_ms = self.max_create_time_ms.max(record.create_time_ms);
        if tags_begin {
            self.tag_hashes.resize(self.record_count as usize, 0);
        }
        if has_tags {
            self.tag_hashes.push(record.tag.map_or(0, tag_hash));
        }
        self.buffer.reserve(record_bytes);
        varint::put(&mut self.buffer, len as u64);
        record.encode(base, &mut self.buffer);
        self.record_count += 1;
        Ok(self.record_count - 1)
    }

    /// Ends the batch: packs the records, appends the tag hashes, writes header and checksum. The bytes never change
    /// again but for the broker's stamp.
    ///
    /// A batch that compression would not make smaller is left uncompressed.
    ///
    /// # Errors
    /// [`RecordError::Field`] for a batch without records, [`RecordError::Compression`] when the codec failed.
    pub fn finish(mut self, producer: ProducerStamp) -> Result<Bytes, RecordError> {
        if self.is_empty() {
            return Err(RecordError::Field { field: "record_count", value: 0 });
        }
        let records_len = self.buffer.len() - BATCH_HEADER_LEN;
        self.pack()?;
        for hash in &self.tag_hashes {
            self.buffer.extend_from_slice(&hash.to_le_bytes());
        }
        let flags =
            if self.tag_hashes.is_empty() { self.flags } else { self.flags.with(BatchFlags::TAG_HASHES) };
        let narrow = |what, value: usize| {
            u32::try_from(value).map_err(|_| RecordError::TooLarge {
                what,
                size: value,
                limit: u32::MAX as usize,
            })
        };
        let header = BatchHeader {
            base_offset: Offset(0),
            append_time_ms: 0,
            queue_key: QueueKey(0),
            master_epoch: MasterEpoch(0),
            producer_crc: 0,
            broker_crc: 0,
            length: narrow("batch", self.buffer.len())?,
            codec: self.codec,
            flags,
            record_count: self.record_count,
            producer_id: producer.producer_id,
            base_sequence: producer.base_sequence,
            producer_epoch: producer.producer_epoch,
            base_create_time_ms: self.base_create_time_ms,
            max_create_time_ms: self.max_create_time_ms,
            records_len: narrow("records", records_len)?,
        };
        if let Some(head) = self.buffer.first_chunk_mut::<BATCH_HEADER_LEN>() {
            header.encode_producer_part(head);
        }
        put_producer_crc(&mut self.buffer);
        Ok(self.buffer.freeze())
    }

    /// Replaces the records by their packed form where that is smaller.
    fn pack(&mut self) -> Result<(), RecordError> {
        if self.codec == Codec::None {
            return Ok(());
        }
        let records = self.buffer.get(BATCH_HEADER_LEN..).unwrap_or_default();
        let mut packed = BytesMut::zeroed(BATCH_HEADER_LEN);
        codec::pack(self.codec, records, &mut packed)?;
        if packed.len() < self.buffer.len() {
            self.buffer = packed;
        } else {
            self.codec = Codec::None;
        }
        Ok(())
    }
}

/// The same batch under another producer stamp: for a producer that must begin a new epoch with batches that it has
/// frozen before. Copies the batch once.
///
/// # Errors
/// When `batch` is not a whole batch.
pub fn restamp_producer(batch: &[u8], producer: ProducerStamp) -> Result<Bytes, RecordError> {
    let header = BatchHeader::parse(batch)?;
    let mut copy = BytesMut::from(batch.get(..header.len()).unwrap_or_default());
    let header = BatchHeader {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch,
        base_sequence: producer.base_sequence,
        ..header
    };
    if let Some(head) = copy.first_chunk_mut::<BATCH_HEADER_LEN>() {
        header.encode_producer_part(head);
    }
    put_producer_crc(&mut copy);
    Ok(copy.freeze())
}
