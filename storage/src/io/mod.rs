//! Everything that the log asks of the world outside: files, tasks, time.
//!
//! [`Io`] has two implementations: direct I/O on glommio (`dma`, which can keep its files in memory instead: `ram`), and
//! an in-memory one for tests (`memory`) that can crash at
//! call n, drop, reorder or tear writes that were not synced, and fail any call. Both are single-threaded: futures
//! are not `Send`.

mod align;
mod dma;
mod flush_file;
pub mod memory;
mod ram;

use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use align::{align_down, align_up, is_aligned};
pub use dma::{DmaIo, DmaIoFile, PROBE_FILE, ReadResultBytes, block_on};

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
pub trait IoFile {
    /// See [`Io::Buffer`].
    type Buffer;
    /// See [`Io::ReadBuffer`].
    type ReadBuffer;

    /// Reads `len` bytes at `position`, both multiples of [`ALIGN`]; fewer come only at the end of the file.
    fn read_at(&self, position: u64, len: usize) -> impl Future<Output = io::Result<Self::ReadBuffer>>;
    /// Writes the whole buffer; gives the number of bytes written. **A short count is a failed write.** The future
    /// must not be dropped before it ends.
    fn write_at(&self, buffer: Rc<Self::Buffer>, position: u64) -> impl Future<Output = io::Result<usize>>;
    /// Writes like [`IoFile::write_at`] and then, with `sync`, syncs like [`IoFile::sync`]: for what somebody waits for.
    fn write_flush(
        &self,
        buffer: Rc<Self::Buffer>,
        position: u64,
        sync: bool,
    ) -> impl Future<Output = io::Result<usize>>;
    /// fdatasync: what was written before it *began* is durable when it ends well.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    /// Reserves the blocks of the first `len` bytes and sets the length.
    fn preallocate(&self, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Gives the blocks of `len` bytes at `position` back to the file system: they read as zeros, the length stays.
    fn give_back(&self, position: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Closes it, telling what `Drop` could not.
    fn close(self) -> impl Future<Output = io::Result<()>>;
}
