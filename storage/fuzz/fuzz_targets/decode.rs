//! Any bytes as each structure on disk: an error or a value, and a value is written as it was read.
//!
//! Random bytes have no good checksum, so the checksums are put right before a second try.
#![no_main]

use equeue_record::{BatchView, Decompressor};
use equeue_storage::format::{
    FLUSH_HEADER_LEN, FLUSH_MAGIC, FileName, FlushHeader, Identity, OpenBody, SEGMENT_HEADER_LEN,
    SEGMENT_MAGIC, SealBody, SegmentHeader, SnapshotPrefix, parse_log_dir_name, read_state,
};
use libfuzzer_sys::fuzz_target;

fn put_crc(bytes: &mut [u8], from: usize, at: usize) {
    let crc = crc32c::crc32c(&bytes[from..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn flush_header(bytes: &[u8]) {
    let Ok(header) = FlushHeader::decode(bytes) else { return };
    assert_eq!(header.encode(), bytes[..FLUSH_HEADER_LEN]);
    assert!(header.written_len() <= u64::from(header.span) && header.next() > header.position);
}

fn segment_header(bytes: &[u8]) {
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    assert_eq!(header.encode(), bytes[..SEGMENT_HEADER_LEN]);
    assert!(header.first_flush() < header.end());
}

fuzz_target!(|bytes: &[u8]| {
    flush_header(bytes);
    if bytes.len() >= FLUSH_HEADER_LEN {
        let mut header = bytes[..FLUSH_HEADER_LEN].to_vec();
        header[..8].copy_from_slice(&FLUSH_MAGIC);
        put_crc(&mut header, 0, 60);
        put_crc(&mut header, 60, 124);
        flush_header(&header);
    }

    segment_header(bytes);
    let mut block = bytes.to_vec();
    block.resize(SEGMENT_HEADER_LEN, 0);
    block[..8].copy_from_slice(&SEGMENT_MAGIC);
    put_crc(&mut block, 0, SEGMENT_HEADER_LEN - 4);
    segment_header(&block);

    if let Ok(seal) = SealBody::decode(bytes) {
        assert_eq!(seal.encode(), bytes);
    }
    if let Ok(open) = OpenBody::decode(bytes) {
        assert_eq!(open.encode(), bytes);
    }
    if let Ok((prefix, rest)) = SnapshotPrefix::split(bytes) {
        assert_eq!([&prefix.encode(), rest].concat(), bytes);
    }
    if let Ok(batch) = BatchView::parse(bytes) {
        let _ = read_state(&batch, &mut Decompressor::new(), |_, _| ());
    }
    if let Ok(identity) = Identity::decode(bytes) {
        assert_eq!(identity.encode().unwrap().as_bytes(), bytes);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        // With the checksum that it should have.
        let crc = crc32c::crc32c(text.as_bytes());
        if let Ok(identity) = Identity::decode(format!("{text}crc32c = \"{crc:08x}\"\n").as_bytes()) {
            assert!(identity.check().is_ok());
        }
        let _ = (FileName::parse(text), parse_log_dir_name(text));
    }
});
