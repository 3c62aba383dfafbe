//! Every byte that lies on disk: constants, layouts, and the code that writes and reads them.
//!
//! **Invariants**: nothing here does I/O, asks the time or allocates by a length that was not checked; bytes from disk
//! give a [`FormatError`], never a panic; every structure carries its own CRC32C, so that each flipped bit is noticed;
//! all numbers are little endian. docs/storage-format.md shows the same tables (a test keeps the two equal).

mod bodies;
mod error;
mod field;
mod flush;
mod identity;
mod name;
mod segment;
mod state;

pub use bodies::{
    GAP_PREFIX_LEN, GapPrefix, OPEN_BODY_LEN, OpenBody, OpenCause, SEAL_BODY_LEN, SNAPSHOT_PREFIX_LEN,
    SealBody, SnapshotPrefix,
};
pub use error::FormatError;
pub use field::Field;
pub use flush::{Chain, FLUSH_HEADER_LEN, FLUSH_MAGIC, FlushHeader, FlushKind, LOCAL_PART_AT};
pub use identity::{BROKER_GROUP_MAX, IDENTITY_BYTES_MAX, Identity, NAME_BYTES_MAX};
pub use name::{
    BALLAST_FILE, BEGIN_ANEW_FILE, BEGUN_FILE, FileName, IDENTITY_FILE, LOCK_FILE, LOST_AND_FOUND_DIR,
    REPAIR_INTENT_FILE, index_name, log_dir_name, parse_log_dir_name, prep_name, repair_name, segment_name,
};
pub use segment::{SEGMENT_HEADER_LEN, SEGMENT_MAGIC, Salt, SegmentHeader};
pub use state::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX, StateBatchBuilder, read_state};

/// The layouts of fields, for docs/storage-format.md and its test.
pub mod layout {
    pub use super::bodies::{GAP_FIELDS, OPEN_FIELDS, SEAL_FIELDS, SNAPSHOT_FIELDS};
    pub use super::flush::FIELDS as FLUSH_FIELDS;
    pub use super::segment::FIELDS as SEGMENT_FIELDS;
}

/// Version of all layouts in this folder. A build reads its own version and refuses later ones.
pub const FORMAT_VERSION: u16 = 1;

/// Grain of positions and lengths in a segment, bytes: the alignment of direct I/O.
pub const BLOCK_BYTES: u64 = crate::io::ALIGN as u64;

/// A flush never crosses a multiple of this position unless it begins at one: windows are what the cache holds.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Most bytes from the beginning of a flush to the next one. Recovery looks so far for evidence, per flush in flight.
pub const FLUSH_SPAN_MAX: u64 = 2 << 20;

/// Most flushes in flight that any build may use.
pub const FLUSH_DEPTH_MAX: u64 = 2;

/// Smallest segment, bytes; sizes are multiples of it.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Largest segment, bytes.
pub const SEGMENT_BYTES_MAX: u64 = 16 << 30;

const _: () = {
    assert!(SEGMENT_BYTES_MIN.is_multiple_of(WINDOW_BYTES) && WINDOW_BYTES.is_multiple_of(BLOCK_BYTES));
    assert!(FLUSH_SPAN_MAX.is_multiple_of(WINDOW_BYTES) && FLUSH_SPAN_MAX <= u32::MAX as u64);
    assert!(SEGMENT_HEADER_LEN as u64 == BLOCK_BYTES && (FLUSH_HEADER_LEN as u64) < BLOCK_BYTES);
};
