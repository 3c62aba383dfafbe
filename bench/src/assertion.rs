//! What `--assert` demands of a result: `PATH OP NUMBER`. Pure.
//!
//! A path is a key of the JSON result, with dots into its objects (`end_to_end_us.p99`); a bare percentile (`p99`,
//! `max`) is one of `latency_us`. A path that the result does not have fails: a misspelt demand must not pass.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// One demand.
#[derive(Clone, Debug, PartialEq)]
pub struct Assertion {
    path: String,
    operator: Operator,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

impl Operator {
    /// Longer ones first: `<=` begins with `<`.
    const ALL: [(&'static str, Self); 5] = [
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("==", Self::Equal),
        ("<", Self::Less),
        (">", Self::Greater),
    ];

    fn holds(self, found: f64, limit: f64) -> bool {
        match self {
            Self::Less => found < limit,
            Self::LessOrEqual => found <= limit,
            Self::Greater => found > limit,
            Self::GreaterOrEqual => found >= limit,
            Self::Equal => (found - limit).abs() <= f64::EPSILON * limit.abs(),
        }
    }

    fn text(self) -> &'static str {
        Self::ALL.iter().find(|(_, operator)| *operator == self).map_or("", |(text, _)| text)
    }
}

/// Percentile names that stand for a key of `latency_us`.
pub const PERCENTILES: [&str; 6] = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];

impl Assertion {
    /// Checks a result.
    ///
    /// # Errors
    /// Says what was found instead, or that the result has no such number.
    pub fn check(&self, result: &Value) -> Result<(), String> {
        let found =
            self.lookup(result).ok_or_else(|| format!("{self}: the result has no number `{}`", self.path))?;
        if self.operator.holds(found, self.limit) { Ok(()) } else { Err(format!("{self}: it is {found}")) }
    }

    fn lookup(&self, result: &Value) -> Option<f64> {
        if PERCENTILES.contains(&self.path.as_str()) {
            return result.get("latency_us")?.get(&self.path)?.as_f64();
        }
        self.path.split('.').try_fold(result, |value, key| value.get(key))?.as_f64()
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>', '=']).ok_or_else(|| format!("`{text}` has none of < <= > >= =="))?;
        let (path, rest) = text.split_at(at);
        let (operator, number) = Operator::ALL
            .iter()
            .find_map(|(sign, operator)| rest.strip_prefix(sign).map(|number| (*operator, number)))
            .ok_or_else(|| format!("`{text}`: equality is written =="))?;
        let path = path.trim();
        let known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if path.is_empty() || !path.chars().all(known) {
            return Err(format!("`{path}` is not the name of a figure"));
        }
        match number.trim().parse::<f64>() {
            Ok(limit) if limit.is_finite() => Ok(Self { path: path.to_owned(), operator, limit }),
            _ => Err(format!("`{}` is not a number", number.trim())),
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.path, self.operator.text(), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, result: &Value) -> Result<(), String> {
        text.parse::<Assertion>().expect("parses").check(result)
    }

    #[test]
    fn holds_or_says_what_it_found() {
        let result = json!({"lost": 0, "messages_per_second": 1000.5, "latency_us": {"p99": 1500.0, "max": 9000},
                            "end_to_end_us": {"p50": 80}, "command": "produce"});
        for good in [
            "p99<2000",
            "p99 <= 1500",
            "max==9000",
            "lost==0",
            "messages_per_second>1000",
            "end_to_end_us.p50>=80",
        ] {
            assert_eq!(check(good, &result), Ok(()), "{good}");
        }
        for bad in ["p99<1500", "p99>1500", "lost>0", "max==8999", "messages_per_second<=1000"] {
            assert!(check(bad, &result).is_err(), "{bad}");
        }
        assert_eq!(check("p99<1000", &result), Err("p99<1000: it is 1500".to_owned()));
    }

    #[test]
    fn a_figure_that_is_not_there_fails() {
        let result = json!({"latency_us": {"p99": 1}, "end_to_end_us": null, "command": "produce"});
        for missing in
            ["p50<1", "p98<1", "latency_us<1", "end_to_end_us.p99<1", "command<1", "throughput>0", "a.b.c>0"]
        {
            assert!(check(missing, &result).is_err(), "{missing}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in
            ["", "p99", "p99=3", "<3", "p99<", "p99<x", "p99<nan", "p99<inf", "p 99<3", "p99<<3", "p99<3<4"]
        {
            assert!(bad.parse::<Assertion>().is_err(), "{bad}");
        }
    }
}
