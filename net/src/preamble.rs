//! The 16 clear bytes that open a connection and name the shard it wants.

use thiserror::Error;

/// Length of the preamble in bytes.
pub const PREAMBLE_LEN: usize = 16;
/// `EQUE` in ASCII, then the protocol's major version.
pub const PREAMBLE_MAGIC: [u8; 4] = *b"EQUE";
/// Major version of the protocol.
pub const PROTOCOL_MAJOR: u8 = 1;

/// What the connection is for: keeps produce, consume and admin traffic apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Produce requests.
    Produce = 0,
    /// Fetch, grants, commits, heartbeat.
    Consume = 1,
    /// Topics, groups, inspection; also every connection to a nameserver.
    Admin = 2,
}

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Shard that shall serve the connection; `None`: whichever accepts it.
    pub shard: Option<u16>,
    /// What the connection is for.
    pub purpose: Purpose,
    /// TLS follows.
    pub tls: bool,
}

/// Why the first bytes are not ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PreambleError {
    /// Not an EQueue client.
    #[error("the peer does not speak the EQueue protocol: its first bytes are {first:02x?}")]
    Magic {
        /// First four bytes.
        first: [u8; 4],
    },
    /// A later protocol.
    #[error("the peer speaks major version {found} of the protocol, this build {known}")]
    Version {
        /// The peer's.
        found: u8,
        /// Ours.
        known: u8,
    },
    /// A flag or purpose this build does not know.
    #[error("preamble field {field} has the value {value}, which is not allowed")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

impl Preamble {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        todo!()
    }

    /// Checks and reads the bytes received.
    pub fn decode(_bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        todo!()
    }
}
