//! `equeue group`: what is told of groups, with and without members, and where they go on when that is said.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{
    PATIENCE, Running, Server, fail, run, run_with_input, send_signal, succeed, text, wait,
};

/// Sends the numbers from `first` on as lines.
#[track_caller]
fn produce(server: &Server, first: u32, count: u32) {
    let lines = (first..first + count).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number}");
        lines
    });
    let output = run_with_input(&mut server.client(&["produce", "--topic", "t"]), lines.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// What the group is given from where it stands, and commits.
#[track_caller]
fn consume(server: &Server) -> Vec<u32> {
    let printed = succeed(&mut server.client(&["consume", "--topic", "t", "--group", "g", "--until-end"]));
    let mut numbers: Vec<u32> = printed.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
fn json(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--output", "json"]].concat();
    serde_json::from_str(&succeed(&mut server.client(&arguments))).expect("one object")
}

#[track_caller]
fn table(server: &Server, arguments: &[&str]) -> Vec<Vec<String>> {
    let printed = succeed(&mut server.client(arguments));
    printed.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Waits until a command tells what is wanted; gives what it told.
#[track_caller]
fn once_told(server: &Server, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = json(server, arguments);
        if wanted(&value) {
            return value;
        }
        assert!(Instant::now() < deadline, "{arguments:?} tells {value}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The queues of the topic itself.
fn queues(described: &Value) -> Vec<&Value> {
    let queues = described["queues"].as_array().expect("a list");
    queues.iter().filter(|queue| queue["topic"] == "t").collect()
}

fn sum(rows: &[&Value], name: &str) -> u64 {
    rows.iter().filter_map(|row| row[name].as_u64()).sum()
}

fn end(mut member: Running) {
    send_signal(&member.child, Signal::SIGTERM);
    assert!(wait(&mut member.child).success());
}

#[test]
fn groups_are_listed_and_described_with_and_without_members() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let none = json(&server, &["group", "list"]);
    assert_eq!((&none["groups"], &none["failed"]), (&Value::Array(Vec::new()), &Value::Array(Vec::new())));
    assert!(succeed(&mut server.client(&["group", "list"])).starts_with("no groups; "));

    succeed(&mut server.client(&["topic", "create", "t", "--queues", "2"]));
    produce(&server, 0, 100);
    let mut member = Running::start(&mut server.client(&["consume", "--topic", "t", "--group", "g"]));
    for _ in 0..100 {
        member.line();
    }
    let all = |described: &Value| sum(&queues(described), "committed") == 100;
    let described = once_told(&server, &["group", "describe", "g"], all);
    assert_eq!((&described["group"], described["generation"].as_u64() > Some(0)), (&"g".into(), true));
    let [present] = described["members"].as_array().unwrap().as_slice() else { panic!("{described}") };
    assert!(present["topics"].as_array().unwrap().contains(&"t".into()), "{described}");
    assert!(present["queues"].as_u64() >= Some(2) && present["seen_ms_ago"].is_u64(), "{described}");
    assert!(present["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{described}");
    for (ordinal, queue) in (0_u64..).zip(queues(&described)) {
        assert_eq!(
            (queue["queue"].as_u64(), &queue["client"]),
            (Some(ordinal), &present["client"]),
            "{queue}"
        );
        assert_eq!((&queue["broker"], &queue["committed"]), (&"broker-1".into(), &queue["end"]), "{queue}");
        assert_eq!((queue["lag"].as_u64(), queue["lease_left_ms"].as_u64() > Some(0)), (Some(0), true));
    }
    let printed = table(&server, &["group", "describe", "g"]);
    assert_eq!(printed[0], ["MEMBER", "ADDRESS", "QUEUES", "SEEN", "MS", "AGO", "TOPICS"]);
    let client = present["client"].as_str().unwrap();
    assert_eq!(printed[1][..2], [client, present["address"].as_str().unwrap()]);
    let row = printed.iter().find(|row| row.first().is_some_and(|topic| topic == "t")).expect("queue 0");
    assert_eq!((&row[..4], row[6].as_str()), (&["t", "0", "broker-1", client].map(String::from)[..], "0"));

    let listed = json(&server, &["group", "list"])["groups"][0].clone();
    assert_eq!(
        (&listed["group"], &listed["state"], &listed["members"]),
        (&"g".into(), &"online".into(), &1.into())
    );
    assert!(listed["lag"] == 0 && listed["active"].is_string() && listed["expires"].is_null(), "{listed}");
    end(member);

    produce(&server, 100, 10);
    let behind = |listing: &Value| listing["groups"][0]["lag"] == 10 && listing["groups"][0]["members"] == 0;
    let listed = once_told(&server, &["group", "list"], behind)["groups"][0].clone();
    assert!(listed["state"] == "offline" && listed["expires"].is_string(), "{listed}");
    let printed = table(&server, &["group", "list"]);
    assert_eq!(printed[0], ["GROUP", "STATE", "MEMBERS", "QUEUES", "LAG", "ACTIVE", "EXPIRES"]);
    assert_eq!(printed[1][..3], ["g", "offline", "0"]);
    assert_eq!(printed[1][4], "10");
    let described = json(&server, &["group", "describe", "g"]);
    assert_eq!(described["members"], Value::Array(Vec::new()));
    assert!(queues(&described).iter().all(|queue| queue["client"].is_null()), "{described}");
    assert_eq!(sum(&queues(&described), "lag"), 10);
    assert!(succeed(&mut server.client(&["group", "describe", "g"])).starts_with("no members"));
    let said = fail(&mut server.client(&["group", "describe", "gg"]), 1);
    assert!(said.contains("no group `gg`; did you mean `g`?"), "{said}");
    server.stop();
}

#[test]
fn a_group_is_reset_to_each_place_and_a_dry_run_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, 0, 5);
    produce(&server, 5, 5);
    assert_eq!(consume(&server), (0..10).collect::<Vec<_>>());
    let later = json(&server, &["message", "at", "--topic", "t", "--queue", "0", "--offset", "5"]);
    let later = i128::from(later["append_time_ms"].as_i64().expect("a time"));
    let later = OffsetDateTime::from_unix_timestamp_nanos(later * 1_000_000).unwrap();
    let time = format!("time:{}", later.format(&Rfc3339).unwrap());

    let reset = |to: &'static [&'static str]| [&["group", "reset", "g", "--topic", "t", "--to"], to].concat();
    let by_time = ["group", "reset", "g", "--topic", "t", "--to", time.as_str()];
    // Each begins where everything is consumed, and ends there.
    let places =
        [(reset(&["first"]), 0), (by_time.to_vec(), 5), (reset(&["offset:7"]), 7), (reset(&["last"]), 10)];
    for (arguments, place) in places {
        for dry_run in [true, false] {
            let mut arguments = arguments.clone();
            arguments.extend(dry_run.then_some("--dry-run"));
            let told = json(&server, &arguments);
            assert_eq!(
                (&told["group"], &told["topic"], &told["dry_run"], &told["ok"]),
                (&"g".into(), &"t".into(), &dry_run.into(), &true.into()),
                "{told}"
            );
            let [row] = told["queues"].as_array().unwrap().as_slice() else { panic!("{told}") };
            assert_eq!(
                (&row["queue"], &row["broker"], &row["ok"]),
                (&0.into(), &"broker-1".into(), &true.into())
            );
            assert_eq!(
                (row["before"].as_u64(), row["after"].as_u64(), row["lag"].as_u64()),
                (Some(10), Some(place), Some(10 - place)),
                "{told}"
            );
            let again: Vec<u32> = (u32::try_from(place).unwrap()..10).filter(|_| !dry_run).collect();
            assert_eq!(consume(&server), again, "{arguments:?}");
        }
    }
    let would = table(&server, &reset(&["first", "--dry-run"]));
    assert_eq!(would[0], ["QUEUE", "BROKER", "BEFORE", "AFTER", "LAG", "RESULT"]);
    assert_eq!(would[1], ["0", "broker-1", "10", "0", "10", "would", "be", "reset"]);
    assert_eq!(table(&server, &reset(&["offset:9"]))[1], ["0", "broker-1", "10", "9", "1", "reset"]);
    assert_eq!(consume(&server), [9]);
    server.stop();
}

#[test]
fn a_reset_that_cannot_be_made_says_why_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, 0, 10);
    assert_eq!(consume(&server).len(), 10);
    let reset = |group: &'static str, topic: &'static str, rest: &'static [&'static str]| {
        server.client(&[&["group", "reset", group, "--topic", topic, "--to"], rest].concat())
    };
    let outside = run(&mut reset("g", "t", &["offset:11", "--output", "json"]));
    assert_eq!(outside.status.code(), Some(1), "{}", text(&outside.stderr));
    let told: Value = serde_json::from_str(&text(&outside.stdout)).unwrap();
    assert_eq!((&told["ok"], &told["queues"][0]["ok"]), (&false.into(), &false.into()), "{told}");
    let error = told["queues"][0]["error"].as_str().unwrap();
    assert!(error.contains("the queue holds offsets 0 to before 10"), "{error}");
    let outside = run(&mut reset("g", "t", &["offset:11"]));
    assert!(text(&outside.stdout).contains("offsets 0 to before 10"), "{}", text(&outside.stdout));

    for (mut command, code, words) in [
        (reset("gg", "t", &["first"]), 1, "no group `gg`; did you mean `g`?"),
        (reset("g", "tt", &["first"]), 1, "no topic `tt`; did you mean `t`?"),
        (reset("g", "t", &["first", "--queue", "1"]), 1, "queue 1"),
        (reset("g", "t", &["middle"]), 2, "must be first, last, offset:N or time:RFC3339"),
        (reset("g", "t", &["time:noon"]), 2, "`noon` is not a time"),
    ] {
        let said = fail(&mut command, code);
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(consume(&server), [0_u32; 0]);
    server.stop();
}

