//! Segments go when the policy says so and nobody needs them; a crash at any step of it is harmless.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::oracle::{DIR, options};
use common::{batch, bodies, read_all};
use equeue_record::{Offset, QueueKey};
use equeue_storage::LogId;
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{Call, CallKind, Fault, MemoryIo, Survivors};
use equeue_storage::log::{
    AppendError, AtomicPart, CommitLog, Hazards, LogOptions, OpenError, ReadError, Stays,
};
use equeue_storage::retention::{Leaving, NoAdvisor, RetentionAdvisor, RetentionPolicy};
use futures::future::LocalBoxFuture;

const QUEUES: u64 = 3;
const HOUR_MS: i64 = 3_600_000;

type Log = CommitLog<MemoryIo>;

fn keep(segments: usize) -> RetentionPolicy {
    RetentionPolicy { segments_max: Some(segments), age_ms: None, ..RetentionPolicy::default() }
}

fn by_age(hours: i64) -> RetentionPolicy {
    RetentionPolicy { age_ms: Some(hours * HOUR_MS), ..RetentionPolicy::default() }
}

async fn try_open(io: &MemoryIo, options: LogOptions) -> Result<Log, OpenError> {
    let (log, _) = CommitLog::open(io.clone(), DIR.into(), LogId(0), options).await?;
    (1..=QUEUES).for_each(|queue| log.open_queue(QueueKey(queue)));
    Ok(log)
}

async fn open(io: &MemoryIo) -> Log {
    try_open(io, options(Hazards::default())).await.unwrap()
}

/// What was acknowledged, by queue and offset.
type Stored = Rc<RefCell<BTreeMap<(u64, u64), Vec<u8>>>>;

/// Appends about 800 KB, waiting for each message.
async fn fill(log: &Log, stored: &Stored, seed: u8) {
    for n in 0..20_u64 {
        let queue = 1 + n % QUEUES;
        let body = vec![seed.wrapping_add(u8::try_from(n).unwrap()); 40_000];
        let appended = log.append(QueueKey(queue), batch(&[&body])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
        stored.borrow_mut().insert((queue, appended.base_offset.0), body);
    }
}

/// All that is not retired is there, and nothing was retired that must not be.
async fn check(log: &Log, stored: &Stored, allowed: &BTreeMap<u64, u64>) {
    for queue in 1..=QUEUES {
        let key = QueueKey(queue);
        let bounds = log.bounds(key).unwrap();
        let most = allowed.get(&queue).copied().unwrap_or_default();
        assert!(bounds.start.0 <= most, "queue {queue} begins at {}, allowed was {most}", bounds.start);
        let found = read_all(log, key, bounds.start, 150_000).await;
        for ((_, offset), body) in stored.borrow().range((queue, bounds.start.0)..(queue + 1, 0)) {
            let index = usize::try_from(offset - bounds.start.0).unwrap();
            assert!(found.get(index) == Some(body), "queue {queue} from {}, offset {offset}", bounds.start);
        }
        if bounds.start > Offset(0) {
            let before = Offset(bounds.start.0 - 1);
            let error = log.read(key, before, 1).await.unwrap_err();
            let (start, end) = (bounds.start, bounds.durable_end);
            let told =
                matches!(&error, ReadError::OutOfRange { start: s, end: e, .. } if (*s, *e) == (start, end));
            assert!(told, "{error}");
        }
    }
}

fn files(io: &MemoryIo, extension: &str) -> Vec<String> {
    let names = io.paths().into_iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name.ends_with(extension)).collect()
}

/// Notes what it is asked, and lets it go.
#[derive(Default)]
struct Notes {
    /// The furthest start that each queue may have.
    allowed: Rc<RefCell<BTreeMap<u64, u64>>>,
    unconsumed: Cell<Option<Offset>>,
    asked: Cell<u32>,
}

impl RetentionAdvisor for Notes {
    fn first_unconsumed(&self, queue: QueueKey) -> Option<Offset> {
        self.unconsumed.get().filter(|_| queue == QueueKey(2))
    }

