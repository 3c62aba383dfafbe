//! One fetcher per (broker, shard): a single Fetch over all its queues is on the way at any time, and the next one
//! leaves as soon as the answer's lengths are read - before its batches are checked.
//!
//! **Invariants**: what is handed on is dense from the first offset wanted (but for what tags or retention left out),
//! in order, each record once, also after a connection was made again or the queue moved to another fetcher (the
//! queue's cursor sees to that); every batch was verified; a queue in trouble is paused and holds up no other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use equeue_net::api::{Fetch, FetchAnswer, FetchItem, FetchOutcome};
use equeue_net::limits::{FETCH_ITEMS_MAX, TAG_HASHES_MAX};
use equeue_net::{Code, Remedy};
use equeue_record::{Offset, QueueKey, RecordError, split_first};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::cursor::Asked;
use super::feed::Item;
use super::received::ReceivedBatch;
use super::shared::{Shared, Signal};
use super::track::Track;
use crate::ClientError;
use crate::connection::{Connection, Waiting};
use crate::retry::Backoff;

/// The only fetch of a connection.
const FETCH_ID: u32 = 1;
/// Longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Pause of a queue that its broker refused, or whose bytes are damaged.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// How long an answer that may be on its way is waited for when the queues have changed: it need not be sent twice.
const REPLACE_AFTER: Duration = Duration::from_millis(10);

/// The queues that one fetcher reads.
#[derive(Debug)]
pub(crate) struct Fetcher {
    broker: Arc<str>,
    shard: u16,
    tracks: Mutex<Vec<Arc<Track>>>,
    changed: Arc<Notify>,
}

/// The queues of a fetch: where each stood, and the grant.
type Wanted = HashMap<QueueKey, (Arc<Track>, Asked, u32)>;

/// A fetch on its way.
struct OnTheWay {
    asked: Wanted,
    waiting: Waiting,
    connection: Arc<Connection>,
}

/// The batches of one queue in an answer, not checked yet.
struct Run {
    track: Arc<Track>,
    asked: Asked,
    outcome: FetchOutcome,
    batches: Bytes,
}

impl Fetcher {
    /// Without queues.
    pub(crate) fn new(broker: Arc<str>, shard: u16) -> Self {
        Self { broker, shard, tracks: Mutex::default(), changed: Arc::default() }
    }

    /// Changes the queues; a fetch that is on its way is replaced.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Arc<Track>>)) {
        change(&mut self.tracks.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Notified when more is wanted of its queues.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    fn tracks(&self) -> Vec<Arc<Track>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches for ever.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut loop_ = Loop {
            fetcher: self,
            shared,
            paused: HashMap::new(),
            told: HashSet::new(),
            backoff: Backoff::new(PAUSE_MAX),
            last: None,
            failing: false,
        };
        loop {
            if let Err(error) = loop_.round().await {
                loop_.failed(&error).await;
            }
        }
    }
}

/// The state of a running fetcher.
struct Loop {
    fetcher: Arc<Fetcher>,
    shared: Arc<Shared>,
    /// Queues that were refused, until when they are left out.
    paused: HashMap<QueueKey, (Instant, Asked)>,
    /// Queues whose trouble the application was told: it is told once, until they are well again.
    told: HashSet<QueueKey>,
    backoff: Backoff,
    /// The queue that gave most lately: the one behind it is asked for first, so that each has its turn.
    last: Option<QueueKey>,
    failing: bool,
}

impl Loop {
    /// Connects and fetches until something fails.
    async fn round(&mut self) -> Result<(), ClientError> {
        while self.fetcher.tracks().is_empty() {
            self.fetcher.changed.notified().await;
        }
        let connection = self.shared.connect(&self.fetcher.broker, self.fetcher.shard).await?;
        if std::mem::replace(&mut self.failing, false) {
            debug!(broker = %self.fetcher.broker, shard = self.fetcher.shard, "fetching again");
        }
        let mut on_the_way = self.ask(&connection).await?;
        loop {
            let answered = self.answer(on_the_way).await?;
            // The next fetch leaves before the batches are looked at, as far as there is room.
            let runs =
                answered.map(|(answer, payload, asked)| self.split(&connection, answer, &payload, asked));
            let runs = runs.transpose()?.unwrap_or_default();
            on_the_way = self.ask_then_hand(&connection, runs).await?;
        }
    }

