//! A result as a table for people.

use std::fmt::Write as _;

use super::Report;
use crate::histogram::Percentiles;

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.lines() {
            let _ = writeln!(text, "{name:<22}{value}");
        }
        text
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("command", format!("{} ({} {}, {} CPUs)", self.command, self.version, self.git, self.cores)),
            ("messages", format!("{} in {:.3} s", thousands(self.messages), self.seconds)),
            (
                "rate",
                format!("{} messages/s, {:.1} MB/s", whole(self.messages_per_second), self.mb_per_second),
            ),
        ];
        if let Some(consumed) = &self.consumed {
            let rate = whole(consumed.messages_per_second);
            lines.push((
                "received",
                format!(
                    "{} in {:.3} s, {rate} messages/s, {:.1} MB/s",
                    thousands(consumed.messages),
                    consumed.seconds,
                    consumed.mb_per_second
                ),
            ));
        }
        for (name, latencies) in [
            ("latency us", &self.latency_us),
            ("service time us", &self.service_us),
            ("publish delay us", &self.publish_delay_us),
            ("end to end us", &self.end_to_end_us),
        ] {
            lines.extend(latencies.as_ref().map(|found| (name, percentiles(found))));
        }
        self.add_costs(&mut lines);
        self.add_scenario(&mut lines);
        if let (Some(lost), Some(duplicated), Some(reordered), Some(corrupted)) =
            (self.lost, self.duplicated, self.reordered, self.corrupted)
        {
            let found =
                format!("{lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted");
            lines.push(("verified", found));
        }
        lines.extend(
            self.errors.iter().map(|(code, count)| ("failed", format!("{} {code}", thousands(*count)))),
        );
        lines.extend(self.warnings.iter().map(|warning| ("WARNING", warning.clone())));
        lines
    }

    fn add_costs(&self, lines: &mut Vec<(&'static str, String)>) {
        if let Some(seconds) = self.broker_cpu_seconds {
            lines.push(("broker CPU", self.per_cpu_second(seconds)));
        }
        lines.push(("generator CPU", self.per_cpu_second(self.client_cpu_seconds)));
        if let Some(peak) = self.broker_memory_peak_bytes {
            lines.push(("broker memory", format!("{} MB at the most", whole(as_f64(peak) / 1e6))));
        }
        if let Some(disk) = &self.disk {
            let mb = |bytes: u64| whole(as_f64(bytes) / 1e6);
            let written = format!("{} MB written, {} MB read", mb(disk.write_bytes), mb(disk.read_bytes));
            let share = disk.written_per_byte.map_or_else(String::new, |share| {
                format!(" ({share:.2} bytes written for each byte of the messages)")
            });
            lines.push(("broker disk", written + &share));
        }
    }

    fn add_scenario(&self, lines: &mut Vec<(&'static str, String)>) {
        for run in &self.runs {
            let p99 = run.latency_us.map_or_else(|| "-".to_owned(), |found| format!("{:.0}", found.p99));
            let verdict = run
                .reason
                .as_deref()
                .map_or_else(|| "held".to_owned(), |reason| format!("NOT held: {reason}"));
            lines.push(("at a rate", format!("{} messages/s: p99 {p99} us, {verdict}", thousands(run.rate))));
        }
        if let Some(max) = &self.max_rate {
            let bound = format!("p99 under {:.0} us", max.p99_us_max);
            lines.push((
                "highest rate",
                match max.rate {
                    Some(rate) => format!("{} messages/s ({bound})", thousands(rate)),
                    None => format!("none that was tried ({bound})"),
                },
            ));
        }
        if let Some(backlog) = &self.backlog {
            let drained = backlog.drained_after_seconds.map_or_else(
                || "not drained before the end".to_owned(),
                |seconds| format!("drained after {seconds:.1} s"),
            );
            lines.push((
                "backlog",
                format!("{} messages when consumers began, {drained}", thousands(backlog.messages)),
            ));
        }
        if let Some(delayed) = &self.delayed {
            lines.push((
                "delayed",
                format!("by {} ms; {} delivered too early", delayed.delay_ms, thousands(delayed.early)),
            ));
        }
        if let Some(outage) = &self.outage {
            lines.push((
                "outage",
                format!(
                    "broker {} {:.1} s into the run, ready again {:.0} ms later, {:.0} ms without an acknowledgement",
                    if outage.killed { "killed" } else { "stopped" },
                    outage.at_seconds,
                    outage.ready_after_ms,
                    outage.silence_ms
                ),
            ));
        }
    }

    fn per_cpu_second(&self, cpu_seconds: f64) -> String {
        let messages = self.messages.max(self.consumed.map_or(0, |consumed| consumed.messages));
        let over = |amount: f64, per: f64| if per > 0.0 { amount / per } else { 0.0 };
        let cores = over(cpu_seconds, self.seconds);
        let per_cpu_second = whole(over(as_f64(messages), cpu_seconds));
        format!("{cpu_seconds:.2} s ({cores:.2} cores), {per_cpu_second} messages per CPU second")
    }
}

#[expect(clippy::cast_precision_loss, reason = "2^53 messages or bytes take years")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

fn percentiles(found: &Percentiles) -> String {
    format!(
        "p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  p99.99 {:.0}  max {:.0}",
        found.p50, found.p90, found.p99, found.p99_9, found.p99_99, found.max
    )
}

/// Without its fraction, and readable.
pub(crate) fn whole(number: f64) -> String {
    let text = format!("{number:.0}");
    text.parse().map_or(text, thousands)
}

/// `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
