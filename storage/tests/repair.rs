//! A log that refuses to open opens after the operator's repair; only what was damaged or cut is gone, nothing is
//! deleted, no offset is given twice, and a crash anywhere in the repair is harmless.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use common::oracle::{Client, DIR, Shared, forget_waiting, missing, open, promised_end, run, segments};
use equeue_record::{QueueKey, split_first};
use equeue_storage::format::{FlushHeader, FlushKind};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{Fault, MemoryIo, Survivors};
use equeue_storage::log::Hazards;
use equeue_storage::repair::{Act, Place, Plan, RepairError, carry_out, finish, plan};
use equeue_storage::retention::{NoAdvisor, RetentionPolicy};
use equeue_storage::{LogId, Position};

fn place() -> Place {
    Place { dir: DIR.into(), log: LogId(0) }
}

/// A log of some segments; with a crash in the middle when `cut` says so.
fn written(seed: u64, crash: bool) -> (MemoryIo, Shared) {
    let mut io = MemoryIo::new(seed).with_dir("/data");
    let journal = Shared::default();
    for life in 0..2 {
        let kept = Rc::clone(&journal);
        run(&io, async move |io| {
            let client = Client::new(open(&io, Hazards::default()).await.unwrap(), &kept);
            client.work(&io, 12, 12 * life).await.unwrap();
            if life == 1 || !crash {
                client.log.close().await.unwrap();
            }
            client.note();
        })
        .unwrap();
        forget_waiting(&journal);
        io = io.after_power_cut(Survivors::Synced);
    }
    (io, journal)
}

/// A whole flush in a file: its header, the bytes in the file, and the records of queues in it.
struct Flush {
    path: PathBuf,
    header: FlushHeader,
    at: usize,
    records: BTreeSet<(u64, u64)>,
}

fn flushes(io: &MemoryIo) -> Vec<Flush> {
    let mut flushes = Vec::new();
    for path in segments(io) {
        if path.starts_with(Path::new(DIR).join("lost+found")) {
            continue;
        }
        let content = io.content(&path).unwrap();
        let mut at = 4096;
        while at < content.len()
            && let Ok(header) = FlushHeader::decode(&content[at..])
        {
            let mut records = BTreeSet::new();
            let mut rest = &content[at + 128..at + 128 + header.body_len as usize];
            while header.kind == FlushKind::Data && !rest.is_empty() {
                let (batch, len) = split_first(rest).unwrap();
                if batch.queue_key != QueueKey::STATE {
                    let offsets = batch.base_offset.0..batch.next_offset().0;
                    records.extend(offsets.map(|offset| (batch.queue_key.0, offset)));
                }
                rest = &rest[len..];
            }
            flushes.push(Flush { path: path.clone(), header, at, records });
            at += header.span as usize;
        }
    }
    flushes
}

async fn opens(io: &MemoryIo) -> Result<(), String> {
    let log = open(io, Hazards::default()).await?;
    log.close().await.map_err(|error| error.to_string())
}

/// Every read after a repair: gives what is missing, and goes on working.
fn after_repair(io: &MemoryIo, journal: &Shared) -> Result<BTreeSet<(u64, u64)>, String> {
    let kept = Rc::clone(journal);
    run(io, async move |io| {
        let log = open(&io, Hazards::default()).await?;
        let gone = missing(&log, &kept).await?;
        for queue in 1..=3 {
            let end = log.bounds(QueueKey(queue)).unwrap().end.0;
            let known = promised_end(&kept, queue);
            if end < known {
                return Err(format!("offsets {end}..{known} of queue {queue} would be given twice"));
            }
        }
        // Goes on, over a roll and a restart.
        let client = Client::new(log, &kept);
        for _ in 0..30 {
            let ticket = client.send(1, 60_000).map_err(|error| error.to_string())?;
            client.send(3, 10).map_err(|error| error.to_string())?;
            client.log.wait_durable(ticket).await.map_err(|error| error.to_string())?;
            client.note();
        }
        client.log.close().await.map_err(|error| error.to_string())?;
        client.note();
        forget_waiting(&kept);
        let log = open(&io, Hazards::default()).await?;
        let again = missing(&log, &kept).await?;
        log.close().await.map_err(|error| error.to_string())?;
        if again == gone { Ok(gone) } else { Err(format!("missing were {gone:?}, then {again:?}")) }
    })
    .map_err(|_| "power cut without a fault".to_owned())?
}

