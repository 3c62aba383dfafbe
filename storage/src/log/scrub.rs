//! Re-reads sealed segments at a low rate, so that damage is known before a reader meets it.
//!
//! One task a log. It reads past the cache, a window at a time, with a pause after each that keeps it at the rate that
//! was set; other tasks go first whenever there are any. Each pass goes over all sealed segments once and checks every
//! header, checksum, link and batch, and that the index says the same as the segment. A new process begins at a
//! segment by chance, so that restarts do not leave the same ones unread.
//!
//! Nothing is changed but an index that is damaged, which is made again. What a segment has lost is the operator's to
//! decide: the log line names the file, the position and the command.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::CommitLog;
use super::core::Closing;
use super::seal::add_entries;
use super::segments::Segment;
use crate::format::{Chain, FlushKind, SegmentHeader, index_name, segment_name};
use crate::index::{Entry, IndexError, walk_index};
use crate::io::Io;
use crate::segment::{ScanError, ScanRules, read_header, scan_segment_paced};
use crate::types::Position;

/// After a start others need the disk.
const BEGIN_AFTER: Duration = Duration::from_secs(30);
/// A pass begins at the earliest so long after the one before: a short log is not read all the time.
const PASS_EVERY: Duration = Duration::from_hours(1);
/// A log that is closed does not wait longer than this.
const NAP: Duration = Duration::from_millis(100);

/// What came of a segment.
enum Outcome {
    Sound,
    /// The log is being closed, or the segment was retired meanwhile.
    Stopped,
    Damaged(Position, String),
    Unreadable(io::Error),
}

/// What a failed look at a segment comes to.
fn outcome_of(segment: &SegmentHeader, error: ScanError) -> Outcome {
    match error {
        ScanError::Io { source, .. } => Outcome::Unreadable(source),
        ScanError::Damaged { position, damage } => Outcome::Damaged(position, damage.to_string()),
        ScanError::Header(error) => Outcome::Damaged(segment.position, error.to_string()),
    }
}

/// Sum over the entries of an index in any order: what two lists of the same entries have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct EntrySum {
    count: u64,
    sum: u64,
}

