//! Headers of Fetch, and of the offsets of groups and queues.

use equeue_record::{Offset, QueueKey};

use super::grants::COMMITTED;
use super::read::{Check, root};
use super::write;
use crate::Code;
use crate::api::{
    CommitItem, CommitOffsets, CommitOffsetsAnswer, CommitOutcome, DecodeError, Fetch, FetchAnswer,
    FetchItem, FetchOffsets, FetchOffsetsAnswer, FetchOutcome, FetchRef, Kind, ListOffsets,
    ListOffsetsAnswer, ListOffsetsOutcome, Message, OffsetAt, Status, Tries,
};
use crate::frame::{FLAG_ANSWER, FrameError, put_frame_with};
use crate::limits::{FETCH_ITEMS_MAX, OFFSET_ITEMS_MAX};
use crate::schema::wire;

impl Message for Fetch {
    const KIND: Kind = Kind::Fetch;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let items = self.items.iter().map(|item| {
                wire::FetchItem::new(
                    item.queue.0,
                    item.offset.0,
                    item.bytes_max,
                    item.grant_epoch,
                    item.tags_start,
                    item.tags_count,
                )
            });
            let items = b.create_vector_from_iter(items);
            let tag_hashes = write::structs(b, self.tag_hashes.iter().copied());
            let group = write::text(b, &self.group);
            wire::Fetch::create(
                b,
                &wire::FetchArgs {
                    fetch_id: self.fetch_id,
                    wait_ms_max: self.wait_ms_max,
                    bytes_max: self.bytes_max,
                    items: Some(items),
                    tag_hashes,
                    group,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let view = FetchRef::decode(header)?;
        Ok(Self {
            fetch_id: view.fetch_id(),
            wait_ms_max: view.wait_ms_max(),
            bytes_max: view.bytes_max(),
            items: view.items().collect(),
            tag_hashes: view.tag_hashes().collect(),
            group: view.group().to_owned(),
        })
    }
}

impl From<&wire::FetchItem> for FetchItem {
    fn from(item: &wire::FetchItem) -> Self {
        Self {
            queue: QueueKey(item.queue()),
            offset: Offset(item.offset()),
            bytes_max: item.bytes_max(),
            grant_epoch: item.grant_epoch(),
            tags_start: item.tags_start(),
            tags_count: item.tags_count(),
        }
    }
}

impl Message for FetchAnswer {
    const KIND: Kind = Kind::Fetch;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_fetch_answer(out, &self.status, self.fetch_id, &self.outcomes);
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::FetchAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), FETCH_ITEMS_MAX, |outcome| {
            Ok(FetchOutcome {
                queue: QueueKey(outcome.queue()),
                code: Code::from_number(outcome.code()),
                bytes: outcome.bytes(),
                grant_epoch: outcome.grant_epoch(),
                start_offset: Offset(outcome.start_offset()),
                high_watermark: Offset(outcome.high_watermark()),
                next_offset: Offset(outcome.next_offset()),
            })
        })?;
        let status = check.status(*table.status(), table.detail())?;
        Ok(Self { status, fetch_id: table.fetch_id(), outcomes })
    }
}

/// Appends the frame of a [`FetchAnswer`] made of borrowed parts; the payload of `payload_len` bytes (the sum of the
/// outcomes' bytes) is sent after it by the caller.
///
/// # Errors
/// As [`crate::frame::put_frame`].
pub fn put_fetch_answer(
    out: &mut Vec<u8>,
    correlation: u32,
    status: &Status,
    fetch_id: u32,
    outcomes: &[FetchOutcome],
    payload_len: usize,
) -> Result<(), FrameError> {
    put_frame_with(out, Kind::Fetch as u16, FLAG_ANSWER, correlation, payload_len, |out| {
        encode_fetch_answer(out, status, fetch_id, outcomes);
    })
}

fn encode_fetch_answer(out: &mut Vec<u8>, status: &Status, fetch_id: u32, outcomes: &[FetchOutcome]) {
    write::encode(out, |b| {
        let detail = write::detail(b, status);
        let outcomes = outcomes.iter().map(|outcome| {
            wire::FetchOutcome::new(
                outcome.queue.0,
                outcome.start_offset.0,
                outcome.high_watermark.0,
                outcome.next_offset.0,
                outcome.bytes,
                outcome.grant_epoch,
                outcome.code as u16,
            )
        });
        let outcomes = write::structs(b, outcomes);
        let status = write::status_head(status);
        let args = wire::FetchAnswerArgs { status: Some(&status), detail, fetch_id, outcomes };
        wire::FetchAnswer::create(b, &args)
    });
}

impl Message for CommitOffsets {
    const KIND: Kind = Kind::CommitOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let items = self.items.iter().map(|item| {
                let tries = write_tries(item.tries);
                wire::CommitItem::new(item.queue.0, item.offset.0, item.grant_epoch, &tries)
            });
            let items = b.create_vector_from_iter(items);
            wire::CommitOffsets::create(
                b,
                &wire::CommitOffsetsArgs { group: Some(group), items: Some(items) },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::CommitOffsets<'_>>(Self::KIND, header)?;
        let items = check.list("items", Some(table.items()), OFFSET_ITEMS_MAX, |item| {
            Ok(CommitItem {
                queue: QueueKey(item.queue()),
                offset: Offset(item.offset()),
                grant_epoch: item.grant_epoch(),
                tries: read_tries(item.tries()),
            })
        })?;
        // Each item is decided by what is committed before the request: a queue may be named once.
        check.once("items.queue", items.iter().map(|item: &CommitItem| item.queue))?;
        Ok(Self { group: check.required_name("group", table.group())?, items })
    }
}

