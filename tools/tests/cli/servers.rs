//! Servers: ready, stopped, restarted, refused.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::harness::{Server, equeue, fail};

#[test]
fn standalone_tells_its_real_ports_and_stops_in_order() {
    let data = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = Server::standalone(data.path());
        for name in ["broker", "nameserver", "http"] {
            let address = server.address(name);
            assert!(!address.ends_with(":0"), "{address}");
            TcpStream::connect(&address).expect("somebody listens there");
        }
        assert_eq!(server.announced["storage"]["sync"], "always");
        server.signal(signal);
        assert_eq!(server.end(), Some(0), "{signal}");
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::standalone(data.path());
    // Both may be heard before the orderly stop is over, or only the first: either way it ends.
    server.signal(Signal::SIGINT);
    server.signal(Signal::SIGTERM);
    assert!(matches!(server.end(), Some(0 | 130)));
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::standalone(data.path());
    let mut second = equeue();
    second.args(["broker", "--listen", "127.0.0.1:0", "--http-listen", "off", "--data"]).arg(data.path());
    let said = fail(second.args(["--nameserver", &server.address("nameserver")]), 1);
    assert!(said.contains(&*data.path().to_string_lossy()), "{said}");
    assert!(said.contains("use") || said.contains("lock"), "{said}");
    server.stop();
}

#[test]
fn a_port_that_is_taken_is_told() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = equeue();
    command.args(["standalone", "--nameserver-listen", "127.0.0.1:0", "--http-listen", "off"]);
    let said = fail(command.args(["--listen", &address, "--data"]).arg(data.path()), 1);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

/// Starts a server on a machine that is different in one respect; gives what it said.
fn start_with(prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> String {
    let data = tempfile::tempdir().expect("a directory for the broker");
    let mut command = equeue();
    command.args(["standalone", "--listen", "127.0.0.1:0", "--nameserver-listen", "127.0.0.1:0"]);
    command.args(["--http-listen", "off", "--data"]).arg(data.path());
    #[expect(unsafe_code, reason = "the limits of a process are set between fork and exec")]
    // SAFETY: what the tests give makes system calls on memory made before the fork, nothing else.
    unsafe {
        command.pre_exec(prepare);
    }
    fail(&mut command, 1)
}

#[test]
fn too_little_memory_to_lock_is_told() {
    let said = start_with(|| setrlimit(Resource::RLIMIT_MEMLOCK, 64 << 10, 64 << 10).map_err(Into::into));
    assert!(said.contains("65536") && said.contains("ulimit -l"), "{said}");
}

#[test]
fn io_uring_that_is_forbidden_is_told() {
    // What the default seccomp profile of Docker does.
    let forbidden = BTreeMap::from([(nix::libc::SYS_io_uring_setup, Vec::new())]);
    let refuse = SeccompAction::Errno(nix::libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(forbidden, SeccompAction::Allow, refuse, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let said = start_with(move || apply_filter(&program).map_err(std::io::Error::other));
    assert!(said.contains("io_uring is not available") && said.contains("seccomp"), "{said}");
}

#[test]
fn a_nameserver_port_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = fail(equeue().args(["nameserver", "--listen", &address]), 1);
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

#[test]
fn nameserver_and_broker_run_apart() {
    let data = tempfile::tempdir().unwrap();
    let nameserver =
        Server::start(equeue().args(["nameserver", "--output", "json", "--listen", "127.0.0.1:0"]));
    let mut command = equeue();
    command.args([
        "broker",
        "--output",
        "json",
        "--name",
        "first",
        "--listen",
        "127.0.0.1:0",
        "--http-listen",
        "off",
    ]);
    command.args(["--nameserver", &nameserver.address("nameserver"), "--data"]).arg(data.path());
    let broker = Server::start(&mut command);
    crate::topics::wait_until_listed(&nameserver, "first");
    broker.stop();
    nameserver.stop();
}
