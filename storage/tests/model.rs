//! Any sequence of operations on a log gives what it gives on a `Vec`.
//!
//! Operations: appends of all sizes (rolls and snapshots come with them), atomic units, state entries, reads from
//! anywhere, searches by time, pauses, queues that are trimmed, segments that are retired with groups that consumed
//! only a part, a disk that runs full and is given space again, restarts in order, power cuts, and bits that flip while
//! the log is closed. After a power cut the log must hold a prefix of what was appended that is at least as long as what
//! was acknowledged, and its queues begin where they were said to, or where they were about to. A log with a flipped
//! bit holds what it should, or says that it is damaged.
//!
//! `EQUEUE_MODEL_CASES` says how many cases there are (500); what fails is made as short as it can be.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, bodies, read_all, try_read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::log::{AppendError, AtomicPart, CommitLog, Hazards, ReadError, RetainError};
use equeue_storage::retention::{Leaving, RetentionAdvisor, RetentionPolicy};
use equeue_storage::{LogId, Ticket};
use futures::future::LocalBoxFuture;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const QUEUES: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    /// Queue, bytes of a body, records.
    Append(u64, usize, usize),
    /// Bytes of the bodies in two queues.
    Unit(usize, usize),
    State(u8, Option<u8>),
    Wait,
    /// Queue, where in it (per mille), bytes.
    Read(u64, u64, usize),
    Time(u64, u64),
    Pause(u64),
    Restart,
    PowerCut(u64),
    /// So many bytes in appends that are waited for: enough for a roll.
    Fill(usize),
    /// A queue begins later: which, where in it (per mille).
    Trim(u64, u64),
    /// The oldest segments go: how many may stay; how far a group is in all queues (per mille), if what it has still to
    /// consume must stay.
    Retain(usize, Option<u64>),
    /// The disk has room for so many more bytes, or for everything.
    Space(Option<usize>),
    /// On a copy of what a restart would find: which bit, per million.
    Flip(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![4 => 0_usize..300, 2 => 300_usize..20_000, 1 => 20_000_usize..91_000];
    prop_oneof![
        8 => (0..QUEUES, size, 1_usize..4).prop_map(|(queue, bytes, records)| Op::Append(queue, bytes / records, records)),
        2 => (0_usize..40_000, 0_usize..40_000).prop_map(|(one, two)| Op::Unit(one, two)),
        2 => (0_u8..4, prop::option::of(any::<u8>())).prop_map(|(key, value)| Op::State(key, value)),
        3 => Just(Op::Wait),
        4 => (0..QUEUES, 0_u64..1001, 1_usize..300_000).prop_map(|(queue, at, bytes)| Op::Read(queue, at, bytes)),
        1 => (0..QUEUES, 0_u64..1000).prop_map(|(queue, at)| Op::Time(queue, at)),
        1 => (0_u64..400).prop_map(Op::Pause),
        1 => Just(Op::Restart),
        1 => any::<u64>().prop_map(Op::PowerCut),
        1 => (200_000_usize..1_200_000).prop_map(Op::Fill),
        1 => (0..QUEUES, 0_u64..1001).prop_map(|(queue, at)| Op::Trim(queue, at)),
        1 => (1_usize..4, prop::option::of(0_u64..1001)).prop_map(|(most, at)| Op::Retain(most, at)),
        1 => prop::option::weighted(0.5, 0_usize..2_000_000).prop_map(Op::Space),
        1 => (0_u32..1_000_000).prop_map(Op::Flip),
    ]
}

/// What the log should hold.
#[derive(Default)]
struct Model {
    /// Bodies and append times of each queue.
    queues: BTreeMap<u64, Vec<(Vec<u8>, i64)>>,
    /// Of these: how many were acknowledged.
    durable: BTreeMap<u64, usize>,
    /// Where queues begin: at the first offset for sure or behind it, at most at the second.
    starts: BTreeMap<u64, (u64, u64)>,
    /// Changes of state by ticket, and what was acknowledged.
    state_sent: Vec<(Ticket, u8, Option<u8>)>,
    state: BTreeMap<u8, u8>,
    last: Ticket,
    counter: u64,
}

impl Model {
    fn bodies(&mut self, bytes: usize, records: usize) -> Vec<Vec<u8>> {
        (0..records)
            .map(|_| {
                self.counter += 1;
                let mut body = self.counter.to_le_bytes().to_vec();
                body.resize(bytes.max(8), 7);
                body
            })
            .collect()
    }

