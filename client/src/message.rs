//! What applications send and receive.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use equeue_net::api::AckLevel;
use equeue_net::hidden;
use equeue_record::{MessageId, Offset, QueueKey, system};

/// A message to send. Everything is borrowed: its bytes are copied once, straight into the open batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message<'a> {
    /// Where to.
    pub topic: &'a str,
    /// Messages with the same key go to the same queue (with the default selector) and keep their order.
    pub key: Option<&'a [u8]>,
    /// What consumers may filter by.
    pub tag: Option<&'a str>,
    /// A number for the application.
    pub code: i32,
    /// Names may repeat, values may be missing.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// The content.
    pub body: Option<&'a [u8]>,
    /// When it was made, ms UTC; `None`: now, by a clock that may be behind by a tick of the kernel (1 to 10 ms).
    pub create_time_ms: Option<i64>,
    /// When consumers shall see it at the earliest, ms UTC; `None`: at once.
    pub deliver_at_ms: Option<i64>,
    /// Ordinal of the queue; overrides the selector.
    pub queue: Option<u32>,
}

impl<'a> Message<'a> {
    /// A message with nothing but a body.
    pub fn new(topic: &'a str, body: &'a [u8]) -> Self {
        Self { topic, body: Some(body), ..Self::default() }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: &'a [u8]) -> Self {
        self.key = Some(key);
        self
    }

    /// With this tag.
    #[must_use]
    pub fn tag(mut self, tag: &'a str) -> Self {
        self.tag = Some(tag);
        self
    }

    /// With this code.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// With these headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }

    /// Not to be seen by consumers before this time, ms UTC. Such messages have no order.
    #[must_use]
    pub fn deliver_at(mut self, time_ms: i64) -> Self {
        self.deliver_at_ms = Some(time_ms);
        self
    }

    /// Not to be seen by consumers before so long from now.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        self.deliver_at(wall_ms().saturating_add(delay_ms))
    }

    /// To the queue of this ordinal.
    #[must_use]
    pub fn queue(mut self, ordinal: u32) -> Self {
        self.queue = Some(ordinal);
        self
    }

    /// Bytes that it brings along: what the producer's window counts.
    pub fn content_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
        self.key.map_or(0, <[u8]>::len)
            + self.tag.map_or(0, str::len)
            + self.body.map_or(0, <[u8]>::len)
            + headers
    }
}

/// Where an acknowledged message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Name of the broker that stored it.
    pub broker: Arc<str>,
    /// Ordinal of the queue in the topic.
    pub queue: u32,
    /// The queue's key on its broker; for a delayed message that of the hidden queue where it waits.
    pub queue_key: QueueKey,
    /// Its offset in the queue; for a delayed message its place where it waits, see [`Receipt::place`].
    pub offset: Offset,
    /// Broker's time at append, ms UTC.
    pub append_time_ms: i64,
    /// How safe it is.
    pub level: AckLevel,
    /// The broker had stored it before this answer: a resend found it there.
    pub duplicate: bool,
    /// Check of the cluster's name, part of the id.
    pub cluster_check: u16,
}

impl Receipt {
    /// The message waits until it is due.
    pub fn is_delayed(&self) -> bool {
        self.queue_key.is_delay_queue()
    }

    /// Ordinal of its queue and its offset there; a delayed message has no place before it is due.
    pub fn place(&self) -> Option<(u32, Offset)> {
        (!self.is_delayed()).then_some((self.queue, self.offset))
    }

    /// The message's id: opaque, printable, names it for ever.
    pub fn id(&self) -> MessageId {
        MessageId { cluster_check: self.cluster_check, queue: self.queue_key, offset: self.offset }
    }
}

