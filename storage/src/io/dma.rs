//! [`Io`] on glommio: direct I/O on the executor of the calling thread.
//!
//! **Invariants**: every open file was preceded, on this executor, by the guard of [`DmaIo::new`]; nothing here
//! blocks the executor: what io_uring has no operation for runs on glommio's blocking threads, its panics caught
//! there (glommio never wakes the task of a closure that panicked).

use std::cell::Cell;
use std::future::{Future, ready};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::Either;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use nix::time::{ClockId, clock_gettime};

use super::flush_file::FlushFile;
use super::ram::{RamBytes, RamDisk, RamFile};
use super::{ALIGN, Access, FileEntry, FlushWrite, FlushWritten, Io, IoFile, is_aligned, put_header};

/// What the system counts the blocks of a file in, bytes.
const BLOCK_UNIT: u64 = 512;

/// The file that the guard reads, in the folder given to [`DmaIo::new`].
pub const PROBE_FILE: &str = "io-probe";

/// Direct I/O on glommio.
///
/// Belongs to the executor on which it was made.
#[derive(Clone)]
pub struct DmaIo {
    /// Not `Send`: the guard ran on this thread's executor only.
    _executor: std::marker::PhantomData<Rc<()>>,
    begun: Instant,
    /// Files are here and not on a disk.
    ram: Option<Rc<RamDisk<DmaBuffer>>>,
}

impl std::fmt::Debug for DmaIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DmaIo").field("in_memory", &self.ram.is_some()).finish_non_exhaustive()
    }
}

impl DmaIo {
    /// Makes one for the calling executor, before any other `DmaFile` is opened on it. `probe_dir` is a folder on
    /// the device that all files will be on.
    ///
    /// glommio 0.9.0 asks on the first open of a device whether it can be polled, by reading the file's first block
    /// on a polled ring. An empty file (a new segment) "succeeds" without touching the device, after which the
    /// executor spins at 100 % CPU whenever I/O is in flight and flushes take a scheduler tick. Its answer is kept
    /// for the thread's life. So the first file opened is one with a really written block.
    ///
    /// # Errors
    /// When the probe file is not there and cannot be made, or cannot be opened for direct I/O.
    pub async fn new(probe_dir: &Path) -> io::Result<Self> {
        let path = probe_dir.join(PROBE_FILE);
        blocking({
            let path = path.clone();
            move || write_probe(&path)
        })
        .await?;
        DmaFile::open(&path).await?.close().await?;
        Ok(Self { _executor: std::marker::PhantomData, begun: Instant::now(), ram: None })
    }

    /// One whose files are in memory, at most `capacity` bytes of them, and gone with the process.
    pub fn in_memory(capacity: u64) -> Self {
        let ram = Some(Rc::new(RamDisk::new(capacity)));
        Self { _executor: std::marker::PhantomData, begun: Instant::now(), ram }
    }
}

/// Does some work on the files of a data directory, on an executor of its own in the calling thread. For tools; a broker
/// has executors of its own.
///
/// # Errors
/// When there can be no executor, or no direct I/O on the directory.
pub fn block_on<T>(data_dir: &Path, work: impl AsyncFnOnce(DmaIo) -> T) -> io::Result<T> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().map_err(plain)?;
    executor.run(async { Ok(work(DmaIo::new(data_dir).await?).await) })
}

/// Writes the probe's block where it is missing. Several executors may do it at once: they write the same bytes.
fn write_probe(path: &Path) -> io::Result<()> {
    if path.metadata().is_ok_and(|metadata| metadata.len() >= ALIGN as u64) {
        return Ok(());
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&[0x5a; ALIGN], 0)?;
    file.sync_all()
}

/// Runs `job` on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let guarded = move || catch_unwind(AssertUnwindSafe(job));
    match glommio::executor().spawn_blocking(guarded).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("a file system call panicked")),
    }
}

impl Io for DmaIo {
    type Buffer = DmaBuffer;
    type ReadBuffer = ReadResultBytes;
    type File = DmaIoFile;

