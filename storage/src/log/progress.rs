//! How far a long reading of the log is: when to tell, and what. Pure.

use std::time::Duration;

use crate::types::Position;

/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// See the file's own text.
#[derive(Debug)]
pub(super) struct Progress {
    begin: Position,
    end: Position,
    told: Duration,
}

impl Progress {
    /// Reading begins at uptime `now`; it goes from `begin` to `end` at the most.
    pub(super) const fn new(now: Duration, begin: Position, end: Position) -> Self {
        Self { begin, end, told: now }
    }

    /// Everything before `position` is read at uptime `now`: the bytes read, and those there are at the most, when it is
    /// time to tell.
    pub(super) fn at(&mut self, now: Duration, position: Position) -> Option<(u64, u64)> {
        if now.saturating_sub(self.told) < TELL_EVERY {
            return None;
        }
        self.told = now;
        let of = self.end.0.saturating_sub(self.begin.0);
        Some((position.0.saturating_sub(self.begin.0).min(of), of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_every_few_seconds_and_not_more_often() {
        let seconds = Duration::from_secs;
        let mut progress = Progress::new(seconds(100), Position(1000), Position(9000));
        assert_eq!(progress.at(seconds(104), Position(2000)), None);
        assert_eq!(progress.at(seconds(105), Position(3000)), Some((2000, 8000)));
        assert_eq!(progress.at(seconds(109), Position(4000)), None);
        assert_eq!(progress.at(seconds(130), Position(5000)), Some((4000, 8000)));
        assert_eq!(progress.at(seconds(131), Position(6000)), None);
        assert_eq!(progress.at(seconds(140), Position(9999)), Some((8000, 8000)));
    }
}
