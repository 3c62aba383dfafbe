//! Sizes of bodies: what `--size` understands, and how sizes are drawn. Pure but for reading a histogram's file.
//!
//! | written | sizes |
//! |---|---|
//! | `1000` | all alike |
//! | `100-2000` | any size of the range, equally often |
//! | `lognormal:MEDIAN:SIGMA[:MAX]` | many small ones, few large ones: the logarithm is normal; cut at MAX (16 medians) |
//! | `file:PATH` | those of a file with `BYTES COUNT` in each line, as often as their counts say |

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;

use rand::Rng;
use rand::RngExt as _;
use rand_distr::{Distribution as _, LogNormal};

use crate::stamp::BODY_BYTES_MIN;

/// Sizes of the bodies of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Smallest that is drawn.
    pub low: usize,
    /// Largest that is drawn.
    pub high: usize,
    mean: usize,
    shape: Shape,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Even,
    LogNormal(LogNormal<f64>),
    /// Sizes with the sum of the counts up to each, ascending.
    Histogram(Arc<[(usize, u64)]>),
}

impl Sizes {
    /// Largest body that a run sends: 1 MiB less room for what surrounds it.
    pub const HIGH_MAX: usize = (1 << 20) - 4096;
    /// Lines of a histogram file at the most.
    const LINES_MAX: usize = 100_000;
    /// A lognormal is cut at so many medians unless told otherwise.
    const MEDIANS_MAX: usize = 16;

    /// Every size of a range, equally often.
    ///
    /// # Errors
    /// When it is empty or goes beyond what a message can hold.
    pub fn range(low: usize, high: usize) -> Result<Self, String> {
        let text = if low == high { low.to_string() } else { format!("{low}-{high}") };
        Self { low, high, mean: usize::midpoint(low, high), shape: Shape::Even, text }.checked()
    }

    /// Every body can carry what the verifier and the end-to-end clock need.
    #[must_use]
    pub const fn carries_stamp(&self) -> bool {
        self.low >= BODY_BYTES_MIN
    }

    /// Mean size.
    #[must_use]
    pub const fn mean(&self) -> usize {
        self.mean
    }

    /// The next size.
    pub fn draw(&self, random: &mut impl Rng) -> usize {
        match &self.shape {
            Shape::Even if self.low == self.high => self.low,
            Shape::Even => random.random_range(self.low..=self.high),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a size is positive, and is cut right after"
            )]
            Shape::LogNormal(distribution) => {
                (distribution.sample(random) as usize).clamp(self.low, self.high)
            }
            Shape::Histogram(sums) => {
                let total = sums.last().map_or(1, |(_, sum)| *sum);
                let drawn = random.random_range(0..total);
                let at = sums.partition_point(|(_, sum)| *sum <= drawn);
                sums.get(at).map_or(self.high, |(size, _)| *size)
            }
        }
    }

    fn checked(self) -> Result<Self, String> {
        if self.low == 0 || self.low > self.high {
            return Err(format!("sizes go from at least 1 upwards, not {}-{}", self.low, self.high));
        }
        if self.high > Self::HIGH_MAX {
            return Err(format!("the largest body of a run is {} bytes", Self::HIGH_MAX));
        }
        Ok(self)
    }

    fn lognormal(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (median, sigma, max) = match parts.as_slice() {
            [median, sigma] => (number(median)?, sigma, None),
            [median, sigma, max] => (number(median)?, sigma, Some(number(max)?)),
            _ => {
                return Err(format!(
                    "`lognormal:{text}` is not lognormal:MEDIAN:SIGMA or lognormal:MEDIAN:SIGMA:MAX"
                ));
            }
        };
        let sigma: f64 = sigma.parse().map_err(|_| format!("`{sigma}` is not a number"))?;
        if !(sigma > 0.0 && sigma <= 5.0) || median == 0 {
            return Err(format!(
                "a lognormal has a median of at least 1 and a sigma above 0 and up to 5, not {text}"
            ));
        }
        let high = max.unwrap_or_else(|| (median.saturating_mul(Self::MEDIANS_MAX)).min(Self::HIGH_MAX));
        #[expect(clippy::cast_precision_loss, reason = "sizes are below 2^20")]
        let distribution = LogNormal::new((median as f64).ln(), sigma).map_err(|error| error.to_string())?;
        let low = BODY_BYTES_MIN.min(median);
        let mut sizes = Self {
            low,
            high,
            mean: median,
            shape: Shape::LogNormal(distribution),
            text: format!("lognormal:{text}"),
        }
        .checked()?;
        sizes.mean = sizes.drawn_mean();
        Ok(sizes)
    }

    fn histogram(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("reading {path}: {error}"))?;
        let (sums, bytes) = parse_histogram(&text).map_err(|error| format!("{path}: {error}"))?;
        let (Some((low, _)), Some((high, total))) = (sums.first().copied(), sums.last().copied()) else {
            return Err(format!("{path} holds no size"));
        };
        let mean = usize::try_from(bytes / u128::from(total)).unwrap_or(high);
        Self { low, high, mean, shape: Shape::Histogram(sums.into()), text: format!("file:{path}") }.checked()
    }

    /// Mean of many draws with a fixed seed: cutting a lognormal moves its mean.
    fn drawn_mean(&self) -> usize {
        const DRAWS: usize = 20_000;
        let mut random: rand::rngs::SmallRng = rand::SeedableRng::seed_from_u64(1);
        (0..DRAWS).map(|_| self.draw(&mut random)).sum::<usize>() / DRAWS
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.trim().parse::<usize>().map_err(|_| format!("`{text}` is not a number of bytes"))
}

