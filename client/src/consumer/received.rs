//! A received batch: verified once when it came, read without copying.

use std::sync::Arc;

use bytes::Bytes;
use equeue_record::{BatchHeader, BatchView, Codec, Decompressor, Offset, Record, RecordError};

use super::track::{Home, Track};
use crate::message::{Header, Received, Text};

/// One verified batch.
#[derive(Debug)]
pub struct ReceivedBatch {
    pub(super) track: Arc<Track>,
    home: Arc<Home>,
    bytes: Bytes,
    header: BatchHeader,
    /// First offset wanted: a batch may begin before it.
    wanted: Offset,
    /// After the last offset wanted, where the rest was given out already.
    until: Option<Offset>,
    memory: Decompressor,
}

impl ReceivedBatch {
    /// Checks the batch (structure and both checksums).
    pub(crate) fn check(track: Arc<Track>, bytes: Bytes, wanted: Offset) -> Result<Self, RecordError> {
        let header = *BatchView::parse(&bytes)?.header();
        let home = track.home();
        if header.queue_key != home.key {
            return Err(RecordError::Field { field: "queue_key", value: header.queue_key.0 });
        }
        Ok(Self { track, home, bytes, header, wanted, until: None, memory: Decompressor::new() })
    }

    /// Name of its topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.track.topic.name
    }

    /// Ordinal of its queue.
    pub fn queue(&self) -> u32 {
        self.track.ordinal
    }

    /// Name of the broker that it was read from.
    pub fn broker(&self) -> &Arc<str> {
        &self.home.broker
    }

    /// Broker's time at append, ms UTC.
    pub fn append_time_ms(&self) -> i64 {
        self.header.append_time_ms
    }

    /// Records of the batch, wanted or not.
    pub(crate) fn record_count(&self) -> usize {
        self.header.record_count as usize
    }

    /// Bytes of the batch.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of the first record wanted.
    pub fn first_offset(&self) -> Offset {
        self.wanted.max(self.header.base_offset)
    }

    /// The offset after its last record.
    pub fn next_offset(&self) -> Offset {
        self.until.unwrap_or_else(|| self.header.next_offset())
    }

    /// A part of it, to be given out again.
    pub(super) fn part(&self, wanted: Offset, until: Offset) -> Self {
        Self {
            track: Arc::clone(&self.track),
            home: Arc::clone(&self.home),
            bytes: self.bytes.clone(),
            header: self.header,
            wanted,
            until: Some(until),
            memory: Decompressor::new(),
        }
    }

    /// Its records in the order of offsets, from the first one wanted on; records that the tags leave out are missing.
    ///
    /// # Errors
    /// When compressed records cannot be unpacked; an item is an error when a record is malformed.
    pub fn records(&mut self) -> Result<impl Iterator<Item = Result<Record<'_>, RecordError>>, RecordError> {
        let view = BatchView::of_checked(&self.bytes)?;
        let (wanted, until, topic) = (self.wanted, self.next_offset(), &self.track.topic);
        let records = view.records(&mut self.memory)?;
        Ok(records.filter(move |record| {
            record
                .as_ref()
                .map_or(true, |record| (wanted..until).contains(&record.offset) && topic.wants(record.tag))
        }))
    }

    /// Leaves out what lies before `wanted`.
    pub(super) fn set_wanted(&mut self, wanted: Offset) {
        self.wanted = self.wanted.max(wanted);
    }

    /// Its records as owned messages.
    pub(crate) fn messages(&mut self) -> Result<Vec<Received>, RecordError> {
        let (track, home) = (Arc::clone(&self.track), Arc::clone(&self.home));
        let (append_time_ms, codec) = (self.header.append_time_ms, self.header.codec);
        let frame = self.bytes.clone();
        let share = |part: &[u8]| match codec {
            Codec::None => frame.slice_ref(part),
            // It lies in the unpacker's memory, which is used again.
            Codec::Lz4 | Codec::Zstd => Bytes::copy_from_slice(part),
        };
        let own = |record: Result<Record<'_>, RecordError>| {
            let record = record?;
            Ok(Received {
                topic: Arc::clone(&track.topic.name),
                broker: Arc::clone(&home.broker),
                queue: track.ordinal,
                queue_key: home.key,
                offset: record.offset,
                append_time_ms,
                create_time_ms: record.create_time_ms,
                deliver_at_ms: record.deliver_at_ms,
                key: record.key.map(share),
                tag: record.tag.map(|tag| Text::shared(tag, share)),
                code: record.code,
                headers: record
                    .headers()
                    .map(|header| Header {
                        name: Text::shared(header.name, share),
                        value: header.value.map(share),
                    })
                    .collect(),
                body: record.body.map(share),
                cluster_check: track.cluster_check,
            })
        };
        self.records()?.map(own).collect()
    }
}