/// Text inside received bytes, shared with them.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Takes bytes that are UTF-8; `None` when they are not.
    pub fn from_utf8(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }

    /// Text inside other bytes, by a function that shares (or copies) a part of them.
    pub(crate) fn shared(text: &str, share: impl FnOnce(&[u8]) -> Bytes) -> Self {
        Self(share(text.as_bytes()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made, and immutable")
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// One header of a received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; may occur again.
    pub name: Text,
    /// Its value, if any.
    pub value: Option<Bytes>,
}

/// A received message. Owned; its fields share the bytes of the frame it came in (which live as long as it does).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its topic.
    pub topic: Arc<str>,
    /// Name of the broker that it was read from.
    pub broker: Arc<str>,
    /// Ordinal of its queue.
    pub queue: u32,
    /// The queue's key on its broker.
    pub queue_key: QueueKey,
    /// Its offset in the queue.
    pub offset: Offset,
    /// Broker's time at append, ms UTC.
    pub append_time_ms: i64,
    /// When it was made, ms UTC.
    pub create_time_ms: i64,
    /// Earliest delivery asked for, ms UTC.
    pub deliver_at_ms: Option<i64>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its tag.
    pub tag: Option<Text>,
    /// A number for the application.
    pub code: i32,
    /// In the order they were sent.
    pub headers: Vec<Header>,
    /// The content.
    pub body: Option<Bytes>,
    /// Check of the cluster's name, part of the id.
    pub cluster_check: u16,
}

impl Received {
    /// The message's id: opaque, printable, names it for ever.
    pub fn id(&self) -> MessageId {
        MessageId { cluster_check: self.cluster_check, queue: self.queue_key, offset: self.offset }
    }

    /// Which attempt to handle it this is: 1, or more where it was handed back before.
    pub fn attempt(&self) -> u32 {
        self.number(system::ATTEMPT).map_or(1, |handed_back: u32| handed_back.saturating_add(1))
    }

    /// The message that this one is a copy of, when it was handed back or became a dead letter.
    pub fn origin(&self) -> Option<Origin<'_>> {
        Some(Origin {
            topic: self.broker_header(system::ORIGIN_TOPIC)?,
            queue: self.number(system::ORIGIN_QUEUE)?,
            offset: Offset(self.number(system::ORIGIN_OFFSET)?),
            id: self.broker_header(system::ORIGIN_ID)?.parse().ok()?,
            first_failed_ms: self.number(system::FIRST_FAILED_MS),
            last_failed_ms: self.number(system::LAST_FAILED_MS),
            reason: self.broker_header(system::REASON).unwrap_or_default(),
        })
    }

    /// The topic that it was sent to, also when it comes again from the group's retry queue.
    pub fn sent_to(&self) -> &str {
        self.broker_header(system::ORIGIN_TOPIC).unwrap_or(&self.topic)
    }

    /// Headers of the sender; those of the broker (`%...`) are left out.
    pub fn own_headers(&self) -> impl Iterator<Item = &Header> {
        self.headers.iter().filter(|header| !system::is_system(&header.name))
    }

    /// The id that a delayed message had from the start.
    pub fn delayed_id(&self) -> Option<MessageId> {
        let header = self.headers.iter().rfind(|header| &*header.name == system::ID)?;
        std::str::from_utf8(header.value.as_deref()?).ok()?.parse().ok()
    }

    /// A header that is believed only where brokers alone put messages.
    fn broker_header(&self, name: &str) -> Option<&str> {
        if !hidden::is_hidden(&self.topic) {
            return None;
        }
        let header = self.headers.iter().find(|header| *header.name == *name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.broker_header(name)?.parse().ok()
    }
}

/// Now, ms UTC.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Where a retried or dead message came from, and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Topic that it was sent to.
    pub topic: &'a str,
    /// Ordinal of its queue.
    pub queue: u32,
    /// Its offset there.
    pub offset: Offset,
    /// Its id.
    pub id: MessageId,
    /// When it was handed back for the first time, ms UTC.
    pub first_failed_ms: Option<i64>,
    /// When it was handed back for the last time, ms UTC.
    pub last_failed_ms: Option<i64>,
    /// What the last hand-back said.
    pub reason: &'a str,
}
