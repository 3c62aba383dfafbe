//! Preparing and scanning segments on the machine in memory.

use std::path::Path;

use equeue_record::MasterEpoch;

use super::*;
use crate::format::{
    Chain, FLUSH_HEADER_LEN, FileName, FlushHeader, FlushKind, OpenBody, OpenCause, Salt, SealBody,
    SegmentHeader, segment_name,
};
use crate::io::memory::{CallKind, Fault, MemoryIo, Survivors};
use crate::io::{Access, Io};
use crate::types::{LogId, Position};

const DIR: &str = "/log-0";
const MIB: u64 = 1 << 20;

fn segment(position: u64, mib: u64) -> SegmentHeader {
    SegmentHeader {
        log: LogId(0),
        position: Position(position),
        bytes: mib * MIB,
        salt: Salt::from_bits(position + 77),
        created_ms: 5,
        has_gaps: false,
    }
}

/// Writes flushes one after the other, each synced before the next.
pub(super) struct Writer {
    pub(super) segment: SegmentHeader,
    pub(super) chain: Chain,
    pub(super) image: Vec<u8>,
}

impl Writer {
    pub(super) fn new(segment: SegmentHeader, link: u32) -> Self {
        let mut image = vec![0; usize::try_from(segment.bytes).unwrap()];
        image[..4096].copy_from_slice(&segment.encode());
        Self { segment, chain: Chain { position: segment.first_flush(), link: Some(link) }, image }
    }

    pub(super) fn flush(&mut self, kind: FlushKind, body: &[u8]) -> FlushHeader {
        let body_len = u32::try_from(body.len()).unwrap();
        let header = FlushHeader {
            kind,
            epoch: MasterEpoch(1),
            position: self.chain.position,
            body_len,
            span: (128 + body_len).next_multiple_of(4096),
            body_crc: crc32c::crc32c(body),
            chain: self.chain.link.unwrap(),
            snapshot: None,
            time_ms: 9,
            salt: self.segment.salt,
            durable_to: self.chain.position,
            next_salt: (kind == FlushKind::Seal).then_some(Salt::from_bits(self.segment.end().0 + 77)),
        };
        self.put(&header, body);
        self.chain = Chain::after(&header);
        header
    }

    pub(super) fn put(&mut self, header: &FlushHeader, body: &[u8]) {
        let at = usize::try_from(header.position.0 - self.segment.position.0).unwrap();
        self.image[at..at + FLUSH_HEADER_LEN].copy_from_slice(&header.encode());
        self.image[at + FLUSH_HEADER_LEN..][..body.len()].copy_from_slice(body);
    }

    pub(super) fn seal(&mut self) -> FlushHeader {
        let next = self.segment.end();
        self.flush(FlushKind::Seal, &SealBody { next }.encode())
    }
}

/// A segment with data flushes of these lengths.
fn written(lengths: &[usize]) -> (Writer, Vec<FlushHeader>) {
    let mut writer = Writer::new(segment(0, 4), Chain::START);
    let headers = lengths.iter().map(|len| writer.flush(FlushKind::Data, &vec![0xd5; *len])).collect();
    (writer, headers)
}

fn scan(writer: &Writer, ending: Ending) -> (Result<End, ScanError>, Vec<(Position, usize)>) {
    scan_with(writer, ending, ScanRules::default(), |_| ())
}

fn scan_with(
    writer: &Writer,
    ending: Ending,
    rules: ScanRules,
    setup: impl FnOnce(&MemoryIo),
) -> (Result<End, ScanError>, Vec<(Position, usize)>) {
    let io = MemoryIo::new(1);
    io.put("/s", writer.image.clone());
    setup(&io);
    let machine = io.clone();
    let from = Chain { position: writer.segment.first_flush(), link: Some(Chain::START) };
    io.run(async move {
        let file = machine.open(Path::new("/s"), Access::Read).await.unwrap();
        let header = read_header::<MemoryIo>(&file).await.unwrap();
        let mut seen = Vec::new();
        let end = scan_segment(&machine, &file, &header, from, ending, rules, |flush, body| {
            assert_eq!(flush.check_body(body), Ok(()));
            seen.push((flush.position, body.len()));
            Ok(())
        })
        .await;
        (end, seen)
    })
    .unwrap()
}

