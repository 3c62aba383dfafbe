//! The stored generations of groups that this broker coordinates or has coordinated: entries of log 0.
//!
//! **Invariants**: what is told is durable; entries are changed one at a time, so a generation never goes back while it
//! is stored; their number is bounded.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::Status;
use equeue_net::limits::GROUPS_MAX;
use equeue_storage::log::AtomicPart;

use super::catalog::{ENTRIES_MAX, status_of};
use super::state::{LogHost, Shard};
use crate::process::utc_ms;
use crate::state_key;

/// A stored generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The number.
    pub(crate) generation: u64,
    /// When it was stored, ms UTC: the group had members then.
    pub(crate) stored_ms: i64,
}

impl Stored {
    fn encode(self) -> Vec<u8> {
        let mut value = self.generation.to_le_bytes().to_vec();
        value.extend_from_slice(&self.stored_ms.to_le_bytes());
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (generation, stored) = value.split_first_chunk::<8>()?;
        let stored_ms = i64::from_le_bytes(stored.try_into().ok()?);
        Some(Self { generation: u64::from_le_bytes(*generation), stored_ms })
    }
}

fn host(shard: &Shard) -> Option<&LogHost> {
    shard.logs.first().filter(|_| shard.index == 0)
}

/// The generation of a group; `None`: nothing is stored, or this is not shard 0.
pub(crate) fn of(shard: &Shard, group: &str) -> Option<Stored> {
    Stored::decode(&host(shard)?.log.state(&state_key::group_generation(group))?)
}

/// Those of all groups; on shard 0, nothing elsewhere.
pub(crate) fn all(shard: &Shard) -> Vec<(Arc<str>, Stored)> {
    let mut all = Vec::new();
    let Some(host) = host(shard) else { return all };
    host.log.state_with_prefix(&[state_key::GROUP_GENERATION], &mut |key, value| {
        all.extend(state_key::read_group_generation(key).map(Arc::from).zip(Stored::decode(value)));
    });
    all
}

/// Makes a generation durable that is above `above` and above all before; on shard 0.
pub(crate) async fn raise(shard: &Rc<Shard>, group: &str, above: u64) -> Result<u64, Status> {
    let _turn = shard.catalog_change.lock().await;
    let host = host(shard).expect("shard 0 has log 0");
    if shard.broker.writes_stopped() {
        return Err(Status::new(Code::LogFailed, "log 0 failed; restart the broker"));
    }
    let key = state_key::group_generation(group);
    if host.log.state(&key).is_none() {
        let mut groups = 0;
        host.log.state_with_prefix(&[state_key::GROUP_GENERATION], &mut |_, _| groups += 1);
        if groups >= GROUPS_MAX {
            return Err(Status::busy(1_000, format!("this broker knows {GROUPS_MAX} groups, the limit")));
        }
    }
    let before = of(shard, group).map_or(0, |stored| stored.generation);
    let generation = before.max(above).saturating_add(1);
    let value = Stored { generation, stored_ms: utc_ms() }.encode();
    let part = AtomicPart::State { key: Bytes::from(key), value: Some(Bytes::from(value)) };
    let ticket = host.log.append_atomic(vec![part]).map_err(|error| status_of(&error))?;
    host.log.wait_durable(ticket).await.map_err(|error| status_of(&error))?;
    Ok(generation)
}

/// Stores those of these groups again, with the time; on shard 0. One that is removed meanwhile stays so.
pub(crate) async fn refresh(shard: &Rc<Shard>, groups: &[Arc<str>]) {
    let _turn = shard.catalog_change.lock().await;
    let Some(host) = host(shard).filter(|_| !shard.broker.writes_stopped()) else { return };
    for groups in groups.chunks(ENTRIES_MAX) {
        let part = |group: &Arc<str>| {
            let value = Stored { stored_ms: utc_ms(), ..of(shard, group)? }.encode();
            let key = Bytes::from(state_key::group_generation(group));
            Some(AtomicPart::State { key, value: Some(Bytes::from(value)) })
        };
        let parts: Vec<AtomicPart> = groups.iter().filter_map(part).collect();
        // What the log does not take now is old still at the next look.
        if !parts.is_empty() && host.log.append_atomic(parts).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_rest_refused() {
        let stored = Stored { generation: u64::MAX - 1, stored_ms: -5 };
        let bytes = stored.encode();
        assert_eq!(Stored::decode(&bytes), Some(stored));
        for len in 0..bytes.len() {
            assert_eq!(Stored::decode(&bytes[..len]), None);
        }
        assert_eq!(Stored::decode(&[bytes, vec![0]].concat()), None);
    }
}
