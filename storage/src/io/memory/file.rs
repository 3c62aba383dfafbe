//! A file in memory: each call is numbered, takes its time and may fail.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::disk::InodeRef;
use super::{CallKind, Fault, MemoryIo};
use crate::io::{IoFile, is_aligned};

/// An open file of a [`MemoryIo`].
#[derive(Debug)]
pub struct MemoryFile {
    pub(super) io: MemoryIo,
    pub(super) path: PathBuf,
    pub(super) inode: InodeRef,
    pub(super) can_write: bool,
}

fn aligned(position: u64, len: usize) -> io::Result<usize> {
    if is_aligned(position) && is_aligned(len as u64) {
        usize::try_from(position).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

impl MemoryFile {
    /// Bytes by which the file would grow.
    fn growth(&self, end: usize) -> usize {
        end.saturating_sub(self.inode.borrow().live().len())
    }
}

impl IoFile for MemoryFile {
    type Buffer = Vec<u8>;
    type ReadBuffer = Vec<u8>;

    async fn read_at(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let begin = aligned(position, len)?;
        self.io.call(CallKind::Read, &self.path, position, len).await?;
        let inode = self.inode.borrow();
        let rest = inode.live().get(begin..).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest).to_vec())
    }

    async fn write_at(&self, buffer: Rc<Vec<u8>>, position: u64) -> io::Result<usize> {
        let begin = aligned(position, buffer.len())?;
        if !self.can_write {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let (number, fault) = self.io.begin(CallKind::Write, &self.path, position, buffer.len()).await;
        let len = if let Some(Fault::ShortWrite(len)) = fault { len } else { buffer.len() };
        let data = buffer.get(..len).unwrap_or(&buffer).to_vec();
        let len = data.len();
        let space = self.io.check_space(self.growth(begin + len));
        if space.is_ok() {
            self.inode.borrow_mut().submit(number, begin, data, 0);
        }
        self.io.latency().await;
        space?;
        if let Some(Fault::Error(code)) = fault {
            return Err(io::Error::from_raw_os_error(code));
        }
        self.inode.borrow_mut().complete(number);
        Ok(len)
    }

    async fn write_flush(&self, buffer: Rc<Vec<u8>>, position: u64, sync: bool) -> io::Result<usize> {
        let len = buffer.len();
        let written = self.write_at(buffer, position).await?;
        if sync && written == len {
            self.sync().await?;
        }
        Ok(written)
    }

    async fn sync(&self) -> io::Result<()> {
        let changes = self.inode.borrow().completed();
        let result = self.io.call(CallKind::Sync, &self.path, 0, 0).await;
        let mut inode = self.inode.borrow_mut();
        match result {
            Ok(()) => inode.synced(&changes),
            Err(_) => inode.sync_failed(&changes),
        }
        result
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let (number, fault) = self.io.begin(CallKind::Preallocate, &self.path, 0, len).await;
        self.io.latency().await;
        if let Some(Fault::Error(code)) = fault {
            return Err(io::Error::from_raw_os_error(code));
        }
        self.io.check_space(self.growth(len))?;
        let mut inode = self.inode.borrow_mut();
        inode.submit(number, 0, Vec::new(), len);
        inode.complete(number);
        Ok(())
    }

    /// Zeros, as a program sees it: what is given back counts as used all the same.
    async fn give_back(&self, position: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        let begin = aligned(position, len)?;
        if !self.can_write {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let (number, fault) = self.io.begin(CallKind::GiveBack, &self.path, position, len).await;
        let end = self.inode.borrow().live().len().min(begin.saturating_add(len));
        self.inode.borrow_mut().submit(number, begin, vec![0; end.saturating_sub(begin)], 0);
        self.io.latency().await;
        if let Some(Fault::Error(code)) = fault {
            return Err(io::Error::from_raw_os_error(code));
        }
        self.inode.borrow_mut().complete(number);
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        self.io.call(CallKind::Close, &self.path, 0, 0).await
    }
}
