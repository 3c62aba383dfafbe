//! `equeue produce`, `consume`, `message`: what is printed, what is committed, what survives.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    Running, Server, json_lines, lasting_addresses, run, run_with_input, send_signal, succeed, text, wait,
};

fn lines(count: usize) -> String {
    (1..=count).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "message {line}");
        text
    })
}

/// Sends so many lines; every one must be acknowledged. Gives the JSON lines.
#[track_caller]
fn produce(server: &Server, topic: &str, count: usize) -> Vec<Value> {
    let output = run_with_input(
        &mut server.client(&["produce", "--topic", topic, "--output", "json"]),
        lines(count).as_bytes(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let results = json_lines(&text(&output.stdout));
    let told: BTreeSet<u64> = results.iter().filter_map(|result| result["line"].as_u64()).collect();
    assert_eq!(told, (1..=count as u64).collect(), "each line is told once");
    results
}

fn bodies(printed: &str) -> BTreeSet<String> {
    printed.lines().map(str::to_owned).collect()
}

fn all(count: usize) -> BTreeSet<String> {
    bodies(&lines(count))
}

#[test]
fn what_is_produced_is_consumed_over_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let addresses = lasting_addresses();
    let server = Server::standalone_at(data.path(), &addresses);
    let results = produce(&server, "orders", 1000);
    for key in ["id", "broker", "queue", "offset"] {
        assert!(results[0].get(key).is_some(), "{key} in {}", results[0]);
    }
    server.stop();

    let server = Server::standalone_at(data.path(), &addresses);
    let read = ["consume", "--topic", "orders", "--group", "g", "--until-end"];
    let printed = succeed(&mut server.client(&read));
    assert_eq!(printed.lines().count(), 1000);
    assert_eq!(bodies(&printed), all(1000));
    assert_eq!(succeed(&mut server.client(&read)), "", "all of it was committed");
    server.stop();
}

#[test]
fn consume_prints_one_object_a_line() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let produced = run_with_input(
        &mut server.client(&["produce", "--topic", "t", "--key", "k", "--tag", "red", "--output", "json"]),
        b"text\n\xff\xfe\n",
    );
    let ids: BTreeSet<String> =
        json_lines(&text(&produced.stdout)).iter().map(|line| line["id"].to_string()).collect();
    let printed = succeed(
        &mut server.client(&["consume", "--topic", "t", "--group", "g", "--count", "2", "--output", "json"]),
    );
    let messages = json_lines(&printed);
    let [first, second] = messages.as_slice() else { panic!("two lines: {printed}") };
    assert_eq!((&first["body"], &first["key"], &first["tag"]), (&"text".into(), &"k".into(), &"red".into()));
    assert_eq!(second["body_base64"], "//4=");
    assert!(second.get("body").is_none() && second["headers"].is_array(), "{second}");
    assert_eq!(messages.iter().map(|message| message["id"].to_string()).collect::<BTreeSet<_>>(), ids);
    assert_eq!(first["queue"], second["queue"], "the same key");
    server.stop();
}

#[test]
fn count_commits_exactly_what_was_printed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    produce(&server, "t", 500);
    let mut seen = Vec::new();
    for count in ["1", "99", "250"] {
        let printed =
            succeed(&mut server.client(&["consume", "--topic", "t", "--group", "g", "--count", count]));
        assert_eq!(printed.lines().count().to_string(), count);
        seen.extend(printed.lines().map(str::to_owned));
    }
    let rest = succeed(&mut server.client(&["consume", "--topic", "t", "--group", "g", "--until-end"]));
    seen.extend(rest.lines().map(str::to_owned));
    assert_eq!(seen.len(), 500, "nothing twice");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all(500), "nothing missing");
    server.stop();
}

#[test]
fn ctrl_c_commits_what_was_printed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    produce(&server, "t", 50);
    let mut consumer = Running::start(&mut server.client(&["consume", "--topic", "t", "--group", "g"]));
    let mut seen: Vec<String> = (0..50).map(|_| consumer.line()).collect();
    send_signal(&consumer.child, Signal::SIGINT);
    assert_eq!(consumer.rest(), "");
    assert_eq!(wait(&mut consumer.child).code(), Some(0));
    produce(&server, "t", 1);
    let rest = succeed(&mut server.client(&["consume", "--topic", "t", "--group", "g", "--until-end"]));
    seen.extend(rest.lines().map(str::to_owned));
    assert_eq!(seen.len(), 51, "nothing was printed twice: {rest}");
    server.stop();
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    produce(&server, "t", 10);
    let mut consumer = Running::start(&mut server.client(&["consume", "--topic", "t", "--group", "g"]));
    consumer.line();
    consumer.stdout = None;
    produce(&server, "t", 5);
    assert_eq!(wait(&mut consumer.child).code(), Some(0));
    server.stop();
}

