//! Data directories with every kind of damage.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use equeue_record::{
    BROKER_PART_LEN, BatchBuilder, BrokerStamp, Codec, MasterEpoch, Offset, ProducerStamp, QueueKey,
    RecordFields, stamp,
};
use uuid::Uuid;

use super::*;
use crate::format::{
    Chain, FlushHeader, FlushKind, Identity, OpenBody, OpenCause, Salt, SealBody, SegmentHeader,
    SnapshotPrefix, StateBatchBuilder, segment_name,
};
use crate::types::LogId;

const MIB: u64 = 1 << 20;

fn stamped(batch: &[u8], queue: QueueKey, base: u64) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    let front: &mut [u8; BROKER_PART_LEN] = bytes.first_chunk_mut().unwrap();
    let (base_offset, append_time_ms, master_epoch) = (Offset(base), 9, MasterEpoch(1));
    stamp(front, &BrokerStamp { base_offset, append_time_ms, queue_key: queue, master_epoch });
    bytes
}

fn messages(queue: u64, base: u64, count: u64) -> Vec<u8> {
    let mut batch = BatchBuilder::new(Codec::Lz4, 1 << 20);
    for index in 0..count {
        let body = format!("message {} of queue {queue} {}", base + index, "x".repeat(50));
        batch.push(&RecordFields { body: Some(body.as_bytes()), ..RecordFields::default() }).unwrap();
    }
    stamped(&batch.finish(ProducerStamp::NONE).unwrap(), QueueKey(queue), base)
}

fn state(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut batch = StateBatchBuilder::new(1 << 20);
    for (key, value) in entries {
        batch.push(key.as_bytes(), Some(value.as_bytes())).unwrap();
    }
    stamped(&batch.finish().unwrap(), QueueKey::STATE, 0)
}

/// A data directory with one log, written segment by segment.
struct Writer {
    dir: tempfile::TempDir,
    segment: SegmentHeader,
    chain: Chain,
    image: Vec<u8>,
    flushes: Vec<FlushHeader>,
}

impl Writer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster_name: "c".into(),
            cluster: Uuid::from_u128(1),
            broker_name: "b".into(),
            broker_id: 0,
            broker_group: 7,
            incarnation: Uuid::from_u128(2),
            created_ms: 3,
            logs: 1,
        };
        std::fs::write(dir.path().join("identity"), identity.encode().unwrap()).unwrap();
        std::fs::create_dir(dir.path().join("log-0")).unwrap();
        let chain = Chain { position: Position(0), link: Some(Chain::START) };
        let mut writer =
            Self { dir, segment: Self::header(0), chain, image: Vec::new(), flushes: Vec::new() };
        writer.begin(0);
        writer
    }

    fn header(position: u64) -> SegmentHeader {
        let salt = Salt::from_bits(position + 77);
        SegmentHeader {
            log: LogId(0),
            position: Position(position),
            bytes: 2 * MIB,
            salt,
            created_ms: 5,
            has_gaps: false,
        }
    }

    fn begin(&mut self, position: u64) {
        self.segment = Self::header(position);
        self.image = vec![0; usize::try_from(self.segment.bytes).unwrap()];
        self.image[..4096].copy_from_slice(&self.segment.encode());
        self.chain.position = self.segment.first_flush();
    }

    fn flush(&mut self, kind: FlushKind, body: &[u8]) {
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
        let at = usize::try_from(header.position.0 - self.segment.position.0).unwrap();
        self.image[at..at + 128].copy_from_slice(&header.encode());
        self.image[at + 128..][..body.len()].copy_from_slice(body);
        self.chain = Chain::after(&header);
        self.flushes.push(header);
    }

    fn path(&self, position: u64) -> PathBuf {
        self.dir.path().join("log-0").join(segment_name(Position(position)))
    }

    fn write(&self) {
        std::fs::write(self.path(self.segment.position.0), &self.image).unwrap();
    }

    fn seal(&mut self) {
        let next = self.segment.end();
        self.flush(FlushKind::Seal, &SealBody { next }.encode());
        self.write();
        self.begin(next.0);
    }

    fn verify(&self) -> VerifyReport {
        self.write();
        verify(self.dir.path()).unwrap()
    }

    fn damage(&self, segment: u64, at: u64) {
        let mut bytes = std::fs::read(self.path(segment)).unwrap();
        bytes[usize::try_from(at - segment).unwrap()] ^= 4;
        std::fs::write(self.path(segment), bytes).unwrap();
    }
}

/// Two segments: OPEN, messages of two queues, state, a snapshot, SEAL; messages, IDLE.
fn sound() -> Writer {
    let mut writer = Writer::new();
    let open = OpenBody { previous_end: Position(0), epoch: MasterEpoch(1), cause: OpenCause::New };
    writer.flush(FlushKind::Open, &open.encode());
    writer.flush(FlushKind::Data, &[messages(1, 0, 10), messages(1, 10, 1), messages(2, 0, 5)].concat());
    writer.flush(FlushKind::Data, &state(&[("sa", "1"), ("sb", "2")]));
    let begin = writer.chain.position;
    let prefix = SnapshotPrefix { begin, as_of: begin, index: 0, is_begin: true, is_end: true };
    writer.flush(FlushKind::Snapshot, &[prefix.encode().to_vec(), state(&[("sa", "1")])].concat());
    writer.seal();
    for index in 0..4 {
        writer.flush(FlushKind::Data, &messages(1, 11 + index, 1));
    }
    writer.flush(FlushKind::Idle, &[]);
    writer
}

