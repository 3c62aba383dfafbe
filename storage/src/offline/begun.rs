//! Which logs of a data directory are missing: they were begun, and hold nothing any more.
//!
//! A log without a single flush looks like one that was never opened: its folder may be a mount that did not come up, or
//! its files may have been removed. Opened as new it would give its offsets a second time. What tells the two apart is a
//! file beside the logs, written once all of them were begun; and without it - the first start did not get so far, or an
//! older build made the directory - whatever another log holds: nothing is stored before all logs are open. **Invariant**:
//! what cannot be read is never taken for empty.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use super::walk::{Visitor, walk_log};
use super::{Damaged, OfflineError, failed};
use crate::format::{
    BEGIN_ANEW_FILE, BEGUN_FILE, FileName, FlushHeader, FlushKind, Identity, REPAIR_INTENT_FILE,
    SEGMENT_HEADER_LEN, SegmentHeader, SnapshotPrefix, log_dir_name, segment_name,
};
use crate::segment::{BodyError, FirstFlush, TAIL_BYTES, holds_flush};
use crate::types::{LogId, Position};

const BEGUN_TEXT: &str =
    "# All logs of this data directory were begun: one that holds nothing is missing, not new.\n";
const ANEW_TEXT: &str = "# This log was given up: the next start begins it anew.\n";
/// A log with more segments was used: one is prepared at a time.
const SEGMENTS_UNUSED_MAX: usize = 2;

/// The logs of a data directory that were begun and hold nothing any more. The same for a broker and for `verify`.
///
/// # Errors
/// What keeps it from being told.
pub fn missing_logs(data_dir: &Path, logs: u16) -> Result<Vec<LogId>, OfflineError> {
    let empty = empty_logs(data_dir, logs)?;
    if empty.is_empty() {
        return Ok(empty);
    }
    let mut were_begun = all_begun(data_dir)?;
    for log in (0..logs).map(LogId).filter(|log| !empty.contains(log)) {
        were_begun = were_begun || holds_anything(data_dir, log)?;
    }
    let mut missing = Vec::new();
    for log in empty.into_iter().filter(|_| were_begun) {
        let given_up = data_dir.join(log_dir_name(log)).join(BEGIN_ANEW_FILE);
        if !given_up.try_exists().map_err(failed(&given_up, "looking for it"))? {
            missing.push(log);
        }
    }
    Ok(missing)
}

/// The logs of a data directory that hold no flush.
///
/// # Errors
/// What keeps it from being told.
pub fn empty_logs(data_dir: &Path, logs: u16) -> Result<Vec<LogId>, OfflineError> {
    let mut empty = Vec::new();
    for log in (0..logs).map(LogId) {
        if is_empty(&data_dir.join(log_dir_name(log)))? {
            empty.push(log);
        }
    }
    Ok(empty)
}

/// Whether it is written down that all logs were begun.
///
/// # Errors
/// The system said no.
pub fn all_begun(data_dir: &Path) -> Result<bool, OfflineError> {
    let path = data_dir.join(BEGUN_FILE);
    path.try_exists().map_err(failed(&path, "looking for it"))
}

/// Writes down that all logs were begun. To be called when each of them is open, before anything is stored.
///
/// # Errors
/// The system said no; that may be for want of space.
pub fn note_begun(data_dir: &Path, logs: u16) -> Result<(), OfflineError> {
    if !all_begun(data_dir)? {
        write_synced(data_dir, BEGUN_FILE, BEGUN_TEXT)?;
    }
    for log in (0..logs).map(LogId) {
        let dir = data_dir.join(log_dir_name(log));
        let path = dir.join(BEGIN_ANEW_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_dir(&dir)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, "removing")(error)),
        }
    }
    Ok(())
}

/// Gives up a log that is missing: the next start begins it anew, with offsets from 0. The caller holds the lock and has
/// asked.
///
/// # Errors
/// The system said no.
pub fn give_up_missing(data_dir: &Path, log: LogId) -> Result<(), OfflineError> {
    let dir = data_dir.join(log_dir_name(log));
    std::fs::create_dir_all(&dir).map_err(failed(&dir, "creating the folder"))?;
    write_synced(&dir, BEGIN_ANEW_FILE, ANEW_TEXT)?;
    sync_dir(data_dir)
}

/// Why a log is refused, in words.
pub(super) fn why_missing(log: LogId) -> String {
    format!("log {log} is missing: it was begun, and holds nothing")
}

