//! Where the batches of a queue lie in the log.
//!
//! One entry per *run*: the batches of one queue in one flush, which lie side by side. The runs of the segments that
//! have no index file yet are in memory, per queue ([`QueueRuns`]); every other segment has its `.idx` file.

mod file;
pub(crate) mod layout;
mod runs;

pub(crate) use file::{IndexError, IndexWriter, Indexes, Lookup, walk_index};
pub(crate) use layout::{Entry, encode_index, parse_index};
pub(crate) use runs::{QueueRuns, Run, Search};
