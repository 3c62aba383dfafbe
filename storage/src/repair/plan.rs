//! What a repair will do and what it gives up: found by reading only.

use equeue_record::MasterEpoch;

use super::carry::read_intent;
use super::intent::Intent;
use super::neighbours::{After, Before, after, before, header_or_guess, segment_files};
use super::rewrite::{Foot, Lead, Part, gap_before, tail};
use super::salvage::{Salvage, limit, salvage};
use super::{Act, Loss, Place, RepairError, failed};
use crate::format::{
    Chain, FileName, FlushKind, REPAIR_INTENT_FILE, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SegmentHeader,
};
use crate::io::{Io, IoFile};
use crate::segment::{Damage, Ending};
use crate::types::Position;

/// A repair that can be carried out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The log.
    pub place: Place,
    /// What is written down before anything is done.
    pub intent: Intent,
    /// Where the log goes on, or ends.
    pub end: Position,
    /// What is given up.
    pub loss: Loss,
    /// Files that are set aside, by name.
    pub set_aside: Vec<String>,
    /// Whole flushes that stay in the segment.
    pub kept_bytes: u64,
    pub(super) header: SegmentHeader,
    pub(super) parts: Vec<Part>,
}

/// What is known of the segment that is rewritten.
struct Subject {
    header: SegmentHeader,
    /// Where the oldest segment begins.
    first: Position,
    /// Its header block is good, and its length is what that says.
    is_whole: bool,
    before: Before,
    after: After,
    found: Salvage,
}

/// Finds out what `act` would do. Changes nothing.
///
/// # Errors
/// When there is nothing to do, when what is left would not open, when another repair is not finished, or when the
/// system says no.
pub async fn plan<I: Io>(io: &I, place: &Place, act: Act) -> Result<Plan, RepairError> {
    if read_intent(io, &place.dir).await?.is_some() {
        return Err(RepairError::Unfinished { path: place.dir.join(REPAIR_INTENT_FILE) });
    }
    let files = segment_files(io, place).await?;
    let segment = segment_of(io, place, &files, act).await?;
    let cut = if let Act::Cut(position) = act { Some(position) } else { None };
    let subject = subject(io, place, &files, segment, cut).await?;
    let intent = Intent { act, segment, stamp_ms: io.wall_ms() };
    let mut plan = Plan {
        place: place.clone(),
        intent,
        end: segment,
        loss: subject.found.loss.clone(),
        set_aside: Vec::new(),
        kept_bytes: subject.found.sound.iter().map(|sound| sound.to.0 - sound.from.0).sum(),
        header: subject.header,
        parts: Vec::new(),
    };
    match act {
        Act::Cut(position) => cut_at(io, &mut plan, subject, &files, position).await?,
        Act::Quarantine(_) => quarantine(&mut plan, &subject)?,
    }
    check_snapshot(io, &plan, &files).await?;
    let entries = io.list(&place.dir).await.map_err(failed(&place.dir, "listing the folder"))?;
    plan.set_aside = entries
        .into_iter()
        .filter(|entry| match FileName::parse(&entry.name) {
            Some(FileName::Segment(position) | FileName::Index(position)) => intent.takes(position),
            _ => false,
        })
        .map(|entry| entry.name)
        .collect();
    plan.set_aside.sort_unstable();
    Ok(plan)
}

/// The segment that is rewritten; its file need not be there.
async fn segment_of<I: Io>(
    io: &I,
    place: &Place,
    files: &[(Position, u64)],
    act: Act,
) -> Result<Position, RepairError> {
    let refused = |text: String| Err(RepairError::Refused(text));
    let (Act::Cut(wanted) | Act::Quarantine(wanted)) = act;
    let at_or_before = files.iter().rev().find(|(position, _)| *position <= wanted);
    let Some((position, bytes)) = at_or_before.copied() else {
        return match files.first() {
            // The oldest ones are missing: one GAP stands for all of them.
            Some((first, _))
                if matches!(act, Act::Quarantine(_))
                    && wanted.0.is_multiple_of(SEGMENT_BYTES_MIN)
                    && first.0 - wanted.0 <= SEGMENT_BYTES_MAX =>
            {
                Ok(wanted)
            }
            Some((first, _)) => refused(format!("the log begins at {first}, behind {wanted}")),
            None => refused(format!("there is no segment in {}", place.dir.display())),
        };
    };
    if position == wanted {
        return Ok(position);
    }
    let file = place.open(io, position).await?;
    let end = place.header::<I>(&file, position).await?.map_or(position.plus(bytes), |header| header.end());
    match act {
        // One that is missing.
        _ if wanted == end => Ok(wanted),
        Act::Cut(_) if wanted < end => Ok(position),
        Act::Cut(_) => refused(format!("no segment holds position {wanted}")),
        Act::Quarantine(_) => {
            refused(format!("no segment begins at {wanted}; the one before it begins at {position}"))
        }
    }
}