#[test]
fn a_sound_directory_is_counted() {
    let writer = sound();
    let report = writer.verify();
    assert!(report.is_sound(), "{:?}", report.damaged);
    assert_eq!(report.identity.as_ref().unwrap().broker_group, 7);
    let totals = report.totals();
    assert_eq!((totals.segments, totals.flushes, totals.batches), (2, 10, 7));
    assert_eq!((totals.records, totals.state_entries), (20, 3));
    let log = &report.logs[0];
    assert_eq!((log.begin, log.end, log.torn_bytes), (Position(0), writer.chain.position, 0));
}

#[test]
fn a_torn_tail_is_no_damage() {
    let mut writer = sound();
    let end = writer.chain.position;
    writer.flush(FlushKind::Data, &messages(1, 15, 1));
    let at = usize::try_from(end.0 - writer.segment.position.0).unwrap();
    writer.image[at + 150] ^= 1;
    let report = writer.verify();
    assert!(report.is_sound(), "{:?}", report.damaged);
    assert_eq!((report.logs[0].end, report.logs[0].torn_bytes), (end, 4096));
}

#[test]
fn each_damage_is_named_with_file_and_position() {
    let writer = sound();
    writer.write();
    // Two flushes of the second segment, one of the first.
    for index in [1, 5, 7] {
        let position = writer.flushes[index].position;
        writer.damage(if index < 5 { 0 } else { 2 * MIB }, position.0 + 200);
    }
    let report = verify(writer.dir.path()).unwrap();
    let found: Vec<_> =
        report.damaged.iter().map(|damaged| (damaged.path.clone(), damaged.position)).collect();
    let at = |index: usize, segment| (writer.path(segment), writer.flushes[index].position);
    assert_eq!(found, [at(1, 0), at(5, 2 * MIB), at(7, 2 * MIB)]);
    assert_eq!(report.totals().flushes, 7);
    let text = report.damaged[0].to_string();
    assert!(text.contains("00000000000000000000.seg") && text.contains("checksum"), "{text}");
}

#[test]
fn missing_and_ruined_files_are_damage() {
    let writer = sound();
    writer.write();
    let reason =
        |report: VerifyReport| report.damaged.first().map(|d| (d.position.0, d.reason.clone())).unwrap();
    // The newest segment.
    std::fs::rename(writer.path(2 * MIB), writer.dir.path().join("kept")).unwrap();
    let (position, text) = reason(verify(writer.dir.path()).unwrap());
    assert_eq!((position, text.contains("missing")), (2 * MIB, true), "{text}");
    std::fs::rename(writer.dir.path().join("kept"), writer.path(2 * MIB)).unwrap();
    // The oldest segment.
    std::fs::rename(writer.path(0), writer.dir.path().join("kept")).unwrap();
    let (position, text) = reason(verify(writer.dir.path()).unwrap());
    assert_eq!((position, text.contains("no complete snapshot")), (2 * MIB, true), "{text}");
    std::fs::rename(writer.dir.path().join("kept"), writer.path(0)).unwrap();
    // The header block of each.
    for segment in [0, 2 * MIB] {
        writer.damage(segment, segment + 17);
        let (position, text) = reason(verify(writer.dir.path()).unwrap());
        assert_eq!((position, text.contains("segment header")), (segment, true), "{text}");
        writer.damage(segment, segment + 17);
    }
    // A file cut short.
    let bytes = std::fs::read(writer.path(0)).unwrap();
    std::fs::write(writer.path(0), &bytes[..5000]).unwrap();
    let (_, text) = reason(verify(writer.dir.path()).unwrap());
    assert!(text.contains("5000 bytes"), "{text}");
    std::fs::write(writer.path(0), &bytes).unwrap();
    // The identity.
    let identity = std::fs::read(writer.dir.path().join("identity")).unwrap();
    std::fs::write(writer.dir.path().join("identity"), &identity[..100]).unwrap();
    let (_, text) = reason(verify(writer.dir.path()).unwrap());
    assert!(text.contains("identity"), "{text}");
    std::fs::write(writer.dir.path().join("identity"), &identity).unwrap();
    assert!(verify(writer.dir.path()).unwrap().is_sound());
    // The folder of a log.
    note_begun(writer.dir.path(), 1).unwrap();
    assert!(verify(writer.dir.path()).unwrap().is_sound());
    std::fs::rename(writer.dir.path().join("log-0"), writer.dir.path().join("kept")).unwrap();
    let (_, text) = reason(verify(writer.dir.path()).unwrap());
    assert!(text.contains("log 0 is missing"), "{text}");
    assert!(matches!(verify(&writer.dir.path().join("kept")), Err(OfflineError::NoDataDirectory { .. })));
    assert!(matches!(verify(Path::new("/nowhere")), Err(OfflineError::Io { .. })));
}

