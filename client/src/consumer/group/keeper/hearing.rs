//! What the brokers answered: grants, heartbeats, releases.

use std::sync::{Arc, Weak};
use std::time::Duration;

use equeue_net::api::{GrantOutcome, HeldQueue, LeaseHeartbeatAnswer, ReleaseItem, Tries};
use equeue_net::{Code, Remedy};
use equeue_record::{MessageId, Offset};
use tracing::{debug, info, warn};

use super::super::super::committer;
use super::super::super::events::AssignmentEvent;
use super::super::super::options::StartAt;
use super::super::super::track::{Home, QueueId, Start, Track};
use super::super::calls::{Grants, Heard};
use super::super::lease::Moment;
use super::super::ownership::{Granted, Place, Told};
use super::{Keeper, hash_of};
use crate::ClientError;
use crate::routes::with_causes;

/// How long is tried to commit where a group begins.
const PIN_WITHIN: Duration = Duration::from_secs(5);

impl Keeper {
    pub(super) fn hear(&mut self, heard: Heard) {
        let now = Moment::now();
        match heard {
            Heard::Grants { place, asked, sent, result } => match result {
                Ok(grants) => self.granted(&place, &asked, sent, &grants),
                Err(error) => {
                    self.failed(&place, &error, now);
                    for (id, _) in &asked {
                        self.ownership.refused(id, now);
                    }
                }
            },
            Heard::Beat { place, told, sent, result } => match result {
                Ok((answer, connection)) => self.beaten(&place, &told, sent, &answer, connection),
                Err(error) => {
                    self.failed(&place, &error, now);
                    if let Some(beat) = self.beats.get_mut(&place) {
                        (beat.under_way, beat.told) = (false, None);
                    }
                }
            },
            Heard::Released { items, result } => {
                if let Err(error) = &result {
                    warn!(group = %self.shared.group, error = %with_causes(error), "queues could not be given back; their leases end by themselves");
                }
                let outcomes = result.clone().unwrap_or_default();
                for (index, (track, item)) in items.into_iter().enumerate() {
                    let code = outcomes.get(index).map(|outcome| outcome.code);
                    self.note_released(&track, item, code, &result);
                    self.ownership.given_back(&track.id(), now);
                }
            }
            Heard::Probed(broker, true) => self.reach.answered(&broker),
            Heard::Probed(_, false) => {}
        }
    }

    /// A last commit that was not made is told to who closes the consumer.
    fn note_released(
        &mut self,
        track: &Track,
        item: ReleaseItem,
        code: Option<Code>,
        result: &Result<Vec<equeue_net::api::CommitOutcome>, ClientError>,
    ) {
        let lost = match (code, result) {
            (Some(Code::Ok), _) => return,
            (_, Err(error)) => error.clone(),
            (code, Ok(_)) => ClientError::Refused {
                server: Arc::clone(&track.home().broker),
                request: "ReleaseQueues",
                code: code.unwrap_or(Code::Internal),
                retry_after_ms: 0,
                detail: format!("queue {} of topic {}", track.ordinal, track.topic.name).into(),
            },
        };
        debug!(topic = %track.topic.name, queue = track.ordinal, error = %lost, "not given back in order");
        if item.commit.is_some()
            && let Some((_, outcome @ Ok(()))) = &mut self.leaving
        {
            *outcome = Err(lost);
        }
    }

    /// A broker did not answer, or not well.
    fn failed(&mut self, place: &Place, error: &ClientError, now: Moment) {
        debug!(broker = %place.0, shard = place.1, error = %with_causes(error), "a request about grants failed");
        if !matches!(error, ClientError::Refused { .. }) {
            self.reach.failed(&place.0, now);
            self.shared.client.routes.refresh();
        }
    }

