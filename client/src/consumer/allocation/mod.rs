//! Which member of a group reads which queue. Pure: the same input gives the same answer on every member, so that
//! members agree without talking to each other.
//!
//! A strategy names the owner of each queue, so what it says is a partition whatever it does. What it cannot give is
//! exclusivity: that comes from the grants of the brokers, and members that disagree for a while do no harm.

mod average;
mod by_config;
mod round_robin;
mod sticky;

use std::fmt;

pub use average::Average;
pub use by_config::ByConfig;
pub use round_robin::AllocateRoundRobin;
pub use sticky::Sticky;

/// The queues of one topic and the members among whom they are dealt out.
#[derive(Clone, Copy, Debug)]
pub struct Allocation<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Ordinals, rising.
    pub queues: &'a [u32],
    /// Client ids of the members that may have these queues, in the order in which every member sees them: by client
    /// id, then by the random number of their start. Never empty.
    pub members: &'a [&'a str],
    /// To whom each queue fell before the group changed, as an index of `members`; as long as `queues`. `None`: to
    /// nobody, to a member that is gone or may not have it now, or it is not known. The same on every member.
    pub holders: &'a [Option<usize>],
}

/// A way to deal out queues.
///
/// All members of a group must use the same one.
pub trait AllocationStrategy: fmt::Debug + Send + Sync {
    /// Whether [`Allocation::holders`] matters. If not the members need not tell what falls to them, and all are `None`.
    fn uses_holders(&self) -> bool {
        true
    }

    /// The owner of each queue, as an index of [`Allocation::members`]; as long as [`Allocation::queues`]. `None`: the
    /// queue shall be read by nobody.
    fn owners(&self, allocation: &Allocation<'_>) -> Vec<Option<usize>>;
}

/// How many queues the member at `index` has when `queues` are dealt out evenly and the first ones get one more.
const fn even_share(queues: usize, members: usize, index: usize) -> usize {
    queues / members + if index < queues % members { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Queues, members, and who holds what.
    fn cases() -> impl Strategy<Value = (usize, usize, Vec<Option<usize>>)> {
        (0_usize..40, 1_usize..12).prop_flat_map(|(queues, members)| {
            let holder = prop_oneof![2 => Just(None), 3 => (0..members).prop_map(Some)];
            (Just(queues), Just(members), prop::collection::vec(holder, queues))
        })
    }

    fn owners(
        strategy: &dyn AllocationStrategy,
        queues: usize,
        members: usize,
        holders: &[Option<usize>],
    ) -> Vec<usize> {
        let names: Vec<String> = (0..members).map(|member| format!("member-{member:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ordinals: Vec<u32> = (0..).take(queues).collect();
        let input = Allocation { topic: "orders", queues: &ordinals, members: &names, holders };
        let owners = strategy.owners(&input);
        assert_eq!(owners, strategy.owners(&input), "deterministic");
        owners.into_iter().map(|owner| owner.expect("every queue has an owner")).collect()
    }

    fn counts(owners: &[usize], members: usize) -> Vec<usize> {
        (0..members).map(|member| owners.iter().filter(|owner| **owner == member).count()).collect()
    }

    proptest! {
        #[test]
        fn every_queue_has_one_owner_and_the_shares_are_even((queues, members, holders) in cases()) {
            for strategy in [&Average as &dyn AllocationStrategy, &AllocateRoundRobin, &Sticky] {
                let owners = owners(strategy, queues, members, &holders);
                prop_assert_eq!(owners.len(), queues);
                prop_assert!(owners.iter().all(|owner| *owner < members));
                let counts = counts(&owners, members);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{:?}: {:?}", strategy, counts);
            }
        }

        /// The formula as EQueue 2.3.2 has it, line by line.
        #[test]
        fn average_is_equeues_formula((queues, members, holders) in cases()) {
            let owners = owners(&Average, queues, members, &holders);
            for index in 0..members {
                let remainder = queues % members;
                let size = if remainder > 0 && index < remainder { queues / members + 1 } else { queues / members };
                let average = if queues <= members { 1 } else { size };
                let begin = if remainder > 0 && index < remainder { index * average } else { index * average + remainder };
                let range = average.min(queues.saturating_sub(begin));
                let expected: Vec<usize> = (0..range).map(|at| (begin + at) % queues).collect();
                let found: Vec<usize> = (0..queues).filter(|queue| owners[*queue] == index).collect();
                prop_assert_eq!(found, expected, "{} queues, member {} of {}", queues, index, members);
            }
        }

        /// An even dealing-out leaves each member either `low` or `low + 1` queues, and only `queues % members` of
        /// them the latter: nobody can keep more of what it holds.
        #[test]
        fn sticky_moves_the_fewest((queues, members, holders) in cases()) {
            let owners = owners(&Sticky, queues, members, &holders);
            let kept = owners.iter().zip(&holders).filter(|(owner, holder)| Some(**owner) == **holder).count();
            let (low, remainder) = (queues / members, queues % members);
            let held = |member| holders.iter().filter(|holder| **holder == Some(member)).count();
            let low_kept: usize = (0..members).map(|member| held(member).min(low)).sum();
            let more = (0..members).filter(|member| held(*member) > low).count().min(remainder);
            prop_assert_eq!(kept, low_kept + more);
        }

        #[test]
        fn sticky_moves_nothing_when_nothing_changed((queues, members, holders) in cases()) {
            let first = owners(&Sticky, queues, members, &holders);
            let held: Vec<Option<usize>> = first.iter().copied().map(Some).collect();
            prop_assert_eq!(owners(&Sticky, queues, members, &held), first);
        }
    }

    #[test]
    fn ten_queues_on_four_members() {
        assert_eq!(owners(&Average, 10, 4, &[None; 10]), [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]);
        // Three topics of one queue do not all go to the first member.
        let of_topic = |topic| {
            let input = Allocation { topic, queues: &[0], members: &["a", "b", "c"], holders: &[None] };
            AllocateRoundRobin.owners(&input)[0]
        };
        let owners: std::collections::BTreeSet<_> =
            ["orders", "payments", "invoices", "returns"].map(of_topic).into_iter().collect();
        assert!(owners.len() > 1, "{owners:?}");
    }
}
