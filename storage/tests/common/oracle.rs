//! A workload with a journal of what was promised, and the check of a log against it.
//!
//! The journal lives outside the machine that loses its power. What is checked is what testing.md calls C1 to C6:
//! nothing acknowledged is missing, nothing is there that was not sent, an offset names one message for ever, offsets
//! are dense, batches with producer state are stored once, nothing that was read is lost later.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use equeue_record::{Offset, ProducerStamp, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{MemoryIo, PowerCut};
use equeue_storage::log::{AppendError, AtomicPart, CommitLog, Hazards, LogOptions};
use equeue_storage::{LogId, Ticket};

use super::{batch, stamped, try_read_all};

/// Where the log lies.
pub(crate) const DIR: &str = "/data/log-0";
const QUEUES: u64 = 3;

/// What was sent and what was promised.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Bodies by queue and offset, as appended (a later life may give the offset of a lost batch again).
    sent: BTreeMap<(u64, u64), Vec<Vec<u8>>>,
    /// What nobody may lose: acknowledged, or read.
    promised: BTreeMap<(u64, u64), Vec<u8>>,
    /// State entries that were acknowledged, by key: the least value that may be found.
    state: BTreeMap<String, u64>,
    state_sent: u64,
    /// The two messages of each atomic unit.
    units: Vec<[Placed; 2]>,
    next: u64,
    /// Waiting for durability: ticket, what is promised then.
    waiting: Vec<(Ticket, Promise)>,
}

/// A body at a queue and offset.
type Placed = ((u64, u64), Vec<u8>);

#[derive(Debug)]
enum Promise {
    Message(u64, u64, Vec<u8>),
    State(String, u64),
}

pub(crate) type Shared = Rc<RefCell<Journal>>;

/// A workload on one log.
pub(crate) struct Client {
    pub(crate) log: CommitLog<MemoryIo>,
    journal: Shared,
}

/// Small segments and flushes.
pub(crate) fn options(hazards: Hazards) -> LogOptions {
    LogOptions {
        segment_bytes_max: 1 << 20,
        segment_bytes_first: 1 << 20,
        flush_bytes_max: 96 << 10,
        cache_bytes: 256 << 10,
        snapshot_bytes: 1 << 20,
        hazards,
        // A task that reads now and then would only make more calls.
        scrub_bytes_per_second: 0,
        ..LogOptions::default()
    }
}

/// Opens the log; a violation in words when it is refused.
pub(crate) async fn open(io: &MemoryIo, hazards: Hazards) -> Result<CommitLog<MemoryIo>, String> {
    let opened = CommitLog::open(io.clone(), DIR.into(), LogId(0), options(hazards)).await;
    let (log, _) = opened.map_err(|error| format!("refused: {error}"))?;
    (1..=QUEUES).for_each(|queue| log.open_queue(QueueKey(queue)));
    Ok(log)
}

impl Client {
    pub(crate) fn new(log: CommitLog<MemoryIo>, journal: &Shared) -> Self {
        Self { log, journal: Rc::clone(journal) }
    }

    fn body(&self, bytes: usize) -> Vec<u8> {
        let mut journal = self.journal.borrow_mut();
        journal.next += 1;
        let mut body = journal.next.to_le_bytes().to_vec();
        body.resize(bytes.max(8), u8::try_from(journal.next % 251).unwrap());
        body
    }

    fn sent(&self, queue: u64, offset: Offset, body: &[u8], ticket: Ticket) {
        let mut journal = self.journal.borrow_mut();
        journal.sent.entry((queue, offset.0)).or_default().push(body.to_vec());
        journal.waiting.push((ticket, Promise::Message(queue, offset.0, body.to_vec())));
    }

    /// Appends a message, without waiting.
    pub(crate) fn send(&self, queue: u64, bytes: usize) -> Result<Ticket, AppendError> {
        let body = self.body(bytes);
        let appended = self.log.append(QueueKey(queue), batch(&[&body]))?;
        self.sent(queue, appended.base_offset, &body, appended.ticket);
        Ok(appended.ticket)
    }

