//! Handing messages back: one request at a time to each shard, with everything that has come up meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use equeue_net::api::{HandBack, HandBackItem, HandBackOutcome, Tries};
use equeue_net::limits::{HAND_BACK_ITEMS_MAX, REASON_BYTES_MAX};
use equeue_net::{Code, Remedy};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::PushOptions;
use super::context::{self, Failed, Piece};
use crate::ClientError;
use crate::message::wall_ms;
use crate::routes::with_causes;

use super::super::shared::{Shared, Signal};

/// Pause before what was not taken is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause before a message that cannot be handed back is handled again.
const HERE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Where wishes go together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Destination {
    broker: Arc<str>,
    shard: u16,
    /// What is passed on to other members never becomes a dead letter by this one's limit.
    passed_on: bool,
}

/// A message to be handed back.
#[derive(Debug)]
pub(super) struct HandBackWish {
    pub(super) piece: Arc<Piece>,
    pub(super) place: context::Place,
    pub(super) failed: Failed,
}

/// Where wishes go; each belongs to a message at work, so that the limits of pending messages bound them.
#[derive(Clone, Debug)]
pub(super) struct Wishes(mpsc::UnboundedSender<HandBackWish>);

impl Wishes {
    /// Hands a message back soon.
    pub(super) fn send(&self, wish: HandBackWish) {
        // Nobody is there any more: the consumer has ended, and the message is handled again by others.
        let _ = self.0.send(wish);
    }
}

/// Wishes and where they come out.
pub(super) fn channel() -> (Wishes, mpsc::UnboundedReceiver<HandBackWish>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Wishes(sender), receiver)
}

/// Hands back until the last handler is gone.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut wishes: mpsc::UnboundedReceiver<HandBackWish>,
    options: PushOptions,
) {
    let mut waiting: HashMap<Destination, Vec<HandBackWish>> = HashMap::new();
    let mut busy: HashSet<Destination> = HashSet::new();
    let mut at_work = FuturesUnordered::new();
    let mut open = true;
    while open || !at_work.is_empty() || !waiting.is_empty() {
        let free: Vec<Destination> = waiting.keys().filter(|to| !busy.contains(*to)).cloned().collect();
        for to in free {
            let mut wishes = waiting.remove(&to).unwrap_or_default();
            let rest = wishes.split_off(wishes.len().min(HAND_BACK_ITEMS_MAX));
            if !rest.is_empty() {
                waiting.insert(to.clone(), rest);
            }
            busy.insert(to.clone());
            at_work.push(hand_back(&shared, to, wishes, &options));
        }
        tokio::select! {
            wish = wishes.recv(), if open => match wish {
                Some(wish) => put(&mut waiting, wish),
                None => open = false,
            },
            Some((to, again)) = at_work.next(), if !at_work.is_empty() => {
                busy.remove(&to);
                for wish in again {
                    put(&mut waiting, wish);
                }
            }
        }
    }
}

/// By where the queue lives now.
fn put(waiting: &mut HashMap<Destination, Vec<HandBackWish>>, wish: HandBackWish) {
    let home = wish.piece.track.home();
    let passed_on = wish.failed.passed_on;
    let to = Destination { broker: Arc::clone(&home.broker), shard: home.shard, passed_on };
    waiting.entry(to).or_default().push(wish);
}

/// Hands messages back to one shard, once; what it did not take, after a pause. Other shards go on meanwhile.
async fn hand_back(
    shared: &Shared,
    to: Destination,
    mut wishes: Vec<HandBackWish>,
    options: &PushOptions,
) -> (Destination, Vec<HandBackWish>) {
    wishes.retain(|wish| {
        let over = wish.piece.track.is_over(wish.piece.life) || !wish.piece.track.is_ours();
        if over {
            wish.piece.settled();
        }
        !over
    });
    let again = match ask(shared, &to, &wishes, options).await {
        Ok(outcomes) => settle(shared, wishes, outcomes, options),
        Err(error) => {
            warn!(broker = %to.broker, error = %with_causes(&error), "messages cannot be handed back yet; trying again");
            wishes
        }
    };
    if !again.is_empty() {
        sleep(PAUSE).await;
    }
    (to, again)
}

