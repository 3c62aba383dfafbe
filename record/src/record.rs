//! One record inside a batch.
//!
//! ```text
//! varint  bytes that follow
//! u8      attributes: bit 0 key, 1 tag, 2 body, 3 deliver-at, 4 headers are there
//! zigzag  create time minus the batch's base_create_time_ms
//! zigzag  code
//! zigzag  deliver-at minus base_create_time_ms      (bit 3)
//! varint  length, then the key                      (bit 0)
//! varint  length, then the tag, UTF-8               (bit 1)
//! varint  number of headers, each: varint length, name; varint 0 for null or length + 1, value   (bit 4)
//! ..      the body: the rest                        (bit 2; without it the record must end here)
//! ```

use bytes::{BufMut, BytesMut};

use crate::error::RecordError;
use crate::ids::Offset;
use crate::varint;

const HAS_KEY: u8 = 1;
const HAS_TAG: u8 = 1 << 1;
const HAS_BODY: u8 = 1 << 2;
const HAS_DELIVER_AT: u8 = 1 << 3;
const HAS_HEADERS: u8 = 1 << 4;
const KNOWN: u8 = 0b1_1111;

/// Most headers of one record.
pub const HEADERS_MAX: usize = 256;
/// Longest tag and longest header name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What a record is built from; everything is borrowed and copied once, into the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFields<'a> {
    /// Chooses the queue; may be missing.
    pub key: Option<&'a [u8]>,
    /// What consumers filter by; at most [`NAME_BYTES_MAX`] bytes.
    pub tag: Option<&'a str>,
    /// The application's own number.
    pub code: i32,
    /// When the message was made, ms UTC.
    pub create_time_ms: i64,
    /// Not to be delivered before, ms UTC.
    pub deliver_at_ms: Option<i64>,
    /// Names (may repeat) and values; at most [`HEADERS_MAX`].
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// The message itself.
    pub body: Option<&'a [u8]>,
}

/// A record of a batch, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the queue (the batch's base offset + its index).
    pub offset: Offset,
    /// Chooses the queue; may be missing.
    pub key: Option<&'a [u8]>,
    /// What consumers filter by.
    pub tag: Option<&'a str>,
    /// The application's own number.
    pub code: i32,
    /// When the message was made, ms UTC.
    pub create_time_ms: i64,
    /// Not to be delivered before, ms UTC.
    pub deliver_at_ms: Option<i64>,
    /// The message itself.
    pub body: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: usize,
    encoded: &'a [u8],
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name; may repeat.
    pub name: &'a str,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in the order they were given.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl RecordFields<'_> {
    /// Name of the first field that is beyond its limit, with its size and the limit.
    pub(crate) fn over_limit(&self) -> Option<(&'static str, usize, usize)> {
        if let Some(tag) = self.tag
            && tag.len() > NAME_BYTES_MAX
        {
            return Some(("tag", tag.len(), NAME_BYTES_MAX));
        }
        if self.headers.len() > HEADERS_MAX {
            return Some(("number of headers", self.headers.len(), HEADERS_MAX));
        }
        let long = self.headers.iter().find(|(name, _)| name.len() > NAME_BYTES_MAX)?;
        Some(("header name", long.0.len(), NAME_BYTES_MAX))
    }

    /// Bytes of the record after its length.
    pub(crate) fn encoded_len(&self, base_create_time_ms: i64) -> usize {
        let mut len = 1
            + varint::signed_len(self.create_time_ms.wrapping_sub(base_create_time_ms))
            + varint::signed_len(i64::from(self.code));
        if let Some(at) = self.deliver_at_ms {
            len += varint::signed_len(at.wrapping_sub(base_create_time_ms));
        }
        if let Some(key) = self.key {
            len += prefixed_len(key.len());
        }
        if let Some(tag) = self.tag {
            len += prefixed_len(tag.len());
        }
        if !self.headers.is_empty() {
            len += varint::len(self.headers.len() as u64);
            for (name, value) in self.headers {
                len += prefixed_len(name.len());
                len +=
                    value.map_or(1, |value| varint::len(value.len() as u64 + 1).saturating_add(value.len()));
            }
        }
        len.saturating_add(self.body.map_or(0, <[u8]>::len))
    }

    /// Appends the record after its length, which the caller has written.
    pub(crate) fn encode(&self, base_create_time_ms: i64, out: &mut BytesMut) {
        let attribute = |there: bool, bit: u8| if there { bit } else { 0 };
        out.put_u8(
            attribute(self.key.is_some(), HAS_KEY)
                | attribute(self.tag.is_some(), HAS_TAG)
                | attribute(self.body.is_some(), HAS_BODY)
                | attribute(self.deliver_at_ms.is_some(), HAS_DELIVER_AT)
                | attribute(!self.headers.is_empty(), HAS_HEADERS),
        );
        varint::put_signed(out, self.create_time_ms.wrapping_sub(base_create_time_ms));
        varint::put_signed(out, i64::from(self.code));
        if let Some(at) = self.deliver_at_ms {
            varint::put_signed(out, at.wrapping_sub(base_create_time_ms));
        }
        if let Some(key) = self.key {
            put_prefixed(out, key);
        }
        if let Some(tag) = self.tag {
            put_prefixed(out, tag.as_bytes());
        }
        if !self.headers.is_empty() {
            varint::put(out, self.headers.len() as u64);
            for (name, value) in self.headers {
                put_prefixed(out, name.as_bytes());
                match value {
                    None => varint::put(out, 0),
                    Some(value) => {
                        varint::put(out, value.len() as u64 + 1);
                        out.extend_from_slice(value);
                    }
                }
            }
        }
        if let Some(body) = self.body {
            out.extend_from_slice(body);
        }
    }
}

