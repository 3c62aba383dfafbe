//! The record batch of EQueue: one byte layout for wire, disk and client.
//!
//! A batch is built once, by the producer ([`BatchBuilder`]), and its bytes are the same bytes in the request, in the
//! broker's commit log, on a slave and at the consumer. The broker stamps only the 36 bytes in front of it
//! ([`BrokerStamp`]), which the producer's checksum does not cover.
//!
//! **Invariants**: this crate does no I/O and reads no clock; nothing is allocated per record, neither building nor
//! reading; every length found in the input is checked against what is there before it is used; no input makes it
//! panic.

mod batch;
mod builder;
mod codec;
mod error;
mod hash;
mod header;
mod ids;
mod message_id;
mod record;
pub mod system;
mod varint;
mod view;

pub use batch::{check_batch, check_producer_crc, check_stamp, split_first};
pub use builder::{BatchBuilder, ProducerStamp, PushError, restamp_producer};
pub use codec::{Codec, Decompressor};
pub use error::RecordError;
pub use hash::{key_hash, tag_hash};
pub use header::{
    BATCH_HEADER_LEN, BATCH_VERSION, BROKER_PART_LEN, BatchFlags, BatchHeader, BrokerStamp, NO_PRODUCER,
    RECORDS_BYTES_MAX, RECORDS_MAX, is_delayed, stamp,
};
pub use ids::{MasterEpoch, Offset, QueueKey};
pub use message_id::{ID_CHARS, MessageId, MessageIdError};
pub use record::{HEADERS_MAX, Header, HeaderIter, NAME_BYTES_MAX, Record, RecordFields};
pub use view::{BatchView, RecordIter, tag_hashes};
