//! Opening and keeping a connection.

use super::{Request, Status};

/// First request on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest minor version the client speaks.
    pub version_min: u8,
    /// Newest.
    pub version_max: u8,
    /// Name of the client, for people.
    pub client_id: String,
    /// Random for each start of the client.
    pub incarnation: u128,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloAnswer {
    /// What became of it.
    pub status: Status,
    /// Version spoken from now on.
    pub version: u8,
    /// Shard that serves this connection (0 on a nameserver).
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// Name of the server.
    pub server: String,
    /// Random for each start of the server.
    pub incarnation: u128,
    /// Largest frame the server accepts, in bytes.
    pub frame_bytes_max: u32,
    /// Largest batch the server stores, in bytes.
    pub batch_bytes_max: u32,
    /// Ways to authenticate; empty: not needed.
    pub mechanisms: Vec<String>,
}

/// "I live", every second, on each connection to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Topics that this client has sent to lately.
    pub producing: Vec<String>,
    /// Group of the consumer on this connection; empty: none.
    pub group: String,
    /// Topics that it consumes.
    pub consuming: Vec<String>,
}

/// Answer to [`Heartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// What became of it.
    pub status: Status,
}

impl Request for Hello {
    type Answer = HelloAnswer;
}
impl Request for Heartbeat {
    type Answer = HeartbeatAnswer;
}
