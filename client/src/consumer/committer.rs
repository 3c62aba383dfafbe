//! Committing: what is handled becomes durable on the broker, by one request per shard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use equeue_net::Code;
use equeue_net::api::{CommitItem, CommitOffsets, CommitOutcome};
use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::shared::{Shared, Signal, by_shard};
use super::track::{Due, Track};
use crate::ClientError;
use crate::retry::Backoff;
use crate::routes::with_causes;

/// Longest pause between two attempts of one commit.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Commits every `every`, for ever.
pub(crate) async fn run(shared: Arc<Shared>, every: Duration) {
    let mut tick = interval(every.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tick.tick().await;
        let outcome = commit_once(&shared).await;
        if let Err(error) = &outcome
            && !failing
        {
            warn!(group = %shared.group, error = %with_causes(error), "cannot commit; trying again");
        }
        failing = outcome.is_err();
    }
}

/// Commits what is handled, trying again until `within` is over. Durable when it succeeds.
pub(crate) async fn commit(shared: &Shared, within: Duration) -> Result<(), ClientError> {
    let begin = Instant::now();
    let mut backoff = Backoff::new(PAUSE_MAX);
    loop {
        let error = match commit_once(shared).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let pause = backoff.pause();
        if !error.is_transient() || begin.elapsed() + pause >= within {
            return Err(error);
        }
        sleep(pause).await;
    }
}

/// One attempt for all queues; the first error, after every shard was asked.
async fn commit_once(shared: &Shared) -> Result<(), ClientError> {
    let _one_at_a_time = shared.committing.lock().await;
    let due = shared.tracks().into_iter().filter_map(|track| {
        let due = track.to_commit()?;
        Some((track, due))
    });
    let shards = by_shard(due, |(track, _)| track.home());
    let commits = shards.into_iter().map(|(place, items)| commit_shard(shared, place, items));
    join_all(commits).await.into_iter().collect()
}

async fn commit_shard(
    shared: &Shared,
    (broker, shard_number): (Arc<str>, u16),
    items: Vec<(Arc<Track>, Due)>,
) -> Result<(), ClientError> {
    let connection = shared.connect(&broker, shard_number).await?;
    let item = |(track, due): &(Arc<Track>, Due)| CommitItem {
        queue: track.home().key,
        offset: due.offset,
        grant_epoch: due.grant_epoch,
        tries: due.tries,
    };
    let request = CommitOffsets { group: shared.group.clone(), items: items.iter().map(item).collect() };
    let answer = connection.call(&request).await?;
    if answer.outcomes.len() != items.len() {
        connection.end("a CommitOffsets answer has another number of outcomes than its request has queues");
        return Err(ClientError::Protocol {
            server: Arc::clone(connection.server()),
            reason: "wrong number of outcomes".into(),
        });
    }
    let mut failed = Ok(());
    for ((track, due), outcome) in items.iter().zip(answer.outcomes) {
        let outcome = committed(shared, &broker, (track, *due), &outcome);
        failed = failed.and(outcome);
    }
    failed
}

/// What became of one queue's commit.
fn committed(
    shared: &Shared,
    broker: &Arc<str>,
    (track, due): (&Arc<Track>, Due),
    outcome: &CommitOutcome,
) -> Result<(), ClientError> {
    let lost = || ClientError::GrantLost { topic: Arc::clone(&track.topic.name), queue: track.ordinal };
    match outcome.code {
        Code::Ok => {
            track.set_committed(due, outcome.committed.unwrap_or(due.offset).max(due.offset));
            shared.look_at_drained(track);
            Ok(())
        }
        Code::StaleEpoch => {
            shared.signal(Signal::Stale(Arc::clone(track), due.grant_epoch));
            // What was given back meanwhile was committed on that way.
            if track.is_ours() { Err(lost()) } else { Ok(()) }
        }
        Code::OffsetReset => {
            let to = outcome.committed.unwrap_or_default();
            shared.signal(Signal::Reset(Arc::clone(track), to, outcome.grant_epoch));
            Err(lost())
        }
        code => {
            if code.remedy() == equeue_net::Remedy::RefreshRoute {
                shared.client.routes.suspect(&track.topic.name);
            }
            Err(ClientError::Refused {
                server: Arc::clone(broker),
                request: "CommitOffsets",
                code,
                retry_after_ms: 0,
                detail: format!("queue {} of topic {} to {}", track.ordinal, track.topic.name, due.offset)
                    .into(),
            })
        }
    }
}