    fn allocate(&self, len: usize) -> DmaBuffer {
        debug_assert!(is_aligned(len as u64), "buffers are whole blocks");
        glommio::allocate_dma_buffer(len)
    }

    async fn open(&self, path: &Path, access: Access) -> io::Result<DmaIoFile> {
        if let Some(ram) = &self.ram {
            return Ok(DmaIoFile(Place::Ram(ram.open(path, access)?)));
        }
        let mut options = OpenOptions::new();
        options.read(true).mode(0o640);
        match access {
            Access::Read => {}
            Access::ReadWrite => {
                options.write(true);
            }
            Access::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let file = options.dma_open(path).await.map_err(plain)?;
        let flushes = if access == Access::Read { None } else { Some(FlushFile::of(&file)?) };
        // glommio asks by path: right now and only now, before anyone renames the file.
        let bytes = if access == Access::CreateNew { 0 } else { file.file_size().await.map_err(plain)? };
        Ok(DmaIoFile(Place::Disk(DiskFile { file, flushes, bytes: Rc::new(Cell::new(bytes)) })))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Some(ram) = &self.ram {
            return ram.rename(from, to);
        }
        glommio::io::rename(from, to).await.map_err(plain)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        if let Some(ram) = &self.ram {
            return ram.remove(path);
        }
        glommio::io::remove(path).await.map_err(plain)
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        if self.ram.is_some() {
            return Ok(());
        }
        let path = path.to_owned();
        blocking(move || std::fs::create_dir_all(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        if let Some(ram) = &self.ram {
            return Ok(ram.list(dir));
        }
        let dir = dir.to_owned();
        blocking(move || list_files(&dir)).await
    }

    /// fsync of the folder. Not glommio's `Directory::sync`: that is fdatasync, and ext4 (6.18, `ext4_fsync_journal`)
    /// then waits only for the transaction that last changed the folder's *size*; a rename within its blocks is none.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.ram.is_some() {
            return Ok(());
        }
        let dir = dir.to_owned();
        blocking(move || std::fs::File::open(dir)?.sync_all()).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    async fn yield_now(&self) {
        glommio::executor().yield_task_queue_now().await;
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn uptime(&self) -> Duration {
        // Goes on while the machine sleeps, as the clock of people does.
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        since_boot.unwrap_or_else(|_| self.begun.elapsed())
    }

    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        if let Some(ram) = &self.ram {
            return Ok(ram.free_bytes());
        }
        let dir = dir.to_owned();
        blocking(move || fs4::available_space(dir)).await
    }
}

/// Files (not folders) in `dir`.
fn list_files(dir: &Path) -> io::Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Removed since: not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        // A name that is not UTF-8 is none of the log's.
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            files.push(FileEntry { name, bytes: metadata.len(), stored: metadata.blocks() * BLOCK_UNIT });
        }
    }
    Ok(files)
}

/// The system's own error, which callers compare with ENOSPC and its like, without glommio's wrapping.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

/// Memory that a read filled.
pub struct ReadResultBytes(ReadBytes);

enum ReadBytes {
    Disk(ReadResult),
    Ram(RamBytes<DmaBuffer>),
}

impl AsRef<[u8]> for ReadResultBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            ReadBytes::Disk(read) => read,
            ReadBytes::Ram(read) => read.as_ref(),
        }
    }
}

/// A file open for direct I/O, or in memory.
pub struct DmaIoFile(Place);

enum Place {
    Disk(DiskFile),
    Ram(Rc<RamFile<DmaBuffer>>),
}

fn write_in_ram(
    file: &RamFile<DmaBuffer>,
    flush: FlushWrite<DmaBuffer>,
) -> io::Result<FlushWritten<DmaBuffer>> {
    let at = flush.at();
    let FlushWrite { mut memory, header, .. } = flush;
    let durable_to = put_header(header, header.durable_to, memory.as_mut());
    let memory = Rc::new(memory);
    let bytes = file.write(Rc::clone(&memory), at)?;
    Ok(FlushWritten { memory, bytes, durable_to, took: Duration::ZERO })
}

