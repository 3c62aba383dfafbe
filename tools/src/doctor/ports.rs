//! Whether the servers' addresses are free.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::Finding;

/// Binds the address and lets it go again.
pub(super) fn finding(address: SocketAddr) -> Finding {
    let check = "port";
    let Err(error) = TcpListener::bind(address) else {
        return Finding::ok(check, format!("{address} is free"));
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => Finding::warning(
            check,
            format!("{address} is in use, by a running server perhaps"),
            format!("`ss -ltnp 'sport = :{}'` tells by whom; else listen on another port", address.port()),
        ),
        io::ErrorKind::PermissionDenied => Finding::blocking(
            check,
            format!("{address} may not be bound by this user"),
            "use a port from 1024 up, or give the broker CAP_NET_BIND_SERVICE",
        ),
        _ => Finding::blocking(
            check,
            format!("{address} cannot be bound: {error}"),
            "`ip address` lists the addresses of this machine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn a_taken_port_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("a bound socket has an address");
        assert_eq!(finding(address).severity, Severity::Warning);
        drop(taken);
        assert_eq!(finding(address).severity, Severity::Ok);
    }

    #[test]
    fn an_address_of_another_machine_blocks() {
        let elsewhere = "203.0.113.1:9494".parse().expect("an address");
        assert_eq!(finding(elsewhere).severity, Severity::Blocking);
    }
}
