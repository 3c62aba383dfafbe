//! Headers of the requests about topics and brokers.

use equeue_record::Offset;

use super::read::{Check, queue_entry, root};
use super::write;
use crate::api::{
    CreateTopic, DecodeError, DescribeBrokerAnswer, DescribeTopicAnswer, Kind, ListTopicsAnswer, LogState,
    Message, QueueState,
};
use crate::limits::{DETAIL_BYTES_MAX, LOGS_MAX, TOPIC_QUEUES_MAX, TOPICS_MAX};
use crate::schema::wire;

impl Message for CreateTopic {
    const KIND: Kind = Kind::CreateTopic;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let topic = b.create_string(&self.topic);
            let map = write::names(b, &self.map);
            wire::CreateTopic::create(
                b,
                &wire::CreateTopicArgs {
                    topic: Some(topic),
                    map,
                    queues: self.queues,
                    version: self.version,
                    auto_create: self.auto,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::CreateTopic<'_>>(Self::KIND, header)?;
        check.length("queues", table.queues() as usize, TOPIC_QUEUES_MAX)?;
        Ok(Self {
            topic: check.required_name("topic", table.topic())?,
            map: check.names("map", table.map(), TOPIC_QUEUES_MAX)?,
            queues: table.queues(),
            version: table.version(),
            auto: table.auto_create(),
        })
    }
}

write::one_name! { DeleteTopic DeleteTopicArgs topic; DescribeTopic DescribeTopicArgs topic; }
write::empty! { ListTopics ListTopicsArgs; DescribeBroker DescribeBrokerArgs; }
write::status_only! { DeleteTopicAnswer DeleteTopicAnswerArgs DeleteTopic; }

impl Message for ListTopicsAnswer {
    const KIND: Kind = Kind::ListTopics;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let topics = write::tables(b, &self.topics, write::topic);
            let status = write::status_head(&self.status);
            let args = wire::ListTopicsAnswerArgs { status: Some(&status), detail, topics };
            wire::ListTopicsAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ListTopicsAnswer<'_>>(Self::KIND, header)?;
        let topics = check.list("topics", table.topics(), TOPICS_MAX, |topic| check.topic(topic))?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, topics })
    }
}

impl Message for DescribeTopicAnswer {
    const KIND: Kind = Kind::DescribeTopic;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let map = write::names(b, &self.map);
            let queues = self.queues.iter().map(|state| {
                let queue = write::queue_entry(&state.queue);
                wire::QueueState::new(&queue, state.start_offset.0, state.high_watermark.0)
            });
            let queues = write::structs(b, queues);
            let status = write::status_head(&self.status);
            wire::DescribeTopicAnswer::create(
                b,
                &wire::DescribeTopicAnswerArgs {
                    status: Some(&status),
                    detail,
                    version: self.version,
                    map,
                    queues,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::DescribeTopicAnswer<'_>>(Self::KIND, header)?;
        let queues = check.list("queues", table.queues(), TOPIC_QUEUES_MAX, |state| {
            Ok(QueueState {
                queue: queue_entry(state.queue()),
                start_offset: Offset(state.start_offset()),
                high_watermark: Offset(state.high_watermark()),
            })
        })?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            version: table.version(),
            map: check.names("map", table.map(), TOPIC_QUEUES_MAX)?,
            queues,
        })
    }
}

impl Message for DescribeBrokerAnswer {
    const KIND: Kind = Kind::DescribeBroker;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let broker = self.broker.as_ref().map(|broker| write::broker(b, broker));
            let logs = write::tables(b, &self.logs, |b, log| {
                let state = write::text(b, &log.state);
                wire::LogState::create(
                    b,
                    &wire::LogStateArgs {
                        log: log.log,
                        shard: log.shard,
                        start_position: log.start_position,
                        durable_position: log.durable_position,
                        state,
                    },
                )
            });
            let version = write::text(b, &self.version);
            wire::DescribeBrokerAnswer::create(
                b,
                &wire::DescribeBrokerAnswerArgs {
                    status: Some(&write::status_head(&self.status)),
                    detail,
                    broker,
                    logs,
                    cpu_us: self.cpu_us,
                    resident_bytes: self.resident_bytes,
                    version,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::DescribeBrokerAnswer<'_>>(Self::KIND, header)?;
        let logs = check.list("logs", table.logs(), LOGS_MAX, |log| {
            Ok(LogState {
                log: log.log(),
                shard: log.shard(),
                start_position: log.start_position(),
                durable_position: log.durable_position(),
                state: check.text("log.state", log.state(), DETAIL_BYTES_MAX)?,
            })
        })?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            broker: table.broker().map(|broker| check.broker(broker)).transpose()?,
            logs,
            cpu_us: table.cpu_us(),
            resident_bytes: table.resident_bytes(),
            version: check.name("version", table.version())?,
        })
    }
}
