//! Joining CRC32C checksums without a second pass over the bytes. Pure.
//!
//! The log takes the checksum of each batch from its producer and needs one over a whole flush. The checksum of two
//! byte strings end to end is `shift(crc(a), len(b)) ^ crc(b)`, where `shift` feeds `len(b)` zero bytes to the
//! register: a linear map, so each power of two has a table that is applied four bits at a time. A join costs some
//! 50 ns whatever the length; the general routine of crate `crc32c` squares its matrices each time (some 10 us).

/// Reversed polynomial of CRC32C.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// Lengths up to 2^POWERS - 1 bytes can be joined: more than a flush may have.
const POWERS: usize = 24;
const NIBBLES: usize = 8;

/// For each power of two: what each value of each four bits of the register becomes after so many zero bytes.
type Shift = [[u32; 16]; NIBBLES];

static SHIFTS: [Shift; POWERS] = shifts();

/// Checksum of `a` followed by `b`, from theirs and the length of `b` in bytes.
///
/// # Panics
/// When `b_len` is 16 MiB or more, which no flush is.
pub(crate) fn join(a: u32, b: u32, b_len: usize) -> u32 {
    assert!(b_len < 1 << POWERS, "only parts of a flush are joined");
    let mut register = a;
    for (power, shift) in SHIFTS.iter().enumerate() {
        if b_len >> power == 0 {
            break;
        }
        if b_len >> power & 1 == 1 {
            register = apply(shift, register);
        }
    }
    register ^ b
}

#[inline]
#[expect(clippy::indexing_slicing, reason = "four bits index sixteen values")]
fn apply(shift: &Shift, register: u32) -> u32 {
    shift
        .iter()
        .enumerate()
        .fold(0, |sum, (nibble, values)| sum ^ values[(register >> (4 * nibble)) as usize & 15])
}

#[expect(clippy::indexing_slicing, reason = "computed at compile time: an index out of range does not build")]
#[expect(clippy::cast_possible_truncation, reason = "small counters")]
const fn shifts() -> [Shift; POWERS] {
    let mut all = [[[0; 16]; NIBBLES]; POWERS];
    let mut columns = one_zero_byte();
    let mut power = 0;
    while power < POWERS {
        let mut nibble = 0;
        while nibble < NIBBLES {
            let mut value = 0;
            while value < 16 {
                all[power][nibble][value] = times(&columns, (value as u32) << (4 * nibble as u32));
                value += 1;
            }
            nibble += 1;
        }
        columns = squared(&columns);
        power += 1;
    }
    all
}

/// The map of one zero byte, as what becomes of each single bit.
#[expect(clippy::indexing_slicing, reason = "computed at compile time: an index out of range does not build")]
const fn one_zero_byte() -> [u32; 32] {
    let mut columns = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        let mut register = 1u32 << bit;
        let mut step = 0;
        while step < 8 {
            register = if register & 1 == 1 { (register >> 1) ^ POLYNOMIAL } else { register >> 1 };
            step += 1;
        }
        columns[bit] = register;
        bit += 1;
    }
    columns
}

#[expect(clippy::indexing_slicing, reason = "computed at compile time: an index out of range does not build")]
const fn times(columns: &[u32; 32], register: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        if register >> bit & 1 == 1 {
            sum ^= columns[bit];
        }
        bit += 1;
    }
    sum
}

#[expect(clippy::indexing_slicing, reason = "computed at compile time: an index out of range does not build")]
const fn squared(columns: &[u32; 32]) -> [u32; 32] {
    let mut square = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        square[bit] = times(columns, columns[bit]);
        bit += 1;
    }
    square
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::join;

    proptest! {
        #[test]
        fn joining_equals_one_pass(a in prop::collection::vec(any::<u8>(), 0..300),
                                   b in prop::collection::vec(any::<u8>(), 0..70_000)) {
            let whole = crc32c::crc32c_append(crc32c::crc32c(&a), &b);
            prop_assert_eq!(join(crc32c::crc32c(&a), crc32c::crc32c(&b), b.len()), whole);
        }
    }

    #[test]
    fn lengths_of_every_power_of_two() {
        for power in 0..22 {
            let b = vec![0x5a; 1 << power];
            let whole = crc32c::crc32c_append(0x1234_5678, &b);
            assert_eq!(join(0x1234_5678, crc32c::crc32c(&b), b.len()), whole, "2^{power} bytes");
        }
    }
}
