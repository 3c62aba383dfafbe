//! Headers of grants and hand-back.

use equeue_record::{Offset, QueueKey};

use super::consume::{read_commit_outcome, read_tries, write_commit_outcome, write_tries};
use super::read::{Check, root};
use super::write;
use crate::Code;
use crate::api::{
    CachedQueue, DecodeError, GrantOutcome, GrantQueues, GrantQueuesAnswer, HandBack, HandBackAnswer,
    HandBackItem, HandBackOutcome, HeldQueue, Kind, LeaseHeartbeat, LeaseHeartbeatAnswer, Message,
    OffsetReset, ReleaseItem, ReleaseQueues, ReleaseQueuesAnswer,
};
use crate::limits::{HAND_BACK_ITEMS_MAX, OFFSET_ITEMS_MAX, REASON_BYTES_MAX};
use crate::schema::wire;

/// Bit 0 of many flags: there is a committed offset, or one to commit.
pub(super) const COMMITTED: u8 = 1;
const DEAD: u8 = 1;
const REPEATED: u8 = 2;

impl Message for LeaseHeartbeat {
    const KIND: Kind = Kind::LeaseHeartbeat;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let held = self.held.as_deref().unwrap_or_default();
            let held = held.iter().map(|entry| wire::HeldQueue::new(entry.queue.0, entry.grant_epoch));
            let held = write::structs(b, held);
            let cached =
                self.cached.iter().map(|entry| wire::CachedQueue::new(entry.queue.0, entry.messages));
            let cached = write::structs(b, cached);
            wire::LeaseHeartbeat::create(
                b,
                &wire::LeaseHeartbeatArgs {
                    group: Some(group),
                    generation: self.generation,
                    held_hash: self.hash,
                    full: self.held.is_some(),
                    held,
                    cached,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::LeaseHeartbeat<'_>>(Self::KIND, header)?;
        let held = check.list("held", table.held(), OFFSET_ITEMS_MAX, |entry| {
            Ok(HeldQueue { queue: QueueKey(entry.queue()), grant_epoch: entry.grant_epoch() })
        })?;
        check.once("held.queue", held.iter().map(|entry: &HeldQueue| entry.queue))?;
        if !table.full() && !held.is_empty() {
            return Err(check.refuse("full"));
        }
        Ok(Self {
            group: check.required_name("group", table.group())?,
            generation: table.generation(),
            hash: table.held_hash(),
            held: table.full().then_some(held),
            cached: check.list("cached", table.cached(), OFFSET_ITEMS_MAX, |entry| {
                Ok(CachedQueue { queue: QueueKey(entry.queue()), messages: entry.messages() })
            })?,
        })
    }
}

impl Message for LeaseHeartbeatAnswer {
    const KIND: Kind = Kind::LeaseHeartbeat;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let release = write::structs(b, self.release.iter().map(|queue| queue.0));
            let reset = self
                .reset
                .iter()
                .map(|entry| wire::OffsetReset::new(entry.queue.0, entry.offset.0, entry.grant_epoch));
            let reset = write::structs(b, reset);
            let lost = write::structs(b, self.lost.iter().map(|queue| queue.0));
            wire::LeaseHeartbeatAnswer::create(
                b,
                &wire::LeaseHeartbeatAnswerArgs {
                    status: Some(&status),
                    detail,
                    lease_ms: self.lease_ms,
                    want_full: self.want_full,
                    release,
                    reset,
                    lost,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::LeaseHeartbeatAnswer<'_>>(Self::KIND, header)?;
        let reset = check.list("reset", table.reset(), OFFSET_ITEMS_MAX, |entry| {
            Ok(OffsetReset {
                queue: QueueKey(entry.queue()),
                offset: Offset(entry.offset()),
                grant_epoch: entry.grant_epoch(),
            })
        })?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            lease_ms: table.lease_ms(),
            want_full: table.want_full(),
            release: check.list("release", table.release(), OFFSET_ITEMS_MAX, |key| Ok(QueueKey(key)))?,
            reset,
            lost: check.list("lost", table.lost(), OFFSET_ITEMS_MAX, |key| Ok(QueueKey(key)))?,
        })
    }
}

impl Message for GrantQueues {
    const KIND: Kind = Kind::GrantQueues;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let queues = b.create_vector_from_iter(self.queues.iter().map(|queue| queue.0));
            wire::GrantQueues::create(
                b,
                &wire::GrantQueuesArgs {
                    group: Some(group),
                    generation: self.generation,
                    wait_ms_max: self.wait_ms_max,
                    queues: Some(queues),
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GrantQueues<'_>>(Self::KIND, header)?;
        let queues = check.list("queues", Some(table.queues()), OFFSET_ITEMS_MAX, |key| Ok(QueueKey(key)))?;
        check.once("queues", queues.iter().copied())?;
        Ok(Self {
            group: check.required_name("group", table.group())?,
            generation: table.generation(),
            wait_ms_max: table.wait_ms_max(),
            queues,
        })
    }
}

impl Message for GrantQueuesAnswer {
    const KIND: Kind = Kind::GrantQueues;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let outcomes = self.outcomes.iter().map(|outcome| {
                wire::GrantOutcome::new(
                    outcome.queue.0,
                    outcome.committed.unwrap_or_default().0,
                    outcome.start_offset.0,
                    outcome.high_watermark.0,
                    outcome.grant_epoch,
                    outcome.code as u16,
                    if outcome.committed.is_some() { COMMITTED } else { 0 },
                    &write_tries(outcome.tries),
                )
            });
            let outcomes = write::structs(b, outcomes);
            wire::GrantQueuesAnswer::create(
                b,
                &wire::GrantQueuesAnswerArgs {
                    status: Some(&status),
                    detail,
                    lease_ms: self.lease_ms,
                    outcomes,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GrantQueuesAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), OFFSET_ITEMS_MAX, |outcome| {
            Ok(GrantOutcome {
                queue: QueueKey(outcome.queue()),
                code: Code::from_number(outcome.code()),
                grant_epoch: outcome.grant_epoch(),
                committed: (outcome.flags() & COMMITTED != 0).then_some(Offset(outcome.committed())),
                start_offset: Offset(outcome.start_offset()),
                high_watermark: Offset(outcome.high_watermark()),
                tries: read_tries(outcome.tries()),
            })
        })?;
        let status = check.status(*table.status(), table.detail())?;
        Ok(Self { status, lease_ms: table.lease_ms(), outcomes })
    }
}

