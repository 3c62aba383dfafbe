//! An exhaustive model of crashes: every order in which writes and syncs of a few flushes can end, every image that a
//! power cut can leave at each moment, and what the rules of [`super::tail`] make of it.
//!
//! A log of up to five flushes; one of them may be a SEAL, with the rest in the next segment. A flush is written, then
//! synced; a sync covers what was written before it began. At most `depth` flushes are begun and not synced with all
//! before them, and acknowledgement is in order. At a power cut each flush that no sync covers is there wholly, with its
//! header only, or not at all.
//!
//! Null controls: with one rule switched off, the model must find what that rule is for.

use std::collections::{BTreeSet, HashSet};

use equeue_record::MasterEpoch;

use super::{Damage, Ending, FirstFlush, Step, TailSearch, Walk, endings, holds_flush};
use crate::format::{Chain, FlushHeader, FlushKind, Salt, SealBody, SegmentHeader};
use crate::types::{LogId, Position};

const BLOCK: usize = 4096;

/// A rule that a null control switches off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Nothing goes to the next segment until SEAL is synced.
    RollBarrier,
    /// `durable_to` is the end of the gap-free prefix, not the highest that is synced.
    GapFree,
    /// Evidence is looked for.
    Evidence,
    /// A header counts with a bad body.
    HeadersSuffice,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    flushes: usize,
    depth: usize,
    /// Number of the flush that is a SEAL.
    seal: Option<usize>,
    without: Option<Rule>,
}

impl Rules {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Waiting,
    /// Handed to the device; what `durable_to` its header has, as a number of flushes.
    Writing(usize),
    Written(usize),
    /// Syncing, with the set of flushes that were written when the sync began.
    Syncing(usize, u8),
    Synced(usize),
}

impl Phase {
    fn durable_to(self) -> Option<usize> {
        match self {
            Self::Waiting => None,
            Self::Writing(to) | Self::Written(to) | Self::Syncing(to, _) | Self::Synced(to) => Some(to),
        }
    }

    fn is_written(self) -> bool {
        matches!(self, Self::Written(_) | Self::Syncing(..) | Self::Synced(_))
    }
}

/// The log at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Moment {
    phases: Vec<Phase>,
    /// Flushes that a completed sync covers.
    durable: u8,
}

impl Moment {
    fn acknowledged(&self) -> usize {
        self.phases.iter().take_while(|phase| matches!(phase, Phase::Synced(_))).count()
    }

    fn begun(&self) -> usize {
        self.phases.iter().take_while(|phase| **phase != Phase::Waiting).count()
    }

    /// All moments that may come next.
    fn next(&self, rules: &Rules) -> Vec<Self> {
        let mut moments = Vec::new();
        let (begun, acknowledged) = (self.begun(), self.acknowledged());
        let is_barred = rules.has(Rule::RollBarrier)
            && rules.seal.is_some_and(|seal| begun > seal && acknowledged <= seal);
        if begun < rules.flushes && begun - acknowledged < rules.depth && !is_barred {
            let highest = (0..begun).rev().find(|flush| matches!(self.phases[*flush], Phase::Synced(_)));
            let durable_to =
                if rules.has(Rule::GapFree) { acknowledged } else { highest.map_or(0, |flush| flush + 1) };
            moments.push(self.with(begun, Phase::Writing(durable_to), 0));
        }
        for (flush, phase) in self.phases.iter().enumerate() {
            match *phase {
                Phase::Writing(to) => moments.push(self.with(flush, Phase::Written(to), 0)),
                Phase::Written(to) => {
                    let written = |covered: u8, (flush, phase): (usize, &Phase)| {
                        if phase.is_written() { covered | 1 << flush } else { covered }
                    };
                    let covered = self.phases.iter().enumerate().fold(0, written);
                    moments.push(self.with(flush, Phase::Syncing(to, covered), 0));
                }
                Phase::Syncing(to, covered) => moments.push(self.with(flush, Phase::Synced(to), covered)),
                Phase::Waiting | Phase::Synced(_) => {}
            }
        }
        moments
    }

    fn with(&self, flush: usize, phase: Phase, covered: u8) -> Self {
        let mut next = self.clone();
        next.phases[flush] = phase;
        next.durable |= covered;
        next
    }
}

fn all_moments(rules: &Rules) -> Vec<Moment> {
    let first = Moment { phases: vec![Phase::Waiting; rules.flushes], durable: 0 };
    let mut seen = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(moment) = open.pop() {
        for next in moment.next(rules) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.into_iter().collect()
}

/// What of a flush is on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    HeaderOnly,
    Whole,
}