#[test]
fn all_flushes_are_given_in_order() {
    let lengths = [1, 3968, 3969, 300_000, 800_000, 10];
    let mut skips = 0;
    let mut writer = Writer::new(segment(0, 4), Chain::START);
    for len in lengths {
        let body = vec![7; len];
        let used = writer.chain.position.0 % MIB;
        if used + (128 + len as u64).next_multiple_of(4096) > MIB {
            skips += 1;
            let skip = u32::try_from(MIB - used).unwrap();
            let header = writer.flush(FlushKind::Idle, &[]);
            let header = FlushHeader { span: skip, ..header };
            writer.put(&header, &[]);
            writer.chain = Chain::after(&header);
        }
        writer.flush(FlushKind::Data, &body);
    }
    let (end, seen) = scan(&writer, Ending::Open);
    let end = end.unwrap();
    assert_eq!(end.kind, EndKind::Tail { torn_bytes: 0 });
    assert_eq!(end.chain, writer.chain);
    assert_eq!(seen.iter().map(|(_, len)| *len).filter(|len| *len > 0).collect::<Vec<_>>(), lengths);
    assert_eq!((end.flushes, skips), (7, 1));
}

#[test]
fn a_sealed_segment_says_where_the_log_goes_on() {
    let (mut writer, _) = written(&[10]);
    let seal = writer.seal();
    let (end, seen) = scan(&writer, Ending::Sealed);
    let end = end.unwrap();
    assert_eq!(end.kind, EndKind::Sealed { next: Position(4 * MIB), salt: Salt::from_bits(4 * MIB + 77) });
    assert_eq!(end.chain, Chain { position: Position(4 * MIB + 4096), link: Some(seal.link()) });
    assert_eq!((seen.len(), end.last), (2, Some(seal)));
}

#[test]
fn a_flush_that_was_never_synced_is_a_torn_tail() {
    let (mut writer, headers) = written(&[5000, 6000]);
    let last = headers[1];
    writer.image[usize::try_from(last.position.0).unwrap() + 4000] ^= 1;
    let (end, seen) = scan(&writer, Ending::Open);
    let end = end.unwrap();
    assert_eq!((end.kind, end.chain.position), (EndKind::Tail { torn_bytes: 8192 }, last.position));
    assert_eq!((seen.len(), end.last, end.durable_to), (1, Some(headers[0]), headers[0].durable_to));
}

#[test]
fn a_flush_that_a_later_one_calls_synced_is_damage() {
    for at in [0, 64, 100, 200] {
        let (mut writer, headers) = written(&[5000, 6000, 7000]);
        let bad = usize::try_from(headers[1].position.0).unwrap() + at;
        writer.image[bad] ^= 0x10;
        // Evidence counts with a bad body, too.
        let body = usize::try_from(headers[2].position.0).unwrap() + 3000;
        writer.image[body] ^= 1;
        let Err(ScanError::Damaged { position, damage: Damage::SyncedBefore { evidence, durable_to, .. } }) =
            scan(&writer, Ending::Open).0
        else {
            panic!("the damage at {at} is not seen");
        };
        assert_eq!(
            (position, evidence, durable_to),
            (headers[1].position, headers[2].position, headers[2].position)
        );
        // The null control: without evidence the log silently ends before the lost flush.
        let rules = ScanRules { evidence: false, ..ScanRules::default() };
        assert_eq!(
            scan_with(&writer, Ending::Open, rules, |_| ()).0.unwrap().chain.position,
            headers[1].position
        );
    }
}