    /// Asks for more and hands on what has come. Handing on first when there is no room: else nobody would make some.
    async fn ask_then_hand(
        &mut self,
        connection: &Arc<Connection>,
        runs: Vec<Run>,
    ) -> Result<OnTheWay, ClientError> {
        let coming: usize = runs.iter().map(|run| run.batches.len()).sum();
        if self.shared.feed.has_room_beside(coming) {
            let asked = self.ask(connection).await;
            self.hand(runs);
            asked
        } else {
            self.hand(runs);
            self.ask(connection).await
        }
    }

    /// Sends a fetch for every queue that is not paused, from where each stands.
    async fn ask(&mut self, connection: &Arc<Connection>) -> Result<OnTheWay, ClientError> {
        loop {
            let room = self.shared.feed.room().await.min(self.shared.options.fetch_bytes_max);
            let now = Instant::now();
            self.paused.retain(|_, (until, _)| *until > now);
            let tracks = self.fetcher.tracks();
            let (request, asked) = self.request(&tracks, room);
            if !request.items.is_empty() {
                let waiting = connection.request(&request, [], 0)?;
                return Ok(OnTheWay { asked, waiting, connection: Arc::clone(connection) });
            }
            if connection.is_ended() {
                return Err(ClientError::ConnectionLost {
                    server: Arc::clone(connection.server()),
                    reason: "while nothing was fetched".into(),
                });
            }
            let _ = timeout(REFUSED_PAUSE, self.fetcher.changed.notified()).await;
        }
    }

    /// Where among the queues the next fetch begins: the broker serves in this order, and one queue may fill an answer.
    fn first_asked(&self, tracks: &[Arc<Track>]) -> usize {
        let last = tracks.iter().position(|track| Some(track.home().key) == self.last);
        last.map_or(0, |last| (last + 1) % tracks.len())
    }

    fn request(&mut self, tracks: &[Arc<Track>], room: usize) -> (Fetch, Wanted) {
        let bytes_max = u32::try_from(room).unwrap_or(u32::MAX);
        let mut request = Fetch {
            fetch_id: FETCH_ID,
            wait_ms_max: u32::try_from(self.shared.options.wait_max.as_millis()).unwrap_or(u32::MAX),
            bytes_max,
            items: Vec::with_capacity(tracks.len()),
            tag_hashes: Vec::new(),
            group: self.shared.group.clone(),
        };
        let mut asked = HashMap::with_capacity(tracks.len());
        let mut tag_ranges = HashMap::new();
        let begin = self.first_asked(tracks);
        let (front, back) = tracks.split_at_checked(begin).unwrap_or((tracks, &[]));
        for track in back.iter().chain(front).take(FETCH_ITEMS_MAX) {
            let key = track.home().key;
            let Some((from, grant_epoch)) = track.ask() else { continue };
            // What was refused is not asked for again at once, unless the queue goes on elsewhere by now.
            if self.paused.get(&key).is_some_and(|(_, refused)| track.counts(*refused)) {
                continue;
            }
            let hashes = &track.topic.hashes;
            let (tags_start, tags_count) =
                *tag_ranges.entry(Arc::clone(&track.topic.name)).or_insert_with(|| {
                    let start = request.tag_hashes.len();
                    // More than fit: the client filters alone.
                    let fits = start + hashes.len() <= TAG_HASHES_MAX;
                    request.tag_hashes.extend(hashes.iter().filter(|_| fits));
                    let count = if fits { hashes.len() } else { 0 };
                    (u16::try_from(start).unwrap_or(0), u16::try_from(count).unwrap_or(0))
                });
            request.items.push(FetchItem {
                queue: key,
                offset: from.offset,
                bytes_max,
                grant_epoch,
                tags_start,
                tags_count,
            });
            asked.insert(key, (Arc::clone(track), from, grant_epoch));
        }
        (request, asked)
    }

