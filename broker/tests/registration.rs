//! Nameservers know what a broker has, at once, and that it is gone; one that cannot be reached stops nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Client, batch, config, start_with, stop, until};
use equeue_nameserver::{NameserverConfig, NameserverHandle};
use equeue_net::Code;
use equeue_net::api::{DeleteTopic, GetCluster, GetRoutes, TopicRoute};

fn nameserver(listen: &str) -> NameserverHandle {
    equeue_nameserver::start(NameserverConfig { listen: listen.into(), ..NameserverConfig::default() })
        .expect("the nameserver starts")
}

fn route(client: &mut Client, topic: &str) -> Option<TopicRoute> {
    let answer = client.request(&GetRoutes { cluster: String::new(), topics: vec![topic.into()] });
    answer.topics.into_iter().find(|route| route.code == Code::Ok)
}

#[test]
fn a_broker_is_known_with_its_topics_until_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let nameserver = nameserver("127.0.0.1:0");
    let mut settings = config(dir.path(), 2);
    settings.nameservers = vec![nameserver.address().to_string()];
    settings.timers.register_ms = 60_000; // what is seen below was told at once
    let broker = start_with(settings);
    let mut asking = Client::connect(nameserver.address());
    until("the broker to be registered", || {
        asking.request(&GetCluster { cluster: String::new() }).brokers.len() == 1
    });
    let entry = asking.request(&GetCluster { cluster: String::new() }).brokers[0].clone();
    assert_eq!((entry.name.as_str(), entry.shards), ("broker-1", 2));
    assert_eq!(entry.address, broker.address().to_string());
    assert_eq!(entry.incarnation, broker.broker().incarnation);

    let mut client = Client::connect(broker.address());
    let topic = client.create_topic("orders", 3);
    until("the topic to be routed", || route(&mut asking, "orders").is_some());
    let found = route(&mut asking, "orders").unwrap();
    let queues: Vec<_> = found.queues.iter().map(|queue| queue.live.unwrap()).collect();
    assert_eq!(queues, topic.queues);
    client.request(&DeleteTopic { topic: "orders".into() });
    until("the topic to be gone", || route(&mut asking, "orders").is_none());

    stop(broker);
    let begun = Instant::now();
    until("the broker to be gone", || {
        asking.request(&GetCluster { cluster: String::new() }).brokers.is_empty()
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "it says good-bye");
    nameserver.stop();
    nameserver.join().unwrap();
}

#[test]
fn a_nameserver_that_cannot_be_reached_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut settings = config(dir.path(), 1);
    settings.nameservers = vec![address.clone(), "127.0.0.1:1".into()];
    settings.timers.register_ms = 100;
    let broker = start_with(settings);
    let mut client = Client::connect(broker.address());
    let queue = client.create_queue("t").key;
    client.produce_ok(&[(queue, batch(&[b"x"]))]);
    // It is found as soon as it is there.
    let late = nameserver(&address);
    let mut asking = Client::connect(late.address());
    until("the broker to find the nameserver", || route(&mut asking, "t").is_some());
    let begun = Instant::now();
    stop(broker);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
