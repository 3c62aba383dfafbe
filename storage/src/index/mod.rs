//! Where the batches of a queue lie in the log.
//!
//! One entry per *run*: the batches of one queue in one flush, which lie side by side. The runs of the segments that
//! have no index file yet are in memory, per queue ([`QueueRuns`]); every other segment has its `.idx` file.

mod runs;

pub(crate) use runs::{QueueRuns, Run, Search};

/// Index files.
pub(crate) struct Indexes<I: crate::io::Io>(std::marker::PhantomData<I>);
impl<I: crate::io::Io> Indexes<I> {
    pub(crate) fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}
