//! The power goes at every call of a workload, at every call of the recovery after it, and nothing promised is lost;
//! then each mechanism that sees to it is switched off, and the same test fails.
//!
//! Each finding is reproducible: seeds are fixed and printed with it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::PathBuf;
use std::rc::Rc;

use common::oracle::{Client, Journal, Shared, check, forget_waiting, open, run, segments};
use equeue_storage::io::Io as _;
use equeue_storage::io::memory::{Fault, MemoryIo, Survivors};
use equeue_storage::log::{AppendError, Hazards};

const ROUNDS: u32 = 14;

/// The workload on a new machine until it ends or the power goes at call `cut`.
fn first_life(seed: u64, cut: Option<u64>, hazards: Hazards) -> (MemoryIo, Shared) {
    let io = MemoryIo::new(seed).with_dir("/data");
    let journal = Shared::default();
    if let Some(cut) = cut {
        io.fault_at(cut, Fault::PowerCut);
    }
    let kept = Rc::clone(&journal);
    let _ = run(&io, async move |io| {
        let client = Client::new(open(&io, hazards).await.unwrap(), &kept);
        client.work(&io, ROUNDS, 0).await.unwrap();
        client.log.close().await.unwrap();
        client.note();
    });
    forget_waiting(&journal);
    (io, journal)
}

/// Opens what is left and checks it; goes on working with it, and checks that again after a kill.
fn second_life(io: &MemoryIo, journal: &Shared, hazards: Hazards) -> Result<(), String> {
    let kept = Rc::clone(journal);
    run(io, async move |io| {
        let log = open(&io, hazards).await?;
        check(&log, &kept).await?;
        let client = Client::new(log, &kept);
        for queue in 1..=3 {
            client.send(queue, 100).map_err(|error| error.to_string())?;
        }
        let ticket = client.send(1, 10).map_err(|error| error.to_string())?;
        client.log.wait_durable(ticket).await.map_err(|error| error.to_string())?;
        client.note();
        check(&client.log, &kept).await
    })
    .map_err(|_| "power cut without a fault".to_owned())?
}

/// What a power cut leaves, in turn.
fn survivors(seed: u64, cut: u64) -> Survivors {
    if (seed + cut).is_multiple_of(3) { Survivors::Synced } else { Survivors::Random(seed << 32 | cut) }
}

/// Power cuts at every `step`th call of the workload. The first violation found.
fn cut_everywhere(seed: u64, step: usize, hazards: Hazards) -> Result<(), String> {
    let (whole, _) = first_life(seed, None, hazards);
    let calls = whole.calls();
    for cut in (0..calls).step_by(step) {
        let what = survivors(seed, cut);
        let (io, journal) = first_life(seed, Some(cut), hazards);
        second_life(&io.after_power_cut(what), &journal, hazards)
            .map_err(|violation| format!("seed {seed}, call {cut} of {calls}, {what:?}: {violation}"))?;
    }
    Ok(())
}

#[test]
fn nothing_is_lost_whenever_the_power_goes() {
    for seed in 0..3 {
        cut_everywhere(seed, 1, Hazards::default()).unwrap();
    }
}

#[test]
fn a_crash_during_recovery_is_harmless() {
    let seed = 5;
    let (whole, _) = first_life(seed, None, Hazards::default());
    for cut in (10..whole.calls()).step_by(29) {
        for again in 0.. {
            let (io, journal) = first_life(seed, Some(cut), Hazards::default());
            let after = io.after_power_cut(Survivors::Random(cut));
            after.fault_at(again, Fault::PowerCut);
            let ended = run(&after, async move |io| open(&io, Hazards::default()).await.map(|_| ()));
            if let Ok(ended) = &ended {
                ended.as_ref().unwrap();
            }
            let last = after.after_power_cut(Survivors::Random(again));
            second_life(&last, &journal, Hazards::default())
                .unwrap_or_else(|violation| panic!("cut at {cut}, then at {again}: {violation}"));
            if ended.is_ok() {
                break;
            }
        }
    }
}

