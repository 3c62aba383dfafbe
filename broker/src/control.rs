//! The control thread: HTTP, and the order in which shards start and stop.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use flume::RecvTimeoutError;

use crate::bootstrap::{Shards, announce};
use crate::broker::Phase;
use crate::error::BrokerError;
use crate::http;
use crate::shard::run::{Command, Event};

/// Time after which threads that say nothing are woken, in case they sleep by mistake.
const NUDGE_EVERY: Duration = Duration::from_millis(100);
/// Time beyond the settings' `stop_ms` after which a shard that does not drain is closed all the same.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Waits until every shard is ready.
///
/// # Errors
/// The first that a shard met; all have ended then.
pub(crate) fn wait_ready(shards: Shards) -> Result<Shards, BrokerError> {
    let mut ready = 0;
    while ready < shards.commands.len() {
        match shards.events.recv_timeout(NUDGE_EVERY) {
            Err(RecvTimeoutError::Timeout) => shards.nudge_all(),
            Ok((_, Event::Ready)) => ready += 1,
            Ok((_, Event::Drained)) => break, // it could not prepare; its reason comes with its end
            Ok((_, Event::Ended(Err(error)))) => {
                stop_now(shards);
                return Err(error);
            }
            Ok((shard, Event::Ended(Ok(())))) => {
                stop_now(shards);
                return Err(BrokerError::ShardLost { shard });
            }
            Err(RecvTimeoutError::Disconnected) => {
                stop_now(shards);
                return Err(BrokerError::ShardLost { shard: 0 });
            }
        }
    }
    if ready == shards.commands.len() { Ok(shards) } else { Err(stop_now(shards)) }
}

/// Ends shards that do not serve yet; gives the first error that one of them met.
pub(crate) fn stop_now(shards: Shards) -> BrokerError {
    shards.broker.set_phase(Phase::Stopping);
    shards.tell_all(|| Command::Close);
    let events = &shards.events;
    let mut first = None;
    loop {
        match events.recv_timeout(NUDGE_EVERY) {
            Ok((_, Event::Ended(Err(error)))) => {
                first.get_or_insert(error);
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => shards.nudge_all(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    shards.join();
    first.unwrap_or(BrokerError::ShardLost { shard: 0 })
}

/// Starts the control thread of a broker whose shards are ready.
///
/// # Errors
/// No thread can be made.
pub(crate) fn spawn(
    shards: Shards,
    clients: TcpListener,
    http: Option<TcpListener>,
    stop: flume::Receiver<()>,
) -> Result<JoinHandle<Result<(), BrokerError>>, BrokerError> {
    let failed = |source| BrokerError::Thread { what: "the control thread".to_owned(), source };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            stop_now(shards);
            return Err(failed(source));
        }
    };
    announce(&shards, clients);
    let thread = std::thread::Builder::new().name("equeue-control".to_owned());
    thread.spawn(move || runtime.block_on(control(shards, http, stop))).map_err(failed)
}

async fn control(
    shards: Shards,
    http: Option<TcpListener>,
    stop: flume::Receiver<()>,
) -> Result<(), BrokerError> {
    if let Some(listener) = http {
        let broker = Arc::clone(&shards.broker);
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, broker).await {
                tracing::error!(%error, "metrics and health are not served any more");
            }
        });
    }
    let lost = tokio::select! {
        _ = stop.recv_async() => None,
        event = shards.events.recv_async() => Some(unexpected(event)),
    };
    if let Some(error) = &lost {
        tracing::error!(%error, "the broker stops");
    }
    shards.broker.set_phase(Phase::Stopping);
    let patience = Duration::from_millis(shards.broker.config.timers.stop_ms) + DRAIN_GRACE;
    shards.tell_all(|| Command::Drain);
    let mut result = lost.map_or(Ok(()), Err);
    if tokio::time::timeout(patience, drained(&shards, &mut result)).await.is_err() {
        tracing::warn!("a shard did not come to rest; its logs are closed all the same");
    }
    shards.tell_all(|| Command::Close);
    ended(&shards, &mut result).await;
    // The executors' threads are about to end; joining them does not keep anything waiting but this.
    shards.join();
    result
}

/// A shard says something though it was not asked to: it has ended.
fn unexpected(event: Result<(u16, Event), flume::RecvError>) -> BrokerError {
    match event {
        Ok((_, Event::Ended(Err(error)))) => error,
        Ok((shard, _)) => BrokerError::ShardLost { shard },
        Err(_) => BrokerError::ShardLost { shard: 0 },
    }
}

/// Waits until every shard has drained or ended.
async fn drained(shards: &Shards, result: &mut Result<(), BrokerError>) {
    let mut left = shards.commands.len();
    while left > 0 {
        match shards.events.recv_async().await {
            Ok((_, Event::Drained)) => left -= 1,
            Ok((_, Event::Ended(outcome))) => {
                left -= 1;
                keep_first(result, outcome);
            }
            Ok((_, Event::Ready)) => {}
            Err(_) => return, // all have ended
        }
    }
}

/// Waits until every shard has ended.
async fn ended(shards: &Shards, result: &mut Result<(), BrokerError>) {
    while let Ok((_, event)) = shards.events.recv_async().await {
        if let Event::Ended(outcome) = event {
            keep_first(result, outcome);
        }
    }
}

fn keep_first(result: &mut Result<(), BrokerError>, outcome: Result<(), BrokerError>) {
    if result.is_ok() {
        *result = outcome;
    }
}
