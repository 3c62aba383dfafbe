//! A fixed field of a structure: where it lies, how it is written and read.
//!
//! Layouts are tables of these, so that offsets exist once: code, documentation test and compile-time checks all
//! use the same table.

use super::FormatError;

/// A field at a fixed place of a fixed structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name as in docs/storage-format.md.
    pub name: &'static str,
    /// First byte.
    pub at: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Field {
    pub(super) const fn new(name: &'static str, at: usize, len: usize) -> Self {
        Self { name, at, len }
    }

    /// Writes the field. `value` must have exactly its length.
    pub(super) fn put<const N: usize>(self, out: &mut [u8], value: [u8; N]) {
        assert_eq!(N, self.len, "field {} has another length", self.name);
        out.get_mut(self.at..self.at + N)
            .expect("the buffer is as long as the structure")
            .copy_from_slice(&value);
    }

    /// Reads the field.
    pub(super) fn get<const N: usize>(self, bytes: &[u8]) -> Result<[u8; N], FormatError> {
        assert_eq!(N, self.len, "field {} has another length", self.name);
        bytes.get(self.at..).and_then(<[u8]>::first_chunk).copied().ok_or(FormatError::Truncated {
            what: self.name,
            needed: self.at + N,
            have: bytes.len(),
        })
    }

    pub(super) fn get_u8(self, bytes: &[u8]) -> Result<u8, FormatError> {
        self.get(bytes).map(u8::from_le_bytes)
    }

    pub(super) fn get_u16(self, bytes: &[u8]) -> Result<u16, FormatError> {
        self.get(bytes).map(u16::from_le_bytes)
    }

    pub(super) fn get_u32(self, bytes: &[u8]) -> Result<u32, FormatError> {
        self.get(bytes).map(u32::from_le_bytes)
    }

    pub(super) fn get_u64(self, bytes: &[u8]) -> Result<u64, FormatError> {
        self.get(bytes).map(u64::from_le_bytes)
    }

    pub(super) fn get_i64(self, bytes: &[u8]) -> Result<i64, FormatError> {
        self.get(bytes).map(i64::from_le_bytes)
    }

    /// Checks that a reserved field holds zeros only.
    pub(super) fn check_zero(self, what: &'static str, bytes: &[u8]) -> Result<(), FormatError> {
        let value = bytes.get(self.at..self.at + self.len).unwrap_or_default();
        match value.iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(byte) => Err(FormatError::Field { what, field: self.name, value: u64::from(*byte) }),
        }
    }
}

/// Checks the CRC32C that `field` holds over the bytes `from..field.at`.
pub(super) fn check_crc(
    what: &'static str,
    bytes: &[u8],
    from: usize,
    field: Field,
) -> Result<u32, FormatError> {
    let found = field.get_u32(bytes)?;
    let computed = crc32c::crc32c(bytes.get(from..field.at).unwrap_or_default());
    if found == computed { Ok(found) } else { Err(FormatError::Checksum { what, found, computed }) }
}

/// Checks that there are at least `needed` bytes.
pub(super) fn check_len(what: &'static str, bytes: &[u8], needed: usize) -> Result<(), FormatError> {
    if bytes.len() >= needed {
        Ok(())
    } else {
        Err(FormatError::Truncated { what, needed, have: bytes.len() })
    }
}

/// True when the fields follow each other without a gap from 0 to `len`. For compile-time checks.
pub(super) const fn covers(fields: &[Field], len: usize) -> bool {
    let mut at = 0;
    let mut rest = fields;
    while let [first, tail @ ..] = rest {
        if first.at != at {
            return false;
        }
        at += first.len;
        rest = tail;
    }
    at == len
}
