//! Reading a stored batch: everything is checked first, then borrowed.

use crate::batch::{check_producer_crc, check_stamp};
use crate::codec::{Codec, Decompressor};
use crate::error::RecordError;
use crate::header::{BATCH_HEADER_LEN, BatchHeader, TAG_HASH_LEN};
use crate::record::Record;
use crate::varint;

/// A batch whose structure and both checksums have been checked.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

/// The records of a batch, in order of offsets. Ends after the first malformed one.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    index: u32,
}

impl<'a> BatchView<'a> {
    /// Checks the batch that `bytes` begins with: header, stamp, producer's checksum.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let header = BatchHeader::parse(bytes)?;
        check_stamp(bytes, &header)?;
        check_producer_crc(bytes, &header)?;
        Ok(Self { header, bytes: bytes.get(..header.len()).unwrap_or_default() })
    }

    /// A batch whose checksums were checked before, and whose bytes did not change since: only its structure is looked
    /// at again.
    pub fn of_checked(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let header = BatchHeader::parse(bytes)?;
        Ok(Self { header, bytes: bytes.get(..header.len()).unwrap_or_default() })
    }

    /// The header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The bytes of the whole batch.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records; unpacked into `memory` when they are compressed, otherwise borrowed from the batch itself.
    pub fn records<'m>(&self, memory: &'m mut Decompressor) -> Result<RecordIter<'m>, RecordError>
    where
        'a: 'm,
    {
        let stored = self.stored_records();
        let rest = match self.header.codec {
            Codec::None => stored,
            codec => memory.unpack(codec, stored, self.header.records_len as usize)?,
        };
        Ok(RecordIter { header: self.header, rest, index: 0 })
    }

    /// The tag hash of each record (0: no tag); nothing when no record of the batch has a tag.
    pub fn tag_hashes(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        tag_hashes(self.bytes, &self.header)
    }

    fn stored_records(&self) -> &'a [u8] {
        self.bytes
            .get(BATCH_HEADER_LEN..BATCH_HEADER_LEN + self.header.stored_records_len())
            .unwrap_or_default()
    }
}

/// The tag hash of each record of the batch that `bytes` begins with and that `header` was read from; nothing when no
/// record has a tag.
pub fn tag_hashes<'a>(bytes: &'a [u8], header: &BatchHeader) -> impl ExactSizeIterator<Item = u32> + use<'a> {
    let begin = header.len() - header.tag_hashes_len();
    let (hashes, _) = bytes.get(begin..header.len()).unwrap_or_default().as_chunks::<TAG_HASH_LEN>();
    hashes.iter().map(|hash| u32::from_le_bytes(*hash))
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.header.record_count {
            return None;
        }
        let index = self.index;
        let record = self.decode_next();
        // After a malformed record nothing is known of where the next one begins.
        self.index = if record.is_ok() { index + 1 } else { self.header.record_count };
        Some(record.map_err(|what| RecordError::Record { index, what }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some((self.header.record_count - self.index) as usize))
    }
}

impl<'a> RecordIter<'a> {
    fn decode_next(&mut self) -> Result<Record<'a>, &'static str> {
        let len = varint::take(&mut self.rest).and_then(|len| usize::try_from(len).ok()).ok_or("length")?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or("length")?;
        self.rest = rest;
        if self.index + 1 == self.header.record_count && !rest.is_empty() {
            return Err("bytes after the last record");
        }
        let offset = self.header.base_offset.plus(u64::from(self.index));
        Record::decode(bytes, offset, self.header.base_create_time_ms)
    }
}
