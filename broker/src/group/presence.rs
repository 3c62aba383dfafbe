//! Who produces and consumes on a shard: told by heartbeats, forgotten after silence or when the connection closes.
//!
//! Bounded by the number of connections: one entry each.

use std::collections::HashMap;

use equeue_net::api::{ClientEntry, Heartbeat};

use super::{Link, Member};

/// How many live clients say that they produce and consume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceCounts {
    /// Connections that produce.
    pub producers: usize,
    /// Connections that consume.
    pub consumers: usize,
}

#[derive(Debug)]
struct Client {
    member: Member,
    address: String,
    beat: Heartbeat,
    seen_ms: u64,
}

/// Live clients, by connection.
#[derive(Debug, Default)]
pub struct Presence {
    clients: HashMap<u64, Client>,
}

impl Presence {
    /// A connection said what it does.
    pub fn beat(&mut self, link: Link, member: Member, beat: Heartbeat, now_ms: u64) {
        self.clients.insert(link.id, Client { member, address: link.address, beat, seen_ms: now_ms });
    }

    /// All of them, for people; `shard` is where they are.
    pub fn clients(&self, shard: u16, now_ms: u64) -> Vec<ClientEntry> {
        let entry = |client: &Client| ClientEntry {
            client_id: client.member.client_id.to_string(),
            incarnation: client.member.incarnation,
            address: client.address.clone(),
            shard,
            seen_ms_ago: now_ms.saturating_sub(client.seen_ms),
            producing: client.beat.producing.clone(),
            group: client.beat.group.clone(),
            consuming: client.beat.consuming.clone(),
        };
        self.clients.values().map(entry).collect()
    }

    /// A connection closed.
    pub fn closed(&mut self, connection: u64) {
        self.clients.remove(&connection);
    }

    /// Forgets who has been silent for `silence_ms` or longer.
    pub fn expire(&mut self, now_ms: u64, silence_ms: u64) {
        self.clients.retain(|_, client| now_ms.saturating_sub(client.seen_ms) < silence_ms);
    }

    /// How many there are.
    pub fn counts(&self) -> PresenceCounts {
        let count =
            |does: fn(&Heartbeat) -> bool| self.clients.values().filter(|client| does(&client.beat)).count();
        PresenceCounts {
            producers: count(|beat| !beat.producing.is_empty()),
            consumers: count(|beat| !beat.group.is_empty() || !beat.consuming.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(presence: &mut Presence, id: u64, beat: Heartbeat, now_ms: u64) {
        presence.beat(Link { id, address: String::new() }, Member::default(), beat, now_ms);
    }

    fn beat(producing: &[&str], group: &str) -> Heartbeat {
        Heartbeat {
            producing: producing.iter().map(|topic| (*topic).to_owned()).collect(),
            group: group.to_owned(),
            consuming: Vec::new(),
        }
    }

    #[test]
    fn the_silent_and_the_closed_are_forgotten() {
        let mut presence = Presence::default();
        told(&mut presence, 1, beat(&["t"], ""), 0);
        told(&mut presence, 2, beat(&[], "g"), 0);
        told(&mut presence, 3, beat(&["t"], "g"), 5_000);
        assert_eq!(presence.clients(7, 6_000).len(), 3);
        assert_eq!(presence.counts(), PresenceCounts { producers: 2, consumers: 2 });
        presence.expire(9_999, 10_000);
        assert_eq!(presence.counts(), PresenceCounts { producers: 2, consumers: 2 });
        presence.expire(10_000, 10_000);
        assert_eq!(presence.counts(), PresenceCounts { producers: 1, consumers: 1 });
        presence.closed(3);
        assert_eq!(presence.counts(), PresenceCounts::default());
    }
}
