//! `equeue doctor`.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{equeue, run, text};

fn findings(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = run(equeue().args(["doctor", "--output", "json"]).args(arguments));
    let report: Value = serde_json::from_str(&text(&output.stdout)).expect("one JSON object");
    let findings = report.get("findings").and_then(Value::as_array).expect("a list").clone();
    (output.status.code(), findings)
}

fn of<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {findings:?}"))
}

#[test]
fn each_thing_is_looked_at_and_what_is_wrong_has_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (code, findings) = findings(&["--data", directory.path().to_str().unwrap()]);
    for check in
        ["kernel", "io_uring", "locked memory", "open files", "cores", "file system", "free space", "port"]
    {
        of(&findings, check);
    }
    assert!(of(&findings, "sync")["found"].as_str().unwrap().contains("p99"));
    for finding in &findings {
        assert_eq!(finding["severity"] != "ok", finding["remedy"].is_string(), "{finding}");
    }
    let blocked = findings.iter().any(|finding| finding["severity"] == "blocking");
    assert_eq!(code, Some(i32::from(blocked)));
}

#[test]
fn a_port_in_use_and_an_impossible_directory_are_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (code, findings) = findings(&["--listen", &address, "--data", file.path().to_str().unwrap()]);
    assert!(of(&findings, "port")["found"].as_str().unwrap().contains("in use"));
    assert_eq!(of(&findings, "data directory")["severity"], "blocking");
    assert_eq!(code, Some(1));
}

#[test]
fn a_read_only_place_blocks() {
    // /proc takes no files from anybody, root included.
    let (code, findings) = findings(&["--data", "/proc/self"]);
    assert_eq!(of(&findings, "direct I/O")["severity"], "blocking");
    assert_eq!(code, Some(1));
}

#[test]
fn a_table_for_people_has_no_colour_in_a_pipe() {
    let output = run(equeue().arg("doctor").arg("--data").arg(std::env::temp_dir()));
    let table = text(&output.stdout);
    assert!(table.contains("io_uring") && !table.contains('\x1b'), "{table}");
}
