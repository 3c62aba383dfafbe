//! What is whole in a segment, and what is not: reads it to its end, around everything that is damaged.

use equeue_record::{BatchView, QueueKey, split_first};

use super::{Loss, Place, RepairError, failed};
use crate::format::{
    BLOCK_BYTES, Chain, FLUSH_HEADER_LEN, FLUSH_SPAN_MAX, FlushHeader, FlushKind, FormatError, SegmentHeader,
    WINDOW_BYTES,
};
use crate::io::{ALIGN, Io, IoFile};
use crate::log::LogOptions;
use crate::log::replay::Replay;
use crate::segment::{Damage, End, Ending, ScanError, ScanRules, header_at, scan_segment};
use crate::types::Position;

/// Whole flushes, one right behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sound {
    pub(super) from: Position,
    pub(super) to: Position,
    pub(super) first: FlushHeader,
    pub(super) last: FlushHeader,
}

/// See the file's own text.
pub(super) struct Salvage {
    pub(super) sound: Vec<Sound>,
    /// Where damage begins.
    pub(super) damaged: Vec<Position>,
    /// How the flushes end; `None`: damaged to the end.
    pub(super) end: Option<End>,
    pub(super) last: Option<FlushHeader>,
    /// The newest complete snapshot that a flush names.
    pub(super) snapshot: Option<Position>,
    /// What is given up: behind the cut, and what can still be read of damaged flushes.
    pub(super) loss: Loss,
    /// What the flushes add up to.
    pub(super) replay: Replay,
}

/// Reads a segment. What lies behind `cut` is counted as given up, and is no part of what is sound.
pub(super) async fn salvage<I: Io>(
    io: &I,
    place: &Place,
    file: &I::File,
    (segment, from): (&SegmentHeader, Chain),
    ending: Ending,
    cut: Option<Position>,
) -> Result<Salvage, RepairError> {
    let mut found = Salvage {
        sound: Vec::new(),
        damaged: Vec::new(),
        end: None,
        last: None,
        snapshot: None,
        loss: Loss::default(),
        replay: Replay::new(&LogOptions::default(), None),
    };
    let mut chain = from;
    let mut is_cut = false;
    loop {
        let mut begins = true;
        let scanned = scan_segment(io, file, segment, chain, ending, ScanRules::default(), |header, body| {
            found.replay.flush(header, body)?;
            is_cut |= cut.is_some_and(|cut| header.next() > cut);
            if is_cut {
                found.loss.flushes += 1;
                count(header.kind, body, &mut found.loss);
                return Ok(());
            }
            found.take(header, std::mem::take(&mut begins));
            Ok(())
        })
        .await;
        match scanned {
            Ok(end) => {
                found.end = Some(end);
                return Ok(found);
            }
            Err(ScanError::Damaged {
                damage: Damage::Impossible(FormatError::NewerVersion { found, known, .. }),
                ..
            }) => return Err(RepairError::NewerFormat { path: place.path(segment.position), found, known }),
            Err(ScanError::Damaged { position, .. }) => {
                found.damaged.push(position);
                found.glean::<I>(place, file, segment, position).await?;
                found.replay.offsets.jump();
                let Some(next) = next_flush::<I>(io, place, file, segment, position, ending).await? else {
                    return Ok(found);
                };
                chain = Chain::unlinked(next);
            }
            Err(error) => return Err(place.scan_error(segment.position, error)),
        }
    }
}

impl Salvage {
    /// A segment of which there is nothing.
    pub(super) fn of_nothing(segment: &SegmentHeader) -> Self {
        Self {
            sound: Vec::new(),
            damaged: vec![segment.first_flush()],
            end: None,
            last: None,
            snapshot: None,
            loss: Loss::default(),
            replay: Replay::new(&LogOptions::default(), None),
        }
    }

    fn take(&mut self, header: &FlushHeader, begins: bool) {
        self.last = Some(*header);
        self.snapshot = self.snapshot.max(header.snapshot);
        match self.sound.last_mut().filter(|_| !begins) {
            Some(sound) => (sound.to, sound.last) = (header.next(), *header),
            None => self.sound.push(Sound {
                from: header.position,
                to: header.next(),
                first: *header,
                last: *header,
            }),
        }
    }

    /// What can still be read of a damaged flush: only numbers are taken from it.
    async fn glean<I: Io>(
        &mut self,
        place: &Place,
        file: &I::File,
        segment: &SegmentHeader,
        position: Position,
    ) -> Result<(), RepairError> {
        let path = place.path(segment.position);
        let rest = segment.end().0.saturating_sub(position.0).min(FLUSH_SPAN_MAX);
        let Ok(len) = usize::try_from(rest) else { return Ok(()) };
        let bytes =
            file.read_at(position.0 - segment.position.0, len).await.map_err(failed(&path, "reading"))?;
        let mut rest = bytes.as_ref().get(FLUSH_HEADER_LEN..).unwrap_or_default();
        // Without a good header it ends at the first bytes that are no batch.
        if let Some(header) = header_at(segment, position, bytes.as_ref()) {
            let is_data = header.kind == FlushKind::Data;
            rest = rest.get(..header.body_len as usize).filter(|_| is_data).unwrap_or_default();
        }
        while let Ok((batch, len)) = split_first(rest) {
            let (bytes, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            if batch.queue_key != QueueKey::STATE && BatchView::parse(bytes).is_ok() {
                self.loss.add(batch.queue_key, batch.base_offset, batch.next_offset());
                self.replay.queues.merge(batch.queue_key, equeue_record::Offset(0), batch.next_offset());
            }
            rest = after;
        }
        Ok(())
    }
}

/// Counts what is in a whole flush.
fn count(kind: FlushKind, body: &[u8], loss: &mut Loss) {
    let mut rest = if kind == FlushKind::Data { body } else { &[] };
    while let Ok((batch, len)) = split_first(rest) {
        if batch.queue_key == QueueKey::STATE {
            loss.state_entries += u64::from(batch.record_count);
        } else {
            loss.messages += u64::from(batch.record_count);
            loss.add(batch.queue_key, batch.base_offset, batch.next_offset());
        }
        rest = rest.get(len..).unwrap_or_default();
    }
}

/// The next flush behind `damaged` whose header is good.
async fn next_flush<I: Io>(
    io: &I,
    place: &Place,
    file: &I::File,
    segment: &SegmentHeader,
    damaged: Position,
    ending: Ending,
) -> Result<Option<Position>, RepairError> {
    let path = place.path(segment.position);
    let end = limit(segment, ending);
    let mut at = damaged.plus(BLOCK_BYTES);
    while at < end {
        let len = usize::try_from(end.0 - at.0).unwrap_or(usize::MAX).min(READ_LEN);
        let bytes = file.read_at(at.0 - segment.position.0, len).await.map_err(failed(&path, "reading"))?;
        for (block, position) in bytes.as_ref().chunks(ALIGN).zip((at.0..).step_by(ALIGN)) {
            if header_at(segment, Position(position), block).is_some() {
                return Ok(Some(Position(position)));
            }
        }
        if bytes.as_ref().len() < len {
            return Ok(None);
        }
        at = at.plus(len as u64);
        io.yield_now().await;
    }
    Ok(None)
}

const READ_LEN: usize = 1 << 20;
const _: () = assert!(READ_LEN as u64 == WINDOW_BYTES);

/// The position before which flushes of the segment count.
pub(super) fn limit(segment: &SegmentHeader, ending: Ending) -> Position {
    match ending {
        Ending::At(end) => end.min(segment.end()),
        Ending::Open | Ending::Sealed => segment.end(),
    }
}