#[test]
fn without_body_checks_a_bad_body_is_taken() {
    let (mut writer, headers) = written(&[5000]);
    writer.image[usize::try_from(headers[0].position.0).unwrap() + 300] ^= 1;
    let io = MemoryIo::new(1);
    io.put("/s", writer.image.clone());
    let machine = io.clone();
    let flushes = io
        .run(async move {
            let file = machine.open(Path::new("/s"), Access::Read).await.unwrap();
            let header = read_header::<MemoryIo>(&file).await.unwrap();
            let from = Chain::unlinked(header.first_flush());
            let rules = ScanRules { body_crc: false, ..ScanRules::default() };
            scan_segment(&machine, &file, &header, from, Ending::Open, rules, |_, _| Ok(()))
                .await
                .unwrap()
                .flushes
        })
        .unwrap();
    assert_eq!(flushes, 1);
    assert_eq!(scan(&writer, Ending::Open).0.unwrap().flushes, 0);
}

#[test]
fn an_ended_segment_has_no_torn_tail() {
    let (writer, headers) = written(&[5000]);
    let end = headers[0].next();
    assert!(matches!(
        scan(&writer, Ending::Sealed).0,
        Err(ScanError::Damaged { position, damage: Damage::NotLast { .. } }) if position == end
    ));
    assert_eq!(scan(&writer, Ending::At(end)).0.unwrap().kind, EndKind::Opened);
    assert_eq!(scan(&writer, Ending::At(Position(0))).0.unwrap().flushes, 0);
    assert!(matches!(
        scan(&writer, Ending::At(end.plus(4096))).0,
        Err(ScanError::Damaged { damage: Damage::BeforeEnd { .. }, .. })
    ));
    assert!(matches!(
        scan(&writer, Ending::At(Position(headers[0].position.0 + 4096))).0,
        Err(ScanError::Damaged { damage: Damage::TooLong { .. }, .. })
    ));
}

#[test]
fn what_no_log_writes_is_damage() {
    // A link to another flush than the one before.
    let (mut writer, headers) = written(&[10, 20]);
    writer.put(&FlushHeader { chain: 1, ..headers[1] }, &[0xd5; 20]);
    let result = scan(&writer, Ending::Open).0;
    assert!(matches!(result, Err(ScanError::Damaged { damage: Damage::Impossible(_), .. })), "{result:?}");
    // A flush past the end of the segment.
    let mut writer = Writer::new(segment(0, 2), Chain::START);
    let idle = writer.flush(FlushKind::Idle, &[]);
    let idle = FlushHeader { span: u32::try_from(MIB - 4096).unwrap(), ..idle };
    writer.put(&idle, &[]);
    writer.chain = Chain::after(&idle);
    let data = writer.flush(FlushKind::Data, &[1; 10]);
    writer.put(&FlushHeader { span: 2 << 20, ..data }, &[1; 10]);
    let result = scan(&writer, Ending::Open).0;
    assert!(matches!(result, Err(ScanError::Damaged { damage: Damage::TooLong { .. }, .. })), "{result:?}");
    // A SEAL that leads elsewhere.
    let (mut writer, _) = written(&[10]);
    writer.flush(FlushKind::Seal, &SealBody { next: Position(0) }.encode());
    let result = scan(&writer, Ending::Open).0;
    assert!(matches!(result, Err(ScanError::Damaged { damage: Damage::Impossible(_), .. })), "{result:?}");
}

#[test]
fn flushes_of_another_life_of_the_file_are_none() {
    let (mut writer, headers) = written(&[10, 5000]);
    let stale = FlushHeader { salt: Salt::from_bits(1), durable_to: headers[1].position, ..headers[1] };
    writer.put(&stale, &[0xd5; 5000]);
    // At another place than it says: the body of a record that looks like a flush.
    let at = usize::try_from(headers[1].next().0).unwrap();
    writer.image[at..at + FLUSH_HEADER_LEN].copy_from_slice(&headers[1].encode());
    let end = scan(&writer, Ending::Open).0.unwrap();
    assert_eq!((end.chain.position, end.flushes), (headers[1].position, 1));
}

