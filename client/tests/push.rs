//! Handlers: every message at least once, in order where that is asked for, acknowledged now or later, cancelled when
//! their queue is gone.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, PATIENCE, committed_by_queue, create, ready, text, until};
use equeue_client::{
    Ack, Client, ConsumerOptions, Context, HandlerError, Message, Mode, OnError, ProducerOptions,
    PushConsumer, PushOptions, Received, Subscription,
};
use tokio::time::{sleep, timeout};

fn options(topic: &str) -> ConsumerOptions {
    ConsumerOptions {
        group: "g".to_owned(),
        topics: vec![Subscription::all(topic)],
        commit_interval: Some(Duration::from_millis(100)),
        ..ConsumerOptions::default()
    }
}

async fn start<H, F>(client: &Client, topic: &str, push: PushOptions, handler: H) -> PushConsumer
where
    H: Fn(Received, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let starting = client.push_consumer(options(topic), push, handler);
    timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts")
}

async fn committed(client: &Client, topic: &str) -> u64 {
    committed_by_queue(client, "g", topic).await.iter().sum()
}

/// Messages of some keys, numbered for each key.
async fn send_keyed(client: &Client, topic: &str, keys: u32, from: u32, to: u32) {
    let producer = client.producer(ProducerOptions::default());
    for number in from..to {
        for key in 0..keys {
            let (key_bytes, body) = (key.to_be_bytes(), format!("{key} {number}"));
            let message = Message::new(topic, body.as_bytes()).key(&key_bytes);
            drop(producer.enqueue(&message).await.expect("there is room"));
        }
    }
    producer.flush().await;
    assert_eq!(producer.stats().failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_handlers_keep_the_order_of_each_key_while_members_come_and_go() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    create(&client, "ordered", 3).await;
    let seen: Arc<Mutex<BTreeMap<u32, Vec<u32>>>> = Arc::default();
    let failed: Arc<AtomicUsize> = Arc::default();
    let handler = || {
        let (seen, failed) = (Arc::clone(&seen), Arc::clone(&failed));
        move |message: Received, context: Context| {
            let (seen, failed) = (Arc::clone(&seen), Arc::clone(&failed));
            async move {
                let body = text(&message);
                let (key, number) = body.split_once(' ').expect("a key and a number were sent");
                let (key, number): (u32, u32) = (key.parse().unwrap(), number.parse().unwrap());
                if number % 50 == 7 && context.attempt() < 3 {
                    failed.fetch_add(1, Ordering::Relaxed);
                    return Err(HandlerError::retry("not yet"));
                }
                tokio::task::yield_now().await;
                seen.lock().unwrap().entry(key).or_default().push(number);
                Ok(())
            }
        }
    };
    let push = || PushOptions { retry_steps: vec![Duration::from_millis(5)], ..PushOptions::sequential() };
    let mut members = vec![start(&client, "ordered", push(), handler()).await];
    send_keyed(&client, "ordered", 10, 0, 100).await;
    members.push(start(&client, "ordered", push(), handler()).await);
    send_keyed(&client, "ordered", 10, 100, 200).await;
    members.push(start(&client, "ordered", push(), handler()).await);
    send_keyed(&client, "ordered", 10, 200, 300).await;
    timeout(PATIENCE, members.remove(0).stop()).await.expect("in time").expect("it commits");
    cluster.stop_broker_at(1).await;
    cluster.start_broker_at(1);
    send_keyed(&client, "ordered", 10, 300, 400).await;
    let all = || {
        seen.lock().unwrap().values().map(|seen| seen.iter().collect::<BTreeSet<_>>().len()).sum::<usize>()
    };
    until("every message", || all() == 4_000).await;
    for member in members {
        timeout(PATIENCE, member.stop()).await.expect("in time").expect("it commits");
    }
    let seen = seen.lock().unwrap().clone();
    let mut repeated = 0;
    for (key, numbers) in &seen {
        // What is handled again is handled again in order: numbers never leave one out going forward.
        let mut reached = 0;
        for number in numbers {
            assert!(*number <= reached, "key {key}: {number} came before {reached}");
            repeated += usize::from(*number < reached);
            reached = reached.max(number + 1);
        }
    }
    assert!(failed.load(Ordering::Relaxed) >= 10 * 8 * 2);
    assert!(repeated < 400, "{repeated} were handled again");
    assert_eq!(committed(&client, "ordered").await, 4_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_so_many_handlers_are_at_work_and_a_slow_one_holds_the_commit() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "bounded", 1).await;
    let (working, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((working, most, done));
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let (shared, gate) = (Arc::clone(&counts), Arc::clone(&release));
    let handler = move |message: Received, _: Context| {
        let (counts, gate) = (Arc::clone(&shared), Arc::clone(&gate));
        async move {
            let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
            counts.1.fetch_max(now, Ordering::SeqCst);
            if message.offset.0 == 5 {
                let _opened = gate.acquire().await;
            }
            sleep(Duration::from_millis(1)).await;
            counts.0.fetch_sub(1, Ordering::SeqCst);
            counts.2.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    send_keyed(&client, "bounded", 1, 0, 300).await;
    let push = PushOptions { parallel: 4, ..PushOptions::default() };
    let consumer = start(&client, "bounded", push, handler).await;
    until("all but one", || counts.2.load(Ordering::SeqCst) == 299).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(committed(&client, "bounded").await, 5, "the lowest one not handled");
    release.add_permits(1);
    until("all", || counts.2.load(Ordering::SeqCst) == 300).await;
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    assert_eq!(committed(&client, "bounded").await, 300);
    let most = counts.1.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at a time");
}

#[tokio::test]
async fn a_message_may_be_acknowledged_later_from_elsewhere() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "later", 1).await;
    send_keyed(&client, "later", 1, 0, 20).await;
    let acks: Arc<Mutex<Vec<Ack>>> = Arc::default();
    let kept = Arc::clone(&acks);
    let handler = move |_: Received, context: Context| {
        kept.lock().unwrap().push(context.detach());
        std::future::ready(Ok(()))
    };
    let consumer = start(&client, "later", PushOptions::default(), handler).await;
    until("all were given out", || acks.lock().unwrap().len() == 20).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(committed(&client, "later").await, 0);
    let mut held = std::mem::take(&mut *acks.lock().unwrap());
    let first = held.remove(0);
    held.into_iter().rev().for_each(Ack::done);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(committed(&client, "later").await, 0, "the first one holds it");
    // The consumer waits for it when it stops.
    let stopping = tokio::spawn(consumer.stop());
    sleep(Duration::from_millis(200)).await;
    assert!(!stopping.is_finished());
    first.done();
    timeout(PATIENCE, stopping).await.expect("in time").expect("no panic").expect("it commits");
    assert_eq!(committed(&client, "later").await, 20);
}

#[tokio::test]
async fn what_is_detached_in_sequential_order_and_fails_comes_again() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "detached", 1).await;
    let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let handler = move |message: Received, context: Context| {
        let attempt = context.attempt();
        heard.lock().unwrap().push((text(&message), attempt));
        if attempt == 1 && text(&message) == "0 1" {
            drop(context.detach());
        }
        std::future::ready(Ok(()))
    };
    let push = PushOptions { retry_steps: vec![Duration::from_millis(100)], ..PushOptions::sequential() };
    let consumer = start(&client, "detached", push, handler).await;
    send_keyed(&client, "detached", 1, 0, 3).await;
    until("all, and one of them again", || seen.lock().unwrap().len() == 4).await;
    let stats = consumer.stats();
    assert_eq!((stats.handed_back, stats.dead), (1, 0), "one attempt is not all of them");
    let seen = seen.lock().unwrap().clone();
    assert!(seen.contains(&("0 1".to_owned(), 2)), "{seen:?}");
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
}

