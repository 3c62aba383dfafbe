//! The histograms of each second in the log format of `HdrHistogram` (`--hlog`), which its plotters and log processors read.
//!
//! One line per second and kind of time, told apart by tags: `response`, `service`, `publish_delay`, `end_to_end`.
//! Values are nanoseconds. Seconds of the warm-up are not in it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::times::Times;

/// A log that grows by one interval a second.
pub(crate) struct Hlog<W: Write = BufWriter<File>> {
    out: W,
    serializer: V2DeflateSerializer,
}

impl Hlog {
    /// Makes the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("making the log {}", path.display()))?;
        Ok(Self::on(BufWriter::new(file)))
    }
}

impl<W: Write> Hlog<W> {
    fn on(out: W) -> Self {
        Self { out, serializer: V2DeflateSerializer::new() }
    }

    /// Writes the header: intervals count from `start`. A later header in the same log begins another run.
    pub(crate) fn begin(&mut self, what: &str, start: SystemTime) -> Result<()> {
        IntervalLogWriterBuilder::new()
            .add_comment(&format!("[{what}; nanoseconds]"))
            .with_base_time(start)
            .with_start_time(start)
            .begin_log_with(&mut self.out, &mut self.serializer)
            .context("writing the histogram log")?;
        Ok(())
    }

    /// Writes one interval, which began so long after the start.
    pub(crate) fn interval(&mut self, times: &Times, begun: Duration, length: Duration) -> Result<()> {
        let mut writer = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.out, &mut self.serializer)
            .context("writing the histogram log")?;
        for (name, latencies) in times.named() {
            let tag = Tag::new(name).context("a tag has neither commas nor spaces")?;
            writer
                .write_histogram(latencies.histogram(), begun, length, Some(tag))
                .map_err(|error| anyhow!("writing the histogram log: {error}"))?;
        }
        self.out.flush().context("writing the histogram log")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn a_reader_of_the_format_finds_every_second_and_tag() {
        let mut log = Hlog::on(Vec::new());
        log.begin("latency", SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).expect("written");
        for second in 0..3 {
            let mut times = Times::new(true);
            times.sent.response.record(1_000_000 * (second + 1));
            times.end_to_end.record(5_000_000);
            log.interval(&times, Duration::from_secs(second), Duration::from_secs(1)).expect("written");
        }
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(&log.out) {
            let LogEntry::Interval(interval) = entry.expect("well formed") else { continue };
            let bytes =
                base64::prelude::BASE64_STANDARD.decode(interval.encoded_histogram()).expect("base64");
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
            let tag = interval.tag().expect("tagged").as_str();
            found.push((tag, interval.start_timestamp().as_secs(), histogram.max() / 1_000_000));
        }
        let mut expected = Vec::new();
        for second in 0..3 {
            expected.extend([("response", second, second + 1), ("end_to_end", second, 5)]);
        }
        assert_eq!(found, expected);
        assert!(log.out.starts_with(b"#[latency; nanoseconds]\n"));
    }
}