#[test]
fn a_later_format_is_no_torn_tail() {
    let (mut writer, headers) = written(&[10, 20]);
    let at = usize::try_from(headers[1].position.0).unwrap();
    let bytes = &mut writer.image[at..at + FLUSH_HEADER_LEN];
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[60..124]);
    bytes[124..].copy_from_slice(&crc.to_le_bytes());
    let result = scan(&writer, Ending::Open).0;
    assert!(matches!(result, Err(ScanError::Damaged { damage: Damage::Impossible(_), .. })), "{result:?}");
}

#[test]
fn a_file_cut_short_ends_the_walk() {
    let (mut writer, headers) = written(&[10, 50_000]);
    writer.image.truncate(usize::try_from(headers[1].position.0).unwrap() + 8192);
    let end = scan(&writer, Ending::Open).0.unwrap();
    assert_eq!((end.chain.position, end.kind), (headers[1].position, EndKind::Tail { torn_bytes: 53_248 }));
    assert!(matches!(
        scan(&writer, Ending::Sealed).0,
        Err(ScanError::Damaged { damage: Damage::NotLast { .. }, .. })
    ));
}

#[test]
fn an_error_of_the_system_is_never_damage() {
    let (mut writer, headers) = written(&[900_000, 900_000, 900_000].map(|len| len / 10));
    writer.image[usize::try_from(headers[2].position.0).unwrap()] ^= 1;
    let mut failures = 0;
    for read in 0..20 {
        let mut reads = 0;
        let (end, _) = scan_with(&writer, Ending::Open, ScanRules::default(), move |io| {
            io.fault_when(move |call| {
                // The header block is read first.
                reads += u64::from(call.kind == CallKind::Read && call.position > 0);
                (reads == read + 1).then_some(Fault::Error(libc::EIO))
            });
        });
        match end {
            Ok(end) => assert_eq!(end.flushes, 2),
            Err(error) => {
                assert!(matches!(error, ScanError::Io { .. }), "{error:?}");
                failures += 1;
            }
        }
    }
    assert!((1..20).contains(&failures), "{failures}");
}

fn first_flush(image: Vec<u8>) -> FirstFlush {
    let io = MemoryIo::new(1);
    io.put("/s", image);
    let machine = io.clone();
    io.run(async move {
        let file = machine.open(Path::new("/s"), Access::Read).await.unwrap();
        let header = read_header::<MemoryIo>(&file).await.unwrap();
        find_flush::<MemoryIo>(&file, &header).await.unwrap()
    })
    .unwrap()
}

#[test]
fn the_beginning_of_a_segment_tells_how_the_one_before_ended() {
    let open = OpenBody { previous_end: Position(8192), epoch: MasterEpoch(2), cause: OpenCause::Crash };
    let new = || Writer::new(segment(0, 16), Chain::START);
    assert_eq!(first_flush(new().image), FirstFlush::Nothing);
    let mut writer = new();
    writer.flush(FlushKind::Open, &open.encode());
    assert_eq!(first_flush(writer.image.clone()), FirstFlush::Open(open));
    // An OPEN that is torn was never synced.
    writer.image[4096 + 130] ^= 1;
    assert_eq!(first_flush(writer.image.clone()), FirstFlush::Nothing);
    // But nothing follows one that was not synced.
    writer.flush(FlushKind::Data, &[1]);
    assert_eq!(first_flush(writer.image), FirstFlush::Other);
    let mut writer = new();
    writer.flush(FlushKind::Data, &[1]);
    let second = writer.flush(FlushKind::Data, &[1]);
    writer.image[4096] ^= 1;
    assert_eq!(first_flush(writer.image.clone()), FirstFlush::Other);
    writer.image[usize::try_from(second.position.0).unwrap()] ^= 1;
    assert_eq!(first_flush(writer.image), FirstFlush::Nothing);
}

