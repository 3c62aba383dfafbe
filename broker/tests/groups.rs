//! Groups with several members: who belongs, who owns, what is refused, and that all of it survives a restart.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Client, batch, config, start_with, stop, until};
use equeue_broker::{BrokerConfig, BrokerHandle};
use equeue_net::Code;
use equeue_net::api::{
    CachedQueue, CommitItem, CommitOffsets, CommitOutcome, DeleteGroup, DescribeGroup, Fetch, FetchItem,
    FetchOutcome, GrantOutcome, GrantQueues, GrantQueuesAnswer, GroupHeartbeat, GroupHeartbeatAnswer,
    HeldQueue, LeaseHeartbeat, LeaseHeartbeatAnswer, LeaveGroup, ListClients, ListGroups, Membership,
    OffsetReset, ReleaseItem, ReleaseQueues, RemoveQueues, ResetOffsets, SetQueueAccess, Subscription, Tries,
    group_shard,
};
use equeue_record::{Offset, QueueKey};

const GROUP: &str = "billing";

/// Short leases, so that tests see them end.
fn settings(dir: &Path, shards: u16) -> BrokerConfig {
    let mut settings = config(dir, shards);
    settings.groups.lease_ms = 3_000;
    settings.groups.session_ms = 3_000;
    settings
}

fn begin(dir: &Path) -> BrokerHandle {
    start_with(settings(dir, 1))
}

/// One member with one connection.
struct Member {
    client: Client,
    hash: u64,
}

impl Member {
    fn new(address: SocketAddr, incarnation: u128) -> Self {
        Self { client: Client::connect_as(address, None, &format!("m{incarnation}"), incarnation), hash: 0 }
    }

    fn join(&mut self, generation: u64, topics: &[(&str, &[&str])]) -> GroupHeartbeatAnswer {
        self.hash += 1;
        let subscription = |(topic, tags): &(&str, &[&str])| Subscription {
            topic: (*topic).into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            replace: false,
        };
        let subscriptions = topics.iter().map(subscription).collect();
        let full = Some(Membership { subscriptions, ..Membership::default() });
        let beat = GroupHeartbeat { group: GROUP.into(), generation, hash: self.hash, full };
        let answer = self.client.request(&beat);
        assert_eq!(answer.status.code, Code::Ok, "{}", answer.status.detail);
        answer
    }

    fn stay(&mut self, generation: u64) -> GroupHeartbeatAnswer {
        let beat = GroupHeartbeat { group: GROUP.into(), generation, hash: self.hash, full: None };
        self.client.request(&beat)
    }

    fn ask(&mut self, generation: u64, queues: &[QueueKey], wait_ms: u32) -> GrantQueuesAnswer {
        let queues = queues.to_vec();
        let wish = GrantQueues { group: GROUP.into(), generation, wait_ms_max: wait_ms, queues };
        self.client.request(&wish)
    }

    fn grant(&mut self, generation: u64, queue: QueueKey) -> GrantOutcome {
        self.ask(generation, &[queue], 0).outcomes[0]
    }

    fn granted(&mut self, generation: u64, queue: QueueKey) -> u32 {
        let outcome = self.grant(generation, queue);
        assert_eq!(outcome.code, Code::Ok);
        outcome.grant_epoch
    }

    fn beat(&mut self, generation: u64, held: &[(QueueKey, u32)]) -> LeaseHeartbeatAnswer {
        let held = held.iter().map(|&(queue, grant_epoch)| HeldQueue { queue, grant_epoch }).collect();
        let (held, cached) = (Some(held), Vec::new());
        let beat = LeaseHeartbeat { group: GROUP.into(), generation, hash: 1, held, cached };
        self.client.request(&beat)
    }

    fn commit(&mut self, queue: QueueKey, offset: u64, grant_epoch: u32) -> CommitOutcome {
        let items = vec![CommitItem { queue, offset: Offset(offset), grant_epoch, tries: Tries::default() }];
        self.client.request(&CommitOffsets { group: GROUP.into(), items }).outcomes[0]
    }

