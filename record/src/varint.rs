//! Variable-length integers: seven bits a byte, low bits first; signed ones zigzag-folded so that small stays short.

use bytes::{BufMut, BytesMut};

/// Bytes that `value` takes.
pub(crate) const fn len(value: u64) -> usize {
    // ceil(bits / 7) for 1..=64 bits without a division, as protobuf's `VarintSize64` computes it.
    (((64 - (value | 1).leading_zeros()) * 9 + 64) / 64) as usize
}

/// Bytes that a signed `value` takes.
pub(crate) const fn signed_len(value: i64) -> usize {
    len(fold(value))
}

const fn fold(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Appends `value`.
pub(crate) fn put(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80 here")]
    out.put_u8(value as u8);
}

/// Appends a signed `value`.
pub(crate) fn put_signed(out: &mut BytesMut, value: i64) {
    put(out, fold(value));
}

/// Takes a value off the front of `bytes`; `None`: cut short, or longer than any u64.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes a signed value off the front of `bytes`.
pub(crate) fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let folded = take(bytes)?;
    Some((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_round_trips() {
        for shift in 0..64 {
            for value in [(1_u64 << shift) - 1, 1 << shift, (1 << shift) | 1, u64::MAX >> shift] {
                let mut out = BytesMut::new();
                put(&mut out, value);
                assert_eq!(out.len(), len(value), "{value}");
                let mut rest = &out[..];
                assert_eq!(take(&mut rest), Some(value));
                assert!(rest.is_empty());
                for cut in 0..out.len() {
                    assert_eq!(take(&mut &out[..cut]), None);
                }
            }
        }
    }

    #[test]
    fn signed_values_round_trip() {
        for value in [0, 1, -1, 63, -64, 64, i64::MIN, i64::MAX] {
            let mut out = BytesMut::new();
            put_signed(&mut out, value);
            assert_eq!(out.len(), signed_len(value));
            assert_eq!(take_signed(&mut &out[..]), Some(value));
        }
    }

    #[test]
    fn more_bits_than_a_u64_are_refused() {
        let mut eleven: &[u8] = &[0xff; 11];
        assert_eq!(take(&mut eleven), None);
        let mut tenth_byte_too_big: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(take(&mut tenth_byte_too_big), None);
    }
}
