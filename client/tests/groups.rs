//! Members of a group share queues: they join, leave, die and pause, and no message is lost or held by two.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, PATIENCE, consume, create, nothing_more, pull, ready, text};
use equeue_client::{
    AllocateRoundRobin, AssignmentEvent, AssignmentListener, Client, Consumer, ConsumerOptions, Message,
    Mode, Offset, ProducerOptions, ResetTo, StartAt, Sticky, Subscription,
};
use tokio::time::{Instant, timeout};

fn options(topic: &str, group: &str) -> ConsumerOptions {
    ConsumerOptions {
        group: group.to_owned(),
        topics: vec![Subscription::all(topic)],
        start: StartAt::First,
        commit_interval: Some(Duration::from_millis(100)),
        ..ConsumerOptions::default()
    }
}

async fn member(client: &Client, options: ConsumerOptions) -> Consumer {
    timeout(PATIENCE, client.consumer(options)).await.expect("in time").expect("the consumer starts")
}

async fn send(client: &Client, topic: &str, bodies: impl IntoIterator<Item = u32>) {
    let producer = client.producer(ProducerOptions::default());
    for number in bodies {
        let (key, body) = (number.to_be_bytes(), number.to_string());
        producer.send(&Message::new(topic, body.as_bytes()).key(&key)).await.expect("stored");
    }
}

fn queues(consumer: &Consumer) -> BTreeSet<u32> {
    consumer.positions().iter().map(|position| position.queue).collect()
}

/// Pulls with all of them until the shares are these sizes and no queue is missing.
async fn until_shared(consumers: &mut [Consumer], sizes: &[usize], pulled: &mut Vec<(u32, u64, String)>) {
    let begin = Instant::now();
    loop {
        for consumer in &mut *consumers {
            let messages = consumer.pull(100, Duration::from_millis(20)).await.expect("pulling goes on");
            pulled.extend(messages.iter().map(|message| (message.queue, message.offset.0, text(message))));
        }
        let shares: Vec<BTreeSet<u32>> = consumers.iter().map(queues).collect();
        let mut found: Vec<usize> = shares.iter().map(BTreeSet::len).collect();
        found.sort_unstable();
        let all: BTreeSet<u32> = shares.iter().flatten().copied().collect();
        assert!(all.len() == found.iter().sum::<usize>(), "a queue with two owners: {shares:?}");
        if found == sizes {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{shares:?} is not {sizes:?}");
    }
}

/// Pulls with all of them until `count` different messages were seen.
async fn until_seen(consumers: &mut [Consumer], count: usize, pulled: &mut Vec<(u32, u64, String)>) {
    let begin = Instant::now();
    while pulled.iter().map(|(_, _, body)| body).collect::<BTreeSet<_>>().len() < count {
        for consumer in &mut *consumers {
            let messages = consumer.pull(100, Duration::from_millis(20)).await.expect("pulling goes on");
            pulled.extend(messages.iter().map(|message| (message.queue, message.offset.0, text(message))));
        }
        assert!(begin.elapsed() < PATIENCE, "{} of {count} messages", pulled.len());
    }
}

#[tokio::test]
async fn members_join_and_leave_without_loss_or_repetition() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    create(&client, "shared", 3).await;
    let mut pulled = Vec::new();
    let mut members = vec![member(&client, options("shared", "g")).await];
    send(&client, "shared", 0..100).await;
    until_shared(&mut members, &[6], &mut pulled).await;
    members.push(member(&client, options("shared", "g")).await);
    send(&client, "shared", 100..200).await;
    until_shared(&mut members, &[3, 3], &mut pulled).await;
    members.push(member(&client, options("shared", "g")).await);
    members.push(member(&client, options("shared", "g")).await);
    until_shared(&mut members, &[1, 1, 2, 2], &mut pulled).await;
    send(&client, "shared", 200..300).await;
    until_seen(&mut members, 300, &mut pulled).await;
    for _ in 0..2 {
        members.remove(0).close().await.expect("the last commit is made");
    }
    until_shared(&mut members, &[3, 3], &mut pulled).await;
    send(&client, "shared", 300..400).await;
    until_seen(&mut members, 400, &mut pulled).await;
    // Orderly hand-overs repeat nothing.
    assert_eq!(pulled.len(), 400, "each message once");
    for member in members {
        assert_eq!(member.stats().lost_grants, 0);
        member.close().await.expect("the last commit is made");
    }
    let mut again = consume(&client, "shared", "g").await;
    nothing_more(&mut again).await;
}