impl Message for ReleaseQueues {
    const KIND: Kind = Kind::ReleaseQueues;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let items = self.items.iter().map(|item| {
                let flags = if item.commit.is_some() { COMMITTED } else { 0 };
                let offset = item.commit.unwrap_or_default().0;
                wire::ReleaseItem::new(
                    item.queue.0,
                    offset,
                    item.grant_epoch,
                    flags,
                    &write_tries(item.tries),
                )
            });
            let items = b.create_vector_from_iter(items);
            wire::ReleaseQueues::create(
                b,
                &wire::ReleaseQueuesArgs { group: Some(group), items: Some(items) },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ReleaseQueues<'_>>(Self::KIND, header)?;
        let items = check.list("items", Some(table.items()), OFFSET_ITEMS_MAX, |item| {
            Ok(ReleaseItem {
                queue: QueueKey(item.queue()),
                grant_epoch: item.grant_epoch(),
                commit: (item.flags() & COMMITTED != 0).then_some(Offset(item.offset())),
                tries: read_tries(item.tries()),
            })
        })?;
        check.once("items.queue", items.iter().map(|item: &ReleaseItem| item.queue))?;
        Ok(Self { group: check.required_name("group", table.group())?, items })
    }
}

impl Message for ReleaseQueuesAnswer {
    const KIND: Kind = Kind::ReleaseQueues;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let outcomes = write::structs(b, self.outcomes.iter().map(write_commit_outcome));
            let args = wire::ReleaseQueuesAnswerArgs { status: Some(&status), detail, outcomes };
            wire::ReleaseQueuesAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ReleaseQueuesAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), OFFSET_ITEMS_MAX, |outcome| {
            Ok(read_commit_outcome(outcome))
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
    }
}

impl Message for HandBack {
    const KIND: Kind = Kind::HandBack;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let items: Vec<_> = self
                .items
                .iter()
                .map(|item| {
                    let end = item.reason.floor_char_boundary(REASON_BYTES_MAX);
                    let reason = write::text(b, item.reason.get(..end).unwrap_or_default());
                    wire::HandBackItem::create(
                        b,
                        &wire::HandBackItemArgs {
                            queue: item.queue.0,
                            offset: item.offset.0,
                            delay_ms: item.delay_ms,
                            grant_epoch: item.grant_epoch,
                            reason,
                            tries: (item.tries.count > 0).then(|| write_tries(item.tries)).as_ref(),
                        },
                    )
                })
                .collect();
            let items = b.create_vector(&items);
            wire::HandBack::create(
                b,
                &wire::HandBackArgs {
                    group: Some(group),
                    attempts_max: self.attempts_max,
                    items: Some(items),
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::HandBack<'_>>(Self::KIND, header)?;
        let items = check.list("items", Some(table.items()), HAND_BACK_ITEMS_MAX, |item| {
            Ok(HandBackItem {
                queue: QueueKey(item.queue()),
                offset: Offset(item.offset()),
                grant_epoch: item.grant_epoch(),
                delay_ms: item.delay_ms(),
                reason: check.text("item.reason", item.reason(), REASON_BYTES_MAX)?,
                tries: item.tries().map(read_tries).unwrap_or_default(),
            })
        })?;
        check.once("items", items.iter().map(|item: &HandBackItem| (item.queue, item.offset)))?;
        let group = check.required_name("group", table.group())?;
        Ok(Self { group, attempts_max: table.attempts_max(), items })
    }
}

impl Message for HandBackAnswer {
    const KIND: Kind = Kind::HandBack;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let outcomes = self.outcomes.iter().map(|outcome| {
                let flags = if outcome.dead { DEAD } else { 0 } | if outcome.repeated { REPEATED } else { 0 };
                wire::HandBackOutcome::new(
                    outcome.queue.0,
                    outcome.offset.0,
                    outcome.attempt,
                    outcome.code as u16,
                    flags,
                )
            });
            let outcomes = write::structs(b, outcomes);
            let args = wire::HandBackAnswerArgs { status: Some(&status), detail, outcomes };
            wire::HandBackAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::HandBackAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), HAND_BACK_ITEMS_MAX, |outcome| {
            Ok(HandBackOutcome {
                queue: QueueKey(outcome.queue()),
                offset: Offset(outcome.offset()),
                code: Code::from_number(outcome.code()),
                attempt: outcome.attempt(),
                dead: outcome.flags() & DEAD != 0,
                repeated: outcome.flags() & REPEATED != 0,
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
    }
}
