//! Messages arrive as they were sent, in their order, each once.

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, PATIENCE, consume, create, nothing_more, pull, ready, text};
use equeue_client::{
    Client, Codec, ConsumerOptions, Message, Offset, OnError, ProducerOptions, PushOptions, RoundRobin,
    SendError, StartAt, Subscription,
};

#[tokio::test]
async fn a_message_arrives_whole() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "whole", 2).await;
    let producer = client.producer(ProducerOptions::default());
    let headers = [("trace", Some(&b"1-2-3"[..])), ("empty", None), ("trace", Some(&b""[..]))];
    let message = Message {
        key: Some(b"key"),
        tag: Some("tag"),
        code: -7,
        headers: &headers,
        create_time_ms: Some(1_700_000_000_123),
        ..Message::new("whole", b"body")
    };
    let receipt = producer.send(&message).await.expect("it is stored");
    assert_eq!((receipt.offset, &*receipt.broker, receipt.duplicate), (Offset(0), "broker-a", false));
    producer
        .send(&Message { body: None, queue: Some(receipt.queue), ..Message::new("whole", b"") })
        .await
        .unwrap();

    let mut consumer = consume(&client, "whole", "g").await;
    let got = pull(&mut consumer, 2).await;
    let first = &got[0];
    assert_eq!((first.key.as_deref(), first.tag.as_deref()), (Some(&b"key"[..]), Some("tag")));
    assert_eq!((first.code, first.create_time_ms), (-7, 1_700_000_000_123));
    assert_eq!(
        (first.append_time_ms, first.queue, first.id()),
        (receipt.append_time_ms, receipt.queue, receipt.id())
    );
    let names: Vec<_> = first.headers.iter().map(|h| (h.name.as_str(), h.value.as_deref())).collect();
    assert_eq!(names, headers);
    assert_eq!(first.body.as_deref(), Some(&b"body"[..]));
    assert_eq!((got[1].body.as_deref(), got[1].key.as_deref()), (None, None));

    let admin = client.admin();
    let again = admin.get_message(&receipt.id()).await.unwrap().expect("found by its id");
    assert_eq!(again, *first);
    assert_eq!(admin.message_at("whole", receipt.queue, Offset(9)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_in_each_queue_whatever_the_codec() {
    let cluster = Cluster::start_with_shards(2);
    let client = ready(&cluster).await;
    for (codec, topic) in [(Codec::None, "none"), (Codec::Lz4, "lz4"), (Codec::Zstd, "zstd")] {
        create(&client, topic, 4).await;
        let options = ProducerOptions { codec, batch_bytes_max: 4096, ..ProducerOptions::default() };
        let producer = client.producer(options);
        let mut deliveries = Vec::new();
        for number in 0..2000_u32 {
            let (key, body) = ((number % 7).to_be_bytes(), format!("{number:0>100}"));
            let message = Message::new(topic, body.as_bytes()).key(&key);
            deliveries.push((number, producer.enqueue(&message).await.expect("there is room")));
        }
        let mut stored = HashMap::new();
        for (number, delivery) in deliveries {
            let receipt = delivery.await.expect("it is stored");
            assert_eq!(receipt.queue, equeue_record::key_hash(&(number % 7).to_be_bytes()) % 4);
            assert!(stored.insert((receipt.queue, receipt.offset), number).is_none(), "an offset twice");
        }
        let mut consumer = consume(&client, topic, "g").await;
        let got = pull(&mut consumer, 2000).await;
        let mut last: HashMap<u32, Offset> = HashMap::new();
        for message in &got {
            let number: u32 = text(message).parse().expect("a number was sent");
            assert_eq!(stored.get(&(message.queue, message.offset)), Some(&number));
            let expected = last.get(&message.queue).map_or(Offset(0), |offset| offset.plus(1));
            assert_eq!(message.offset, expected, "offsets are dense");
            last.insert(message.queue, message.offset);
        }
        nothing_more(&mut consumer).await;
        let stats = producer.stats();
        assert_eq!((stats.sent, stats.acknowledged, stats.failed, stats.retried), (2000, 2000, 0, 0));
        assert!(stats.batches < 500, "{} batches for 2000 messages", stats.batches);
    }
}

#[tokio::test]
async fn a_group_goes_on_after_its_commit() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "commits", 1).await;
    let producer = client.producer(ProducerOptions::default());
    let send = async |from: u32, to: u32| {
        for number in from..to {
            producer.send(&Message::new("commits", number.to_string().as_bytes())).await.expect("stored");
        }
    };
    send(0, 20).await;
    let mut consumer = consume(&client, "commits", "g").await;
    pull(&mut consumer, 10).await;
    consumer.commit().await.expect("committed");
    // Pulled, not committed: comes again.
    pull(&mut consumer, 5).await;
    assert_eq!(consumer.positions()[0].next, Offset(15));
    assert_eq!(consumer.ends().await.unwrap()[0].high_watermark, Offset(20));
    consumer.close().await.expect("nothing to commit");
    let committed = client.admin().fetch_offsets("g", "commits").await.unwrap();
    assert_eq!(committed[0].result.clone().unwrap(), Some(Offset(10)));

    let mut consumer = consume(&client, "commits", "g").await;
    let got: Vec<String> = pull(&mut consumer, 10).await.iter().map(text).collect();
    assert_eq!(got, (10..20).map(|number| number.to_string()).collect::<Vec<_>>());
    // Another group, from the end.
    let mut late = client.consumer(from("commits", "late", StartAt::Last)).await.unwrap();
    send(20, 22).await;
    assert_eq!(pull(&mut late, 2).await.iter().map(text).collect::<Vec<_>>(), ["20", "21"]);
}

