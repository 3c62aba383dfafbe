//! What one consumer group was given and what it committed, per queue (C6, C7). Pure.

use super::violation::{Class, Findings};

/// One group over all queues of a run.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    queues: Vec<Progress>,
    /// Messages given a second time to the same member: allowed, but worth knowing.
    redelivered: u64,
    pulled: u64,
}

/// One queue of a group. All offsets are exclusive ends.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The group was given everything before it, over all its members.
    pulled_to: u64,
    /// Committed for sure.
    floor: u64,
    /// What the present member is to be given next; `None`: it was given nothing yet.
    member_next: Option<u64>,
}

impl Group {
    /// Nothing given, nothing committed.
    pub(crate) fn new(name: &str, queues: u16) -> Self {
        Self {
            name: name.to_owned(),
            queues: vec![Progress::default(); usize::from(queues)],
            redelivered: 0,
            pulled: 0,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Messages given so far.
    pub(crate) fn pulled(&self) -> u64 {
        self.pulled
    }

    /// Messages that a member was given again.
    pub(crate) fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// A new member takes over from the one before.
    pub(crate) fn renew(&mut self) {
        for progress in &mut self.queues {
            progress.member_next = None;
        }
    }

    /// The member was given the record at this offset.
    pub(crate) fn pull(&mut self, queue: u16, offset: u64, findings: &mut Findings) {
        let Some(progress) = self.queues.get_mut(usize::from(queue)) else { return };
        self.pulled += 1;
        let Progress { pulled_to, floor, member_next } = *progress;
        match member_next {
            None if offset < floor => findings.note(Class::Commit, || {
                format!(
                    "group {} had committed {floor} of queue #{queue}, a new member begins at {offset}",
                    self.name
                )
            }),
            None if offset > pulled_to => findings.note(Class::Commit, || {
                format!(
                    "group {} was given queue #{queue} up to {pulled_to}, a new member begins at {offset}: what \
                     lies between was never delivered",
                    self.name
                )
            }),
            Some(next) if offset > next => findings.note(Class::Unread, || {
                format!("a member of group {} was not given {next}..{offset} of queue #{queue}", self.name)
            }),
            Some(next) if offset < next => self.redelivered += 1,
            _ => {}
        }
        progress.member_next = Some(offset.saturating_add(1));
        progress.pulled_to = pulled_to.max(offset.saturating_add(1));
    }

    /// A commit of everything before `next` was answered as done.
    pub(crate) fn committed(&mut self, queue: u16, next: u64) {
        if let Some(progress) = self.queues.get_mut(usize::from(queue)) {
            progress.floor = progress.floor.max(next);
        }
    }

    /// Committed for sure, by queue. To be taken before the broker is asked, as commits go on meanwhile.
    pub(crate) fn floors(&self) -> Vec<u64> {
        self.queues.iter().map(|progress| progress.floor).collect()
    }

    /// Given so far, by queue.
    pub(crate) fn pulled_to(&self) -> Vec<u64> {
        self.queues.iter().map(|progress| progress.pulled_to).collect()
    }

    /// The broker says that `found` is committed; before it was asked it was `floor` at least.
    pub(crate) fn observed(&mut self, queue: u16, found: Option<u64>, floor: u64, findings: &mut Findings) {
        let Some(progress) = self.queues.get_mut(usize::from(queue)) else { return };
        let value = found.unwrap_or(0);
        if value < floor {
            findings.note(Class::Commit, || {
                format!(
                    "group {} had committed {floor} of queue #{queue}, the broker now says {found:?}",
                    self.name
                )
            });
        }
        if value > progress.pulled_to {
            findings.note(Class::Commit, || {
                format!(
                    "group {} was given queue #{queue} up to {}, but {value} is committed",
                    self.name, progress.pulled_to
                )
            });
        }
        progress.floor = progress.floor.max(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> (Group, Findings) {
        let mut group = Group::new("g", 2);
        let mut findings = Findings::default();
        for offset in 0..10 {
            group.pull(1, offset, &mut findings);
        }
        group.committed(1, 6);
        assert_eq!(findings.total(), 0);
        (group, findings)
    }

    #[test]
    fn an_ordinary_life_is_no_violation() {
        let (mut group, mut findings) = group();
        group.observed(1, Some(6), 6, &mut findings);
        group.observed(1, Some(10), 6, &mut findings);
        group.observed(0, None, 0, &mut findings);
        group.renew();
        group.pull(1, 10, &mut findings);
        group.pull(1, 11, &mut findings);
        group.pull(0, 0, &mut findings);
        assert_eq!((findings.total(), group.redelivered(), group.pulled()), (0, 0, 13));
    }

    #[test]
    fn a_commit_that_went_back_is_found() {
        let (mut group, mut findings) = group();
        group.observed(1, Some(5), 6, &mut findings);
        group.observed(1, None, 6, &mut findings);
        group.renew();
        group.pull(1, 5, &mut findings);
        assert_eq!(findings.count(Class::Commit), 3);
    }

    #[test]
    fn a_commit_that_was_seen_once_stays() {
        let (mut group, mut findings) = group();
        group.observed(1, Some(8), 6, &mut findings);
        let floor = group.floors()[1];
        group.observed(1, Some(7), floor, &mut findings);
        assert_eq!(findings.count(Class::Commit), 1);
    }

    #[test]
    fn a_commit_past_what_was_given_is_found() {
        let (mut group, mut findings) = group();
        group.observed(1, Some(11), 6, &mut findings);
        group.renew();
        group.pull(0, 1, &mut findings);
        assert_eq!(findings.count(Class::Commit), 2);
    }

    #[test]
    fn skipped_and_repeated_messages_are_found() {
        let (mut group, mut findings) = group();
        group.pull(1, 11, &mut findings);
        assert_eq!(findings.count(Class::Unread), 1);
        group.pull(1, 3, &mut findings);
        assert_eq!((findings.total(), group.redelivered()), (1, 1));
    }
}
