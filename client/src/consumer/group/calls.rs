//! The requests of a keeper: wishes, heartbeats, releases, the goodbye. Each is a future of its own and ends in a
//! [`Heard`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use equeue_net::Code;
use equeue_net::api::{
    CommitOutcome, GrantOutcome, GrantQueues, GrantQueuesAnswer, LeaseHeartbeat, LeaseHeartbeatAnswer,
    LeaveGroup, ListOffsets, OffsetAt, ReleaseItem, ReleaseQueues,
};
use equeue_record::{Offset, QueueKey};
use tokio::time::{Instant, sleep, timeout};

use super::super::options::StartAt;
use super::super::shared::Shared;
use super::super::track::{QueueId, Track};
use super::lease::Moment;
use super::ownership::{Place, Told};
use crate::ClientError;
use crate::connection::Connection;
use crate::retry::Backoff;

/// How long a wish for queues that others have may wait at the broker.
const GRANT_WAIT: Duration = Duration::from_secs(4);
/// How long a heartbeat may take: later its answer would extend nothing.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a release is tried: after that the lease ends by itself.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What came of a request.
pub(super) enum Heard {
    /// Of wishes.
    Grants {
        place: Place,
        asked: Vec<(QueueId, QueueKey)>,
        sent: Moment,
        result: Result<Grants, ClientError>,
    },
    /// Of a heartbeat.
    Beat {
        place: Place,
        told: Told,
        sent: Moment,
        result: Result<(LeaseHeartbeatAnswer, Weak<Connection>), ClientError>,
    },
    /// Of a release.
    Released { items: Vec<(Arc<Track>, ReleaseItem)>, result: Result<Vec<CommitOutcome>, ClientError> },
    /// A broker that could not be reached answers.
    Probed(Arc<str>, bool),
}

/// Queues that were granted or not.
pub(super) struct Grants {
    pub(super) lease: Duration,
    pub(super) outcomes: Vec<GrantOutcome>,
    /// Where queues without a committed offset begin, where the broker had to be asked.
    pub(super) starts: HashMap<QueueKey, Offset>,
}

/// Wishes for queues of a shard; waits while others have all of them.
pub(super) async fn grant(
    shared: Arc<Shared>,
    place: Place,
    generation: u64,
    asked: Vec<(QueueId, QueueKey)>,
) -> Heard {
    let mut sent = Moment::now();
    let result = async {
        let connection = shared.connect(&place.0, place.1).await?;
        let request = GrantQueues {
            group: shared.group.clone(),
            generation,
            wait_ms_max: u32::try_from(GRANT_WAIT.as_millis()).unwrap_or(u32::MAX),
            queues: asked.iter().map(|(_, key)| *key).collect(),
        };
        sent = Moment::now();
        let within = GRANT_WAIT + shared.pool.request_timeout();
        let answer: GrantQueuesAnswer = connection.call_within(&request, within).await?;
        let starts = starts(&shared, &connection, &answer.outcomes).await?;
        let lease = Duration::from_millis(answer.lease_ms.into());
        Ok(Grants { lease, outcomes: answer.outcomes, starts })
    }
    .await;
    Heard::Grants { place, asked, sent, result }
}

/// Where queues begin that a consumer wants from a time on.
async fn starts(
    shared: &Shared,
    connection: &Connection,
    outcomes: &[GrantOutcome],
) -> Result<HashMap<QueueKey, Offset>, ClientError> {
    let StartAt::Time(ms) = shared.options.start else { return Ok(HashMap::new()) };
    let fresh = |outcome: &&GrantOutcome| {
        outcome.code == Code::Ok && (outcome.committed.is_none() || shared.options.ignore_committed)
    };
    let items: Vec<_> =
        outcomes.iter().filter(fresh).map(|outcome| (outcome.queue, OffsetAt::Time(ms))).collect();
    if items.is_empty() {
        return Ok(HashMap::new());
    }
    let answer = connection.call(&ListOffsets { items }).await?;
    let found = answer.outcomes.into_iter().filter(|outcome| outcome.code == Code::Ok);
    Ok(found.map(|outcome| (outcome.queue, outcome.offset)).collect())
}

/// Extends the leases of what is held on a shard, told in full unless the connection is `told_on`.
pub(super) async fn beat(
    shared: Arc<Shared>,
    place: Place,
    told: Told,
    hash: u64,
    told_on: Option<Weak<Connection>>,
) -> Heard {
    let mut sent = Moment::now();
    let result = async {
        let connection = shared.connect(&place.0, place.1).await?;
        let known = told_on.is_some_and(|told_on| std::ptr::eq(told_on.as_ptr(), Arc::as_ptr(&connection)));
        let request = LeaseHeartbeat {
            group: shared.group.clone(),
            generation: told.generation,
            hash,
            held: (!known).then(|| told.held.clone()),
            cached: told.cached.clone(),
        };
        sent = Moment::now();
        let answer = connection.call_within(&request, BEAT_TIMEOUT).await?;
        Ok((answer, Arc::downgrade(&connection)))
    };
    // Connecting may take long: the next attempt shall find the newest list.
    let result = timeout(BEAT_TIMEOUT, result).await.unwrap_or_else(|_| {
        let server = Arc::clone(&place.0);
        Err(ClientError::TimedOut { request: "LeaseHeartbeat", server, after: BEAT_TIMEOUT })
    });
    Heard::Beat { place, told, sent, result }
}

/// Gives queues of a shard back, with their last commits.
pub(super) async fn release(
    shared: Arc<Shared>,
    place: Place,
    items: Vec<(Arc<Track>, ReleaseItem)>,
) -> Heard {
    let deadline = Instant::now() + RELEASE_WITHIN;
    let mut backoff = Backoff::new(PAUSE_MAX);
    let request =
        ReleaseQueues { group: shared.group.clone(), items: items.iter().map(|(_, item)| *item).collect() };
    loop {
        let attempt = async {
            let connection = shared.connect(&place.0, place.1).await?;
            Ok(connection.call(&request).await?.outcomes)
        };
        let result = attempt.await;
        let again = result.as_ref().is_err_and(ClientError::is_transient) && Instant::now() < deadline;
        if !again {
            return Heard::Released { items, result };
        }
        sleep(backoff.pause()).await;
    }
}

/// Whether a broker can be reached again.
pub(super) async fn probe(shared: Arc<Shared>, broker: Arc<str>) -> Heard {
    let reached = shared.connect(&broker, 0).await.is_ok();
    Heard::Probed(broker, reached)
}

/// Says goodbye to a shard; if it does not hear, the session ends by itself.
pub(crate) async fn leave(shared: &Shared, place: Place) {
    let goodbye = async {
        let connection = shared.connect(&place.0, place.1).await?;
        connection.call(&LeaveGroup { group: shared.group.clone() }).await
    };
    let _ = timeout(LEAVE_TIMEOUT, goodbye).await;
}
