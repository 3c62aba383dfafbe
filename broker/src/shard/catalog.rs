//! The catalog in use: changed on shard 0, made durable in log 0, then given to every shard.
//!
//! **Invariant**: a shard uses a catalog only once it is durable, and its queues are open before anyone is told of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use equeue_net::Code;
use equeue_net::api::Status;
use equeue_record::QueueKey;
use equeue_storage::io::Io as _;
use equeue_storage::log::{AppendError, AtomicPart};
use futures::future::{Either, select};

use super::call::Call;
use super::mesh::Pool;
use super::state::{LogHost, Shard};
use crate::broker::Phase;
use crate::catalog::{Catalog, CatalogError, Plan, QueueHome, TopicSettings};
use crate::delay;
use crate::handler::{RETRY_MS, fetch};
use crate::state_key;

/// Changes that may wait for their turn.
const CHANGES_MAX: usize = 64;
/// Time between two looks at whether the broker stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// State entries in one atomic append.
pub(crate) const ENTRIES_MAX: usize = 1024;

/// Reads the catalog from log 0.
pub(crate) fn load(shard: &Shard) -> Result<Catalog, CatalogError> {
    let Some(host) = shard.logs.first() else { return Ok(Catalog::default()) };
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for kind in [state_key::QUEUE_COUNTER, state_key::TOPIC, state_key::TOPIC_SETTINGS] {
        host.log.state_with_prefix(&[kind], &mut |key, value| entries.push((key.to_vec(), value.to_vec())));
    }
    Catalog::load(entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))
}

/// Decides on a change with the catalog as it then is, makes it durable and gives it to all shards. Only on shard 0, in
/// a task that nobody cancels.
///
/// # Errors
/// The status that refuses the change.
pub(crate) async fn change(shard: &Rc<Shard>, plan: impl FnOnce(&Catalog) -> Plan) -> Result<(), Status> {
    if shard.catalog_changes.get() >= CHANGES_MAX {
        return Err(Status::busy(RETRY_MS, "too many changes of topics wait"));
    }
    shard.catalog_changes.set(shard.catalog_changes.get() + 1);
    let result = change_in_turn(shard, plan).await;
    shard.catalog_changes.set(shard.catalog_changes.get() - 1);
    result
}

async fn change_in_turn(shard: &Rc<Shard>, plan: impl FnOnce(&Catalog) -> Plan) -> Result<(), Status> {
    let _turn = shard.catalog_change.lock().await;
    let catalog = shard.catalog();
    let change = match plan(&catalog) {
        Plan::Unchanged => return Ok(()),
        Plan::Refused(status) => return Err(status),
        Plan::Change(change) => change,
    };
    store(shard, change.entries()).await.map_err(|error| status_of(&error))?;
    let next = Arc::new(catalog.with(&change));
    adopt(shard, &next);
    give_to_others(shard, &next).await;
    shard.changed.set();
    Ok(())
}

/// Changes the settings of a topic, makes them durable and gives them to all shards. Only on shard 0, in a task that
/// nobody cancels. Gives the settings as they are then.
///
/// # Errors
/// The status that refuses the change.
pub(crate) async fn change_settings(
    shard: &Rc<Shard>,
    name: &str,
    change: impl FnOnce(TopicSettings) -> TopicSettings,
) -> Result<TopicSettings, Status> {
    let _turn = shard.catalog_change.lock().await;
    let catalog = shard.catalog();
    if catalog.topic(name).is_none() {
        return Err(Status::new(Code::TopicNotFound, format!("topic `{name}` does not exist here")));
    }
    let old = catalog.settings(name);
    let new = change(old);
    if new != old {
        let entry = (state_key::topic_settings(name), new.encode());
        store(shard, vec![entry]).await.map_err(|error| status_of(&error))?;
        let next = Arc::new(catalog.with_settings(name, new));
        adopt(shard, &next);
        give_to_others(shard, &next).await;
    }
    Ok(new)
}

async fn store(shard: &Shard, entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), AppendError> {
    let host = shard.logs.first().expect("shard 0 has log 0");
    let part = |(key, value): (Vec<u8>, Option<Vec<u8>>)| AtomicPart::State {
        key: Bytes::from(key),
        value: value.map(Bytes::from),
    };
    let ticket = host.log.append_atomic(entries.into_iter().map(part).collect())?;
    host.log.wait_durable(ticket).await?;
    // Other logs hold queues under these keys: they must not outlive what is said here.
    host.log.wait_synced().await
}

