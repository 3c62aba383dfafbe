//! An [`Io`] on which nothing changes: what opening a log would find is found by the same code, without opening it.
//!
//! Plain reads, no mapping and no executor: nothing ever waits. What opening would tidy up or sync stays as it is;
//! whatever would write a byte is refused.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::io::{Access, FileEntry, FlushWrite, FlushWritten, Io, IoFile};

/// Bytes of a block as the system counts them.
const STAT_BLOCK: u64 = 512;

/// See the file's own text.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadOnlyIo;

/// A file that is only read.
#[derive(Debug)]
pub(super) struct ReadOnlyFile(File);

/// Runs what only reads to its end.
pub(super) fn run<T>(reading: impl Future<Output = T>) -> T {
    let mut reading = pin!(reading);
    loop {
        // Not ready: it lets others run, and there are none.
        if let Poll::Ready(read) = reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return read;
        }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Io for ReadOnlyIo {
    type Buffer = Vec<u8>;
    type ReadBuffer = Vec<u8>;
    type File = ReadOnlyFile;

    fn allocate(&self, len: usize) -> Vec<u8> {
        vec![0; len]
    }

    async fn open(&self, path: &Path, access: Access) -> io::Result<ReadOnlyFile> {
        if access == Access::CreateNew { refused() } else { File::open(path).map(ReadOnlyFile) }
    }

    async fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    /// Only leftovers are removed before a log is open: they stay.
    async fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() { Ok(()) } else { refused() }
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let (Ok(name), metadata) = (entry.file_name().into_string(), entry.metadata()?) else { continue };
            if metadata.is_file() {
                let stored = metadata.blocks().saturating_mul(STAT_BLOCK);
                files.push(FileEntry { name, bytes: metadata.len(), stored });
            }
        }
        Ok(files)
    }

    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Only a log that is open has tasks.
    fn spawn(&self, _: impl Future<Output = ()> + 'static) {}

    async fn sleep(&self, _: Duration) {}

    async fn yield_now(&self) {}

    fn wall_ms(&self) -> i64 {
        0
    }

    fn uptime(&self) -> Duration {
        Duration::ZERO
    }

    async fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(0)
    }
}

impl IoFile for ReadOnlyFile {
    type Buffer = Vec<u8>;
    type ReadBuffer = Vec<u8>;

    async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = read_up_to(&self.0, position, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    async fn write_at(&self, _: Rc<Vec<u8>>, _: u64) -> io::Result<usize> {
        refused()
    }

    fn write_flush(
        &self,
        _: FlushWrite<Vec<u8>>,
    ) -> impl Future<Output = io::Result<FlushWritten<Vec<u8>>>> + use<> + 'static {
        std::future::ready(refused())
    }

    /// Nothing was written, so there is nothing to sync.
    async fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    async fn preallocate(&self, _: u64) -> io::Result<()> {
        refused()
    }

    async fn give_back(&self, _: u64, _: u64) -> io::Result<()> {
        refused()
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads until `bytes` are full or the file ends; gives how many were read.
pub(super) fn read_up_to(file: &File, position: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position.saturating_add(read as u64)) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
