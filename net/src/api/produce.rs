//! Produce: many batches for one shard in a request, one answer per batch. Hot: fixed structs only.

use equeue_record::{Offset, QueueKey};

use super::{DecodeError, Kind, Status};
use crate::Code;
use crate::codec::{Check, root};
use crate::limits::PRODUCE_ITEMS_MAX;
use crate::schema::wire;

/// How safe a batch must be before it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AckLevel {
    /// Only in the broker's memory.
    Memory = 0,
    /// Written and synced on the master.
    #[default]
    Durable = 1,
    /// Durable, and synced on the in-sync slaves asked for.
    Replicated = 2,
}

impl AckLevel {
    /// The level of this number, when this build knows it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Memory),
            1 => Some(Self::Durable),
            2 => Some(Self::Replicated),
            _ => None,
        }
    }
}

/// One batch of a Produce request; the batches follow one another in the payload in the order of the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceItem {
    /// Where to.
    pub queue: QueueKey,
    /// Bytes of the batch in the payload.
    pub bytes: u32,
}

/// Header of a Produce request, for the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produce {
    /// What is asked for; the topic's minimum may be higher.
    pub level: AckLevel,
    /// One per batch in the payload.
    pub items: Vec<ProduceItem>,
}

/// Header of a Produce request, borrowed from its frame.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRef<'a> {
    table: wire::Produce<'a>,
    level: AckLevel,
}

impl<'a> ProduceRef<'a> {
    /// Verifies the header; the sum of the items' bytes must equal `payload_len`.
    pub fn decode(header: &'a [u8], payload_len: usize) -> Result<Self, DecodeError> {
        let view = Self::verify(header)?;
        // At most 4096 items of 32 bits each: no overflow in 64 bits.
        let bytes: u64 = view.items().map(|item| u64::from(item.bytes)).sum();
        if bytes != payload_len as u64 {
            return Err(Check(Kind::Produce).refuse("item.bytes"));
        }
        Ok(view)
    }

    /// Verifies the header alone.
    pub(crate) fn verify(header: &'a [u8]) -> Result<Self, DecodeError> {
        let check = Check(Kind::Produce);
        let table = root::<wire::Produce<'a>>(Kind::Produce, header)?;
        check.length("items", table.items().len(), PRODUCE_ITEMS_MAX)?;
        let level = AckLevel::from_number(table.level()).ok_or(check.refuse("level"))?;
        Ok(Self { table, level })
    }

    /// What is asked for.
    pub fn level(&self) -> AckLevel {
        self.level
    }

    /// One per batch in the payload.
    pub fn items(&self) -> impl ExactSizeIterator<Item = ProduceItem> + use<'a> {
        self.table.items().iter().map(ProduceItem::from)
    }
}

/// What became of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceOutcome {
    /// OK or DUPLICATE: stored, as safe as `level` says.
    pub code: Code,
    /// The level reached.
    pub level: AckLevel,
    /// When to ask again.
    pub retry_after_ms: u32,
    /// Offset of the batch's first record. For `SEQUENCE_GAP`: the sequence expected (as u32).
    pub base_offset: Offset,
    /// Broker's time at append, ms UTC.
    pub append_time_ms: i64,
}

/// Answer to [`Produce`]: outcomes in the order of the items; none when `status` is not OK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceAnswer {
    /// Of the request as a whole.
    pub status: Status,
    /// Of each batch.
    pub outcomes: Vec<ProduceOutcome>,
}

impl super::Request for Produce {
    type Answer = ProduceAnswer;
}
