//! What a batch promises: round trip, every truncation refused, every flipped bit noticed, golden bytes, limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use equeue_record::{
    BATCH_HEADER_LEN, BROKER_PART_LEN, BatchBuilder, BatchFlags, BatchHeader, BatchView, BrokerStamp, Codec,
    Decompressor, MasterEpoch, Offset, ProducerStamp, PushError, QueueKey, Record, RecordError, RecordFields,
    check_batch, is_delayed, restamp_producer, split_first, stamp, tag_hash, tag_hashes,
};
use proptest::prelude::*;

const PRODUCER: ProducerStamp =
    ProducerStamp { producer_id: 77, producer_epoch: 3, base_sequence: i32::MAX - 1 };
const STAMP: BrokerStamp = BrokerStamp {
    base_offset: Offset(1_000),
    append_time_ms: 1_795_000_000_123,
    queue_key: QueueKey(5 << 40 | 9),
    master_epoch: MasterEpoch(2),
};

fn stamped(batch: &Bytes) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    stamp(bytes.first_chunk_mut::<BROKER_PART_LEN>().unwrap(), &STAMP);
    bytes
}

fn sample(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1 << 20);
    let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("a", None), ("", Some(b""))];
    builder
        .push(&RecordFields {
            key: Some(b"key"),
            tag: Some("red"),
            code: -5,
            create_time_ms: 1_000_000,
            deliver_at_ms: Some(999_000),
            headers: &headers,
            body: Some(b"hello hello hello hello hello hello hello hello hello hello"),
        })
        .unwrap();
    builder.push(&RecordFields { create_time_ms: 999_990, ..RecordFields::default() }).unwrap();
    builder
        .push(&RecordFields {
            create_time_ms: 1_000_010,
            code: i32::MIN,
            body: Some(b""),
            ..RecordFields::default()
        })
        .unwrap();
    stamped(&builder.finish(PRODUCER).unwrap())
}

#[test]
fn every_field_comes_back() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let bytes = sample(codec);
        let view = BatchView::parse(&bytes).unwrap();
        assert_eq!(view.header().record_count, 3);
        assert_eq!(view.header().producer_id, 77);
        assert_eq!(view.header().base_sequence, i32::MAX - 1);
        assert_eq!(view.header().max_create_time_ms, 1_000_010);
        assert_eq!(view.header().next_offset(), Offset(1_003));
        assert_eq!(view.tag_hashes().collect::<Vec<_>>(), [tag_hash("red"), 0, 0]);
        let mut memory = Decompressor::new();
        let records: Vec<_> = view.records(&mut memory).unwrap().map(Result::unwrap).collect();
        assert_eq!(records[0].offset, Offset(1_000));
        assert_eq!(records[0].key, Some(&b"key"[..]));
        assert_eq!(records[0].tag, Some("red"));
        assert_eq!(records[0].code, -5);
        assert_eq!(records[0].deliver_at_ms, Some(999_000));
        assert_eq!(records[0].headers().len(), 3);
        let headers: Vec<_> = records[0].headers().map(|header| (header.name, header.value)).collect();
        assert_eq!(headers, [("a", Some(&b"1"[..])), ("a", None), ("", Some(&b""[..]))]);
        assert_eq!((records[1].body, records[1].create_time_ms), (None, 999_990));
        assert_eq!((records[2].body, records[2].code), (Some(&b""[..]), i32::MIN));
    }
}

#[test]
fn what_does_not_get_smaller_is_not_packed() {
    let body: Vec<u8> = (0..200_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut builder = BatchBuilder::new(Codec::Lz4, 1 << 20);
    builder.push(&RecordFields { body: Some(&body), ..RecordFields::default() }).unwrap();
    let batch = builder.finish(ProducerStamp::NONE).unwrap();
    assert_eq!(check_batch(&batch).unwrap().codec, Codec::None);
    let packed = sample(Codec::Zstd);
    assert_eq!(BatchHeader::parse(&packed).unwrap().codec, Codec::Zstd);
    assert!(packed.len() < sample(Codec::None).len());
}

#[test]
fn a_stamp_does_not_touch_the_producers_checksum_and_belongs_to_one_batch() {
    let mut bytes = sample(Codec::None);
    check_batch(&bytes).unwrap();
    let mut other = BatchBuilder::new(Codec::None, 1 << 20);
    other.push(&RecordFields { code: 1, ..RecordFields::default() }).unwrap();
    let other = stamped(&other.finish(PRODUCER).unwrap());
    // The stamp of one batch in front of another, with the other's own producer_crc: still refused.
    bytes[..28].copy_from_slice(&other[..28]);
    bytes[32..36].copy_from_slice(&other[32..36]);
    assert!(matches!(BatchView::parse(&bytes), Err(RecordError::StampChecksum { .. })));
}

#[test]
fn every_truncation_is_refused() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let bytes = sample(codec);
        for cut in 0..bytes.len() {
            assert!(matches!(BatchView::parse(&bytes[..cut]), Err(RecordError::Truncated { .. })), "{cut}");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let bytes = sample(codec);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchView::parse(&flipped).is_err(), "bit {bit}");
        }
    }
}