    /// Appends a message of producer 9 twice, as after an answer that was lost; what the second answer promises counts.
    pub(crate) fn send_twice(&self, queue: u64, sequence: i32) -> Result<(), AppendError> {
        let body = self.body(64);
        let stamp = ProducerStamp { producer_id: 9, producer_epoch: 0, base_sequence: sequence };
        let bytes: Bytes = stamped(&[&body], stamp);
        let first = self.log.append(QueueKey(queue), bytes.clone())?;
        assert!(!first.duplicate);
        self.journal.borrow_mut().sent.entry((queue, first.base_offset.0)).or_default().push(body.clone());
        let second = self.log.append(QueueKey(queue), bytes)?;
        assert!(second.duplicate && second.base_offset == first.base_offset);
        let promise = Promise::Message(queue, first.base_offset.0, body);
        self.journal.borrow_mut().waiting.push((second.ticket, promise));
        Ok(())
    }

    /// Appends two messages and a state entry in one unit.
    pub(crate) fn send_unit(&self, key: &str) -> Result<Ticket, AppendError> {
        let (one, two) = (self.body(3000), self.body(100));
        let ends = |queue| self.log.bounds(QueueKey(queue)).unwrap().end;
        let (at_one, at_two) = (ends(1), ends(2));
        let value = {
            let mut journal = self.journal.borrow_mut();
            journal.state_sent += 1;
            journal.state_sent
        };
        let ticket = self.log.append_atomic(vec![
            AtomicPart::Batch { queue: QueueKey(1), batch: batch(&[&one]) },
            AtomicPart::State {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Some(Bytes::copy_from_slice(&value.to_le_bytes())),
            },
            AtomicPart::Batch { queue: QueueKey(2), batch: batch(&[&two]) },
        ])?;
        self.sent(1, at_one, &one, ticket);
        self.sent(2, at_two, &two, ticket);
        let mut journal = self.journal.borrow_mut();
        journal.units.push([((1, at_one.0), one), ((2, at_two.0), two)]);
        journal.waiting.push((ticket, Promise::State(key.to_owned(), value)));
        Ok(ticket)
    }

    /// Takes down what is acknowledged by now, and what a reader sees now.
    pub(crate) fn note(&self) {
        let durable = self.log.durable();
        {
            let mut journal = self.journal.borrow_mut();
            let waiting = std::mem::take(&mut journal.waiting);
            for (ticket, promise) in waiting {
                if ticket > durable {
                    journal.waiting.push((ticket, promise));
                    continue;
                }
                match promise {
                    Promise::Message(queue, offset, body) => {
                        journal.promised.insert((queue, offset), body);
                    }
                    Promise::State(key, value) => {
                        journal.state.insert(key, value);
                    }
                }
            }
        }
        for queue in 1..=QUEUES {
            let from = self.log.bounds(QueueKey(queue)).unwrap().durable_end.0.saturating_sub(3);
            if let Some(Ok(answer)) = self.log.read_cached(QueueKey(queue), Offset(from), 1 << 20) {
                let found = super::bodies(&answer, Offset(from));
                let mut journal = self.journal.borrow_mut();
                for (offset, body) in (from..).zip(found) {
                    journal.promised.insert((queue, offset), body);
                }
            }
        }
    }

    /// Some of everything: batches of all sizes, duplicates, units, an idle log, a roll and a snapshot.
    pub(crate) async fn work(
        &self,
        io: &MemoryIo,
        rounds: u32,
        first_sequence: i32,
    ) -> Result<(), AppendError> {
        for round in 0..rounds {
            for queue in 1..=QUEUES {
                self.send(queue, 30_000 * (round as usize % 3))?;
            }
            self.send_twice(3, first_sequence + i32::try_from(round).unwrap())?;
            let ticket = self.send_unit(["a", "b"][round as usize % 2])?;
            // The flusher begins; nothing is durable yet.
            io.yield_now().await;
            io.yield_now().await;
            self.note();
            if round % 3 == 0 {
                io.sleep(Duration::from_millis(u64::from(round % 2) * 250)).await;
            } else {
                self.log.wait_durable(ticket).await?;
            }
            self.note();
        }
        Ok(())
    }
}

