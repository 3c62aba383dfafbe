//! What the decoders share: verification, and the checks of names and lists.

use equeue_record::QueueKey;
use flatbuffers::{Follow, ForwardsUOffset, Vector, VerifierOptions};

use crate::Code;
use crate::api::{BrokerEntry, BrokerRole, DecodeError, Kind, QueueEntry, Status, TopicSnapshot};
use crate::limits::{ADDRESS_BYTES_MAX, DETAIL_BYTES_MAX, NAME_BYTES_MAX, TOPIC_QUEUES_MAX};
use crate::schema::wire;

/// A header is at most root -> list -> table -> list -> string deep.
const DEPTH_MAX: usize = 8;
/// Tables in one header: the root, and one or two per topic, broker or log.
const TABLES_MAX: usize = 65_536;
/// Bytes of a header when everything that it shares (names of brokers in maps) is counted as often as it is used.
/// Bounds the time that verifying takes and the memory that the decoded message holds.
const APPARENT_BYTES_MAX: usize = 64 << 20;

/// Verifies `header` as one table of type `T`.
pub(crate) fn root<'a, T>(kind: Kind, header: &'a [u8]) -> Result<T::Inner, DecodeError>
where
    T: Follow<'a> + flatbuffers::Verifiable + 'a,
{
    let options = VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: TABLES_MAX,
        max_apparent_size: APPARENT_BYTES_MAX,
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, header)
        .map_err(|error| DecodeError::Malformed { kind: kind.name(), reason: error.to_string() })
}

/// Reads the fields of one message; errors name its kind.
#[derive(Clone, Copy)]
pub(crate) struct Check(pub(crate) Kind);

/// A vector of strings in a header.
type Strings<'a> = Vector<'a, ForwardsUOffset<&'a str>>;

impl Check {
    /// A field with a value that is not allowed.
    pub(crate) fn refuse(self, field: &'static str) -> DecodeError {
        DecodeError::Field { kind: self.0.name(), field }
    }

    /// A list or text within its limit.
    pub(crate) fn length(self, field: &'static str, length: usize, limit: usize) -> Result<(), DecodeError> {
        if length <= limit {
            return Ok(());
        }
        Err(DecodeError::TooLong { kind: self.0.name(), field, length, limit })
    }

    /// A text of at most `limit` bytes; absent: empty.
    pub(crate) fn text(
        self,
        field: &'static str,
        value: Option<&str>,
        limit: usize,
    ) -> Result<String, DecodeError> {
        let value = value.unwrap_or_default();
        self.length(field, value.len(), limit)?;
        Ok(value.to_owned())
    }

    /// A name; absent: empty.
    pub(crate) fn name(self, field: &'static str, value: Option<&str>) -> Result<String, DecodeError> {
        self.text(field, value, NAME_BYTES_MAX)
    }

    /// A name that is there.
    pub(crate) fn required_name(self, field: &'static str, value: &str) -> Result<String, DecodeError> {
        if value.is_empty() {
            return Err(self.refuse(field));
        }
        self.name(field, Some(value))
    }

    /// A list of names.
    pub(crate) fn names(
        self,
        field: &'static str,
        list: Option<Strings<'_>>,
        limit: usize,
    ) -> Result<Vec<String>, DecodeError> {
        self.list(field, list, limit, |value| self.name(field, Some(value)))
    }

    /// A list of at most `limit` entries, each read by `read`; absent: empty.
    pub(crate) fn list<'a, T, U>(
        self,
        field: &'static str,
        list: Option<Vector<'a, T>>,
        limit: usize,
        read: impl FnMut(T::Inner) -> Result<U, DecodeError>,
    ) -> Result<Vec<U>, DecodeError>
    where
        T: Follow<'a> + 'a,
    {
        let Some(list) = list else { return Ok(Vec::new()) };
        self.length(field, list.len(), limit)?;
        list.iter().map(read).collect()
    }

    /// Queues of which each is named once.
    pub(crate) fn once<T: Ord>(
        self,
        field: &'static str,
        named: impl Iterator<Item = T>,
    ) -> Result<(), DecodeError> {
        let mut named: Vec<T> = named.collect();
        named.sort_unstable();
        if named.is_sorted_by(|before, after| before < after) { Ok(()) } else { Err(self.refuse(field)) }
    }

    /// The front of an answer.
    pub(crate) fn status(self, head: wire::Status, detail: Option<&str>) -> Result<Status, DecodeError> {
        Ok(Status {
            code: Code::from_number(head.code()),
            retry_after_ms: head.retry_after_ms(),
            detail: self.text("detail", detail, DETAIL_BYTES_MAX)?,
        })
    }

    /// A broker.
    pub(crate) fn broker(self, entry: wire::BrokerEntry<'_>) -> Result<BrokerEntry, DecodeError> {
        Ok(BrokerEntry {
            cluster: self.required_name("broker.cluster", entry.cluster())?,
            name: self.required_name("broker.name", entry.name())?,
            group: entry.group(),
            role: match entry.role() {
                0 => BrokerRole::Master,
                1 => BrokerRole::Slave,
                _ => return Err(self.refuse("broker.role")),
            },
            master_epoch: entry.master_epoch(),
            address: self.text("broker.address", Some(entry.address()), ADDRESS_BYTES_MAX)?,
            http_address: self.text("broker.http_address", entry.http_address(), ADDRESS_BYTES_MAX)?,
            shards: entry.shards(),
            incarnation: incarnation(entry.incarnation()),
            created_ms: entry.created_ms(),
        })
    }

    /// A topic.
    pub(crate) fn topic(self, entry: wire::TopicSnapshot<'_>) -> Result<TopicSnapshot, DecodeError> {
        Ok(TopicSnapshot {
            name: self.required_name("topic.name", entry.name())?,
            version: entry.version(),
            map: self.names("topic.map", entry.map(), TOPIC_QUEUES_MAX)?,
            queues: self
                .list("topic.queues", entry.queues(), TOPIC_QUEUES_MAX, |queue| Ok(queue_entry(queue)))?,
        })
    }
}

/// Bit 0 of a queue's flags: sending is allowed.
pub(super) const WRITABLE: u8 = 1;
/// Bit 1 of a queue's flags: consuming is allowed.
pub(super) const READABLE: u8 = 2;

/// A queue.
pub(super) fn queue_entry(entry: &wire::QueueEntry) -> QueueEntry {
    QueueEntry {
        ordinal: entry.ordinal(),
        key: QueueKey(entry.key()),
        shard: entry.shard(),
        writable: entry.flags() & WRITABLE != 0,
        readable: entry.flags() & READABLE != 0,
    }
}

/// The number that two 64-bit halves make.
pub(super) fn incarnation(halves: &wire::Incarnation) -> u128 {
    (u128::from(halves.high()) << 64) | u128::from(halves.low())
}
