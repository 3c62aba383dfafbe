//! Which segments a log has, and how each of them ends. Never modifies anything but leftovers of preparations.
//!
//! Headers of all segments are read; what lies in them is looked at from the newest backwards, only as far as asked:
//! the cost of opening a log does not grow with its length, but for one small read a segment. Files are open only while
//! they are read.

use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt as _};

use super::ballast::Ballast;
use super::{LogOptions, OpenError};
use crate::format::{
    Chain, FileName, FlushHeader, FormatError, REPAIR_INTENT_FILE, SegmentHeader, segment_name,
};
use crate::io::{Access, Io, IoFile};
use crate::segment::{
    BodyError, Damage, End, EndKind, Ending, FirstFlush, ScanError, ScanRules, endings, find_flush,
    read_header, remove_leftovers, scan_segment,
};
use crate::types::{LogId, Position};

/// Headers read at the same time: a long log has hundreds of segments, and each read waits for the device.
const READS: usize = 16;

/// See the file's own text.
pub(super) struct Survey<I: Io> {
    pub(super) io: I,
    pub(super) dir: PathBuf,
    pub(super) log: LogId,
    pub(super) options: LogOptions,
    /// Oldest first, each beginning where the one before has its last byte.
    pub(super) segments: Vec<SegmentHeader>,
    /// Bytes that each takes on disk.
    pub(super) stored: Vec<u64>,
    pub(super) ballast: Ballast,
    /// What the newest segments begin with, oldest first.
    firsts: Vec<(SegmentHeader, FirstFlush)>,
}