fn from(topic: &str, group: &str, start: StartAt) -> ConsumerOptions {
    ConsumerOptions {
        group: group.to_owned(),
        topics: vec![Subscription::all(topic)],
        start,
        ..ConsumerOptions::default()
    }
}

#[tokio::test]
async fn only_the_tags_wanted_come() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "tags", 1).await;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..30 {
        let (tag, body) = (["red", "green", "blue"][number % 3], number.to_string());
        producer.send(&Message::new("tags", body.as_bytes()).tag(tag)).await.expect("stored");
    }
    let mut options = from("tags", "g", StartAt::First);
    options.topics[0].tags = vec!["green".to_owned(), "blue".to_owned()];
    let mut consumer = client.consumer(options).await.unwrap();
    let got: Vec<String> = pull(&mut consumer, 20).await.iter().map(text).collect();
    assert_eq!(
        got,
        (0..30).filter(|number| number % 3 != 0).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    nothing_more(&mut consumer).await;
    consumer.commit().await.unwrap();
    let committed = client.admin().fetch_offsets("g", "tags").await.unwrap();
    assert_eq!(committed[0].result.clone().unwrap(), Some(Offset(30)), "what is left out is done too");
}

#[tokio::test]
async fn batches_are_read_without_owned_messages() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "batches", 1).await;
    let producer = client.producer(ProducerOptions::default());
    let bodies: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    let messages: Vec<Message<'_>> =
        bodies.iter().map(|body| Message::new("batches", body.as_bytes())).collect();
    for outcome in producer.send_batch(&messages).await {
        outcome.expect("stored");
    }
    let mut consumer = consume(&client, "batches", "g").await;
    // Half a batch as messages, then the rest of it as a batch.
    assert_eq!(pull(&mut consumer, 3).await.len(), 3);
    let mut got = Vec::new();
    while got.len() < 497 {
        let batch = consumer.pull_batch(Duration::from_secs(10)).await.unwrap();
        let mut batch = batch.expect("there is more");
        assert_eq!((&**batch.topic(), batch.queue()), ("batches", 0));
        for record in batch.records().unwrap() {
            let record = record.unwrap();
            got.push((record.offset, String::from_utf8(record.body.unwrap().to_vec()).unwrap()));
        }
    }
    let expected: Vec<_> = (3..500_u64).map(|number| (Offset(number), number.to_string())).collect();
    assert_eq!(got, expected);
    assert!(consumer.pull_batch(Duration::from_millis(100)).await.unwrap().is_none());
}

#[tokio::test]
async fn callbacks_and_one_way_messages() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "calls", 2).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&told);
    let options = ProducerOptions {
        selector: Arc::new(RoundRobin::default()),
        on_delivery: Some(Arc::new(move |outcomes| {
            assert!(outcomes.error().is_none());
            assert!(outcomes.tokens().eq(outcomes.iter().map(|(token, _)| token)));
            let placed = outcomes.iter().map(|(token, outcome)| (token, outcome.expect("stored").queue));
            note.lock().unwrap().extend(placed);
        })),
        ..ProducerOptions::default()
    };
    let producer = client.producer(options);
    for token in 0..100 {
        producer.enqueue_with(&Message::new("calls", b"x"), token).await.expect("there is room");
    }
    producer.flush().await;
    let mut told = std::mem::take(&mut *told.lock().unwrap());
    told.sort_unstable();
    assert_eq!(told.iter().map(|(token, _)| *token).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert_eq!(told.iter().filter(|(_, queue)| *queue == 0).count(), 50, "one to each queue in turn");
    for _ in 0..10 {
        producer.send_one_way(&Message::new("calls", b"one-way")).expect("there is room");
    }
    let mut consumer = consume(&client, "calls", "g").await;
    let got = pull(&mut consumer, 110).await;
    assert_eq!(got.iter().filter(|message| text(message) == "one-way").count(), 10);
}

