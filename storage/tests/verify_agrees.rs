//! What `equeue log verify` finds and what a broker refuses: for every kind of damage the one tells of the other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::batch;
use common::oracle::{DIR, options, run, segments};
use equeue_record::{BROKER_PART_LEN, BrokerStamp, Offset, QueueKey, split_first, stamp};
use equeue_storage::format::{FLUSH_HEADER_LEN, FlushHeader, FlushKind, REPAIR_INTENT_FILE};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::MemoryIo;
use equeue_storage::log::{CommitLog, Hazards};
use equeue_storage::offline::{self, Damaged};
use equeue_storage::repair::{Act, Place, carry_out, plan};
use equeue_storage::retention::{NoAdvisor, RetentionPolicy};
use equeue_storage::{LogId, Position};

const QUEUES: u64 = 3;

/// A log of some segments whose oldest ones were retired; the last stop was orderly when `close` says so.
fn written(seed: u64, close: bool) -> MemoryIo {
    let io = MemoryIo::new(seed).with_dir("/data");
    run(&io, async move |io| {
        let opened = CommitLog::open(io.clone(), DIR.into(), LogId(0), options(Hazards::default())).await;
        let (log, _) = opened.unwrap();
        (1..=QUEUES).for_each(|queue| log.open_queue(QueueKey(queue)));
        for round in 0..6 {
            for n in 0..30 {
                let queue = QueueKey(1 + n % QUEUES);
                let appended = log.append(queue, batch(&[&vec![round; 40_000], b"second"])).unwrap();
                log.wait_durable(appended.ticket).await.unwrap();
            }
            io.sleep(Duration::from_millis(300)).await;
        }
        let policy = RetentionPolicy { segments_max: Some(4), age_ms: None, ..RetentionPolicy::default() };
        let retained = log.retain(&policy, &NoAdvisor).await.unwrap();
        assert!(retained.segments >= 2, "{retained:?}");
        if close {
            log.close().await.unwrap();
        }
    })
    .unwrap();
    io.after_kill()
}

/// A copy of the machine to try something on.
fn copy(io: &MemoryIo) -> MemoryIo {
    let copy = MemoryIo::new(1).with_dir(DIR);
    for path in io.paths() {
        copy.put(&path, io.content(&path).unwrap());
    }
    copy
}

/// What verifying finds in the files of the machine.
fn verified(io: &MemoryIo) -> Vec<Damaged> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log-0")).unwrap();
    for path in io.paths().into_iter().filter(|path| path.parent() == Some(Path::new(DIR))) {
        let name = path.strip_prefix("/data").unwrap();
        std::fs::write(dir.path().join(name), io.content(&path).unwrap()).unwrap();
    }
    offline::verify(dir.path()).unwrap().damaged
}

/// Where the replay began, or why the log is refused.
fn opened(io: &MemoryIo) -> Result<Position, String> {
    run(&copy(io), async move |io| {
        let opened = CommitLog::open(io, DIR.into(), LogId(0), options(Hazards::default())).await;
        let (log, recovered) = opened.map_err(|error| error.to_string())?;
        log.close().await.unwrap();
        Ok(recovered.from)
    })
    .unwrap()
}

/// Whether the log is refused, and what verifying finds; fails when that is nothing though it is.
fn both(io: &MemoryIo, what: &str) -> (Option<Position>, Vec<Damaged>) {
    let (opened, found) = (opened(io), verified(io));
    if let Err(words) = &opened {
        assert!(!found.is_empty(), "{what}: verify finds nothing, the broker says: {words}");
    }
    (opened.ok(), found)
}

/// Whether the log is refused; fails when verifying says something else.
fn agreed(io: &MemoryIo, what: &str) -> bool {
    let (opened, found) = both(io, what);
    // Opening does not look at what lies before the newest snapshot's segment.
    if let Some(from) = opened {
        assert!(found.iter().all(|damaged| damaged.position < from), "{what}: it opens, {found:?}");
    }
    opened.is_none()
}

struct Flush {
    path: PathBuf,
    at: usize,
    header: FlushHeader,
}

/// All flushes, in order.
fn flushes(io: &MemoryIo) -> Vec<Flush> {
    let mut flushes = Vec::new();
    for path in segments(io) {
        let (content, mut at) = (io.content(&path).unwrap(), 4096);
        while let Some(Ok(header)) = content.get(at..).map(FlushHeader::decode) {
            flushes.push(Flush { path: path.clone(), at, header });
            at += header.span as usize;
        }
    }
    flushes
}

/// Writes the body of a flush anew, and all headers from there on, as whoever wrote the log would have.
fn rewrite(io: &MemoryIo, from: usize, change: impl FnOnce(&mut [u8])) {
    let flushes = flushes(io);
    let first = &flushes[from];
    io.damage(&first.path, |bytes| {
        change(&mut bytes[first.at + FLUSH_HEADER_LEN..][..first.header.body_len as usize]);
    });
    let mut link = first.header.chain;
    for flush in &flushes[from..] {
        io.damage(&flush.path, |bytes| {
            let begin = flush.at + FLUSH_HEADER_LEN;
            let body_crc = crc32c::crc32c(&bytes[begin..begin + flush.header.body_len as usize]);
            let header = FlushHeader { chain: link, body_crc, ..flush.header };
            bytes[flush.at..begin].copy_from_slice(&header.encode());
            link = header.link();
        });
    }
}

/// Moves the offsets of the first batch of a flush.
fn shift(body: &mut [u8], by: u64) {
    let (header, _) = split_first(body).unwrap();
    let broker = BrokerStamp {
        base_offset: Offset(header.base_offset.0 + by),
        append_time_ms: header.append_time_ms,
        queue_key: header.queue_key,
        master_epoch: header.master_epoch,
    };
    stamp(body.first_chunk_mut::<BROKER_PART_LEN>().unwrap(), &broker);
}