#[test]
fn endings_follow_from_what_comes_later() {
    use FirstFlush::{Nothing, Open, Other};
    let opened = |previous_end| {
        Open(OpenBody {
            previous_end: Position(previous_end),
            epoch: MasterEpoch(2),
            cause: OpenCause::Crash,
        })
    };
    let of = |firsts: &[FirstFlush]| {
        let segments: Vec<_> =
            (0..).zip(firsts).map(|(index, first)| (segment(index * 4 * MIB, 4), *first)).collect();
        endings(&segments)
    };
    assert_eq!(of(&[]), []);
    assert_eq!(of(&[Other]), [Ending::Open]);
    assert_eq!(of(&[Other, Other]), [Ending::Sealed, Ending::Open]);
    // Prepared and never used.
    assert_eq!(of(&[Other, Nothing, Nothing]), [Ending::Open; 3]);
    assert_eq!(of(&[Other, opened(8192)]), [Ending::At(Position(8192)), Ending::Open]);
    // The one between was opened, but its OPEN never synced.
    let end = Ending::At(Position(8192));
    let second = Ending::At(Position(4 * MIB));
    assert_eq!(of(&[Other, Nothing, opened(8192)]), [end, second, Ending::Open]);
    assert_eq!(of(&[Other, Other, opened(8192)]), [end, second, Ending::Open]);
    // Opened at the beginning of the one between, after the SEAL of the first.
    let end = Ending::At(Position(4 * MIB + 4096));
    assert_eq!(of(&[Other, Nothing, opened(4 * MIB + 4096)]), [end, end, Ending::Open]);
    assert_eq!(
        of(&[Other, Other, opened(5 * MIB), Other])[..2],
        [Ending::Sealed, Ending::At(Position(5 * MIB))]
    );
}

#[test]
fn a_prepared_segment_is_whole_or_has_no_name() {
    let header = segment(8 * MIB, 2);
    let path = Path::new(DIR).join(segment_name(header.position));
    let mut calls = None;
    for content in [Fill::Written, Fill::Reserved] {
        let mut named = 0;
        for call in 0..calls.unwrap_or(u64::MAX) {
            for seed in 0..4 {
                let io = MemoryIo::new(seed).with_dir(DIR);
                io.fault_at(call, Fault::PowerCut);
                let machine = io.clone();
                let done = io.run(async move {
                    prepare_segment(&machine, Path::new(DIR), &header, content).await.map(|_| ())
                });
                let after =
                    io.after_power_cut(if seed == 0 { Survivors::Synced } else { Survivors::Random(seed) });
                if let Some(bytes) = after.content(&path) {
                    named += 1;
                    assert_eq!(bytes.len() as u64, header.bytes);
                    assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
                    assert!(bytes[4096..].iter().all(|byte| *byte == 0));
                }
                let machine = after.clone();
                after.run(async move { remove_leftovers(&machine, Path::new(DIR)).await }).unwrap().unwrap();
                let rest = after.paths();
                assert!(
                    rest.iter().all(|path| FileName::parse(path.file_name().unwrap().to_str().unwrap())
                        == Some(FileName::Segment(header.position))),
                    "{rest:?}"
                );
                if let Ok(result) = done {
                    result.unwrap();
                    assert!(after.content(&path).is_some());
                    calls = Some(call);
                }
            }
            if calls == Some(call) {
                break;
            }
        }
        assert!(named > 4, "no crash left a named segment");
        calls = None;
    }
}

