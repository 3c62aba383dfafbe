//! Headers about the access to queues, clients, counters, and delayed messages taken back.

use equeue_record::{Offset, QueueKey};

use super::read::{Check, incarnation, root};
use super::write;
use crate::api::{
    BrokerStatsAnswer, CancelDelayed, CancelDelayedAnswer, ClientEntry, Counter, DecodeError, Kind,
    ListClientsAnswer, Message, RemoveQueues, SetQueueAccess,
};
use crate::limits::{ADDRESS_BYTES_MAX, CLIENTS_MAX, COUNTERS_MAX, TOPIC_QUEUES_MAX, TOPICS_MAX};
use crate::schema::wire;

fn access(value: Option<bool>) -> u8 {
    match value {
        None => 0,
        Some(true) => 1,
        Some(false) => 2,
    }
}

impl Check {
    fn access(self, field: &'static str, value: u8) -> Result<Option<bool>, DecodeError> {
        match value {
            0 => Ok(None),
            1 => Ok(Some(true)),
            2 => Ok(Some(false)),
            _ => Err(self.refuse(field)),
        }
    }
}

impl Message for SetQueueAccess {
    const KIND: Kind = Kind::SetQueueAccess;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let topic = b.create_string(&self.topic);
            let ordinals = write::structs(b, self.ordinals.iter().copied());
            wire::SetQueueAccess::create(
                b,
                &wire::SetQueueAccessArgs {
                    topic: Some(topic),
                    ordinals,
                    send: access(self.send),
                    consume: access(self.consume),
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::SetQueueAccess<'_>>(Self::KIND, header)?;
        Ok(Self {
            topic: check.required_name("topic", table.topic())?,
            ordinals: check.list("ordinals", table.ordinals(), TOPIC_QUEUES_MAX, Ok)?,
            send: check.access("send", table.send())?,
            consume: check.access("consume", table.consume())?,
        })
    }
}

impl Message for RemoveQueues {
    const KIND: Kind = Kind::RemoveQueues;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let topic = b.create_string(&self.topic);
            let map = write::names(b, &self.map);
            wire::RemoveQueues::create(
                b,
                &wire::RemoveQueuesArgs { topic: Some(topic), map, version: self.version, force: self.force },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::RemoveQueues<'_>>(Self::KIND, header)?;
        Ok(Self {
            topic: check.required_name("topic", table.topic())?,
            map: check.names("map", table.map(), TOPIC_QUEUES_MAX)?,
            version: table.version(),
            force: table.force(),
        })
    }
}

macro_rules! topic_answers {
    ($($name:ident $args:ident $kind:ident;)*) => { $(
        impl Message for crate::api::$name {
            const KIND: Kind = Kind::$kind;

            fn encode(&self, out: &mut Vec<u8>) {
                write::encode(out, |b| {
                    let (status, detail) = write::answer_head!(b, self);
                    let topic = self.topic.as_ref().map(|topic| write::topic(b, topic));
                    wire::$name::create(b, &wire::$args { status: Some(&status), detail, topic })
                });
            }

            fn decode(header: &[u8]) -> Result<Self, DecodeError> {
                let check = Check(Self::KIND);
                let table = root::<wire::$name<'_>>(Self::KIND, header)?;
                let topic = table.topic().map(|topic| check.topic(topic)).transpose()?;
                Ok(Self { status: check.status(*table.status(), table.detail())?, topic })
            }
        }
    )* };
}

topic_answers! {
    CreateTopicAnswer CreateTopicAnswerArgs CreateTopic;
    SetQueueAccessAnswer SetQueueAccessAnswerArgs SetQueueAccess;
    RemoveQueuesAnswer RemoveQueuesAnswerArgs RemoveQueues;
}

write::empty! { ListClients ListClientsArgs; BrokerStats BrokerStatsArgs; }

impl Message for ListClientsAnswer {
    const KIND: Kind = Kind::ListClients;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let clients = write::tables(b, &self.clients, |b, client| {
                let client_id = write::text(b, &client.client_id);
                let address = write::text(b, &client.address);
                let producing = write::names(b, &client.producing);
                let group = write::text(b, &client.group);
                let consuming = write::names(b, &client.consuming);
                wire::ClientEntry::create(
                    b,
                    &wire::ClientEntryArgs {
                        client_id,
                        incarnation: Some(&write::incarnation(client.incarnation)),
                        address,
                        shard: client.shard,
                        seen_ms_ago: client.seen_ms_ago,
                        producing,
                        group,
                        consuming,
                    },
                )
            });
            let args = wire::ListClientsAnswerArgs { status: Some(&status), detail, clients };
            wire::ListClientsAnswer::create(b, &args)
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::ListClientsAnswer<'_>>(Self::KIND, header)?;
        let clients = check.list("clients", table.clients(), CLIENTS_MAX, |client| {
            Ok(ClientEntry {
                client_id: check.name("client.client_id", client.client_id())?,
                incarnation: incarnation(client.incarnation()),
                address: check.text("client.address", client.address(), ADDRESS_BYTES_MAX)?,
                shard: client.shard(),
                seen_ms_ago: client.seen_ms_ago(),
                producing: check.names("client.producing", client.producing(), TOPICS_MAX)?,
                group: check.name("client.group", client.group())?,
                consuming: check.names("client.consuming", client.consuming(), TOPICS_MAX)?,
            })
        })?;
        Ok(Self { status: check.status(*table.status(), table.detail())?, clients })
    }
}

impl Message for BrokerStatsAnswer {
    const KIND: Kind = Kind::BrokerStats;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            let broker = write::text(b, &self.broker);
            let counters = write::tables(b, &self.counters, |b, counter| {
                let name = b.create_string(&counter.name);
                wire::Counter::create(b, &wire::CounterArgs { name: Some(name), value: counter.value })
            });
            wire::BrokerStatsAnswer::create(
                b,
                &wire::BrokerStatsAnswerArgs {
                    status: Some(&status),
                    detail,
                    broker,
                    uptime_ms: self.uptime_ms,
                    counters,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::BrokerStatsAnswer<'_>>(Self::KIND, header)?;
        let counters = check.list("counters", table.counters(), COUNTERS_MAX, |counter| {
            let name = check.required_name("counter.name", counter.name())?;
            Ok(Counter { name, value: counter.value() })
        })?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            broker: check.name("broker", table.broker())?,
            uptime_ms: table.uptime_ms(),
            counters,
        })
    }
}

impl Message for CancelDelayed {
    const KIND: Kind = Kind::CancelDelayed;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            wire::CancelDelayed::create(
                b,
                &wire::CancelDelayedArgs {
                    queue: self.queue.0,
                    offset: self.offset.0,
                    dry_run: self.dry_run,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let table = root::<wire::CancelDelayed<'_>>(Self::KIND, header)?;
        let (queue, offset) = (QueueKey(table.queue()), Offset(table.offset()));
        Ok(Self { queue, offset, dry_run: table.dry_run() })
    }
}

impl Message for CancelDelayedAnswer {
    const KIND: Kind = Kind::CancelDelayed;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let (status, detail) = write::answer_head!(b, self);
            wire::CancelDelayedAnswer::create(
                b,
                &wire::CancelDelayedAnswerArgs {
                    status: Some(&status),
                    detail,
                    was_pending: self.was_pending,
                    due_ms: self.due_ms,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::CancelDelayedAnswer<'_>>(Self::KIND, header)?;
        let status = check.status(*table.status(), table.detail())?;
        Ok(Self { status, was_pending: table.was_pending(), due_ms: table.due_ms() })
    }
}
