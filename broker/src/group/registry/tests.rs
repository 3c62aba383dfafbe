use super::*;

fn member(name: &str) -> Member {
    Member { client_id: Arc::from(name), incarnation: name.len() as u128 }
}

fn link(id: u64) -> Link {
    Link { id, address: "10.0.0.1:1".into() }
}

fn wants(topics: &[(&str, &[&str], bool)]) -> Membership {
    let one = |&(topic, tags, replace): &(&str, &[&str], bool)| Subscription {
        topic: topic.into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        replace,
    };
    Membership { subscriptions: topics.iter().map(one).collect(), ..Membership::default() }
}

fn beat(generation: u64, hash: u64, full: Option<Membership>) -> GroupHeartbeat {
    GroupHeartbeat { group: "g".into(), generation, hash, full }
}

fn view(registry: &Registry, name: &str) -> View {
    registry.view("g", &member(name), 0).unwrap()
}

fn lists(view: &View) -> &GroupLists {
    view.lists.as_ref().expect("the generation is not known")
}

/// Joins, settles as a durable counter would, and gives the view.
fn join(registry: &mut Registry, name: &str, told: Membership, now_ms: u64) -> View {
    let hash = now_ms + 1;
    let joined = registry.beat(&member(name), &beat(0, hash, Some(told)), false, link(now_ms), now_ms);
    assert_eq!(joined, Joined::Known);
    settled(registry);
    view(registry, name)
}

fn settled(registry: &mut Registry) {
    registry.look_at_topics("g", |_| 1);
    if let Some(change) = registry.unsettled("g") {
        registry.settle("g", change, change.above + 1);
    }
    assert_eq!(registry.unsettled("g"), None);
}

#[test]
fn what_fell_to_a_member_is_told_with_the_next_generation_and_makes_none() {
    let mut registry = Registry::default();
    let wanted = wants(&[("t", &[], false)]);
    let first = join(&mut registry, "a", wanted.clone(), 0);
    let share = vec![ShareQueue { topic: 0, queue: 3 }];
    let told = Membership { share: share.clone(), share_generation: first.generation, ..wanted.clone() };
    let beat = beat(first.generation, 99, Some(told));
    assert_eq!(registry.beat(&member("a"), &beat, false, link(0), 1), Joined::Known);
    registry.look_at_topics("g", |_| 1);
    assert_eq!(registry.unsettled("g"), None);
    assert_eq!(view(&registry, "a"), first, "what a generation tells stands");
    assert_eq!(registry.view("g", &member("a"), first.generation).unwrap().lists, None, "it is known");
    let next = join(&mut registry, "b", wanted, 2);
    let shares: Vec<_> = lists(&next).members.iter().map(|member| member.share.clone()).collect();
    assert_eq!(shares, [share, Vec::new()]);
}

#[test]
fn members_come_and_go_and_each_change_is_a_generation() {
    let mut registry = Registry::default();
    assert_eq!(registry.beat(&member("a"), &beat(0, 1, None), false, link(1), 0), Joined::WantFull);
    assert_eq!(registry.members("g"), 0);
    let one = join(&mut registry, "a", wants(&[("t", &[], false)]), 0);
    assert_eq!((one.generation, lists(&one).members.len()), (1, 1));
    let two = join(&mut registry, "bb", wants(&[("t", &[], false), ("u", &[], false)]), 100);
    assert_eq!((two.generation, lists(&two).members.len(), lists(&two).topics.len()), (2, 2, 2));
    assert_eq!(registry.beat(&member("a"), &beat(2, 1, None), false, link(1), 5_000), Joined::Known);
    assert_eq!(registry.unsettled("g"), None, "nothing changed");
    assert_eq!(registry.expire(10_099, 10_000), 0);
    assert_eq!(registry.expire(10_100, 10_000), 1);
    assert!(registry.unsettled("g").is_some());
    settled(&mut registry);
    assert_eq!(lists(&view(&registry, "a")).topics.len(), 1);
    assert!(registry.leave("g", &member("a")) && !registry.leave("g", &member("a")));
    assert_eq!(registry.groups().count(), 0);
}

#[test]
fn members_from_before_are_waited_for() {
    let mut registry = Registry::default();
    let full = || Some(wants(&[("t", &[], false)]));
    registry.beat(&member("a"), &beat(7, 1, full()), false, link(1), 100);
    assert!(registry.gathers("g", 3_099) && !registry.gathers("g", 3_100));
    registry.beat(&member("bb"), &beat(7, 1, full()), false, link(2), 2_000);
    assert!(!registry.gathers("g", 3_100), "nobody prolongs it");
    assert_eq!(registry.unsettled("g").unwrap().above, 7);
    let mut fresh = Registry::default();
    fresh.beat(&member("a"), &beat(0, 1, full()), false, link(1), 100);
    assert!(!fresh.gathers("g", 100));
}

#[test]
fn after_a_start_the_first_may_be_new_and_the_others_are_waited_for() {
    let mut registry = Registry::default();
    let full = || Some(wants(&[("t", &[], false)]));
    assert!(registry.may_return("g", 2_999) && !registry.may_return("g", 3_000));
    registry.beat(&member("a"), &beat(0, 1, full()), true, link(1), 100);
    assert!(!registry.may_return("g", 100), "asked once");
    assert!(registry.gathers("g", 2_999) && !registry.gathers("g", 3_000));
    registry.beat(&member("bb"), &beat(7, 1, full()), true, link(2), 2_000);
    assert!(!registry.gathers("g", 3_000), "nobody prolongs it");
    assert_eq!(registry.unsettled("g").unwrap().above, 7);
    let mut late = Registry::default();
    late.beat(&member("a"), &beat(0, 1, full()), false, link(1), 3_100);
    assert!(!late.gathers("g", 3_100));
}