pub(super) fn write_tries(tries: Tries) -> wire::Tries {
    wire::Tries::new(tries.since_ms, tries.count)
}

pub(super) fn read_tries(tries: &wire::Tries) -> Tries {
    Tries { count: tries.count(), since_ms: tries.since_ms() }
}

pub(super) fn write_commit_outcome(outcome: &CommitOutcome) -> wire::CommitOutcome {
    wire::CommitOutcome::new(
        outcome.queue.0,
        outcome.committed.unwrap_or_default().0,
        outcome.grant_epoch,
        outcome.code as u16,
        if outcome.committed.is_some() { COMMITTED } else { 0 },
    )
}

pub(super) fn read_commit_outcome(outcome: &wire::CommitOutcome) -> CommitOutcome {
    CommitOutcome {
        queue: QueueKey(outcome.queue()),
        code: Code::from_number(outcome.code()),
        committed: (outcome.flags() & COMMITTED != 0).then_some(Offset(outcome.committed())),
        grant_epoch: outcome.grant_epoch(),
    }
}

macro_rules! commit_outcomes {
    ($($name:ident $args:ident $kind:ident;)*) => { $(
        impl Message for $name {
            const KIND: Kind = Kind::$kind;

            fn encode(&self, out: &mut Vec<u8>) {
                write::encode(out, |b| {
                    let detail = write::detail(b, &self.status);
                    let outcomes = write::structs(b, self.outcomes.iter().map(write_commit_outcome));
                    let status = write::status_head(&self.status);
                    wire::$name::create(b, &wire::$args { status: Some(&status), detail, outcomes })
                });
            }

            fn decode(header: &[u8]) -> Result<Self, DecodeError> {
                let check = Check(Self::KIND);
                let table = root::<wire::$name<'_>>(Self::KIND, header)?;
                let outcomes = check.list("outcomes", table.outcomes(), OFFSET_ITEMS_MAX, |outcome| {
                    Ok(read_commit_outcome(outcome))
                })?;
                Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
            }
        }
    )* };
}

commit_outcomes! {
    CommitOffsetsAnswer CommitOffsetsAnswerArgs CommitOffsets;
    FetchOffsetsAnswer FetchOffsetsAnswerArgs FetchOffsets;
}

impl Message for FetchOffsets {
    const KIND: Kind = Kind::FetchOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let group = b.create_string(&self.group);
            let queues = b.create_vector_from_iter(self.queues.iter().map(|queue| queue.0));
            wire::FetchOffsets::create(
                b,
                &wire::FetchOffsetsArgs { group: Some(group), queues: Some(queues) },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::FetchOffsets<'_>>(Self::KIND, header)?;
        let queues = check.list("queues", Some(table.queues()), OFFSET_ITEMS_MAX, |key| Ok(QueueKey(key)))?;
        Ok(Self { group: check.required_name("group", table.group())?, queues })
    }
}

impl Message for ListOffsets {
    const KIND: Kind = Kind::ListOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let items = self.items.iter().map(|(queue, at)| {
                let (at, time_ms) = match *at {
                    OffsetAt::First => (0, 0),
                    OffsetAt::Last => (1, 0),
                    OffsetAt::Time(time_ms) => (2, time_ms),
                };
                wire::ListOffsetsItem::new(queue.0, time_ms, at)
            });
            let items = b.create_vector_from_iter(items);
            wire::ListOffsets::create(b, &wire::ListOffsetsArgs { items: Some(items) })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ListOffsets<'_>>(Self::KIND, header)?;
        let items = check.list("items", Some(table.items()), OFFSET_ITEMS_MAX, |item| {
            let at = match item.at() {
                0 => OffsetAt::First,
                1 => OffsetAt::Last,
                2 => OffsetAt::Time(item.time_ms()),
                _ => return Err(check.refuse("item.at")),
            };
            Ok((QueueKey(item.queue()), at))
        })?;
        Ok(Self { items })
    }
}

impl Message for ListOffsetsAnswer {
    const KIND: Kind = Kind::ListOffsets;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let outcomes = self.outcomes.iter().map(|outcome| {
                wire::ListOffsetsOutcome::new(outcome.queue.0, outcome.offset.0, outcome.code as u16)
            });
            let outcomes = write::structs(b, outcomes);
            let status = write::status_head(&self.status);
            let args = wire::ListOffsetsAnswerArgs { status: Some(&status), detail, outcomes };
            wire::ListOffsetsAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ListOffsetsAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), OFFSET_ITEMS_MAX, |outcome| {
            Ok(ListOffsetsOutcome {
                queue: QueueKey(outcome.queue()),
                code: Code::from_number(outcome.code()),
                offset: Offset(outcome.offset()),
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
    }
}