impl<'a> Record<'a> {
    /// Reads the record whose bytes (after its length) are `bytes`; the error names the field.
    pub(crate) fn decode(
        mut bytes: &'a [u8],
        offset: Offset,
        base_create_time_ms: i64,
    ) -> Result<Self, &'static str> {
        let encoded = bytes;
        let rest = &mut bytes;
        let (&attributes, after) = rest.split_first().ok_or("attributes")?;
        *rest = after;
        if attributes & !KNOWN != 0 {
            return Err("attributes");
        }
        let has = |bit: u8| attributes & bit != 0;
        let create_delta = varint::take_signed(rest).ok_or("create time")?;
        let code = varint::take_signed(rest).ok_or("code")?;
        let code = i32::try_from(code).map_err(|_| "code")?;
        let deliver_delta =
            if has(HAS_DELIVER_AT) { Some(varint::take_signed(rest).ok_or("deliver-at")?) } else { None };
        let key = if has(HAS_KEY) { Some(take_prefixed(rest).ok_or("key")?) } else { None };
        let tag = if has(HAS_TAG) { Some(take_name(rest).ok_or("tag")?) } else { None };
        let (headers, header_count) = if has(HAS_HEADERS) { take_headers(rest)? } else { (&[][..], 0) };
        if !has(HAS_BODY) && !rest.is_empty() {
            return Err("end");
        }
        Ok(Self {
            offset,
            key,
            tag,
            code,
            create_time_ms: base_create_time_ms.wrapping_add(create_delta),
            deliver_at_ms: deliver_delta.map(|delta| base_create_time_ms.wrapping_add(delta)),
            body: has(HAS_BODY).then_some(*rest),
            headers,
            header_count,
            encoded,
        })
    }

    /// Reads a record from [`Record::encoded`], given the batch's base create time.
    ///
    /// # Errors
    /// When the bytes are not a record.
    pub fn from_encoded(
        bytes: &'a [u8],
        offset: Offset,
        base_create_time_ms: i64,
    ) -> Result<Self, RecordError> {
        Self::decode(bytes, offset, base_create_time_ms)
            .map_err(|what| RecordError::Record { index: 0, what })
    }

    /// Its bytes in the batch: to be kept without the batch, and read by [`Record::from_encoded`].
    pub const fn encoded(&self) -> &'a [u8] {
        self.encoded
    }

    /// Its headers, in the order they were given.
    pub fn headers(&self) -> HeaderIter<'a> {
        HeaderIter { rest: self.headers, left: self.header_count }
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the record was decoded.
        take_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

fn prefixed_len(len: usize) -> usize {
    varint::len(len as u64).saturating_add(len)
}

fn put_prefixed(out: &mut BytesMut, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(bytes)
}

fn take_prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = varint::take(rest)?;
    take_bytes(rest, len)
}

fn take_name<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let name = take_prefixed(rest)?;
    (name.len() <= NAME_BYTES_MAX).then(|| std::str::from_utf8(name).ok())?
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Option<Header<'a>> {
    let name = take_name(rest)?;
    let value = match varint::take(rest)? {
        0 => None,
        len => Some(take_bytes(rest, len - 1)?),
    };
    Some(Header { name, value })
}

/// The bytes of all headers and their number; each has been read once, so that iterating cannot fail.
fn take_headers<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], usize), &'static str> {
    let count =
        varint::take(rest).and_then(|count| usize::try_from(count).ok()).ok_or("number of headers")?;
    if count == 0 || count > HEADERS_MAX {
        return Err("number of headers");
    }
    let begin = *rest;
    for _ in 0..count {
        take_header(rest).ok_or("headers")?;
    }
    let len = begin.len() - rest.len();
    begin.get(..len).map(|headers| (headers, count)).ok_or("headers")
}
