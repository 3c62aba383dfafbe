//! Hashes that clients and brokers must compute alike: of keys (which queue) and of tags (which filter).

/// Seed of Kafka's `murmur2`.
const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// `MurmurHash2` as Kafka's clients use it for keys (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(bytes: &[u8]) -> u32 {
    // Kafka truncates the length to 32 bits in the same way.
    #[expect(clippy::cast_possible_truncation, reason = "as in Kafka's clients")]
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (byte, shift) in tail.iter().zip([0, 8, 16]) {
            hash ^= u32::from(*byte) << shift;
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Positive hash of a key: `key_hash(key) % queues` is its queue's ordinal, the same as a Kafka client's partition.
pub fn key_hash(key: &[u8]) -> u32 {
    murmur2(key) & 0x7fff_ffff
}

/// Hash of a tag for the broker's filter; never 0, which stands for "no tag".
pub fn tag_hash(tag: &str) -> u32 {
    murmur2(tag.as_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_kafka() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn a_tag_never_hashes_to_no_tag() {
        assert!((0..10_000).all(|number| tag_hash(&format!("tag-{number}")) != 0));
        assert_ne!(tag_hash(""), 0);
    }
}