    /// Waits for the answer; `None`: the queues changed, and a new fetch replaces this one.
    async fn answer(
        &mut self,
        on_the_way: OnTheWay,
    ) -> Result<Option<(FetchAnswer, Bytes, Wanted)>, ClientError> {
        let OnTheWay { asked, waiting, connection } = on_the_way;
        let patience = self.shared.options.wait_max + self.shared.pool.request_timeout();
        let mut coming = std::pin::pin!(timeout(patience, waiting.frame()));
        // A queue that was left out is asked for again in time, whatever the others have.
        let pause_over = self.paused.values().map(|(until, _)| *until).min();
        let asks_again = async {
            match pause_over {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            biased;
            answered = &mut coming => Some(answered),
            () = self.fetcher.changed.notified() => None,
            () = asks_again => None,
        };
        let frame = match frame {
            Some(frame) => frame,
            None => match timeout(REPLACE_AFTER, coming).await {
                Ok(frame) => frame,
                Err(_) => return Ok(None),
            },
        };
        let frame = frame.map_err(|_| {
            connection.end("no answer to a fetch");
            ClientError::TimedOut {
                request: "Fetch",
                server: Arc::clone(connection.server()),
                after: patience,
            }
        })??;
        let answer: FetchAnswer = connection.decode(&frame)?;
        match answer.status.code {
            Code::Ok => {
                self.backoff.reset();
                Ok(Some((answer, frame.payload, asked)))
            }
            code => Err(ClientError::Refused {
                server: Arc::clone(connection.server()),
                request: "Fetch",
                code,
                retry_after_ms: answer.status.retry_after_ms,
                detail: answer.status.detail.as_str().into(),
            }),
        }
    }

    /// Cuts the payload into the runs of each queue, and notes where to fetch next. Nothing is checked yet but the
    /// structure that tells the lengths.
    fn split(
        &mut self,
        connection: &Connection,
        answer: FetchAnswer,
        payload: &Bytes,
        mut asked: Wanted,
    ) -> Result<Vec<Run>, ClientError> {
        let mut runs = Vec::with_capacity(answer.outcomes.len());
        let mut begin = 0;
        for outcome in answer.outcomes {
            let end = begin + outcome.bytes as usize;
            if end > payload.len() {
                connection.end("a Fetch answer's queues have more bytes than its payload");
                return Err(ClientError::Protocol {
                    server: Arc::clone(connection.server()),
                    reason: "more bytes announced than sent".into(),
                });
            }
            let batches = payload.slice(begin..end);
            begin = end;
            if outcome.bytes > 0 {
                self.last = Some(outcome.queue);
            }
            let Some((track, from, grant_epoch)) = asked.remove(&outcome.queue) else { continue };
            if !track.counts(from) {
                continue;
            }
            if outcome.code != Code::Ok {
                self.refused(&track, from, grant_epoch, &outcome);
                continue;
            }
            track.set_high_watermark(outcome.high_watermark);
            let next = end_of(&batches).map_or(outcome.next_offset, |end| outcome.next_offset.max(end));
            if next > from.offset && track.answered(from, next) {
                runs.push(Run {
                    track,
                    asked: from,
                    outcome: FetchOutcome { next_offset: next, ..outcome },
                    batches,
                });
            }
        }
        Ok(runs)
    }

    /// Checks the runs and hands them on. After a damaged batch its queue goes back to it, and waits a while.
    fn hand(&mut self, runs: Vec<Run>) {
        for run in runs {
            let Run { track, asked, outcome, batches } = run;
            match self.hand_run(&track, asked, batches) {
                Ok(reached) => {
                    self.told.remove(&outcome.queue);
                    if outcome.next_offset > reached {
                        track.hand(asked, Item::Skipped(outcome.next_offset), outcome.next_offset);
                    }
                }
                Err((offset, source)) => {
                    track.back(asked);
                    let (topic, queue) = (Arc::clone(&track.topic.name), track.ordinal);
                    self.tell(outcome.queue, &ClientError::Damaged { topic, queue, offset, source });
                    self.paused.insert(outcome.queue, (Instant::now() + REFUSED_PAUSE, track.ask_again()));
                }
            }
        }
    }

    /// Tells the application of trouble with a queue, once.
    fn tell(&mut self, queue: QueueKey, error: &ClientError) {
        if self.told.insert(queue) {
            warn!(error = %crate::routes::with_causes(error), "trouble with a queue; trying again");
            self.shared.feed.tell(error.clone());
        }
    }

    /// Hands on the batches of a queue; tells where they end, or where the damaged one begins.
    fn hand_run(
        &self,
        track: &Arc<Track>,
        asked: Asked,
        mut batches: Bytes,
    ) -> Result<Offset, (Offset, RecordError)> {
        let mut reached = asked.offset;
        while !batches.is_empty() {
            let (header, length) = split_first(&batches).map_err(|error| (reached, error))?;
            let batch = batches.split_to(length);
            if header.next_offset() <= reached {
                continue;
            }
            let batch =
                ReceivedBatch::check(Arc::clone(track), batch, reached).map_err(|error| (reached, error))?;
            if header.base_offset > reached && track.topic.tags.is_empty() {
                let count = header.base_offset.0 - reached.0;
                self.shared.missed(count);
                warn!(topic = %track.topic.name, queue = track.ordinal, from = %reached, count, "offsets are missing");
            }
            reached = batch.next_offset();
            track.hand(asked, Item::Batch(batch), reached);
        }
        Ok(reached)
    }

    /// A queue that the broker gives nothing of.
    fn refused(&mut self, track: &Arc<Track>, asked: Asked, grant_epoch: u32, outcome: &FetchOutcome) {
        let (topic, queue, wanted) = (&track.topic.name, track.ordinal, asked.offset);
        debug!(%topic, queue, code = %outcome.code, "not fetched");
        match outcome.code {
            Code::OffsetOutOfRange => {
                if self.out_of_range(track, asked, outcome) {
                    return;
                }
            }
            Code::StaleEpoch => self.shared.signal(Signal::Stale(Arc::clone(track), grant_epoch)),
            Code::OffsetReset => {
                let reset = Signal::Reset(Arc::clone(track), outcome.next_offset, outcome.grant_epoch);
                self.shared.signal(reset);
            }
            code => match code.remedy() {
                Remedy::RefreshRoute => self.shared.client.routes.suspect(topic),
                Remedy::None | Remedy::Retry => {}
                Remedy::Fatal => {
                    let error = ClientError::Refused {
                        server: Arc::clone(&self.fetcher.broker),
                        request: "Fetch",
                        code,
                        retry_after_ms: 0,
                        detail: format!("queue {queue} of topic {topic} at offset {wanted}").into(),
                    };
                    self.tell(outcome.queue, &error);
                }
            },
        }
        self.paused.insert(outcome.queue, (Instant::now() + REFUSED_PAUSE, asked));
    }

    /// The offset wanted is not there; whether the queue goes on at another one.
    fn out_of_range(&self, track: &Arc<Track>, asked: Asked, outcome: &FetchOutcome) -> bool {
        let (topic, queue, wanted) = (&track.topic.name, track.ordinal, asked.offset);
        let (start, end) = (outcome.start_offset, outcome.high_watermark);
        // Behind the end: the broker lost what this group has read. What it has is neither read again nor lost.
        let next = if wanted < start { start } else { end.min(wanted) };
        let lost = start.0.saturating_sub(wanted.0);
        self.shared.missed(lost);
        warn!(%topic, queue, %wanted, %start, %end, lost, going_on_at = %next, "the offset wanted is not there");
        if next < wanted {
            track.rewind(next);
        } else if next > wanted {
            track.hand(asked, Item::Skipped(next), next);
        }
        next != wanted
    }

    /// After a failure: the route may be stale; a pause.
    async fn failed(&mut self, error: &ClientError) {
        let (broker, shard) = (&self.fetcher.broker, self.fetcher.shard);
        if !std::mem::replace(&mut self.failing, true) {
            warn!(%broker, shard, error = %crate::routes::with_causes(error), "cannot fetch; trying again");
        }
        self.shared.client.routes.refresh();
        let pause = match error {
            ClientError::Refused { retry_after_ms, .. } if *retry_after_ms > 0 => {
                Duration::from_millis((*retry_after_ms).into())
            }
            _ => self.backoff.pause(),
        };
        sleep(pause).await;
    }
}

/// The offset after the last batch of a run.
fn end_of(mut batches: &[u8]) -> Option<Offset> {
    let mut end = None;
    while let Ok((header, length)) = split_first(batches) {
        end = Some(header.next_offset());
        batches = batches.get(length..).unwrap_or_default();
    }
    end
}
