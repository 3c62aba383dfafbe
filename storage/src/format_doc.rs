//! docs/storage-format.md and the code say the same.

use std::ops::Range;

use equeue_record::{Offset, QueueKey};
use uuid::Uuid;

use crate::format::{self, Field, FlushKind, Identity, OpenCause, Salt, layout};
use crate::index::{Run, layout as index};
use crate::io::PROBE_FILE;
use crate::producer_state::{REMEMBERED, STORED_LEN, decode_stored};
use crate::segment::TAIL_BYTES;
use crate::state::EntryKey;
use crate::types::{LogId, Position};

const DOC: &str = include_str!("../../docs/storage-format.md");

/// The cells of the rows of the first table behind `marker`, without its two lines of head.
fn table(marker: &str) -> Vec<Vec<&'static str>> {
    let at = DOC.find(marker).unwrap_or_else(|| panic!("the document has no {marker:?}"));
    let mut rows: Vec<Vec<_>> = DOC[at..]
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert!(rows.len() > 2, "no table behind {marker:?}");
    rows.drain(..2);
    rows
}

#[test]
fn fields_are_where_the_tables_say() {
    let tables: [(&str, &[Field]); 6] = [
        ("### Segment header", layout::SEGMENT_FIELDS),
        ("### Flush header", layout::FLUSH_FIELDS),
        ("\nSEAL: ", layout::SEAL_FIELDS),
        ("\nOPEN: ", layout::OPEN_FIELDS),
        ("\nSNAPSHOT: ", layout::SNAPSHOT_FIELDS),
        ("\nGAP: ", layout::GAP_FIELDS),
    ];
    for (marker, fields) in tables {
        let said: Vec<_> = table(marker).iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
        let is: Vec<_> = fields
            .iter()
            .map(|field| (format!("{}..{}", field.at, field.at + field.len), field.name.to_owned()))
            .collect();
        assert_eq!(said, is, "the table behind {marker:?} is not the code's");
    }
}

#[test]
fn constants_are_what_the_table_says() {
    let is: [(&str, u64); 16] = [
        ("FORMAT_VERSION", format::FORMAT_VERSION.into()),
        ("BLOCK_BYTES", format::BLOCK_BYTES),
        ("WINDOW_BYTES", format::WINDOW_BYTES),
        ("FLUSH_SPAN_MAX", format::FLUSH_SPAN_MAX),
        ("FLUSH_DEPTH_MAX", format::FLUSH_DEPTH_MAX),
        ("TAIL_BYTES", TAIL_BYTES),
        ("SEGMENT_BYTES_MIN", format::SEGMENT_BYTES_MIN),
        ("SEGMENT_BYTES_MAX", format::SEGMENT_BYTES_MAX),
        ("SEGMENT_HEADER_LEN", format::SEGMENT_HEADER_LEN as u64),
        ("FLUSH_HEADER_LEN", format::FLUSH_HEADER_LEN as u64),
        ("LOCAL_PART_AT", format::LOCAL_PART_AT as u64),
        ("STATE_KEY_BYTES_MAX", format::STATE_KEY_BYTES_MAX as u64),
        ("STATE_VALUE_BYTES_MAX", format::STATE_VALUE_BYTES_MAX as u64),
        ("IDENTITY_BYTES_MAX", format::IDENTITY_BYTES_MAX as u64),
        ("NAME_BYTES_MAX", format::NAME_BYTES_MAX as u64),
        ("BROKER_GROUP_MAX", format::BROKER_GROUP_MAX.into()),
    ];
    let rows = table("## Constants");
    let said: Vec<_> = rows.iter().map(|row| (row[0], row[1].parse().unwrap())).collect();
    assert_eq!(said, is);
}

#[test]
fn codes_and_magic_numbers_are_named() {
    let cell = |marker: &str, field: &str| {
        table(marker).into_iter().find(|row| row[1] == field).map(|row| row[2]).unwrap()
    };
    let kinds: Vec<_> = FlushKind::ALL
        .iter()
        .map(|kind| format!("{} {}", *kind as u8, format!("{kind:?}").to_uppercase()))
        .collect();
    assert_eq!(cell("### Flush header", "kind"), kinds.join(", "));
    let causes = cell("\nOPEN: ", "cause").split(", ").map(|cause| cause[..1].parse().unwrap());
    assert_eq!(causes.collect::<Vec<u8>>(), OpenCause::ALL.map(|cause| cause as u8));
    assert_eq!(cell("### Segment header", "magic").as_bytes(), format::SEGMENT_MAGIC);
    assert_eq!(format::FLUSH_MAGIC.strip_suffix(&[0x1a]).unwrap(), b"EQFLUSH");
    assert!(cell("### Flush header", "magic").starts_with("EQFLUSH"));
}

