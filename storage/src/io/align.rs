//! Rounding to the grain of direct I/O.

use super::ALIGN;

const ALIGN_BYTES: u64 = ALIGN as u64;

/// The next multiple of [`ALIGN`] at or above `bytes`. Saturates at the largest multiple there is.
pub const fn align_up(bytes: u64) -> u64 {
    match bytes.checked_next_multiple_of(ALIGN_BYTES) {
        Some(aligned) => aligned,
        None => align_down(u64::MAX),
    }
}

/// The multiple of [`ALIGN`] at or below `bytes`.
pub const fn align_down(bytes: u64) -> u64 {
    bytes - bytes % ALIGN_BYTES
}

/// Whether direct I/O takes it as a position or length.
pub const fn is_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(ALIGN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding() {
        assert_eq!([0, 1, 4095, 4096, 4097].map(align_up), [0, 4096, 4096, 4096, 8192]);
        assert_eq!([0, 1, 4095, 4096, 4097].map(align_down), [0, 0, 0, 4096, 4096]);
        assert!(is_aligned(align_up(u64::MAX)) && is_aligned(0) && !is_aligned(512));
    }
}