fn is_empty(dir: &Path) -> Result<bool, OfflineError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed(dir, "listing")(error)),
    };
    let mut positions = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(dir, "listing"))?.file_name();
        let name = name.to_string_lossy();
        if name == REPAIR_INTENT_FILE {
            return Ok(false); // its segment may be on its way
        }
        if let Some(FileName::Segment(position)) = FileName::parse(&name) {
            positions.push(position);
        }
    }
    if positions.len() > SEGMENTS_UNUSED_MAX
        || positions.iter().min().is_some_and(|first| *first != Position(0))
    {
        return Ok(false);
    }
    for position in positions {
        if !is_unused(&dir.join(segment_name(position)))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there is no flush in the segment; one whose header is not good is for opening to judge.
fn is_unused(path: &Path) -> Result<bool, OfflineError> {
    let file = File::open(path).map_err(failed(path, "opening"))?;
    let mut bytes = Vec::new();
    let front = (SEGMENT_HEADER_LEN as u64).max(crate::format::BLOCK_BYTES) + TAIL_BYTES;
    file.take(front).read_to_end(&mut bytes).map_err(failed(path, "reading"))?;
    let Ok(header) = SegmentHeader::decode(&bytes) else { return Ok(false) };
    let first = header.first_flush();
    let at = usize::try_from(first.0 - header.position.0).unwrap_or(usize::MAX);
    let bytes = bytes.get(at..).unwrap_or_default();
    Ok(match FirstFlush::of_block(&header, bytes) {
        Some(found) => found == FirstFlush::Nothing,
        None => !holds_flush(&header, first, bytes),
    })
}

/// Whether a log holds more than what opening it writes. Damage counts: it was something.
fn holds_anything(data_dir: &Path, log: LogId) -> Result<bool, OfflineError> {
    let mut holds = Holds(false);
    let _ = walk_log(data_dir, log, &mut holds)?; // it ends early when it is found
    Ok(holds.0)
}

struct Holds(bool);

impl Visitor for Holds {
    fn identity(&mut self, _: Identity) {}

    fn log(&mut self, _: LogId) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn segment(&mut self, _: &Path, _: &SegmentHeader) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn flush(&mut self, header: &FlushHeader, body: &[u8]) -> Result<ControlFlow<()>, BodyError> {
        self.0 |= match header.kind {
            FlushKind::Data | FlushKind::Gap | FlushKind::Seal => true,
            FlushKind::Snapshot => !SnapshotPrefix::split(body)?.1.is_empty(),
            FlushKind::Open | FlushKind::Idle | FlushKind::Clean => false,
        };
        Ok(if self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn end(&mut self, _: Position, _: u64) {}

    fn damaged(&mut self, _: Damaged) {
        self.0 = true;
    }
}

/// A file is there whole, or not at all.
fn write_synced(dir: &Path, name: &str, text: &str) -> Result<(), OfflineError> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(failed(&path, "writing"))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), OfflineError> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(failed(dir, "syncing the folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_or_is_being_repaired_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log-0");
        let empty = || empty_logs(dir.path(), 1).map(|empty| empty.len());
        assert_eq!(empty().unwrap(), 1, "no folder");
        std::fs::write(&log, "").unwrap();
        assert!(matches!(empty(), Err(OfflineError::Io { .. })), "a file where the folder should be");
        std::fs::remove_file(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        assert_eq!(empty().unwrap(), 1);
        std::fs::write(log.join("prep-1.tmp"), "").unwrap();
        std::fs::write(log.join("00000000000000000000.idx"), "").unwrap();
        assert_eq!(empty().unwrap(), 1, "nothing of it is a message");
        for name in [REPAIR_INTENT_FILE, "00000000000000000000.seg", "00000000000001048576.seg"] {
            std::fs::write(log.join(name), [0; 8192]).unwrap();
            assert_eq!(empty().unwrap(), 0, "{name}");
            std::fs::remove_file(log.join(name)).unwrap();
        }
    }

    #[test]
    fn a_log_is_missing_only_in_a_directory_that_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(missing_logs(dir.path(), 2).unwrap(), []);
        note_begun(dir.path(), 2).unwrap();
        assert_eq!(missing_logs(dir.path(), 2).unwrap(), [LogId(0), LogId(1)]);
        give_up_missing(dir.path(), LogId(1)).unwrap();
        assert_eq!(missing_logs(dir.path(), 2).unwrap(), [LogId(0)]);
        note_begun(dir.path(), 2).unwrap();
        assert_eq!(missing_logs(dir.path(), 2).unwrap(), [LogId(0), LogId(1)], "it is given up once");
    }
}
