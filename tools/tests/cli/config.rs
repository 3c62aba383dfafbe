//! Settings: files, environment, flags.

use std::fs;

use crate::harness::{equeue, fail, succeed};

#[test]
fn the_printed_defaults_are_valid() {
    let directory = tempfile::tempdir().unwrap();
    for role in ["broker", "nameserver"] {
        let file = directory.path().join(format!("{role}.toml"));
        let document = succeed(equeue().args(["config", "default", role]));
        assert!(document.lines().any(|line| line.starts_with('#')), "{document}");
        fs::write(&file, document).unwrap();
        let said = succeed(equeue().args(["config", "check", "--role", role]).arg(&file));
        assert!(said.contains("valid"), "{said}");
    }
}

#[test]
fn a_wrong_file_fails_and_names_the_nearest_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.toml");
    fs::write(&file, "[storage]\nsegment_byte_max = \"1MiB\"\n").unwrap();
    let said = fail(equeue().args(["config", "check"]).arg(&file), 1);
    assert!(said.contains("segment_byte_max") && said.contains("storage.segment_bytes_max"), "{said}");
    fs::write(&file, "[storage\n").unwrap();
    fail(equeue().args(["config", "check"]).arg(&file), 1);
    let said = fail(equeue().args(["config", "check"]).arg(directory.path().join("none.toml")), 1);
    assert!(said.contains("none.toml"), "{said}");
}

#[test]
fn a_server_does_not_start_with_wrong_settings() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = equeue();
    command.args(["standalone", "--listen", "127.0.0.1:0", "--nameserver-listen", "127.0.0.1:0", "--data"]);
    command.arg(directory.path().join("data"));
    let said = fail(command.env("EQUEUE_BROKER__STORAGE__SYNCH", "always"), 2);
    assert!(said.contains("storage.synch") && said.contains("in the environment"), "{said}");
    assert!(said.contains("storage.sync`"), "{said}");
    let said = fail(
        command.env_remove("EQUEUE_BROKER__STORAGE__SYNCH").env("EQUEUE_BROKER__DEFAULT_QUEUES", "0"),
        2,
    );
    assert!(said.contains("default_queues"), "{said}");
    assert!(!directory.path().join("data").exists(), "nothing was made");
}
