//! What a run came to: counts, times, violations; as a table or as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::child::Usage;
use crate::oracle::violation::{Class, Findings, Violation};
use crate::oracle::{Evidence, Late};

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

/// Their middle and their greatest, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    count: usize,
    p50: f64,
    max: f64,
}

impl Times {
    /// Adds one.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    fn spread(&self) -> Spread {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        Spread { count: sorted.len(), p50: ms(sorted.get(sorted.len() / 2)), max: ms(sorted.last()) }
    }
}

/// Messages of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Messages {
    sent: u64,
    acknowledged: u64,
    failed: u64,
    unknown: u64,
    /// Given to the groups that read along.
    pulled: u64,
    /// Of these, given again to the same member.
    redelivered: u64,
    /// Read by fresh consumers, for the oracle.
    verified: u64,
}

/// A run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What was done.
    pub(crate) mode: &'static str,
    /// Where it was done.
    pub(crate) disk: String,
    /// Start of the random numbers.
    pub(crate) seed: u64,
    /// Rounds that ended.
    pub(crate) rounds: u32,
    /// Data directories.
    pub(crate) lives: u32,
    /// From the start of the process to its `ready`.
    pub(crate) restart: Times,
    /// From `ready` to the first acknowledgement.
    pub(crate) first_ack: Times,
    /// Readings of everything by the oracle.
    pub(crate) readings: u32,
    /// Starts that the broker refused because of damage, where losses are expected.
    pub(crate) refusals: u32,
    /// Power cuts, by what the broker did.
    pub(crate) cuts: Cuts,
    /// Starts that were ended by a fault before the broker was ready, or just after.
    pub(crate) interrupted: u32,
    /// The most that a broker held before a fault.
    pub(crate) usage: Usage,
    /// What was found.
    pub(crate) findings: Findings,
    /// Wall clock.
    pub(crate) took: Duration,
    /// Losses are what the run was to find.
    pub(crate) expect_loss: bool,
    /// Why the run ended early.
    pub(crate) failure: Option<String>,
    messages: Messages,
    late: Late,
}

/// Power cuts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cuts {
    /// The broker was stopped before: every word of it counts.
    pub(crate) stopped: u32,
    /// It ran on; what was heard from then on is in [`Late`].
    pub(crate) running: u32,
}

/// As it is printed.
#[derive(Serialize)]
struct Printed<'a> {
    mode: &'static str,
    disk: &'a str,
    seed: u64,
    rounds: u32,
    lives: u32,
    readings: u32,
    refusals: u32,
    interrupted_starts: u32,
    cuts: Cuts,
    heard_during_cuts: Late,
    messages: Messages,
    restart_to_ready_ms: Spread,
    ready_to_first_ack_ms: Spread,
    usage_max: Usage,
    seconds: f64,
    violations: BTreeMap<&'static str, u64>,
    violations_total: u64,
    first: &'a [Violation],
    expect_loss: bool,
    failure: Option<&'a str>,
    passed: bool,
}

impl Report {
    /// Nothing done yet.
    pub(crate) fn new(mode: &'static str, disk: String, seed: u64, expect_loss: bool) -> Self {
        Self { mode, disk, seed, expect_loss, ..Self::default() }
    }

    /// Takes over what is known about a life that ends.
    pub(crate) fn absorb(&mut self, evidence: &mut Evidence) {
        let tally = evidence.ledger().tally();
        self.lives += 1;
        self.messages.sent += tally.sent;
        self.messages.acknowledged += tally.acknowledged;
        let late = evidence.late();
        self.late.acknowledged += late.acknowledged;
        self.late.lost += late.lost;
        self.late.pulled += late.pulled;
        self.messages.failed += tally.failed;
        self.messages.unknown += tally.unknown + tally.pending;
        for group in evidence.groups() {
            self.messages.pulled += group.pulled();
            self.messages.redelivered += group.redelivered();
        }
        self.findings.absorb(std::mem::take(evidence.findings()));
    }

    /// A fresh consumer read so many messages.
    pub(crate) fn verified(&mut self, messages: u64) {
        self.readings += 1;
        self.messages.verified += messages;
    }

    /// Whether the run came to what it was to come to.
    pub(crate) fn passed(&self) -> bool {
        if self.expect_loss {
            return self.findings.count(Class::Lost) > 0;
        }
        self.failure.is_none() && self.findings.total() == 0 && self.messages.acknowledged > 0
    }