#[test]
fn who_is_new_at_the_next_coordinator_waits_for_those_who_move_there() {
    let mut registry = Registry::default();
    let full = || Some(wants(&[("t", &[], false)]));
    let alone = join(&mut registry, "a", wants(&[("t", &[], false)]), 0);
    assert_eq!((alone.generation, lists(&alone).members.len()), (1, 1));
    registry.beat(&member("bb"), &beat(7, 1, full()), false, link(2), 400);
    assert!(registry.gathers("g", 3_399) && !registry.gathers("g", 3_400));
    registry.beat(&member("ccc"), &beat(9, 1, full()), false, link(3), 3_000);
    assert!(!registry.gathers("g", 3_400), "nobody prolongs it");
    settled(&mut registry);
    assert_eq!((view(&registry, "a").generation, lists(&view(&registry, "a")).members.len()), (10, 3));
    // Who comes back to a group that went on is no reason to wait.
    let mut registry = Registry::default();
    join(&mut registry, "a", wants(&[("t", &[], false)]), 0);
    registry.beat(&member("bb"), &beat(1, 1, full()), false, link(2), 400);
    assert!(!registry.gathers("g", 400));
}

#[test]
fn a_generation_is_above_all_that_members_tell() {
    let mut registry = Registry::default();
    join(&mut registry, "a", wants(&[("t", &[], false)]), 0);
    registry.beat(&member("bb"), &beat(40, 9, Some(wants(&[("t", &[], false)]))), false, link(2), 1);
    let change = registry.unsettled("g").unwrap();
    assert_eq!(change.above, 40);
    // What changes while the generation is on its way needs another one.
    registry.leave("g", &member("a"));
    registry.settle("g", change, 41);
    assert_eq!(registry.unsettled("g").unwrap().above, 41);
}

#[test]
fn a_group_has_one_set_of_tags_for_a_topic() {
    let mut registry = Registry::default();
    join(&mut registry, "a", wants(&[("t", &["x", "y"], false)]), 0);
    let same = join(&mut registry, "bb", wants(&[("t", &["y", "x"], false)]), 1);
    assert!(same.conflicts.is_empty(), "the order of tags means nothing");
    let other = join(&mut registry, "ccc", wants(&[("t", &["z"], false), ("u", &[], false)]), 2);
    assert_eq!(other.conflicts, ["t"]);
    let told = lists(&other).members.iter().find(|member| member.client_id == "ccc").unwrap();
    assert_eq!(told.topics, ["u"]);
    let replaced = join(&mut registry, "dddd", wants(&[("t", &["z"], true)]), 3);
    assert!(replaced.conflicts.is_empty());
    assert_eq!(view(&registry, "a").conflicts, ["t"]);
    assert!(view(&registry, "ccc").conflicts.is_empty());
    // The last that wants them leaves: those of who joined first are the group's.
    registry.leave("g", &member("dddd"));
    registry.leave("g", &member("ccc"));
    assert!(view(&registry, "a").conflicts.is_empty());
}

#[test]
fn lists_told_again_replace_nothing() {
    let mut registry = Registry::default();
    let first = wants(&[("t", &["x"], true)]);
    join(&mut registry, "a", first.clone(), 0);
    join(&mut registry, "bb", wants(&[("t", &["z"], true)]), 1);
    assert_eq!(registry.beat(&member("a"), &beat(2, 77, Some(first)), false, link(1), 2), Joined::Known);
    assert_eq!(registry.unsettled("g"), None);
    assert_eq!(view(&registry, "a").conflicts, ["t"]);
}

#[test]
fn a_closed_connection_counts_unless_the_member_was_heard_on_another() {
    let mut registry = Registry::default();
    join(&mut registry, "a", wants(&[("t", &[], false)]), 5);
    registry.beat(&member("a"), &beat(1, 6, None), false, link(9), 6);
    assert!(!registry.closed("g", &member("a"), 5));
    assert!(registry.closed("g", &member("a"), 9));
}

#[test]
fn a_new_map_of_a_topic_is_a_change() {
    let mut registry = Registry::default();
    join(&mut registry, "a", wants(&[("t", &[], false)]), 0);
    registry.look_at_topics("g", |_| 1);
    assert_eq!(registry.unsettled("g"), None);
    registry.look_at_topics("g", |_| 2);
    assert!(registry.unsettled("g").is_some());
}

#[test]
fn groups_and_members_are_bounded() {
    let mut registry = Registry::default();
    for number in 0..GROUP_MEMBERS_MAX {
        let joined = registry.beat(
            &member(&number.to_string()),
            &beat(0, 1, Some(wants(&[("t", &[], false)]))),
            false,
            link(1),
            0,
        );
        assert_eq!(joined, Joined::Known);
    }
    let full = Some(wants(&[("t", &[], false)]));
    assert_eq!(registry.beat(&member("more"), &beat(0, 1, full), false, link(1), 0), Joined::Full);
}
