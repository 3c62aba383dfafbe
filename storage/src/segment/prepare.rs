//! Making segments ahead of need.
//!
//! `prep-*.tmp` -> fill -> header -> sync -> rename to `<position>.seg` -> sync the folder. A file has its name only
//! when it is whole and synced, so a `.seg` with a bad header is damage. Writing into blocks that were written once
//! is twice as fast as into blocks that were only reserved (each first write changes the file's metadata, and the
//! sync waits for the journal): hence the zeros.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use thiserror::Error;

use crate::format::{FileName, SEGMENT_HEADER_LEN, SegmentHeader, WINDOW_BYTES, prep_name, segment_name};
use crate::io::{Access, Io, IoFile};

/// What is in a segment before its first flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros, written: fast afterwards. For making one ahead of need.
    Written,
    /// Blocks that are reserved only: made at once, slower afterwards. For when one is needed now.
    Reserved,
}

/// How urgently zeros are written, asked before each write of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Not now: what the log writes goes first.
    Wait,
    /// One write at a time.
    Ahead,
    /// As fast as the device takes them.
    Hurry,
    /// No more: the rest is reserved only.
    Abandon,
}

impl Pace {
    /// Writes in flight.
    const fn depth(self) -> usize {
        match self {
            Self::Wait | Self::Abandon => 0,
            Self::Ahead => 1,
            Self::Hurry => HURRY_DEPTH,
        }
    }
}

/// Zeros in one write: a flush that comes while one is under way waits for 0.1 ms of the device's time, not for the
/// 0.5 ms of a whole window (2.4 ms with four in flight, measured).
const ZEROS_LEN: usize = 256 << 10;
/// Zeros in one write when they are late: a log at full load waits for them, and larger writes are done sooner (8 % more
/// messages per second into a new log, measured).
const HURRY_ZEROS_LEN: usize = 1 << 20;
const _: () = assert!(WINDOW_BYTES.is_multiple_of(ZEROS_LEN as u64));
const _: () = assert!(WINDOW_BYTES == HURRY_ZEROS_LEN as u64);

/// Enough writes in flight to use a device beside the flushes of a log at full load.
const HURRY_DEPTH: usize = 4;
/// How long to wait before the pace is asked for again.
const PACE_WAIT: Duration = Duration::from_millis(1);

/// How a segment is prepared ahead.
#[derive(Clone, Copy)]
pub struct Preparation<'a> {
    /// The pace, given the bytes of zeros so far.
    pub pace: &'a dyn Fn(u64) -> Pace,
    /// Sync the folder after the renaming. Only a null control does without.
    pub sync_dir: bool,
}

/// What went wrong while preparing. The file that was being made is left for [`remove_leftovers`].
#[derive(Debug, Error)]
#[error("{path}: {action} failed")]
pub struct PrepareError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl PrepareError {
    /// The disk, or the user's share of it, is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn failed<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> PrepareError + 'a {
    move |source| PrepareError { path: path.to_owned(), action, source }
}

/// Makes a segment in `dir` and gives it open for writing; it is durable, with its name.
///
/// When it fails, what it made is removed as well as can be. Dropped half-way, or at a
/// crash, it leaves a file for [`remove_leftovers`].
pub async fn prepare_segment<I: Io>(
    io: &I,
    dir: &Path,
    header: &SegmentHeader,
    content: Fill,
) -> Result<I::File, PrepareError> {
    let pace = |_| if content == Fill::Reserved { Pace::Abandon } else { Pace::Ahead };
    let (file, _) = prepare_ahead(io, dir, header, Preparation { pace: &pace, sync_dir: true }).await?;
    Ok(file)
}

/// Like [`prepare_segment`], at the pace that is asked for. When that abandons the zeros the content is
/// [`Fill::Reserved`].
pub async fn prepare_ahead<I: Io>(
    io: &I,
    dir: &Path,
    header: &SegmentHeader,
    how: Preparation<'_>,
) -> Result<(I::File, Fill), PrepareError> {
    let temporary = dir.join(prep_name(header.position.0));
    let prepared = match write_prepared(io, &temporary, header, how.pace).await {
        Ok(prepared) => prepared,
        Err(error) => {
            // The space is wanted back, above all on a full disk; the first error is what matters.
            let _ = io.remove(&temporary).await;
            return Err(error);
        }
    };
    let path = dir.join(segment_name(header.position));
    io.rename(&temporary, &path).await.map_err(failed(&path, "renaming to it"))?;
    if how.sync_dir {
        io.sync_dir(dir).await.map_err(failed(dir, "syncing"))?;
    }
    Ok(prepared)
}