    fn release(&mut self, queue: QueueKey, grant_epoch: u32, commit: Option<u64>) -> CommitOutcome {
        let items =
            vec![ReleaseItem { queue, grant_epoch, commit: commit.map(Offset), tries: Tries::default() }];
        self.client.request(&ReleaseQueues { group: GROUP.into(), items }).outcomes[0]
    }

    fn send_fetch(&mut self, queue: QueueKey, offset: u64, grant_epoch: u32, wait_ms: u32) -> u32 {
        let item = FetchItem {
            queue,
            offset: Offset(offset),
            bytes_max: 1 << 20,
            grant_epoch,
            tags_start: 0,
            tags_count: 0,
        };
        let request = Fetch {
            fetch_id: 1,
            wait_ms_max: wait_ms,
            bytes_max: 1 << 20,
            items: vec![item],
            tag_hashes: Vec::new(),
            group: GROUP.into(),
        };
        self.client.send(&request, 0, &[])
    }

    fn fetch(&mut self, queue: QueueKey, grant_epoch: u32) -> FetchOutcome {
        let correlation = self.send_fetch(queue, 0, grant_epoch, 0);
        self.client.fetched(correlation).0.outcomes[0]
    }
}

/// A topic of `queues` queues with ten messages each.
fn topic(address: SocketAddr, queues: u32) -> Vec<QueueKey> {
    let mut client = Client::connect(address);
    let keys: Vec<QueueKey> = client.create_topic("t", queues).queues.iter().map(|q| q.key).collect();
    let bodies = vec![&b"x"[..]; 10];
    for key in &keys {
        client.produce_ok(&[(*key, batch(&bodies))]);
    }
    keys
}

#[test]
fn members_see_the_same_lists_under_the_same_generation() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_with(settings(dir.path(), shards));
        topic(broker.address(), 4);
        let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
        assert!(a.stay(0).want_full, "nobody knows it");
        let alone = a.join(0, &[("t", &[]), ("none", &[])]);
        assert_eq!((alone.members.len(), alone.topics.len(), alone.changed), (1, 2, true));
        assert_eq!((alone.topics[0].version, alone.topics[1].map.len()), (0, 4));
        let both = b.join(0, &[("t", &[]), ("none", &[])]);
        assert!(both.generation > alone.generation);
        let seen = a.stay(alone.generation);
        assert_eq!(
            (seen.generation, &seen.members, &seen.topics),
            (both.generation, &both.members, &both.topics)
        );
        assert!(!a.stay(both.generation).changed);
        // A topic that changes is a change of the group.
        let mut client = Client::connect(broker.address());
        client.create_topic("none", 2);
        let grown = a.stay(both.generation);
        assert!(grown.generation > both.generation);
        assert_eq!(grown.topics[0].map.len(), 2);
        assert_eq!(b.stay(0).generation, grown.generation);
        stop(broker);

        // Generations survive.
        let broker = start_with(settings(dir.path(), shards));
        let mut a = Member::new(broker.address(), 1);
        a.join(0, &[("t", &[])]);
        until("those of before to be waited for no more", || a.stay(0).changed);
        assert!(a.stay(0).generation > grown.generation);
        stop(broker);
    }
}

#[test]
fn who_is_new_after_a_restart_waits_for_the_members_of_before() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_with(settings(dir.path(), shards));
        topic(broker.address(), 2);
        let before = Member::new(broker.address(), 1).join(0, &[("t", &[])]);
        stop(broker);

        let broker = start_with(settings(dir.path(), shards));
        let (mut new, mut old) = (Member::new(broker.address(), 2), Member::new(broker.address(), 1));
        let told = new.join(0, &[("t", &[])]);
        assert_eq!((told.generation, told.changed), (0, false), "it is not alone");
        let back = old.join(before.generation, &[("t", &[])]);
        assert_eq!((back.generation, back.changed), (before.generation, false), "it keeps what it has");
        // A group that was never here waits for nobody.
        let full = Some(Membership::default());
        let other = GroupHeartbeat { group: "other".into(), generation: 0, hash: 1, full };
        assert!(new.client.request(&other).changed);
        until("both to be told", || {
            old.stay(before.generation);
            let told = new.stay(0);
            assert!(!told.changed || told.members.len() == 2, "{told:?}");
            told.changed
        });
        stop(broker);
    }
}

