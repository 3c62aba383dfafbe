//! How topics lie in the state entries of log 0.
//!
//! ```text
//! topic     u8 version (1), u64 map version, u16 names, names x (u8 length, bytes), u16 map length,
//!           map x u16 index of a name, u16 queues, queues x (u32 ordinal, u64 key, u16 log, u8 flags)
//! flags     bit 0 sending is forbidden, bit 1 consuming is forbidden
//! counter   u8 version (1), u64 counter of the next queue key
//! ```
//! Little endian. Every length is checked against its limit and against the bytes that are there.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use equeue_record::QueueKey;
use equeue_storage::LogId;

use super::{QueueHome, Topic};
use crate::config::{NAME_BYTES_MAX, TOPIC_QUEUES_MAX};

const VERSION: u8 = 1;
const FLAG_SEALED: u8 = 1;
const FLAG_HIDDEN: u8 = 2;

/// A state entry of the catalog that cannot be read: the log's checksums were right, so a build wrote it wrong or a
/// newer one wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A later layout.
    #[error("catalog entry `{entry}` has version {found}, this build reads {VERSION}; use the newer build")]
    Version {
        /// Which entry.
        entry: String,
        /// Version found.
        found: u8,
    },
    /// Contradicts itself.
    #[error("catalog entry `{entry}` is malformed at {field}")]
    Malformed {
        /// Which entry.
        entry: String,
        /// Where.
        field: &'static str,
    },
}

/// Reads fields off the front, each checked.
struct Reader<'a> {
    entry: &'a str,
    bytes: &'a [u8],
}

macro_rules! read_number {
    ($($name:ident $type:ty;)*) => { $(
        fn $name(&mut self, field: &'static str) -> Result<$type, CatalogError> {
            take(self, field, size_of::<$type>()).map(|mut bytes| bytes.$name())
        }
    )* };
}

fn take<'a>(reader: &mut Reader<'a>, field: &'static str, len: usize) -> Result<&'a [u8], CatalogError> {
    let (front, rest) = reader.bytes.split_at_checked(len).ok_or_else(|| reader.malformed(field))?;
    reader.bytes = rest;
    Ok(front)
}

impl Reader<'_> {
    read_number! { get_u8 u8; get_u16_le u16; get_u32_le u32; get_u64_le u64; }

    fn malformed(&self, field: &'static str) -> CatalogError {
        CatalogError::Malformed { entry: self.entry.to_owned(), field }
    }

    fn version(&mut self) -> Result<(), CatalogError> {
        match self.get_u8("version")? {
            VERSION => Ok(()),
            found => Err(CatalogError::Version { entry: self.entry.to_owned(), found }),
        }
    }

    fn count(&mut self, field: &'static str) -> Result<usize, CatalogError> {
        let count = self.get_u16_le(field)?;
        if u32::from(count) > TOPIC_QUEUES_MAX { Err(self.malformed(field)) } else { Ok(usize::from(count)) }
    }

    fn name(&mut self) -> Result<Arc<str>, CatalogError> {
        let len = usize::from(self.get_u8("broker name")?);
        if len > NAME_BYTES_MAX {
            return Err(self.malformed("broker name"));
        }
        let bytes = take(self, "broker name", len)?;
        std::str::from_utf8(bytes).map(Arc::from).map_err(|_| self.malformed("broker name"))
    }

    fn queue(&mut self) -> Result<QueueHome, CatalogError> {
        let ordinal = self.get_u32_le("ordinal")?;
        let key = QueueKey(self.get_u64_le("queue key")?);
        let log = LogId(self.get_u16_le("log")?);
        let flags = self.get_u8("flags")?;
        if flags & !(FLAG_SEALED | FLAG_HIDDEN) != 0 {
            return Err(self.malformed("flags"));
        }
        Ok(QueueHome {
            ordinal,
            key,
            log,
            writable: flags & FLAG_SEALED == 0,
            readable: flags & FLAG_HIDDEN == 0,
        })
    }

    fn end(&self) -> Result<(), CatalogError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed("end")) }
    }
}

fn short(number: usize) -> u16 {
    u16::try_from(number).expect("a topic has at most TOPIC_QUEUES_MAX queues, checked when it was planned")
}

