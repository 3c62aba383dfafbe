//! Everything that the log asks of the world outside: files, tasks, time.
//!
//! [`Io`] has two implementations: direct I/O on glommio (`dma`, which can keep its files in memory instead: `ram`), and
//! an in-memory one for tests (`memory`) that can crash at
//! call n, drop, reorder or tear writes that were not synced, and fail any call. Both are single-threaded: futures
//! are not `Send`.

mod align;
mod dma;
mod flush_file;
mod line;
pub mod memory;
mod ram;
mod threads;

use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use align::{align_down, align_up, is_aligned};
pub use dma::{DmaIo, DmaIoFile, PROBE_FILE, ReadResultBytes, block_on};
pub use threads::blocking_threads;

use crate::format::{FLUSH_HEADER_LEN, FlushHeader};
use crate::types::Position;

/// Alignment of every position, length and buffer in direct I/O, in bytes.
pub const ALIGN: usize = 4096;

/// Name and length of a file in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Name without its folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes that it takes, at least: less than its length where blocks were given back.
    pub stored: u64,
}

/// A flush that is to be written.
#[derive(Debug)]
pub struct FlushWrite<B> {
    /// Its bytes, but for the header.
    pub memory: B,
    /// Put in front of them when the write begins: with a `durable_to` that is at least this one's, and covers all flushes of
    /// this file that were synced by then.
    pub header: FlushHeader,
    /// Position of its segment, where the file begins.
    pub segment: Position,
    /// Its write begins when every flush before this position is written and synced.
    pub after: Position,
    /// It is synced itself, too.
    pub sync: bool,
}

/// What became of a flush.
#[derive(Debug)]
pub struct FlushWritten<B> {
    /// What was written.
    pub memory: Rc<B>,
    /// Bytes of it that were written; fewer than all is a failed write.
    pub bytes: usize,
    /// What its header said.
    pub durable_to: Position,
    /// From the start of its write to the end of its sync.
    pub took: Duration,
}

impl<B> FlushWrite<B> {
    /// Where it goes in the file.
    pub(crate) fn at(&self) -> u64 {
        self.header.position.0.saturating_sub(self.segment.0)
    }
}

/// Puts the header of a flush that begins now in front of its memory. Gives what it says is durable.
fn put_header(mut header: FlushHeader, synced_to: Position, memory: &mut [u8]) -> Position {
    header.durable_to = header.durable_to.max(synced_to);
    if let Some(front) = memory.first_chunk_mut::<FLUSH_HEADER_LEN>() {
        *front = header.encode();
    }
    header.durable_to
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reading.
    Read,
    /// Reading and writing.
    ReadWrite,
    /// Reading and writing a file that must not exist yet.
    CreateNew,
}

/// The world outside the log.
pub trait Io: Clone + 'static {
    /// Memory that may be written to or was read from a file.
    type Buffer: AsRef<[u8]> + AsMut<[u8]> + 'static;
    /// What a read gives: memory with the bytes read, which may be fewer than asked for at the end of the file.
    type ReadBuffer: AsRef<[u8]> + 'static;
    /// An open file.
    type File: IoFile<Buffer = Self::Buffer, ReadBuffer = Self::ReadBuffer> + 'static;

    /// Memory of `len` bytes (a multiple of [`ALIGN`]) for writing; its content is not defined.
    fn allocate(&self, len: usize) -> Self::Buffer;

    /// Opens a file for direct I/O.
    fn open(&self, path: &Path, access: Access) -> impl Future<Output = io::Result<Self::File>>;
    /// Renames, replacing what is at `to`; atomic, durable only after [`Io::sync_dir`] of the folder it moves to.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Creates a folder (and its parents) if it is not there; durable only after [`Io::sync_dir`] of *its* folder.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// The files in a folder, in no order.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<FileEntry>>>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;

    /// Runs a task that nobody cancels.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
    /// Lets other tasks run.
    fn yield_now(&self) -> impl Future<Output = ()>;
    /// Time for people, ms UTC; may jump.
    fn wall_ms(&self) -> i64;
    /// Time since some moment; never jumps.
    fn uptime(&self) -> Duration;
    /// Free bytes of the file system that `dir` is on.
    fn free_bytes(&self, dir: &Path) -> impl Future<Output = io::Result<u64>>;
}

/// An open file.
pub trait IoFile: 'static {
    /// See [`Io::Buffer`].
    type Buffer;
    /// See [`Io::ReadBuffer`].
    type ReadBuffer;

    /// Reads `len` bytes at `position`, both multiples of [`ALIGN`]; fewer come only at the end of the file.
    fn read_at(&self, position: u64, len: usize) -> impl Future<Output = io::Result<Self::ReadBuffer>>;
    /// Writes the whole buffer; gives the number of bytes written. **A short count is a failed write.** The future
    /// must not be dropped before it ends.
    fn write_at(&self, buffer: Rc<Self::Buffer>, position: u64) -> impl Future<Output = io::Result<usize>>;
    /// Hands a flush over, which is written when its turn has come and synced like [`IoFile::sync`]; the future tells what
    /// became of it. Flushes are handed over in the order of their positions; several may be on their way. After one that
    /// failed those that wait fail too.
    fn write_flush(
        &self,
        flush: FlushWrite<Self::Buffer>,
    ) -> impl Future<Output = io::Result<FlushWritten<Self::Buffer>>> + use<Self> + 'static;
    /// fdatasync: what was written before it *began* is durable when it ends well.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    /// Reserves the blocks of the first `len` bytes and sets the length.
    fn preallocate(&self, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Gives the blocks of `len` bytes at `position` back to the file system: they read as zeros, the length stays.
    fn give_back(&self, position: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Closes it, telling what `Drop` could not.
    fn close(self) -> impl Future<Output = io::Result<()>>;
}
