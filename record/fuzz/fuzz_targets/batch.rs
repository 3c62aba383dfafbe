//! Any bytes as a batch: an error or records, never a panic. Checksums are made right first, so that the fuzzer gets
//! past them to what they protect.
#![no_main]

use equeue_record::{
    BROKER_PART_LEN, BatchHeader, BatchView, BrokerStamp, Decompressor, MasterEpoch, Offset, QueueKey, stamp,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if let Ok(header) = BatchHeader::parse(&bytes) {
        let crc = crc32c::crc32c(&bytes[BROKER_PART_LEN..header.len()]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        let at = BrokerStamp {
            base_offset: Offset(7),
            append_time_ms: 1,
            queue_key: QueueKey(2),
            master_epoch: MasterEpoch(3),
        };
        stamp(bytes.first_chunk_mut().expect("a header was read"), &at);
    }
    if let Ok(view) = BatchView::parse(&bytes) {
        let mut memory = Decompressor::new();
        if let Ok(records) = view.records(&mut memory) {
            for record in records.flatten() {
                assert_eq!(record.headers().count(), record.headers().len());
            }
        }
        assert!(view.tag_hashes().len() <= view.header().record_count as usize);
    }
});
