//! Delayed messages and dead letters: what commands say of them, and that each comes once whatever is killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use equeue_net::Code;
use equeue_net::api::{DescribeTopic, HandBack, HandBackItem, Hello, Message, Request, Tries};
use equeue_net::frame::{FRAME_BYTES_MAX, put_frame, take_frame};
use equeue_net::preamble::{Preamble, Purpose};
use equeue_record::{Offset, QueueKey};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    PATIENCE, Running, Server, fail, json_lines, lasting_addresses, run, run_with_input, send_signal,
    succeed, text, wait,
};

fn produce(server: &Server, arguments: &[&str], input: &str) -> Vec<Value> {
    let output = run_with_input(&mut server.client(arguments), input.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
    json_lines(&text(&output.stdout))
}

/// Bodies that anybody can read now, with how often each is there.
fn all_bodies(server: &Server, group: &str) -> BTreeMap<String, usize> {
    let arguments = ["consume", "--topic", "t", "--group", group, "--until-end"];
    let mut bodies = BTreeMap::new();
    for line in succeed(&mut server.client(&arguments)).lines() {
        *bodies.entry(line.to_owned()).or_default() += 1;
    }
    bodies
}

#[test]
fn a_delayed_message_is_pending_until_it_is_cancelled() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let told =
        produce(&server, &["produce", "--topic", "t", "--delay", "1h", "--output", "json"], "one\ntwo\n");
    assert!(told[0]["queue"].is_null() && told[0]["offset"].is_null(), "{}", told[0]);
    let id = told[0]["id"].as_str().unwrap();
    let get = |format| succeed(&mut server.client(&["message", "get", id, "--output", format]));
    assert!(get("table").contains("pending"), "{}", get("table"));
    let pending: Value = serde_json::from_str(&get("json")).unwrap();
    assert_eq!((&pending["pending"], pending["queue"].is_null()), (&Value::Bool(true), true));
    assert!(pending["deliver_at_ms"].as_i64().is_some());
    assert!(succeed(&mut server.client(&["message", "cancel", id])).contains("is cancelled"));
    fail(&mut server.client(&["message", "cancel", id]), 1);
    assert!(get("table").contains("delivered or cancelled"));
    fail(&mut server.client(&["message", "cancel", &"0".repeat(32)]), 2);
    assert!(all_bodies(&server, "g").is_empty());
    server.stop();
}

#[test]
fn every_delayed_message_comes_once_over_kills() {
    let data = tempfile::tempdir().unwrap();
    let addresses = lasting_addresses();
    let start = |data: &Path| Server::standalone_at(data, &addresses);
    let mut server = start(data.path());
    let (mut expected, begun) = (0, Instant::now());
    for (name, delay) in [("a", "2s"), ("b", "3s"), ("c", "4s"), ("d", "5s"), ("e", "6s")] {
        let lines = (0..1_500).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{name} {line}");
            text
        });
        let told =
            produce(&server, &["produce", "--topic", "t", "--delay", delay, "--output", "json"], &lines);
        assert!(told.iter().all(|line| line["id"].is_string()), "all are acknowledged");
        expected += told.len();
    }
    // Killed while messages come due, again and again.
    for kill_ms in [2_050, 3_500, 4_700, 6_100] {
        thread::sleep(Duration::from_millis(kill_ms).saturating_sub(begun.elapsed()));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        server = start(data.path());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    let bodies = loop {
        let bodies = all_bodies(&server, &format!("g{round}"));
        if bodies.len() >= expected || Instant::now() > deadline {
            break bodies;
        }
        round += 1;
    };
    assert_eq!(bodies.len(), expected, "every message comes");
    let twice: Vec<_> = bodies.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{} came more than once: {:?}", twice.len(), twice.first());
    // Nothing is left that could come again.
    server.stop();
    let server = start(data.path());
    assert_eq!(all_bodies(&server, "last").values().sum::<usize>(), expected);
    server.stop();
}

/// A connection that speaks the protocol.
struct Wire {
    stream: TcpStream,
}

impl Wire {
    fn open(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address("broker")).expect("the broker answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("the broker answers");
        let preamble = Preamble { shard: None, purpose: Purpose::Consume, tls: false };
        stream.write_all(&preamble.encode()).expect("the broker answers");
        let mut wire = Self { stream };
        wire.ask(&Hello { version_min: 1, version_max: 1, client_id: "test".into(), incarnation: 1 });
        wire
    }

    fn ask<R: Request>(&mut self, request: &R) -> R::Answer {
        let mut out = Vec::new();
        put_frame(&mut out, request, 0, 1, 0).expect("the broker answers");
        self.stream.write_all(&out).expect("the broker answers");
        let mut buffer = BytesMut::new();
        loop {
            if let Some(frame) = take_frame(&mut buffer, FRAME_BYTES_MAX).expect("the broker answers") {
                return R::Answer::decode(&frame.header).expect("the broker answers");
            }
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part).expect("the broker answers");
            assert_ne!(read, 0, "the broker closed the connection");
            buffer.extend_from_slice(part.get(..read).unwrap_or_default());
        }
    }

    fn queues(&mut self, topic: &str) -> Vec<QueueKey> {
        let answer = self.ask(&DescribeTopic { topic: topic.into() });
        answer.queues.iter().map(|queue| queue.queue.key).collect()
    }
}

