//! When to try again, and what an answer's code means for a batch. Pure: no clock, no I/O.

use std::time::Duration;

use equeue_net::{Code, Remedy};
use rand::RngExt as _;

/// First pause before something is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Exponential back-off with jitter: each pause is drawn from the upper half of a span that doubles up to a limit, so
/// that many clients of a broker that comes back do not come at the same moment.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    span: Duration,
    limit: Duration,
}

impl Backoff {
    /// Pauses that grow up to `limit`.
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { span: PAUSE_MIN, limit }
    }

    /// Things went well: the next pause is a short one again.
    pub(crate) fn reset(&mut self) {
        self.span = PAUSE_MIN;
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let span = self.span.min(self.limit);
        self.span = (span * 2).min(self.limit);
        span.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// What a broker's outcome means for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchStep {
    /// It is stored.
    Stored {
        /// By an earlier attempt.
        duplicate: bool,
    },
    /// It is not stored now; send the same bytes again.
    Again,
    /// It may be stored or not; send the same bytes again.
    Unclear,
    /// It is not stored here; look at the route, then send the same bytes again.
    Reroute,
    /// The broker waits for another sequence, or knows nothing of this producer.
    OutOfSequence,
    /// It never will be stored.
    Refused,
}

impl BatchStep {
    /// By the code of an outcome, or of a whole answer.
    pub(crate) const fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Stored { duplicate: false },
            Code::Duplicate => Self::Stored { duplicate: true },
            Code::SequenceGap | Code::UnknownProducer => Self::OutOfSequence,
            // The write or the sync failed: what of it lies on the disk is known after the restart.
            Code::LogFailed => Self::Unclear,
            _ => match code.remedy() {
                Remedy::Retry => Self::Again,
                Remedy::RefreshRoute => Self::Reroute,
                Remedy::None | Remedy::Fatal => Self::Refused,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_keep_their_jitter() {
        let limit = Duration::from_millis(500);
        let mut backoff = Backoff::new(limit);
        let mut span = PAUSE_MIN;
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(pause >= span / 2 && pause <= span, "{pause:?} of {span:?}");
            span = (span * 2).min(limit);
        }
        assert_eq!(span, limit);
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_MIN);
    }

    #[test]
    fn every_code_has_a_step() {
        for code in Code::ALL {
            let step = BatchStep::of(*code);
            match code {
                Code::Ok => assert_eq!(step, BatchStep::Stored { duplicate: false }),
                Code::Duplicate => assert_eq!(step, BatchStep::Stored { duplicate: true }),
                Code::SequenceGap | Code::UnknownProducer => assert_eq!(step, BatchStep::OutOfSequence),
                Code::Busy | Code::DiskFull | Code::NotReady => assert_eq!(step, BatchStep::Again),
                Code::LogFailed => assert_eq!(step, BatchStep::Unclear),
                Code::NotOwner | Code::QueueNotFound | Code::QueueSealed => {
                    assert_eq!(step, BatchStep::Reroute);
                }
                Code::MessageTooLarge | Code::Corrupt | Code::Forbidden | Code::StaleEpoch => {
                    assert_eq!(step, BatchStep::Refused);
                }
                _ => {}
            }
        }
    }
}