/// Sizes with running sums of their counts, ascending, and the bytes of all.
fn parse_histogram(text: &str) -> Result<(Vec<(usize, u64)>, u128), String> {
    let mut counts = std::collections::BTreeMap::<usize, u64>::new();
    for (line, content) in (1..).zip(text.lines()) {
        if line > Sizes::LINES_MAX {
            return Err(format!("more than {} lines", Sizes::LINES_MAX));
        }
        let content = content.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let wrong = || format!("line {line}: `{content}` is not BYTES COUNT");
        let (size, count) = content.split_once(|c: char| c.is_whitespace() || c == ',').ok_or_else(wrong)?;
        let (size, count) =
            (number(size).map_err(|_| wrong())?, count.trim().parse::<u32>().map_err(|_| wrong())?);
        if count > 0 {
            *counts.entry(size).or_insert(0) += u64::from(count);
        }
    }
    let (mut sum, mut bytes) = (0, 0);
    let sums = counts
        .into_iter()
        .map(|(size, count)| {
            sum += count;
            bytes += size as u128 * u128::from(count);
            (size, sum)
        })
        .collect();
    Ok((sums, bytes))
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("lognormal:") {
            return Self::lognormal(rest);
        }
        if let Some(path) = text.strip_prefix("file:") {
            return Self::histogram(path);
        }
        match text.split_once('-') {
            Some((low, high)) => Self::range(number(low)?, number(high)?),
            None => Self::range(number(text)?, number(text)?),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    fn draws(sizes: &Sizes) -> Vec<usize> {
        let mut random = SmallRng::seed_from_u64(7);
        let mut drawn: Vec<usize> = (0..20_000).map(|_| sizes.draw(&mut random)).collect();
        drawn.sort_unstable();
        drawn
    }

    #[test]
    fn ranges() {
        let sizes: Sizes = "7".parse().expect("a size");
        assert_eq!((sizes.low, sizes.high, sizes.mean(), sizes.to_string().as_str()), (7, 7, 7, "7"));
        assert!(!sizes.carries_stamp());
        let sizes: Sizes = "30-33".parse().expect("a range");
        let drawn = draws(&sizes);
        assert_eq!((drawn[0], drawn[drawn.len() - 1]), (30, 33));
        for bad in
            ["0", "9-3", "x", "1-", "99999999", "lognormal:", "lognormal:0:1", "lognormal:9:-1", "file:/none"]
        {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lognormal_has_its_median_and_is_cut() {
        let sizes: Sizes = "lognormal:1000:1".parse().expect("sizes");
        let drawn = draws(&sizes);
        let median = drawn[drawn.len() / 2];
        assert!((950..1050).contains(&median), "{median}");
        assert_eq!((sizes.high, drawn[drawn.len() - 1]), (16_000, 16_000));
        // exp(mu + sigma^2 / 2) is 1,649 before the cut.
        assert!((1550..1650).contains(&sizes.mean()), "{}", sizes.mean());
        assert!(sizes.carries_stamp());
        assert_eq!("lognormal:100:2:300".parse::<Sizes>().expect("sizes").high, 300);
    }

    #[test]
    fn a_histogram_is_drawn_as_it_is_counted() {
        let (sums, bytes) = parse_histogram("# sizes\n100 3\n1000,1 # large\n\n50 0\n").expect("parses");
        assert_eq!((sums.as_slice(), bytes), (&[(100, 3), (1000, 4)][..], 1300));
        for bad in ["1", "x 1", "1 -1", "1 2 3"] {
            assert!(parse_histogram(bad).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sizes");
        std::fs::write(&path, "100 3\n1000 1\n").expect("written");
        let sizes: Sizes = format!("file:{}", path.display()).parse().expect("sizes");
        let drawn = draws(&sizes);
        let large = drawn.iter().filter(|size| **size == 1000).count();
        assert!(
            drawn.iter().all(|size| [100, 1000].contains(size)) && (4700..5300).contains(&large),
            "{large}"
        );
        assert_eq!(sizes.mean(), 325);
        std::fs::write(&path, "\n").expect("written");
        assert!(format!("file:{}", path.display()).parse::<Sizes>().is_err());
    }
}