    fn carry_forward<'a>(&'a self, leaving: &'a [Leaving]) -> LocalBoxFuture<'a, Result<(), AppendError>> {
        self.asked.set(self.asked.get() + 1);
        for one in leaving {
            let mut allowed = self.allowed.borrow_mut();
            let most = allowed.entry(one.queue.0).or_default();
            *most = one.before.0.max(*most);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn the_oldest_segments_go_whole_and_the_rest_stays() {
    let io = MemoryIo::new(1).with_dir("/data");
    io.run({
        let io = io.clone();
        async move {
            let (stored, notes) = (Stored::default(), Notes::default());
            let log = open(&io).await;
            for round in 0..6 {
                fill(&log, &stored, round * 20).await;
            }
            io.sleep(Duration::from_secs(1)).await;
            let before = files(&io, ".seg");
            let done = log.retain(&keep(3), &notes).await.unwrap();
            assert_eq!(done.stays, None);
            assert!(done.segments >= 2, "{done:?}, {before:?}");
            assert_eq!(u64::from(notes.asked.get()), done.segments);
            let stats = log.stats();
            assert_eq!((stats.segments_retired, stats.segments_kept), (done.segments, 3));
            assert!(stats.snapshots >= 2, "two complete ones begin behind what goes");
            let after = files(&io, ".seg");
            assert!(after.iter().all(|name| before.contains(name) || *name > *before.last().unwrap()));
            assert!(after.first() > before.first());
            assert!(
                files(&io, ".idx").iter().all(|name| name[..20] >= after[0][..20]),
                "no index without its segment"
            );
            let allowed = notes.allowed.borrow().clone();
            check(&log, &stored, &allowed).await;
            assert!(log.bounds(QueueKey(1)).unwrap().start > Offset(0));
            log.close().await.unwrap();
            let log = open(&io).await;
            check(&log, &stored, &allowed).await;
            assert!(log.bounds(QueueKey(1)).unwrap().start > Offset(0));
            fill(&log, &stored, 7).await;
            log.close().await.unwrap();
        }
    })
    .unwrap();
}

/// Fills, retires, trims, fills again, so that a retired segment is used again, and retires once more.
async fn life(io: &MemoryIo, stored: &Stored, notes: &Notes, rounds: u8) {
    let log = open(io).await;
    for round in 0..rounds {
        fill(&log, stored, round * 20).await;
        fill(&log, stored, round * 20 + 7).await;
        let start = {
            let end = log.bounds(QueueKey(3)).unwrap().durable_end;
            let start = Offset(end.0 - 2);
            notes.allowed.borrow_mut().insert(3, start.0);
            start
        };
        let ticket = log.trim(&[(QueueKey(3), start)]).unwrap();
        log.wait_durable(ticket).await.unwrap();
        assert_eq!(log.bounds(QueueKey(3)).unwrap().start, start);
        // The index of what was sealed last may not be there yet.
        io.sleep(Duration::from_millis(300)).await;
        log.retain(&keep(2), notes).await.unwrap();
    }
    log.close().await.unwrap();
}

#[test]
fn a_crash_at_any_call_of_retiring_recycling_and_trimming_is_harmless() {
    let begun = |seed: u64| {
        let io = MemoryIo::new(seed).with_dir("/data");
        let (stored, notes) = (Stored::default(), Rc::new(Notes::default()));
        (io, stored, notes)
    };
    let mut cuts = 0;
    for seed in 0..2 {
        let (io, stored, notes) = begun(seed);
        io.run({
            let (io, stored, notes) = (io.clone(), Rc::clone(&stored), Rc::clone(&notes));
            async move {
                life(&io, &stored, &notes, 3).await;
            }
        })
        .unwrap();
        let calls = io.calls();
        // Every call that changes names or blocks, and every seventh of the others.
        let cut_at = Rc::new(RefCell::new(Vec::new()));
        {
            let (io, stored, notes) = begun(seed);
            let seen = Rc::clone(&cut_at);
            io.fault_when(move |call: &Call| {
                let renames = matches!(
                    call.kind,
                    CallKind::Rename | CallKind::Remove | CallKind::SyncDir | CallKind::GiveBack
                );
                if renames || call.number % 7 == seed {
                    seen.borrow_mut().push(call.number);
                }
                None
            });
            let machine = io.clone();
            io.run(async move { life(&machine, &stored, &notes, 3).await }).unwrap();
            assert_eq!(io.calls(), calls, "the same seed gives the same calls");
        }
        for cut in cut_at.take() {
            for survivors in [Survivors::Synced, Survivors::Random(cut)] {
                let (io, stored, notes) = begun(seed);
                io.fault_at(cut, Fault::PowerCut);
                let ended = io.run({
                    let (io, stored, notes) = (io.clone(), Rc::clone(&stored), Rc::clone(&notes));
                    async move { life(&io, &stored, &notes, 3).await }
                });
                assert!(ended.is_err());
                cuts += 1;
                let after = io.after_power_cut(survivors);
                let machine = after.clone();
                after
                    .run(async move {
                        let log =
                            try_open(&machine, options(Hazards::default())).await.unwrap_or_else(|error| {
                                panic!("seed {seed}, call {cut}, {survivors:?}: {error}")
                            });
                        let allowed = notes.allowed.borrow().clone();
                        check(&log, &stored, &allowed).await;
                        // And it goes on from there.
                        fill(&log, &stored, 99).await;
                        machine.sleep(Duration::from_millis(300)).await;
                        log.retain(&keep(2), &*notes).await.unwrap();
                        let allowed = notes.allowed.borrow().clone();
                        check(&log, &stored, &allowed).await;
                        let (first, _) = log.positions();
                        assert_eq!(
                            files(&machine, ".seg")[0],
                            format!("{:020}.seg", first.0),
                            "nothing is left behind"
                        );
                        assert!(
                            files(&machine, ".idx")
                                .iter()
                                .all(|name| *name >= format!("{:020}.idx", first.0))
                        );
                        log.close().await.unwrap();
                    })
                    .unwrap();
            }
        }
    }
    eprintln!("{cuts} power cuts");
    assert!(cuts > 200);
}

#[test]
fn retired_segments_are_used_again_and_what_they_held_means_nothing() {
    for seed in 0..4 {
        let io = MemoryIo::new(seed).with_dir("/data");
        let stored = Stored::default();
        let notes = Rc::new(Notes::default());
        io.run({
            let (io, stored, notes) = (io.clone(), Rc::clone(&stored), Rc::clone(&notes));
            async move {
                let log = open(&io).await;
                for round in 0..10 {
                    fill(&log, &stored, round * 20).await;
                    io.sleep(Duration::from_millis(300)).await;
                    log.retain(&keep(2), &*notes).await.unwrap();
                }
                let stats = log.stats();
                assert!(stats.segments_recycled >= 4, "{stats:?}");
                assert!(stats.stored_bytes <= 5 << 20, "{stats:?}");
                // Into the middle of a segment full of old bytes.
                fill(&log, &stored, 200).await;
            }
        })
        .unwrap();
        let io = io.after_power_cut(Survivors::Random(seed));
        let machine = io.clone();
        io.run(async move {
            let log = open(&machine).await;
            let allowed = notes.allowed.borrow().clone();
            check(&log, &stored, &allowed).await;
            log.close().await.unwrap();
            // In order, in a segment that was used before: the old bytes behind CLEAN are not a torn tail.
            let (log, found) =
                CommitLog::open(machine.clone(), DIR.into(), LogId(0), options(Hazards::default()))
                    .await
                    .unwrap();
            assert!(found.clean, "{found:?}");
            (1..=QUEUES).for_each(|queue| log.open_queue(QueueKey(queue)));
            check(&log, &stored, &allowed).await;
        })
        .unwrap();
    }
}

#[test]
fn a_full_log_is_written_into_used_segments_only() {
    let bytes_max = RetentionPolicy { age_ms: None, bytes_max: Some(8 << 20), ..RetentionPolicy::default() };
    for policy in [bytes_max, keep(4)] {
        let io = MemoryIo::new(5).with_dir("/data");
        let machine = io.clone();
        io.run(async move {
            let (stored, log) = (Stored::default(), open(&machine).await);
            let (mut begun, mut before) = (0, None);
            for round in 0..240 {
                fill(&log, &stored, round).await;
                // As a broker does: each time that a segment is used up.
                let rolled = log.stats().segments;
                if std::mem::replace(&mut begun, rolled) != rolled {
                    machine.sleep(Duration::from_millis(300)).await;
                    log.retain(&policy, &NoAdvisor).await.unwrap();
                }
                let stats = log.stats();
                assert!(policy.bytes_max.is_none_or(|most| stats.stored_bytes <= most), "{stats:?}");
                if round == 120 {
                    before = Some((stats.segments, stats.segments_recycled));
                }
            }
            let (segments, recycled) = before.unwrap();
            let stats = log.stats();
            assert!(stats.segments >= segments + 10, "{stats:?}");
            assert_eq!(stats.segments_recycled - recycled, stats.segments - segments, "{policy:?} {stats:?}");
            assert_eq!(log.rolled(0).await, stats.segments);
            log.close().await.unwrap();
        })
        .unwrap();
    }
}

#[test]
fn what_a_group_has_not_consumed_stays_when_the_policy_says_so_and_is_counted_otherwise() {
    let io = MemoryIo::new(3).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let (stored, notes) = (Stored::default(), Notes::default());
        let log = open(&io).await;
        for round in 0..6 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        let careful = RetentionPolicy {
            delete_unconsumed: false,
            bytes_max: Some(1),
            disk_free_min: u64::MAX,
            ..keep(2)
        };
        notes.unconsumed.set(Some(Offset(0)));
        let done = log.retain(&careful, &notes).await.unwrap();
        assert_eq!((done.segments, done.stays), (0, Some(Stays::Unconsumed(QueueKey(2)))), "it beats all");
        assert!(log.stats().retention_blocked);
        assert_eq!(log.bounds(QueueKey(2)).unwrap().start, Offset(0));

        // Consumed in part: what lies before may go.
        notes.unconsumed.set(Some(Offset(20)));
        let done =
            log.retain(&RetentionPolicy { disk_free_min: 0, ..careful.clone() }, &notes).await.unwrap();
        assert!(done.segments > 0 && done.stays == Some(Stays::Unconsumed(QueueKey(2))), "{done:?}");
        let start = log.bounds(QueueKey(2)).unwrap().start;
        assert!(start > Offset(0) && start <= Offset(20));
        assert_eq!(log.stats().unconsumed_deleted, 0);

        let done = log.retain(&keep(2), &notes).await.unwrap();
        assert!(done.segments > 0 && !log.stats().retention_blocked, "{done:?}");
        let start = log.bounds(QueueKey(2)).unwrap().start;
        assert_eq!(log.stats().unconsumed_deleted, start.0 - 20);
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn segments_go_by_age_but_not_when_the_clock_jumped() {
    let io = MemoryIo::new(4).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let (stored, notes) = (Stored::default(), Notes::default());
        let log = open(&io).await;
        for round in 0..4 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.retain(&by_age(48), &notes).await.unwrap().segments, 0);
        io.jump_wall_ms(72 * HOUR_MS);
        assert_eq!(log.retain(&by_age(48), &notes).await.unwrap().segments, 0, "the clock is not believed");
        assert!(log.stats().clock_jumped);
        io.jump_wall_ms(-72 * HOUR_MS);
        assert_eq!(log.retain(&by_age(48), &notes).await.unwrap().segments, 0);
        assert!(!log.stats().clock_jumped, "it was set right");

        // A backlog is warned of before it goes.
        notes.unconsumed.set(Some(Offset(0)));
        io.sleep(Duration::from_hours(45)).await;
        assert_eq!(log.retain(&by_age(48), &notes).await.unwrap().segments, 0);
        let near = log.stats().unconsumed_near;
        assert!(near > 0);
        log.retain(&by_age(48), &notes).await.unwrap();
        assert_eq!(log.stats().unconsumed_near, near, "once a segment");

        io.sleep(Duration::from_hours(4)).await;
        let done = log.retain(&by_age(48), &notes).await.unwrap();
        assert!(done.segments >= 2 && log.stats().unconsumed_deleted > 0, "{done:?}");
        assert_eq!(log.stats().segments_kept, 1, "never the active one");
        log.close().await.unwrap();

        // After a restart times are known from what the log holds.
        let log = open(&io).await;
        for round in 0..4 {
            fill(&log, &stored, round).await;
        }
        log.close().await.unwrap();
        let log = open(&io).await;
        io.sleep(Duration::from_hours(47)).await;
        assert_eq!(log.retain(&by_age(48), &notes).await.unwrap().segments, 0);
        io.sleep(Duration::from_hours(2)).await;
        let done = log.retain(&by_age(48), &notes).await.unwrap();
        assert!(done.segments >= 3 && log.stats().segments_kept == 1, "{done:?}");
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_clock_that_is_far_ahead_at_the_start_is_given_time() {
    let io = MemoryIo::new(11).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let (io, stored) = (machine, Stored::default());
        let log = open(&io).await;
        for round in 0..4 {
            fill(&log, &stored, round).await;
        }
        log.close().await.unwrap();
        io.jump_wall_ms(10_000 * HOUR_MS);
        let log = open(&io).await;
        io.sleep(Duration::from_secs(1)).await;
        assert_eq!(log.retain(&by_age(48), &NoAdvisor).await.unwrap().segments, 0);
        assert_eq!(log.now_for_age(HOUR_MS), None);
        fill(&log, &stored, 4).await;
        assert_eq!(
            log.retain(&by_age(48), &NoAdvisor).await.unwrap().segments,
            0,
            "new messages prove nothing"
        );
        assert_eq!(log.now_for_age(HOUR_MS), None);
        io.sleep(Duration::from_mins(11)).await;
        assert_eq!(log.now_for_age(HOUR_MS), Some(io.wall_ms()));
        assert!(log.retain(&by_age(48), &NoAdvisor).await.unwrap().segments > 0, "it was meant");
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_jump_is_seen_by_whoever_asks_first() {
    let io = MemoryIo::new(12).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let (io, stored) = (machine, Stored::default());
        let log = open(&io).await;
        fill(&log, &stored, 0).await;
        assert_eq!(log.now_for_age(HOUR_MS), Some(io.wall_ms()));
        io.jump_wall_ms(72 * HOUR_MS);
        assert_eq!(log.now_for_age(HOUR_MS), None, "before any pass");
        io.jump_wall_ms(-72 * HOUR_MS);
        assert_eq!(log.now_for_age(HOUR_MS), Some(io.wall_ms()));
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_backlog_is_warned_of_before_there_are_too_many_segments() {
    let io = MemoryIo::new(13).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let (stored, notes) = (Stored::default(), Notes::default());
        notes.unconsumed.set(Some(Offset(0)));
        let log = open(&machine).await;
        while log.stats().segments_kept < 4 {
            fill(&log, &stored, 0).await;
        }
        machine.sleep(Duration::from_secs(1)).await;
        let kept = log.stats().segments_kept;
        assert_eq!(log.retain(&keep(kept), &notes).await.unwrap().segments, 0);
        let near = log.stats().unconsumed_near;
        assert!(near > 0 && log.stats().unconsumed_deleted == 0);
        log.retain(&keep(kept), &notes).await.unwrap();
        assert_eq!(log.stats().unconsumed_near, near, "once a segment");
        log.close().await.unwrap();
    })
    .unwrap();
}

/// Appends again whatever goes, as long as it may.
struct Carrier {
    log: Log,
    carried: Cell<u64>,
}

impl RetentionAdvisor for Carrier {
    fn first_unconsumed(&self, _: QueueKey) -> Option<Offset> {
        None
    }

    fn carry_forward<'a>(&'a self, leaving: &'a [Leaving]) -> LocalBoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            for one in leaving {
                let start = self.log.bounds(one.queue).unwrap().start;
                for _ in start.0..one.before.0 {
                    let appended = self.log.append(one.queue, batch(&[&vec![9; 40_000]]))?;
                    self.log.wait_durable(appended.ticket).await?;
                    self.carried.set(self.carried.get() + 1);
                }
            }
            Ok(())
        })
    }
}