#[test]
fn a_closed_connection_and_silence_end_membership_and_leaving_does_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    topic(broker.address(), 1);
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    let mut c = Member::new(broker.address(), 3);
    for member in [&mut a, &mut b, &mut c] {
        member.join(0, &[("t", &[])]);
    }
    assert_eq!(a.stay(0).members.len(), 3);
    let begun = Instant::now();
    drop(b);
    until("the closed one to be gone", || a.stay(0).members.len() == 2);
    assert!(begun.elapsed() < Duration::from_millis(1_500), "not by silence");
    c.client.request(&LeaveGroup { group: GROUP.into() });
    assert_eq!(a.stay(0).members.len(), 1);
    c.join(0, &[("t", &[])]);
    until("the silent one to be gone", || {
        std::thread::sleep(Duration::from_millis(50));
        a.stay(0).members.len() == 1
    });
    stop(broker);
}

#[test]
fn other_tags_are_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    topic(broker.address(), 1);
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    a.join(0, &[("t", &["x"])]);
    let told = b.join(0, &[("t", &["y"])]);
    assert_eq!(told.conflicts, ["t"]);
    assert_eq!(told.topics[0].tags, ["x"]);
    assert!(told.members.iter().find(|member| member.incarnation == 2).unwrap().topics.is_empty());
    stop(broker);
}

#[test]
fn a_queue_has_one_owner_and_is_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let queue = topic(broker.address(), 1)[0];
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    let epoch = a.granted(1, queue);
    assert_eq!(a.granted(1, queue), epoch, "asked again: the same grant");
    assert_eq!(b.grant(1, queue).code, Code::QueueHeld);
    assert_eq!(a.beat(1, &[(queue, epoch)]).release, []);
    // Somebody of a newer generation waits: the holder is told, drains, commits, releases.
    let wish = GrantQueues { group: GROUP.into(), generation: 2, wait_ms_max: 20_000, queues: vec![queue] };
    let correlation = b.client.send(&wish, 0, &[]);
    until("the holder to be told", || a.beat(1, &[(queue, epoch)]).release == [queue]);
    assert_eq!(a.commit(queue, 3, epoch).code, Code::Ok);
    assert_eq!(a.release(queue, epoch, Some(5)).committed, Some(Offset(5)));
    let answer = b.client.answer::<GrantQueues>(correlation);
    let granted = answer.outcomes[0];
    assert_eq!((granted.code, granted.committed), (Code::Ok, Some(Offset(5))));
    assert!(granted.grant_epoch > epoch && answer.lease_ms >= 2_000);
    // The old owner is fenced.
    assert_eq!(a.commit(queue, 6, epoch).code, Code::StaleEpoch);
    assert_eq!(a.fetch(queue, epoch).code, Code::StaleEpoch);
    assert_eq!(a.beat(2, &[(queue, epoch)]).lost, [queue]);
    assert_eq!(a.grant(1, queue).code, Code::StaleGeneration);
    assert_eq!(a.commit(queue, 6, 0).code, Code::QueueHeld, "without an epoch while a grant is live");
    assert_eq!(b.commit(queue, 6, granted.grant_epoch).code, Code::Ok);
    assert_eq!(b.commit(queue, 4, granted.grant_epoch).committed, Some(Offset(6)), "never back");
    assert_eq!(b.commit(queue, 11, granted.grant_epoch).code, Code::OffsetOutOfRange);
    assert_eq!(b.fetch(queue, granted.grant_epoch).code, Code::Ok);
    stop(broker);
}

