//! Which figures two results have in common, and what became of each. Pure.

use serde::Serialize;
use serde_json::Value;

use super::noise::noise;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// By more than noise.
    Better,
    /// Within noise.
    Same,
    /// By more than noise.
    Worse,
}

impl Verdict {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Same => "same",
            Self::Worse => "WORSE",
        }
    }
}

/// One figure in both results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Change {
    pub(super) figure: &'static str,
    pub(super) before: f64,
    pub(super) after: f64,
    /// After over before.
    pub(super) ratio: f64,
    /// Ratios from 1 - noise to 1 + noise are chance.
    pub(super) noise: f64,
    pub(super) verdict: Verdict,
}

/// Everything that two results tell about each other.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// What was not alike in the two runs: options, machine, faults.
    pub(super) differences: Vec<String>,
    pub(super) changes: Vec<Change>,
}

impl Comparison {
    pub(super) fn any_worse(&self) -> bool {
        self.changes.iter().any(|change| change.verdict == Verdict::Worse)
    }

    /// In one word: `better`, `same`, `worse`, `mixed`.
    pub(super) fn verdict(&self) -> &'static str {
        let any = |verdict| self.changes.iter().any(|change| change.verdict == verdict);
        match (any(Verdict::Better), any(Verdict::Worse)) {
            (true, true) => "mixed",
            (true, false) => "better",
            (false, true) => "worse",
            (false, false) => "same",
        }
    }
}

/// Figures that are judged; those that are better when higher first.
const FIGURES: [(&str, bool); 13] = [
    ("messages_per_second", true),
    ("consumed.messages_per_second", true),
    ("max_rate.rate", true),
    ("latency_us.p50", false),
    ("latency_us.p99", false),
    ("latency_us.p99_9", false),
    ("service_us.p99", false),
    ("end_to_end_us.p50", false),
    ("end_to_end_us.p99", false),
    ("end_to_end_us.p99_9", false),
    ("broker_cpu_us_per_message", false),
    ("client_cpu_us_per_message", false),
    ("disk.written_per_byte", false),
];

/// Compares what is in both; differences up to `tolerance` (a share) are never more than noise.
pub(super) fn compare(before: &Value, after: &Value, tolerance: f64) -> Comparison {
    let change = |&(figure, higher_is_better): &(&'static str, bool)| {
        let (old, new) = (lookup(before, figure)?, lookup(after, figure)?);
        if old <= 0.0 {
            return None;
        }
        let ratio = new / old;
        // At a fixed rate the throughput is given: only falling short of it tells something.
        let (one, other) = (noise(before, figure), noise(after, figure));
        let noise = tolerance + one.hypot(other);
        let verdict = if (ratio - 1.0).abs() <= noise {
            Verdict::Same
        } else if (ratio > 1.0) == higher_is_better {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        Some(Change { figure, before: old, after: new, ratio, noise, verdict })
    };
    Comparison {
        differences: differences(before, after),
        changes: FIGURES.iter().filter_map(change).collect(),
    }
}

fn lookup(result: &Value, figure: &str) -> Option<f64> {
    let number = |path: &str| path.split('.').try_fold(result, |value, key| value.get(key))?.as_f64();
    let per_message = |seconds: &str| {
        let messages = number("messages").filter(|messages| *messages > 0.0)?;
        Some(number(seconds)? / messages * 1e6)
    };
    match figure {
        "broker_cpu_us_per_message" => per_message("broker_cpu_seconds"),
        "client_cpu_us_per_message" => per_message("client_cpu_seconds"),
        other => number(other),
    }
}

/// What makes two results hard to compare.
fn differences(before: &Value, after: &Value) -> Vec<String> {
    /// Options that say where a run was, not what it was.
    const PLACES: [&str; 2] = ["topic", "nameserver"];
    let mut found = Vec::new();
    let mut note = |name: &str, one: Option<&Value>, other: Option<&Value>| {
        let text = |value: Option<&Value>| value.map_or_else(|| "-".to_owned(), Value::to_string);
        if one != other {
            found.push(format!("{name}: {} and {}", text(one), text(other)));
        }
    };
    for key in ["command", "kernel", "cpu", "cores"] {
        note(key, before.get(key), after.get(key));
    }
    let mount = |result: &Value| result.pointer("/environment/data/file_system").cloned();
    note("file system", mount(before).as_ref(), mount(after).as_ref());
    let config =
        |result: &Value| result.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    let (one, other) = (config(before), config(after));
    let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys.into_iter().filter(|key| !PLACES.contains(&key.as_str())) {
        note(key, one.get(key), other.get(key));
    }
    for (name, result) in [("before", before), ("after", after)] {
        let warnings = result.get("warnings").and_then(Value::as_array);
        for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
            found.push(format!("warning of the run {name}: {warning}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(rate: f64, p99: f64) -> Value {
        json!({"command": "produce", "cores": 2, "config": {"size": "1000", "topic": rate.to_string()},
               "messages": 1000, "messages_per_second": rate, "latency_us": {"p99": p99},
               "broker_cpu_seconds": 0.5, "end_to_end_us": null})
    }

    fn verdicts(after: &Value) -> Vec<(&'static str, Verdict)> {
        let comparison = compare(&result(1000.0, 50.0), after, 0.05);
        comparison.changes.iter().map(|change| (change.figure, change.verdict)).collect()
    }

    #[test]
    fn higher_rates_and_lower_latencies_are_better() {
        use Verdict::{Better, Same, Worse};
        let of = |rate, p99| {
            [("messages_per_second", rate), ("latency_us.p99", p99), ("broker_cpu_us_per_message", Same)]
        };
        assert_eq!(verdicts(&result(1040.0, 52.0)), of(Same, Same));
        assert_eq!(verdicts(&result(1100.0, 60.0)), of(Better, Worse));
        assert_eq!(verdicts(&result(900.0, 40.0)), of(Worse, Better));
        assert_eq!(compare(&result(1.0, 1.0), &result(2.0, 2.0), 0.0).verdict(), "mixed");
        assert_eq!(compare(&result(1.0, 1.0), &result(1.0, 1.0), 0.0).verdict(), "same");
    }

    #[test]
    fn noise_widens_what_is_the_same() {
        let noisy = |rate: f64| {
            let mut result = result(rate, 50.0);
            result["per_second"] = [500, 1500, 500, 1500, 0].map(|n| json!({"acknowledged": n})).into();
            result
        };
        let change = compare(&noisy(1000.0), &noisy(1300.0), 0.05).changes.remove(0);
        assert!(change.noise > 0.5 && change.verdict == Verdict::Same, "{change:?}");
    }

    #[test]
    fn unlike_runs_are_told() {
        let mut other = result(1000.0, 50.0);
        other["config"]["size"] = "100".into();
        other["cores"] = 4.into();
        other["warnings"] = json!(["a debug build"]);
        let comparison = compare(&result(1000.0, 50.0), &other, 0.05);
        assert_eq!(
            comparison.differences,
            ["cores: 2 and 4", "size: \"1000\" and \"100\"", "warning of the run after: a debug build"]
        );
    }
}
