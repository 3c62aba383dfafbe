//! docs/storage-format.md and the code say the same.

use equeue_storage::format::{self, Field, FlushKind, OpenCause, layout};
use equeue_storage::segment::TAIL_BYTES;

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
