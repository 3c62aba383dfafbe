//! Settings that a topic has of its own.

use super::{Request, Status};

/// How long a topic's messages stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicRetention {
    /// As long as the broker's settings say.
    #[default]
    Broker,
    /// So many ms; 0: for ever.
    Ms(u64),
}

/// Changes, or asks for, the settings of a topic on this broker. Repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTopic {
    /// The topic.
    pub topic: String,
    /// How long its messages stay; `None`: as it is.
    pub retention: Option<TopicRetention>,
}

/// Answer to [`SetTopic`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetTopicAnswer {
    /// OK, `TOPIC_NOT_FOUND`, ...
    pub status: Status,
    /// How long its messages stay now.
    pub retention: TopicRetention,
}

impl Request for SetTopic {
    type Answer = SetTopicAnswer;
}