#[tokio::test]
async fn handlers_get_every_message_and_commits_follow_them() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "handled", 2).await;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..50 {
        producer.send(&Message::new("handled", format!("{number}").as_bytes())).await.expect("stored");
    }
    let (seen, mut all) = tokio::sync::watch::channel(Vec::<u32>::new());
    let handler = move |message: equeue_client::Received, context: equeue_client::Context| {
        let seen = seen.clone();
        async move {
            if text(&message) == "7" && context.attempt() == 1 {
                return Err(equeue_client::HandlerError::retry("not yet"));
            }
            seen.send_modify(|seen| seen.push(text(&message).parse().unwrap()));
            Ok(())
        }
    };
    let push = PushOptions {
        parallel: 4,
        on_error: Some(OnError::HoldQueue),
        retry_steps: vec![Duration::from_millis(10)],
        ..PushOptions::default()
    };
    let consumer = client.push_consumer(from("handled", "g", StartAt::First), push, handler).await.unwrap();
    tokio::time::timeout(common::PATIENCE, all.wait_for(|seen| seen.len() == 50))
        .await
        .expect("in time")
        .unwrap();
    tokio::time::timeout(common::PATIENCE, consumer.stop()).await.expect("in time").unwrap();
    let mut seen = all.borrow().clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert_eq!(committed_sum(&client, "g", "handled").await, 50);
}

async fn committed_sum(client: &Client, group: &str, topic: &str) -> u64 {
    let committed = client.admin().fetch_offsets(group, topic).await.expect("the route is known");
    let offset = |queue: &equeue_client::GroupOffset| queue.result.clone().expect("the broker answers");
    committed.iter().map(|queue| offset(queue).map_or(0, |offset| offset.0)).sum()
}

#[tokio::test]
async fn queues_of_a_backlog_come_in_turn() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "turns", 4).await;
    let producer = client.producer(ProducerOptions::default());
    let body = vec![7; 20_000];
    for number in 0..80 {
        producer.send(&Message::new("turns", &body).queue(number % 4)).await.expect("stored");
    }
    // About one message fits into an answer: each comes from the queue asked for first.
    let options = ConsumerOptions { fetch_bytes_max: 30_000, ..from("turns", "g", StartAt::First) };
    let mut consumer = client.consumer(options).await.expect("the consumer starts");
    let mut seen = [0_u32; 4];
    for message in pull(&mut consumer, 80).await {
        seen[message.queue as usize] += 1;
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(most - least <= 4, "one queue runs away from the others: {seen:?}");
    }
    assert_eq!(seen, [20; 4]);
}

#[tokio::test]
async fn nothing_of_a_dropped_producer_goes_on_once_its_messages_are_answered() {
    let cluster = Cluster::start();
    let client = ready(&cluster).await;
    create(&client, "dropped", 4).await;
    let producer = client.producer(ProducerOptions::default());
    let mut deliveries = Vec::new();
    for number in 0..100_u32 {
        let key = number.to_be_bytes();
        let message = Message::new("dropped", b"x").key(&key);
        deliveries.push(producer.enqueue(&message).await.expect("there is room"));
    }
    drop(producer); // some are on their way, some are not
    for delivery in deliveries {
        delivery.await.expect("what was taken is delivered");
    }
    client.close().await;
    drop(client);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let ended = async {
        while tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert!(ended.is_ok(), "{} tasks go on", tasks());
}

#[test]
fn what_is_sent_after_the_runtime_has_ended_fails_and_does_not_wait_for_ever() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_cluster, producer, deliveries) = runtime.block_on(async {
        let cluster = Cluster::start();
        let client = ready(&cluster).await;
        create(&client, "ended", 1).await;
        let producer = client.producer(ProducerOptions::default());
        producer.send(&Message::new("ended", b"x")).await.expect("stored");
        let mut deliveries = Vec::new();
        for _ in 0..100 {
            deliveries.push(producer.enqueue(&Message::new("ended", b"x")).await.expect("there is room"));
        }
        (cluster, producer, deliveries)
    });
    runtime.shutdown_background();
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ends = |delivery| {
        let ended = other.block_on(async { tokio::time::timeout(PATIENCE, delivery).await });
        let outcome = ended.expect("nobody waits for ever");
        assert!(matches!(outcome, Ok(_) | Err(SendError::Closed)), "{outcome:?}");
    };
    deliveries.into_iter().for_each(ends);
    for _ in 0..2 {
        if let Ok(delivery) = producer.try_enqueue(&Message::new("ended", b"x")) {
            ends(delivery);
        }
    }
}
