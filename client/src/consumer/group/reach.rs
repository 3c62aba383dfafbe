//! Which brokers this member cannot reach although they are alive. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::lease::Moment;

/// How long a broker may fail before the group is told: longer than a restart takes, as long as it takes the nameservers
/// to notice one that is dead for everybody.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(10);

/// Since when brokers fail.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    failing: BTreeMap<Arc<str>, Moment>,
}

impl Reach {
    /// The broker answered.
    pub(crate) fn answered(&mut self, broker: &str) {
        self.failing.remove(broker);
    }

    /// The broker did not answer.
    pub(crate) fn failed(&mut self, broker: &Arc<str>, now: Moment) {
        self.failing.entry(Arc::clone(broker)).or_insert(now);
    }

    /// Brokers that have failed for long. Among them are dead ones: whether one is alive, others know.
    pub(crate) fn unreachable(&self, now: Moment) -> Vec<Arc<str>> {
        self.failing
            .iter()
            .filter(|(_, since)| now.since(**since) >= UNREACHABLE_AFTER)
            .map(|(broker, _)| Arc::clone(broker))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_unreachable_after_a_while_and_until_it_answers() {
        let (mut reach, now) = (Reach::default(), Moment::now());
        let broker: Arc<str> = "b".into();
        reach.failed(&broker, now);
        reach.failed(&broker, now.plus(Duration::from_secs(9)));
        assert!(reach.unreachable(now.plus(Duration::from_secs(9))).is_empty());
        assert_eq!(reach.unreachable(now.plus(Duration::from_secs(10))).len(), 1);
        reach.answered("b");
        assert!(reach.unreachable(now.plus(Duration::from_mins(1))).is_empty());
    }
}