/// Makes a segment of the file at `temporary`, whose blocks are there already: a retired one, which was renamed to the
/// `prep-*.tmp` of its position and that synced, or the ballast. A new salt makes what it holds mean nothing.
/// `header.bytes` is its size.
pub async fn reuse_segment<I: Io>(
    io: &I,
    dir: &Path,
    temporary: &Path,
    header: &SegmentHeader,
    sync_dir: bool,
) -> Result<I::File, PrepareError> {
    let file = io.open(temporary, Access::ReadWrite).await.map_err(failed(temporary, "opening"))?;
    // Nothing to do when all its blocks are there; where some are not, the space must be found now and not by a flush.
    file.preallocate(header.bytes).await.map_err(failed(temporary, "reserving space"))?;
    write_header(io, &file, header).await.map_err(failed(temporary, "writing the header"))?;
    file.sync().await.map_err(failed(temporary, "syncing"))?;
    let path = dir.join(segment_name(header.position));
    io.rename(temporary, &path).await.map_err(failed(&path, "renaming to it"))?;
    if sync_dir {
        io.sync_dir(dir).await.map_err(failed(dir, "syncing"))?;
    }
    Ok(file)
}

async fn write_header<I: Io>(io: &I, file: &I::File, header: &SegmentHeader) -> io::Result<()> {
    let mut block = io.allocate(SEGMENT_HEADER_LEN);
    block.as_mut().copy_from_slice(&header.encode());
    write_whole(file, Rc::new(block), 0).await
}

async fn write_prepared<I: Io>(
    io: &I,
    path: &Path,
    header: &SegmentHeader,
    pace: &dyn Fn(u64) -> Pace,
) -> Result<(I::File, Fill), PrepareError> {
    let file = io.open(path, Access::CreateNew).await.map_err(failed(path, "creating"))?;
    file.preallocate(header.bytes).await.map_err(failed(path, "reserving space"))?;
    let content = write_zeros(io, &file, header.bytes, pace).await.map_err(failed(path, "writing zeros"))?;
    write_header(io, &file, header).await.map_err(failed(path, "writing the header"))?;
    file.sync().await.map_err(failed(path, "syncing"))?;
    Ok((file, content))
}

async fn write_zeros<I: Io>(
    io: &I,
    file: &I::File,
    bytes: u64,
    pace: &dyn Fn(u64) -> Pace,
) -> io::Result<Fill> {
    let zeros = |len: usize| {
        let mut zeros = io.allocate(len);
        zeros.as_mut().fill(0);
        Rc::new(zeros)
    };
    let few = zeros(ZEROS_LEN);
    let mut many: Option<Rc<I::Buffer>> = None;
    let mut writes = FuturesUnordered::new();
    let mut result = Ok(Fill::Written);
    let mut begun = 0;
    // Sizes of segments are multiples of a window.
    while begun < bytes && result.is_ok() {
        let pace = pace(begun);
        if pace == Pace::Abandon {
            result = Ok(Fill::Reserved);
            break;
        }
        if writes.len() < pace.depth() {
            let is_late = pace == Pace::Hurry && begun.is_multiple_of(WINDOW_BYTES);
            let zeros = if is_late {
                many.get_or_insert_with(|| zeros(HURRY_ZEROS_LEN)).clone()
            } else {
                Rc::clone(&few)
            };
            let len = (*zeros).as_ref().len() as u64;
            writes.push(write_whole(file, zeros, begun));
            begun += len;
        } else if let Some(written) = writes.next().await {
            result = written.map(|()| Fill::Written);
        } else {
            io.sleep(PACE_WAIT).await;
        }
    }
    // No write may be dropped before it ends.
    while let Some(written) = writes.next().await {
        result = written.and(result);
    }
    result
}

/// A short count is a failed write.
async fn write_whole<F: IoFile>(file: &F, buffer: Rc<F::Buffer>, position: u64) -> io::Result<()>
where
    F::Buffer: AsRef<[u8]>,
{
    let len = buffer.as_ref().as_ref().len();
    let written = file.write_at(buffer, position).await?;
    if written == len {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{written} of {len} bytes written at {position}"),
        ))
    }
}

/// Removes what preparations left that did not end; tells how many files.
pub async fn remove_leftovers<I: Io>(io: &I, dir: &Path) -> Result<usize, PrepareError> {
    let files = io.list(dir).await.map_err(failed(dir, "listing"))?;
    let mut removed = 0;
    for file in files.iter().filter(|file| FileName::parse(&file.name) == Some(FileName::Prep)) {
        let path = dir.join(&file.name);
        io.remove(&path).await.map_err(failed(&path, "removing"))?;
        removed += 1;
    }
    Ok(removed)
}
