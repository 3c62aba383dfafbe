//! The copy of a message that a group handed back: the same message with headers that tell its history.
//!
//! **Invariants**: headers of brokers are believed only in messages of the group's own retry queue; an attempt is counted
//! once per hand-back.

use equeue_net::api::Tries;
use equeue_net::limits::REASON_BYTES_MAX;
use equeue_record::{
    BatchBuilder, HEADERS_MAX, MessageId, NAME_BYTES_MAX, PushError, Record, RecordFields, system,
};
use smallvec::SmallVec;

/// Headers that a copy has more than its message.
const OWN_HEADERS: usize = 8;
/// Bytes that a copy may have more than its message.
pub const COPY_GROWTH: usize = 512 + NAME_BYTES_MAX + REASON_BYTES_MAX;

/// Name and value of a header.
type HeaderField<'a> = (&'a str, Option<&'a [u8]>);

/// Where a message was read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Ordinal of its queue.
    pub queue: u32,
    /// Its id.
    pub id: MessageId,
    /// The topic is the retry topic of the group that hands it back.
    pub is_retry: bool,
}

/// What went wrong this time.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// When, ms UTC.
    pub time_ms: i64,
    /// What the handler said.
    pub reason: &'a str,
    /// Attempts that the member has counted itself, while the message held its queue.
    pub tries: Tries,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes again.
    Retry,
    /// It is given up.
    Dead,
}

/// A copy that was added to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its index in the batch.
    pub index: u32,
}

/// How often the message has failed, this time included.
pub fn attempt_of(source: &Source<'_>, record: &Record<'_>, tries: Tries) -> u32 {
    if tries.count > 0 {
        return tries.count;
    }
    let before = if source.is_retry { number(record, system::ATTEMPT).unwrap_or(0) } else { 0 };
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

/// What becomes of a message that failed so often.
pub fn fate(attempt: u32, attempts_max: u32) -> Fate {
    if attempt >= attempts_max { Fate::Dead } else { Fate::Retry }
}

/// Adds the copy of a message to a batch, due at `deliver_at_ms`.
///
/// # Errors
/// When there is no room for it.
pub fn copy(
    batch: &mut BatchBuilder,
    source: &Source<'_>,
    record: &Record<'_>,
    failure: &Failure<'_>,
    deliver_at_ms: Option<i64>,
) -> Result<Copied, PushError> {
    let kept = |name: &str| if source.is_retry { text(record, name) } else { None };
    let own = |name, fresh: String| (name, kept(name).map_or(fresh, str::to_owned));
    let first_failed_ms = if failure.tries.count > 0 { failure.tries.since_ms } else { failure.time_ms };
    let values: [(&str, String); OWN_HEADERS] = [
        own(system::ORIGIN_ID, source.id.to_string()),
        own(system::ORIGIN_TOPIC, source.topic.to_owned()),
        own(system::ORIGIN_QUEUE, source.queue.to_string()),
        own(system::ORIGIN_OFFSET, source.id.offset.to_string()),
        own(system::FIRST_FAILED_MS, first_failed_ms.to_string()),
        (system::LAST_FAILED_MS, failure.time_ms.to_string()),
        (system::ATTEMPT, attempt_of(source, record, failure.tries).to_string()),
        (system::REASON, failure.reason.to_owned()),
    ];
    let mut headers: SmallVec<[HeaderField<'_>; 24]> = SmallVec::new();
    let users = record.headers().filter(|header| !system::is_system(header.name));
    // A message with as many headers as a record may have keeps what fits beside its history.
    headers.extend(users.take(HEADERS_MAX - OWN_HEADERS).map(|header| (header.name, header.value)));
    headers.extend(values.iter().map(|(name, value)| (*name, Some(value.as_bytes()))));
    let fields = RecordFields {
        key: record.key,
        tag: record.tag,
        code: record.code,
        create_time_ms: record.create_time_ms,
        deliver_at_ms,
        headers: &headers,
        body: record.body,
    };
    batch.push(&fields).map(|index| Copied { index })
}

fn text<'a>(record: &Record<'a>, name: &str) -> Option<&'a str> {
    let header = record.headers().find(|header| header.name == name)?;
    std::str::from_utf8(header.value?).ok()
}