#[test]
fn dead_letters_are_listed_shown_resent_and_purged() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, &["produce", "--topic", "t", "--output", "json"], "one\ntwo\nthree\n");
    let json = |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--group", "g", "--output", "json"]].concat();
        serde_json::from_str(&succeed(&mut server.client(&arguments))).unwrap()
    };
    assert_eq!(json(&["dlq", "list"])["dead_letters"], 0, "a group that never had any");

    let mut wire = Wire::open(&server);
    let queue = wire.queues("t")[0];
    let items = (0..3).map(|offset| HandBackItem {
        queue,
        offset: Offset(offset),
        grant_epoch: 0,
        delay_ms: 0,
        reason: "no such account".into(),
        tries: Tries::default(),
    });
    let answer = wire.ask(&HandBack { group: "g".into(), attempts_max: 1, items: items.collect() });
    assert!(answer.outcomes.iter().all(|told| told.code == Code::Ok && told.dead), "{answer:?}");

    // A nameserver hears of new topics within moments.
    let deadline = Instant::now() + PATIENCE;
    while json(&["dlq", "list"])["dead_letters"] != 3 {
        assert!(Instant::now() < deadline, "the dead letters are not seen");
    }
    let listed = json(&["dlq", "list"]);
    let letter = &listed["letters"][1];
    assert_eq!(
        (&letter["origin_topic"], &letter["origin_offset"], &letter["attempts"], &letter["reason"]),
        (&"t".into(), &1.into(), &1.into(), &"no such account".into())
    );
    let id = letter["id"].as_str().unwrap();
    let shown = succeed(&mut server.client(&["dlq", "show", id, "--group", "g"]));
    assert!(shown.contains("no such account") && shown.contains("two"), "{shown}");
    assert_eq!(json(&["dlq", "resend", "--id", id])["dead_letters"], 1);
    assert_eq!(json(&["dlq", "resend"])["dead_letters"], 3);
    assert_eq!(json(&["dlq", "list"])["dead_letters"], 0, "resent ones are seen to");
    assert_eq!(wire.queues("%RETRY%g").len(), wire.queues("%DLQ%g").len());
    let answer = wire.ask(&HandBack {
        group: "g".into(),
        attempts_max: 1,
        items: vec![HandBackItem {
            queue: wire_retry(&mut Wire::open(&server)),
            offset: Offset(0),
            grant_epoch: 0,
            delay_ms: 0,
            reason: "again".into(),
            tries: Tries::default(),
        }],
    });
    assert_eq!((answer.outcomes[0].attempt, answer.outcomes[0].dead), (1, true), "counted from the start");
    assert_eq!(json(&["dlq", "list"])["letters"][0]["origin_topic"], "t");
    assert_eq!(json(&["dlq", "purge"])["dead_letters"], 1);
    assert_eq!(json(&["dlq", "list"])["dead_letters"], 0);
    let table = succeed(&mut server.client(&["topic", "list"]));
    assert!(!table.contains('%'), "hidden topics are not listed: {table}");
    server.stop();
}

#[test]
fn a_group_is_deleted_without_members_and_its_dead_letters_go_when_that_is_said() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, &["produce", "--topic", "t", "--output", "json"], "one\ntwo\n");
    let json = |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_str(&succeed(&mut server.client(&arguments))).unwrap()
    };
    let hand_back = || {
        let mut wire = Wire::open(&server);
        let queue = wire.queues("t")[0];
        let item = HandBackItem {
            queue,
            offset: Offset(2),
            grant_epoch: 0,
            delay_ms: 0,
            reason: "no such account".into(),
            tries: Tries::default(),
        };
        let answer = wire.ask(&HandBack { group: "g".into(), attempts_max: 1, items: vec![item] });
        assert!(answer.outcomes.iter().all(|told| told.code == Code::Ok), "{answer:?}");
    };
    let dead_letters = |wanted: u64| {
        let deadline = Instant::now() + PATIENCE;
        while json(&["dlq", "list", "--group", "g"])["dead_letters"] != wanted {
            assert!(Instant::now() < deadline, "the dead letters are not {wanted}");
        }
    };

    let consume = ["consume", "--topic", "t", "--group", "g", "--from", "first"];
    let mut member = Running::start(&mut server.client(&consume));
    assert_eq!(member.line(), "one");
    let refused = run(&mut server.client(&["group", "delete", "g", "--purge"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains("1 members"), "{}", text(&refused.stdout));
    send_signal(&member.child, Signal::SIGTERM);
    assert!(wait(&mut member.child).success());
    produce(&server, &["produce", "--topic", "t", "--output", "json"], "three\n");
    hand_back();
    dead_letters(1);

    let told = json(&["group", "delete", "g"]);
    assert_eq!((&told["ok"], told["brokers"].as_array().unwrap().len()), (&Value::Bool(true), 1), "{told}");
    dead_letters(1); // they may be wanted still
    let told = json(&["group", "delete", "g", "--purge"]);
    let topics: Vec<&str> =
        told["brokers"].as_array().unwrap().iter().filter_map(|row| row["topic"].as_str()).collect();
    assert_eq!(topics, ["%RETRY%g", "%DLQ%g"], "{told}");
    dead_letters(0);
    let gone = fail(&mut server.client(&["group", "delete", "g", "--purge"]), 1);
    assert!(gone.contains("no group `g`"), "{gone}");

    hand_back();
    dead_letters(1); // a group of the same name begins anew
    server.stop();
}

/// The retry queue that has messages.
fn wire_retry(wire: &mut Wire) -> QueueKey {
    let answer = wire.ask(&DescribeTopic { topic: "%RETRY%g".into() });
    let used = answer.queues.iter().find(|queue| queue.high_watermark > Offset(0));
    used.expect("resent messages are in one of them").queue.key
}
