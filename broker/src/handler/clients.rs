//! Who is connected to this broker, and its counters.

use std::rc::Rc;

use equeue_net::api::{
    BrokerStats, BrokerStatsAnswer, ClientEntry, Counter, ListClients, ListClientsAnswer, Status,
};
use equeue_net::limits::CLIENTS_MAX;

use super::groups::ask;
use super::spawn_answer;
use crate::metrics;
use crate::shard::call::{Call, Reply};
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// Serves `ListClients`.
pub(crate) fn list(shard: &Rc<Shard>, session: &Rc<Session>, correlation: u32, _: &ListClients) {
    let shard_of_task = Rc::clone(shard);
    spawn_answer(shard, session, correlation, async move {
        let mut clients: Vec<ClientEntry> = Vec::new();
        for to in 0..shard_of_task.shards() {
            if let Some(Reply::Clients(more)) = ask(&shard_of_task, to, Call::Clients).await {
                clients.extend(more);
            }
        }
        clients.truncate(CLIENTS_MAX);
        ListClientsAnswer { status: Status::OK, clients }
    });
}

/// The clients of this shard.
pub(crate) fn clients_here(shard: &Shard) -> Vec<ClientEntry> {
    shard.presence.borrow().clients(shard.index, shard.now_ms())
}

/// Serves `BrokerStats`.
pub(crate) fn stats(shard: &Shard, _: &BrokerStats) -> BrokerStatsAnswer {
    let broker = &shard.broker;
    let mut counters: Vec<Counter> =
        metrics::totals(broker).map(|(name, value)| Counter { name: name.to_owned(), value }).collect();
    let catalog = shard.catalog();
    for (name, value) in
        [("equeue_topics", catalog.topics().len()), ("equeue_queues", catalog.queues().len())]
    {
        counters.push(Counter { name: name.to_owned(), value: value as u64 });
    }
    BrokerStatsAnswer {
        status: Status::OK,
        broker: broker.config.name.clone(),
        uptime_ms: shard.now_ms(),
        counters,
    }
}