#[tokio::test]
async fn a_sticky_group_moves_no_more_queues_than_it_must() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "sticky", 12).await;
    let sticky = || ConsumerOptions { strategy: Arc::new(Sticky), ..options("sticky", "g") };
    let mut pulled = Vec::new();
    let mut members = vec![member(&client, sticky()).await, member(&client, sticky()).await];
    until_shared(&mut members, &[6, 6], &mut pulled).await;
    for comes in [true, true, false, false] {
        // What fell to each is told with its next heartbeat to the coordinator, within a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut before: Vec<BTreeSet<u32>> = members.iter().map(queues).collect();
        if comes {
            members.push(member(&client, sticky()).await);
        } else {
            before.remove(1);
            members.remove(1).close().await.expect("the last commit is made");
        }
        let even = vec![12 / members.len(); members.len()];
        until_shared(&mut members, &even, &mut pulled).await;
        for (before, after) in before.iter().zip(members.iter().map(queues)) {
            let kept = if comes { after.is_subset(before) } else { after.is_superset(before) };
            assert!(kept, "{before:?} became {after:?}");
        }
    }
}

#[tokio::test]
async fn a_member_that_is_dropped_is_followed_at_once() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "follow", 2).await;
    send(&client, "follow", 0..10).await;
    let mut first = member(&client, options("follow", "g")).await;
    assert_eq!(pull(&mut first, 10).await.len(), 10);
    drop(first);
    let begin = Instant::now();
    let mut pulled = Vec::new();
    let mut members = vec![member(&client, options("follow", "g")).await];
    until_seen(&mut members, 10, &mut pulled).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "nobody waited for a lease: {:?}", begin.elapsed());
}

#[tokio::test]
async fn grants_survive_a_restart_of_the_broker() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "restart", 4).await;
    let events: Arc<Mutex<Vec<AssignmentEvent>>> = Arc::default();
    let heard = Arc::clone(&events);
    let listening = ConsumerOptions {
        on_assignment: Some(AssignmentListener::new(move |event| heard.lock().unwrap().push(event.clone()))),
        ..options("restart", "g")
    };
    let mut members = vec![member(&client, listening).await, member(&client, options("restart", "g")).await];
    let mut pulled = Vec::new();
    send(&client, "restart", 0..50).await;
    until_shared(&mut members, &[2, 2], &mut pulled).await;
    until_seen(&mut members, 50, &mut pulled).await;
    let before: Vec<BTreeSet<u32>> = members.iter().map(queues).collect();
    cluster.stop_broker().await;
    cluster.start_broker();
    send(&client, "restart", 50..100).await;
    until_seen(&mut members, 100, &mut pulled).await;
    assert_eq!(members.iter().map(queues).collect::<Vec<_>>(), before, "nothing changed hands");
    let lost =
        events.lock().unwrap().iter().filter(|event| matches!(event, AssignmentEvent::Lost { .. })).count();
    assert_eq!(lost, 0);
    assert_eq!(pulled.len(), 100, "each message once");
}