/// What a client is told when an entry could not be stored.
pub(crate) fn status_of(error: &AppendError) -> Status {
    let code = match error {
        AppendError::Busy { .. } => return Status::busy(RETRY_MS, error.to_string()),
        AppendError::DiskFull => Code::DiskFull,
        AppendError::Poisoned { .. } => Code::LogFailed,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// Tells every other shard, and waits until each uses it.
pub(crate) async fn give_to_others(shard: &Rc<Shard>, catalog: &Arc<Catalog>) {
    let mut replies = Vec::new();
    for to in (0..shard.shards()).filter(|to| *to != shard.index) {
        loop {
            match shard.mesh.ask(to, Pool::System, Call::SetCatalog(Arc::clone(catalog))) {
                Ok(reply) => {
                    replies.push(reply);
                    break;
                }
                Err(_) if shard.broker.phase() == Phase::Stopping => break,
                Err(_) => shard.io.sleep(Duration::from_millis(1)).await,
            }
        }
    }
    for mut reply in replies {
        // A shard that could not start never answers, and then the broker stops: it needs no catalog.
        while shard.broker.phase() != Phase::Stopping {
            let pause = std::pin::pin!(shard.io.sleep(LOOK_EVERY));
            if let Either::Left(_) = select(&mut reply, pause).await {
                break;
            }
        }
    }
}

/// Uses a catalog: opens this shard's new queues, forgets those that are gone.
pub(crate) fn adopt(shard: &Rc<Shard>, catalog: &Arc<Catalog>) {
    for home in catalog.queues() {
        if let Some((_, host)) = shard.log_of(home) {
            host.log.open_queue(home.key);
        }
    }
    let old = shard.replace_catalog(Arc::clone(catalog));
    let hidden = old.queues().filter(|home| home.readable).map(|home| home.key);
    let hidden = hidden.filter(|key| catalog.queue(*key).is_some_and(|home| !home.readable));
    fetch::wake(shard, &hidden.collect::<Vec<_>>()); // told so
    let gone: Vec<QueueHome> =
        old.queues().filter(|home| catalog.queue(home.key).is_none()).copied().collect();
    fetch::forget(shard, gone.iter().map(|home| home.key));
    for home in &gone {
        forget_state(shard, home);
    }
    remove_queues(shard, &gone);
}

/// Lets the logs forget queues that are gone: their keys are never used again. If that fails it costs some bytes.
fn remove_queues(shard: &Shard, gone: &[QueueHome]) {
    for host in &shard.logs {
        let keys: Vec<_> = gone.iter().filter(|home| home.log == host.id).map(|home| home.key).collect();
        if !keys.is_empty()
            && let Err(error) = host.log.remove_queues(&keys)
        {
            tracing::warn!(log = %host.id, queues = keys.len(), %error, "deleted queues stay known to the log");
        }
    }
}

/// Removes what is stored about a queue that is gone: offsets and hand-backs of groups, delayed messages.
fn forget_state(shard: &Shard, home: &QueueHome) {
    let Some((_, host)) = shard.log_of(home) else { return };
    let mut keys = delay::forget(host, home.key);
    let groups = shard.holds.borrow_mut().remove_queue(home.key);
    keys.extend(groups.iter().map(|group| state_key::group_offset(home.key, group)));
    host.log.state_with_prefix(&state_key::handed_back_in(home.key), &mut |key, _| keys.push(key.to_vec()));
    remove_entries(host, home.key, &keys);
}

/// Removes entries of a queue that is gone. If that fails it costs some bytes and nothing else.
pub(crate) fn remove_entries(host: &LogHost, queue: QueueKey, keys: &[Vec<u8>]) {
    for keys in keys.chunks(ENTRIES_MAX) {
        let part = |key: &Vec<u8>| AtomicPart::State { key: Bytes::copy_from_slice(key), value: None };
        if let Err(error) = host.log.append_atomic(keys.iter().map(part).collect()) {
            tracing::warn!(%queue, %error, "entries of a deleted queue stay in the log");
        }
    }
}
