//! A received message as it is printed.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use equeue_client::Received;
use serde::Serialize;
use serde::ser::SerializeMap as _;

/// Bytes as text where they are UTF-8, else as base64 under `<name>_base64`.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Bytes<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or(Self::Binary(bytes), Self::Text)
    }
}

fn entry<M: serde::ser::SerializeMap>(
    map: &mut M,
    names: (&'static str, &'static str),
    bytes: Option<&[u8]>,
) -> Result<(), M::Error> {
    match bytes.map(Bytes::of) {
        None => map.serialize_entry(names.0, &None::<()>),
        Some(Bytes::Text(text)) => map.serialize_entry(names.0, text),
        Some(Bytes::Binary(bytes)) => map.serialize_entry(names.1, &BASE64_STANDARD.encode(bytes)),
    }
}

/// `{id, broker, queue, offset, key, tag, headers, body}`.
pub(crate) struct MessageLine<'a> {
    /// Its id.
    pub(crate) id: String,
    /// The message.
    pub(crate) message: &'a Received,
    /// With topic, code and times as well.
    pub(crate) in_full: bool,
}

impl Serialize for MessageLine<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.message;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("broker", &*message.broker)?;
        if self.in_full {
            map.serialize_entry("topic", &*message.topic)?;
        }
        map.serialize_entry("queue", &message.queue)?;
        map.serialize_entry("offset", &message.offset.0)?;
        if self.in_full {
            map.serialize_entry("code", &message.code)?;
            map.serialize_entry("create_time_ms", &message.create_time_ms)?;
            map.serialize_entry("append_time_ms", &message.append_time_ms)?;
        }
        entry(&mut map, ("key", "key_base64"), message.key.as_deref())?;
        map.serialize_entry("tag", &message.tag.as_deref())?;
        map.serialize_entry("headers", &Headers(message))?;
        entry(&mut map, ("body", "body_base64"), message.body.as_deref())?;
        map.end()
    }
}

struct Headers<'a>(&'a Received);

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.headers.iter().map(Header))
    }
}

struct Header<'a>(&'a equeue_client::Header);

impl Serialize for Header<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &*self.0.name)?;
        entry(&mut map, ("value", "value_base64"), self.0.value.as_deref())?;
        map.end()
    }
}