/// The power goes in the first recovery at each call, and in the one after it at each of the calls that follow: never
/// a segment more than recoveries, never a different end.
#[test]
fn crashes_in_two_recoveries_one_after_the_other_are_harmless() {
    let seed = 6;
    let (whole, _) = first_life(seed, None, Hazards::default());
    let cut = whole.calls() * 2 / 3;
    let (io, journal) = first_life(seed, Some(cut), Hazards::default());
    let start = io.after_power_cut(Survivors::Random(cut));
    let mut crashes = 0;
    for first in 0.. {
        let one = again(&start);
        one.fault_at(first, Fault::PowerCut);
        let ended = run(&one, async move |io| open(&io, Hazards::default()).await.map(|_| ())).is_ok();
        let one = one.after_power_cut(Survivors::Random(first));
        for second in (0..).step_by(3) {
            let two = again(&one);
            two.fault_at(second, Fault::PowerCut);
            let ended = run(&two, async move |io| open(&io, Hazards::default()).await.map(|_| ())).is_ok();
            let last = two.after_power_cut(Survivors::Random(second));
            let kept = Rc::clone(&journal);
            run(&last, async move |io| {
                let log = open(&io, Hazards::default()).await?;
                check(&log, &kept).await
            })
            .unwrap()
            .unwrap_or_else(|violation| panic!("calls {first} and {second}: {violation}"));
            crashes += 1;
            if ended {
                break;
            }
        }
        if ended {
            break;
        }
    }
    eprintln!("{crashes} pairs of crashes");
    assert!(crashes > 200, "{crashes}");
}

/// A machine with the same files.
fn again(io: &MemoryIo) -> MemoryIo {
    let copy = MemoryIo::new(7).with_dir("/data/log-0");
    for path in io.paths() {
        copy.put(&path, io.content(&path).unwrap());
    }
    copy
}

#[test]
fn a_kill_and_then_a_power_cut_lose_nothing_that_was_served() {
    kill_then_cut(Hazards::default()).unwrap();
}

/// A kill leaves writes that are not synced; recovery serves them, so it must make them durable first.
fn kill_then_cut(hazards: Hazards) -> Result<(), String> {
    let seed = 2;
    let (whole, _) = first_life(seed, None, hazards);
    for cut in (20..whole.calls()).step_by(3) {
        let (io, journal) = first_life(seed, Some(cut), hazards);
        let killed = io.after_kill();
        let kept = Rc::clone(&journal);
        run(&killed, async move |io| {
            let client = Client::new(open(&io, hazards).await?, &kept);
            client.note();
            Ok::<_, String>(())
        })
        .unwrap()?;
        forget_waiting(&journal);
        let after = killed.after_power_cut(Survivors::Synced);
        second_life(&after, &journal, hazards).map_err(|violation| format!("call {cut}: {violation}"))?;
    }
    Ok(())
}

/// A null control: with the mechanism off there must be a violation.
fn must_fail(name: &str, found: Result<(), String>) {
    let violation = found.expect_err(name);
    eprintln!("{name}: {violation}");
}

#[test]
fn without_sync_acknowledged_messages_are_lost() {
    must_fail("no_sync", cut_everywhere(0, 3, Hazards { no_sync: true, ..Hazards::default() }));
}

#[test]
fn without_sync_in_recovery_served_messages_are_lost() {
    must_fail("no_recovery_sync", kill_then_cut(Hazards { no_recovery_sync: true, ..Hazards::default() }));
}

#[test]
fn without_the_barrier_of_a_roll_a_crash_looks_like_damage() {
    let hazards = Hazards { no_roll_barrier: true, ..Hazards::default() };
    must_fail("no_roll_barrier", (0..8).try_for_each(|seed| cut_everywhere(seed, 1, hazards)));
}

#[test]
fn without_checksums_torn_flushes_are_taken_for_whole() {
    let hazards = Hazards { no_crc: true, ..Hazards::default() };
    must_fail("no_crc", (0..8).try_for_each(|seed| cut_everywhere(seed, 1, hazards)));
}

#[test]
fn without_sync_of_the_folder_segments_are_lost() {
    must_fail("no_dir_sync", cut_everywhere(0, 1, Hazards { no_dir_sync: true, ..Hazards::default() }));
}

#[test]
fn a_duplicate_answered_early_is_a_promise_that_is_broken() {
    must_fail(
        "early_duplicate",
        cut_everywhere(0, 1, Hazards { early_duplicate: true, ..Hazards::default() }),
    );
}

#[test]
fn without_the_high_watermark_a_reader_sees_what_is_lost_later() {
    must_fail(
        "no_high_watermark",
        cut_everywhere(0, 1, Hazards { no_high_watermark: true, ..Hazards::default() }),
    );
}

/// Lengths (spans) of the flushes of a segment, from the first on.
fn spans(segment: &[u8]) -> Vec<usize> {
    let mut spans = Vec::new();
    let mut at = 4096;
    while segment[at..].starts_with(b"EQFLUSH\x1a") {
        let span = u32::from_le_bytes(segment[at + 28..at + 32].try_into().unwrap()) as usize;
        spans.push(span);
        at += span;
    }
    spans
}