/// `bytes` have these fields, in this order and right behind one another, where the table behind `marker` says.
fn assert_fields(marker: &str, bytes: Range<usize>, structure: &[u8], fields: &[(&str, Vec<u8>)]) {
    let mut at = bytes.start;
    let rows = table(marker);
    let names: Vec<_> = rows.iter().map(|row| row[1]).collect();
    assert_eq!(names, fields.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "behind {marker:?}");
    for (row, (name, value)) in rows.iter().zip(fields) {
        let end = at + value.len();
        assert_eq!(row[0], format!("{at}..{end}"), "{name} behind {marker:?}");
        assert_eq!(&structure[at..end], value, "{name} behind {marker:?}");
        at = end;
    }
    assert_eq!(at, bytes.end, "the table behind {marker:?} ends elsewhere");
}

/// Eight bytes that are nowhere else.
fn mark(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

#[test]
fn the_index_has_its_fields_where_the_tables_say() {
    let (front, entry, fence) = (index::FRONT_LEN, index::ENTRY_LEN, index::FENCE_LEN);
    let position = Position(mark(3));
    let run = Run {
        base_offset: Offset(mark(2)),
        position,
        last_time_ms: i64::from_le_bytes([4; 8]),
        record_count: u32::from_le_bytes([5; 4]),
        bytes: u32::from_le_bytes([6; 4]),
    };
    let entries = [index::Entry { queue: QueueKey(mark(1)), run }; 3];
    let of_entry = [
        ("queue_key", vec![1; 8]),
        ("base_offset", vec![2; 8]),
        ("position", vec![3; 8]),
        ("last_time_ms", vec![4; 8]),
        ("record_count", vec![5; 4]),
        ("bytes", vec![6; 4]),
    ];
    let block = index::encode_entries(position, 9, &entries);
    assert_eq!(block[front..front + entry], block[front + entry..front + 2 * entry]);
    assert_fields("### Entry of an index", 0..entry, &block[front..], &of_entry);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[3; 8]), &9_u32.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &block[4..]).to_le_bytes().to_vec();
    let of_front = [("crc", crc), ("count", vec![3, 0]), ("reserved", vec![0; 2])];
    assert_fields("### Block of an index", 0..front, &block, &of_front);
    let fences = index::encode_fences(position, 9, &entries.map(|entry| entry.fence()));
    let of_fence = [("queue_key", vec![1; 8]), ("base_offset", vec![2; 8]), ("last_time_ms", vec![4; 8])];
    assert_fields("### Fence of an index", 0..fence, &fences[front..], &of_fence);
    let header = index::IndexHeader {
        log: LogId(u16::from_le_bytes([7; 2])),
        position,
        salt: Salt::from_bits(mark(8)),
        entries: mark(9),
        entry_blocks: u32::from_le_bytes([10; 4]),
        fence_blocks: u32::from_le_bytes([11; 4]),
    };
    let of_header = [
        ("magic", index::MAGIC.to_vec()),
        ("version", format::FORMAT_VERSION.to_le_bytes().to_vec()),
        ("log", vec![7; 2]),
        ("reserved", vec![0; 4]),
        ("position", vec![3; 8]),
        ("salt", vec![8; 8]),
        ("entries", vec![9; 8]),
        ("entry_blocks", vec![10; 4]),
        ("fence_blocks", vec![11; 4]),
        ("zeros", vec![0; index::INDEX_BLOCK_LEN - 56]),
    ];
    assert_fields("### Header of an index", front..index::INDEX_BLOCK_LEN, &header.encode(), &of_header);
    let most = format!("up to {} a block, then fences", index::ENTRIES_MAX);
    assert!(DOC.contains(&most) && DOC.contains(&format!("up to {} a block.", index::FENCES_MAX)));
    assert_eq!(index::MAGIC.strip_suffix(&[0x1a]).unwrap(), b"EQINDEX");
    assert!(table("### Header of an index")[0][2].starts_with("EQINDEX` 1a"));
}