#[tokio::test]
async fn who_is_new_after_a_restart_gets_its_part_and_no_more() {
    let mut cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "new", 6).await;
    let drained: Arc<Mutex<usize>> = Arc::default();
    let sticky = |counted: &Arc<Mutex<usize>>| {
        let count = Arc::clone(counted);
        let listener = AssignmentListener::new(move |event| {
            *count.lock().unwrap() += usize::from(matches!(event, AssignmentEvent::Draining { .. }));
        });
        ConsumerOptions { strategy: Arc::new(Sticky), on_assignment: Some(listener), ..options("new", "g") }
    };
    let mut members = vec![member(&client, sticky(&drained)).await, member(&client, sticky(&drained)).await];
    let mut pulled = Vec::new();
    until_shared(&mut members, &[3, 3], &mut pulled).await;
    // What fell to each is told with its next heartbeat to the coordinator, within a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    *drained.lock().unwrap() = 0;
    cluster.stop_broker().await;
    // It asks more often than those who know the group, so it comes first.
    let (new, options) = (client.clone(), sticky(&Arc::default()));
    let joining = tokio::spawn(async move { member(&new, options).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.start_broker();
    members.push(joining.await.expect("no panic"));
    until_shared(&mut members, &[2, 2, 2], &mut pulled).await;
    assert_eq!(*drained.lock().unwrap(), 2, "queues given up");
}

#[tokio::test]
async fn a_reset_takes_effect_on_a_running_consumer() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "reset", 1).await;
    send(&client, "reset", 0..20).await;
    let mut consumer = member(&client, options("reset", "g")).await;
    assert_eq!(pull(&mut consumer, 20).await.len(), 20);
    nothing_more(&mut consumer).await;
    let admin = client.admin();
    let preview = admin.reset_offsets("g", "reset", &[], ResetTo::Offset(Offset(5)), true).await.unwrap();
    assert_eq!(preview[0].result.as_ref().expect("it may be reset").after, Offset(5));
    nothing_more(&mut consumer).await;
    let outside = admin.reset_offsets("g", "reset", &[], ResetTo::Offset(Offset(99)), false).await.unwrap();
    assert!(outside[0].result.is_err(), "{outside:?}");
    let done = admin.reset_offsets("g", "reset", &[], ResetTo::Offset(Offset(5)), false).await.unwrap();
    assert_eq!(done[0].result.as_ref().expect("it is reset").after, Offset(5));
    let begin = Instant::now();
    let again = pull(&mut consumer, 15).await;
    assert_eq!(again[0].offset, Offset(5));
    assert!(begin.elapsed() < Duration::from_secs(5), "at once: {:?}", begin.elapsed());
    nothing_more(&mut consumer).await;
    consumer.close().await.expect("the last commit is made under the new grant");
    let mut next = member(&client, options("reset", "g")).await;
    nothing_more(&mut next).await;
}

#[tokio::test]
async fn a_description_tells_what_waits_in_the_consumer() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "waits", 2).await;
    send(&client, "waits", 0..20).await;
    let by_hand = ConsumerOptions { commit_interval: None, ..options("waits", "g") };
    let mut consumer = member(&client, by_hand).await;
    let until = async |wanted: u32| {
        let admin = client.admin();
        loop {
            let told = admin.describe_group("g").await.unwrap();
            let queues: Vec<_> = told.into_iter().flat_map(|told| told.result.unwrap().queues).collect();
            let mine = queues.iter().filter(|queue| queue.holder.is_some());
            if mine.clone().count() == 2 && mine.map(|queue| queue.cached).sum::<u32>() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, until(20)).await.expect("what was fetched ahead is told with a heartbeat");
    assert_eq!(pull(&mut consumer, 20).await.len(), 20);
    // The application has them, and has not said what became of them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    timeout(PATIENCE, until(20)).await.expect("they are not handled before they are committed");
    consumer.commit().await.expect("it is committed");
    timeout(PATIENCE, until(0)).await.expect("all is handled");
    consumer.close().await.expect("the last commit is made");
}

#[tokio::test]
async fn queues_are_paused_resumed_and_sought() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "pause", 2).await;
    let producer = client.producer(ProducerOptions::default());
    let mut consumer = member(&client, options("pause", "g")).await;
    let owning = async {
        while consumer.positions().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, owning).await.expect("both queues are granted");
    consumer.pause("pause", 0).expect("it is owned");
    for queue in [0, 1, 0, 1] {
        producer.send(&Message::new("pause", b"x").queue(queue)).await.expect("stored");
    }
    let got = pull(&mut consumer, 2).await;
    assert!(got.iter().all(|message| message.queue == 1), "{got:?}");
    nothing_more(&mut consumer).await;
    assert!(consumer.positions()[0].paused);
    consumer.resume("pause", 0).expect("it is owned");
    let got = pull(&mut consumer, 2).await;
    assert!(got.iter().all(|message| message.queue == 0), "{got:?}");
    consumer.seek("pause", 1, Offset(1)).expect("it is owned");
    let got = pull(&mut consumer, 1).await;
    assert_eq!((got[0].queue, got[0].offset), (1, Offset(1)));
    nothing_more(&mut consumer).await;
    assert!(consumer.pause("pause", 9).is_err());
    assert!(consumer.positions().iter().all(|position| position.lag() == 0), "{:?}", consumer.positions());
}

#[tokio::test]
async fn every_instance_of_a_broadcast_gets_everything() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "news", 2).await;
    let broadcast = |instance: &str| ConsumerOptions {
        mode: Mode::Broadcast,
        instance: instance.to_owned(),
        ..options("news", "readers")
    };
    assert!(client.consumer(broadcast("")).await.is_err(), "an instance needs a name");
    let mut one = member(&client, broadcast("one")).await;
    let mut two = member(&client, broadcast("two")).await;
    send(&client, "news", 0..20).await;
    assert_eq!(pull(&mut one, 20).await.len(), 20);
    assert_eq!(pull(&mut two, 20).await.len(), 20);
    one.close().await.expect("committed");
    let mut one = member(&client, broadcast("one")).await;
    nothing_more(&mut one).await;
}

