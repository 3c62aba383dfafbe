//! As somebody wrote it down.

use std::collections::HashMap;

use super::{Allocation, AllocationStrategy, Average};

/// Queues pinned to members by name; everything that is not pinned, or whose member is away, is dealt out in
/// contiguous ranges.
#[derive(Clone, Debug, Default)]
pub struct ByConfig {
    /// By topic and ordinal: the client id.
    pins: HashMap<(String, u32), String>,
    /// Whether pinned queues wait for their member while it is away.
    wait: bool,
}

impl ByConfig {
    /// Pins nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// This queue is for the member of this client id.
    #[must_use]
    pub fn pin(mut self, topic: impl Into<String>, queue: u32, client_id: impl Into<String>) -> Self {
        self.pins.insert((topic.into(), queue), client_id.into());
        self
    }

    /// Pinned queues are read by nobody while their member is away.
    #[must_use]
    pub fn wait_for_members(mut self) -> Self {
        self.wait = true;
        self
    }
}

impl AllocationStrategy for ByConfig {
    fn uses_holders(&self) -> bool {
        false
    }

    fn owners(&self, allocation: &Allocation<'_>) -> Vec<Option<usize>> {
        let mut owners = vec![None; allocation.queues.len()];
        let (mut rest, mut places) = (Vec::new(), Vec::new());
        for (place, (owner, queue)) in owners.iter_mut().zip(allocation.queues).enumerate() {
            let pin = self.pins.get(&(allocation.topic.to_owned(), *queue));
            *owner = pin.and_then(|pin| allocation.members.iter().position(|member| member == pin));
            if owner.is_none() && !(self.wait && pin.is_some()) {
                rest.push(*queue);
                places.push(place);
            }
        }
        let dealt =
            Average.owners(&Allocation { queues: &rest, holders: &vec![None; rest.len()], ..*allocation });
        for (place, dealt) in places.into_iter().zip(dealt) {
            if let Some(owner) = owners.get_mut(place) {
                *owner = dealt;
            }
        }
        owners
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_come_first_and_the_rest_is_even() {
        let pinned = ByConfig::new().pin("t", 3, "a").pin("t", 0, "gone").pin("other", 1, "a");
        let input =
            Allocation { topic: "t", queues: &[0, 1, 2, 3, 4], members: &["a", "b"], holders: &[None; 5] };
        assert_eq!(pinned.owners(&input), [Some(0), Some(0), Some(1), Some(0), Some(1)]);
        let waiting = pinned.wait_for_members();
        assert_eq!(waiting.owners(&input), [None, Some(0), Some(0), Some(0), Some(1)]);
    }
}
