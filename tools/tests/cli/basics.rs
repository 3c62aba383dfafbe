//! Usage, exit codes, completions, man pages.

use crate::harness::{equeue, fail, run, succeed, text};

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    assert!(fail(equeue().arg("prodcue"), 2).contains("produce"), "a slip names what was meant");
    fail(equeue().args(["produce", "--no-such-flag"]), 2);
    fail(equeue().args(["consume", "--topic", "t"]), 2);
    assert!(succeed(equeue().arg("--help")).contains("standalone"));
    assert!(succeed(equeue().arg("--version")).starts_with("equeue "));
}

#[test]
fn a_wrong_log_filter_is_wrong_usage() {
    let said = fail(equeue().arg("doctor").env("EQUEUE_LOG", "equeue=loudly"), 2);
    assert!(said.contains("EQUEUE_LOG"), "{said}");
}

#[test]
fn every_command_has_a_help_and_a_man_page() {
    let directory = tempfile::tempdir().unwrap();
    succeed(equeue().arg("man").arg(directory.path()));
    for command in ["standalone", "produce", "topic-create", "log-verify", "bench-both"] {
        let page = directory.path().join(format!("equeue-{command}.1"));
        assert!(page.is_file(), "{}", page.display());
    }
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(succeed(equeue().args(["completions", shell])).contains("equeue"), "{shell}");
    }
    fail(equeue().args(["completions", "command.com"]), 2);
}

#[test]
fn nobody_there_is_told_with_what_to_do() {
    let output = run(equeue().args(["topic", "list", "--nameserver", "127.0.0.1:1"]));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:1") && said.contains("equeue standalone"), "{said}");
}