    fn start(&self, queue: u64) -> (u64, u64) {
        self.starts.get(&queue).copied().unwrap_or_default()
    }

    /// A queue begins here now.
    fn begins(&mut self, queue: u64, start: u64) {
        let (sure, most) = self.start(queue);
        assert!(
            (sure..=most).contains(&start),
            "queue {queue} begins at {start}, and not in {sure}..={most}"
        );
        self.starts.insert(queue, (start, most));
    }

    /// What a queue should hold from an offset on.
    fn from(&self, queue: u64, offset: u64) -> &[(Vec<u8>, i64)] {
        let known = self.queues.get(&queue).map_or(&[][..], Vec::as_slice);
        &known[usize::try_from(offset).unwrap()..]
    }

    /// Everything appended so far was acknowledged.
    fn all_durable(&mut self) {
        for (queue, appended) in &self.queues {
            self.durable.insert(*queue, appended.len());
        }
        for (sure, most) in self.starts.values_mut() {
            *sure = *most;
        }
        for (_, key, value) in self.state_sent.drain(..) {
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
    }
}

struct Run {
    io: MemoryIo,
    log: CommitLog<MemoryIo>,
}

async fn open(io: MemoryIo) -> CommitLog<MemoryIo> {
    let (log, _) = CommitLog::open(io, DIR.into(), LogId(0), options(Hazards::default())).await.unwrap();
    (0..QUEUES).for_each(|queue| log.open_queue(QueueKey(1 + queue)));
    log
}

/// Nothing was appended: the disk is full, or no space is known to be there for more.
fn nothing_happened(log: &CommitLog<MemoryIo>, error: &AppendError) {
    match error {
        AppendError::DiskFull => assert!(log.stats().disk_full),
        AppendError::Busy { .. } => {}
        error => panic!("{error}"),
    }
}

/// Appends; on a full disk nothing happens.
fn append(log: &CommitLog<MemoryIo>, model: &RefCell<Model>, queue: u64, bytes: usize, records: usize) {
    let bodies = model.borrow_mut().bodies(bytes, records);
    let bytes = batch(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let appended = match log.append(QueueKey(1 + queue), bytes) {
        Ok(appended) => appended,
        Err(error) => return nothing_happened(log, &error),
    };
    let mut model = model.borrow_mut();
    model.last = appended.ticket;
    let known = model.queues.entry(queue).or_default();
    assert_eq!(appended.base_offset, Offset(known.len() as u64));
    assert!(known.last().is_none_or(|(_, before)| *before <= appended.append_time_ms));
    known.extend(bodies.into_iter().map(|body| (body, appended.append_time_ms)));
}

fn unit(log: &CommitLog<MemoryIo>, model: &mut Model, one: usize, two: usize) {
    let bodies = [model.bodies(one, 1).remove(0), model.bodies(two, 1).remove(0)];
    let part = |queue: u64| AtomicPart::Batch {
        queue: QueueKey(1 + queue),
        batch: batch(&[&bodies[usize::try_from(queue).unwrap()]]),
    };
    match log.append_atomic(vec![part(0), part(1)]) {
        Ok(ticket) => {
            model.last = ticket;
            for (queue, body) in (0..).zip(bodies) {
                // Units have no answer with a time; they are left out of searches by time.
                let known = model.queues.entry(queue).or_default();
                let time_ms = known.last().map_or(0, |(_, time_ms)| *time_ms);
                known.push((body, time_ms));
            }
        }
        Err(AppendError::TooLarge { .. }) => {}
        Err(error) => nothing_happened(log, &error),
    }
}

fn state(log: &CommitLog<MemoryIo>, model: &mut Model, key: u8, value: Option<u8>) {
    let part = AtomicPart::State { key: vec![key].into(), value: value.map(|value| vec![value].into()) };
    let ticket = match log.append_atomic(vec![part]) {
        Ok(ticket) => ticket,
        Err(error) => return nothing_happened(log, &error),
    };
    model.last = ticket;
    model.state_sent.push((ticket, key, value));
}

fn trim(log: &CommitLog<MemoryIo>, model: &mut Model, queue: u64, at: u64) {
    let start = log.bounds(QueueKey(1 + queue)).unwrap().durable_end.0 * at / 1000;
    match log.trim(&[(QueueKey(1 + queue), Offset(start))]) {
        Ok(ticket) => {
            model.last = model.last.max(ticket);
            let (sure, most) = model.start(queue);
            model.starts.insert(queue, (sure, most.max(start)));
        }
        Err(error) => nothing_happened(log, &error),
    }
}

/// A group that is somewhere in each queue.
struct Group(BTreeMap<QueueKey, Offset>);

impl RetentionAdvisor for Group {
    fn first_unconsumed(&self, queue: QueueKey) -> Option<Offset> {
        self.0.get(&queue).copied()
    }

    fn carry_forward<'a>(&'a self, _: &'a [Leaving]) -> LocalBoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async { Ok(()) })
    }
}

async fn retain(log: &CommitLog<MemoryIo>, model: &RefCell<Model>, most: usize, at: Option<u64>) {
    let group = Group(
        (0..QUEUES)
            .filter_map(|queue| {
                let bounds = log.bounds(QueueKey(1 + queue)).unwrap();
                let share = (bounds.durable_end.0 - bounds.start.0) * at? / 1000;
                Some((QueueKey(1 + queue), bounds.start.plus(share)))
            })
            .collect(),
    );
    let policy = RetentionPolicy {
        segments_max: Some(most),
        age_ms: None,
        delete_unconsumed: at.is_none(),
        ..RetentionPolicy::default()
    };
    let before = log.stats();
    let retained = log.retain(&policy, &group).await;
    let after = log.stats();
    let gone = after.segments_retired - before.segments_retired;
    match retained {
        Ok(retained) => {
            assert_eq!(retained.segments, gone);
            assert!(retained.stays.is_some() || after.segments_kept <= most.max(1), "{retained:?} {after:?}");
        }
        Err(RetainError::Append(error)) => nothing_happened(log, &error),
        Err(error) => panic!("{error}"),
    }
    // The log may have begun segments meanwhile, and the pass has seen them.
    let new = usize::try_from(after.segments - before.segments).unwrap();
    if before.segments_kept + new <= most {
        assert_eq!(gone, 0, "there were {} segments and {new} new ones", before.segments_kept);
    }
    let mut model = model.borrow_mut();
    for queue in 0..QUEUES {
        let bounds = log.bounds(QueueKey(1 + queue)).unwrap();
        let (sure, most) = model.start(queue);
        let allowed = match group.first_unconsumed(QueueKey(1 + queue)) {
            _ if gone == 0 => most,
            Some(unconsumed) => most.max(unconsumed.0),
            None => most.max(bounds.durable_end.0),
        };
        let start = bounds.start.0;
        assert!((sure..=allowed).contains(&start), "queue {queue}: {start} is not in {sure}..={allowed}");
        model.starts.insert(queue, (start, most.max(start)));
    }
}

async fn read(log: &CommitLog<MemoryIo>, model: &RefCell<Model>, queue: u64, at: u64, bytes: usize) {
    let bounds = log.bounds(QueueKey(1 + queue)).unwrap();
    let (start, end) = (bounds.start.0, bounds.durable_end.0);
    let from = Offset(start + (end - start) * at.min(1000) / 1000);
    let answer = match log.read(QueueKey(1 + queue), from, bytes).await {
        // A trim that was on its way became durable meanwhile.
        Err(ReadError::OutOfRange { start, .. }) if start > from => {
            return assert!(start.0 <= model.borrow().start(queue).1);
        }
        answer => answer.unwrap(),
    };
    let found = bodies(&answer, from);
    assert_eq!(found.is_empty(), from.0 == end, "something is given unless the end is reached");
    assert!(answer.pieces.len() < 2 || answer.bytes <= bytes, "about what was asked for");
    let model = model.borrow();
    for (offset, body) in (from.0..).zip(found) {
        assert_eq!(model.queues[&queue][usize::try_from(offset).unwrap()].0, body);
    }
}

/// The whole log against the model. What was not acknowledged may be missing at the end.
async fn compare(log: &CommitLog<MemoryIo>, model: &RefCell<Model>) {
    for queue in 0..QUEUES {
        let start = log.bounds(QueueKey(1 + queue)).unwrap().start;
        let found = read_all(log, QueueKey(1 + queue), start, 150_000).await;
        let mut model = model.borrow_mut();
        model.begins(queue, start.0);
        let durable = model.durable.get(&queue).copied().unwrap_or_default();
        let known = model.queues.entry(queue).or_default();
        let end = usize::try_from(start.0).unwrap() + found.len();
        assert!(end >= durable && end <= known.len());
        known.truncate(end);
        assert!(model.from(queue, start.0).iter().map(|(body, _)| body).eq(&found), "queue {queue}");
        model.durable.insert(queue, end);
        model.starts.insert(queue, (start.0, start.0));
    }
    let mut found = BTreeMap::new();
    log.state_with_prefix(b"", &mut |key, value| {
        found.insert(key[0], value[0]);
    });
    let mut model = model.borrow_mut();
    // Some prefix of what was sent after the last acknowledgement.
    let sent = std::mem::take(&mut model.state_sent);
    let mut possible = vec![model.state.clone()];
    for (_, key, value) in sent {
        let mut next = possible.last().unwrap().clone();
        match value {
            Some(value) => next.insert(key, value),
            None => next.remove(&key),
        };
        possible.push(next);
    }
    assert!(possible.contains(&found), "{found:?} is none of {possible:?}");
    model.state = found;
}

async fn step(run: &mut Run, model: &RefCell<Model>, op: Op) {
    let log = &run.log;
    match op {
        Op::Append(queue, bytes, records) => append(log, model, queue, bytes, records),
        Op::Unit(one, two) => unit(log, &mut model.borrow_mut(), one, two),
        Op::State(key, value) => state(log, &mut model.borrow_mut(), key, value),
        Op::Wait => wait(run, model).await,
        Op::Fill(bytes) => {
            for _ in 0..bytes / 60_000 {
                append(&run.log, model, 0, 60_000, 1);
                wait(run, model).await;
            }
        }
        Op::Space(room) => {
            let used: usize = run.io.paths().iter().map(|path| run.io.content(path).unwrap().len()).sum();
            run.io.set_capacity(room.map(|room| used + room));
        }
        Op::Read(queue, at, bytes) => read(log, model, queue, at, bytes).await,
        Op::Time(queue, at) => {
            let bounds = log.bounds(QueueKey(1 + queue)).unwrap();
            let (start, end) = (bounds.start, bounds.durable_end);
            assert_eq!(log.offset_at_time(QueueKey(1 + queue), i64::MAX).await.unwrap(), end);
            let found = log.offset_at_time(QueueKey(1 + queue), i64::try_from(at).unwrap()).await.unwrap();
            let start_now = log.bounds(QueueKey(1 + queue)).unwrap().start;
            assert!((start..=start_now).contains(&found), "everything is later than 1970");
        }
        Op::Trim(queue, at) => trim(log, &mut model.borrow_mut(), queue, at),
        Op::Retain(most, at) => retain(log, model, most, at).await,
        Op::Pause(ms) => run.io.sleep(Duration::from_millis(ms)).await,
        Op::Restart => {
            // What was accepted finds its place.
            run.io.set_capacity(None);
            log.close().await.unwrap();
            model.borrow_mut().all_durable();
            run.log = open(run.io.clone()).await;
            compare(&run.log, model).await;
            model.borrow_mut().last = Ticket(0);
        }
        Op::PowerCut(_) | Op::Flip(_) => unreachable!("the caller does it"),
    }
}

async fn wait(run: &Run, model: &RefCell<Model>) {
    let last = model.borrow().last;
    // What was accepted before the disk ran full finds its place when there is space again.
    run.io.set_capacity(None);
    run.log.wait_durable(last).await.unwrap();
    model.borrow_mut().all_durable();
}

/// A bit flips in what the log left behind: it is noticed, or it does not matter.
fn flip(io: &MemoryIo, model: &Model, at: u32) {
    let machine = MemoryIo::new(1).with_dir(DIR);
    let paths = io.paths();
    for path in &paths {
        machine.put(path, io.content(path).unwrap());
    }
    // Of what was written, mostly.
    let path = &paths[at as usize % paths.len()];
    machine.damage(path, |bytes| {
        let used = bytes
            .chunks(4096)
            .rposition(|block| block.iter().any(|byte| *byte != 0))
            .map_or(1, |last| last + 1);
        let bits = (used * 4096).min(bytes.len()) * 8;
        if bits > 0 {
            let bit = bits * at as usize / 1_000_000;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    });
    let log = machine.clone();
    let found = machine.run(async move {
        let opened = CommitLog::open(log, DIR.into(), LogId(0), options(Hazards::default())).await;
        let (log, _) = opened.map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        for queue in 0..QUEUES {
            log.open_queue(QueueKey(1 + queue));
            let start = log.bounds(QueueKey(1 + queue)).unwrap().start;
            let all = try_read_all(&log, QueueKey(1 + queue), start, 150_000).await;
            found.push((start.0, all.map_err(|error| error.to_string())?));
        }
        Ok::<_, String>(found)
    });
    machine.end();
    if let Ok(found) = found.unwrap() {
        for (queue, (start, found)) in (0..).zip(found) {
            let (sure, most) = model.start(queue);
            assert!(
                (sure..=most).contains(&start),
                "queue {queue} begins at {start}, and not in {sure}..={most}"
            );
            let durable = model.durable.get(&queue).copied().unwrap_or_default();
            let known = model.from(queue, start);
            assert!(
                found.len() <= known.len()
                    && known.iter().map(|(body, _)| body).zip(&found).all(|(a, b)| a == b)
            );
            let end = usize::try_from(start).unwrap() + found.len();
            assert!(end >= durable, "{end} of {durable} in silence");
        }
    }
}

fn check(seed: u64, ops: &[Op]) {
    let mut io = MemoryIo::new(seed).with_dir("/data");
    let model = Rc::new(RefCell::new(Model::default()));
    let lives = ops.split_inclusive(|op| matches!(op, Op::PowerCut(_) | Op::Flip(_)));
    for life in lives {
        let life_end = life.last().cloned();
        let (life, kept, machine) = (life.to_vec(), Rc::clone(&model), io.clone());
        let cut = io
            .run(async move {
                let log = open(machine.clone()).await;
                compare(&log, &kept).await;
                kept.borrow_mut().last = Ticket(0);
                let mut run = Run { io: machine, log };
                for op in life {
                    match op {
                        Op::PowerCut(seed) => return Some(seed),
                        Op::Flip(_) => break,
                        op => step(&mut run, &kept, op).await,
                    }
                }
                run.io.set_capacity(None);
                run.log.close().await.unwrap();
                kept.borrow_mut().all_durable();
                None
            })
            .unwrap();
        if let Some(seed) = cut {
            io = io.after_power_cut(Survivors::Random(seed));
            io.set_capacity(None);
        } else if let Some(Op::Flip(at)) = life_end {
            flip(&io, &model.borrow(), at);
        }
    }
    io.end();
}

/// A quarter of the cases, so that they can run side by side.
fn quarter(lengths: std::ops::Range<usize>) {
    let cases = std::env::var("EQUEUE_MODEL_CASES").map_or(500, |cases| cases.parse().expect("a number")) / 4;
    let mut runner =
        TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let input = (any::<u64>(), prop::collection::vec(op(), lengths));
    let result = runner.run(&input, |(seed, ops)| {
        check(seed, &ops);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    eprintln!("model: {cases} cases");
}

#[test]
fn a_log_is_a_vec_per_queue_in_a_few_steps() {
    quarter(1..8);
}

#[test]
fn a_log_is_a_vec_per_queue_in_some_steps() {
    quarter(1..16);
}

#[test]
fn a_log_is_a_vec_per_queue_in_many_steps() {
    quarter(1..24);
}

#[test]
fn a_log_is_a_vec_per_queue_in_a_lot_of_steps() {
    quarter(1..48);
}

#[test]
fn a_segment_whose_end_is_on_its_way_stays_and_the_pass_says_so() {
    check(
        7_366_340_539_881_741_616,
        &[
            Op::Append(0, 12_068, 1),
            Op::Retain(1, None),
            Op::Unit(27_754, 25_179),
            Op::Fill(840_000),
            Op::Unit(537, 5_029),
            Op::Unit(11_785, 6_726),
            Op::Pause(100),
            Op::Append(0, 24_499, 3),
            Op::Time(0, 0),
            Op::Retain(1, None),
        ],
    );
}

#[test]
fn a_segment_that_begins_while_a_pass_warns_is_seen_by_it() {
    check(
        0,
        &[
            Op::Unit(13_233, 39_701),
            Op::Fill(300_000),
            Op::PowerCut(0),
            Op::Append(1, 0, 1),
            Op::Wait,
            Op::PowerCut(1_826_650_478_195_540),
            Op::Append(0, 1_936, 2),
            Op::Time(0, 0),
            Op::Append(0, 36, 3),
            Op::Append(0, 9_810, 1),
            Op::Append(0, 3_024, 2),
            Op::Flip(0),
            Op::Append(0, 4_657, 2),
            Op::Fill(960_000),
            Op::Append(0, 0, 1),
            Op::Retain(3, None),
        ],
    );
}
