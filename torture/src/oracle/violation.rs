//! What can be found to be wrong, and the list of what was found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Violations that are kept in full; the rest is counted.
const KEPT_MAX: usize = 40;
/// Violations of one class that are kept in full, so that one class does not hide the others.
const KEPT_OF_CLASS_MAX: usize = 10;

/// The promises, by the number that the test plan gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Class {
    /// An acknowledged message is missing.
    #[serde(rename = "C1")]
    Lost,
    /// A message that nobody sent, or that is not what was sent.
    #[serde(rename = "C2")]
    Phantom,
    /// An offset names two messages, or a message has two places.
    #[serde(rename = "C3")]
    Renamed,
    /// Offsets are not dense, or a producer's order is broken.
    #[serde(rename = "C4")]
    Disorder,
    /// A message is stored twice.
    #[serde(rename = "C5")]
    Duplicate,
    /// What a consumer read is gone, or was kept from a consumer.
    #[serde(rename = "C6")]
    Unread,
    /// A committed offset went back, or passed what was processed.
    #[serde(rename = "C7")]
    Commit,
    /// Sends or pulls do not work again in time.
    #[serde(rename = "C9")]
    Stuck,
    /// A server ended by itself, panicked, or did not stop in order.
    #[serde(rename = "C10")]
    Crash,
}

impl Class {
    /// All classes, in order.
    pub(crate) const ALL: [Self; 9] = [
        Self::Lost,
        Self::Phantom,
        Self::Renamed,
        Self::Disorder,
        Self::Duplicate,
        Self::Unread,
        Self::Commit,
        Self::Stuck,
        Self::Crash,
    ];

    /// Its number.
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Lost => "C1",
            Self::Phantom => "C2",
            Self::Renamed => "C3",
            Self::Disorder => "C4",
            Self::Duplicate => "C5",
            Self::Unread => "C6",
            Self::Commit => "C7",
            Self::Stuck => "C9",
            Self::Crash => "C10",
        }
    }

    /// What it means, in a few words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Lost => "acknowledged message missing",
            Self::Phantom => "phantom or altered message",
            Self::Renamed => "offset names another message",
            Self::Disorder => "offsets not dense or order broken",
            Self::Duplicate => "message stored twice",
            Self::Unread => "message read before is gone, or was skipped",
            Self::Commit => "committed offset went back or too far",
            Self::Stuck => "sends or pulls do not work again",
            Self::Crash => "server failed by itself",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.text())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// Which promise it breaks.
    pub(crate) class: Class,
    /// Round of the run in which it was found.
    pub(crate) round: u32,
    /// What was found, with place and values.
    pub(crate) detail: String,
}

/// What was found so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    round: u32,
    counts: BTreeMap<Class, u64>,
    kept: Vec<Violation>,
}

impl Findings {
    /// From here on it is this round.
    pub(crate) fn enter(&mut self, round: u32) {
        self.round = round;
    }

    /// Notes a violation; `detail` is only made for those that are kept.
    pub(crate) fn note(&mut self, class: Class, detail: impl FnOnce() -> String) {
        let count = self.counts.entry(class).or_default();
        *count += 1;
        let of_class = self.kept.iter().filter(|violation| violation.class == class).count();
        if self.kept.len() < KEPT_MAX && of_class < KEPT_OF_CLASS_MAX {
            self.kept.push(Violation { class, round: self.round, detail: detail() });
        }
    }

    /// Takes over what another list holds.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (class, count) in other.counts {
            *self.counts.entry(class).or_default() += count;
        }
        let room = KEPT_MAX.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(room));
    }

    /// How many of a class.
    pub(crate) fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or(0)
    }

    /// How many in all.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The first ones of each class.
    pub(crate) fn kept(&self) -> &[Violation] {
        &self.kept
    }
}
