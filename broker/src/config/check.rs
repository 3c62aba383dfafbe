//! Checking single values.

use std::net::{SocketAddr, ToSocketAddrs as _};

use equeue_net::limits;

use super::NAME_BYTES_MAX;

/// A setting that makes no sense, and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{key}` is {value}: {expected}")]
pub struct ConfigError {
    /// Dotted name of the key.
    pub key: &'static str,
    /// Value found.
    pub value: String,
    /// What is allowed.
    pub expected: String,
}

pub(super) fn refuse(
    key: &'static str,
    value: impl std::fmt::Display,
    expected: impl Into<String>,
) -> ConfigError {
    ConfigError { key, value: value.to_string(), expected: expected.into() }
}

pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &'static str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if value < low || value > high {
        return Err(refuse(key, value, format!("it must be within {low}..{high}")));
    }
    Ok(())
}

/// A name that may be printed, used in a metric label and compared byte by byte.
pub(super) fn check_name(key: &'static str, name: &str) -> Result<(), ConfigError> {
    if name.len() > NAME_BYTES_MAX || !limits::valid_name(name) {
        return Err(refuse(
            key,
            format_args!("`{name}`"),
            format!("it must be 1..{NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`"),
        ));
    }
    Ok(())
}

pub(super) fn check_address(key: &'static str, address: &str) -> Result<(), ConfigError> {
    let valid =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid { Ok(()) } else { Err(refuse(key, format_args!("`{address}`"), "it must be `host:port`")) }
}

pub(super) fn resolve(key: &'static str, address: &str) -> Result<SocketAddr, ConfigError> {
    address
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| refuse(key, format_args!("`{address}`"), "its host could not be resolved"))
}