    fn granted(
        &mut self,
        place: &Place,
        asked: &[(QueueId, equeue_record::QueueKey)],
        sent: Moment,
        grants: &Grants,
    ) {
        let now = Moment::now();
        self.reach.answered(&place.0);
        let lease_end = sent.lease_end(grants.lease);
        let mut unwanted = Vec::new();
        for (id, key) in asked {
            let Some(outcome) = grants.outcomes.iter().find(|outcome| outcome.queue == *key) else {
                self.ownership.refused(id, now);
                continue;
            };
            match outcome.code {
                Code::Ok => match self.ownership.granted(id, *key, (outcome.grant_epoch, lease_end), now) {
                    Granted::Begin(home) => self.begin(id, home, outcome, (sent, grants)),
                    Granted::Known | Granted::Late => {}
                    Granted::Unwanted => unwanted.push(ReleaseItem {
                        queue: *key,
                        grant_epoch: outcome.grant_epoch,
                        commit: None,
                        tries: Tries::default(),
                    }),
                },
                Code::QueueHeld => self.ownership.held_elsewhere(id),
                code => {
                    debug!(topic = %id.0, queue = id.1, %code, "not granted");
                    if code == Code::StaleGeneration {
                        self.shared.beat_soon.notify_one();
                    }
                    if code.remedy() == Remedy::RefreshRoute {
                        self.shared.client.routes.suspect(&id.0);
                    }
                    self.ownership.refused(id, now);
                }
            }
        }
        // Where the group begins is its own from now on: whoever comes next, after a crash too, begins there and not
        // where it finds the end then.
        if grants.outcomes.iter().any(|outcome| outcome.code == Code::Ok && outcome.committed.is_none()) {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                if let Err(error) = committer::commit(&shared, PIN_WITHIN).await {
                    debug!(error = %with_causes(&error), "where the group begins is not committed yet");
                }
            });
        }
        if !unwanted.is_empty() {
            let (shared, place) = (Arc::clone(&self.shared), place.clone());
            let request = equeue_net::api::ReleaseQueues { group: shared.group.clone(), items: unwanted };
            tokio::spawn(async move {
                // If it is not heard, the lease ends by itself.
                if let Ok(connection) = shared.connect(&place.0, place.1).await {
                    let _ = connection.call(&request).await;
                }
            });
        }
    }

    /// Reads a queue from now on.
    fn begin(&mut self, id: &QueueId, home: Home, outcome: &GrantOutcome, (sent, grants): (Moment, &Grants)) {
        let Some(topic) = self.shared.topics.iter().find(|topic| topic.name == id.0).cloned() else { return };
        let offset = self.start_of(id, outcome, grants);
        let GrantOutcome { committed, grant_epoch, tries, .. } = *outcome;
        let start = Start { offset, committed, grant_epoch, tries };
        let snapshot = self.shared.client.routes.load();
        let check = MessageId::cluster_check(snapshot.cluster_of(&home.broker).unwrap_or_default());
        let given = (Arc::clone(&self.shared.feed), self.shared.handled_by);
        let track = Arc::new(Track::new(topic, id.1, home, start, check, given));
        track.set_high_watermark(outcome.high_watermark);
        track.lease.extend(sent, grants.lease);
        info!(group = %self.shared.group, topic = %id.0, queue = id.1, epoch = outcome.grant_epoch, from = %offset, "reading");
        self.shared.owned().insert(id.clone(), Arc::clone(&track));
        // Before its first message: a listener may have to prepare for the queue.
        self.tell(&AssignmentEvent::Assigned { topic: Arc::clone(&id.0), queue: id.1, from: offset });
        self.give_to_fetcher(&track);
    }

    fn start_of(&mut self, id: &QueueId, outcome: &GrantOutcome, grants: &Grants) -> Offset {
        let initial = self.initial.get(id).copied();
        let ignored = self.shared.options.ignore_committed && initial.is_some();
        if let Some(committed) = outcome.committed.filter(|_| !ignored) {
            return committed;
        }
        // Only once: what comes back to this consumer goes on where the group is.
        if self.shared.options.ignore_committed {
            self.initial.remove(id);
        }
        match (initial, self.shared.options.start) {
            (None, _) | (_, StartAt::First) => outcome.start_offset,
            (Some(end), StartAt::Last) => end.unwrap_or(outcome.high_watermark),
            (_, StartAt::Time(_)) => {
                grants.starts.get(&outcome.queue).copied().unwrap_or(outcome.start_offset)
            }
        }
    }

    fn beaten(
        &mut self,
        place: &Place,
        told: &Told,
        sent: Moment,
        answer: &LeaseHeartbeatAnswer,
        connection: Weak<crate::connection::Connection>,
    ) {
        self.reach.answered(&place.0);
        if let Some(beat) = self.beats.get_mut(place) {
            beat.under_way = false;
            if answer.want_full {
                (beat.told, beat.last) = (None, None);
                return;
            }
            beat.told = Some((connection, hash_of(&told.held)));
        }
        let lease = Duration::from_millis(answer.lease_ms.into());
        for (id, epoch) in self.ownership.held_ids(place) {
            let Some(track) = self.shared.track(&id) else { continue };
            let key = track.home().key;
            let extended = told.held.contains(&HeldQueue { queue: key, grant_epoch: epoch })
                && !answer.lost.contains(&key);
            if extended && track.lease.extend(sent, lease) {
                track.renewed();
            }
        }
        let acts = self.ownership.beaten(place, told, answer, Moment::now());
        self.act(acts);
    }
}
