//! The copy that takes a segment's place: whole flushes as they were, and GAPs.

use std::path::Path;

use bytes::Bytes;
use equeue_record::{BROKER_PART_LEN, BrokerStamp, MasterEpoch, Offset, QueueKey, stamp};

use super::carry::write_whole;
use super::plan::Plan;
use super::{RepairError, failed};
use crate::format::{
    BLOCK_BYTES, FLUSH_HEADER_LEN, FlushHeader, FlushKind, GAP_PREFIX_LEN, GapPrefix, Salt, SegmentHeader,
    WINDOW_BYTES,
};
use crate::io::{ALIGN, Access, Io, IoFile, align_up};
use crate::log::queue::{Queues, encode_bounds};
use crate::segment::Damage;
use crate::state::{EntryBatch, EntryKey};
use crate::types::Position;

/// Longest body of a GAP, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A part of the copy.
#[derive(Clone)]
pub(super) enum Part {
    /// Bytes of the original.
    Copy(Position, Position),
    /// A flush of its own.
    Gap(Position, Vec<u8>),
}

/// The bytes of a GAP hold the salt, which is never printed.
impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copy(from, to) => write!(f, "Copy({from}..{to})"),
            Self::Gap(position, _) => write!(f, "Gap({position})"),
        }
    }
}

/// What a GAP must know of what is before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foot {
    pub(super) position: Position,
    pub(super) link: u32,
    pub(super) epoch: MasterEpoch,
    pub(super) time_ms: i64,
    pub(super) snapshot: Option<Position>,
    pub(super) salt: Salt,
    /// Where the log begins: what says so may be among what is lost.
    pub(super) kept: Position,
}

/// Where a GAP leads to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lead {
    /// Where the log goes on, and the link there.
    pub(super) resume: Option<(Position, u32)>,
    pub(super) previous_end: Option<Position>,
    pub(super) next_salt: Option<Salt>,
}

/// A GAP in the middle of a log.
pub(super) fn gap_before(foot: &Foot, lead: &Lead) -> Result<Part, Damage> {
    let batches = entry_batches(foot, &Queues::default())?;
    Ok(gap(foot, lead, batches.first().map_or(&[][..], Vec::as_slice), None).1)
}

/// One GAP, of `span` bytes or what it needs.
fn gap(foot: &Foot, lead: &Lead, batch: &[u8], span: Option<u64>) -> (FlushHeader, Part) {
    let prefix = GapPrefix {
        resume: lead.resume.map(|(position, _)| position),
        previous_end: lead.previous_end,
        resume_link: lead.resume.map_or(0, |(_, link)| link),
    };
    let body = [&prefix.encode(), batch].concat();
    let narrow = |bytes: u64| u32::try_from(bytes).expect("a GAP lies within its window");
    let written = align_up((FLUSH_HEADER_LEN + body.len()) as u64);
    let header = FlushHeader {
        kind: FlushKind::Gap,
        epoch: foot.epoch,
        position: foot.position,
        body_len: narrow(body.len() as u64),
        span: narrow(span.unwrap_or(written)),
        body_crc: crc32c::crc32c(&body),
        chain: foot.link,
        snapshot: foot.snapshot,
        time_ms: foot.time_ms,
        salt: foot.salt,
        durable_to: foot.position,
        next_salt: lead.next_salt,
    };
    let mut bytes = [&header.encode()[..], &body].concat();
    bytes.resize(usize::try_from(written).unwrap_or(usize::MAX), 0);
    (header, Part::Gap(foot.position, bytes))
}

/// The GAPs at the end of a log that is cut: they keep the next offset of each queue, as far as there is room before
/// `limit`. Gives the end of the last one.
pub(super) fn tail(
    mut foot: Foot,
    previous_end: Option<Position>,
    queues: &Queues,
    limit: Position,
    parts: &mut Vec<Part>,
) -> Result<Position, Damage> {
    let batches = entry_batches(&foot, queues)?;
    // Each but the first may need the rest of a window skipped before it: by the span of the one before.
    let mut previous_end = previous_end;
    for index in 0..batches.len().max(1) {
        let batch = batches.get(index).map_or(&[][..], |batch| batch);
        let fits = room(foot.position) >= written(batch.len());
        let begin = if fits { foot.position } else { foot.position.plus(room(foot.position)) };
        if begin.plus(written(batch.len())) > limit {
            break;
        }
        if !fits {
            let lead = Lead { previous_end: previous_end.take(), ..Lead::default() };
            let (header, part) = gap(&foot, &lead, &[], Some(room(foot.position)));
            parts.push(part);
            foot = Foot { position: header.next(), link: header.link(), ..foot };
        }
        let lead = Lead { previous_end: previous_end.take(), ..Lead::default() };
        let (header, part) = gap(&foot, &lead, batch, None);
        parts.push(part);
        foot = Foot { position: header.next(), link: header.link(), ..foot };
    }
    Ok(foot.position)
}

