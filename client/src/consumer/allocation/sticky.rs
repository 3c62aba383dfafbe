//! Nobody loses a queue without need.

use super::{Allocation, AllocationStrategy};

/// Even shares with the fewest moves: members keep what they hold up to an even share, and only the rest is dealt out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sticky;

impl AllocationStrategy for Sticky {
    fn owners(&self, allocation: &Allocation<'_>) -> Vec<Option<usize>> {
        let (queues, members) = (allocation.queues.len(), allocation.members.len());
        let low = queues / members;
        // So many members have one queue more: those that hold more already, in their order.
        let mut larger = queues % members;
        let mut kept = vec![0; members];
        let mut owners = vec![None; queues];
        let holders = || allocation.holders.iter().copied();
        for (owner, holder) in owners.iter_mut().zip(holders()) {
            let Some((holder, kept)) = holder.and_then(|holder| Some((holder, kept.get_mut(holder)?))) else {
                continue;
            };
            if *kept < low || *kept == low && larger > 0 {
                larger -= usize::from(*kept == low);
                *kept += 1;
                *owner = Some(holder);
            }
        }
        let mut missing = (0..members).flat_map(|member| {
            let kept = kept.get(member).copied().unwrap_or_default();
            let mut share = low;
            if kept <= low && larger > 0 {
                larger -= 1;
                share += 1;
            }
            std::iter::repeat_n(member, share.saturating_sub(kept))
        });
        for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
            *owner = missing.next();
        }
        owners
    }
}