/// Everything that a power cut at `moment` can leave.
fn images(moment: &Moment) -> Vec<Vec<Left>> {
    let mut images = vec![Vec::new()];
    for (flush, phase) in moment.phases.iter().enumerate() {
        let choices: &[Left] = match phase {
            Phase::Waiting => &[Left::Nothing],
            _ if moment.durable & 1 << flush != 0 => &[Left::Whole],
            _ => &[Left::Nothing, Left::HeaderOnly, Left::Whole],
        };
        images = images
            .iter()
            .flat_map(|image| choices.iter().map(|left| image.iter().copied().chain([*left]).collect()))
            .collect();
    }
    images
}

/// The bytes of an image: blocks of the two segments.
struct Bytes {
    segments: [SegmentHeader; 2],
    blocks: [Vec<Vec<u8>>; 2],
}

impl Bytes {
    fn new(rules: &Rules, moment: &Moment, image: &[Left]) -> Self {
        let header = |index: u64| SegmentHeader {
            log: LogId(0),
            position: Position(index << 20),
            bytes: 1 << 20,
            salt: Salt::from_bits(index + 9),
            created_ms: 0,
            has_gaps: false,
        };
        let segments = [header(0), header(1)];
        let mut blocks = [Vec::new(), Vec::new()];
        let mut link = Chain::START;
        for (flush, phase) in moment.phases.iter().enumerate() {
            let Some(to) = phase.durable_to() else { break };
            let is_seal = rules.seal == Some(flush);
            let segment = segment_of(rules, flush);
            let body = if is_seal { SealBody { next: Position(1 << 20) }.encode() } else { [7; 8] };
            let header = FlushHeader {
                kind: if is_seal { FlushKind::Seal } else { FlushKind::Data },
                epoch: MasterEpoch(1),
                position: position_of(rules, flush),
                body_len: 8,
                span: 4096,
                body_crc: crc32c::crc32c(&body),
                chain: link,
                snapshot: None,
                time_ms: 0,
                salt: segments[segment].salt,
                durable_to: position_of(rules, to),
                next_salt: is_seal.then_some(segments[1].salt),
            };
            link = header.link();
            let mut block = vec![0; BLOCK];
            if image[flush] >= Left::HeaderOnly {
                block[..128].copy_from_slice(&header.encode());
            }
            if image[flush] == Left::Whole {
                block[128..136].copy_from_slice(&body);
            }
            blocks[segment].push(block);
        }
        Self { segments, blocks }
    }

    fn first_flush(&self, segment: usize) -> FirstFlush {
        let header = &self.segments[segment];
        let blocks = self.blocks[segment].concat();
        match FirstFlush::of_block(header, &blocks) {
            Some(first) => first,
            None if holds_flush(header, header.first_flush(), &blocks) => FirstFlush::Other,
            None => FirstFlush::Nothing,
        }
    }

    /// Recovers: flushes found, or the damage.
    fn recover(&self, rules: &Rules) -> Result<usize, Damage> {
        let endings =
            endings(&[(self.segments[0], self.first_flush(0)), (self.segments[1], self.first_flush(1))]);
        let mut found = 0;
        let mut chain = Chain { position: self.segments[0].first_flush(), link: Some(Chain::START) };
        for (segment, ending) in endings.into_iter().enumerate() {
            let header = self.segments[segment];
            let mut walk = Walk::new(header, chain, ending);
            loop {
                let index = usize::try_from((walk.position().0 - header.first_flush().0) / BLOCK as u64);
                let zeros = vec![0; BLOCK];
                let block = self.blocks[segment].get(index.unwrap_or(usize::MAX)).unwrap_or(&zeros);
                match walk.step(block) {
                    Step::Flush(..) => found += 1,
                    Step::End(kind) => {
                        chain = walk.end(kind).chain;
                        break;
                    }
                    Step::Suspect(reason) => {
                        let mut search = TailSearch::new(header, walk.position(), reason);
                        if rules.has(Rule::Evidence) {
                            self.look(rules, segment, &mut search);
                        }
                        search.decide(if rules.has(Rule::Evidence) { ending } else { Ending::Open })?;
                        return Ok(found);
                    }
                    Step::Damaged(damage) => return Err(damage),
                    Step::Short(_) => unreachable!("blocks are whole"),
                }
            }
        }
        Ok(found)
    }

    fn look(&self, rules: &Rules, segment: usize, search: &mut TailSearch) {
        let (begin, _) = search.range();
        for (index, block) in self.blocks[segment].iter().enumerate() {
            let position = self.segments[segment].first_flush().plus((index * BLOCK) as u64);
            let is_whole = block[128..136] != [0; 8];
            if position >= begin && (rules.has(Rule::HeadersSuffice) || is_whole) {
                search.look(position, block);
            }
        }
    }
}

fn segment_of(rules: &Rules, flush: usize) -> usize {
    usize::from(rules.seal.is_some_and(|seal| flush > seal))
}

fn position_of(rules: &Rules, flush: usize) -> Position {
    match rules.seal {
        Some(seal) if flush > seal => Position((1 << 20) + (1 + flush - seal - 1) as u64 * 4096),
        _ => Position((1 + flush) as u64 * 4096),
    }
}

