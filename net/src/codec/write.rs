//! What the encoders share: the builder of this thread, and the pieces that several messages have.

use std::cell::RefCell;

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Push, Vector, WIPOffset};

use super::read::{READABLE, WRITABLE};
use crate::api::{BrokerEntry, QueueEntry, Status, TopicSnapshot};
use crate::frame::{FLAG_ANSWER, FrameError, put_frame_with};
use crate::limits::DETAIL_BYTES_MAX;
use crate::schema::wire;

/// The builder that encoders write to.
pub(super) type Builder = FlatBufferBuilder<'static>;
/// A text written, or left out because it is empty.
pub(super) type Text = Option<WIPOffset<&'static str>>;
/// A list of texts written, or left out because it is empty.
pub(super) type Texts = Option<WIPOffset<Vector<'static, ForwardsUOffset<&'static str>>>>;

/// A list of fixed structs written, or left out because it is empty.
pub(super) type Structs<T> = Option<WIPOffset<Vector<'static, T>>>;

/// A builder that has grown past this is not kept for the next header.
const KEPT_BYTES_MAX: usize = 256 << 10;

thread_local! {
    static BUILDER: RefCell<(Builder, usize)> = RefCell::new((FlatBufferBuilder::with_capacity(1024), 0));
}

/// Builds one header and appends it to `out`. `build` encodes nothing else through this function.
pub(super) fn encode<T>(out: &mut Vec<u8>, build: impl FnOnce(&mut Builder) -> WIPOffset<T>) {
    BUILDER.with_borrow_mut(|(builder, used_max)| {
        let root = build(builder);
        builder.finish_minimal(root);
        let bytes = builder.finished_data();
        out.extend_from_slice(bytes);
        *used_max = bytes.len();
        if *used_max > KEPT_BYTES_MAX {
            *builder = FlatBufferBuilder::with_capacity(1024);
        } else {
            builder.reset();
        }
    });
}

/// Appends an answer that carries nothing but its status, for a kind of any number, known or not: what every answer
/// begins with, so that each [`crate::api::Answer`] decodes it.
///
/// # Errors
/// As [`crate::frame::put_frame`]; does not happen, as a status is small.
pub fn put_failure(
    out: &mut Vec<u8>,
    kind: u16,
    correlation: u32,
    status: &Status,
) -> Result<(), FrameError> {
    put_frame_with(out, kind, FLAG_ANSWER, correlation, 0, |out| {
        encode(out, |b| {
            let detail = detail(b, status);
            let status = status_head(status);
            wire::HeartbeatAnswer::create(b, &wire::HeartbeatAnswerArgs { status: Some(&status), detail })
        });
    })
}

/// The fixed front of an answer.
pub(super) fn status_head(status: &Status) -> wire::Status {
    wire::Status::new(status.code as u16, status.retry_after_ms)
}

/// The text for a person in an answer, cut to its limit.
pub(super) fn detail(b: &mut Builder, status: &Status) -> Text {
    let end = status.detail.floor_char_boundary(DETAIL_BYTES_MAX);
    text(b, status.detail.get(..end).unwrap_or_default())
}

/// A text, left out when empty.
pub(super) fn text(b: &mut Builder, value: &str) -> Text {
    (!value.is_empty()).then(|| b.create_string(value))
}

/// A list of texts, each distinct one written once; left out when empty.
pub(super) fn texts<'a>(b: &mut Builder, values: impl ExactSizeIterator<Item = &'a str>) -> Texts {
    if values.len() == 0 {
        return None;
    }
    let offsets: Vec<_> = values.map(|value| b.create_shared_string(value)).collect();
    Some(b.create_vector(&offsets))
}

/// A list of names.
pub(super) fn names(b: &mut Builder, values: &[String]) -> Texts {
    texts(b, values.iter().map(String::as_str))
}

/// A list of fixed structs, left out when empty.
pub(super) fn structs<T: Push>(
    b: &mut Builder,
    items: impl ExactSizeIterator<Item = T> + DoubleEndedIterator,
) -> Structs<T::Output> {
    (items.len() > 0).then(|| b.create_vector_from_iter(items))
}

/// A list of tables, left out when empty.
pub(super) fn tables<T, W: 'static>(
    b: &mut Builder,
    items: &[T],
    mut write: impl FnMut(&mut Builder, &T) -> WIPOffset<W>,
) -> Option<WIPOffset<Vector<'static, ForwardsUOffset<W>>>> {
    if items.is_empty() {
        return None;
    }
    let offsets: Vec<_> = items.iter().map(|item| write(b, item)).collect();
    Some(b.create_vector(&offsets))
}