#[tokio::test]
async fn a_description_tells_what_is_with_the_handlers() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "cached", 1).await;
    send_keyed(&client, "cached", 1, 0, 10).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let shut = Arc::clone(&gate);
    let handler = move |_: Received, _: Context| {
        let gate = Arc::clone(&shut);
        async move {
            gate.acquire().await.expect("it stays open").forget();
            Ok(())
        }
    };
    let consumer = start(&client, "cached", PushOptions::sequential(), handler).await;
    let told = async |wanted: u32| {
        let admin = client.admin();
        loop {
            let brokers = admin.describe_group("g").await.expect("the broker answers");
            let queues: Vec<_> = brokers.into_iter().flat_map(|told| told.result.unwrap().queues).collect();
            if queues.iter().any(|queue| queue.holder.is_some() && queue.cached == wanted) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, told(10)).await.expect("one is at work, nine wait");
    gate.add_permits(10);
    timeout(PATIENCE, told(0)).await.expect("all are handled");
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_cancelled_and_its_message_goes_to_the_next_member() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "stuck", 1).await;
    send_keyed(&client, "stuck", 1, 0, 3).await;
    let begun: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&begun);
    let handler = move |_: Received, _: Context| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    };
    let patient = ConsumerOptions { drain_max: Duration::from_millis(300), ..options("stuck") };
    let push = PushOptions { parallel: 1, ..PushOptions::default() };
    let consumer = client.push_consumer(patient, push, handler).await.expect("the consumer starts");
    until("the first one", || begun.load(Ordering::SeqCst) == 1).await;
    timeout(Duration::from_secs(10), consumer.stop()).await.expect("it does not hang").expect("it commits");
    assert_eq!(committed(&client, "stuck").await, 0);
    let mut next = common::consume(&client, "stuck", "g").await;
    assert_eq!(common::pull(&mut next, 3).await.len(), 3);
}