fn repair(io: &MemoryIo, act: Act) -> Result<Plan, RepairError> {
    run(io, async move |io| {
        let plan = plan(&io, &place(), act).await?;
        carry_out(&io, &plan).await?;
        Ok(plan)
    })
    .unwrap()
}

/// The position of a segment file.
fn position(path: &Path) -> Position {
    Position(path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
}

fn refused(io: &MemoryIo) -> Option<String> {
    run(io, async move |io| opens(&io).await.err()).unwrap()
}

/// A copy of the machine to try something on.
fn copy(io: &MemoryIo) -> MemoryIo {
    let copy = MemoryIo::new(1).with_dir(DIR);
    for path in io.paths() {
        copy.put(&path, io.content(&path).unwrap());
    }
    copy
}

fn journal_of(seed: u64, crash: bool) -> Shared {
    written(seed, crash).1
}

#[test]
fn each_flush_can_be_lost_and_nothing_else_is() {
    let mut repaired = 0;
    for (seed, crash) in [(1, false), (2, true)] {
        let (whole, _) = written(seed, crash);
        for (index, flush) in flushes(&whole).iter().enumerate() {
            // Its header, or its body; both in turn.
            for at in [flush.at + if index % 2 == 0 { 20 } else { 128 + 3 }] {
                let io = copy(&whole);
                io.damage(&flush.path, |bytes| bytes[at] ^= 1);
                let original = io.content(&flush.path).unwrap();
                let words = refused(&copy(&io));
                let segment = position(&flush.path);
                let command = format!("equeue log repair /data --log 0 --quarantine {segment}");
                assert!(words.as_ref().is_none_or(|words| words.contains(&command)), "{words:?}");
                let plan = match repair(&io, Act::Quarantine(segment)) {
                    // Nothing tells of the last flush.
                    Err(RepairError::Nothing(_)) if words.is_none() => continue,
                    other => {
                        other.unwrap_or_else(|error| panic!("flush {index}, byte {at}: {error} ({words:?})"))
                    }
                };
                let words = words.unwrap_or_default();
                let journal = journal_of(seed, crash);
                let gone = after_repair(&io, &journal).unwrap_or_else(|error| {
                    panic!(
                        "seed {seed}, flush {index} ({:?}), byte {at}: {error}, {plan:?} ({words})",
                        flush.header
                    )
                });
                assert!(gone.is_subset(&flush.records), "{gone:?} of {:?}", flush.records);
                let kept = io.paths().into_iter().find(|path| {
                    path.to_str().is_some_and(|text| text.contains("lost+found"))
                        && path.extension().is_some_and(|extension| extension == "seg")
                });
                assert_eq!(io.content(kept.unwrap()).unwrap(), original, "what is set aside is as it was");
                repaired += 1;
            }
        }
    }
    eprintln!("{repaired} repairs");
    assert!(repaired > 60, "{repaired} repairs");
}

#[test]
fn a_log_can_be_cut_at_each_flush() {
    for (seed, crash) in [(1, false), (2, true)] {
        let (whole, _) = written(seed, crash);
        let all = flushes(&whole);
        let mut cuts = 0;
        for (index, flush) in all.iter().enumerate() {
            let io = copy(&whole);
            let plan = match repair(&io, Act::Cut(flush.header.position)) {
                Ok(plan) => plan,
                Err(error) => panic!("flush {index}: {error}"),
            };
            let behind: BTreeSet<_> = all[index..].iter().flat_map(|flush| flush.records.clone()).collect();
            assert_eq!(plan.loss.messages, behind.len() as u64);
            let journal = journal_of(seed, crash);
            let gone = after_repair(&io, &journal)
                .unwrap_or_else(|error| panic!("seed {seed}, cut at flush {index}: {error}, {plan:?}"));
            assert!(
                gone.is_subset(&behind) && behind.is_empty() == gone.is_empty(),
                "{gone:?} of {behind:?}"
            );
            cuts += 1;
        }
        assert!(cuts > 40, "{cuts}");
    }
}

/// A repair that is interrupted at any call, twice, then finished or begun anew.
#[test]
fn a_crash_anywhere_in_a_repair_is_harmless() {
    let (whole, _) = written(2, true);
    let all = flushes(&whole);
    // One that is read when the log is opened.
    let middle = all.iter().rfind(|flush| {
        let io = copy(&whole);
        io.damage(&flush.path, |bytes| bytes[flush.at + 140] ^= 1);
        !flush.records.is_empty() && refused(&io).is_some()
    });
    let middle = middle.unwrap();
    let segment = position(&middle.path);
    whole.damage(&middle.path, |bytes| bytes[middle.at + 140] ^= 1);
    assert!(refused(&copy(&whole)).is_some());
    let mut crashes = 0;
    for act in [Act::Quarantine(segment), Act::Cut(middle.header.position)] {
        // Every call of one, some of the other: most of them are the same.
        let step = if matches!(act, Act::Cut(_)) { 4 } else { 1 };
        for call in (0..).step_by(step) {
            let io = copy(&whole);
            let begun = io.calls();
            io.fault_at(begun + call, Fault::PowerCut);
            let ended = run(&io, async move |io| {
                let plan = plan(&io, &place(), act).await.unwrap();
                carry_out(&io, &plan).await.unwrap();
            })
            .is_ok();
            let what = if call % 3 == 0 { Survivors::Synced } else { Survivors::Random(call) };
            let mut io = io.after_power_cut(what);
            // The second crash, while it is finished.
            io.fault_at(call % 13, Fault::PowerCut);
            let _ = run(&io, async move |io| finish(&io, Path::new(DIR)).await.map(|_| ()).unwrap());
            io = io.after_power_cut(if call % 2 == 0 {
                Survivors::Synced
            } else {
                Survivors::Random(call + 1)
            });
            let words = refused(&copy(&io));
            let finished =
                run(&io, async move |io| finish(&io, Path::new(DIR)).await.unwrap().is_some()).unwrap();
            match words {
                Some(words) if words.contains("--finish") => assert!(finished, "{words}"),
                // Nothing was changed yet.
                Some(words) => {
                    assert!(!finished && words.contains("damaged at"), "call {call}: {words}");
                    repair(&io, act).unwrap();
                }
                None => assert!(!finished),
            }
            let journal = journal_of(2, true);
            let gone =
                after_repair(&io, &journal).unwrap_or_else(|error| panic!("{act:?}, call {call}: {error}"));
            if matches!(act, Act::Quarantine(_)) {
                assert!(gone.is_subset(&middle.records), "call {call}: {gone:?}");
            }
            let kept = io.paths().iter().filter(|path| path.starts_with("/data/log-0/lost+found")).count();
            assert!(kept >= 1, "call {call}: what was taken out is kept");
            assert!(
                !io.paths().iter().any(|path| path.to_str().unwrap().contains("repair")),
                "{:?}",
                io.paths()
            );
            crashes += 1;
            if ended {
                break;
            }
        }
    }
    eprintln!("{crashes} interrupted repairs");
    assert!(crashes > 40, "{crashes}");
}

#[test]
fn a_missing_segment_and_a_damaged_header_block() {
    for (seed, crash) in [(1, false), (2, true)] {
        let (whole, _) = written(seed, crash);
        let all = flushes(&whole);
        for path in segments(&whole) {
            let records: BTreeSet<_> = all
                .iter()
                .filter(|flush| flush.path == path)
                .flat_map(|flush| flush.records.clone())
                .collect();
            let is_used = all.iter().any(|flush| flush.path == path);
            // The header block: nothing is lost, the copy gets a new one.
            let io = copy(&whole);
            io.damage(&path, |bytes| bytes[33] ^= 1);
            assert!(refused(&copy(&io)).unwrap().contains("--quarantine"));
            repair(&io, Act::Quarantine(position(&path)))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let gone = after_repair(&io, &journal_of(seed, crash))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(gone.is_empty(), "{gone:?}");
            // The whole file.
            let io = copy(&whole);
            io.take(&path);
            let Some(words) = refused(&copy(&io)) else {
                assert!(!is_used, "{} was not missed", path.display());
                continue;
            };
            let act = if words.contains("--cut") {
                Act::Cut(position(&path))
            } else {
                Act::Quarantine(position(&path))
            };
            repair(&io, act).unwrap_or_else(|error| panic!("{}: {error} ({words})", path.display()));
            let gone = after_repair_losing_ends(&io, &journal_of(seed, crash), &words)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(gone.is_subset(&records), "{gone:?}");
        }
    }
}

/// Like [`after_repair`]; of a segment that is gone nobody can tell what offsets it had, unless something came later.
fn after_repair_losing_ends(
    io: &MemoryIo,
    journal: &Shared,
    words: &str,
) -> Result<BTreeSet<(u64, u64)>, String> {
    match after_repair(io, journal) {
        Err(error) if words.contains("is missing") && error.contains("given twice") => Ok(BTreeSet::new()),
        other => other,
    }
}

#[test]
fn what_is_whole_is_left_alone() {
    let (io, _) = written(1, false);
    let before = copy(&io);
    let last = flushes(&io).last().unwrap().header;
    for (act, text) in [
        (Act::Quarantine(Position(0)), "is whole"),
        (Act::Quarantine(Position(4096)), "no segment begins"),
        (Act::Cut(last.next()), "nothing to cut"),
        (Act::Cut(Position(1 << 40)), "no segment holds"),
    ] {
        let error = repair(&io, act).unwrap_err().to_string();
        assert!(error.contains(text), "{act:?}: {error}");
    }
    assert_eq!(io.paths(), before.paths());
    for path in io.paths() {
        assert_eq!(io.content(&path), before.content(&path));
    }
}

/// That offsets may be missing is known as long as the repaired segment is there: once it is retired, queues begin behind
/// what was given up.
#[test]
fn queues_begin_behind_a_gap_once_the_repaired_segment_is_retired() {
    let (whole, _) = written(3, false);
    let data: Vec<Flush> = flushes(&whole).into_iter().filter(|flush| !flush.records.is_empty()).collect();
    let first = data[0].path.clone();
    let mut retired = 0;
    for flush in data.iter().filter(|flush| flush.path == first) {
        let io = copy(&whole);
        io.damage(&flush.path, |bytes| bytes[flush.at + 140] ^= 1);
        repair(&io, Act::Quarantine(position(&flush.path))).unwrap();
        for life in 0..2 {
            let journal = journal_of(3, false);
            retired += run(&io, async move |io| {
                let client = Client::new(open(&io, Hazards::default()).await.unwrap(), &journal);
                let policy =
                    RetentionPolicy { segments_max: Some(2), age_ms: None, ..RetentionPolicy::default() };
                let before = client.log.stats().segments_kept;
                while life == 0 && client.log.stats().segments_kept > 2 {
                    client.log.retain(&policy, &NoAdvisor).await.unwrap();
                    io.sleep(std::time::Duration::from_millis(50)).await;
                }
                for queue in (1..=3).map(QueueKey) {
                    let Some(bounds) = client.log.bounds(queue) else { continue };
                    let mut at = bounds.start;
                    while at < bounds.durable_end {
                        let read = client.log.read(queue, at, 1 << 20).await;
                        let read =
                            read.unwrap_or_else(|error| panic!("{queue} at {at} of {bounds:?}: {error}"));
                        assert!(read.next_offset > at);
                        at = read.next_offset;
                    }
                }
                let gone = before - client.log.stats().segments_kept;
                client.log.close().await.unwrap();
                gone
            })
            .unwrap();
        }
    }
    assert!(retired > 10, "{retired}");
}