#[test]
fn a_pass_does_not_follow_what_it_carries_forward() {
    let io = MemoryIo::new(12).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let (io, stored) = (machine, Stored::default());
        let log = open(&io).await;
        for round in 0..4 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        let carrier = Carrier { log: log.clone(), carried: Cell::new(0) };
        let segments = log.stats().segments_kept as u64;
        let done = log.retain(&keep(1), &carrier).await.unwrap();
        assert!(done.segments > 0 && done.segments < segments, "{done:?} of {segments}");
        assert!(carrier.carried.get() <= 80, "each message once");
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_full_disk_frees_itself_where_the_policy_says_so() {
    let io = MemoryIo::new(5).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let stored = Stored::default();
        let log = open(&io).await;
        for round in 0..3 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        let used: usize = io.paths().iter().map(|path| io.content(path).unwrap().len()).sum();
        io.set_capacity(Some(used + 4096));
        loop {
            match log.append(QueueKey(1), batch(&[&vec![1; 50_000]])) {
                Ok(appended) => log.wait_durable(appended.ticket).await.unwrap(),
                Err(error) => break assert_eq!(error, AppendError::DiskFull),
            }
        }
        // Commits go on as long as they can, and leave room for what frees space.
        let state = || vec![AtomicPart::State { key: "k".into(), value: Some(vec![1; 10_000].into()) }];
        while let Ok(ticket) = log.append_atomic(state()) {
            log.wait_durable(ticket).await.unwrap();
        }
        assert_eq!(log.retain(&RetentionPolicy::default(), &NoAdvisor).await.unwrap().segments, 0, "not old");
        let low = RetentionPolicy { disk_free_min: 1, ..RetentionPolicy::default() };
        let done = log.retain(&low, &NoAdvisor).await.unwrap();
        assert!(done.segments > 0, "{done:?}");
        io.sleep(Duration::from_secs(3)).await;
        assert!(!log.stats().disk_full, "it ends by itself");
        let appended = log.append(QueueKey(1), batch(&[b"again"])).unwrap();
        log.wait_durable(appended.ticket).await.unwrap();
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_reader_in_the_middle_of_what_goes_finishes_or_is_told() {
    let io = MemoryIo::new(6).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let (stored, done) = (Stored::default(), Rc::new(Cell::new(0_u32)));
        let log = open(&io).await;
        for round in 0..8 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        let end = log.bounds(QueueKey(1)).unwrap().durable_end.0;
        for from in 0..end {
            let time = log.clone();
            let (log, stored, done) = (log.clone(), Rc::clone(&stored), Rc::clone(&done));
            io.spawn(async move {
                match log.read(QueueKey(1), Offset(from), 90_000).await {
                    Ok(answer) => {
                        for (offset, body) in (from..).zip(bodies(&answer, Offset(from))) {
                            assert_eq!(stored.borrow()[&(1, offset)], body);
                        }
                    }
                    Err(ReadError::OutOfRange { start, .. }) => assert!(start.0 > from),
                    Err(error) => panic!("offset {from}: {error}"),
                }
                done.set(done.get() + 1);
            });
            io.spawn(async move {
                time.offset_at_time(QueueKey(1), 0).await.unwrap();
            });
        }
        log.retain(&keep(1), &NoAdvisor).await.unwrap();
        fill(&log, &stored, 50).await;
        io.sleep(Duration::from_secs(1)).await;
        assert_eq!(u64::from(done.get()), end);
        log.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn the_oldest_segment_cannot_be_missing_unnoticed() {
    let io = MemoryIo::new(7).with_dir("/data");
    let machine = io.clone();
    io.run(async move {
        let io = machine;
        let stored = Stored::default();
        let log = open(&io).await;
        for round in 0..5 {
            fill(&log, &stored, round).await;
        }
        io.sleep(Duration::from_secs(1)).await;
        log.retain(&keep(3), &NoAdvisor).await.unwrap();
        log.close().await.unwrap();
        let oldest = files(&io, ".seg")[0].clone();
        io.take(format!("{DIR}/{oldest}"));
        let refused = try_open(&io, options(Hazards::default())).await.map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("is missing"), "{refused}");
    })
    .unwrap();
}

#[test]
fn removed_queues_are_forgotten_for_ever() {
    let io = MemoryIo::new(8).with_dir("/data");
    let stored = Stored::default();
    let machine = io.clone();
    io.run({
        let stored = Rc::clone(&stored);
        async move {
            let log = open(&machine).await;
            fill(&log, &stored, 1).await;
            // In one flush with its last message.
            log.append(QueueKey(2), batch(&[b"last"])).unwrap();
            let ticket = log.remove_queues(&[QueueKey(2), QueueKey(77)]).unwrap();
            assert!(matches!(log.append(QueueKey(2), batch(&[b"x"])), Err(AppendError::NoQueue { .. })));
            log.wait_durable(ticket).await.unwrap();
            assert_eq!((log.bounds(QueueKey(2)), log.stats().queues), (None, 2));
            stored.borrow_mut().retain(|(queue, _), _| *queue != 2);
            for round in 0..3 {
                for n in 0..20_u8 {
                    let body = vec![n.wrapping_add(round); 40_000];
                    let appended = log.append(QueueKey(1), batch(&[&body])).unwrap();
                    log.wait_durable(appended.ticket).await.unwrap();
                    stored.borrow_mut().insert((1, appended.base_offset.0), body);
                }
            }
        }
    })
    .unwrap();
    for survivors in [Survivors::Synced, Survivors::All] {
        // The first machine is as it was: what it left is looked at twice.
        let after = io.after_power_cut(survivors);
        let machine = after.clone();
        let stored = Rc::clone(&stored);
        after
            .run(async move {
                let (log, _) = CommitLog::open(machine, DIR.into(), LogId(0), options(Hazards::default()))
                    .await
                    .unwrap();
                assert_eq!(log.stats().queues, 2, "it is not known any more");
                (1..=QUEUES).filter(|queue| *queue != 2).for_each(|queue| log.open_queue(QueueKey(queue)));
                for queue in [1, 3] {
                    let found = read_all(&log, QueueKey(queue), Offset(0), 1 << 20).await;
                    let expected: Vec<_> = stored
                        .borrow()
                        .range((queue, 0)..(queue + 1, 0))
                        .map(|(_, body)| body.clone())
                        .collect();
                    assert_eq!(found, expected);
                }
            })
            .unwrap();
    }
}
