//! Whole batches as bytes: what a broker and a log need, without looking into the records.

use crate::error::RecordError;
use crate::header::{BROKER_PART_LEN, BatchHeader};

/// Checks that `bytes` is exactly one batch and that the producer's checksum covers it: what a broker asks of a batch
/// before it stores it. One pass over the bytes.
pub fn check_batch(bytes: &[u8]) -> Result<BatchHeader, RecordError> {
    let header = BatchHeader::parse(bytes)?;
    if header.len() != bytes.len() {
        return Err(RecordError::Field { field: "length", value: u64::from(header.length) });
    }
    check_producer_crc(bytes, &header)?;
    Ok(header)
}

/// The first of several batches that follow one another, and its length. Structure only, no checksum.
pub fn split_first(bytes: &[u8]) -> Result<(BatchHeader, usize), RecordError> {
    let header = BatchHeader::parse(bytes)?;
    Ok((header, header.len()))
}

/// Checks the producer's checksum of the batch that `bytes` begins with and that `header` was read from.
pub fn check_producer_crc(bytes: &[u8], header: &BatchHeader) -> Result<(), RecordError> {
    let computed = crc32c::crc32c(bytes.get(BROKER_PART_LEN..header.len()).unwrap_or_default());
    if computed == header.producer_crc {
        Ok(())
    } else {
        Err(RecordError::Checksum { found: header.producer_crc, computed })
    }
}

/// Checks the check over the broker's stamp of the batch that `bytes` begins with.
pub fn check_stamp(bytes: &[u8], header: &BatchHeader) -> Result<(), RecordError> {
    let computed = crc32c::crc32c(bytes.get(..32).unwrap_or_default());
    if computed == header.broker_crc {
        Ok(())
    } else {
        Err(RecordError::StampChecksum { found: header.broker_crc, computed })
    }
}
