//! Which segments may go, and what is asked before they do. Pure.
//!
//! Segments go whole and oldest first, never the active one. Reasons, strongest first: the disk is nearly full, the log
//! has too many bytes, too many segments, the segment is too old. `delete_unconsumed = false` beats them all.

use std::time::Duration;

use equeue_record::{Offset, QueueKey};
use futures::future::LocalBoxFuture;

/// A clock that jumped further than this is not believed: no segment goes because of its age.
pub const CLOCK_JUMP_MS_MAX: i64 = 3_600_000;
/// Difference between two clocks, from one look to the next, that is drift and no jump.
const CLOCK_DRIFT_MS_MAX: i64 = 5_000;
/// Time that a clock is given to be set after a start at which even the newest message looks old.
const PATIENCE_MS: i64 = 600_000;
/// A segment that has used up this share of its limit is near its end: whoever has a backlog in it is warned.
const NEAR_PERCENT: u64 = 90;

/// How long a log keeps what it has. `None` and 0 switch a rule off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// A segment whose last message is older goes, ms (default 7 days).
    pub age_ms: Option<i64>,
    /// Most bytes on disk, padding and prepared segments counted.
    pub bytes_max: Option<u64>,
    /// Most segments with messages.
    pub segments_max: Option<usize>,
    /// Segments go, whatever their age, while the file system has less free space, bytes.
    pub disk_free_min: u64,
    /// Whether segments go that a group has not consumed yet. `false` beats all other rules.
    pub delete_unconsumed: bool,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            age_ms: Some(7 * 24 * 3_600_000),
            bytes_max: None,
            segments_max: None,
            disk_free_min: 0,
            delete_unconsumed: true,
        }
    }
}

/// Why a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireReason {
    /// The file system has too little free space.
    DiskLow,
    /// The log has too many bytes.
    Bytes,
    /// The log has too many segments.
    Segments,
    /// The segment is too old.
    Age,
}

/// How a log stands, as far as [`RetentionPolicy::reason`] asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Segments with messages, the active one counted.
    pub(crate) segments: usize,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Bytes of the segment behind the prepared one, where it can be made of the oldest. They are counted as if they were
    /// there: a segment that goes in time is used again, and no zeros have to be written.
    pub(crate) needed: u64,
    /// Append time of the last message in the oldest segment, where it is known.
    pub(crate) oldest_ms: Option<i64>,
    /// Now, where the clock is believed.
    pub(crate) now_ms: Option<i64>,
    /// Free bytes of the file system; `None`: not known.
    pub(crate) disk_free: Option<u64>,
    /// There was no space for another segment.
    pub(crate) disk_full: bool,
}

impl RetentionPolicy {
    /// Why the oldest segment goes, if it does.
    pub(crate) fn reason(&self, standing: &Standing) -> Option<RetireReason> {
        if self.disk_free_min > 0 && standing.disk_full
            || self.lacks_space(standing.disk_free.map(|free| free.saturating_sub(standing.needed)))
        {
            return Some(RetireReason::DiskLow);
        }
        if self.bytes_max.is_some_and(|most| standing.bytes.saturating_add(standing.needed) > most) {
            return Some(RetireReason::Bytes);
        }
        if self.segments_max.is_some_and(|most| standing.segments > most) {
            return Some(RetireReason::Segments);
        }
        let (now_ms, oldest_ms) = (standing.now_ms?, standing.oldest_ms?);
        self.age_ms.filter(|most| now_ms.saturating_sub(oldest_ms) > *most).map(|_| RetireReason::Age)
    }

    /// Whether so little free space is too little.
    pub(crate) fn lacks_space(&self, disk_free: Option<u64>) -> bool {
        disk_free.is_some_and(|free| free < self.disk_free_min)
    }

    /// Whether the oldest segment will go soon, so that a backlog in it is worth a warning.
    pub(crate) fn is_near(&self, standing: &Standing) -> bool {
        let share = |most: u64| most / 100 * NEAR_PERCENT;
        let near = Self {
            age_ms: self.age_ms.map(|most| {
                let most = u64::try_from(most).unwrap_or_default();
                i64::try_from(share(most)).unwrap_or(i64::MAX)
            }),
            bytes_max: self.bytes_max.map(share),
            // Few are counted one by one: the last one that may be there is near the end in any case.
            segments_max: self.segments_max.map(|most| most.saturating_sub((most / 10).max(1))),
            ..self.clone()
        };
        near.reason(standing).is_some()
    }
}

/// A queue whose first records are about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The queue.
    pub queue: QueueKey,
    /// Everything before this offset goes; the queue begins here afterwards.
    pub before: Offset,
}

/// What only the log's user knows and retention must ask.
pub trait RetentionAdvisor {
    /// The least offset that some group - online or not - has still to consume in this queue; `None`: no group ever
    /// consumed it, so nobody misses what goes.
    fn first_unconsumed(&self, queue: QueueKey) -> Option<Offset>;