/// The value of a topic's entry.
pub(crate) fn encode_topic(topic: &Topic) -> Vec<u8> {
    let mut names: Vec<&Arc<str>> = topic.map.iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut out = Vec::with_capacity(32 + topic.map.len() * 2 + topic.queues.len() * 15);
    out.put_u8(VERSION);
    out.put_u64_le(topic.version);
    out.put_u16_le(short(names.len()));
    for name in &names {
        out.put_u8(
            u8::try_from(name.len()).expect("a name has at most NAME_BYTES_MAX bytes, checked when planned"),
        );
        out.put_slice(name.as_bytes());
    }
    out.put_u16_le(short(topic.map.len()));
    for owner in &topic.map {
        let index = names.binary_search(&owner).expect("every owner was put into the list of names above");
        out.put_u16_le(short(index));
    }
    out.put_u16_le(short(topic.queues.len()));
    for queue in &topic.queues {
        out.put_u32_le(queue.ordinal);
        out.put_u64_le(queue.key.0);
        out.put_u16_le(queue.log.0);
        let sealed = if queue.writable { 0 } else { FLAG_SEALED };
        let hidden = if queue.readable { 0 } else { FLAG_HIDDEN };
        out.put_u8(sealed | hidden);
    }
    out
}

/// Reads the value of a topic's entry.
pub(crate) fn decode_topic(name: &str, value: &[u8]) -> Result<Topic, CatalogError> {
    let mut reader = Reader { entry: name, bytes: value };
    reader.version()?;
    let version = reader.get_u64_le("map version")?;
    let count = reader.count("number of names")?;
    let names = (0..count).map(|_| reader.name()).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count("map length")?;
    let mut map = Vec::with_capacity(count);
    for _ in 0..count {
        let index = usize::from(reader.get_u16_le("map entry")?);
        map.push(Arc::clone(names.get(index).ok_or_else(|| reader.malformed("map entry"))?));
    }
    let count = reader.count("number of queues")?;
    let queues = (0..count).map(|_| reader.queue()).collect::<Result<Vec<_>, _>>()?;
    reader.end()?;
    Ok(Topic { name: Arc::from(name), version, map, queues })
}

/// The value of the counter's entry.
pub(crate) fn encode_counter(counter: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.put_u8(VERSION);
    out.put_u64_le(counter);
    out
}

/// Reads the value of the counter's entry.
pub(crate) fn decode_counter(value: &[u8]) -> Result<u64, CatalogError> {
    let mut reader = Reader { entry: "queue counter", bytes: value };
    reader.version()?;
    let counter = reader.get_u64_le("counter")?;
    reader.end()?;
    Ok(counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(queues: u32) -> Topic {
        let owner = |ordinal: u32| Arc::from(format!("broker-{}", ordinal % 3));
        let home = |ordinal: u32| QueueHome {
            ordinal,
            key: QueueKey(u64::from(ordinal) + (9 << 40)),
            log: LogId(3),
            writable: ordinal.is_multiple_of(2),
            readable: !ordinal.is_multiple_of(5),
        };
        Topic {
            name: Arc::from("orders"),
            version: 4,
            map: (0..queues).map(owner).collect(),
            queues: (0..queues).map(home).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for queues in [0, 1, 7, TOPIC_QUEUES_MAX] {
            let topic = topic(queues);
            assert_eq!(decode_topic("orders", &encode_topic(&topic)), Ok(topic));
        }
        assert_eq!(decode_counter(&encode_counter(u64::MAX)), Ok(u64::MAX));
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = encode_topic(&topic(1));
        let golden: &[u8] = &[
            1, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, b'b', b'r', b'o', b'k', b'e', b'r', b'-', b'0', 1, 0, 0, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 3, 0, 2,
        ];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        let bytes = encode_topic(&topic(3));
        for len in 0..bytes.len() {
            assert!(decode_topic("orders", &bytes[..len]).is_err(), "{len}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(decode_topic("orders", &longer).is_err());
        assert!(decode_counter(&encode_counter(1)[..8]).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = encode_topic(&topic(1));
        bytes[0] = 2;
        assert_eq!(
            decode_topic("orders", &bytes),
            Err(CatalogError::Version { entry: "orders".into(), found: 2 })
        );
    }

    #[test]
    fn the_largest_topic_fits_a_state_entry() {
        let mut large = topic(TOPIC_QUEUES_MAX);
        large.map = (0..TOPIC_QUEUES_MAX)
            .map(|ordinal| Arc::from(format!("{:0>width$}", ordinal % 128, width = NAME_BYTES_MAX)))
            .collect();
        assert!(encode_topic(&large).len() <= 32 << 10, "{}", encode_topic(&large).len());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode_topic("x", &bytes);
            let _ = decode_counter(&bytes);
        }
    }
}