/// A producer that speaks the checksum but not the format: bits flipped under a checksum that is right again.
#[test]
fn a_forged_batch_is_an_error_and_never_a_panic() {
    let mut refused = 0;
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let bytes = sample(codec);
        for bit in BROKER_PART_LEN * 8..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let crc = crc32c::crc32c(&forged[BROKER_PART_LEN..]);
            forged[28..32].copy_from_slice(&crc.to_le_bytes());
            stamp(forged.first_chunk_mut().unwrap(), &STAMP);
            let mut memory = Decompressor::new();
            let read = BatchView::parse(&forged)
                .and_then(|view| view.records(&mut memory)?.collect::<Result<Vec<_>, _>>().map(|r| r.len()));
            refused += usize::from(read.is_err());
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn limits_hold() {
    let body = vec![0_u8; 1_000];
    let record = RecordFields { body: Some(&body), ..RecordFields::default() };
    let mut builder = BatchBuilder::new(Codec::None, BATCH_HEADER_LEN + 2_100);
    assert_eq!(builder.push(&record), Ok(0));
    assert_eq!(builder.push(&record), Ok(1));
    let before = builder.len_bytes();
    assert!(matches!(builder.push(&record), Err(PushError::Full { .. })));
    let big = vec![0_u8; 3_000];
    let too_large = builder.push(&RecordFields { body: Some(&big), ..RecordFields::default() });
    assert!(matches!(too_large, Err(PushError::TooLarge { what: "record", .. })), "{too_large:?}");
    let long = "t".repeat(256);
    let tag = builder.push(&RecordFields { tag: Some(&long), ..RecordFields::default() });
    assert_eq!(tag, Err(PushError::TooLarge { what: "tag", size: 256, limit: 255 }));
    let headers = vec![("h", None); 257];
    let headers = builder.push(&RecordFields { headers: &headers, ..RecordFields::default() });
    assert_eq!(headers, Err(PushError::TooLarge { what: "number of headers", size: 257, limit: 256 }));
    assert_eq!(builder.len_bytes(), before);
    // The first tag makes room for the hashes of the records before it.
    let mut builder = BatchBuilder::new(Codec::None, BATCH_HEADER_LEN + 20);
    for _ in 0..3 {
        builder.push(&RecordFields::default()).unwrap();
    }
    assert!(matches!(
        builder.push(&RecordFields { tag: Some("x"), ..RecordFields::default() }),
        Err(PushError::Full { .. })
    ));
    assert!(BatchBuilder::new(Codec::None, 1 << 20).finish(PRODUCER).is_err());
}

#[test]
fn a_batch_can_begin_a_new_producer_epoch() {
    let bytes = Bytes::from(sample(Codec::Lz4));
    let producer = ProducerStamp { producer_id: 77, producer_epoch: 4, base_sequence: 0 };
    let again = restamp_producer(&bytes, producer).unwrap();
    let header = check_batch(&again).unwrap();
    assert_eq!((header.producer_epoch, header.base_sequence, header.record_count), (4, 0, 3));
    assert_eq!(again[BATCH_HEADER_LEN..], bytes[BATCH_HEADER_LEN..]);
}

/// Bytes fixed once and for all: a build that writes others cannot read what is stored.
#[test]
fn golden_bytes() {
    let bytes = sample(Codec::None);
    assert_eq!(bytes.len(), 195);
    assert_eq!(hex(&bytes[..BATCH_HEADER_LEN]), include_str!("golden_header.hex").trim());
    assert_eq!(hex(&bytes[BATCH_HEADER_LEN..]), include_str!("golden_records.hex").trim());
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

prop_compose! {
    fn any_record()(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        tag in proptest::option::of("[a-z]{0,12}"),
        code in any::<i32>(),
        create_time_ms in prop_oneof![Just(0), any::<i64>(), 1_700_000_000_000_i64..1_800_000_000_000],
        deliver_at_ms in proptest::option::of(any::<i64>()),
        headers in proptest::collection::vec(
            ("[a-z]{0,5}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))), 0..4),
        body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
    ) -> Owned {
        Owned { key, tag, code, create_time_ms, deliver_at_ms, headers, body }
    }
}

#[derive(Clone, Debug)]
struct Owned {
    key: Option<Vec<u8>>,
    tag: Option<String>,
    code: i32,
    create_time_ms: i64,
    deliver_at_ms: Option<i64>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    body: Option<Vec<u8>>,
}

proptest! {
    #[test]
    fn any_records_come_back(
        records in proptest::collection::vec(any_record(), 1..20),
        codec in prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)],
    ) {
        let mut builder = BatchBuilder::new(codec, 1 << 20);
        for record in &records {
            let headers: Vec<(&str, Option<&[u8]>)> =
                record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            builder.push(&RecordFields {
                key: record.key.as_deref(), tag: record.tag.as_deref(), code: record.code,
                create_time_ms: record.create_time_ms, deliver_at_ms: record.deliver_at_ms,
                headers: &headers, body: record.body.as_deref(),
            }).unwrap();
        }
        let built = builder.len_bytes();
        let batch = builder.finish(ProducerStamp::NONE).unwrap();
        prop_assert!(batch.len() <= built);
        let bytes = stamped(&batch);
        let header = check_batch(&bytes).unwrap();
        prop_assert!(!header.flags.has(BatchFlags::CONTROL));
        let view = BatchView::parse(&bytes).unwrap();
        let mut memory = Decompressor::new();
        let read: Vec<_> = view.records(&mut memory).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), records.len());
        for (read, record) in read.iter().zip(&records) {
            prop_assert_eq!(read.key, record.key.as_deref());
            prop_assert_eq!(read.tag, record.tag.as_deref());
            prop_assert_eq!(read.code, record.code);
            prop_assert_eq!(read.create_time_ms, record.create_time_ms);
            prop_assert_eq!(read.deliver_at_ms, record.deliver_at_ms);
            prop_assert_eq!(read.body, record.body.as_deref());
            let headers: Vec<_> = read.headers().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(&headers, &record.headers);
        }
        let hashes: Vec<_> = tag_hashes(&bytes, &header).collect();
        if records.iter().any(|record| record.tag.is_some()) {
            let expected: Vec<_> = records.iter().map(|r| r.tag.as_deref().map_or(0, tag_hash)).collect();
            prop_assert_eq!(hashes, expected);
        } else {
            prop_assert!(hashes.is_empty());
        }
    }

    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(split_first(&bytes).is_err());
    }
}

