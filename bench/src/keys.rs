//! Keys of messages: what `--keys` understands, and how keys are drawn. Pure, and without an allocation per message.
//!
//! | written | keys |
//! |---|---|
//! | `none` | no message has one |
//! | `uniform:N` | N keys, equally often |
//! | `zipf:N[:S]` | N keys, the k-th of them 1/k^S as often as the first (S is 1) |

use std::fmt;
use std::str::FromStr;

use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

/// Which keys the messages of a run have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keys {
    /// None.
    #[default]
    None,
    /// So many, equally often.
    Uniform(u32),
    /// So many, by rank to this power.
    Zipf(u32, f64),
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(format!("`{text}` is not a number of keys")),
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["none"] => Ok(Self::None),
            ["uniform", keys] => Ok(Self::Uniform(count(keys)?)),
            ["zipf", keys] => Ok(Self::Zipf(count(keys)?, 1.0)),
            ["zipf", keys, exponent] => match exponent.parse::<f64>() {
                Ok(exponent) if exponent > 0.0 && exponent <= 10.0 => Ok(Self::Zipf(count(keys)?, exponent)),
                _ => Err(format!("`{exponent}` is not an exponent above 0 and up to 10")),
            },
            _ => Err(format!("`{text}` is none of none, uniform:N, zipf:N, zipf:N:S")),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Uniform(count) => write!(f, "uniform:{count}"),
            Self::Zipf(count, exponent) => write!(f, "zipf:{count}:{exponent}"),
        }
    }
}

/// Bytes of a key: `k` and eight hexadecimal digits.
const KEY_BYTES: usize = 9;

/// Draws the keys of one producer.
#[derive(Debug)]
pub struct KeyDraw {
    keys: Keys,
    zipf: Option<Zipf<f64>>,
    random: SmallRng,
    text: [u8; KEY_BYTES],
}

impl KeyDraw {
    /// The same seed gives the same keys.
    ///
    /// # Panics
    /// Never: what `Keys` can be parsed to are parameters of a distribution.
    #[must_use]
    pub fn new(keys: Keys, seed: u64) -> Self {
        let zipf = match keys {
            Keys::Zipf(count, exponent) => {
                Some(Zipf::new(f64::from(count), exponent).expect("count and exponent are above 0"))
            }
            Keys::None | Keys::Uniform(_) => None,
        };
        Self { keys, zipf, random: SmallRng::seed_from_u64(seed), text: *b"k00000000" }
    }

    /// The key of the next message.
    pub fn next_key(&mut self) -> Option<&[u8]> {
        let number = match (self.keys, &self.zipf) {
            (Keys::None, _) => return None,
            (Keys::Zipf(..), Some(zipf)) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rank from 1 to 2^32 - 1"
                )]
                let rank = zipf.sample(&mut self.random) as u32;
                rank.saturating_sub(1)
            }
            (Keys::Uniform(count) | Keys::Zipf(count, _), _) => self.random.random_range(0..count),
        };
        let mut rest = number;
        for place in self.text.iter_mut().skip(1).rev() {
            let digit = u8::try_from(rest & 0xf).unwrap_or(0);
            *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            rest >>= 4;
        }
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counts(text: &str) -> BTreeMap<Vec<u8>, u32> {
        let mut draw = KeyDraw::new(text.parse().expect("keys"), 3);
        let mut counts = BTreeMap::new();
        for _ in 0..30_000 {
            *counts.entry(draw.next_key().expect("a key").to_vec()).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn what_is_written_is_understood_and_told_again() {
        for text in ["none", "uniform:10", "zipf:1000:1.2"] {
            assert_eq!(text.parse::<Keys>().map(|keys| keys.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("zipf:5".parse(), Ok(Keys::Zipf(5, 1.0)));
        for bad in [
            "",
            "uniform",
            "uniform:0",
            "zipf:1:0",
            "zipf:1:x",
            "zipf:1:2:3",
            "normal:3",
            "uniform:4294967296",
        ] {
            assert!(bad.parse::<Keys>().is_err(), "{bad}");
        }
        assert_eq!(KeyDraw::new(Keys::None, 1).next_key(), None);
    }

    #[test]
    fn uniform_keys_are_alike() {
        let counts = counts("uniform:17");
        assert_eq!(counts.len(), 17);
        assert!(counts.contains_key(b"k00000010".as_slice()), "the last one in hexadecimal");
        assert!(counts.values().all(|count| (1500..2050).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_keys_follow_their_rank() {
        let counts = counts("zipf:100");
        let of = |rank: u32| f64::from(counts[format!("k{:08x}", rank - 1).as_bytes()]);
        assert!((1.7..2.3).contains(&(of(1) / of(2))), "{counts:?}");
        assert!((8.0..12.5).contains(&(of(1) / of(10))), "{counts:?}");
        assert_eq!(counts.len(), 100);
    }
}
