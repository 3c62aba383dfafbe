//! Headers of Produce.

use equeue_record::{Offset, QueueKey};

use super::read::{Check, root};
use super::write;
use crate::Code;
use crate::api::{
    AckLevel, DecodeError, Kind, Message, Produce, ProduceAnswer, ProduceItem, ProduceOutcome, ProduceRef,
    Status,
};
use crate::frame::{FLAG_ANSWER, FrameError, put_frame_with};
use crate::limits::PRODUCE_ITEMS_MAX;
use crate::schema::wire;

impl Message for Produce {
    const KIND: Kind = Kind::Produce;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let items = self.items.iter().map(|item| wire::ProduceItem::new(item.queue.0, item.bytes));
            let items = b.create_vector_from_iter(items);
            wire::Produce::create(b, &wire::ProduceArgs { level: self.level as u8, items: Some(items) })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let view = ProduceRef::verify(header)?;
        Ok(Self { level: view.level(), items: view.items().collect() })
    }
}

impl From<&wire::ProduceItem> for ProduceItem {
    fn from(item: &wire::ProduceItem) -> Self {
        Self { queue: QueueKey(item.queue()), bytes: item.bytes() }
    }
}

impl Message for ProduceAnswer {
    const KIND: Kind = Kind::Produce;

    fn encode(&self, out: &mut Vec<u8>) {
        encode_answer(out, &self.status, &self.outcomes);
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ProduceAnswer<'_>>(Self::KIND, header)?;
        let outcomes = check.list("outcomes", table.outcomes(), PRODUCE_ITEMS_MAX, |outcome| {
            let level = AckLevel::from_number(outcome.level()).ok_or(check.refuse("outcome.level"))?;
            Ok(ProduceOutcome {
                code: Code::from_number(outcome.code()),
                level,
                retry_after_ms: outcome.retry_after_ms(),
                base_offset: Offset(outcome.base_offset()),
                append_time_ms: outcome.append_time_ms(),
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, outcomes })
    }
}

/// Appends the frame of a [`ProduceAnswer`] made of borrowed parts: no list is built for it.
///
/// # Errors
/// As [`crate::frame::put_frame`].
pub fn put_produce_answer(
    out: &mut Vec<u8>,
    correlation: u32,
    status: &Status,
    outcomes: &[ProduceOutcome],
) -> Result<(), FrameError> {
    let kind = Kind::Produce as u16;
    put_frame_with(out, kind, FLAG_ANSWER, correlation, 0, |out| encode_answer(out, status, outcomes))
}

fn encode_answer(out: &mut Vec<u8>, status: &Status, outcomes: &[ProduceOutcome]) {
    write::encode(out, |b| {
        let detail = write::detail(b, status);
        let outcomes = outcomes.iter().map(|outcome| {
            wire::ProduceOutcome::new(
                outcome.base_offset.0,
                outcome.append_time_ms,
                outcome.retry_after_ms,
                outcome.code as u16,
                outcome.level as u8,
            )
        });
        let outcomes = write::structs(b, outcomes);
        let status = write::status_head(status);
        wire::ProduceAnswer::create(b, &wire::ProduceAnswerArgs { status: Some(&status), detail, outcomes })
    });
}
