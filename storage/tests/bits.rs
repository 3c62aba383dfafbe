//! Every single bit of a small log flipped: noticed, or harmless; never wrong data, never a panic.
//!
//! The whole log is opened for a part of the bits only; all of them go through the same walk that opening uses.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the answer")]

mod common;

use std::path::PathBuf;
use std::rc::Rc;

use common::oracle::{Client, Shared, check, forget_waiting, missing, open, run, segments};
use equeue_record::QueueKey;
use equeue_storage::format::{Chain, FlushHeader, SegmentHeader};
use equeue_storage::io::memory::{MemoryIo, Survivors};
use equeue_storage::log::Hazards;
use equeue_storage::offline;
use equeue_storage::segment::{Ending, Step, TailSearch, Walk};

const BLOCK: usize = 4096;

/// A log of a few segments, closed in order.
fn written(rounds: u32) -> (MemoryIo, Shared) {
    let io = MemoryIo::new(3).with_dir("/data");
    let journal = Shared::default();
    let kept = Rc::clone(&journal);
    run(&io, async move |io| {
        let client = Client::new(open(&io, Hazards::default()).await.unwrap(), &kept);
        client.work(&io, rounds, 0).await.unwrap();
        client.log.close().await.unwrap();
        client.note();
    })
    .unwrap();
    forget_waiting(&journal);
    (io.after_power_cut(Survivors::Synced), journal)
}

/// Walks over a segment as opening does; gives the flushes, or that it is damaged.
fn walk(segment: &SegmentHeader, image: &[u8]) -> Result<Vec<(FlushHeader, Vec<u8>)>, String> {
    let at = |position: equeue_storage::Position| {
        let at = usize::try_from(position.0 - segment.position.0).unwrap();
        image.get(at..).unwrap_or_default()
    };
    let mut walk = Walk::new(*segment, Chain { position: segment.first_flush(), link: None }, Ending::Open);
    let mut flushes = Vec::new();
    loop {
        let position = walk.position();
        match walk.step(at(position)) {
            Step::Flush(header, body) => {
                offline::check_body(&header, body).map_err(|error| error.to_string())?;
                flushes.push((header, body.to_vec()));
            }
            Step::Suspect(reason) => {
                let mut search = TailSearch::new(*segment, position, reason);
                let (begin, end) = search.range();
                let len = usize::try_from(end.0 - begin.0).unwrap();
                search.look(begin, at(begin).get(..len).unwrap_or(at(begin)));
                return search.decide(Ending::Open).map(|_| flushes).map_err(|damage| damage.to_string());
            }
            Step::End(_) => return Ok(flushes),
            Step::Damaged(damage) => return Err(damage.to_string()),
            Step::Short(_) => return Err("short".to_owned()),
        }
    }
}

#[test]
fn each_bit_of_a_segment_is_noticed_or_harmless() {
    let io = MemoryIo::new(3).with_dir("/data");
    run(&io, async move |io| {
        let log = open(&io, Hazards::default()).await.unwrap();
        for n in 0..4_u8 {
            for queue in 1..=3 {
                log.append(QueueKey(queue), common::batch(&[&[n; 300], b"second"])).unwrap();
            }
            let last = log.append(QueueKey(1), common::batch(&[&[n; 700]])).unwrap();
            log.wait_durable(last.ticket).await.unwrap();
        }
        log.close().await.unwrap();
    })
    .unwrap();
    let path = segments(&io)[0].clone();
    let mut image = io.content(&path).unwrap();
    let segment = SegmentHeader::decode(&image).unwrap();
    let whole = walk(&segment, &image).unwrap();
    assert!(whole.len() > 5, "{}", whole.len());
    let (last, _) = whole.last().unwrap();
    let used = usize::try_from(last.next().0 - segment.position.0).unwrap();
    // Behind the end: every bit of the next blocks; what follows is all zeros as well.
    image.truncate(used + 4 * BLOCK);
    let behind = used * 8..(used + 2 * BLOCK) * 8;
    let (mut damage, mut cut, mut harmless) = (0_u64, 0_u64, 0_u64);
    for bit in (0..used * 8).chain(behind) {
        let mask = 1 << (bit % 8);
        image[bit / 8] ^= mask;
        if bit / 8 < BLOCK {
            assert!(SegmentHeader::decode(&image).is_err(), "bit {bit} of the header block");
            damage += 1;
        } else {
            match walk(&segment, &image) {
                Err(_) => damage += 1,
                Ok(flushes) => {
                    assert!(whole.starts_with(&flushes), "bit {bit}: only what was written, in order");
                    let gone = whole.len() - flushes.len();
                    // Nothing is left that could tell of the last flush: the marker of the orderly stop.
                    assert!(gone <= 1, "bit {bit}: {gone} flushes lost in silence");
                    if gone == 0 { harmless += 1 } else { cut += 1 }
                }
            }
        }
        image[bit / 8] ^= mask;
    }
    eprintln!(
        "{} bits: {damage} are damage, {cut} cut the last flush, {harmless} are harmless",
        damage + cut + harmless
    );
    assert!(damage > 60_000 && harmless > 60_000);
}

