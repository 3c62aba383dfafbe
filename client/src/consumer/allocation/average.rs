//! Contiguous ranges: EQueue's formula.

use super::{Allocation, AllocationStrategy, even_share};

/// Contiguous ranges of nearly the same length: with q queues and c members the first q mod c members get one more.
/// The default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Average;

impl AllocationStrategy for Average {
    fn uses_holders(&self) -> bool {
        false
    }

    fn owners(&self, allocation: &Allocation<'_>) -> Vec<Option<usize>> {
        let (queues, members) = (allocation.queues.len(), allocation.members.len());
        (0..members)
            .flat_map(|member| std::iter::repeat_n(Some(member), even_share(queues, members, member)))
            .collect()
    }
}
