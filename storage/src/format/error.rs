//! What can be wrong with bytes that were read from disk.

use thiserror::Error;

/// Why bytes are not the structure that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Fewer bytes than the structure has.
    #[error("{what} is cut short: {needed} bytes needed, {have} there")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        have: usize,
    },
    /// The first bytes are not those of this structure: nothing was written here, or something else.
    #[error("no {what} here: its magic number is missing")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// The bytes are not those that were written.
    #[error("checksum of {what} is {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// CRC32C as stored.
        found: u32,
        /// CRC32C of the bytes.
        computed: u32,
    },
    /// Whole, but written by a later build.
    #[error("{what} has format version {found}, this build reads version {known}")]
    NewerVersion {
        /// The structure.
        what: &'static str,
        /// Version found.
        found: u16,
        /// Newest version that this build reads.
        known: u16,
    },
    /// Whole, but with a value that is never written.
    #[error("{what}: field {field} has the value {value}, which is not allowed")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field, named as in docs/storage-format.md.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Text that is not in the form it is written in.
    #[error("{what}, line {line}: {reason}")]
    Text {
        /// The structure.
        what: &'static str,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// The flush does not follow the one before it.
    #[error("flush does not continue the chain: {found:#010x} where the flush before gives {expected:#010x}")]
    Chain {
        /// Link in the header.
        found: u32,
        /// Link that the flush before gives.
        expected: u32,
    },
}