/// Checks a log that was just opened against the journal; the first violation in words.
pub(crate) async fn check(log: &CommitLog<MemoryIo>, journal: &Shared) -> Result<(), String> {
    let mut found = BTreeMap::new();
    for queue in 1..=QUEUES {
        let bodies = try_read_all(log, QueueKey(queue), Offset(0), 200_000).await;
        let bodies = bodies.map_err(|error| format!("unreadable: queue {queue}: {error}"))?;
        found.extend((0..).zip(bodies).map(|(offset, body)| ((queue, offset), body)));
    }
    compare(log, &journal.borrow(), &found)
}

fn compare(
    log: &CommitLog<MemoryIo>,
    journal: &Journal,
    found: &BTreeMap<(u64, u64), Vec<u8>>,
) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for ((queue, offset), body) in found {
        let known = journal.sent.get(&(*queue, *offset)).is_some_and(|sent| sent.contains(body));
        if !known {
            return Err(format!("phantom: queue {queue}, offset {offset}"));
        }
        if !seen.insert(&body[..8]) {
            return Err(format!("stored twice: queue {queue}, offset {offset}"));
        }
    }
    for (place, body) in &journal.promised {
        if found.get(place) != Some(body) {
            return Err(format!("lost: queue {}, offset {}", place.0, place.1));
        }
    }
    for unit in &journal.units {
        let there = unit.each_ref().map(|(place, body)| found.get(place) == Some(body));
        if there[0] != there[1] {
            return Err(format!("half of the unit at {:?} and {:?} is there", unit[0].0, unit[1].0));
        }
    }
    for (key, least) in &journal.state {
        let value = log.state(key.as_bytes()).map(|value| u64::from_le_bytes(value[..].try_into().unwrap()));
        if value.is_none_or(|value| value < *least || value > journal.state_sent) {
            return Err(format!("state {key} is {value:?}, at least {least} was acknowledged"));
        }
    }
    Ok(())
}

/// What is missing of what was promised, by queue and offset; an error when something is there that was not sent.
pub(crate) async fn missing(
    log: &CommitLog<MemoryIo>,
    journal: &Shared,
) -> Result<BTreeSet<(u64, u64)>, String> {
    let mut found = BTreeMap::new();
    for queue in 1..=QUEUES {
        let left = super::read_left(log, QueueKey(queue)).await;
        let left = left.map_err(|error| format!("unreadable: queue {queue}: {error}"))?;
        found.extend(left.into_iter().map(|(offset, body)| ((queue, offset), body)));
    }
    let journal = journal.borrow();
    for (place, body) in &found {
        if !journal.sent.get(place).is_some_and(|sent| sent.contains(body)) {
            return Err(format!("phantom: {place:?}"));
        }
    }
    Ok(journal
        .promised
        .iter()
        .filter(|(place, body)| found.get(place) != Some(body))
        .map(|(place, _)| *place)
        .collect())
}

/// The offset after the last one that was ever promised in a queue.
pub(crate) fn promised_end(journal: &Shared, queue: u64) -> u64 {
    let journal = journal.borrow();
    let last = journal.promised.range((queue, 0)..=(queue, u64::MAX)).next_back();
    last.map_or(0, |((_, offset), _)| offset + 1)
}

/// The machine went down: what was not acknowledged by then never will be.
pub(crate) fn forget_waiting(journal: &Shared) {
    journal.borrow_mut().waiting.clear();
}

/// Runs a step on a machine, by name for the report.
pub(crate) fn run<T: 'static>(
    io: &MemoryIo,
    step: impl AsyncFnOnce(MemoryIo) -> T + 'static,
) -> Result<T, PowerCut> {
    let machine = io.clone();
    io.run(async move { step(machine).await })
}

/// Paths of the segments, in order.
pub(crate) fn segments(io: &MemoryIo) -> Vec<std::path::PathBuf> {
    io.paths().into_iter().filter(|path| path.extension() == Some(Path::new("seg").as_os_str())).collect()
}
