//! `equeue topic` and `equeue cluster`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{PATIENCE, Server, any_addresses, fail, run, run_with_input, succeed, text};

/// Waits until the nameserver knows a broker of this name.
pub(crate) fn wait_until_listed(server: &Server, broker: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run(&mut server.client(&["cluster", "list", "--output", "json"]));
        let said = text(&output.stdout);
        let brokers: Value = serde_json::from_str(&said).unwrap_or_default();
        if brokers.as_array().is_some_and(|brokers| brokers.iter().any(|one| one["name"] == broker)) {
            return;
        }
        assert!(Instant::now() < deadline, "no {broker}: {said} {}", text(&output.stderr));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn topics_are_created_listed_and_described() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let created: Value = serde_json::from_str(&succeed(
        &mut server.client(&["topic", "create", "orders", "--queues", "3", "--output", "json"]),
    ))
    .unwrap();
    assert_eq!(created["ok"], true, "{created}");
    assert_eq!(created["brokers"][0]["queues"], 3, "{created}");

    let listed: Value =
        serde_json::from_str(&succeed(&mut server.client(&["topic", "list", "--output", "json"]))).unwrap();
    assert_eq!(listed["topics"][0]["name"], "orders");
    assert_eq!(listed["topics"][0]["queues_live"], 3);

    let table = succeed(&mut server.client(&["topic", "describe", "orders"]));
    assert_eq!(table.lines().count(), 4, "a head and three queues: {table}");
    server.stop();
}

#[test]
fn queues_are_added_and_topics_deleted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "orders", "--queues", "2"]));
    let added = succeed(
        &mut server.client(&["queue", "add", "--topic", "orders", "--count", "3", "--output", "json"]),
    );
    let added: Value = serde_json::from_str(&added).unwrap();
    assert_eq!(
        (&added["ok"], &added["brokers"][0]["queues"]),
        (&Value::from(true), &Value::from(5)),
        "{added}"
    );
    let said = fail(&mut server.client(&["queue", "add", "--topic", "oders"]), 1);
    assert!(said.contains("did you mean `orders`"), "{said}");
    let said = fail(&mut server.client(&["topic", "delete", "oders"]), 1);
    assert!(said.contains("did you mean `orders`"), "{said}");
    let deleted = succeed(&mut server.client(&["topic", "delete", "orders", "--output", "json"]));
    assert_eq!(serde_json::from_str::<Value>(&deleted).unwrap()["ok"], true, "{deleted}");
    let said = fail(&mut server.client(&["topic", "describe", "orders"]), 1);
    assert!(said.contains("no topic `orders`"), "{said}");
    server.stop();
}

#[test]
fn an_unknown_topic_names_the_nearest_one() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "payments"]));
    for arguments in [
        &["topic", "describe", "paymnets"][..],
        &["consume", "--topic", "paymnets", "--group", "g"],
        &["message", "at", "--topic", "paymnets", "--queue", "0", "--offset", "0"],
    ] {
        let said = fail(&mut server.client(arguments), 1);
        assert!(said.contains("payments") && said.contains("did you mean"), "{said}");
    }
    server.stop();
}

#[test]
fn a_send_to_an_unknown_topic_fails_at_once_where_topics_are_not_made_by_sends() {
    let data = tempfile::tempdir().unwrap();
    let mut command = Server::standalone_command(data.path(), &any_addresses());
    let server = Server::start(command.env("EQUEUE_BROKER__AUTO_CREATE_TOPICS", "false"));
    succeed(&mut server.client(&["topic", "create", "payments"]));
    let produce = ["produce", "--topic", "payment", "--timeout", "600s"];
    let output = run_with_input(&mut server.client(&produce), b"hello\n");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did you mean `payments`"), "{said}");
    server.stop();
}

#[test]
fn the_cluster_is_described() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    wait_until_listed(&server, "broker-1");
    let described: Value =
        serde_json::from_str(&succeed(&mut server.client(&["cluster", "describe", "--output", "json"])))
            .unwrap();
    assert!(described[0]["resident_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{described}");
    assert!(!described[0]["logs"].as_array().unwrap().is_empty(), "{described}");
    server.stop();
}
