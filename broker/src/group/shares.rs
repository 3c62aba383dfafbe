//! Which member had which queue before a generation, as the members themselves tell it. Pure.
//!
//! A strategy that moves few queues must know what fell to whom, and every member must know the same: so what they told
//! until then is fixed with the generation.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use equeue_net::api::{Membership, ShareQueue, Subscription};
use equeue_net::limits::GROUP_SHARES_MAX;

/// What a member tells, and those of its topics that the others are told, in the same order.
pub(super) struct Claim<'a> {
    pub(super) told: &'a Membership,
    pub(super) topics: Vec<&'a str>,
}

/// Queues looked at, over all claims: members that claim the same ones must not make this long.
const LOOKED_AT_MAX: usize = 2 * GROUP_SHARES_MAX;

/// The shares in the order of the claims; indexes of topics are into each one's `topics`. Of several that claim a queue
/// the one of the newest generation had it; the first of these.
pub(super) fn settled(claims: &[Claim<'_>]) -> Vec<Vec<ShareQueue>> {
    let mut newest: Vec<usize> = (0..claims.len()).collect();
    newest.sort_by_key(|at| claims.get(*at).map(|claim| Reverse(claim.told.share_generation)));
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut taken: HashSet<(usize, u32)> = HashSet::new();
    let mut room = LOOKED_AT_MAX;
    let mut shares = vec![Vec::new(); claims.len()];
    for at in newest {
        let (Some(claim), Some(share)) = (claims.get(at), shares.get_mut(at)) else { continue };
        if claim.told.share.is_empty() {
            continue;
        }
        let places = claim.places(&mut numbers);
        for queue in claim.told.share.iter().take(room) {
            let Some(Some((topic, number))) = places.get(usize::from(queue.topic)) else { continue };
            if taken.len() < GROUP_SHARES_MAX && taken.insert((*number, queue.queue)) {
                share.push(ShareQueue { topic: *topic, queue: queue.queue });
            }
        }
        room = room.saturating_sub(claim.told.share.len());
    }
    shares
}

impl<'a> Claim<'a> {
    /// For each subscription the topic's index among those told, and its number in `numbers`.
    fn places(&self, numbers: &mut HashMap<&'a str, usize>) -> Vec<Option<(u16, usize)>> {
        let mut told = (0..).zip(&self.topics).peekable();
        let place = |subscription: &Subscription| {
            // Those told are in the order of the subscriptions.
            let (at, topic) = told.next_if(|(_, topic)| **topic == subscription.topic)?;
            let next = numbers.len();
            Some((at, *numbers.entry(topic).or_insert(next)))
        };
        self.told.subscriptions.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(topics: &[&str], share_generation: u64, share: &[(u16, u32)]) -> Membership {
        let subscription =
            |topic: &&str| Subscription { topic: (*topic).into(), tags: Vec::new(), replace: false };
        Membership {
            subscriptions: topics.iter().map(subscription).collect(),
            unreachable: Vec::new(),
            share: queues(share),
            share_generation,
        }
    }

    fn queues(share: &[(u16, u32)]) -> Vec<ShareQueue> {
        share.iter().map(|&(topic, queue)| ShareQueue { topic, queue }).collect()
    }

    #[test]
    fn the_newer_claim_of_a_queue_holds() {
        let (old, new) = (told(&["t"], 3, &[(0, 0), (0, 1)]), told(&["t"], 4, &[(0, 1), (0, 2)]));
        let claims = [Claim { told: &old, topics: vec!["t"] }, Claim { told: &new, topics: vec!["t"] }];
        assert_eq!(settled(&claims), [queues(&[(0, 0)]), queues(&[(0, 1), (0, 2)])]);
        let same = [Claim { told: &old, topics: vec!["t"] }, Claim { told: &old, topics: vec!["t"] }];
        assert_eq!(settled(&same), [queues(&[(0, 0), (0, 1)]), queues(&[])]);
    }

    #[test]
    fn topics_that_are_not_told_leave_the_share_and_the_others_are_counted_anew() {
        let told = told(&["t", "u", "v"], 1, &[(0, 5), (1, 5), (2, 6), (9, 7)]);
        let claims = [Claim { told: &told, topics: vec!["u", "v"] }];
        assert_eq!(settled(&claims), [queues(&[(0, 5), (1, 6)])]);
    }

    #[test]
    fn shares_are_bounded_together() {
        let most: Vec<(u16, u32)> =
            (0..u32::try_from(GROUP_SHARES_MAX).unwrap() + 9).map(|queue| (0, queue)).collect();
        let one = told(&["t"], 1, &most);
        assert_eq!(settled(&[Claim { told: &one, topics: vec!["t"] }])[0].len(), GROUP_SHARES_MAX);
        // Neither do claims of the same queues make it long: the last is not looked at.
        let (same, other) = (told(&["t"], 2, &vec![(0, 0); LOOKED_AT_MAX]), told(&["t"], 1, &[(0, 1)]));
        let claims = [Claim { told: &same, topics: vec!["t"] }, Claim { told: &other, topics: vec!["t"] }];
        assert_eq!(settled(&claims), [queues(&[(0, 0)]), queues(&[])]);
    }
}
