//! Which groups have somebody on this broker: a member, or the holder of a queue; and for which topics. A shard sees its
//! own queues and the members that it keeps; what the others see they tell, when it changes. Pure; the shard sends.
//!
//! Bounded by the groups that each shard may have, and their subscriptions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Topics of groups.
pub type GroupTopics = HashMap<Arc<str>, BTreeSet<Arc<str>>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Attendance {
    here: Arc<GroupTopics>,
    elsewhere: HashMap<u16, Arc<GroupTopics>>,
    /// Shards that were not told of `here` yet.
    behind: BTreeSet<u16>,
}

impl Attendance {
    /// These groups have somebody on this shard; `others` are to know.
    pub fn saw(&mut self, here: GroupTopics, others: impl IntoIterator<Item = u16>) {
        if *self.here != here {
            self.here = Arc::new(here);
            self.behind.extend(others);
        }
    }

    /// Tells the shards that do not know; `tell` says whether it could.
    pub fn tell(&mut self, mut tell: impl FnMut(u16, Arc<GroupTopics>) -> bool) {
        let here = &self.here;
        self.behind.retain(|shard| !tell(*shard, Arc::clone(here)));
    }

    /// What another shard tells.
    pub fn told(&mut self, by: u16, groups: Arc<GroupTopics>) {
        self.elsewhere.insert(by, groups);
    }

    /// Whether somebody of the group is there.
    pub fn has(&self, group: &str) -> bool {
        self.all().any(|groups| groups.contains_key(group))
    }

    /// Whether somebody is there for a topic.
    pub fn wants(&self, group: &str, topic: &str) -> bool {
        self.all().any(|groups| groups.get(group).is_some_and(|topics| topics.contains(topic)))
    }

    fn all(&self) -> impl Iterator<Item = &GroupTopics> {
        std::iter::once(&self.here).chain(self.elsewhere.values()).map(Arc::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These groups, each for a topic of its own name.
    fn names(names: &[&str]) -> GroupTopics {
        names.iter().map(|name| (Arc::from(*name), BTreeSet::from([Arc::from(*name)]))).collect()
    }

    /// Tells those of `reached`; gives who was asked for.
    fn tell(attendance: &mut Attendance, reached: &[u16]) -> Vec<(u16, usize)> {
        let mut asked = Vec::new();
        attendance.tell(|shard, groups| {
            asked.push((shard, groups.len()));
            reached.contains(&shard)
        });
        asked
    }

    #[test]
    fn a_change_is_told_until_everybody_knows() {
        let mut attendance = Attendance::default();
        attendance.saw(names(&[]), [1, 2]);
        assert_eq!(tell(&mut attendance, &[]), [], "nothing is what the others believe");
        attendance.saw(names(&["a", "b"]), [1, 2]);
        assert_eq!(tell(&mut attendance, &[1]), [(1, 2), (2, 2)]);
        attendance.saw(names(&["a", "b"]), [1, 2]);
        assert_eq!(tell(&mut attendance, &[1]), [(2, 2)]);
        attendance.saw(names(&["a"]), [1, 2]);
        assert_eq!(tell(&mut attendance, &[1, 2]), [(1, 1), (2, 1)]);
        assert_eq!(tell(&mut attendance, &[]), []);
    }

    #[test]
    fn a_group_is_there_when_one_shard_sees_it() {
        let mut attendance = Attendance::default();
        attendance.saw(names(&["a"]), [1, 2]);
        attendance.told(1, Arc::new(names(&["b", "c"])));
        attendance.told(2, Arc::new(names(&["c"])));
        assert!(attendance.has("a") && attendance.has("b") && attendance.has("c") && !attendance.has("d"));
        attendance.told(1, Arc::new(names(&[])));
        assert!(!attendance.has("b") && attendance.has("c"));
    }

    #[test]
    fn a_topic_is_wanted_when_one_shard_says_so() {
        let mut attendance = Attendance::default();
        let group = |topics: &[&str]| {
            GroupTopics::from([(Arc::from("g"), topics.iter().map(|topic| Arc::from(*topic)).collect())])
        };
        attendance.saw(group(&["t"]), [1]);
        attendance.told(1, Arc::new(group(&["u"])));
        assert!(attendance.wants("g", "t") && attendance.wants("g", "u"));
        assert!(!attendance.wants("g", "v") && !attendance.wants("h", "t"));
        // Members without a topic are members.
        attendance.saw(group(&[]), [1]);
        assert!(attendance.has("g") && !attendance.wants("g", "t"));
    }
}
