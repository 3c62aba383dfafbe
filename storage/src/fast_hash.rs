//! A hasher for keys that this broker made itself: queue keys, positions.
//!
//! One multiplication with a random odd number and a fold (as in `FxHash`, with the high bits brought down). Nobody
//! outside chooses such keys; for those that a client chooses, use the standard library's hasher.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with keys that this broker made.
pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// See the file's own text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FastHasher {
    hash: u64,
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.hash.rotate_left(5) ^ word) * u128::from(FACTOR);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        {
            self.hash = (product as u64) ^ ((product >> 64) as u64);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::Hash;

    use super::*;

    #[test]
    fn neighbours_spread_in_low_and_high_bits() {
        let hash = |key: u64| {
            let mut hasher = FastHasher::default();
            key.hash(&mut hasher);
            hasher.finish()
        };
        // A table takes buckets from the low bits and tags from the upper seven.
        let low: HashSet<_> = (0..1024).map(|n| hash((77 << 40) + n) & 1023).collect();
        let high: HashSet<_> = (0..1024).map(|n| hash((77 << 40) + n) >> 57).collect();
        assert!(low.len() > 512 && high.len() > 100, "{} {}", low.len(), high.len());
    }
}