fn written(batch: usize) -> u64 {
    align_up((FLUSH_HEADER_LEN + GAP_PREFIX_LEN + batch) as u64)
}

/// Bytes up to the end of the window.
fn room(position: Position) -> u64 {
    WINDOW_BYTES - position.0 % WINDOW_BYTES
}

/// Control batches with where the log begins, and the bounds of all queues.
fn entry_batches(foot: &Foot, queues: &Queues) -> Result<Vec<Vec<u8>>, Damage> {
    let mut batches = Vec::new();
    let mut batch = EntryBatch::new(BODY_BYTES_MAX - GAP_PREFIX_LEN);
    let _ = batch.push(EntryKey::Kept, Some(&foot.kept.0.to_le_bytes()));
    for key in queues.keys() {
        let Some(known) = queues.get(key) else { continue };
        let value = encode_bounds(known);
        if !batch.push(EntryKey::Queue(key), Some(&value)) {
            let full = std::mem::replace(&mut batch, EntryBatch::new(BODY_BYTES_MAX - GAP_PREFIX_LEN));
            batches.push(stamped(foot, full)?);
            let _ = batch.push(EntryKey::Queue(key), Some(&value));
        }
    }
    if !batch.is_empty() {
        batches.push(stamped(foot, batch)?);
    }
    Ok(batches)
}

fn stamped(foot: &Foot, batch: EntryBatch) -> Result<Vec<u8>, Damage> {
    let bytes: Bytes = batch.finish().map_err(|error| Damage::Body(error.to_string()))?;
    let mut bytes = bytes.to_vec();
    if let Some(front) = bytes.first_chunk_mut::<BROKER_PART_LEN>() {
        let broker = BrokerStamp {
            base_offset: Offset(0),
            append_time_ms: foot.time_ms,
            queue_key: QueueKey::STATE,
            master_epoch: foot.epoch,
        };
        stamp(front, &broker);
    }
    Ok(bytes)
}

/// Writes the copy, whole and synced.
pub(super) async fn write_copy<I: Io>(io: &I, plan: &Plan, path: &Path) -> Result<(), RepairError> {
    let has_gaps = plan.parts.iter().any(|part| matches!(part, Part::Gap(..)));
    let header = SegmentHeader { has_gaps: plan.header.has_gaps || has_gaps, ..plan.header };
    let file = io.open(path, Access::CreateNew).await.map_err(failed(path, "creating"))?;
    file.preallocate(header.bytes).await.map_err(failed(path, "reserving space"))?;
    let writing = || failed(path, "writing");
    for part in &plan.parts {
        match part {
            Part::Copy(from, to) => copy(io, plan, &file, path, (*from, *to)).await?,
            Part::Gap(position, bytes) => {
                let mut buffer = io.allocate(bytes.len());
                buffer.as_mut().copy_from_slice(bytes);
                let at = position.0 - header.position.0;
                write_whole::<I>(&file, buffer, at).await.map_err(writing())?;
            }
        }
    }
    let mut block = io.allocate(ALIGN);
    block.as_mut().copy_from_slice(&header.encode());
    write_whole::<I>(&file, block, 0).await.map_err(writing())?;
    file.sync().await.map_err(failed(path, "syncing"))?;
    file.close().await.map_err(failed(path, "closing"))
}

async fn copy<I: Io>(
    io: &I,
    plan: &Plan,
    file: &I::File,
    path: &Path,
    (from, to): (Position, Position),
) -> Result<(), RepairError> {
    let original = plan.place.open(io, plan.header.position).await?;
    let source = plan.place.path(plan.header.position);
    let mut at = from;
    while at < to {
        let end = Position((at.0 / WINDOW_BYTES + 1) * WINDOW_BYTES).min(to);
        let offset = at.0 - plan.header.position.0;
        let len = usize::try_from(end.0 - at.0).unwrap_or(usize::MAX);
        let bytes = original.read_at(offset, len).await.map_err(failed(&source, "reading"))?;
        // The file may end within the span of its last flush.
        let have = bytes.as_ref().len();
        let mut buffer = io.allocate(len);
        buffer.as_mut().fill(0);
        if let Some(front) = buffer.as_mut().get_mut(..have) {
            front.copy_from_slice(bytes.as_ref());
        }
        write_whole::<I>(file, buffer, offset).await.map_err(failed(path, "writing"))?;
        at = end;
        io.yield_now().await;
    }
    original.close().await.map_err(failed(&source, "closing"))
}

const _: () = assert!(BODY_BYTES_MAX as u64 + BLOCK_BYTES < WINDOW_BYTES);