/// What opening and reading make of a changed file: all that was promised, or a refusal or an error that says so.
fn open_and_check(io: &MemoryIo, journal: &Shared, last_may_be_lost: bool) -> bool {
    let kept = Rc::clone(journal);
    let found = run(io, async move |io| {
        let log = open(&io, Hazards::default()).await?;
        let found = check(&log, &kept).await;
        let _ = log.close().await;
        found
    })
    .unwrap();
    match found {
        Ok(()) => true,
        Err(words) => {
            let is_noticed = words.starts_with("refused") || words.starts_with("unreadable");
            assert!(is_noticed || last_may_be_lost, "{words}");
            false
        }
    }
}

#[test]
fn a_log_with_a_flipped_bit_opens_right_or_says_what_is_wrong() {
    let (io, journal) = written(12);
    let (mut right, mut refused) = (0, 0);
    for path in segments(&io) {
        let whole = io.content(&path).unwrap();
        let used = whole.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
        // A prime step meets every bit of a byte and every place in a header.
        for bit in (0..used * BLOCK * 8).step_by(37_879).chain((BLOCK * 8..(BLOCK + 128) * 8).step_by(7)) {
            let mut image = whole.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            let machine = copy(&io);
            machine.put(&path, image);
            if open_and_check(&machine, &journal, false) { right += 1 } else { refused += 1 }
        }
    }
    eprintln!("{right} logs opened with everything in them, {refused} refused or told of damage");
    assert!(right > 20 && refused > 20, "{right} and {refused}");
}

fn copy(io: &MemoryIo) -> MemoryIo {
    let copy = MemoryIo::new(1).with_dir("/data/log-0");
    for path in io.paths() {
        copy.put(&path, io.content(&path).unwrap());
    }
    copy
}

fn indexes(io: &MemoryIo) -> Vec<PathBuf> {
    io.paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "idx"))
        .collect()
}

#[test]
fn each_bit_of_an_index_is_noticed() {
    let (io, journal) = written(14);
    let path = indexes(&io)[0].clone();
    let mut image = io.content(&path).unwrap();
    let header = SegmentHeader::decode(&io.content(path.with_extension("seg")).unwrap()).unwrap();
    let whole = offline::read_index(&header, &image).unwrap();
    assert!(whole.len() > 10);
    for bit in 0..image.len() * 8 {
        image[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(offline::read_index(&header, &image), None, "bit {bit}");
        image[bit / 8] ^= 1 << (bit % 8);
    }
    eprintln!("{} bits", image.len() * 8);
    for len in (0..image.len()).step_by(509) {
        assert_eq!(offline::read_index(&header, &image[..len]), None);
    }
    // A log with a bad index makes it again, and gives what it should.
    for bit in (0..image.len() * 8).step_by(4001) {
        let machine = copy(&io);
        machine.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert!(open_and_check(&machine, &journal, false), "bit {bit}");
    }
}

/// Bits that flip under a log that is open: what is read is right, or an error.
#[test]
fn what_flips_under_an_open_log_is_never_given_out() {
    let (io, journal) = written(12);
    let (mut right, mut told) = (0, 0);
    for path in segments(&io) {
        let whole = io.content(&path).unwrap();
        let used = whole.chunks(BLOCK).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() + 1;
        for bit in (BLOCK * 8..used * BLOCK * 8).step_by(52_387) {
            let machine = copy(&io);
            let (kept, path) = (Rc::clone(&journal), path.clone());
            let found = run(&machine, async move |io| {
                let log = open(&io, Hazards::default()).await.unwrap();
                io.damage_in_place(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
                let found = missing(&log, &kept).await;
                let _ = log.bounds(QueueKey(1));
                let _ = log.close().await;
                found
            })
            .unwrap();
            match found {
                Ok(gone) => {
                    assert!(gone.is_empty(), "bit {bit}: {gone:?} went missing in silence");
                    right += 1;
                }
                Err(words) => {
                    assert!(words.starts_with("unreadable"), "bit {bit}: {words}");
                    told += 1;
                }
            }
        }
    }
    eprintln!("{right} times everything was read, {told} times the damage was told");
    assert!(right > 2 && told > 20, "{right} and {told}");
}
