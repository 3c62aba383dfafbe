//! Servers: ready, stopped, restarted, refused.

use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;

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
