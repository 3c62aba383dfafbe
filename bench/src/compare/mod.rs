//! `bench compare A B`: what changed from one result to another, and whether it is more than noise.

mod judge;
mod noise;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cli::CompareArgs;
use crate::outcome::{Outcome, print};
use crate::report::whole;
use judge::{Change, Comparison, compare};

/// Reads both results, compares them, prints what it found.
pub(crate) fn run(args: &CompareArgs, json: bool) -> Result<Outcome> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let comparison = compare(&before, &after, args.tolerance / 100.0);
    ensure!(
        !comparison.changes.is_empty(),
        "{} and {} have no figure in common",
        args.before.display(),
        args.after.display()
    );
    let value = json!({
        "before": args.before, "after": args.after, "differences": comparison.differences,
        "changes": comparison.changes, "verdict": comparison.verdict(),
    });
    print(&value, || table(&comparison), args.json.as_deref(), json)?;
    let failed = args.fail_if_worse && comparison.any_worse();
    Ok(if failed { Outcome::Failed } else { Outcome::Passed })
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    ensure!(
        value.get("command").is_some_and(Value::is_string),
        "{} is not a result of `equeue bench --json`",
        path.display()
    );
    Ok(value)
}

/// The table for people.
fn table(comparison: &Comparison) -> String {
    let mut text = String::new();
    for difference in &comparison.differences {
        let _ = writeln!(text, "DIFFERENT {difference}");
    }
    let _ = writeln!(
        text,
        "{:<26}{:>14}{:>14}{:>8}{:>9}  verdict",
        "figure", "before", "after", "ratio", "noise"
    );
    for change in &comparison.changes {
        let Change { figure, before, after, ratio, noise, verdict } = change;
        let noise = format!("±{:.1} %", noise * 100.0);
        let _ = writeln!(
            text,
            "{figure:<26}{:>14}{:>14}{ratio:>8.3}{noise:>9}  {}",
            number(*before),
            number(*after),
            verdict.name()
        );
    }
    let _ = writeln!(text, "{}", comparison.verdict());
    text
}

/// Whole where that is enough.
fn number(value: f64) -> String {
    if value.abs() >= 100.0 { whole(value) } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_ends_with_its_verdict_and_exit_code() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, rate: f64| {
            let path = dir.path().join(name);
            let result = json!({"command": "produce", "messages_per_second": rate, "messages": 100});
            fs::write(&path, result.to_string()).expect("written");
            path
        };
        let args = CompareArgs {
            before: write("a.json", 1000.0),
            after: write("b.json", 500.0),
            tolerance: 3.0,
            fail_if_worse: true,
            json: Some(dir.path().join("c.json")),
        };
        assert_eq!(run(&args, false).expect("compared"), Outcome::Failed);
        let written = fs::read_to_string(dir.path().join("c.json")).expect("written");
        assert!(written.contains("\"verdict\": \"worse\""), "{written}");
        let kinder = CompareArgs { fail_if_worse: false, ..args.clone() };
        assert_eq!(run(&kinder, false).expect("compared"), Outcome::Passed);
        let same = CompareArgs { after: args.before.clone(), ..args.clone() };
        assert_eq!(run(&same, false).expect("compared"), Outcome::Passed);
        fs::write(&args.after, "[]").expect("written");
        assert!(run(&args, false).is_err(), "not a result");
    }
}