/// The key that the words of a table make: numbers are 7, everything else is text.
fn key_of(words: &str) -> Vec<u8> {
    let mut key = Vec::new();
    for word in words.split(", ").filter(|word| !word.is_empty()) {
        match word.rsplit(' ').next() {
            Some("u64") => key.extend_from_slice(&7_u64.to_be_bytes()),
            Some("i64") => key.extend_from_slice(&7_i64.to_be_bytes()),
            _ => key.extend_from_slice(b"text"),
        }
    }
    key
}

#[test]
fn state_entries_have_the_classes_and_keys_of_the_table() {
    let queue = QueueKey(7);
    let known = [
        EntryKey::State(b"text"),
        EntryKey::Queue(queue),
        EntryKey::Start(queue),
        EntryKey::Kept,
        EntryKey::Dead(queue),
        EntryKey::Producer((7, queue)),
    ];
    let rows = table("### State entries");
    let said: Vec<_> = rows.iter().map(|row| [row[0].as_bytes(), &key_of(row[1])].concat()).collect();
    let is = known.map(|key| {
        let mut bytes = Vec::new();
        key.put(&mut bytes);
        bytes
    });
    assert_eq!(said, is);
    // What is not in the table is none: each class takes a key of one of these lengths.
    for class in 0..=u8::MAX {
        let is_taken = [0, 8, 16]
            .iter()
            .any(|len| EntryKey::parse(&[&[class][..], &[0; 16][..*len]].concat()).is_some());
        assert_eq!(is_taken, rows.iter().any(|row| row[0].as_bytes() == [class]), "class {class}");
    }
}

#[test]
fn batches_of_producers_have_their_fields_where_the_table_says() {
    let fields = [
        ("epoch", vec![1; 2]),
        ("base_sequence", vec![2; 4]),
        ("record_count", vec![3; 4]),
        ("base_offset", vec![4; 8]),
        ("append_time_ms", vec![5; 8]),
    ];
    let stored: Vec<_> = fields.iter().flat_map(|(_, value)| value.clone()).collect();
    assert_fields("### Batch of a producer", 0..STORED_LEN, &stored, &fields);
    let read = decode_stored(&stored.repeat(REMEMBERED)).unwrap();
    assert!(DOC.contains(&format!("has up to {} of these", read.len())));
    let read = read[0];
    assert_eq!((read.epoch, read.base_sequence), (i16::from_le_bytes([1; 2]), i32::from_le_bytes([2; 4])));
    assert_eq!(read.record_count, u32::from_le_bytes([3; 4]));
    assert_eq!((read.base_offset, read.append_time_ms), (Offset(mark(4)), i64::from_le_bytes([5; 8])));
}

#[test]
fn files_and_folders_are_called_as_the_list_says() {
    let (log, position) = (format::log_dir_name(LogId(3)), Position(1 << 20));
    let in_log = |name: String| format!("{log}/{name}");
    let is = [
        format::IDENTITY_FILE.to_owned(),
        format::LOCK_FILE.to_owned(),
        PROBE_FILE.to_owned(),
        format::BEGUN_FILE.to_owned(),
        in_log(format::segment_name(position)),
        in_log(format::index_name(position)),
        in_log(format::prep_name(1 << 20)),
        in_log(format::BALLAST_FILE.to_owned()),
        in_log(format::REPAIR_INTENT_FILE.to_owned()),
        in_log(format::BEGIN_ANEW_FILE.to_owned()),
        in_log(format::repair_name(position)),
        in_log(format!("{}/", format::LOST_AND_FOUND_DIR)),
    ];
    let lines = DOC.lines().filter_map(|line| line.trim_start().strip_prefix("<data-dir>/"));
    let named = lines.filter_map(|line| line.split_whitespace().next());
    let said: Vec<_> = named
        .map(|name| {
            let name = name.replace("<n>", "3").replace("<position>", &format!("{:020}", position.0));
            name.replace('*', &position.0.to_string())
        })
        .collect();
    assert_eq!(said, is);
}

#[test]
fn the_identity_has_the_lines_that_are_listed() {
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
    let text = identity.encode().unwrap();
    let is: Vec<_> = text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
    let (_, list) = DOC.split_once("per line in a fixed order (").unwrap();
    let (list, rest) = list.split_once(')').unwrap();
    let mut said: Vec<_> = list.split(',').map(|key| key.trim().trim_matches('`')).collect();
    assert!(rest.trim_start().starts_with(", and `crc32c = ") && text.starts_with('#'));
    said.push("crc32c");
    assert_eq!(said, is);
}