async fn ask(
    shared: &Shared,
    to: &Destination,
    wishes: &[HandBackWish],
    options: &PushOptions,
) -> Result<Vec<HandBackOutcome>, ClientError> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let connection = shared.connect(&to.broker, to.shard).await?;
    let item = |wish: &HandBackWish| {
        let Failed { attempt, delay, tries, reason, .. } = &wish.failed;
        let delay = delay.unwrap_or_else(|| options.pause_after(*attempt));
        HandBackItem {
            queue: wish.piece.track.home().key,
            offset: wish.place.offset,
            grant_epoch: wish.piece.track.grant_epoch(),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            reason: shortened(reason),
            tries: *tries,
        }
    };
    let attempts_max = if to.passed_on { u32::MAX } else { options.attempts_max };
    let items = wishes.iter().map(item).collect();
    let request = HandBack { group: shared.group.clone(), attempts_max, items };
    let outcomes = connection.call(&request).await?.outcomes;
    if outcomes.len() == wishes.len() {
        return Ok(outcomes);
    }
    connection.end("a HandBack answer has another number of outcomes than its request has messages");
    Err(ClientError::Protocol {
        server: Arc::clone(connection.server()),
        reason: "wrong number of outcomes".into(),
    })
}

/// What became of each; those to be tried again.
fn settle(
    shared: &Shared,
    wishes: Vec<HandBackWish>,
    outcomes: Vec<HandBackOutcome>,
    options: &PushOptions,
) -> Vec<HandBackWish> {
    let mut again = Vec::new();
    for (wish, outcome) in wishes.into_iter().zip(outcomes) {
        let track = Arc::clone(&wish.piece.track);
        match outcome.code {
            Code::Ok => {
                let counter = if outcome.dead { &shared.counters.dead } else { &shared.counters.handed_back };
                counter.fetch_add(1, Ordering::Relaxed);
                debug!(topic = %track.topic.name, queue = track.ordinal, offset = %wish.place.offset, attempt = outcome.attempt, dead = outcome.dead, reason = wish.failed.reason, "handed back");
                wish.piece.done(wish.place);
                wish.piece.settled();
                // The first message that comes back makes the retry queue.
                shared.expect_retries();
            }
            Code::StaleEpoch => {
                shared.signal(Signal::Stale(Arc::clone(&track), track.grant_epoch()));
                wish.piece.settled();
            }
            // The reset itself is told with the lease: the message comes again, or was passed over.
            Code::OffsetReset => wish.piece.settled(),
            // Retention did not wait for it: there is nothing left to come again.
            Code::OffsetOutOfRange => {
                error!(topic = %track.topic.name, queue = track.ordinal, offset = %wish.place.offset, reason = wish.failed.reason, "the message failed, and was removed from the log before it could be handed back: it is lost to this group");
                shared.missed(1);
                wish.piece.done(wish.place);
                wish.piece.settled();
            }
            code if code.remedy() == Remedy::Fatal => {
                let HandBackWish { piece, place, failed: Failed { attempt, delay, tries, .. } } = wish;
                error!(topic = %track.topic.name, queue = track.ordinal, offset = %place.offset, attempt, %code, "the message cannot be handed back; it holds its queue's committed offset and is handled again here, until it is handled or skipped");
                let since_ms = if tries.count > 0 { tries.since_ms } else { wall_ms() };
                let pause = delay.unwrap_or_else(|| options.pause_after(attempt)).min(HERE_PAUSE_MAX);
                piece.try_here_again(place, Tries { count: attempt, since_ms }, pause);
            }
            _ => again.push(wish),
        }
    }
    again
}

fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_cut_between_letters() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(REASON_BYTES_MAX);
        assert_eq!(shortened(&format!("x{long}")).len(), REASON_BYTES_MAX - 1);
    }
}