#[test]
fn what_an_open_ended_is_ignored() {
    let mut writer = sound();
    let end = writer.chain.position;
    let link = writer.chain.link;
    // Written, never acknowledged, and given up by the OPEN.
    writer.flush(FlushKind::Data, &messages(1, 15, 1));
    writer.write();
    writer.begin(4 * MIB);
    writer.chain.link = link;
    let open = OpenBody { previous_end: end, epoch: MasterEpoch(2), cause: OpenCause::Crash };
    writer.flush(FlushKind::Open, &open.encode());
    writer.flush(FlushKind::Data, &messages(1, 15, 2));
    let report = writer.verify();
    assert!(report.is_sound(), "{:?}", report.damaged);
    assert_eq!(report.totals().records, 22);
    // A chain that leads through the given up flush is noticed.
    writer.chain.link = Some(1);
    writer.flush(FlushKind::Idle, &[]);
    assert_eq!(writer.verify().damaged.len(), 1);
}

#[test]
fn a_body_that_is_no_run_of_batches_is_damage() {
    let mut writer = sound();
    let position = writer.chain.position;
    writer.flush(FlushKind::Data, b"not a batch");
    writer.flush(FlushKind::Idle, &[]);
    let report = writer.verify();
    assert_eq!(report.damaged.iter().map(|d| d.position).collect::<Vec<_>>(), [position]);
}

#[test]
fn dump_gives_what_is_asked_for_in_order() {
    let writer = sound();
    writer.write();
    writer.damage(2 * MIB, writer.flushes[6].position.0 + 200);
    let items = |options: &DumpOptions| {
        let mut items = Vec::new();
        dump(writer.dir.path(), options, |item| {
            items.push(match item {
                DumpItem::Identity(identity) => format!("identity {}", identity.broker_name),
                DumpItem::Log(log) => format!("log {log}"),
                DumpItem::Segment(_, header) => format!("segment {}", header.position),
                DumpItem::Flush(header) => format!("{:?}", header.kind),
                DumpItem::Batch(header) => format!("batch {} {}", header.queue_key, header.base_offset),
                DumpItem::Record(record) => format!("record {}", record.offset),
                DumpItem::State(key, value) => format!("state {key:?} {}", value.is_some()),
                DumpItem::End(..) => "end".into(),
                DumpItem::Damaged(damaged) => format!("damaged {}", damaged.position),
            });
            if items.len() == 99 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        items
    };
    let all = items(&DumpOptions::default());
    assert_eq!(all[..6], ["identity b", "log 0", "segment 0", "Open", "Data", "batch 1 0"]);
    let count = |items: &[String], prefix| items.iter().filter(|item| item.starts_with(prefix)).count();
    assert_eq!((count(&all, "record"), count(&all, "state"), count(&all, "damaged")), (19, 3, 1));
    assert_eq!(all.last().unwrap(), "end");
    let second = items(&DumpOptions { queue: Some(QueueKey(2)), ..DumpOptions::default() });
    assert_eq!((count(&second, "batch"), count(&second, "record"), count(&second, "state")), (1, 5, 0));
    let later = items(&DumpOptions { from: Some(Position(2 * MIB)), ..DumpOptions::default() });
    assert_eq!((count(&later, "segment"), count(&later, "record")), (1, 3));
    let other = items(&DumpOptions { log: Some(LogId(1)), ..DumpOptions::default() });
    assert_eq!(other, ["identity b"]);
    let mut seen = 0;
    dump(writer.dir.path(), &DumpOptions::default(), |_| {
        seen += 1;
        if seen == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(seen, 7);
}

/// Looking at a mapped page that is not there kills the process; nothing is worse for who wants to know what is left.
#[test]
fn what_cannot_be_read_is_an_error_with_file_and_position() {
    let mut writer = sound();
    for index in 0..300 {
        writer.flush(FlushKind::Data, &messages(1, 15 + index, 1));
    }
    writer.write();
    let path = writer.path(2 * MIB);
    let mut seen = 0;
    let dumped = dump(writer.dir.path(), &DumpOptions::default(), |item| {
        if let DumpItem::Flush(header) = item {
            // The file is mapped by now; its second half goes.
            if header.position >= Position(2 * MIB) && seen == 0 {
                std::fs::File::options().write(true).open(&path).unwrap().set_len(MIB).unwrap();
            }
            seen += u32::from(header.position >= Position(2 * MIB));
        }
        ControlFlow::Continue(())
    });
    match dumped {
        Err(OfflineError::Unreadable { path: named, position, .. }) => {
            assert_eq!((named, position), (path, Position(3 * MIB)));
        }
        other => panic!("{other:?}"),
    }
    assert!(seen > 200, "{seen}");
}