#[test]
fn a_log_that_is_whole_is_sound_and_opens() {
    for (seed, close) in [(1, true), (2, false)] {
        let io = written(seed, close);
        assert!(opened(&io).is_ok() && verified(&io).is_empty(), "{:?}", verified(&io));
    }
}

#[test]
fn files_that_are_missing_ruined_or_too_many_are_told_of_by_both() {
    for (seed, close) in [(1, true), (2, false)] {
        let whole = written(seed, close);
        let paths = segments(&whole);
        assert!(paths.len() >= 4, "{paths:?}");
        for path in &paths {
            let io = copy(&whole);
            io.take(path);
            let is_refused = agreed(&io, &format!("without {}", path.display()));
            // The last one may be prepared only.
            assert!(is_refused || Some(path) == paths.last(), "{}", path.display());
            let io = copy(&whole);
            io.damage(path, |bytes| bytes[20] ^= 1);
            assert!(agreed(&io, &format!("header of {}", path.display())));
            let io = copy(&whole);
            io.damage(path, |bytes| bytes.truncate((1 << 20) - 4096));
            assert!(agreed(&io, &format!("the length of {}", path.display())));
            let other = paths.iter().find(|other| *other != path).unwrap();
            let io = copy(&whole);
            io.put(path, whole.content(other).unwrap());
            assert!(agreed(&io, &format!("another segment in the place of {}", path.display())));
        }
        let io = copy(&whole);
        for path in &paths[..3] {
            io.take(path);
        }
        assert!(agreed(&io, "without the three oldest"));
        let io = copy(&whole);
        io.put(Path::new(DIR).join(REPAIR_INTENT_FILE), vec![b'\n'; 4096]);
        assert!(agreed(&io, "with a repair that was begun"));
    }
}

#[test]
fn damaged_flushes_are_told_of_by_both() {
    for (seed, close) in [(1, true), (2, false)] {
        let whole = written(seed, close);
        let (mut refused, mut tried) = (0, 0);
        for (index, flush) in flushes(&whole).iter().enumerate() {
            // In the header, or in the body.
            let at = flush.at + if index % 2 == 0 { 20 } else { 140 };
            let io = copy(&whole);
            io.damage(&flush.path, |bytes| bytes[at] ^= 1);
            refused += u32::from(agreed(&io, &format!("flush {index}, {:?}", flush.header)));
            tried += 1;
        }
        assert!(refused >= 10 && tried - refused >= 10, "{refused} of {tried}");
    }
}

#[test]
fn offsets_that_do_not_follow_one_another_are_told_of_by_both() {
    let whole = written(1, true);
    let mut refused = 0;
    let all = flushes(&whole);
    for (index, flush) in all.iter().enumerate().filter(|(_, flush)| flush.header.kind == FlushKind::Data) {
        let body = &whole.content(&flush.path).unwrap()[flush.at + FLUSH_HEADER_LEN..];
        let queue = split_first(body).unwrap().0.queue_key;
        if queue == QueueKey::STATE || index % 3 != 0 {
            continue;
        }
        let io = copy(&whole);
        rewrite(&io, index, |body| shift(body, 5));
        let what = format!("flush {index} of {}, queue {queue}", all.len());
        // Opening does not know what came before the segment that it begins with; verifying does.
        let (opened, found) = both(&io, &what);
        refused += u32::from(opened.is_none());
        let is_inner = index > 20 && index + 20 < all.len();
        assert!(!found.is_empty() || !is_inner, "{what}: not noticed");
    }
    assert!(refused > 0);
}

#[test]
fn state_entries_that_nobody_knows_are_told_of_by_both() {
    let whole = written(1, true);
    let all = flushes(&whole);
    let last = all.iter().rposition(|flush| flush.header.kind == FlushKind::Data).unwrap();
    let io = copy(&whole);
    rewrite(&io, last, |body| body.fill(7));
    assert!(agreed(&io, "a body that is no batch"));
}

/// What a repair leaves is told of by both as well: sound, or not mended by this one alone.
#[test]
fn they_agree_on_what_a_repair_leaves() {
    let whole = written(2, false);
    let place = || Place { dir: DIR.into(), log: LogId(0) };
    let (mut sound, mut tried) = (0, 0);
    for (index, flush) in flushes(&whole).iter().enumerate().step_by(3) {
        let segment: u64 = flush.path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        for act in [Act::Quarantine(Position(segment)), Act::Cut(flush.header.position)] {
            let io = copy(&whole);
            io.damage(&flush.path, |bytes| bytes[flush.at + 140] ^= 1);
            let repaired = run(&io, async move |io| {
                let plan = plan(&io, &place(), act).await?;
                carry_out(&io, &plan).await
            });
            if repaired.unwrap().is_err() {
                continue;
            }
            let what = format!("flush {index}, {act:?}");
            sound += u32::from(!agreed(&io, &what));
            tried += 1;
            // It goes on, and stays so.
            let machine = copy(&io);
            let goes_on = run(&machine, async move |io| {
                let opened = CommitLog::open(io, DIR.into(), LogId(0), options(Hazards::default())).await;
                let Ok((log, _)) = opened else { return false };
                for queue in 1..=QUEUES {
                    log.open_queue(QueueKey(queue));
                    log.append(QueueKey(queue), batch(&[b"later"])).unwrap();
                }
                log.close().await.unwrap();
                true
            });
            assert!(!goes_on.unwrap() || verified(&machine).is_empty(), "{what}: {:?}", verified(&machine));
        }
    }
    assert!(sound > 40 && sound == tried, "{sound} of {tried}");
}