    /// Writes one JSON object.
    pub(crate) fn write_json(&self, to: &mut impl Write) -> io::Result<()> {
        let count = |class: Class| (class.number(), self.findings.count(class));
        let printed = Printed {
            mode: self.mode,
            disk: &self.disk,
            seed: self.seed,
            rounds: self.rounds,
            lives: self.lives,
            readings: self.readings,
            refusals: self.refusals,
            interrupted_starts: self.interrupted,
            cuts: self.cuts,
            heard_during_cuts: self.late,
            messages: self.messages,
            restart_to_ready_ms: self.restart.spread(),
            ready_to_first_ack_ms: self.first_ack.spread(),
            usage_max: self.usage,
            seconds: self.took.as_secs_f64(),
            violations: Class::ALL.into_iter().map(count).collect(),
            violations_total: self.findings.total(),
            first: self.findings.kept(),
            expect_loss: self.expect_loss,
            failure: self.failure.as_deref(),
            passed: self.passed(),
        };
        serde_json::to_writer(&mut *to, &printed)?;
        writeln!(to)
    }

    /// Writes a table.
    pub(crate) fn write_table(&self, to: &mut impl Write) -> io::Result<()> {
        let Messages { sent, acknowledged, failed, unknown, pulled, redelivered, verified } = self.messages;
        writeln!(to, "{} on {}, seed {}", self.mode, self.disk, self.seed)?;
        writeln!(
            to,
            "  rounds              {} in {} data directories, {:.1} s",
            self.rounds,
            self.lives,
            self.took.as_secs_f64()
        )?;
        writeln!(
            to,
            "  sent                {sent}: {acknowledged} acknowledged, {failed} failed, {unknown} unknown"
        )?;
        writeln!(to, "  read along          {pulled}, of these {redelivered} again to the same member")?;
        writeln!(to, "  read by the oracle  {verified} in {} readings", self.readings)?;
        if self.cuts != Cuts::default() {
            let (Cuts { stopped, running }, Late { acknowledged, lost, pulled }) = (self.cuts, self.late);
            writeln!(to, "  power cuts          {stopped} of a stopped broker, {running} of a running one")?;
            writeln!(
                to,
                "  heard during cuts   {acknowledged} acknowledged, {lost} of them gone; {pulled} read along"
            )?;
        }
        if self.interrupted > 0 {
            writeln!(to, "  interrupted starts  {}", self.interrupted)?;
        }
        if self.refusals > 0 {
            writeln!(to, "  refused starts      {}", self.refusals)?;
        }
        for (name, times) in [("restart to ready", &self.restart), ("ready to first ack", &self.first_ack)] {
            let Spread { count, p50, max } = times.spread();
            writeln!(to, "  {name:19} p50 {p50:.0} ms, max {max:.0} ms ({count})")?;
        }
        let Usage { resident_bytes, descriptors } = self.usage;
        writeln!(to, "  held at the most    {} MiB, {descriptors} descriptors", resident_bytes >> 20)?;
        writeln!(to, "  violations          {}", self.findings.total())?;
        for class in Class::ALL {
            let count = self.findings.count(class);
            let mark = if count == 0 { ' ' } else { '!' };
            writeln!(to, "   {mark} {:4}{:46}{count:>8}", class.number(), class.text())?;
        }
        for Violation { class, round, detail } in self.findings.kept() {
            writeln!(to, "  round {round}, {}: {detail}", class.number())?;
        }
        if let Some(failure) = &self.failure {
            writeln!(to, "  ended early: {failure}")?;
        }
        let verdict = match (self.passed(), self.expect_loss) {
            (true, false) => "passed",
            (false, false) => "FAILED",
            (true, true) => "passed: acknowledged messages were lost, as expected",
            (false, true) => "FAILED: no acknowledged message was lost although that was expected",
        };
        writeln!(to, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("kill", "a directory".to_owned(), 1, false);
        report.messages.acknowledged = 1;
        report
    }

    #[test]
    fn a_run_without_acknowledgements_proves_nothing() {
        assert!(report().passed());
        let idle = Report { messages: Messages::default(), ..report() };
        assert!(!idle.passed());
    }

    #[test]
    fn any_violation_and_any_failure_fails_the_run() {
        for class in Class::ALL {
            let mut report = report();
            report.findings.note(class, String::new);
            assert!(!report.passed(), "{class}");
        }
        assert!(!Report { failure: Some(String::new()), ..report() }.passed());
    }

    #[test]
    fn an_expected_loss_must_be_a_loss() {
        let mut report = Report { expect_loss: true, ..report() };
        assert!(!report.passed());
        report.findings.note(Class::Unread, String::new);
        assert!(!report.passed());
        report.findings.note(Class::Lost, String::new);
        assert!(report.passed());
    }

    #[test]
    fn both_forms_hold_the_first_violations() {
        let mut report = report();
        report.findings.note(Class::Lost, || "message 7 is gone".to_owned());
        let (mut table, mut json) = (Vec::new(), Vec::new());
        report.write_table(&mut table).unwrap();
        report.write_json(&mut json).unwrap();
        assert!(String::from_utf8(table).unwrap().contains("message 7 is gone"));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((json["violations"]["C1"].as_u64(), json["passed"].as_bool()), (Some(1), Some(false)));
        assert_eq!(json["first"][0]["detail"], "message 7 is gone");
    }
}