#[test]
fn a_dead_owner_loses_its_queue_at_the_end_of_its_lease_and_a_living_one_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let keys = topic(broker.address(), 2);
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    let mut waiter = Member::new(broker.address(), 2);
    let epochs = [a.granted(1, keys[0]), a.granted(1, keys[1])];
    let begun = Instant::now();
    let wish = GrantQueues { group: GROUP.into(), generation: 1, wait_ms_max: 20_000, queues: vec![keys[1]] };
    let correlation = waiter.client.send(&wish, 0, &[]);
    // Only one of them is kept.
    until("the lease to be over", || {
        std::thread::sleep(Duration::from_millis(100));
        let kept = a.beat(1, &[(keys[0], epochs[0])]);
        assert!(kept.lost.is_empty());
        assert_eq!(b.grant(1, keys[0]).code, Code::QueueHeld);
        begun.elapsed() > Duration::from_millis(4_500)
    });
    let answer = waiter.client.answer::<GrantQueues>(correlation);
    assert_eq!(answer.outcomes[0].code, Code::Ok);
    assert!(answer.outcomes[0].grant_epoch > epochs[1]);
    // A commit of a lease that ended counts as long as nobody else was granted the queue.
    assert_eq!(a.commit(keys[1], 3, epochs[1]).code, Code::StaleEpoch);
    std::thread::sleep(Duration::from_millis(3_200)); // the lease of the other one ends
    assert_eq!(a.commit(keys[0], 3, epochs[0]).code, Code::Ok);
    assert_eq!(b.grant(1, keys[0]).code, Code::QueueHeld, "and renews it");
    stop(broker);
}

#[test]
fn grants_survive_a_restart_and_their_holders_have_a_whole_lease() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let queue = topic(broker.address(), 1)[0];
    let mut a = Member::new(broker.address(), 1);
    let epoch = a.granted(1, queue);
    assert_eq!(a.commit(queue, 4, epoch).code, Code::Ok);
    drop(a);
    stop(broker);

    let broker = begin(dir.path());
    let begun = Instant::now();
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    assert_eq!(b.grant(9, queue).code, Code::QueueHeld);
    assert_eq!(a.commit(queue, 5, epoch).code, Code::Ok);
    let granted = b.ask(9, &[queue], 20_000);
    assert_eq!((granted.outcomes[0].code, granted.outcomes[0].committed), (Code::Ok, Some(Offset(5))));
    assert!(granted.outcomes[0].grant_epoch > epoch);
    assert!(begun.elapsed() > Duration::from_millis(2_900), "{:?}", begun.elapsed());
    stop(broker);
}

#[test]
fn a_reset_is_told_to_whoever_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let queue = topic(broker.address(), 1)[0];
    let mut a = Member::new(broker.address(), 1);
    let mut admin = Client::connect(broker.address());
    let epoch = a.granted(1, queue);
    assert_eq!(a.commit(queue, 8, epoch).code, Code::Ok);
    let mut reset = |offset, dry_run| {
        let items = vec![(queue, Offset(offset))];
        admin.request(&ResetOffsets { group: GROUP.into(), dry_run, items }).outcomes[0]
    };
    let preview = reset(2, true);
    assert_eq!((preview.code, preview.before, preview.after), (Code::Ok, Some(Offset(8)), Offset(2)));
    assert_eq!(reset(11, false).code, Code::OffsetOutOfRange);
    assert_eq!(a.fetch(queue, epoch).code, Code::Ok, "a preview changes nothing");

    let parked = a.send_fetch(queue, 10, epoch, 20_000);
    until("the fetch to be parked", || broker.broker().stats[0].fetches_parked.get() == 1);
    let done = reset(2, false);
    assert_eq!((done.code, done.grant_epoch), (Code::Ok, epoch + 1));
    let told = a.client.fetched(parked).0.outcomes[0];
    assert_eq!((told.code, told.next_offset, told.grant_epoch), (Code::OffsetReset, Offset(2), epoch + 1));
    let told = a.commit(queue, 9, epoch);
    assert_eq!(
        (told.code, told.committed, told.grant_epoch),
        (Code::OffsetReset, Some(Offset(2)), epoch + 1)
    );
    let expected = OffsetReset { queue, offset: Offset(2), grant_epoch: epoch + 1 };
    assert_eq!(a.beat(1, &[(queue, epoch)]).reset, [expected]);
    assert_eq!(a.commit(queue, 3, epoch + 1).code, Code::Ok);
    stop(broker);
}

