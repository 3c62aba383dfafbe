//! Frames: `u32 length (excludes itself), u8 version, u8 flags, u16 kind, u32 correlation, u32 header length`, then a
//! flatbuffers header, then raw payload (record batches). All numbers little endian.
//!
//! **Invariants**: a length is checked against the limit before memory is reserved for it; taking a frame copies
//! nothing; what [`put_frame`] writes, [`take_frame`] with [`FRAME_BYTES_MAX`] accepts.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::api::Message;

/// Bytes in front of the flatbuffers header.
pub const FRAME_HEADER_LEN: usize = 16;
/// Version in each frame.
pub const FRAME_VERSION: u8 = 1;
/// Largest frame that is accepted, in bytes, everything included (default; a server may be configured lower).
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Flag bit 0: this frame answers a request.
pub const FLAG_ANSWER: u8 = 1;
/// Flag bit 1: the sender wants no answer (one-way).
pub const FLAG_ONE_WAY: u8 = 2;

/// The fixed bytes in front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Number of the request kind; an answer repeats its request's.
    pub kind: u16,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Chosen by the asker, repeated by the answer.
    pub correlation: u32,
    /// Bytes of the flatbuffers header.
    pub header_len: u32,
    /// Bytes of payload after it.
    pub payload_len: u32,
}

/// One whole frame, received. Cheap to clone; the bytes are shared with the receive buffer.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The fixed part.
    pub head: FrameHeader,
    /// The flatbuffers header.
    pub header: Bytes,
    /// Raw payload: record batches.
    pub payload: Bytes,
}

/// Why the bytes are not a frame; the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("frame of {length} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Bytes announced.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A version this build does not know.
    #[error("frame version {found} is not known (this build reads {known})")]
    Version {
        /// Found.
        found: u8,
        /// Known.
        known: u8,
    },
    /// Lengths that contradict each other, or unknown flags.
    #[error("frame field {field} has the value {value}, which is not allowed")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Bytes of the length field, which the length does not count.
const LENGTH_LEN: usize = 4;
/// Smallest value of the length field: the rest of the fixed part.
const LENGTH_MIN: usize = FRAME_HEADER_LEN - LENGTH_LEN;

/// Takes the next whole frame off the front of `buffer` without copying; `Ok(None)`: more bytes are needed, and
/// `buffer` has been reserved for them (never more than `limit`, which counts the whole frame).
///
/// After an error the buffer is as it was: the connection cannot be read any further.
pub fn take_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some((head, total)) = parse_head(buffer, limit)? else {
        buffer.reserve(FRAME_HEADER_LEN.saturating_sub(buffer.len()));
        return Ok(None);
    };
    if buffer.len() < total {
        buffer.reserve(total - buffer.len());
        return Ok(None);
    }
    Ok(Some(split_frame(buffer, head, total)))
}

/// Splits a frame off the front of `buffer`, which holds all of its `total` bytes.
pub(crate) fn split_frame(buffer: &mut BytesMut, head: FrameHeader, total: usize) -> Frame {
    let mut header = buffer.split_to(total).freeze();
    header.advance(FRAME_HEADER_LEN);
    let payload = header.split_off(head.header_len as usize);
    Frame { head, header, payload }
}

/// Reads and checks the fixed part; with it, the length of the whole frame. `Ok(None)`: more bytes are needed.
pub(crate) fn parse_head(bytes: &[u8], limit: usize) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    let total = length.saturating_add(LENGTH_LEN);
    if total > limit {
        return Err(FrameError::TooLarge { length: total, limit });
    }
    if length < LENGTH_MIN {
        return Err(FrameError::Field { field: "length", value: length as u64 });
    }
    let Some((&[version, flags, k0, k1, c0, c1, c2, c3, h0, h1, h2, h3], _)) =
        rest.split_first_chunk::<LENGTH_MIN>()
    else {
        return Ok(None);
    };
    if version != FRAME_VERSION {
        return Err(FrameError::Version { found: version, known: FRAME_VERSION });
    }
    if flags & !(FLAG_ANSWER | FLAG_ONE_WAY) != 0 {
        return Err(FrameError::Field { field: "flags", value: u64::from(flags) });
    }
    let header_len = u32::from_le_bytes([h0, h1, h2, h3]);
    let body_len = length - LENGTH_MIN;
    let Some(payload_len) = body_len.checked_sub(header_len as usize) else {
        return Err(FrameError::Field { field: "header length", value: u64::from(header_len) });
    };
    let head = FrameHeader {
        kind: u16::from_le_bytes([k0, k1]),
        flags,
        correlation: u32::from_le_bytes([c0, c1, c2, c3]),
        header_len,
        payload_len: to_u32(payload_len),
    };
    Ok(Some((head, total)))
}

/// Appends a frame head and `message`'s header to `out`; the payload of `payload_len` bytes is sent after it by the
/// caller (vectored or appended).
///
/// # Errors
/// [`FrameError::TooLarge`] when the frame would be larger than [`FRAME_BYTES_MAX`]; `out` is as it was.
pub fn put_frame<M: Message>(
    out: &mut Vec<u8>,
    message: &M,
    flags: u8,
    correlation: u32,
    payload_len: usize,
) -> Result<(), FrameError> {
    put_frame_with(out, M::KIND as u16, flags, correlation, payload_len, |out| message.encode(out))
}

