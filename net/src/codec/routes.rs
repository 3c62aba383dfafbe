//! Headers of registration and routes.

use equeue_record::QueueKey;
use flatbuffers::WIPOffset;

use super::read::{Check, READABLE, WRITABLE, incarnation, root};
use super::write::{self, Builder};
use crate::Code;
use crate::api::{
    DecodeError, GetCluster, GetClusterAnswer, GetRoutes, GetRoutesAnswer, Kind, Message, QueueEntry,
    QueueRoute, RegisterBroker, TopicRoute, UnregisterBroker,
};
use crate::limits::{BROKERS_MAX, TOPIC_QUEUES_MAX, TOPICS_MAX};
use crate::schema::wire;

impl Message for RegisterBroker {
    const KIND: Kind = Kind::RegisterBroker;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let broker = write::broker(b, &self.broker);
            let topics = write::tables(b, &self.topics, write::topic);
            wire::RegisterBroker::create(b, &wire::RegisterBrokerArgs { broker: Some(broker), topics })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::RegisterBroker<'_>>(Self::KIND, header)?;
        Ok(Self {
            broker: check.broker(table.broker())?,
            topics: check.list("topics", table.topics(), TOPICS_MAX, |topic| check.topic(topic))?,
        })
    }
}

impl Message for UnregisterBroker {
    const KIND: Kind = Kind::UnregisterBroker;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let cluster = b.create_string(&self.cluster);
            let name = b.create_string(&self.name);
            wire::UnregisterBroker::create(
                b,
                &wire::UnregisterBrokerArgs {
                    cluster: Some(cluster),
                    name: Some(name),
                    incarnation: Some(&write::incarnation(self.incarnation)),
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::UnregisterBroker<'_>>(Self::KIND, header)?;
        Ok(Self {
            cluster: check.required_name("cluster", table.cluster())?,
            name: check.required_name("name", table.name())?,
            incarnation: incarnation(table.incarnation()),
        })
    }
}

write::status_only! {
    RegisterBrokerAnswer RegisterBrokerAnswerArgs RegisterBroker;
    UnregisterBrokerAnswer UnregisterBrokerAnswerArgs UnregisterBroker;
}

impl Message for GetRoutes {
    const KIND: Kind = Kind::GetRoutes;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let cluster = write::text(b, &self.cluster);
            let topics = write::names(b, &self.topics);
            wire::GetRoutes::create(b, &wire::GetRoutesArgs { cluster, topics })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GetRoutes<'_>>(Self::KIND, header)?;
        Ok(Self {
            cluster: check.name("cluster", table.cluster())?,
            topics: check.names("topics", table.topics(), TOPICS_MAX)?,
        })
    }
}

/// Bit 2 of a route's flags: the queue's broker is alive.
const LIVE: u8 = 4;

fn write_queue_route(route: &QueueRoute) -> wire::QueueRoute {
    match &route.live {
        Some(queue) => {
            wire::QueueRoute::new(queue.key.0, route.ordinal, queue.shard, write::queue_flags(queue) | LIVE)
        }
        None => wire::QueueRoute::new(0, route.ordinal, 0, 0),
    }
}

fn read_queue_route(route: &wire::QueueRoute, broker: String) -> QueueRoute {
    let live = (route.flags() & LIVE != 0).then(|| QueueEntry {
        ordinal: route.ordinal(),
        key: QueueKey(route.key()),
        shard: route.shard(),
        writable: route.flags() & WRITABLE != 0,
        readable: route.flags() & READABLE != 0,
    });
    QueueRoute { ordinal: route.ordinal(), broker, live }
}

fn write_topic_route(b: &mut Builder, route: &TopicRoute) -> WIPOffset<wire::TopicRoute<'static>> {
    let name = b.create_string(&route.name);
    let queues = write::structs(b, route.queues.iter().map(write_queue_route));
    let owners = write::texts(b, route.queues.iter().map(|queue| queue.broker.as_str()));
    wire::TopicRoute::create(
        b,
        &wire::TopicRouteArgs {
            name: Some(name),
            code: route.code as u16,
            version: route.version,
            queues,
            owners,
        },
    )
}

fn read_topic_route(check: Check, route: wire::TopicRoute<'_>) -> Result<TopicRoute, DecodeError> {
    let owners = check.names("topic.owners", route.owners(), TOPIC_QUEUES_MAX)?;
    if route.queues().map_or(0, |queues| queues.len()) != owners.len() {
        return Err(check.refuse("topic.owners"));
    }
    let mut owners = owners.into_iter();
    let queues = check.list("topic.queues", route.queues(), TOPIC_QUEUES_MAX, |queue| {
        Ok(read_queue_route(queue, owners.next().unwrap_or_default()))
    })?;
    Ok(TopicRoute {
        name: check.required_name("topic.name", route.name())?,
        code: Code::from_number(route.code()),
        version: route.version(),
        queues,
    })
}

impl Message for GetRoutesAnswer {
    const KIND: Kind = Kind::GetRoutes;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let brokers = write::tables(b, &self.brokers, write::broker);
            let topics = write::tables(b, &self.topics, write_topic_route);
            let status = write::status_head(&self.status);
            let settling = self.settling;
            let args = wire::GetRoutesAnswerArgs { status: Some(&status), detail, brokers, topics, settling };
            wire::GetRoutesAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GetRoutesAnswer<'_>>(Self::KIND, header)?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            brokers: check.list("brokers", table.brokers(), BROKERS_MAX, |broker| check.broker(broker))?,
            topics: check
                .list("topics", table.topics(), TOPICS_MAX, |topic| read_topic_route(check, topic))?,
            settling: table.settling(),
        })
    }
}

impl Message for GetCluster {
    const KIND: Kind = Kind::GetCluster;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let cluster = write::text(b, &self.cluster);
            wire::GetCluster::create(b, &wire::GetClusterArgs { cluster })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let table = root::<wire::GetCluster<'_>>(Self::KIND, header)?;
        Ok(Self { cluster: Check(Self::KIND).name("cluster", table.cluster())? })
    }
}

impl Message for GetClusterAnswer {
    const KIND: Kind = Kind::GetCluster;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let brokers = write::tables(b, &self.brokers, write::broker);
            let status = write::status_head(&self.status);
            wire::GetClusterAnswer::create(
                b,
                &wire::GetClusterAnswerArgs { status: Some(&status), detail, brokers },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::GetClusterAnswer<'_>>(Self::KIND, header)?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            brokers: check.list("brokers", table.brokers(), BROKERS_MAX, |broker| check.broker(broker))?,
        })
    }
}