#[tokio::test]
async fn a_panic_is_a_failure_of_its_message_alone() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "panics", 1).await;
    send_keyed(&client, "panics", 1, 0, 10).await;
    let finished: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&finished);
    let handler = move |message: Received, context: Context| {
        let count = Arc::clone(&count);
        async move {
            assert!(message.offset.0 != 4 || context.attempt() > 1, "once");
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let push = PushOptions {
        on_error: Some(OnError::HoldQueue),
        retry_steps: vec![Duration::from_millis(5)],
        ..PushOptions::default()
    };
    let consumer = start(&client, "panics", push, handler).await;
    until("all", || finished.load(Ordering::SeqCst) == 10).await;
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    assert_eq!(committed(&client, "panics").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_comes_again_without_holding_its_queue_and_dies_in_the_end() {
    let mut cluster = Cluster::start();
    cluster.add_broker();
    let client = ready(&cluster).await;
    create(&client, "failing", 2).await;
    send_keyed(&client, "failing", 20, 0, 10).await;
    let seen: Arc<Mutex<BTreeMap<String, Vec<u32>>>> = Arc::default();
    let told = Arc::clone(&seen);
    let handler = move |message: Received, context: Context| {
        let told = Arc::clone(&told);
        async move {
            let body = text(&message);
            assert_eq!(message.sent_to(), "failing");
            told.lock().unwrap().entry(body.clone()).or_default().push(context.attempt());
            match body.as_str() {
                "3 3" => Err(HandlerError::retry("never works")),
                "5 5" if context.attempt() == 1 => {
                    context.retry_after(Duration::from_millis(50));
                    Ok(())
                }
                "7 7" if context.attempt() < 3 => Err(HandlerError::retry("not yet")),
                _ => Ok(()),
            }
        }
    };
    let push = PushOptions {
        attempts_max: 3,
        retry_steps: vec![Duration::from_millis(100)],
        ..PushOptions::default()
    };
    let consumer = start(&client, "failing", push, handler).await;
    until("the dead letter", || consumer.stats().dead == 1).await;
    until("the others", || seen.lock().unwrap().get("7 7").is_some_and(|attempts| attempts.len() == 3)).await;
    until("the asked one", || seen.lock().unwrap().get("5 5").is_some_and(|attempts| attempts.len() == 2))
        .await;
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 200);
    assert_eq!(seen["3 3"], [1, 2, 3]);
    assert_eq!(seen["7 7"], [1, 2, 3]);
    assert_eq!(seen["5 5"], [1, 2]);
    assert!(
        seen.iter()
            .filter(|(body, _)| !["3 3", "5 5", "7 7"].contains(&body.as_str()))
            .all(|(_, at)| *at == [1])
    );
    // Nothing was held up: all is committed.
    assert_eq!(committed(&client, "failing").await, 200);
    let mut letters = common::consume(&client, "%DLQ%g", "undertaker").await;
    let letter = common::pull(&mut letters, 1).await.remove(0);
    let origin = letter.origin().expect("it is a copy");
    assert_eq!((text(&letter).as_str(), origin.topic, origin.reason), ("3 3", "failing", "never works"));
    assert_eq!(letter.own_headers().count(), 0);
}

#[tokio::test]
async fn in_sequential_order_what_fails_is_handed_back_where_that_is_asked_for() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "switched", 1).await;
    send_keyed(&client, "switched", 1, 0, 4).await;
    let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let handler = move |message: Received, context: Context| {
        heard.lock().unwrap().push((text(&message), context.attempt()));
        let fails = text(&message) == "0 1" && context.attempt() < 3;
        std::future::ready(if fails { Err(HandlerError::retry("not yet")) } else { Ok(()) })
    };
    let push = PushOptions {
        on_error: Some(OnError::HandBack),
        retry_steps: vec![Duration::from_millis(500)],
        ..PushOptions::sequential()
    };
    let consumer = start(&client, "switched", push, handler).await;
    until("all, and one of them twice more", || seen.lock().unwrap().len() == 6).await;
    let expected = [("0 0", 1), ("0 1", 1), ("0 2", 1), ("0 3", 1), ("0 1", 2), ("0 1", 3)];
    let expected = expected.map(|(body, attempt)| (body.to_owned(), attempt));
    assert_eq!(*seen.lock().unwrap(), expected, "the queue does not wait for it");
    let stats = consumer.stats();
    assert_eq!((stats.handed_back, stats.dead), (2, 0));
    timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    assert_eq!(committed(&client, "switched").await, 4);
}