/// Damages one acknowledged flush in the middle of the active segment.
fn damage_acknowledged(hazards: Hazards) -> Result<(), String> {
    let seed = 1;
    let (whole, _) = first_life(seed, None, hazards);
    // Cut where the active segment has more flushes than may be without an acknowledgement.
    let (after, journal, active) = (whole.calls() / 2..whole.calls())
        .find_map(|cut| {
            let (io, journal) = first_life(seed, Some(cut), hazards);
            let after = io.after_power_cut(Survivors::Synced);
            let used = |path: &PathBuf| spans(&after.content(path).unwrap()).len();
            let active = segments(&after).into_iter().rev().find(|path| used(path) > 0)?;
            (used(&active) >= 6).then_some((after, journal, active))
        })
        .expect("some segment has six flushes");
    // The body of its first flush but one: acknowledged long ago.
    let span = spans(&after.content(&active).unwrap())[0];
    after.damage(&active, |bytes| bytes[4096 + span + 200] ^= 0x40);
    let before = after.content(&active).unwrap();
    let outcome = second_life(&after, &journal, hazards);
    assert_eq!(after.content(&active).unwrap(), before, "recovery never modifies a segment");
    outcome
}

#[test]
fn damage_is_told_apart_from_a_torn_tail() {
    let refused = damage_acknowledged(Hazards::default()).unwrap_err();
    assert!(refused.starts_with("refused") && refused.contains("damaged at position"), "{refused}");
    let lost = damage_acknowledged(Hazards { no_evidence: true, ..Hazards::default() }).unwrap_err();
    assert!(lost.starts_with("lost"), "without evidence: {lost}");
}

#[test]
fn a_missing_newest_segment_is_noticed() {
    let (io, journal) = first_life(3, None, Hazards::default());
    let used: Vec<_> = segments(&io)
        .into_iter()
        .filter(|path| io.content(path).unwrap()[4096..4104] == *b"EQFLUSH\x1a")
        .collect();
    for path in segments(&io).into_iter().skip(used.len() - 1) {
        io.take(&path);
    }
    let refused = second_life(&io.after_power_cut(Survivors::All), &journal, Hazards::default()).unwrap_err();
    assert!(refused.contains("is missing"), "{refused}");
}

#[test]
fn a_damaged_header_block_is_noticed_in_each_segment() {
    let (io, journal) = first_life(3, None, Hazards::default());
    let all = segments(&io);
    assert!(all.len() >= 3, "{all:?}");
    let io = io.after_power_cut(Survivors::All);
    for path in all {
        let whole = io.content(&path).unwrap();
        io.damage(&path, |bytes| bytes[40] ^= 1);
        let refused = second_life(&io, &journal, Hazards::default()).unwrap_err();
        assert!(refused.contains("segment header"), "{refused}");
        io.put(&path, whole);
    }
}

#[test]
fn failing_calls_poison_the_log_and_nothing_is_acknowledged_later() {
    let (whole, _) = first_life(4, None, Hazards::default());
    for (call, fault) in
        (0..whole.calls()).flat_map(|call| [(call, Fault::Error(libc::EIO)), (call, Fault::ShortWrite(512))])
    {
        let io = MemoryIo::new(4).with_dir("/data");
        io.fault_at(call, fault);
        let journal = Shared::new(Journal::default().into());
        let kept = Rc::clone(&journal);
        run(&io, async move |io| {
            // An error while opening is an error of opening.
            let Ok(log) = open(&io, Hazards::default()).await else { return };
            let client = Client::new(log, &kept);
            let mut outcome = client.work(&io, ROUNDS, 0).await;
            if outcome == Err(AppendError::DiskFull) {
                // A segment could not be prepared: nothing is wrong with what is written, and it is tried again.
                io.sleep(std::time::Duration::from_secs(3)).await;
                outcome = client.work(&io, 1, 100).await.or_else(|error| match error {
                    AppendError::SequenceGap { .. } | AppendError::UnknownProducer { .. } => Ok(()),
                    error => Err(error),
                });
                assert!(!client.log.stats().disk_full && outcome.is_ok(), "{outcome:?}");
            }
            if outcome.is_err() {
                let durable = client.log.durable();
                assert!(client.send(1, 10).is_err(), "a failed log takes nothing");
                assert!(client.log.stats().poisoned);
                io.sleep(std::time::Duration::from_secs(3)).await;
                assert_eq!(client.log.durable(), durable, "nothing becomes durable after a failure");
                client.note();
            }
            let _ = client.log.close().await;
            client.note();
        })
        .unwrap();
        forget_waiting(&journal);
        let after =
            io.after_power_cut(if call % 2 == 0 { Survivors::Synced } else { Survivors::Random(call) });
        second_life(&after, &journal, Hazards::default())
            .unwrap_or_else(|violation| panic!("call {call}, {fault:?}: {violation}"));
    }
}