/// [`put_frame`] for a header that `encode` appends.
pub(crate) fn put_frame_with(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u8,
    correlation: u32,
    payload_len: usize,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
    encode(out);
    let header_len = out.len() - start - FRAME_HEADER_LEN;
    let total = (FRAME_HEADER_LEN + header_len).saturating_add(payload_len);
    if total > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::TooLarge { length: total, limit: FRAME_BYTES_MAX });
    }
    let [l0, l1, l2, l3] = to_u32(total - LENGTH_LEN).to_le_bytes();
    let [k0, k1] = kind.to_le_bytes();
    let [c0, c1, c2, c3] = correlation.to_le_bytes();
    let [h0, h1, h2, h3] = to_u32(header_len).to_le_bytes();
    if let Some(head) = out.get_mut(start..start + FRAME_HEADER_LEN) {
        head.copy_from_slice(&[l0, l1, l2, l3, FRAME_VERSION, flags, k0, k1, c0, c1, c2, c3, h0, h1, h2, h3]);
    }
    Ok(())
}

/// A length that was checked against a limit of 32 bits before.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths inside a frame are below its limit, which fits 32 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::{GetCluster, Message};

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let message = GetCluster { cluster: "blue".to_owned() };
        put_frame(&mut out, &message, FLAG_ONE_WAY, 0x0102_0304, payload.len()).unwrap();
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn golden_head() {
        let bytes = frame(b"xyz");
        let header_len = u32::try_from(bytes.len() - FRAME_HEADER_LEN - 3).unwrap();
        let length = u32::try_from(bytes.len() - 4).unwrap();
        assert_eq!(bytes[..4], length.to_le_bytes());
        assert_eq!(bytes[4..12], [1, 2, 63, 0, 4, 3, 2, 1]);
        assert_eq!(bytes[12..16], header_len.to_le_bytes());
        assert_eq!(bytes[bytes.len() - 3..], *b"xyz");
    }

    #[test]
    fn frames_are_taken_whole_and_uncopied_however_they_arrive() {
        let wire = [frame(b""), frame(b"payload"), frame(&[7; 1000])].concat();
        for step in 1..64 {
            let mut buffer = BytesMut::new();
            let mut taken = Vec::new();
            for chunk in wire.chunks(step) {
                buffer.extend_from_slice(chunk);
                let area = buffer.as_ptr_range();
                while let Some(frame) = take_frame(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                    assert!(area.contains(&frame.header.as_ptr()), "the header was copied");
                    taken.push(frame);
                }
            }
            assert!(buffer.is_empty());
            let payloads: Vec<_> = taken.iter().map(|frame| frame.payload.len()).collect();
            assert_eq!(payloads, [0, 7, 1000]);
            for frame in taken {
                assert_eq!((frame.head.kind, frame.head.correlation), (63, 0x0102_0304));
                assert_eq!(GetCluster::decode(&frame.header).unwrap().cluster, "blue");
            }
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_memory_is_reserved() {
        let bytes = frame(&[0; 100]);
        let mut buffer = BytesMut::from(&bytes[..4]);
        let capacity = buffer.capacity();
        let error = FrameError::TooLarge { length: bytes.len(), limit: bytes.len() - 1 };
        assert_eq!(take_frame(&mut buffer, bytes.len() - 1).unwrap_err(), error);
        assert_eq!(buffer.capacity(), capacity);

        let mut buffer = BytesMut::from(&[0xff; 4][..]);
        assert!(matches!(take_frame(&mut buffer, FRAME_BYTES_MAX), Err(FrameError::TooLarge { .. })));

        let mut buffer = BytesMut::from(&bytes[..FRAME_HEADER_LEN]);
        assert!(take_frame(&mut buffer, bytes.len()).unwrap().is_none());
        assert!(buffer.capacity() >= bytes.len(), "room for the rest is reserved");
    }

    #[test]
    fn contradicting_fields_are_refused() {
        let good = frame(b"abc");
        let with = |at: usize, value: &[u8]| {
            let mut bytes = BytesMut::from(&good[..]);
            bytes[at..at + value.len()].copy_from_slice(value);
            take_frame(&mut bytes, FRAME_BYTES_MAX)
        };
        assert!(matches!(
            with(0, &11_u32.to_le_bytes()),
            Err(FrameError::Field { field: "length", value: 11 })
        ));
        assert!(matches!(with(4, &[2]), Err(FrameError::Version { found: 2, known: 1 })));
        assert!(matches!(with(5, &[4]), Err(FrameError::Field { field: "flags", .. })));
        let header_len = u32::try_from(good.len() - FRAME_HEADER_LEN + 1).unwrap();
        assert!(matches!(
            with(12, &header_len.to_le_bytes()),
            Err(FrameError::Field { field: "header length", .. })
        ));
    }

    #[test]
    fn a_frame_over_the_limit_is_not_made() {
        let mut out = b"before".to_vec();
        let message = GetCluster { cluster: String::new() };
        let result = put_frame(&mut out, &message, 0, 1, FRAME_BYTES_MAX);
        assert!(matches!(result, Err(FrameError::TooLarge { .. })));
        assert_eq!(out, b"before");
        assert!(put_frame(&mut out, &message, 0, 1, usize::MAX).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let before = buffer.len();
            if let Ok(Some(frame)) = take_frame(&mut buffer, 4096) {
                let taken = FRAME_HEADER_LEN + frame.header.len() + frame.payload.len();
                prop_assert_eq!(before - buffer.len(), taken);
            } else {
                prop_assert_eq!(buffer.len(), before);
            }
            prop_assert!(buffer.capacity() <= 4096.max(bytes.len()));
        }
    }
}