impl EntrySum {
    fn add(&mut self, entry: &Entry) {
        let run = &entry.run;
        let mut hash = entry.queue.0;
        #[expect(clippy::cast_sign_loss, reason = "bits of a hash")]
        let parts = [
            run.base_offset.0,
            run.position.0,
            run.last_time_ms as u64,
            run.record_count.into(),
            run.bytes.into(),
        ];
        for part in parts {
            // Each step is a bijection of what came before, so entries that differ in one field differ in the sum.
            hash = (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

impl<I: Io> CommitLog<I> {
    /// Runs until the log is closed.
    pub(super) async fn scrub(self) {
        let rate = self.inner.core.borrow().options.scrub_bytes_per_second;
        if rate == 0 || !self.nap(BEGIN_AFTER).await {
            return;
        }
        let mut reported = BTreeSet::new();
        let mut offset = rand::random::<u64>();
        loop {
            let begun_ms = self.inner.io.wall_ms();
            if !self.scrub_pass(rate, std::mem::take(&mut offset), &mut reported).await {
                return;
            }
            let passed = self.inner.io.wall_ms().saturating_sub(begun_ms);
            let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
            if !self.nap(PASS_EVERY.saturating_sub(passed)).await {
                return;
            }
        }
    }

    /// Once over all sealed segments, beginning with number `offset` of them; `false` when the log is being closed.
    async fn scrub_pass(&self, rate: u64, offset: u64, reported: &mut BTreeSet<Position>) -> bool {
        let mut sealed = self.sealed_segments();
        if !sealed.is_empty() {
            let first = usize::try_from(offset % sealed.len() as u64).unwrap_or(0);
            sealed.rotate_left(first);
        }
        let mut damaged = 0;
        for segment in sealed {
            match self.scrub_segment(&segment, rate).await {
                Outcome::Stopped if self.is_ending() => return false,
                Outcome::Sound | Outcome::Stopped => {}
                Outcome::Damaged(position, reason) => {
                    damaged += 1;
                    if reported.insert(segment.header.position) {
                        self.report(&segment, position, &reason);
                    }
                }
                Outcome::Unreadable(error) => {
                    self.inner.core.borrow_mut().stats.scrub_errors += 1;
                    let path = self.inner.dir.join(segment_name(segment.header.position));
                    tracing::error!(path = %path.display(), %error, "a sealed segment cannot be read: look at the device");
                }
            }
        }
        let mut core = self.inner.core.borrow_mut();
        core.stats.scrub_damaged = damaged;
        core.stats.scrub_passes += 1;
        core.stats.scrub_last_pass_ms = self.inner.io.wall_ms();
        true
    }

    fn sealed_segments(&self) -> Vec<Segment> {
        let core = self.inner.core.borrow();
        let sealed = core.segments.len().saturating_sub(usize::from(core.active.is_some()));
        core.segments.iter().take(sealed).copied().collect()
    }

    fn report(&self, segment: &Segment, position: Position, reason: &str) {
        let segment = segment.header.position;
        let path = self.inner.dir.join(segment_name(segment));
        let log = self.inner.core.borrow().log;
        let data_dir = self.inner.dir.parent().unwrap_or(&self.inner.dir).display();
        tracing::error!(
            path = %path.display(), %position, %reason,
            command = %format!("equeue log repair {data_dir} --log {log} --quarantine {segment}"),
            "a sealed segment is damaged: messages in it cannot be read. Stop the broker, restore the file from a \
             copy or run the command"
        );
    }

    async fn scrub_segment(&self, segment: &Segment, rate: u64) -> Outcome {
        let _busy = self.busy();
        let header = segment.header;
        let (file, ending) = match (self.file_of(segment).await, self.ending_of(segment).await) {
            (Ok(file), Ok(ending)) => (file, ending),
            (Err(error), _) | (_, Err(error)) => {
                return self.unless_retired(segment, Outcome::Unreadable(error));
            }
        };
        // It was read when the log was opened, and decides whether it opens again.
        match read_header::<I>(&file).await {
            Ok(found) if found == header => {}
            Ok(_) => {
                let reason = "another header than the one that was read at the start".to_owned();
                return self.unless_retired(segment, Outcome::Damaged(header.position, reason));
            }
            Err(error) => return self.unless_retired(segment, outcome_of(&header, error)),
        }
        let mut sum = EntrySum::default();
        let mut entries = Vec::new();
        let from = Chain::unlinked(header.first_flush());
        let scanned = scan_segment_paced::<I>(
            &file,
            (&header, from, ending),
            ScanRules::default(),
            |flush, body| {
                entries.clear();
                if flush.kind == FlushKind::Data {
                    add_entries(flush.position, body, &mut entries)?;
                }
                for entry in &entries {
                    sum.add(entry);
                }
                Ok(())
            },
            async |bytes| self.scrubbed(bytes, rate).await,
        )
        .await;
        match scanned {
            Ok(_) => self.scrub_index(segment, sum).await,
            Err(ScanError::Io { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {
                Outcome::Stopped
            }
            Err(error) => self.unless_retired(segment, outcome_of(&header, error)),
        }
    }

    /// Whether the index says what the segment says; makes it again if not.
    async fn scrub_index(&self, segment: &Segment, expected: EntrySum) -> Outcome {
        if !segment.indexed {
            return Outcome::Sound;
        }
        let mut found = EntrySum::default();
        let (io, dir) = (&self.inner.io, &self.inner.dir);
        let read = walk_index(io, dir, &segment.header, |entry| found.add(entry)).await;
        match read {
            Ok(()) if found == expected => return Outcome::Sound,
            Err(IndexError::Io(error)) => return self.unless_retired(segment, Outcome::Unreadable(error)),
            Ok(()) | Err(IndexError::Unusable) => {}
        }
        if matches!(self.unless_retired(segment, Outcome::Sound), Outcome::Stopped) {
            return Outcome::Stopped;
        }
        self.inner.core.borrow_mut().stats.scrub_indexes_mended += 1;
        match self.rebuild_index(segment).await {
            Ok(()) => Outcome::Sound,
            Err(error) => {
                let path = self.inner.dir.join(index_name(segment.header.position));
                tracing::warn!(path = %path.display(), %error, "a damaged index could not be made again");
                Outcome::Sound
            }
        }
    }

    /// A file that is gone, or used for other things, because its segment was retired is nobody's damage.
    fn unless_retired(&self, segment: &Segment, outcome: Outcome) -> Outcome {
        let core = self.inner.core.borrow();
        let is_there = core
            .segments
            .containing(segment.header.position)
            .is_some_and(|known| known.header == segment.header);
        if is_there { outcome } else { Outcome::Stopped }
    }

    /// So many bytes were read: waits as long as the rate says. `false` when the log is being closed.
    async fn scrubbed(&self, bytes: u64, rate: u64) -> bool {
        self.inner.core.borrow_mut().stats.scrubbed_bytes += bytes;
        self.inner.io.yield_now().await;
        self.nap(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)).await
    }

    fn is_ending(&self) -> bool {
        self.inner.stopped.get() || self.inner.core.borrow().closing != Closing::No
    }

    /// Sleeps; `false`, soon, when the log is being closed.
    async fn nap(&self, duration: Duration) -> bool {
        let mut left = duration;
        while !left.is_zero() && !self.is_ending() {
            let nap = left.min(NAP);
            self.inner.io.sleep(nap).await;
            left -= nap;
        }
        !self.is_ending()
    }
}

#[cfg(test)]
mod tests {
    use equeue_record::{Offset, QueueKey};

    use super::*;
    use crate::index::Run;

    #[test]
    fn sums_tell_lists_apart_but_not_orders() {
        let entry = |queue, base| Entry {
            queue: QueueKey(queue),
            run: Run {
                base_offset: Offset(base),
                position: Position(base * 4096),
                last_time_ms: 9,
                record_count: 3,
                bytes: 100,
            },
        };
        let sum = |entries: &[Entry]| {
            let mut sum = EntrySum::default();
            for entry in entries {
                sum.add(entry);
            }
            sum
        };
        let (one, two) = (entry(1, 2), entry(2, 1));
        assert_eq!(sum(&[one, two]), sum(&[two, one]));
        assert_ne!(sum(&[one]), sum(&[two]));
        assert_ne!(sum(&[one, one]), sum(&[one]));
        let mut changed = one;
        changed.run.last_time_ms += 1;
        assert_ne!(sum(&[changed]), sum(&[one]));
    }
}