#[test]
fn who_leaves_frees_what_it_has_on_every_shard() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(settings(dir.path(), 2));
    let keys = topic(broker.address(), 4);
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    assert!(a.ask(1, &keys, 0).outcomes.iter().all(|outcome| outcome.code == Code::Ok));
    assert!(b.ask(1, &keys, 0).outcomes.iter().all(|outcome| outcome.code == Code::QueueHeld));
    assert_eq!(a.client.request(&LeaveGroup { group: GROUP.into() }).status.code, Code::Ok);
    assert!(b.ask(1, &keys, 0).outcomes.iter().all(|outcome| outcome.code == Code::Ok));
    stop(broker);
}

#[test]
fn without_the_check_of_epochs_an_old_owner_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut unsafe_settings = settings(dir.path(), 1);
    unsafe_settings.hazards.no_grant_epoch = true;
    let broker = start_with(unsafe_settings);
    let queue = topic(broker.address(), 1)[0];
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    let epoch = a.granted(1, queue);
    a.release(queue, epoch, None);
    b.granted(1, queue);
    assert_eq!(a.commit(queue, 6, epoch).code, Code::Ok, "the null control of every test above");
    stop(broker);
}

#[test]
fn groups_are_listed_described_and_deleted_when_nobody_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(settings(dir.path(), 2));
    let keys = topic(broker.address(), 2);
    let mut admin = Client::connect(broker.address());
    assert!(admin.request(&ListGroups {}).groups.is_empty());
    let mut a = Member::new(broker.address(), 1);
    let joined = a.join(0, &[("t", &[])]);
    let epoch = a.granted(joined.generation, keys[0]);
    a.commit(keys[0], 4, epoch);
    let groups = admin.request(&ListGroups {}).groups;
    let group = &groups[0];
    assert_eq!((group.name.as_str(), group.members, group.queues, group.lag), (GROUP, 1, 1, 6));
    assert_eq!((group.generation, group.expires_ms), (joined.generation, 0));
    let told = admin.request(&DescribeGroup { group: GROUP.into() });
    assert_eq!((told.status.code, told.topics.as_slice()), (Code::Ok, &["t".to_owned()][..]));
    let state = told.queues[0];
    assert_eq!((state.committed, state.grant_epoch, state.holder), (Some(Offset(4)), epoch, Some(0)));
    assert_eq!(told.holders[0].client_id, "m1");
    assert_eq!(told.members[0].member.topics, ["t"]);
    assert_eq!(admin.request(&DescribeGroup { group: "no".into() }).status.code, Code::GroupNotFound);

    let mut delete = || admin.request(&DeleteGroup { group: GROUP.into() }).status.code;
    assert_eq!(delete(), Code::GroupActive);
    a.client.request(&LeaveGroup { group: GROUP.into() });
    assert_eq!(delete(), Code::Ok);
    assert_eq!(delete(), Code::GroupNotFound);
    stop(broker);
    let broker = start_with(settings(dir.path(), 2));
    let mut admin = Client::connect(broker.address());
    assert!(admin.request(&ListGroups {}).groups.is_empty());
    stop(broker);
}

#[test]
fn a_group_without_queues_is_known_and_deleted_like_others() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_with(settings(dir.path(), shards));
        let mut a = Member::new(broker.address(), 1);
        let generation = a.join(0, &[("none", &[])]).generation;
        a.client.request(&LeaveGroup { group: GROUP.into() });
        let groups = a.client.request(&ListGroups {}).groups;
        assert_eq!(groups.len(), 1, "its generation takes one of the places that there are for groups");
        assert_eq!((groups[0].members, groups[0].queues, groups[0].generation), (0, 0, generation));
        assert!(groups[0].active_ms > 0 && groups[0].expires_ms > groups[0].active_ms);
        let mut delete = || a.client.request(&DeleteGroup { group: GROUP.into() }).status.code;
        assert_eq!((delete(), delete()), (Code::Ok, Code::GroupNotFound));
        stop(broker);
        let broker = start_with(settings(dir.path(), shards));
        let mut a = Member::new(broker.address(), 1);
        assert_eq!(a.join(0, &[("none", &[])]).generation, generation, "it begins anew, at once");
        stop(broker);
    }
}

