//! State entries: what the log remembers besides messages, as records of control batches.
//!
//! A record's key is the entry's key, its body the value; no body removes the key. The last writer wins. The batches
//! carry [`QueueKey::STATE`](equeue_record::QueueKey::STATE) and are stamped like any other.

use bytes::Bytes;
use equeue_record::{
    BatchBuilder, BatchFlags, BatchView, Codec, Decompressor, ProducerStamp, PushError, RecordError,
    RecordFields,
};

/// Longest key of a state entry, bytes.
pub const STATE_KEY_BYTES_MAX: usize = 1 << 10;
/// Longest value of a state entry, bytes.
pub const STATE_VALUE_BYTES_MAX: usize = 32 << 10;

/// A batch of state entries that is being filled.
#[derive(Debug)]
pub struct StateBatchBuilder {
    batch: BatchBuilder,
}

impl StateBatchBuilder {
    /// An empty one; the batch will have at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        let mut batch = BatchBuilder::new(Codec::None, bytes_max);
        batch.set_control();
        Self { batch }
    }

    /// Adds an entry; `None` removes the key.
    ///
    /// # Errors
    /// [`PushError::Full`] when it belongs into another batch, [`PushError::TooLarge`] when it is over a limit. The
    /// batch is not changed.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), PushError> {
        let limits = [
            ("state key", key.len(), STATE_KEY_BYTES_MAX),
            ("state value", value.map_or(0, <[u8]>::len), STATE_VALUE_BYTES_MAX),
        ];
        for (what, size, limit) in limits {
            if size > limit {
                return Err(PushError::TooLarge { what, size, limit });
            }
        }
        self.batch.push(&RecordFields { key: Some(key), body: value, ..RecordFields::default() }).map(|_| ())
    }

    /// Whether there is no entry yet.
    pub const fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Bytes that the batch would have now.
    pub fn len_bytes(&self) -> usize {
        self.batch.len_bytes()
    }

    /// The batch, not stamped yet.
    ///
    /// # Errors
    /// When it holds no entry.
    pub fn finish(self) -> Result<Bytes, RecordError> {
        self.batch.finish(ProducerStamp::NONE)
    }
}

/// Gives the entries of a control batch in the order they were pushed.
///
/// # Errors
/// When it is no control batch, or a record is malformed or has no key; entries before it were given.
pub fn read_state(
    batch: &BatchView<'_>,
    memory: &mut Decompressor,
    mut each: impl FnMut(&[u8], Option<&[u8]>),
) -> Result<(), RecordError> {
    let flags = batch.header().flags;
    if !flags.has(BatchFlags::CONTROL) {
        return Err(RecordError::Field { field: "flags", value: u64::from(flags.bits()) });
    }
    for (index, record) in (0..).zip(batch.records(memory)?) {
        let record = record?;
        let key = record.key.ok_or(RecordError::Record { index, what: "key" })?;
        each(key, record.body);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use equeue_record::{BROKER_PART_LEN, BrokerStamp, MasterEpoch, Offset, QueueKey, stamp};

    use super::*;

    fn stamped(batch: &Bytes) -> Vec<u8> {
        let mut bytes = batch.to_vec();
        let front: &mut [u8; BROKER_PART_LEN] = bytes.first_chunk_mut().unwrap();
        stamp(
            front,
            &BrokerStamp {
                base_offset: Offset(0),
                append_time_ms: 5,
                queue_key: QueueKey::STATE,
                master_epoch: MasterEpoch(1),
            },
        );
        bytes
    }

    #[test]
    fn round_trip() {
        let mut builder = StateBatchBuilder::new(64 << 10);
        assert!(builder.is_empty());
        builder.push(b"a", Some(b"1")).unwrap();
        builder.push(b"", Some(b"")).unwrap();
        builder.push(b"a", None).unwrap();
        let bytes = stamped(&builder.finish().unwrap());
        let view = BatchView::parse(&bytes).unwrap();
        let mut seen = Vec::new();
        read_state(&view, &mut Decompressor::new(), |key, value| {
            seen.push((key.to_vec(), value.map(<[u8]>::to_vec)));
        })
        .unwrap();
        assert_eq!(
            seen,
            [(b"a".to_vec(), Some(b"1".to_vec())), (vec![], Some(vec![])), (b"a".to_vec(), None)]
        );
    }

    #[test]
    fn limits() {
        let mut builder = StateBatchBuilder::new(40 << 10);
        let (key, value) = (vec![1; STATE_KEY_BYTES_MAX], vec![2; STATE_VALUE_BYTES_MAX]);
        assert!(matches!(builder.push(&[0; 1025], None), Err(PushError::TooLarge { .. })));
        assert!(matches!(builder.push(b"k", Some(&vec![0; 32_769])), Err(PushError::TooLarge { .. })));
        builder.push(&key, Some(&value)).unwrap();
        assert!(matches!(builder.push(&key, Some(&value)), Err(PushError::Full { .. })));
    }

    #[test]
    fn a_batch_of_messages_is_refused() {
        let mut builder = BatchBuilder::new(Codec::None, 4096);
        builder.push(&RecordFields { key: Some(b"k"), ..RecordFields::default() }).unwrap();
        let bytes = stamped(&builder.finish(ProducerStamp::NONE).unwrap());
        let view = BatchView::parse(&bytes).unwrap();
        assert!(read_state(&view, &mut Decompressor::new(), |_, _| panic!("no entry is here")).is_err());
    }
}
