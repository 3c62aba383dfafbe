//! Every command against a real broker, with every body verified.

mod common;

use std::path::Path;

use clap::Parser;
use common::Cluster;
use equeue_bench::Outcome;
use equeue_bench::cli::BenchArgs;
use serde_json::Value;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    bench: BenchArgs,
}

fn bench(line: &str, json: &Path) -> (Outcome, Value) {
    let line = format!("bench {line} --json {}", json.display());
    let command = Command::try_parse_from(line.split_whitespace()).expect("understood");
    let outcome = equeue_bench::run(&command.bench).expect("measured");
    let text = std::fs::read_to_string(json).expect("written");
    (outcome, serde_json::from_str(&text).expect("JSON"))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn assert_clean(result: &Value) {
    for key in ["lost", "duplicated", "reordered", "corrupted"] {
        assert_eq!(result[key], 0, "{key}: {result:#}");
    }
    assert_eq!(result["errors"], serde_json::json!({}), "{result:#}");
}

#[test]
fn produce_counts_what_was_acknowledged() {
    let (cluster, dir) = (Cluster::start(), folder());
    let options = "--producers 3 --queues 2 --size 100-300 --messages 3000 --warmup 0";
    let line = format!(
        "produce --nameserver {} {options} --assert messages==3000 --assert p99>0",
        cluster.nameserver()
    );
    let (outcome, result) = bench(&line, &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert!(result["broker_cpu_seconds"].is_f64(), "{result:#}");
    assert!(result["lost"].is_null());
    let (outcome, _) = bench(&format!("{line} --assert messages>3000"), &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Failed);
}

#[test]
fn both_receives_everything_that_was_acknowledged() {
    let (cluster, dir) = (Cluster::start(), folder());
    for more in [
        "--producers 2 --consumers 2 --messages 4000",
        "--duration 1 --sync-send",
        "--duration 1 --spread message",
    ] {
        let line = format!(
            "both --nameserver {} --queues 4 --size 64-2000 --warmup 0 --verify {more}",
            cluster.nameserver()
        );
        let (outcome, result) = bench(&line, &dir.path().join("result.json"));
        assert_eq!(outcome, Outcome::Passed, "{result:#}");
        assert_clean(&result);
        assert!(result["end_to_end_us"]["p50"].is_f64(), "{result:#}");
        assert!(result["consumed"]["messages"].as_u64() >= result["messages"].as_u64(), "{result:#}");
    }
}

#[test]
fn consume_drains_its_backlog_and_one_that_was_there() {
    let (cluster, dir) = (Cluster::start(), folder());
    let json = dir.path().join("result.json");
    let common = format!("consume --nameserver {} --topic backlog --queues 3 --verify", cluster.nameserver());
    let (outcome, result) = bench(&format!("{common} --messages 5000 --size 200"), &json);
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    assert_eq!(result["messages"], 5000);
    assert_eq!(result["bytes"], 1_000_000);
    let (outcome, result) = bench(&format!("{common} --no-fill --consumers 2"), &json);
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    assert_eq!(result["messages"], 5000);
}

#[test]
fn latency_keeps_its_rate_and_tells_every_second() {
    let (cluster, dir) = (Cluster::start(), folder());
    let line = format!(
        "latency --nameserver {} --rate 500 --duration 2 --warmup 0.5 --verify",
        cluster.nameserver()
    );
    let (outcome, result) = bench(&line, &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    let rate = result["messages_per_second"].as_f64().expect("a rate");
    assert!((450.0..=550.0).contains(&rate), "{result:#}");
    for key in ["latency_us", "service_us", "lateness_us", "end_to_end_us"] {
        assert!(result[key]["p99"].is_f64(), "{key}: {result:#}");
    }
    assert!(result["per_second"][0]["latency_us"]["p50"].is_f64(), "{result:#}");
}
