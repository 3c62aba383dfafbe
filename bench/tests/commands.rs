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
    let outcome = equeue_bench::run(&command.bench, false).expect("measured");
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

/// A measurement is alone on the machine, as far as this file can see to it.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn produce_counts_what_was_acknowledged() {
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
    let (cluster, dir) = (Cluster::start(), folder());
    let line = format!(
        "latency --nameserver {} --rate 500 --duration 2 --warmup 0.5 --verify",
        cluster.nameserver()
    );
    let (outcome, result) = bench(&line, &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    let rate = result["messages_per_second"].as_f64().expect("a rate");
    // What a machine that stood still in the warm-up left behind comes on top: a quarter of the load at the most.
    assert!((450.0..=640.0).contains(&rate), "{result:#}");
    for key in ["latency_us", "service_us", "publish_delay_us", "end_to_end_us"] {
        assert!(result[key]["p99"].is_f64(), "{key}: {result:#}");
    }
    for key in ["response", "service", "publish_delay", "end_to_end"] {
        assert!(result["curves"][key].as_array().is_some_and(|curve| curve.len() > 3), "{key}: {result:#}");
    }
    assert!(result["environment"]["command_line"].is_string(), "{result:#}");
    assert!(result["per_second"][0]["latency_us"]["p50"].is_f64(), "{result:#}");
}

#[test]
fn produce_reads_back_what_it_is_to_verify() {
    let _alone = alone();
    let (cluster, dir) = (Cluster::start(), folder());
    let line = format!("produce --nameserver {} --messages 2000 --warmup 0 --verify", cluster.nameserver());
    let (outcome, result) = bench(&line, &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    assert_eq!(result["messages"], 2000);
}

#[test]
fn topics_keys_and_sizes_are_mixed_and_verified() {
    let _alone = alone();
    let (cluster, dir) = (Cluster::start(), folder());
    let sizes = dir.path().join("sizes");
    std::fs::write(&sizes, "100 9\n5000 1\n").expect("written");
    for more in [
        "--topics 3 --queues 2 --producers 2 --keys zipf:100 --size lognormal:300:1".to_owned(),
        format!("--topics 2 --queues 3 --producers 3 --keys uniform:10 --size file:{}", sizes.display()),
    ] {
        let line =
            format!("both --nameserver {} --messages 3000 --warmup 0 --verify {more}", cluster.nameserver());
        let (outcome, result) = bench(&line, &dir.path().join("result.json"));
        assert_eq!(outcome, Outcome::Passed, "{result:#}");
        assert_clean(&result);
        assert!(result["consumed"]["messages"].as_u64() >= Some(3000), "{result:#}");
    }
}

#[test]
fn a_backlog_is_drained_while_producers_go_on() {
    let _alone = alone();
    let (cluster, dir) = (Cluster::start(), folder());
    let line = format!(
        "latency --nameserver {} --rate 2000 --duration 3 --warmup 0.2 --backlog 1 --verify",
        cluster.nameserver()
    );
    let (outcome, result) = bench(&line, &dir.path().join("result.json"));
    assert_eq!(outcome, Outcome::Passed, "{result:#}");
    assert_clean(&result);
    let backlog = &result["backlog"];
    assert!(backlog["messages"].as_u64().is_some_and(|messages| messages >= 1500), "{result:#}");
    assert!(backlog["drained_after_seconds"].is_f64(), "{result:#}");
    assert!(
        result["end_to_end_us"]["max"].as_f64().is_some_and(|us| us > 500_000.0),
        "they waited: {result:#}"
    );
}

#[test]
fn rates_are_swept_and_the_highest_is_searched() {
    let _alone = alone();
    let (cluster, dir) = (Cluster::start(), folder());
    let json = dir.path().join("result.json");
    let (hlog, html) = (dir.path().join("run.hlog"), dir.path().join("run.html"));
    let common = format!(
        "latency --nameserver {} --duration 0.5 --warmup 0.1 --p99-max 3000000",
        cluster.nameserver()
    );
    let files = format!("--hlog {} --html {}", hlog.display(), html.display());
    let (_, result) = bench(&format!("{common} --sweep 200,400 {files}"), &json);
    let rates: Vec<_> = result["runs"].as_array().expect("runs").iter().map(|run| &run["rate"]).collect();
    assert_eq!(rates, [200, 400], "{result:#}");
    let log = std::fs::read_to_string(&hlog).expect("written");
    for tag in ["Tag=response,", "Tag=service,", "Tag=publish_delay,", "Tag=end_to_end,"] {
        assert!(log.contains(tag), "{tag}: {log}");
    }
    let page = std::fs::read_to_string(&html).expect("written");
    assert!(page.contains("\"messages_per_second\":") && page.ends_with("</html>\n"));
    // A bound that nothing can meet: halving finds that none is held, and ends.
    let impossible = common.replace("3000000", "1").replace("--duration 0.5", "--duration 1.2");
    let (_, result) = bench(&format!("{impossible} --find-max --rate 4"), &json);
    assert!(result["max_rate"]["rate"].is_null(), "{result:#}");
    assert_eq!(result["max_rate"]["above"], 1, "{result:#}");
}
