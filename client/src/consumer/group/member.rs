//! Heartbeats to the coordinator of the group: joins, stays, and learns the generations.
//!
//! A coordinator that does not answer stops nothing: the last generation stays in force.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use equeue_net::api::{GroupHeartbeat, GroupHeartbeatAnswer, Membership, Subscription};
use equeue_net::preamble::Purpose;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::super::shared::Shared;
use super::view::{View, coordinator};
use crate::ClientError;
use crate::connection::{Connection, Endpoint};
use crate::routes::with_causes;

/// How often the coordinator is told that this member lives.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often one asks that was never told of its group, because nobody answers or those of before are waited for: it owns
/// nothing before.
const JOIN_EVERY: Duration = Duration::from_millis(200);
/// How long it may take to answer.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// What the member last told whom.
#[derive(Default)]
struct Told {
    connection: Weak<Connection>,
    hash: u64,
}

/// Beats for ever.
pub(crate) async fn run(shared: Arc<Shared>, views: watch::Sender<Option<Arc<View>>>) {
    let mut told = Told::default();
    let mut conflicts = Vec::new();
    let mut failing = false;
    loop {
        let known = views.borrow().as_ref().map_or(0, |view| view.generation);
        let outcome = beat(&shared, &mut told, known).await;
        if let Err(error) = &outcome
            && !failing
        {
            warn!(group = %shared.group, error = %with_causes(error), "the coordinator of the group does not answer; queues stay as they are");
        }
        failing = outcome.is_err();
        if let Ok(answer) = outcome {
            if answer.conflicts.is_empty() {
                // Once it is the group's: said again after a pause it would undo what others have wished for since.
                shared.replaces.store(false, Ordering::Relaxed);
            }
            if answer.conflicts != conflicts {
                conflicts.clone_from(&answer.conflicts);
                for topic in &conflicts {
                    let error = ClientError::SubscriptionConflict {
                        group: shared.group.as_str().into(),
                        topic: topic.as_str().into(),
                    };
                    warn!(%error, "no queues of this topic");
                    shared.feed.tell(error);
                }
            }
            if answer.changed {
                info!(group = %shared.group, generation = answer.generation, members = answer.members.len(), "the group has changed");
                views.send_replace(Some(Arc::new(View::of(answer))));
            }
        }
        let pause = if views.borrow().is_none() { JOIN_EVERY } else { BEAT_EVERY };
        let _ = timeout(pause, shared.beat_soon.notified()).await;
    }
}

async fn beat(
    shared: &Shared,
    told: &mut Told,
    generation: u64,
) -> Result<GroupHeartbeatAnswer, ClientError> {
    let found = coordinator(&shared.client.routes.load(), &shared.group);
    let (broker, address, number) = found.ok_or_else(|| {
        shared.client.routes.refresh();
        ClientError::BrokerAway { broker: "*".into() }
    })?;
    let endpoint = Endpoint { address, shard: Some(number), purpose: Purpose::Consume };
    let connection = shared.pool.get(&endpoint).await?;
    let membership = membership(shared);
    let hash = hash_of(&membership);
    let mut full = told.hash != hash || !std::ptr::eq(told.connection.as_ptr(), Arc::as_ptr(&connection));
    // Twice at the most: the second time with the lists.
    for _ in 0..2 {
        let request = GroupHeartbeat {
            group: shared.group.clone(),
            generation,
            hash,
            full: full.then(|| membership.clone()),
        };
        let answer = connection.call_within(&request, BEAT_TIMEOUT).await.inspect_err(|_| {
            *told = Told::default();
            // It may be dead, or the coordinator no more.
            shared.client.routes.refresh();
        })?;
        if !answer.want_full {
            *told = Told { connection: Arc::downgrade(&connection), hash };
            return Ok(answer);
        }
        debug!(%broker, group = %shared.group, "the coordinator wants the lists");
        full = true;
    }
    Err(ClientError::Protocol {
        server: Arc::clone(connection.server()),
        reason: "wants the lists of a member again and again".into(),
    })
}

fn membership(shared: &Shared) -> Membership {
    let wanted = shared.options.topics.iter().map(|topic| Subscription {
        topic: topic.topic.clone(),
        tags: shared.tags_of(&topic.topic),
        replace: shared.replaces.load(Ordering::Relaxed),
    });
    let share = shared.share();
    let retried = Subscription { topic: shared.retry_topic(), tags: Vec::new(), replace: false };
    Membership {
        subscriptions: wanted.chain([retried]).collect(),
        unreachable: shared.unreachable().iter().map(|broker| String::from(&**broker)).collect(),
        share: share.queues,
        share_generation: share.generation,
    }
}

fn hash_of(membership: &Membership) -> u64 {
    let mut hasher = DefaultHasher::new();
    membership.hash(&mut hasher);
    hasher.finish()
}
