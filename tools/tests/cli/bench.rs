//! `equeue bench` with a broker of its own: what happens to it in the middle of a run, and what is left of it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{equeue, succeed};

/// A folder on the disk of the build: the log needs direct I/O.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

#[track_caller]
fn assert_empty(dir: &Path) {
    let left: Vec<_> =
        std::fs::read_dir(dir).expect("readable").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_killed_broker_comes_back_and_nothing_is_lost() {
    let data = folder();
    let mut command = equeue();
    command.args(["bench", "both", "--duration", "4", "--warmup", "0.2", "--rate", "2000", "--verify"]);
    command.args(["--outage", "kill", "--outage-at", "1", "--json", "-", "--data"]).arg(data.path());
    let result: Value = serde_json::from_str(&succeed(&mut command)).expect("JSON");
    for key in ["lost", "duplicated", "reordered", "corrupted"] {
        assert_eq!(result[key], 0, "{key}: {result:#}");
    }
    let outage = &result["outage"];
    let of = |key: &str| outage[key].as_f64().unwrap_or_else(|| panic!("{key}: {result:#}"));
    assert!(of("at_seconds") >= 1.0 && of("ready_after_ms") > 0.0, "{outage:#}");
    assert!(of("silence_ms") >= of("ready_after_ms") / 2.0, "no broker, no acknowledgement: {outage:#}");
    assert!(result["disk"]["write_bytes"].as_u64() > Some(0), "{result:#}");
    assert_eq!(result["environment"]["data"]["path"].as_str().map(|path| path.starts_with('/')), Some(true));
    assert_empty(data.path());
}

#[test]
fn an_interrupted_run_tells_the_figures_so_far_and_cleans_up() {
    let data = folder();
    let json = data.path().join("result.json");
    let broker = data.path().join("broker");
    std::fs::create_dir(&broker).expect("made");
    let mut command = equeue();
    command.args(["bench", "latency", "--rate", "500", "--duration", "600", "--warmup", "0.2", "--json"]);
    command.arg(&json).arg("--data").arg(&broker).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut lines = stderr.lines().map_while(Result::ok);
    lines.by_ref().find(|line| line.contains("acknowledged")).expect("a second was told");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    lines.for_each(drop);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}");
    let result: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    assert_eq!(result["interrupted"], true, "{result:#}");
    assert!(
        result["messages"].as_u64() >= Some(100) && result["seconds"].as_f64() < Some(500.0),
        "{result:#}"
    );
    assert_empty(&broker);
}

#[test]
fn two_results_are_compared() {
    let dir = folder();
    let write = |name: &str, rate: u32| {
        let path = dir.path().join(name);
        let result = serde_json::json!({"command": "produce", "messages_per_second": rate});
        std::fs::write(&path, result.to_string()).expect("written");
        path
    };
    let (slow, fast) = (write("a.json", 1000), write("b.json", 2000));
    let text = succeed(equeue().args(["bench", "compare", "--fail-if-worse"]).args([&slow, &fast]));
    assert!(text.contains("2.000") && text.ends_with("better\n"), "{text}");
    let output = equeue().args(["bench", "compare", "--fail-if-worse"]).args([&fast, &slow]).output();
    assert_eq!(output.expect("it runs").status.code(), Some(1));
}
