//! What a run came to, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use super::judge::Findings;
use super::load::Sent;
use super::watch::Seen;
use crate::say;

/// A run.
pub(super) struct Outcome {
    pub(super) sent: Sent,
    pub(super) findings: Findings,
    pub(super) seen: Seen,
    pub(super) settle_time: Duration,
    pub(super) restarts: u32,
    pub(super) faults: BTreeMap<&'static str, u32>,
}

impl Outcome {
    /// Tells it.
    pub(super) fn tell(&self) {
        let Self { sent, findings, seen, .. } = self;
        let row = |name: &str, text: String| say(&format!("{name:<22}{text}"));
        let counts = |of: &BTreeMap<&str, u32>| -> String {
            of.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        row("messages", format!("{} sent, {} acknowledged", sent.below, sent.acknowledged.len()));
        for (group, handled) in &findings.handled {
            row(group, format!("{handled} handled"));
            for (reason, count) in findings.again.get(group).into_iter().flatten() {
                row("  handled once more", format!("{count} because {reason}"));
            }
        }
        let (ordered, keys) = findings.ordered;
        row("order", format!("{ordered} messages of {keys} keys looked at"));
        let (retried, dead) = findings.failing;
        row("failing", format!("{retried} handled after retries, {dead} dead letters"));
        row("members", counts(&self.faults));
        row("brokers", format!("{} restarts", self.restarts));
        let unowned_ms = seen.unowned_max.as_millis();
        row(
            "grants",
            format!("{}; {} looks, longest without an owner {unowned_ms} ms", findings.grants, seen.looks),
        );
        row("settled after", format!("{} ms", self.settle_time.as_millis()));
        row("excused", format!("{} hand-overs by a process that was stopped", findings.excused));
        row("violations", findings.count.to_string());
        for violation in &findings.violations {
            say(&format!("  {violation}"));
        }
    }
}
