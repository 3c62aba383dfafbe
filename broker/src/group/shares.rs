//! Which member had which queue before a generation, as the members themselves tell it. Pure.
//!
//! A strategy that moves few queues must know what fell to whom, and every member must know the same: so what they told
//! until then is fixed with the generation.

use std::cmp::Reverse;
use std::collections::HashSet;

use equeue_net::api::{Membership, ShareQueue};
use equeue_net::limits::GROUP_SHARES_MAX;

/// What a member tells, and the topics of it that the others are told.
pub(super) struct Claim<'a> {
    pub(super) told: &'a Membership,
    pub(super) topics: Vec<&'a str>,
}

/// The shares in the order of the claims; indexes of topics are into each one's `topics`. Of several that claim a queue
/// the one of the newest generation had it; the first of these.
pub(super) fn settled(claims: &[Claim<'_>]) -> Vec<Vec<ShareQueue>> {
    let mut newest: Vec<usize> = (0..claims.len()).collect();
    newest.sort_by_key(|at| claims.get(*at).map(|claim| Reverse(claim.told.share_generation)));
    let mut taken: HashSet<(&str, u32)> = HashSet::new();
    let mut shares = vec![Vec::new(); claims.len()];
    for at in newest {
        let (Some(claim), Some(share)) = (claims.get(at), shares.get_mut(at)) else { continue };
        let places = claim.places();
        for queue in &claim.told.share {
            let Some(Some((topic, name))) = places.get(usize::from(queue.topic)) else { continue };
            if taken.len() < GROUP_SHARES_MAX && taken.insert((name, queue.queue)) {
                share.push(ShareQueue { topic: *topic, queue: queue.queue });
            }
        }
    }
    shares
}

impl<'a> Claim<'a> {
    /// For each subscription the topic's index and name among those told.
    fn places(&self) -> Vec<Option<(u16, &'a str)>> {
        let place = |topic: &str| {
            let at = self.topics.iter().position(|told| *told == topic)?;
            Some((u16::try_from(at).ok()?, *self.topics.get(at)?))
        };
        self.told.subscriptions.iter().map(|subscription| place(&subscription.topic)).collect()
    }
}

#[cfg(test)]
mod tests {
    use equeue_net::api::Subscription;

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
        let told = told(&["t"], 1, &most);
        let claims = [Claim { told: &told, topics: vec!["t"] }];
        assert_eq!(settled(&claims)[0].len(), GROUP_SHARES_MAX);
    }
}
