//! How much of a difference between two runs is chance. Pure.
//!
//! A run's seconds are looked at as samples: twice the standard error of their mean is what the mean of another run of
//! the same thing may differ by (95 of 100 times). Seconds follow on each other and are not independent, so this is the
//! least noise that is assumed, not the most; a tolerance is added on top.

use serde_json::Value;

/// Share of its value by which a figure of a run may differ by chance; 0 when its seconds do not tell.
#[must_use]
pub(super) fn noise(result: &Value, figure: &str) -> f64 {
    relative_error(&samples(result, figure)).unwrap_or(0.0)
}

/// The figure second by second, without the last one, which is not whole.
fn samples(result: &Value, figure: &str) -> Vec<f64> {
    let seconds = result.get("per_second").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let whole = seconds.get(..seconds.len().saturating_sub(1)).unwrap_or_default();
    let path: Vec<&str> = match figure {
        "messages_per_second" | "mb_per_second" => {
            let consumes = result.get("command").is_some_and(|command| command == "consume");
            vec![if consumes { "received" } else { "acknowledged" }]
        }
        "consumed.messages_per_second" => vec!["received"],
        "broker_cpu_us_per_message" => vec!["broker_cpu_seconds"],
        "client_cpu_us_per_message" => vec!["client_cpu_seconds"],
        other => other.split('.').collect(),
    };
    let of = |second: &Value| path.iter().try_fold(second, |value, key| value.get(key))?.as_f64();
    whole.iter().filter_map(of).collect()
}

/// Twice the standard error over the mean.
#[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
fn relative_error(samples: &[f64]) -> Option<f64> {
    const SAMPLES_MIN: usize = 3;
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    let variance = samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean > 0.0).then(|| 2.0 * (variance / count).sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn noise_is_that_of_the_whole_seconds() {
        let second = |rate: u64, p99: f64| json!({"acknowledged": rate, "latency_us": {"p99": p99}});
        let result = json!({"command": "produce", "per_second":
            [second(90, 10.0), second(110, 10.0), second(90, 10.0), second(110, 10.0), second(1, 500.0)]});
        // Standard deviation 11.55, standard error 5.77, twice that over 100.
        assert!((noise(&result, "messages_per_second") - 0.1155).abs() < 0.001);
        assert!(noise(&result, "latency_us.p99").abs() < 1e-9);
        assert!(noise(&result, "end_to_end_us.p99").abs() < 1e-9, "not there");
        assert!(noise(&json!({}), "messages_per_second").abs() < 1e-9);
    }
}