/// A broker.
pub(super) fn broker(b: &mut Builder, entry: &BrokerEntry) -> WIPOffset<wire::BrokerEntry<'static>> {
    let cluster = b.create_shared_string(&entry.cluster);
    let name = b.create_shared_string(&entry.name);
    let address = b.create_string(&entry.address);
    let http_address = text(b, &entry.http_address);
    wire::BrokerEntry::create(
        b,
        &wire::BrokerEntryArgs {
            cluster: Some(cluster),
            name: Some(name),
            group: entry.group,
            role: entry.role as u8,
            master_epoch: entry.master_epoch,
            address: Some(address),
            http_address,
            shards: entry.shards,
            incarnation: Some(&incarnation(entry.incarnation)),
            created_ms: entry.created_ms,
        },
    )
}

/// A topic.
pub(super) fn topic(b: &mut Builder, entry: &TopicSnapshot) -> WIPOffset<wire::TopicSnapshot<'static>> {
    let name = b.create_string(&entry.name);
    let map = names(b, &entry.map);
    let queues = structs(b, entry.queues.iter().map(queue_entry));
    wire::TopicSnapshot::create(
        b,
        &wire::TopicSnapshotArgs { name: Some(name), version: entry.version, map, queues },
    )
}

/// A queue.
pub(super) fn queue_entry(entry: &QueueEntry) -> wire::QueueEntry {
    wire::QueueEntry::new(entry.key.0, entry.ordinal, entry.shard, queue_flags(entry))
}

/// What is allowed with a queue.
pub(super) fn queue_flags(entry: &QueueEntry) -> u8 {
    (if entry.writable { WRITABLE } else { 0 }) | (if entry.readable { READABLE } else { 0 })
}

/// A 128-bit number as two halves.
pub(super) fn incarnation(value: u128) -> wire::Incarnation {
    let [low, high] = [value, value >> 64].map(|half| (half & u128::from(u64::MAX)).try_into());
    wire::Incarnation::new(low.unwrap_or_default(), high.unwrap_or_default())
}

/// An answer that carries nothing but its status.
macro_rules! status_only {
    ($($name:ident $args:ident $kind:ident;)*) => { $(
        impl $crate::api::Message for $crate::api::$name {
            const KIND: $crate::api::Kind = $crate::api::Kind::$kind;

            fn encode(&self, out: &mut Vec<u8>) {
                $crate::codec::write::encode(out, |b| {
                    let detail = $crate::codec::write::detail(b, &self.status);
                    let status = $crate::codec::write::status_head(&self.status);
                    wire::$name::create(b, &wire::$args { status: Some(&status), detail })
                });
            }

            fn decode(header: &[u8]) -> Result<Self, $crate::api::DecodeError> {
                let check = $crate::codec::Check(Self::KIND);
                let table = $crate::codec::root::<wire::$name<'_>>(Self::KIND, header)?;
                Ok(Self { status: check.status(*table.status(), table.detail())? })
            }
        }
    )* };
}

/// A request that has one name and nothing else.
macro_rules! one_name {
    ($($name:ident $args:ident $field:ident;)*) => { $(
        impl $crate::api::Message for $crate::api::$name {
            const KIND: $crate::api::Kind = $crate::api::Kind::$name;

            fn encode(&self, out: &mut Vec<u8>) {
                $crate::codec::write::encode(out, |b| {
                    let name = b.create_string(&self.$field);
                    wire::$name::create(b, &wire::$args { $field: Some(name) })
                });
            }

            fn decode(header: &[u8]) -> Result<Self, $crate::api::DecodeError> {
                let table = $crate::codec::root::<wire::$name<'_>>(Self::KIND, header)?;
                let check = $crate::codec::Check(Self::KIND);
                Ok(Self { $field: check.required_name(stringify!($field), table.$field())? })
            }
        }
    )* };
}

/// A request that has no fields.
macro_rules! empty {
    ($($name:ident $args:ident;)*) => { $(
        impl $crate::api::Message for $crate::api::$name {
            const KIND: $crate::api::Kind = $crate::api::Kind::$name;

            fn encode(&self, out: &mut Vec<u8>) {
                $crate::codec::write::encode(out, |b| wire::$name::create(b, &wire::$args::default()));
            }

            fn decode(header: &[u8]) -> Result<Self, $crate::api::DecodeError> {
                $crate::codec::root::<wire::$name<'_>>(Self::KIND, header)?;
                Ok(Self {})
            }
        }
    )* };
}

/// The front of an answer as the generated constructors take it: `status` and `detail` of `$answer`.
macro_rules! answer_head {
    ($b:ident, $answer:expr) => {
        (
            $crate::codec::write::status_head(&$answer.status),
            $crate::codec::write::detail($b, &$answer.status),
        )
    };
}

pub(super) use {answer_head, empty, one_name, status_only};
