//! Handing messages back: one request at a time to each shard, with everything that has come up meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use equeue_net::api::{HandBack, HandBackItem, HandBackOutcome};
use equeue_net::limits::{HAND_BACK_ITEMS_MAX, REASON_BYTES_MAX};
use equeue_net::{Code, Remedy};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::PushOptions;
use super::context::{self, Piece};
use crate::ClientError;
use crate::routes::with_causes;

use super::super::shared::{Shared, Signal};

/// Pause before what was not taken is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where wishes go together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Destination {
    broker: Arc<str>,
    shard: u16,
    /// To the dead letters at once.
    dead: bool,
}

/// A message to be handed back.
#[derive(Debug)]
pub(super) struct HandBackWish {
    pub(super) piece: Arc<Piece>,
    pub(super) place: context::Place,
    /// The attempt that failed.
    pub(super) attempt: u32,
    /// Chosen by the handler.
    pub(super) delay: Option<Duration>,
    /// It has held its queue through all its attempts: a dead letter now. Otherwise the broker counts the attempts.
    pub(super) dead: bool,
    pub(super) reason: String,
    /// That it cannot be handed back was said.
    pub(super) told: bool,
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
    let to = Destination { broker: Arc::clone(&home.broker), shard: home.shard, dead: wish.dead };
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
        Ok(outcomes) => settle(shared, wishes, outcomes),
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
        let delay = wish.delay.unwrap_or_else(|| options.pause_after(wish.attempt));
        HandBackItem {
            queue: wish.piece.track.home().key,
            offset: wish.place.offset,
            grant_epoch: wish.piece.track.grant_epoch(),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            reason: shortened(&wish.reason),
        }
    };
    let attempts_max = if to.dead { 1 } else { options.attempts_max };
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
fn settle(shared: &Shared, wishes: Vec<HandBackWish>, outcomes: Vec<HandBackOutcome>) -> Vec<HandBackWish> {
    let mut again = Vec::new();
    for (mut wish, outcome) in wishes.into_iter().zip(outcomes) {
        let track = Arc::clone(&wish.piece.track);
        match outcome.code {
            Code::Ok => {
                let counter = if outcome.dead { &shared.counters.dead } else { &shared.counters.handed_back };
                counter.fetch_add(1, Ordering::Relaxed);
                debug!(topic = %track.topic.name, queue = track.ordinal, offset = %wish.place.offset, attempt = outcome.attempt, dead = outcome.dead, reason = wish.reason, "handed back");
                wish.piece.done(wish.place);
                wish.piece.settled();
                // The first message that comes back makes the retry queue.
                shared.expect_retries();
            }
            Code::StaleEpoch => {
                shared.signal(Signal::Stale(Arc::clone(&track), track.grant_epoch()));
                wish.piece.settled();
            }
            code => {
                if code.remedy() == Remedy::Fatal && !std::mem::replace(&mut wish.told, true) {
                    // It may be too large for the headers of a retried message: only its handler can let it go.
                    error!(topic = %track.topic.name, queue = track.ordinal, offset = %wish.place.offset, %code, "the message cannot be handed back and holds its queue's committed offset; let the handler skip it");
                }
                again.push(wish);
            }
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