#[test]
fn a_group_is_not_deleted_while_members_of_before_a_restart_may_come_back() {
    for shards in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start_with(settings(dir.path(), shards));
        let generation = Member::new(broker.address(), 1).join(0, &[("none", &[])]).generation;
        stop(broker);
        let broker = start_with(settings(dir.path(), shards));
        let mut a = Member::new(broker.address(), 1);
        let delete = |a: &mut Member| a.client.request(&DeleteGroup { group: GROUP.into() }).status;
        let refused = delete(&mut a);
        assert_eq!(refused.code, Code::Busy, "{}", refused.detail);
        assert!(refused.retry_after_ms > 0);
        a.join(generation, &[("none", &[])]);
        assert_eq!(delete(&mut a).code, Code::GroupActive);
        a.client.request(&LeaveGroup { group: GROUP.into() });
        until("nobody to be waited for", || delete(&mut a).code == Code::Ok);
        stop(broker);
    }
}

#[test]
fn epochs_go_on_after_a_group_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let queue = topic(broker.address(), 1)[0];
    let mut a = Member::new(broker.address(), 1);
    let last = a.granted(1, queue);
    a.release(queue, last, None);
    let delete = |a: &mut Member| a.client.request(&DeleteGroup { group: GROUP.into() }).status.code;
    assert_eq!(delete(&mut a), Code::Ok);
    let epoch = a.granted(1, queue);
    assert!(epoch > last, "{epoch} after {last}");
    a.release(queue, epoch, None);
    assert_eq!(delete(&mut a), Code::Ok);
    stop(broker);
    // Nothing is stored of it any more. There must have been fewer grants than seconds.
    std::thread::sleep(Duration::from_secs(3));
    let broker = begin(dir.path());
    let mut a = Member::new(broker.address(), 1);
    let again = a.granted(1, queue);
    assert!(again > epoch, "{again} after {epoch}");
    // An offset that an operator sets makes a record without a grant.
    a.release(queue, again, None);
    assert_eq!(delete(&mut a), Code::Ok);
    let items = vec![(queue, Offset(3))];
    let reset = a.client.request(&ResetOffsets { group: GROUP.into(), dry_run: false, items }).outcomes[0];
    assert!((reset.code, reset.grant_epoch) > (Code::Ok, again), "{reset:?} after {again}");
    stop(broker);
}

#[test]
fn a_queue_without_an_owner_is_counted_on_a_shard_that_knows_no_member() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(settings(dir.path(), 2));
    let mut admin = Client::connect(broker.address());
    let queues = admin.create_topic("t", 4).queues;
    let queue = queues.iter().find(|queue| queue.shard != group_shard(GROUP, 2)).unwrap();
    let mut a = Member::new(broker.address(), 1);
    let generation = a.join(0, &[("t", &[])]).generation;
    let unowned = |shard: u16| broker.broker().stats[usize::from(shard)].queues_unowned.get();
    let epoch = a.granted(generation, queue.key);
    a.release(queue.key, epoch, None);
    until("the queue to be counted", || {
        std::thread::sleep(Duration::from_millis(100));
        a.stay(generation);
        unowned(queue.shard) == 1
    });
    assert_eq!(unowned(1 - queue.shard), 0);
    // Nobody misses it who does not want its topic, or has gone.
    let mut change = |topics: &[(&str, &[&str])], counted| {
        let generation = a.join(0, topics).generation;
        until("the subscription to count", || {
            std::thread::sleep(Duration::from_millis(100));
            a.stay(generation);
            unowned(queue.shard) == counted
        });
    };
    change(&[("other", &[])], 0);
    change(&[("t", &[])], 1);
    a.client.request(&LeaveGroup { group: GROUP.into() });
    until("the group to be gone", || unowned(queue.shard) == 0);
    stop(broker);
}

