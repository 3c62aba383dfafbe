//! A broker that is stopped for a while (SIGSTOP, a frozen machine) takes nothing from anybody: heartbeats that came
//! meanwhile are read before a lease ends.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it would panic"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Client, config, start_with};
use equeue_net::Code;
use equeue_net::api::{
    GrantOutcome, GrantQueues, GroupHeartbeat, HeldQueue, LeaseHeartbeat, Membership, Subscription,
};
use equeue_record::QueueKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DIR: &str = "EQUEUE_TEST_BROKER_DIR";
const STOPPED: Duration = Duration::from_secs(15);

/// The broker's process: this test binary, started again by the test below.
#[test]
#[ignore = "the other process of a test, not a test"]
fn broker_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let broker = start_with(config(std::path::Path::new(&dir), 1));
    eprintln!("listening on {}", broker.address());
    loop {
        std::thread::park();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn grant(client: &mut Client, generation: u64, queue: QueueKey) -> GrantOutcome {
    client.request(&wish(generation, queue)).outcomes[0]
}

fn wish(generation: u64, queue: QueueKey) -> GrantQueues {
    GrantQueues { group: "g".into(), generation, wait_ms_max: 0, queues: vec![queue] }
}

#[test]
fn a_broker_that_was_stopped_for_15_seconds_changes_no_grant() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broker_process", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let child = Killed(child);
    let mut addresses = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("listening on ").map(|address| address.parse().unwrap()));
    let address = addresses.next().expect("the broker starts");
    std::thread::spawn(move || addresses.count()); // so that it can go on writing

    let mut owner = Client::connect_as(address, None, "owner", 1);
    let mut other = Client::connect_as(address, None, "other", 2);
    let queue = owner.create_queue("t").key;
    let join = |client: &mut Client| {
        let subscription = Subscription { topic: "t".into(), tags: Vec::new(), replace: false };
        let full = Some(Membership { subscriptions: vec![subscription], ..Membership::default() });
        client.request(&GroupHeartbeat { group: "g".into(), generation: 0, hash: 1, full })
    };
    join(&mut owner);
    let generation = join(&mut other).generation;
    let granted = grant(&mut owner, generation, queue);
    assert_eq!(granted.code, Code::Ok);

    let pid = Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    std::thread::sleep(STOPPED); // longer than lease and session together
    // What lies in the sockets when it goes on: the wish comes first.
    let asked = other.send(&wish(generation, queue), 0, &[]);
    kill(pid, Signal::SIGCONT).unwrap();
    let refused = other.answer::<GrantQueues>(asked).outcomes[0];
    assert_eq!(refused.code, Code::QueueHeld, "the lease had not ended when the broker was stopped");
    let held = Some(vec![HeldQueue { queue, grant_epoch: granted.grant_epoch }]);
    let beat =
        owner.request(&LeaseHeartbeat { group: "g".into(), generation, hash: 1, held, cached: Vec::new() });
    assert!(beat.lost.is_empty() && beat.reset.is_empty());
    let stayed = other.request(&GroupHeartbeat { group: "g".into(), generation, hash: 1, full: None });
    assert_eq!((stayed.generation, stayed.changed), (generation, false), "nobody left either");
    // And a lease ends all the same when its owner is silent.
    let mut taken = GrantQueues { wait_ms_max: 15_000, ..wish(generation, queue) };
    taken.generation = generation;
    let taken = other.request(&taken).outcomes[0];
    assert_eq!((taken.code, taken.grant_epoch), (Code::Ok, granted.grant_epoch + 1));
}
