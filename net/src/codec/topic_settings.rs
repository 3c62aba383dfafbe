//! Headers about the settings of topics.

use super::read::{Check, root};
use super::write;
use crate::api::{DecodeError, Kind, Message, SetTopic, SetTopicAnswer, TopicRetention};
use crate::schema::wire;

const AS_IT_IS: u8 = 0;
const BROKER: u8 = 1;
const MS: u8 = 2;

fn numbers(retention: Option<TopicRetention>) -> (u8, u64) {
    match retention {
        None => (AS_IT_IS, 0),
        Some(TopicRetention::Broker) => (BROKER, 0),
        Some(TopicRetention::Ms(ms)) => (MS, ms),
    }
}

impl Check {
    fn retention(self, kind: u8, ms: u64) -> Result<Option<TopicRetention>, DecodeError> {
        match (kind, ms) {
            (AS_IT_IS, 0) => Ok(None),
            (BROKER, 0) => Ok(Some(TopicRetention::Broker)),
            (MS, ms) => Ok(Some(TopicRetention::Ms(ms))),
            _ => Err(self.refuse("retention")),
        }
    }
}

impl Message for SetTopic {
    const KIND: Kind = Kind::SetTopic;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let topic = Some(b.create_string(&self.topic));
            let (retention, retention_ms) = numbers(self.retention);
            wire::SetTopic::create(b, &wire::SetTopicArgs { topic, retention, retention_ms })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::SetTopic<'_>>(Self::KIND, header)?;
        Ok(Self {
            topic: check.required_name("topic", table.topic())?,
            retention: check.retention(table.retention(), table.retention_ms())?,
        })
    }
}

impl Message for SetTopicAnswer {
    const KIND: Kind = Kind::SetTopic;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let (retention, retention_ms) = numbers(Some(self.retention));
            let args = wire::SetTopicAnswerArgs { status: Some(&status), detail, retention, retention_ms };
            wire::SetTopicAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::SetTopicAnswer<'_>>(Self::KIND, header)?;
        let retention = check.retention(table.retention(), table.retention_ms())?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            retention: retention.unwrap_or_default(),
        })
    }
}