#[test]
fn queues_are_closed_drained_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(settings(dir.path(), 2));
    let keys = topic(broker.address(), 2);
    let mut admin = Client::connect(broker.address());
    let access = |send, consume| SetQueueAccess { topic: "t".into(), ordinals: vec![1], send, consume };
    let map = vec![broker.broker().config.name.clone()];
    let remove = |force| RemoveQueues { topic: "t".into(), map: map.clone(), version: 2, force };
    assert_eq!(admin.request(&remove(false)).status.code, Code::NotDrained);
    let closed = admin.request(&access(Some(false), None)).topic.unwrap();
    assert!(closed.queues[0].writable && !closed.queues[1].writable);
    assert_eq!(admin.produce_one(keys[1], b"x"), Code::QueueSealed);
    assert_eq!(admin.produce_one(keys[0], b"x"), Code::Ok);
    // It holds messages and nobody has consumed them.
    admin.request(&access(None, Some(false)));
    assert_eq!(admin.fetch(0, &[(keys[1], 0)]).0.outcomes[0].code, Code::QueueHidden);
    assert_eq!(admin.request(&remove(false)).status.code, Code::NotDrained);
    let mut a = Member::new(broker.address(), 1);
    assert_eq!(a.grant(1, keys[1]).code, Code::QueueHidden);
    assert_eq!(a.commit(keys[1], 9, 0).code, Code::Ok);
    assert_eq!(admin.request(&remove(false)).status.code, Code::NotDrained);
    assert_eq!(a.commit(keys[1], 10, 0).code, Code::Ok);
    let removed = admin.request(&remove(false));
    assert_eq!(removed.status.code, Code::Ok, "{}", removed.status.detail);
    assert_eq!(removed.topic.unwrap().map.len(), 1);
    assert_eq!(admin.produce_one(keys[1], b"x"), Code::QueueNotFound);
    assert_eq!(admin.request(&remove(false)).status.code, Code::Ok, "asked again");
    stop(broker);
}

#[test]
fn clients_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start_with(settings(dir.path(), 2));
    let mut client = Client::connect(broker.address());
    let beat = equeue_net::api::Heartbeat {
        producing: vec!["t".into()],
        group: String::new(),
        consuming: Vec::new(),
    };
    client.request(&beat);
    let clients = client.request(&ListClients {}).clients;
    assert_eq!(clients.len(), 1);
    assert_eq!((clients[0].client_id.as_str(), clients[0].producing.len()), ("test", 1));
    let stats = client.request(&equeue_net::api::BrokerStats {});
    let value = |name: &str| stats.counters.iter().find(|counter| counter.name == name).unwrap().value;
    assert_eq!((value("equeue_connections"), value("equeue_topics")), (1, 0));
    stop(broker);
}

#[test]
fn what_an_owner_has_fetched_is_told_until_the_queue_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = begin(dir.path());
    let queue = topic(broker.address(), 1)[0];
    let (mut a, mut b) = (Member::new(broker.address(), 1), Member::new(broker.address(), 2));
    let generation = a.join(0, &[("t", &[])]).generation;
    let epoch = a.granted(generation, queue);
    let beat = |cached: u32| LeaseHeartbeat {
        group: GROUP.into(),
        generation,
        hash: 1,
        held: Some(vec![HeldQueue { queue, grant_epoch: epoch }]),
        cached: vec![
            CachedQueue { queue, messages: cached },
            CachedQueue { queue: QueueKey(77), messages: 9 },
        ],
    };
    let mut operator = Client::connect(broker.address());
    let mut told = || operator.request(&DescribeGroup { group: GROUP.into() }).queues[0].cached;
    a.client.request(&beat(7));
    assert_eq!(told(), 7);
    a.client.request(&beat(5));
    assert_eq!(told(), 5);
    a.release(queue, epoch, None);
    assert_eq!(told(), 0, "nobody has it");
    let generation = b.join(generation, &[("t", &[])]).generation;
    b.granted(generation, queue);
    assert_eq!(told(), 0, "another has it");
    stop(broker);
}