/// What the model found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    images: usize,
    /// A crash was taken for damage.
    false_damage: usize,
    /// An acknowledged flush was lost by the rules themselves.
    lost: usize,
    /// An acknowledged flush that the device lost was not noticed, though something that is left tells of it.
    silent: usize,
    /// The same, where nothing that is left tells of it.
    untold: usize,
    /// Of these: flushes that more than `depth` acknowledged ones follow. There must be none.
    far_untold: usize,
}

fn explore(rules: &Rules) -> Found {
    let mut found = Found::default();
    for moment in all_moments(rules) {
        for image in images(&moment) {
            found.images += 1;
            match Bytes::new(rules, &moment, &image).recover(rules) {
                Ok(recovered) => found.lost += usize::from(recovered < moment.acknowledged()),
                Err(_) => found.false_damage += 1,
            }
            for lost in 0..moment.acknowledged() {
                for left in [Left::Nothing, Left::HeaderOnly] {
                    let mut image = image.clone();
                    image[lost] = left;
                    if Bytes::new(rules, &moment, &image)
                        .recover(rules)
                        .is_ok_and(|recovered| recovered <= lost)
                    {
                        let is_told = is_told(rules, &moment, &image, lost);
                        found.silent += usize::from(is_told);
                        found.untold += usize::from(!is_told);
                        found.far_untold +=
                            usize::from(!is_told && lost + rules.depth < moment.acknowledged());
                    }
                }
            }
        }
    }
    found
}

/// Whether some header that is left says that flush `lost` was synced, or stands in a later segment.
fn is_told(rules: &Rules, moment: &Moment, image: &[Left], lost: usize) -> bool {
    (lost + 1..image.len()).any(|flush| {
        let says = moment.phases[flush].durable_to().is_some_and(|to| to > lost);
        let is_later = segment_of(rules, flush) > segment_of(rules, lost);
        image[flush] >= Left::HeaderOnly && (says || is_later)
    })
}

fn explore_all(flushes: usize, depths: &[usize], without: Option<Rule>) -> Found {
    let mut sum = Found::default();
    for depth in depths {
        for seal in [None, Some(1), Some(2), Some(3)] {
            let found = explore(&Rules { flushes, depth: *depth, seal, without });
            sum.images += found.images;
            sum.false_damage += found.false_damage;
            sum.lost += found.lost;
            sum.silent += found.silent;
            sum.untold += found.untold;
            sum.far_untold += found.far_untold;
        }
    }
    sum
}

#[test]
fn the_rules_lose_nothing_and_cry_no_wolf() {
    for flushes in [5, 6] {
        let found = explore_all(flushes, &[1, 2], None);
        eprintln!("{flushes} flushes: {found:?}");
        assert!(found.images > 4000, "{found:?}");
        let wrong = (found.lost, found.false_damage, found.silent, found.far_untold);
        assert_eq!(wrong, (0, 0, 0, 0), "{found:?}");
    }
}

#[test]
fn without_evidence_losses_are_silent() {
    let found = explore_all(4, &[1, 2], Some(Rule::Evidence));
    assert!(found.silent > 0, "{found:?}");
}

#[test]
fn with_bodies_required_as_evidence_more_losses_are_silent() {
    let found = explore_all(4, &[1, 2], Some(Rule::HeadersSuffice));
    assert!(found.silent > 0, "{found:?}");
}

#[test]
fn without_the_roll_barrier_crashes_look_like_damage() {
    let found = explore_all(4, &[1, 2], Some(Rule::RollBarrier));
    assert!(found.false_damage > 0, "{found:?}");
}

/// Up to depth 2 the two are the same: a flush begins only when at most one other is not acknowledged.
#[test]
fn with_the_highest_synced_position_crashes_look_like_damage() {
    assert_eq!(explore_all(4, &[1, 2], Some(Rule::GapFree)).false_damage, 0);
    let three = Rules { flushes: 4, depth: 3, seal: None, without: None };
    assert_eq!(explore(&three).false_damage, 0);
    let found = explore(&Rules { without: Some(Rule::GapFree), ..three });
    assert!(found.false_damage > 0, "{found:?}");
}

#[test]
fn the_model_reaches_every_kind_of_image() {
    let rules = Rules { flushes: 3, depth: 2, seal: None, without: None };
    let mut images_seen = BTreeSet::new();
    for moment in all_moments(&rules) {
        images_seen.extend(images(&moment));
    }
    // The second is there and the first is not; a header without its body between two that are whole.
    assert!(images_seen.contains(&vec![Left::Nothing, Left::Whole, Left::Nothing]));
    assert!(images_seen.contains(&vec![Left::Whole, Left::HeaderOnly, Left::Whole]));
    // Never three that are not acknowledged.
    assert!(!images_seen.contains(&vec![Left::Nothing, Left::Nothing, Left::Whole]));
}
