//! The header of a record batch: where each field lies, reading it, stamping the broker's part.
//!
//! ```text
//! offset size field
//!  0     8   base_offset       broker part: what the broker assigns,
//!  8     8   append_time_ms    with a check of its own over bytes 0..32
//! 16     8   queue_key
//! 24     4   master_epoch
//! 28     4   producer_crc      CRC32C of bytes 36..length
//! 32     4   broker_crc        CRC32C of bytes 0..32
//! 36     4   length            bytes of the whole batch, this header included
//! 40     1   version
//! 41     1   codec             0 none, 1 lz4, 2 zstd
//! 42     2   flags             bit 0 control, 1 transactional, 2 time type, 3 tag hashes follow
//! 44     4   record_count      1..
//! 48     8   producer_id       -1: none
//! 56     4   base_sequence     wrapping i32
//! 60     2   producer_epoch
//! 62     2   reserved, 0
//! 64     8   base_create_time_ms
//! 72     8   max_create_time_ms
//! 80     4   records_len       bytes of the records section once unpacked
//! 84     4   reserved, 0
//! 88     ..  records section, perhaps compressed
//!        4*n tag hashes, one a record, when flag bit 3 is set
//! ```
//!
//! All numbers are little endian. `producer_crc` lies under `broker_crc`, so that a stamp belongs to one batch and
//! cannot be moved to another.