fn number(record: &Record<'_>, name: &str) -> Option<u64> {
    text(record, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use equeue_record::{BatchView, Codec, Decompressor, Offset, ProducerStamp, QueueKey};

    use super::*;

    fn batch_of(headers: &[(&str, Option<&[u8]>)]) -> Bytes {
        let mut batch = BatchBuilder::new(Codec::None, 1 << 20);
        let fields = RecordFields {
            body: Some(b"body"),
            key: Some(b"key"),
            headers,
            create_time_ms: 5,
            ..RecordFields::default()
        };
        batch.push(&fields).unwrap();
        batch.finish(ProducerStamp::NONE).unwrap()
    }

    fn hand_back(batch: &Bytes, is_retry: bool, time_ms: i64, reason: &str) -> (u32, Bytes) {
        hand_back_after(batch, is_retry, time_ms, reason, Tries::default())
    }

    fn hand_back_after(
        batch: &Bytes,
        is_retry: bool,
        time_ms: i64,
        reason: &str,
        tries: Tries,
    ) -> (u32, Bytes) {
        let view = BatchView::of_checked(batch).unwrap();
        let mut memory = Decompressor::default();
        let record = view.records(&mut memory).unwrap().next().unwrap().unwrap();
        let topic = if is_retry { "%RETRY%g" } else { "orders" };
        let id = MessageId { cluster_check: 1, queue: QueueKey(9), offset: Offset(70) };
        let source = Source { topic, queue: 3, id, is_retry };
        let mut copied = BatchBuilder::new(Codec::None, 1 << 20);
        copy(&mut copied, &source, &record, &Failure { time_ms, reason, tries }, None).unwrap();
        (attempt_of(&source, &record, tries), copied.finish(ProducerStamp::NONE).unwrap())
    }

    fn header(batch: &Bytes, name: &str) -> Option<String> {
        let view = BatchView::of_checked(batch).unwrap();
        let mut memory = Decompressor::default();
        let record = view.records(&mut memory).unwrap().next().unwrap().unwrap();
        assert_eq!(
            (record.body, record.key, record.create_time_ms),
            (Some(&b"body"[..]), Some(&b"key"[..]), 5)
        );
        text(&record, name).map(str::to_owned)
    }

    #[test]
    fn a_copy_counts_on_and_remembers_where_it_came_from() {
        let forged: [(&str, Option<&[u8]>); 2] = [("%attempt", Some(b"900")), ("mine", Some(b"1"))];
        let (attempt, first) = hand_back(&batch_of(&forged), false, 1_000, "once");
        assert_eq!(attempt, 1);
        let (attempt, second) = hand_back(&first, true, 2_000, "twice");
        assert_eq!(attempt, 2);
        for (name, value) in [
            (system::ATTEMPT, "2"),
            (system::ORIGIN_TOPIC, "orders"),
            (system::ORIGIN_QUEUE, "3"),
            (system::ORIGIN_OFFSET, "70"),
            (system::FIRST_FAILED_MS, "1000"),
            (system::LAST_FAILED_MS, "2000"),
            (system::REASON, "twice"),
            ("mine", "1"),
        ] {
            assert_eq!(header(&second, name).as_deref(), Some(value), "{name}");
        }
        assert!(second.len() <= batch_of(&forged).len() + COPY_GROWTH);
    }

    #[test]
    fn a_copy_tells_the_attempts_that_its_member_has_counted() {
        let tries = Tries { count: 16, since_ms: 400 };
        let (attempt, copy) = hand_back_after(&batch_of(&[]), false, 9_000, "last", tries);
        assert_eq!(attempt, 16);
        for (name, value) in
            [(system::ATTEMPT, "16"), (system::FIRST_FAILED_MS, "400"), (system::LAST_FAILED_MS, "9000")]
        {
            assert_eq!(header(&copy, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn the_last_attempt_is_the_end() {
        assert_eq!((fate(15, 16), fate(16, 16), fate(17, 16)), (Fate::Retry, Fate::Dead, Fate::Dead));
        assert_eq!(fate(1, 1), Fate::Dead);
    }
}
