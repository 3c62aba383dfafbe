//! The four times of a message, each in a histogram of its own.
//!
//! | time | from | to |
//! |---|---|---|
//! | response | when it was due to be sent (without a timetable: when it was sent) | its acknowledgement |
//! | service | when it was sent | its acknowledgement |
//! | publish delay | when it was due | when it was sent: what the generator itself was late |
//! | end to end | when it was due (delayed: when it was to be delivered) | when a consumer had it |
//!
//! Response = publish delay + service, message by message: a generator that falls behind shows in the response and
//! cannot hide what messages waited for (no coordinated omission).

use crate::histogram::Latencies;

/// The times of what was sent.
#[derive(Clone, Debug)]
pub(crate) struct SendTimes {
    /// From when a message was due to its acknowledgement.
    pub response: Latencies,
    /// The two parts of the response; kept where there is a timetable, for without one there is but one.
    pub parts: Option<ResponseParts>,
}

/// What a response is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseParts {
    /// From when it was sent to its acknowledgement.
    pub service: Latencies,
    /// From when it was due to when it was sent.
    pub publish_delay: Latencies,
}

impl SendTimes {
    /// Nothing recorded.
    pub(crate) fn new(open_loop: bool) -> Self {
        Self { response: Latencies::new(), parts: open_loop.then(ResponseParts::default) }
    }

    /// Adds what another thread recorded.
    pub(crate) fn add(&mut self, other: &Self) {
        self.response.add(&other.response);
        if let (Some(parts), Some(other)) = (&mut self.parts, &other.parts) {
            parts.service.add(&other.service);
            parts.publish_delay.add(&other.publish_delay);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.response.clear();
        if let Some(parts) = &mut self.parts {
            parts.service.clear();
            parts.publish_delay.clear();
        }
    }
}

/// All four.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// What was sent.
    pub sent: SendTimes,
    /// Until a consumer had it.
    pub end_to_end: Latencies,
}

impl Times {
    /// Nothing recorded.
    pub(crate) fn new(open_loop: bool) -> Self {
        Self { sent: SendTimes::new(open_loop), end_to_end: Latencies::new() }
    }

    /// Adds a part of the run.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent.add(&other.sent);
        self.end_to_end.add(&other.end_to_end);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sent.clear();
        self.end_to_end.clear();
    }

    /// Service time, where it is not the response itself.
    pub(crate) fn service(&self) -> Option<&Latencies> {
        self.sent.parts.as_ref().map(|parts| &parts.service)
    }

    /// Publish delay, where there is a timetable.
    pub(crate) fn publish_delay(&self) -> Option<&Latencies> {
        self.sent.parts.as_ref().map(|parts| &parts.publish_delay)
    }

    /// Those that hold something, with the names that logs and results use.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, &Latencies)> {
        [
            ("response", Some(&self.sent.response)),
            ("service", self.service()),
            ("publish_delay", self.publish_delay()),
            ("end_to_end", Some(&self.end_to_end)),
        ]
        .into_iter()
        .filter_map(|(name, times)| Some((name, times.filter(|times| times.count() > 0)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_only_what_holds_something_has_a_name() {
        let (mut all, mut second) = (Times::new(true), Times::new(true));
        second.sent.response.record(30);
        let parts = second.sent.parts.as_mut().expect("an open loop");
        parts.service.record(10);
        parts.publish_delay.record(20);
        all.add(&second);
        all.add(&second);
        let counts: Vec<_> = all.named().map(|(name, times)| (name, times.count())).collect();
        assert_eq!(counts, [("response", 2), ("service", 2), ("publish_delay", 2)]);
        all.clear();
        assert_eq!(all.named().count(), 0);
        assert!(Times::new(false).service().is_none());
    }
}