#[tokio::test]
async fn what_an_instance_of_a_broadcast_fails_comes_again_to_it_alone() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "announced", 1).await;
    let mut instances = Vec::new();
    for name in ["one", "two"] {
        let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
        let heard = Arc::clone(&seen);
        let handler = move |message: Received, context: Context| {
            assert_eq!(message.sent_to(), "announced");
            heard.lock().unwrap().push((text(&message), context.attempt()));
            let fails = name == "one" && text(&message) == "0 1" && context.attempt() == 1;
            std::future::ready(if fails { Err(HandlerError::retry("not yet")) } else { Ok(()) })
        };
        let broadcast =
            ConsumerOptions { mode: Mode::Broadcast, instance: name.to_owned(), ..options("announced") };
        let push = PushOptions { retry_steps: vec![Duration::from_millis(100)], ..PushOptions::default() };
        let starting = client.push_consumer(broadcast, push, handler);
        let consumer = timeout(PATIENCE, starting).await.expect("in time").expect("the consumer starts");
        instances.push((consumer, seen));
    }
    send_keyed(&client, "announced", 1, 0, 3).await;
    let (one, two) = (Arc::clone(&instances[0].1), Arc::clone(&instances[1].1));
    until("one of them again", || one.lock().unwrap().contains(&("0 1".to_owned(), 2))).await;
    until("all", || two.lock().unwrap().len() == 3).await;
    // Whatever is sent later comes to both, so that nothing is on its way any more.
    send_keyed(&client, "announced", 1, 3, 4).await;
    until("the last one", || one.lock().unwrap().len() == 5 && two.lock().unwrap().len() == 4).await;
    assert!(two.lock().unwrap().iter().all(|(_, attempt)| *attempt == 1), "{two:?}");
    let handed_back: Vec<u64> = instances.iter().map(|(consumer, _)| consumer.stats().handed_back).collect();
    assert_eq!(handed_back, [1, 0]);
    for (consumer, _) in instances {
        timeout(PATIENCE, consumer.stop()).await.expect("in time").expect("it commits");
    }
    for group in ["g@one", "g@two"] {
        assert_eq!(committed_by_queue(&client, group, "announced").await, [4], "{group}");
    }
    let retried = committed_by_queue(&client, "g@one", "%RETRY%g@one").await;
    assert_eq!(retried.iter().sum::<u64>(), 1);
}
