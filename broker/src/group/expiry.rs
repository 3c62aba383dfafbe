//! When a group that nobody uses is forgotten. Pure.

/// The broker must have run for so long before it forgets a group: members may still come back after an outage.
const RUN_MS_MIN: u64 = 600_000;
/// Difference between the clocks' progress from which on times are not trusted.
const CLOCK_JUMP_MS: u64 = 3_600_000;

/// What becomes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Stays,
    /// It is forgotten soon, unless somebody comes: less than a tenth of its retention is left.
    Ends,
    /// It is forgotten.
    Over,
}

/// What becomes of a group that has nobody and was used last at `seen_ms`, now that the broker has run for `ran_ms`.
pub fn fate(seen_ms: i64, utc_ms: i64, retention_ms: i64, ran_ms: u64) -> Fate {
    let age_ms = utc_ms.saturating_sub(seen_ms);
    if age_ms <= retention_ms - retention_ms / 10 {
        Fate::Stays
    } else if age_ms > retention_ms && ran_ms > RUN_MS_MIN {
        Fate::Over
    } else {
        Fate::Ends
    }
}

/// How far the clock of this machine has moved other than by the time passed since the start, if it jumped.
pub fn clock_jump(started_utc_ms: i64, utc_ms: i64, ran_ms: u64) -> Option<u64> {
    let ran_ms = i64::try_from(ran_ms).unwrap_or(i64::MAX);
    let drift_ms = utc_ms.saturating_sub(started_utc_ms).saturating_sub(ran_ms).unsigned_abs();
    (drift_ms > CLOCK_JUMP_MS).then_some(drift_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GroupsConfig;

    const DAY_MS: i64 = 24 * 3_600_000;

    /// After `days` and some milliseconds without anybody, in a broker that has run for a day.
    fn after(group: &str, days: i64, and_ms: i64) -> Fate {
        let retention_ms = GroupsConfig::default().retention_ms(group);
        let seen_ms = 1_700_000_000_000;
        fate(seen_ms, seen_ms + days * DAY_MS + and_ms, retention_ms, 24 * 3_600_000)
    }

    #[test]
    fn a_group_is_forgotten_after_thirty_days_and_announced_three_before() {
        assert_eq!([after("g", 0, -DAY_MS), after("g", 0, 0), after("g", 27, 0)], [Fate::Stays; 3]);
        assert_eq!([after("g", 27, 1), after("g", 30, 0)], [Fate::Ends; 2]);
        assert_eq!([after("g", 30, 1), after("g", 999, 0)], [Fate::Over; 2]);
    }

    #[test]
    fn an_instance_of_a_broadcast_is_forgotten_after_seven_days() {
        assert_eq!([after("g@i", 6, 0), after("g@i", 7, 0)], [Fate::Stays, Fate::Ends]);
        assert_eq!(after("g@i", 7, 1), Fate::Over);
    }

    #[test]
    fn after_a_start_nothing_is_forgotten_for_ten_minutes() {
        let at = |ran_ms| fate(0, 31 * DAY_MS, 30 * DAY_MS, ran_ms);
        assert_eq!([at(0), at(600_000), at(600_001)], [Fate::Ends, Fate::Ends, Fate::Over]);
    }

    #[test]
    fn no_time_overflows() {
        assert_eq!(fate(i64::MAX, i64::MIN, DAY_MS, u64::MAX), Fate::Stays);
        assert_eq!(fate(i64::MIN, i64::MAX, i64::MAX, u64::MAX), Fate::Ends);
        assert!(clock_jump(i64::MAX, i64::MIN, u64::MAX).is_some());
    }

    #[test]
    fn a_clock_that_jumped_is_noticed_in_both_directions() {
        assert_eq!(clock_jump(0, 9_000_000, 5_400_000), None);
        assert_eq!(clock_jump(0, 9_000_001, 5_400_000), Some(3_600_001));
        assert_eq!(clock_jump(7_200_000, 0, 1_000), Some(7_201_000));
    }
}