async fn subject<I: Io>(
    io: &I,
    place: &Place,
    files: &[(Position, u64)],
    segment: Position,
    cut: Option<Position>,
) -> Result<Subject, RepairError> {
    let before = before(io, place, files, segment).await?;
    let after = match after(io, place, files, segment).await {
        // All of it is given up: whether it can be read does not matter.
        Err(RepairError::Refused(_)) if cut.is_some() => {
            After { ending: Ending::Open, next: None, position: None }
        }
        found => found?,
    };
    let bytes = files.iter().find(|(position, _)| *position == segment).map(|(_, bytes)| *bytes);
    let file = match bytes {
        Some(_) => Some(place.open(io, segment).await?),
        None => None,
    };
    let (header, is_readable) =
        header_or_guess(io, place, file.as_ref(), (segment, bytes), (&before, &after)).await?;
    let found = match &file {
        Some(file) => {
            let from = Chain { position: header.first_flush(), link: before.link };
            salvage(io, place, file, (&header, from), after.ending, cut).await?
        }
        None => Salvage::of_nothing(&header),
    };
    if let Some(file) = file {
        file.close().await.map_err(failed(&place.path(segment), "closing"))?;
    }
    let first = files.first().map_or(segment, |(first, _)| *first);
    Ok(Subject { header, first, is_whole: is_readable && bytes == Some(header.bytes), before, after, found })
}

impl Subject {
    /// What a GAP at `position` must know, behind the first `sound` pieces.
    fn foot(&self, position: Position, sound: usize) -> Foot {
        let last = sound.checked_sub(1).and_then(|index| self.found.sound.get(index)).map(|sound| sound.last);
        let link = match last {
            Some(last) if last.next() == position => Some(last.link()),
            None if position == self.header.first_flush() => self.before.link,
            _ => None,
        };
        let last = last.or(self.before.last);
        Foot {
            position,
            link: link.unwrap_or(Chain::START),
            epoch: last.map_or(MasterEpoch(0), |last| last.epoch),
            time_ms: last.map_or(0, |last| last.time_ms),
            snapshot: last.and_then(|last| last.snapshot),
            salt: self.header.salt,
            kept: self.first.min(self.header.position),
        }
    }

    /// For a GAP that is the first flush of the segment.
    fn previous_end(&self, position: Position) -> Option<Position> {
        self.before.previous_end.filter(|_| position == self.header.first_flush())
    }
}

/// A copy of the segment with a GAP wherever something is lost.
fn quarantine(plan: &mut Plan, subject: &Subject) -> Result<(), RepairError> {
    let found = &subject.found;
    if found.damaged.is_empty() && subject.is_whole {
        let position = subject.header.position;
        return Err(RepairError::Nothing(format!(
            "the segment at {position} is whole: there is nothing to set aside. `equeue log verify` tells what is damaged"
        )));
    }
    let limit = limit(&subject.header, subject.after.ending);
    let mut at = subject.header.first_flush();
    for (index, sound) in found.sound.iter().enumerate() {
        if sound.from > at {
            let lead = Lead {
                resume: Some((sound.from, sound.first.chain)),
                previous_end: subject.previous_end(at),
                next_salt: None,
            };
            plan.parts.push(gap_before(&subject.foot(at, index), &lead).map_err(|error| unwritable(&error))?);
            plan.loss.ranges.push((at, sound.from));
        }
        plan.parts.push(Part::Copy(sound.from, sound.to));
        at = sound.to;
    }
    for (queue, from, to) in &found.replay.offsets.holes {
        plan.loss.add(*queue, *from, *to);
    }
    plan.end = at;
    let foot = subject.foot(at, found.sound.len());
    let previous_end = subject.previous_end(at);
    if found.end.is_some() || at >= limit {
        // The log ends here: nothing later tells what offsets were lost.
        let is_last = subject.after.ending == Ending::Open && !found.damaged.is_empty();
        return if is_last { end_with_gap(plan, subject, foot, previous_end) } else { Ok(()) };
    }
    // Damaged to its end.
    plan.loss.ranges.push((at, limit));
    match (subject.after.ending, subject.after.next) {
        (Ending::Sealed, Some((link, salt))) => {
            let resume = Some((subject.header.end(), link.unwrap_or(Chain::START)));
            let lead = Lead { resume, previous_end, next_salt: Some(salt) };
            plan.parts.push(gap_before(&foot, &lead).map_err(|error| unwritable(&error))?);
            plan.end = subject.header.end();
        }
        (Ending::At(end), Some((link, _))) => {
            let lead =
                Lead { resume: Some((end, link.unwrap_or(Chain::START))), previous_end, next_salt: None };
            plan.parts.push(gap_before(&foot, &lead).map_err(|error| unwritable(&error))?);
            plan.end = end;
        }
        _ => end_with_gap(plan, subject, foot, previous_end)?,
    }
    Ok(())
}

