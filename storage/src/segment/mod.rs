//! Segment files: making them, and reading them from front to back.
//!
//! Appending is not here: that is the log's group commit.

#[cfg(test)]
mod model;
mod prepare;
mod scan;
mod tail;
#[cfg(test)]
mod tests;
mod walk;

pub use prepare::{
    Fill, Pace, Preparation, PrepareError, prepare_ahead, prepare_segment, remove_leftovers, reuse_segment,
};
pub use scan::{ScanError, ScanRules, find_flush, read_header, scan_segment, scan_segment_paced};
pub use tail::{Damage, Ending, FirstFlush, TAIL_BYTES, TailSearch, endings, header_at, holds_flush};
pub use walk::{BodyError, End, EndKind, Step, Walk};
