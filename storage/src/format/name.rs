//! Names of files and folders in a data directory. What has another name is none of the log's business.

use crate::types::{LogId, Position};

/// What the data directory is; see [`super::Identity`].
pub const IDENTITY_FILE: &str = "identity";
/// Locked by the process that serves the data directory.
pub const LOCK_FILE: &str = "lock";
/// Where files that a repair or a fail-over set aside are kept, in a log's folder.
pub const LOST_AND_FOUND_DIR: &str = "lost+found";

/// All logs of the data directory were begun. Beside their folders.
pub const BEGUN_FILE: &str = "begun";
/// The log was given up and is begun anew by the next start. In a log's folder.
pub const BEGIN_ANEW_FILE: &str = "begin.anew";

/// A repair was begun: the log is not opened before it has ended. In a log's folder.
pub const REPAIR_INTENT_FILE: &str = "repair.intent";

/// Keeps the space for the segment that a start after a crash begins with. In a log's folder.
pub const BALLAST_FILE: &str = "ballast.tmp";

const POSITION_DIGITS: usize = 20;

/// A name in the folder of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileName {
    /// The segment that begins at this position.
    Segment(Position),
    /// The index of the segment that begins at this position.
    Index(Position),
    /// A segment being prepared; may be deleted at any start.
    Prep,
    /// Nothing but space.
    Ballast,
}

impl FileName {
    /// The meaning of a name; `None` for one that is never given.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(digits) = name.strip_suffix(".seg") {
            parse_position(digits).map(Self::Segment)
        } else if let Some(digits) = name.strip_suffix(".idx") {
            parse_position(digits).map(Self::Index)
        } else if name == BALLAST_FILE {
            Some(Self::Ballast)
        } else {
            name.strip_prefix("prep-").and_then(|rest| rest.strip_suffix(".tmp")).map(|_| Self::Prep)
        }
    }
}

fn parse_position(digits: &str) -> Option<Position> {
    let canonical = digits.len() == POSITION_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if canonical { digits.parse().ok().map(Position) } else { None }
}

/// `<position>.seg`
pub fn segment_name(position: Position) -> String {
    format!("{:020}.seg", position.0)
}

/// `<position>.idx`
pub fn index_name(position: Position) -> String {
    format!("{:020}.idx", position.0)
}

/// `prep-<number>.tmp`: any number that no other preparation uses at the time.
pub fn prep_name(number: u64) -> String {
    format!("prep-{number}.tmp")
}

/// `repair-<position>.tmp`: what a repair will put in the place of the segment.
pub fn repair_name(position: Position) -> String {
    format!("repair-{}.tmp", position.0)
}

/// `log-<n>`
pub fn log_dir_name(log: LogId) -> String {
    format!("log-{log}")
}

/// The log whose folder has this name.
pub fn parse_log_dir_name(name: &str) -> Option<LogId> {
    let log = name.strip_prefix("log-")?.parse().ok().map(LogId)?;
    (log_dir_name(log) == name).then_some(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_meanings() {
        for position in [0, 1 << 20, u64::MAX] {
            let position = Position(position);
            assert_eq!(FileName::parse(&segment_name(position)), Some(FileName::Segment(position)));
            assert_eq!(FileName::parse(&index_name(position)), Some(FileName::Index(position)));
        }
        assert_eq!(segment_name(Position(1 << 20)), "00000000000001048576.seg");
        assert_eq!(FileName::parse(&prep_name(7)), Some(FileName::Prep));
        assert_eq!(FileName::parse(BALLAST_FILE), Some(FileName::Ballast));
        assert_eq!(parse_log_dir_name(&log_dir_name(LogId(12))), Some(LogId(12)));
    }

    #[test]
    fn names_never_given_mean_nothing() {
        for name in [
            "",
            "0.seg",
            "+0000000000001048576.seg",
            "99999999999999999999.seg",
            "00000000000001048576.seg.bak",
            "00000000000001048576",
            "prep-1",
            "lock",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
        for name in ["log", "log-", "log-01", "log-+1", "log-65536", "log-1x"] {
            assert_eq!(parse_log_dir_name(name), None, "{name}");
        }
    }

    #[test]
    fn names_sort_like_positions() {
        assert!(segment_name(Position(9 << 20)) < segment_name(Position(10 << 20)));
    }
}