#[tokio::test]
async fn topics_go_to_the_members_that_want_them_and_tags_must_agree() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "a", 2).await;
    create(&client, "b", 2).await;
    let both = ConsumerOptions {
        topics: vec![Subscription::all("a"), Subscription::all("b")],
        strategy: Arc::new(AllocateRoundRobin),
        ..options("a", "g")
    };
    let only_b = ConsumerOptions { strategy: Arc::new(AllocateRoundRobin), ..options("b", "g") };
    let mut members = vec![member(&client, both).await, member(&client, only_b).await];
    let owned = |consumer: &Consumer| -> BTreeMap<String, usize> {
        consumer.positions().iter().fold(BTreeMap::new(), |mut owned, position| {
            *owned.entry(position.topic.to_string()).or_default() += 1;
            owned
        })
    };
    let wanted =
        [BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]), BTreeMap::from([("b".to_owned(), 1)])];
    timeout(PATIENCE, async {
        while members.iter().map(owned).ne(wanted.iter().cloned()) {
            for member in &mut members {
                let _ = member.pull(10, Duration::from_millis(20)).await;
            }
        }
    })
    .await
    .expect("the queues are shared");
    let tagged = ConsumerOptions {
        topics: vec![Subscription { topic: "b".into(), tags: vec!["x".into()] }],
        ..options("b", "g")
    };
    let mut other = member(&client, tagged).await;
    let told = async {
        loop {
            if let Err(error) = other.pull(1, Duration::from_millis(100)).await {
                return error;
            }
        }
    };
    let error = timeout(PATIENCE, told).await.expect("it is told");
    assert!(matches!(error, equeue_client::ClientError::SubscriptionConflict { .. }), "{error}");
    assert!(other.positions().is_empty());
}

#[tokio::test]
async fn a_member_makes_its_tags_those_of_the_group() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "tagged", 2).await;
    let wants = |tag: &str, replace| ConsumerOptions {
        topics: vec![Subscription { topic: "tagged".into(), tags: vec![tag.into()] }],
        replace_subscription: replace,
        ..options("tagged", "g")
    };
    let send = async |numbers: std::ops::Range<u32>| {
        let producer = client.producer(ProducerOptions::default());
        for number in numbers {
            let (tag, body) = (["red", "blue"][number as usize % 2], number.to_string());
            let message = Message::new("tagged", body.as_bytes()).tag(tag).queue(number / 2 % 2);
            producer.send(&message).await.expect("stored");
        }
    };
    let sorted = |messages: Vec<equeue_client::Received>| {
        let mut numbers: Vec<u32> = messages.iter().map(|message| text(message).parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    send(0..8).await;
    let mut red = member(&client, wants("red", false)).await;
    assert_eq!(sorted(pull(&mut red, 4).await), [0, 2, 4, 6]);
    nothing_more(&mut red).await;

    // The members with the tags of before give their queues up, and are told.
    let mut blue = member(&client, wants("blue", true)).await;
    let told = async {
        loop {
            match red.pull(1, Duration::from_millis(50)).await {
                Ok(messages) => assert!(messages.is_empty(), "{messages:?}"),
                Err(error) => return error,
            }
        }
    };
    let error = timeout(PATIENCE, told).await.expect("it is told");
    assert!(matches!(error, equeue_client::ClientError::SubscriptionConflict { .. }), "{error}");
    let given_up = async {
        while !red.positions().is_empty() || blue.positions().len() < 2 {
            for member in [&mut red, &mut blue] {
                let messages = member.pull(10, Duration::from_millis(20)).await.expect("pulling goes on");
                assert!(messages.is_empty(), "the group had passed what was there: {messages:?}");
            }
        }
    };
    timeout(PATIENCE, given_up).await.expect("the queues change hands");
    send(8..16).await;
    assert_eq!(sorted(pull(&mut blue, 4).await), [9, 11, 13, 15]);
    nothing_more(&mut blue).await;

    // When the last one who wants them leaves, those of the others are the group's again.
    blue.close().await.expect("the last commit is made");
    send(16..24).await;
    assert_eq!(sorted(pull(&mut red, 4).await), [16, 18, 20, 22]);
    nothing_more(&mut red).await;
}
