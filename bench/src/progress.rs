//! The line on the error stream that shows that a run is alive; nothing of it when that is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{Second, second_line};

/// Shows how far a run is.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    by_second: bool,
    shown: std::cell::Cell<Option<u32>>,
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
        Self { bar, by_second, shown: std::cell::Cell::new(None) }
    }

    /// Shows the counts so far and the last whole second.
    pub(crate) fn show(&self, acknowledged: u64, received: u64, last: Option<&Second>) {
        let rates = last.map_or_else(String::new, |second| {
            format!("  ({} acknowledged/s, {} received/s)", second.acknowledged, second.received)
        });
        self.bar.set_message(format!("{acknowledged} acknowledged, {received} received{rates}"));
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
