//! One queue to each in turn.

use super::{Allocation, AllocationStrategy};

/// One queue to each member in turn, beginning with another member for each topic: many topics with few queues do not
/// all go to the first members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocateRoundRobin;

impl AllocationStrategy for AllocateRoundRobin {
    fn uses_holders(&self) -> bool {
        false
    }

    fn owners(&self, allocation: &Allocation<'_>) -> Vec<Option<usize>> {
        let members = allocation.members.len();
        let first = equeue_record::key_hash(allocation.topic.as_bytes()) as usize % members.max(1);
        (0..allocation.queues.len()).map(|at| Some((first + at) % members)).collect()
    }
}