    /// Called before a segment goes: what of these records must live on is appended again. Resolves when that is
    /// durable; with an error the segment stays and is tried again later. May be called more than once for the same
    /// records, so it must not append them twice.
    ///
    /// The log goes on meanwhile, and its functions may be called, but not [`crate::log::CommitLog::retain`].
    fn carry_forward<'a>(
        &'a self,
        leaving: &'a [Leaving],
    ) -> LocalBoxFuture<'a, Result<(), crate::log::AppendError>>;
}

/// Nobody consumes, nothing is carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAdvisor;

impl RetentionAdvisor for NoAdvisor {
    fn first_unconsumed(&self, _: QueueKey) -> Option<Offset> {
        None
    }

    fn carry_forward<'a>(
        &'a self,
        _: &'a [Leaving],
    ) -> LocalBoxFuture<'a, Result<(), crate::log::AppendError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Notices that the clock of people jumped, by comparing it with one that never does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockWatch {
    /// Time of the newest message that the log was opened with.
    found_ms: Option<i64>,
    first: Option<i64>,
    last: Option<(i64, i64)>,
    jumped_ms: i64,
}

impl ClockWatch {
    /// For a log whose newest message was appended at `found_ms` when it was opened.
    pub(crate) fn after(found_ms: Option<i64>) -> Self {
        Self { found_ms, ..Self::default() }
    }

    /// Looks at both clocks; tells whether the clock of people is to be believed. One that jumped is believed again
    /// once it has jumped back.
    pub(crate) fn look(&mut self, wall_ms: i64, uptime: Duration) -> bool {
        let up_ms = to_ms(uptime);
        self.first.get_or_insert(up_ms);
        if let Some((last_wall, last_up)) = self.last.replace((wall_ms, up_ms)) {
            let jump = wall_ms.saturating_sub(last_wall).saturating_sub(up_ms.saturating_sub(last_up));
            if jump.saturating_abs() > CLOCK_DRIFT_MS_MAX {
                self.jumped_ms = self.jumped_ms.saturating_add(jump);
            }
        }
        self.is_believed()
    }

    /// Whether the clock may not be set yet: the first look was only a moment ago, and by the clock even the newest message
    /// that the log was opened with is older than `age_ms`, or than a jump may be. Messages since then prove nothing:
    /// they have their time from the same clock.
    pub(crate) fn is_patient(&self, wall_ms: i64, uptime: Duration, age_ms: i64) -> bool {
        let is_young = self.first.is_none_or(|first| to_ms(uptime).saturating_sub(first) < PATIENCE_MS);
        let most = age_ms.min(CLOCK_JUMP_MS_MAX);
        is_young && self.found_ms.is_some_and(|found| wall_ms.saturating_sub(found) > most)
    }

    /// See [`ClockWatch::look`].
    pub(crate) const fn is_believed(&self) -> bool {
        self.jumped_ms.saturating_abs() <= CLOCK_JUMP_MS_MAX
    }

    /// Time of the newest message that the log was opened with.
    pub(crate) const fn found_ms(&self) -> Option<i64> {
        self.found_ms
    }

    /// How far the clock is from where it should be, ms.
    pub(crate) const fn jumped_ms(&self) -> i64 {
        self.jumped_ms
    }
}