#[test]
fn only_the_queues_named_are_reset() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "3"]));
    produce(&server, 0, 192); // 64 in a row to each
    assert_eq!(consume(&server).len(), 192);
    let to = ["group", "reset", "g", "--topic", "t", "--to", "first", "--queue", "0", "--queue", "2"];
    let told = json(&server, &to);
    let rows: Vec<&Value> = told["queues"].as_array().unwrap().iter().collect();
    assert_eq!(
        rows.iter().map(|row| row["queue"].as_u64()).collect::<Vec<_>>(),
        [Some(0), Some(2)],
        "{told}"
    );
    let again = consume(&server).len() as u64;
    assert_eq!((again, again > 0), (sum(&rows, "lag"), true));
    assert!(again < 192, "the other queue stays where it is");
    server.stop();
}

#[test]
fn a_running_consumer_goes_on_where_its_group_is_reset_to() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, 0, 5);
    let mut member = Running::start(&mut server.client(&["consume", "--topic", "t", "--group", "g"]));
    let mut next = |count: usize| (0..count).map(|_| member.line()).collect::<Vec<_>>();
    assert_eq!(next(5), ["0", "1", "2", "3", "4"]);
    let all = |described: &Value| sum(&queues(described), "committed") == 5;
    once_told(&server, &["group", "describe", "g"], all);
    let reset = ["group", "reset", "g", "--topic", "t", "--to"];
    let dry_run = json(&server, &[&reset[..], &["first", "--dry-run"]].concat());
    assert_eq!(dry_run["queues"][0]["after"], 0, "{dry_run}");
    let done = json(&server, &[&reset[..], &["offset:3"]].concat());
    assert_eq!((&done["queues"][0]["before"], &done["queues"][0]["after"]), (&5.into(), &3.into()), "{done}");
    let begin = Instant::now();
    assert_eq!(next(2), ["3", "4"], "not from where it would have been reset to");
    assert!(begin.elapsed() < Duration::from_secs(10), "at once: {:?}", begin.elapsed());
    once_told(&server, &["group", "describe", "g"], all);
    let printed = table(&server, &[&reset[..], &["first"]].concat());
    assert_eq!(printed[1], ["0", "broker-1", "5", "0", "5", "reset"]);
    assert_eq!(next(5), ["0", "1", "2", "3", "4"]);
    end(member);
    assert_eq!(consume(&server), [0_u32; 0], "what was printed again is committed again");
    server.stop();
}

#[test]
fn a_group_with_members_is_not_deleted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    produce(&server, 0, 2);
    let mut member = Running::start(&mut server.client(&["consume", "--topic", "t", "--group", "g"]));
    member.line();
    let refused = run(&mut server.client(&["group", "delete", "g", "--output", "json"]));
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    let told: Value = serde_json::from_str(&text(&refused.stdout)).unwrap();
    let [broker] = told["brokers"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(
        (&told["ok"], &broker["broker"], &broker["ok"]),
        (&false.into(), &"broker-1".into(), &false.into())
    );
    assert!(broker["error"].as_str().unwrap().contains("1 members"), "{told}");
    assert_eq!(member.line(), "1", "it goes on");
    let committed = |described: &Value| sum(&queues(described), "committed") == 2;
    let described = once_told(&server, &["group", "describe", "g"], committed);
    assert_eq!(described["members"].as_array().unwrap().len(), 1, "{described}");
    end(member);
    assert_eq!(json(&server, &["group", "delete", "g"])["ok"], true);
    assert_eq!(consume(&server), [0, 1], "a group of that name begins anew");
    server.stop();
}