#[test]
fn a_line_typed_is_acknowledged_while_the_next_one_is_awaited() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let mut producer = Running::start(&mut server.client(&["produce", "--topic", "t", "--output", "json"]));
    let mut stdin = producer.child.stdin.take().unwrap();
    for line in 1..=3_u64 {
        stdin.write_all(b"hello\n").unwrap();
        let told: Value = serde_json::from_str(&producer.line()).unwrap();
        assert_eq!(told["line"], line);
    }
    drop(stdin);
    assert_eq!(wait(&mut producer.child).code(), Some(0));
    server.stop();
}

#[test]
fn produce_waits_for_a_broker_that_is_away() {
    let data = tempfile::tempdir().unwrap();
    let addresses = lasting_addresses();
    let server = Server::standalone_at(data.path(), &addresses);
    produce(&server, "t", 1);
    let mut producer = Running::start(&mut server.client(&["produce", "--topic", "t", "--output", "json"]));
    let mut stdin = producer.child.stdin.take().unwrap();
    stdin.write_all(b"before\n").unwrap();
    producer.line();
    // Without a chance to say goodbye.
    let mut server = server;
    server.signal(Signal::SIGKILL);
    server.end();
    stdin.write_all(b"while it is away\n").unwrap();
    let server = Server::standalone_at(data.path(), &addresses);
    let told: Value = serde_json::from_str(&producer.line()).unwrap();
    assert_eq!(told["line"], 2, "{told}");
    assert!(told["id"].is_string(), "{told}");
    drop(stdin);
    assert_eq!(wait(&mut producer.child).code(), Some(0));
    server.stop();
}

#[test]
fn a_message_that_fails_is_told_by_its_line() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let mut input = b"small\n".to_vec();
    input.extend(vec![b'x'; 2 << 20]);
    input.extend_from_slice(b"\nsmall too\n");
    let output = run_with_input(&mut server.client(&["produce", "--topic", "t", "--output", "json"]), &input);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let results = json_lines(&text(&output.stdout));
    for result in &results {
        assert_eq!(result["line"] == 2, result.get("error").is_some(), "{result}");
    }
    assert_eq!(results.len(), 3);
    server.stop();
}

#[test]
fn tags_filter() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    for tag in ["red", "green", "blue"] {
        let input = format!("{tag} one\n{tag} two\n");
        let output =
            run_with_input(&mut server.client(&["produce", "--topic", "t", "--tag", tag]), input.as_bytes());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let consume = ["consume", "--topic", "t", "--group", "g", "--tags", "red,blue", "--until-end"];
    let printed = bodies(&succeed(&mut server.client(&consume)));
    assert_eq!(printed, bodies("red one\nred two\nblue one\nblue two\n"));
    server.stop();
}

#[test]
fn a_message_is_found_by_its_id_and_its_place() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let results = produce(&server, "t", 20);
    let seventh = results.iter().find(|result| result["line"] == 7).unwrap();
    let id = seventh["id"].as_str().unwrap();
    let found: Value =
        serde_json::from_str(&succeed(&mut server.client(&["message", "get", id, "--output", "json"])))
            .unwrap();
    assert_eq!((&found["body"], &found["id"]), (&"message 7".into(), &seventh["id"]));

    let (queue, offset) = (seventh["queue"].to_string(), seventh["offset"].to_string());
    let at = ["message", "at", "--topic", "t", "--queue", &queue, "--offset", &offset, "--output", "json"];
    let found: Value = serde_json::from_str(&succeed(&mut server.client(&at))).unwrap();
    assert_eq!(found["body"], "message 7");

    let missing =
        run(&mut server.client(&["message", "at", "--topic", "t", "--queue", &queue, "--offset", "999"]));
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(run(&mut server.client(&["message", "get", "not-an-id"])).status.code(), Some(2));
    let latest: Value = serde_json::from_str(&succeed(
        &mut server.client(&["message", "latest", "--topic", "t", "--output", "json"]),
    ))
    .unwrap();
    assert!(!latest.as_array().unwrap().is_empty());
    server.stop();
}

#[test]
fn a_log_of_a_stopped_broker_is_verified_offline() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    produce(&server, "t", 200);
    server.stop();
    succeed(crate::harness::equeue().args(["log", "verify"]).arg(data.path()));
}
