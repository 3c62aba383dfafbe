//! Frames: `u32 length (excludes itself), u8 version, u8 flags, u16 kind, u32 correlation, u32 header length`, then a
//! flatbuffers header, then raw payload (record batches).

use bytes::{Bytes, BytesMut};
use thiserror::Error;

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

/// Takes the next whole frame off the front of `buffer` without copying; `Ok(None)`: more bytes are needed, and
/// `buffer` has been reserved for them (never more than `limit`).
pub fn take_frame(_buffer: &mut BytesMut, _limit: usize) -> Result<Option<Frame>, FrameError> {
    todo!()
}

/// Appends a frame head and `message`'s header to `out`; the payload of `payload_len` bytes is sent after it by the
/// caller (vectored or appended).
pub fn put_frame<M: crate::api::Message>(
    _out: &mut Vec<u8>,
    _message: &M,
    _flags: u8,
    _correlation: u32,
    _payload_len: usize,
) {
    todo!()
}
