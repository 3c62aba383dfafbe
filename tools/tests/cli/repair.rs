//! `equeue log repair`, from the broker that refuses to start to the consumer that is led past what is gone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Server, any_addresses, equeue, fail, run, run_with_input, succeed, text};

/// Messages of one call of `produce`: they share a flush or a few.
const ROUND: usize = 10;

/// A message can be told from all others, and is large enough that some rounds fill a segment.
fn message(round: usize, number: usize) -> String {
    format!("round {round} message {number} {}", "x".repeat(2000))
}

fn messages(rounds: usize) -> Vec<String> {
    (0..rounds).flat_map(|round| (0..ROUND).map(move |number| message(round, number))).collect()
}

/// A stopped broker's data with so many rounds of messages in the only queue of topic `t`, in segments of 1 MiB.
fn written(data: &Path, rounds: usize) {
    let server = start(data);
    succeed(&mut server.client(&["topic", "create", "t", "--queues", "1"]));
    for round in messages(rounds).chunks(ROUND) {
        produce(&server, round);
    }
    server.stop();
}

fn command(data: &Path) -> std::process::Command {
    let mut command = Server::standalone_command(data, &any_addresses());
    command.env("EQUEUE_BROKER__LOGS", "1");
    command.env("EQUEUE_BROKER__STORAGE__SEGMENT_BYTES_FIRST", "1MiB");
    command.env("EQUEUE_BROKER__STORAGE__SEGMENT_BYTES_MAX", "1MiB");
    command
}

fn start(data: &Path) -> Server {
    Server::start(&mut command(data))
}

