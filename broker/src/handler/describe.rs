//! Questions for people and tools: topics, one topic with its queues, the broker with its logs.

use std::rc::Rc;

use equeue_net::Code;
use equeue_net::api::{
    DescribeBroker, DescribeBrokerAnswer, DescribeTopic, DescribeTopicAnswer, ListTopics, ListTopicsAnswer,
    LogState, QueueState, Status,
};
use equeue_record::{Offset, QueueKey};

use super::spawn_answer;
use crate::process;
use crate::shard::call::{Call, Reply};
use crate::shard::mesh::Pool;
use crate::shard::router::Scatter;
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// The catalog's topics.
pub(crate) fn list_topics(shard: &Shard, _: &ListTopics) -> ListTopicsAnswer {
    let catalog = shard.catalog();
    let topics = catalog.topics().map(|topic| topic.snapshot(shard.shards())).collect();
    ListTopicsAnswer { status: Status::OK, topics }
}

/// One topic, with the bounds of its queues here.
pub(crate) fn topic(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, request: &DescribeTopic) {
    let catalog = shard.catalog();
    let Some(topic) = catalog.topic(&request.topic).cloned() else {
        let status =
            Status::new(Code::TopicNotFound, format!("topic `{}` does not exist here", request.topic));
        return session.fail::<DescribeTopicAnswer>(correlation, status);
    };
    let scatter = Scatter {
        queue: |queue: &QueueKey| *queue,
        call: Box::new(|queues| Call::Bounds { queues }),
        read: |reply| if let Reply::Bounds(told) = reply { Some(told) } else { None },
        missing: |_, _| None,
    };
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let keys = topic.queues.iter().map(|home| home.key).collect();
        let bounds = scatter.run(&shard_of_task, keys).await;
        let mut queues = Vec::with_capacity(bounds.len());
        for (home, bounds) in topic.queues.iter().zip(bounds) {
            let queue = home.entry(shard_of_task.shards());
            queues.push(QueueState {
                queue,
                start_offset: bounds.map_or(Offset(0), |bounds| bounds.start),
                high_watermark: bounds.map_or(Offset(0), |bounds| bounds.durable_end),
            });
        }
        let map = topic.map.iter().map(ToString::to_string).collect();
        DescribeTopicAnswer { status: Status::OK, version: topic.version, map, queues }
    });
}

/// The broker, its logs and what it uses.
pub(crate) fn broker(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, _: &DescribeBroker) {
    let mut replies = Vec::new();
    for of in (0..shard.shards()).filter(|of| *of != shard.index) {
        replies.extend(shard.mesh.ask(of, Pool::Quick, Call::Logs).ok());
    }
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let mut logs = logs_here(&shard_of_task);
        for reply in replies {
            if let Ok(Reply::Logs(more)) = reply.await {
                logs.extend(more);
            }
        }
        logs.sort_unstable_by_key(|log| log.log);
        let usage = process::usage();
        DescribeBrokerAnswer {
            status: Status::OK,
            broker: Some(shard_of_task.broker.entry()),
            logs,
            cpu_us: usage.cpu_us,
            resident_bytes: usage.resident_bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    });
}

/// State of this shard's logs.
pub(crate) fn logs_here(shard: &Shard) -> Vec<LogState> {
    let one = |host: &crate::shard::state::LogHost| {
        let (start, end) = host.log.positions();
        let state = match host.events.failure() {
            Some(reason) => reason.to_string(),
            None if host.log.stats().disk_full => "disk full".to_owned(),
            None => "ok".to_owned(),
        };
        LogState {
            log: host.id.0,
            shard: shard.index,
            start_position: start.0,
            durable_position: end.0,
            state,
        }
    };
    shard.logs.iter().map(one).collect()
}
