//! Compression of the records section, by kept libraries: `lz4_flex` (block format) and `zstd`.

use bytes::BytesMut;

use crate::error::RecordError;
use crate::header::RECORDS_BYTES_MAX;

/// How the records section is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// LZ4 block: fast, modest.
    Lz4,
    /// Zstandard: smaller, slower.
    Zstd,
}

/// Level 1 packs 1 KB text-like messages at several hundred MB/s a core; higher levels cost more than the disk
/// bandwidth they save.
const ZSTD_LEVEL: i32 = 1;

impl Codec {
    /// Its number in the header.
    pub const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The codec of a number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Lz4, Self::Zstd].into_iter().find(|codec| codec.name() == name)
    }
}

/// Appends `records` packed with `codec` to `out`; nothing is appended for [`Codec::None`] or on an error.
pub(crate) fn pack(codec: Codec, records: &[u8], out: &mut BytesMut) -> Result<(), RecordError> {
    let bound = match codec {
        Codec::None => return Ok(()),
        Codec::Lz4 => lz4_flex::block::get_maximum_output_size(records.len()),
        Codec::Zstd => zstd::zstd_safe::compress_bound(records.len()),
    };
    let begin = out.len();
    out.resize(begin + bound, 0);
    let space = out.get_mut(begin..).unwrap_or_default();
    let packed = match codec {
        Codec::None => Ok(0),
        Codec::Lz4 => lz4_flex::block::compress_into(records, space).map_err(|error| error.to_string()),
        Codec::Zstd => {
            zstd::bulk::compress_to_buffer(records, space, ZSTD_LEVEL).map_err(|error| error.to_string())
        }
    };
    match packed {
        Ok(packed) => {
            out.truncate(begin + packed);
            Ok(())
        }
        Err(reason) => {
            out.truncate(begin);
            Err(RecordError::Compression { codec: codec.name(), reason })
        }
    }
}

/// Memory that unpacked records live in; keep one per reader and no batch allocates.
#[derive(Debug, Default)]
pub struct Decompressor {
    memory: Vec<u8>,
}

impl Decompressor {
    /// With no memory yet.
    pub const fn new() -> Self {
        Self { memory: Vec::new() }
    }

    /// Unpacks `stored` into exactly `len` bytes.
    pub(crate) fn unpack(&mut self, codec: Codec, stored: &[u8], len: usize) -> Result<&[u8], RecordError> {
        let failed = |reason: String| RecordError::Compression { codec: codec.name(), reason };
        if len > RECORDS_BYTES_MAX {
            return Err(RecordError::TooLarge {
                what: "unpacked records",
                size: len,
                limit: RECORDS_BYTES_MAX,
            });
        }
        self.memory.resize(len, 0);
        let unpacked = match codec {
            Codec::None => return Err(failed("the records are not compressed".to_owned())),
            Codec::Lz4 => lz4_flex::block::decompress_into(stored, &mut self.memory)
                .map_err(|error| failed(error.to_string()))?,
            Codec::Zstd => zstd::bulk::decompress_to_buffer(stored, self.memory.as_mut_slice())
                .map_err(|error| failed(error.to_string()))?,
        };
        if unpacked != len {
            return Err(failed(format!("{unpacked} bytes came out, the header says {len}")));
        }
        Ok(&self.memory)
    }
}