/// A copy of the segment that ends at the cut.
async fn cut_at<I: Io>(
    io: &I,
    plan: &mut Plan,
    mut subject: Subject,
    files: &[(Position, u64)],
    position: Position,
) -> Result<(), RepairError> {
    let first = subject.header.first_flush();
    if let Some(damaged) = subject.found.damaged.iter().find(|damaged| **damaged < position) {
        return Err(RepairError::Refused(format!(
            "the log is damaged at {damaged}, before {position}: cut there, or quarantine the segment at {} first",
            subject.header.position
        )));
    }
    let kept = subject.found.sound.first().copied();
    if let Some(kept) = kept {
        if kept.last.kind == FlushKind::Seal {
            let end = subject.header.end();
            return Err(RepairError::Refused(format!(
                "nothing of this segment lies behind {position}: cut at {end}"
            )));
        }
        plan.parts.push(Part::Copy(kept.from, kept.to));
    }
    let at = kept.map_or(first, |kept| kept.to);
    let mut end = subject.found.last.map_or(at, |last| last.next()).max(at);
    for (later, _) in files.iter().filter(|(later, _)| *later > subject.header.position) {
        let file = plan.place.open(io, *later).await?;
        let Some(header) = plan.place.header::<I>(&file, *later).await? else { continue };
        let from = Chain::unlinked(header.first_flush());
        let found = salvage(io, &plan.place, &file, (&header, from), Ending::Open, Some(*later)).await?;
        merge(&mut subject.found, &found);
        end = found.end.map_or(end, |found| found.chain.position);
    }
    plan.loss = subject.found.loss.clone();
    if plan.loss.flushes == 0 && subject.found.damaged.is_empty() {
        return Err(RepairError::Nothing(format!(
            "no flush lies at or behind {position}: there is nothing to cut"
        )));
    }
    plan.loss.ranges.push((at, end.max(subject.header.end())));
    let sound = usize::from(kept.is_some());
    let (foot, previous_end) = (subject.foot(at, sound), subject.previous_end(at));
    subject.after.position = None;
    end_with_gap(plan, &subject, foot, previous_end)
}

/// The log ends here; no offset that was given up is given again.
fn end_with_gap(
    plan: &mut Plan,
    subject: &Subject,
    foot: Foot,
    previous_end: Option<Position>,
) -> Result<(), RepairError> {
    plan.end = foot.position;
    // A segment that is prepared behind it is in the way; else this one may become longer than it was.
    let limit = subject.after.position.unwrap_or(Position(u64::MAX));
    let end = tail(foot, previous_end, &subject.found.replay.queues, limit, &mut plan.parts)
        .map_err(|error| unwritable(&error))?;
    let needed = (end.0 - plan.header.position.0).next_multiple_of(SEGMENT_BYTES_MIN);
    plan.header.bytes = plan.header.bytes.max(needed);
    Ok(())
}

fn unwritable(error: &Damage) -> RepairError {
    RepairError::Refused(error.to_string())
}

/// What a later segment had, which is given up.
fn merge(sum: &mut Salvage, found: &Salvage) {
    sum.loss.flushes += found.loss.flushes;
    sum.loss.messages += found.loss.messages;
    sum.loss.state_entries += found.loss.state_entries;
    for (queue, (from, to)) in &found.loss.queues {
        sum.loss.add(*queue, *from, *to);
    }
    for queue in found.replay.queues.keys() {
        if let Some(known) = found.replay.queues.get(queue) {
            sum.replay.queues.merge(queue, known.start, known.durable_end);
        }
    }
}

/// A log whose beginning is retired opens only from a complete snapshot.
async fn check_snapshot<I: Io>(io: &I, plan: &Plan, files: &[(Position, u64)]) -> Result<(), RepairError> {
    let Some((first, _)) = files.first() else { return Ok(()) };
    if *first == Position(0) || plan.loss.ranges.is_empty() {
        return Ok(());
    }
    let mut newest = None;
    for (position, _) in files {
        let is_kept = match plan.intent.act {
            Act::Cut(_) => *position <= plan.intent.segment,
            Act::Quarantine(_) => true,
        };
        if !is_kept {
            continue;
        }
        let file = plan.place.open(io, *position).await?;
        let Some(header) = plan.place.header::<I>(&file, *position).await? else { continue };
        let from = Chain::unlinked(header.first_flush());
        let cut = if let Act::Cut(cut) = plan.intent.act { Some(cut) } else { None };
        newest =
            newest.max(salvage(io, &plan.place, &file, (&header, from), Ending::Open, cut).await?.snapshot);
        // Named before anything was lost, or begun after it.
        let lost = plan.loss.ranges.first().map_or(plan.end, |(lost, _)| *lost);
        let is_good = newest.is_some_and(|newest| {
            newest >= *first && (*position < plan.intent.segment || newest < lost || newest >= plan.end)
        });
        if is_good {
            return Ok(());
        }
    }
    Err(RepairError::Refused(format!(
        "the log begins at {first}, and what would be left has no complete snapshot to begin with"
    )))
}
