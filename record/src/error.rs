//! What can be wrong with the bytes of a batch.

use thiserror::Error;

/// Why bytes are not a batch that may be used.
///
/// Every variant is about input: a batch with an error is refused whole, no record of it is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the header, or than the header says.
    #[error("batch is cut short: {needed} bytes needed, {have} there")]
    Truncated {
        /// Bytes that the batch needs.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A later format, or garbage.
    #[error("batch format version {found} is not known (this build reads version {known})")]
    Version {
        /// Version in the header.
        found: u8,
        /// Version this build reads.
        known: u8,
    },
    /// A header field is outside its range.
    #[error("batch header field {field} has the value {value}, which is not allowed")]
    Field {
        /// Name of the field as in docs/protocol.md.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The producer's checksum does not match: the batch was damaged after it was built.
    #[error("batch checksum is {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// CRC32C in the header.
        found: u32,
        /// CRC32C of the bytes.
        computed: u32,
    },
    /// The check over the broker's stamp does not match.
    #[error("checksum of the broker's part is {found:#010x}, its bytes give {computed:#010x}")]
    StampChecksum {
        /// CRC32C in the header.
        found: u32,
        /// CRC32C of the bytes.
        computed: u32,
    },
    /// A record inside the batch is not well formed.
    #[error("record {index} of the batch is malformed at {what}")]
    Record {
        /// Index of the record in the batch, from 0.
        index: u32,
        /// The field that could not be read.
        what: &'static str,
    },
    /// The compressed records could not be unpacked.
    #[error("records compressed with {codec} could not be unpacked: {reason}")]
    Compression {
        /// Name of the codec.
        codec: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// A record or batch would be larger than a limit.
    #[error("{what} of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}
