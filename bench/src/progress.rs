//! The line on the error stream that shows that a run is alive, and how far it is; nothing of it when that is not a
//! terminal.

use std::cell::Cell;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{Second, second_line, thousands};

/// When a run is through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// After so many messages.
    Messages(u64),
    /// After this time.
    Time(Duration),
}

/// Shows how far a run is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    by_second: bool,
    goal: Cell<Option<(Goal, Instant)>>,
    shown: Cell<Option<u32>>,
}

impl Progress {
    /// `by_second` prints a line for each second as well.
    #[must_use]
    pub(crate) fn new(what: &'static str, by_second: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Self { bar, by_second, goal: Cell::new(None), shown: Cell::new(None) }
    }

    /// A load begins now, and this is when it is through.
    pub(crate) fn begin(&self, goal: Goal) {
        self.goal.set(Some((goal, Instant::now())));
        self.shown.set(None);
        let length = match goal {
            Goal::Messages(messages) => messages,
            Goal::Time(time) => millis(time),
        };
        self.bar.set_length(length);
        self.bar.set_position(0);
        let template = "{spinner} {prefix} {elapsed} {bar:24} {percent:>3} % {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
    }

    /// Shows the counts so far and the last whole second.
    pub(crate) fn show(&self, acknowledged: u64, received: u64, last: Option<&Second>) {
        let position = match self.goal.get() {
            Some((Goal::Messages(_), _)) => acknowledged.max(received),
            Some((Goal::Time(_), begun)) => millis(begun.elapsed()),
            None => 0,
        };
        self.bar.set_position(position);
        let text = last.map_or_else(
            || format!("{} acknowledged, {} received", thousands(acknowledged), thousands(received)),
            |second| {
                let p99 =
                    second.latency_us.map_or_else(String::new, |found| format!("  p99 {:.0} us", found.p99));
                let (sent, received) = (thousands(second.acknowledged), thousands(second.received));
                format!("{sent} acknowledged/s  {received} received/s{p99}")
            },
        );
        self.bar.set_message(text);
        self.bar.tick();
        if let Some(second) = last.filter(|second| self.by_second && self.shown.get() != Some(second.second))
        {
            self.shown.set(Some(second.second));
            let line = second_line(second);
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// Removes the line.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