impl<I: Io> Survey<I> {
    /// Finds the segments and checks that they follow one another.
    pub(super) async fn begin(
        io: I,
        dir: PathBuf,
        log: LogId,
        options: LogOptions,
    ) -> Result<Self, OpenError> {
        let (segments, stored, firsts) = (Vec::new(), Vec::new(), Vec::new());
        let mut survey = Self { io, dir, log, options, segments, stored, ballast: Ballast::Missing, firsts };
        let Self { io, dir, .. } = &survey;
        io.create_dir(dir).await.map_err(failed(dir, "creating the folder"))?;
        if let Some(parent) = dir.parent() {
            io.sync_dir(parent).await.map_err(failed(parent, "syncing the folder"))?;
        }
        // The names that a killed predecessor gave may be known only to the kernel's memory; what is relied on must stay.
        if !survey.options.hazards.no_dir_sync {
            io.sync_dir(dir).await.map_err(failed(dir, "syncing the folder"))?;
        }
        remove_leftovers(io, dir).await.map_err(|error| OpenError::Io {
            path: error.path,
            action: error.action,
            source: error.source,
        })?;
        let entries = io.list(dir).await.map_err(failed(dir, "listing the folder"))?;
        if entries.iter().any(|entry| entry.name == REPAIR_INTENT_FILE) {
            let (path, command) = (dir.join(REPAIR_INTENT_FILE), survey.repair("--finish"));
            return Err(OpenError::RepairUnfinished { path, command });
        }
        survey.ballast = Ballast::find(&entries, survey.options.segment_bytes_first);
        let mut names: Vec<_> = entries
            .iter()
            .filter_map(|entry| match FileName::parse(&entry.name) {
                Some(FileName::Segment(position)) => Some((position, entry.bytes, entry.stored)),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        let headers = stream::iter(&names).map(|(position, ..)| survey.header_of(*position)).buffered(READS);
        let headers: Vec<_> = headers.collect().await;
        for ((position, bytes, stored), header) in names.into_iter().zip(headers) {
            survey.add(position, bytes, header?)?;
            survey.stored.push(stored);
        }
        Ok(survey)
    }

    async fn header_of(&self, position: Position) -> Result<SegmentHeader, OpenError> {
        let file = self.open(position).await?;
        let header = read_header::<I>(&file).await.map_err(|error| self.scan_error(position, error))?;
        self.close(position, file).await?;
        Ok(header)
    }

    fn add(&mut self, position: Position, bytes: u64, header: SegmentHeader) -> Result<(), OpenError> {
        let reason = if header.position != position || header.log != self.log {
            format!("its header says: log {}, position {}", header.log, header.position)
        } else if header.bytes != bytes {
            format!("the file has {bytes} bytes, its header says {}", header.bytes)
        } else if let Some(last) = self.segments.last()
            && last.end() != position
        {
            let missing = last.end();
            return Err(self.damaged(missing, missing, "the segment is missing".to_owned()));
        } else {
            self.segments.push(header);
            return Ok(());
        };
        Err(self.damaged(position, position, reason))
    }

    /// Opens the segment at `position`.
    pub(super) async fn open(&self, position: Position) -> Result<I::File, OpenError> {
        let path = self.path(position);
        self.io.open(&path, Access::ReadWrite).await.map_err(failed(&path, "opening"))
    }

    pub(super) async fn close(&self, position: Position, file: I::File) -> Result<(), OpenError> {
        file.close().await.map_err(failed(&self.path(position), "closing"))
    }

    fn path(&self, position: Position) -> PathBuf {
        self.dir.join(segment_name(position))
    }

    /// Number of segments with flushes; what follows is prepared.
    pub(super) async fn used(&mut self) -> Result<usize, OpenError> {
        for index in (0..self.segments.len()).rev() {
            self.look_back_to(index).await?;
            if self.firsts.first().is_some_and(|(_, first)| *first != FirstFlush::Nothing) {
                return Ok(index + 1);
            }
        }
        Ok(0)
    }

    /// Looks at the beginnings of all segments from `index` on.
    async fn look_back_to(&mut self, index: usize) -> Result<(), OpenError> {
        while self.segments.len() - self.firsts.len() > index {
            let Some(header) = self.segments.get(self.segments.len() - self.firsts.len() - 1).copied() else {
                break;
            };
            let file = self.open(header.position).await?;
            let first = find_flush::<I>(&file, &header).await;
            let first = first.map_err(|error| self.scan_error(header.position, error))?;
            self.close(header.position, file).await?;
            self.firsts.insert(0, (header, first));
        }
        Ok(())
    }

    /// How each segment from `index` on ends.
    pub(super) async fn endings_from(&mut self, index: usize) -> Result<Vec<Ending>, OpenError> {
        self.look_back_to(index).await?;
        let skip = index + self.firsts.len() - self.segments.len();
        Ok(endings(self.firsts.get(skip..).unwrap_or_default()))
    }

    /// Syncs the segment, so that what is read from it stays.
    pub(super) async fn sync(&self, position: Position) -> Result<(), OpenError> {
        let file = self.open(position).await?;
        file.sync().await.map_err(failed(&self.path(position), "syncing"))?;
        self.close(position, file).await
    }

    /// Gives each flush of a segment to `each`.
    pub(super) async fn scan(
        &self,
        segment: &SegmentHeader,
        from: Chain,
        ending: Ending,
        each: impl FnMut(&FlushHeader, &[u8]) -> Result<(), BodyError>,
    ) -> Result<End, OpenError> {
        let hazards = self.options.hazards;
        let rules = ScanRules { evidence: !hazards.no_evidence, body_crc: !hazards.no_crc };
        let file = self.open(segment.position).await?;
        let end = scan_segment(&self.io, &file, segment, from, ending, rules, each).await;
        let end = end.map_err(|error| self.scan_error(segment.position, error))?;
        self.close(segment.position, file).await?;
        Ok(end)
    }

    /// SEAL is written when the next segment is there, so that segment cannot be missing.
    pub(super) fn check_sealed(&self, end: &End, index: usize) -> Result<(), OpenError> {
        let EndKind::Sealed { next, salt } = end.kind else { return Ok(()) };
        let reason = match self.segments.get(index + 1) {
            Some(found) if found.position == next && found.salt == salt => return Ok(()),
            Some(_) => "it is not the segment that the one before names".to_owned(),
            None => {
                let reason =
                    "the segment is missing: the one before says that the log goes on in it".to_owned();
                let command = self.repair(&format!("--cut {next}"));
                return Err(OpenError::Damaged { path: self.path(next), position: next, reason, command });
            }
        };
        Err(self.damaged(next, next, reason))
    }

    /// Damage at `position` in the segment at `segment`.
    pub(super) fn damaged(&self, segment: Position, position: Position, reason: String) -> OpenError {
        let command = self.repair(&format!("--quarantine {segment}"));
        OpenError::Damaged { path: self.path(segment), position, reason, command }
    }

    /// The command that repairs this log.
    fn repair(&self, how: &str) -> String {
        let data_dir = self.dir.parent().unwrap_or(&self.dir).display();
        format!("equeue log repair {data_dir} --log {} {how}", self.log)
    }

    fn scan_error(&self, segment: Position, error: ScanError) -> OpenError {
        let path = self.path(segment);
        match error {
            ScanError::Io { source, .. } => OpenError::Io { path, action: "reading", source },
            ScanError::Header(FormatError::NewerVersion { found, known, .. })
            | ScanError::Damaged {
                damage: Damage::Impossible(FormatError::NewerVersion { found, known, .. }),
                ..
            } => OpenError::NewerFormat { path, found: u32::from(found), known: u32::from(known) },
            ScanError::Header(error) => self.damaged(segment, segment, format!("segment header: {error}")),
            ScanError::Damaged { position, damage } => self.damaged(segment, position, damage.to_string()),
        }
    }
}

/// Makes an error of the system one of opening.
pub(super) fn failed<'a>(
    path: &'a Path,
    action: &'static str,
) -> impl FnOnce(std::io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { path: path.to_owned(), action, source }
}