#[track_caller]
fn produce(server: &Server, lines: &[String]) {
    let input = lines.join("\n");
    let output = run_with_input(&mut server.client(&["produce", "--topic", "t"]), input.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// What a group that begins at the start is given.
#[track_caller]
fn consume(server: &Server, group: &str) -> Vec<String> {
    let printed = succeed(&mut server.client(&["consume", "--topic", "t", "--group", group, "--until-end"]));
    printed.lines().map(str::to_owned).collect()
}

/// The segment files, oldest first.
fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log-0")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

/// The broker refuses to start and names a command; runs that command as it stands, with `--yes`.
#[track_caller]
fn refuse_and_repair(data: &Path, act: &str) -> String {
    let said = fail(&mut command(data), 1);
    let named = said
        .split('`')
        .find(|part| part.starts_with("equeue log repair"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(named.contains(act) && named.contains(&*data.to_string_lossy()), "{named}");
    let words: Vec<&str> = named.split(' ').skip(1).collect();
    let before = fs::read(segments(data).first().unwrap()).unwrap();
    let unasked = run(equeue().args(&words));
    assert_eq!(unasked.status.code(), Some(2), "nobody is there to be asked: {}", text(&unasked.stderr));
    assert_eq!(fs::read(segments(data).first().unwrap()).unwrap(), before, "nothing is done unasked");
    let told = succeed(equeue().args(&words).arg("--yes"));
    assert!(told.contains("repaired") && told.contains("log 0 is sound"), "{told}");
    told
}

/// What the repair set aside: files of `lost+found` by the name that they had.
fn set_aside(data: &Path) -> Vec<(String, Vec<u8>)> {
    let kept = fs::read_dir(data.join("log-0/lost+found")).unwrap();
    let mut files: Vec<_> = kept
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let (stamp, name) = name.split_once('-').unwrap();
            assert!(stamp.parse::<u64>().is_ok(), "{stamp}");
            (name.to_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Waits until a metric of log 0 has reached this value: they are taken down now and then, and a reader that asks again
/// is led past the same offsets again.
#[track_caller]
fn wait_for_metric(server: &Server, name: &str, value: usize) {
    let deadline = Instant::now() + PATIENCE;
    while metric(server, name) < value {
        assert!(Instant::now() < deadline, "{name} is {}, and not yet {value}", metric(server, name));
        thread::sleep(Duration::from_millis(50));
    }
}

/// The value of a metric of log 0.
#[track_caller]
fn metric(server: &Server, name: &str) -> usize {
    let mut stream = TcpStream::connect(server.address("http")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
    let value =
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("no {name} in {page}"));
    value.parse().unwrap()
}

/// Flips one bit in the middle of a message in the oldest segment; gives the file and what is in it now.
fn damage(data: &Path, message: &str) -> (PathBuf, Vec<u8>) {
    let path = segments(data).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(message.len()).position(|window| window == message.as_bytes()).unwrap();
    bytes[at + 1000] ^= 4;
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_damaged_segment_is_quarantined_and_consumers_are_led_past_what_is_gone() {
    let data = tempfile::tempdir().unwrap();
    let rounds = 6;
    written(data.path(), rounds);
    let (path, bytes) = damage(data.path(), &message(3, 5));

    let told = refuse_and_repair(data.path(), "--quarantine 0");
    assert!(told.contains("offsets 30 up to") || told.contains("given up"), "{told}");
    let kept = set_aside(data.path());
    assert!(kept.contains(&(name_of(&path), bytes)), "the damaged file lies there, unchanged");

    let server = start(data.path());
    let all = messages(rounds);
    let given = consume(&server, "g");
    let gone: Vec<&String> = all.iter().filter(|message| !given.contains(message)).collect();
    assert!(gone.contains(&&message(3, 5)));
    assert!(
        gone.iter().all(|message| message.starts_with("round 3 ")),
        "only what shared the damaged flush is gone"
    );
    let left: Vec<&String> = all.iter().filter(|message| !gone.contains(message)).collect();
    assert_eq!(given.iter().collect::<Vec<_>>(), left, "the rest comes whole and in order");
    // The queue tells: by its start, by a counter, and when it is asked for what is gone.
    let warned = server.said.iter().any(|line| {
        line.contains("a repair gave up parts of this log")
            && line.contains(&format!("offsets_missing={}", gone.len()))
    });
    assert!(warned, "{:?}", server.said);
    wait_for_metric(&server, "equeue_log_offsets_skipped_total", gone.len());
    let first_gone = all.iter().position(|message| message == gone[0]).unwrap().to_string();
    let at = ["message", "at", "--topic", "t", "--queue", "0", "--offset", &first_gone];
    fail(&mut server.client(&at), 1);
    // No offset is given twice: what comes now stands behind everything.
    produce(&server, &["after".to_owned()]);
    assert_eq!(consume(&server, "g"), ["after"]);
    let at = ["message", "at", "--topic", "t", "--queue", "0", "--offset", &all.len().to_string()];
    assert!(succeed(&mut server.client(&at)).contains("after"));
    server.stop();
    succeed(equeue().args(["log", "verify"]).arg(data.path()));
}

#[test]
fn an_operator_who_gives_up_the_end_cuts_the_log_at_the_damage() {
    let data = tempfile::tempdir().unwrap();
    written(data.path(), 6);
    let (path, bytes) = damage(data.path(), &message(3, 5));
    let said = fail(&mut command(data.path()), 1);
    let position = said.split("damaged at position ").nth(1).and_then(|rest| rest.split(':').next()).unwrap();
    let mut repair = equeue();
    repair.args(["log", "repair"]).arg(data.path()).args(["--log", "0", "--cut", position, "--yes"]);
    let told = succeed(&mut repair);
    assert!(
        told.contains(&format!("log 0 ends at {position} then")) && told.contains("log 0 is sound"),
        "{told}"
    );
    assert!(
        set_aside(data.path()).contains(&(name_of(&path), bytes)),
        "the damaged file lies there, unchanged"
    );

    let server = start(data.path());
    // Offsets that were given up are not given again.
    produce(&server, &["after".to_owned()]);
    let given = consume(&server, "g");
    let (last, before) = given.split_last().unwrap();
    assert_eq!(before, messages(3), "everything before the damage");
    assert_eq!(last, "after");
    let at = ["message", "at", "--topic", "t", "--queue", "0", "--offset", "60"];
    assert!(succeed(&mut server.client(&at)).contains("after"));
    server.stop();
    succeed(equeue().args(["log", "verify"]).arg(data.path()));
}

#[test]
fn a_log_whose_end_is_missing_is_cut_and_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let rounds = 80; // 1.6 MB
    written(data.path(), rounds);
    let paths = segments(data.path());
    assert!(paths.len() >= 2, "{paths:?}");
    let first = fs::read(&paths[0]).unwrap();
    for path in &paths[1..] {
        fs::remove_file(path).unwrap();
    }

    refuse_and_repair(data.path(), "--cut 1048576");
    assert_eq!(set_aside(data.path()), [], "what is missing cannot be kept, and nothing else was taken out");
    assert!(fs::read(&paths[0]).unwrap() == first, "what is whole is left as it is");

    let server = start(data.path());
    let all = messages(rounds);
    let given = consume(&server, "g");
    assert!(given.len() > 300 && given.len() < all.len(), "{}", given.len());
    assert_eq!(given, all[..given.len()], "everything up to the cut");
    produce(&server, &["after".to_owned()]);
    assert_eq!(consume(&server, "g"), ["after"]);
    server.stop();
    succeed(equeue().args(["log", "verify"]).arg(data.path()));
    // Once more, from what is on the disk.
    let server = start(data.path());
    assert_eq!(consume(&server, "h").len(), given.len() + 1);
    server.stop();
}

#[test]
fn a_missing_log_is_given_up_only_where_it_is_missing_and_never_log_0() {
    let data = tempfile::tempdir().unwrap();
    let two_logs = || {
        let mut command = command(data.path());
        command.env("EQUEUE_BROKER__LOGS", "2");
        command
    };
    Server::start(&mut two_logs()).stop();
    let folder = |log: u16| data.path().join(format!("log-{log}"));
    let give_up = |log: &'static str| {
        let mut repair = equeue();
        repair.args(["log", "repair"]).arg(data.path()).args(["--log", log, "--begin-anew"]);
        repair
    };
    assert!(fail(give_up("1").arg("--yes"), 1).contains("not missing"));
    for log in [0, 1] {
        fs::rename(folder(log), data.path().join("kept")).unwrap();
        let said = fail(&mut two_logs(), 1);
        assert!(said.contains(&format!("log {log} is missing")), "{said}");
        let verified = run(equeue().args(["log", "verify"]).arg(data.path()));
        assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stdout));
        assert!(text(&verified.stdout).contains(&format!("log {log} is missing")));
        if log == 0 {
            assert!(fail(give_up("0").arg("--yes"), 1).contains("catalog"));
            fs::rename(data.path().join("kept"), folder(log)).unwrap();
        }
    }
    fail(&mut give_up("1"), 2);
    assert!(!folder(1).exists(), "nothing is done unasked");
    succeed(give_up("1").arg("--yes"));
    Server::start(&mut two_logs()).stop();
    succeed(equeue().args(["log", "verify"]).arg(data.path()));
}