#[test]
fn what_fails_leaves_nothing_and_says_what() {
    let header = segment(0, 2);
    let run = |io: &MemoryIo| {
        let machine = io.clone();
        io.run(async move { prepare_segment(&machine, Path::new(DIR), &header, Fill::Written).await.map(|_| ()) }).unwrap()
    };
    let io = MemoryIo::new(1).with_dir(DIR);
    io.set_capacity(Some(3 << 19));
    let error = run(&io).unwrap_err();
    assert!(error.is_full(), "{error:?}");
    assert!(io.paths().is_empty());
    io.set_capacity(None);
    io.fault_when(|call| {
        (call.kind == CallKind::Write && call.position == MIB).then_some(Fault::ShortWrite(512))
    });
    let error = run(&io).unwrap_err();
    assert!(!error.is_full() && error.to_string().contains("writing zeros"), "{error}");
    io.fault_when(|call| (call.kind == CallKind::Sync).then_some(Fault::Error(libc::EIO)));
    assert!(run(&io).unwrap_err().to_string().contains("syncing"));
    assert!(io.paths().is_empty());
    io.clear_faults();
    run(&io).unwrap();
}

#[test]
fn leftovers_are_removed_and_nothing_else() {
    let io = MemoryIo::new(1);
    for name in
        ["prep-1.tmp", "prep-99.tmp", "00000000000000000000.seg", "00000000000000000000.idx", "other.tmp"]
    {
        io.put(Path::new(DIR).join(name), vec![1]);
    }
    let machine = io.clone();
    let removed = io.run(async move { remove_leftovers(&machine, Path::new(DIR)).await.unwrap() }).unwrap();
    assert_eq!((removed, io.paths().len()), (2, 3));
}

proptest::proptest! {
    /// Whatever lies behind a suspect: damage exactly when some header of this segment, at its own place and within
    /// reach, says that more was synced than what lies before the suspect.
    #[test]
    fn evidence_counts_exactly_where_it_should(
        suspect in 1_u64..200,
        found in proptest::collection::vec((1_u64..250, 0_u64..250, 0_u8..6), 0..8),
        cuts in proptest::collection::vec(1_usize..64, 0..4),
    ) {
        let segment = segment(0, 1);
        let mut image = vec![0_u8; 1 << 20];
        let mut expected = false;
        for (block, durable_to, kind) in found {
            let position = Position(block * 4096);
            let header = FlushHeader {
                kind: FlushKind::Idle,
                epoch: MasterEpoch(1),
                position: if kind == 1 { position.plus(4096) } else { position },
                body_len: 0,
                span: 4096,
                body_crc: 0,
                chain: 0,
                snapshot: None,
                time_ms: 0,
                salt: if kind == 0 { Salt::from_bits(3) } else { segment.salt },
                durable_to: Position(durable_to.min(block) * 4096),
                next_salt: None,
            };
            let at = usize::try_from(position.0).unwrap();
            // One for each block: a later one takes the place of an earlier one.
            image[at..at + 4096].fill(0);
            image[at..at + FLUSH_HEADER_LEN].copy_from_slice(&header.encode());
            image[at + 77] ^= u8::from(kind == 2);
        }
        for block in suspect..256 {
            let at = usize::try_from(block * 4096).unwrap();
            let header = FlushHeader::decode(&image[at..]).ok();
            expected |= header.is_some_and(|header| {
                header.salt == segment.salt && header.position.0 == block * 4096 && header.durable_to.0 > suspect * 4096
            });
        }
        let reason = crate::format::FormatError::Magic { what: "flush" };
        let mut search = TailSearch::new(segment, Position(suspect * 4096), reason);
        let (begin, end) = search.range();
        let mut rest = &image[usize::try_from(begin.0).unwrap()..usize::try_from(end.0).unwrap()];
        let mut at = begin;
        // In pieces of any size.
        for blocks in cuts.into_iter().chain([256]) {
            let (piece, after) = rest.split_at(rest.len().min(blocks * 4096));
            search.look(at, piece);
            at = at.plus(piece.len() as u64);
            rest = after;
        }
        proptest::prop_assert_eq!(search.decide(Ending::Open).is_err(), expected);
    }
}