#[test]
fn a_delayed_batch_says_so_and_its_records_can_be_kept_without_it() {
    let mut builder = BatchBuilder::new(Codec::None, 1 << 16);
    for body in [&b"one"[..], b"two"] {
        let headers = [("a", Some(&b"1"[..])), ("b", None)];
        builder
            .push(&RecordFields {
                body: Some(body),
                key: Some(b"k"),
                create_time_ms: 50,
                deliver_at_ms: Some(1_000),
                headers: &headers,
                ..RecordFields::default()
            })
            .unwrap();
    }
    assert!(!builder.is_delayed());
    builder.set_delayed();
    let bytes = builder.finish(ProducerStamp::NONE).unwrap();
    assert!(is_delayed(&bytes) && !is_delayed(&bytes[..43]));
    assert!(check_batch(&bytes).unwrap().flags.has(BatchFlags::DELAYED));
    let view = BatchView::of_checked(&bytes).unwrap();
    let mut memory = Decompressor::default();
    for record in view.records(&mut memory).unwrap() {
        let record = record.unwrap();
        let kept = record.encoded().to_vec();
        let again = Record::from_encoded(&kept, record.offset, view.header().base_create_time_ms).unwrap();
        assert_eq!((again, again.deliver_at_ms), (record, Some(1_000)));
        for len in 0..2 {
            assert!(Record::from_encoded(&kept[..len], record.offset, 0).is_err());
        }
    }
}