fn to_ms(uptime: Duration) -> i64 {
    i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn all() -> RetentionPolicy {
        RetentionPolicy {
            age_ms: Some(HOUR_MS),
            bytes_max: Some(1000),
            segments_max: Some(4),
            disk_free_min: 100,
            delete_unconsumed: true,
        }
    }

    fn well() -> Standing {
        Standing {
            segments: 3,
            bytes: 500,
            needed: 0,
            oldest_ms: Some(10 * HOUR_MS),
            now_ms: Some(10 * HOUR_MS + 5),
            disk_free: Some(1000),
            disk_full: false,
        }
    }

    #[test]
    fn the_strongest_reason_is_given() {
        let policy = all();
        let mut standing = well();
        assert_eq!(policy.reason(&standing), None);
        standing.now_ms = Some(11 * HOUR_MS + 1);
        assert_eq!(policy.reason(&standing), Some(RetireReason::Age));
        standing.segments = 5;
        assert_eq!(policy.reason(&standing), Some(RetireReason::Segments));
        standing.bytes = 1001;
        assert_eq!(policy.reason(&standing), Some(RetireReason::Bytes));
        standing.disk_free = Some(99);
        assert_eq!(policy.reason(&standing), Some(RetireReason::DiskLow));
        assert_eq!(policy.reason(&Standing { disk_full: true, ..well() }), Some(RetireReason::DiskLow));
    }

    #[test]
    fn a_segment_that_must_be_made_counts_as_if_it_were_there() {
        let policy = all();
        assert_eq!(policy.reason(&Standing { needed: 500, ..well() }), None);
        assert_eq!(policy.reason(&Standing { needed: 501, ..well() }), Some(RetireReason::Bytes));
        let standing = Standing { needed: 401, disk_free: Some(500), ..well() };
        assert_eq!(policy.reason(&standing), Some(RetireReason::DiskLow));
        assert!(!policy.lacks_space(standing.disk_free), "so it can be used again");
    }

    #[test]
    fn a_rule_that_is_off_lets_nothing_go() {
        let off = RetentionPolicy { age_ms: None, ..RetentionPolicy::default() };
        let worst = Standing {
            segments: usize::MAX,
            bytes: u64::MAX,
            needed: u64::MAX,
            oldest_ms: Some(0),
            now_ms: Some(i64::MAX),
            disk_free: Some(0),
            disk_full: true,
        };
        assert_eq!(off.reason(&worst), None);
    }

    #[test]
    fn age_needs_a_clock_that_is_believed_and_a_known_time() {
        let policy = RetentionPolicy { age_ms: Some(HOUR_MS), ..RetentionPolicy::default() };
        let old = Standing { now_ms: Some(20 * HOUR_MS), ..well() };
        assert_eq!(policy.reason(&old), Some(RetireReason::Age));
        assert_eq!(policy.reason(&Standing { now_ms: None, ..old }), None);
        assert_eq!(policy.reason(&Standing { oldest_ms: None, ..old }), None);
        assert_eq!(policy.reason(&Standing { oldest_ms: Some(i64::MAX), ..old }), None, "from the future");
    }

    #[test]
    fn a_warning_comes_before_the_end() {
        let policy = RetentionPolicy { age_ms: Some(100 * HOUR_MS), ..RetentionPolicy::default() };
        let after = |hours: i64| Standing { now_ms: Some((10 + hours) * HOUR_MS), ..well() };
        assert!(!policy.is_near(&after(89)));
        assert!(policy.is_near(&after(91)) && policy.reason(&after(91)).is_none());
    }

    #[test]
    fn a_warning_comes_before_there_are_too_many_segments() {
        let policy = |most| RetentionPolicy { segments_max: Some(most), ..RetentionPolicy::default() };
        let with = |segments| Standing { segments, ..well() };
        assert!(!policy(4).is_near(&with(3)) && policy(4).is_near(&with(4)));
        assert!(policy(4).reason(&with(4)).is_none());
        assert!(!policy(100).is_near(&with(90)) && policy(100).is_near(&with(91)));
        assert!(policy(1).is_near(&with(1)), "and never one too few");
    }

    #[test]
    fn a_clock_that_may_not_be_set_yet_is_given_time() {
        let at = |seconds: u64| Duration::from_secs(seconds);
        let seen = |found_ms: Option<i64>, wall_ms: i64| {
            let mut watch = ClockWatch::after(found_ms);
            watch.look(wall_ms, at(10));
            watch
        };
        let (found, ahead) = (1_000_000, 1_000_000 + 9000 * HOUR_MS);
        let watch = seen(Some(found), ahead);
        assert!(watch.is_patient(ahead, at(10), 48 * HOUR_MS));
        assert!(watch.is_patient(ahead + 599_000, at(609), 48 * HOUR_MS));
        assert!(!watch.is_patient(ahead + 600_000, at(610), 48 * HOUR_MS), "it was meant");
        assert!(watch.is_patient(ahead, at(10), i64::MAX), "the age does not matter: it is more than a jump");
        let soon = found + HOUR_MS / 2;
        assert!(!seen(Some(found), soon).is_patient(soon, at(10), 48 * HOUR_MS));
        assert!(seen(Some(found), soon).is_patient(soon, at(10), HOUR_MS / 4), "all of it would go");
        assert!(!seen(None, ahead).is_patient(ahead, at(10), 48 * HOUR_MS), "a new log has nothing to lose");
    }

    #[test]
    fn a_jump_is_noticed_and_drift_is_not() {
        let mut watch = ClockWatch::default();
        let at = |seconds: u64| Duration::from_secs(seconds);
        assert!(watch.look(1_000_000, at(10)));
        // A minute later, four seconds off: drift, time after time.
        for minute in 1..2000_i64 {
            let up = at(10 + minute.unsigned_abs() * 60);
            assert!(watch.look(1_000_000 + minute * 64_000, up), "minute {minute}");
        }
        let (wall, up) = watch.last.unwrap();
        let next = Duration::from_millis(up.unsigned_abs() + 1000);
        assert!(!watch.look(wall + 2 * HOUR_MS, next), "two hours forward");
        assert!(!watch.look(wall + 2 * HOUR_MS + 1000, next + at(1)), "and it stays there");
        assert!(watch.look(wall + 3000, next + at(2)), "it was set right");
        assert!(!watch.look(wall - 2 * HOUR_MS, next + at(3)), "backward counts too");
    }
}