/// A file on a disk.
#[derive(Debug)]
struct DiskFile {
    file: DmaFile,
    /// `None` when it is only read.
    flushes: Option<FlushFile>,
    /// Its length as far as this handle knows: at open, grown by own writes.
    bytes: Rc<Cell<u64>>,
}

impl DiskFile {
    fn grown_to(&self, end: u64) {
        self.bytes.set(self.bytes.get().max(end));
    }

    fn write_flush(
        &self,
        flush: FlushWrite<DmaBuffer>,
    ) -> impl Future<Output = io::Result<FlushWritten<DmaBuffer>>> + use<> + 'static {
        let (at, known) = (flush.at(), Rc::clone(&self.bytes));
        let writing = self.flushes.as_ref().map(|flushes| flushes.write(flush));
        async move {
            let Some(writing) = writing else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
            let written = writing.await?;
            known.set(known.get().max(at.saturating_add(written.bytes as u64)));
            Ok(written)
        }
    }

    async fn read_at(&self, position: u64, len: usize) -> io::Result<ReadResult> {
        let read = self.file.read_at_aligned(position, len).await.map_err(plain)?;
        let end = position.saturating_add(read.len() as u64);
        if read.len() < len && end < self.bytes.get() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{} of {len} bytes read at {position} of a file of {} bytes",
                    read.len(),
                    self.bytes.get()
                ),
            ));
        }
        Ok(read)
    }
}

impl IoFile for DmaIoFile {
    type Buffer = DmaBuffer;
    type ReadBuffer = ReadResultBytes;

    async fn read_at(&self, position: u64, len: usize) -> io::Result<ReadResultBytes> {
        debug_assert!(is_aligned(position) && is_aligned(len as u64), "direct I/O is aligned");
        Ok(ReadResultBytes(match &self.0 {
            Place::Disk(file) => ReadBytes::Disk(file.read_at(position, len).await?),
            Place::Ram(file) => ReadBytes::Ram(file.read(position, len)),
        }))
    }

    async fn write_at(&self, buffer: Rc<DmaBuffer>, position: u64) -> io::Result<usize> {
        debug_assert!(is_aligned(position) && is_aligned(buffer.len() as u64), "direct I/O is aligned");
        match &self.0 {
            Place::Disk(file) => {
                let written = file.file.write_rc_at(buffer, position).await.map_err(plain)?;
                file.grown_to(position.saturating_add(written as u64));
                Ok(written)
            }
            Place::Ram(file) => file.write(buffer, position),
        }
    }

    fn write_flush(
        &self,
        flush: FlushWrite<DmaBuffer>,
    ) -> impl Future<Output = io::Result<FlushWritten<DmaBuffer>>> + use<> + 'static {
        let at = flush.at();
        debug_assert!(is_aligned(at) && is_aligned(flush.memory.len() as u64), "direct I/O is aligned");
        match &self.0 {
            Place::Disk(file) => Either::Left(file.write_flush(flush)),
            // Written at once, so it is always its turn.
            Place::Ram(file) => Either::Right(ready(write_in_ram(file, flush))),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        match &self.0 {
            Place::Disk(file) => file.file.fdatasync().await.map_err(plain),
            Place::Ram(_) => Ok(()),
        }
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Place::Disk(file) => {
                file.file.pre_allocate(len, false).await.map_err(plain)?;
                file.grown_to(len);
                Ok(())
            }
            Place::Ram(file) => file.grow_to(len),
        }
    }

    async fn give_back(&self, position: u64, len: u64) -> io::Result<()> {
        debug_assert!(is_aligned(position) && is_aligned(len), "whole blocks are given back");
        match &self.0 {
            Place::Disk(file) => file.file.deallocate(position, len).await.map_err(plain),
            Place::Ram(file) => {
                file.cut_out(position, position.saturating_add(len));
                Ok(())
            }
        }
    }

    async fn close(self) -> io::Result<()> {
        match self.0 {
            Place::Disk(file) => file.file.close().await.map_err(plain),
            Place::Ram(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
