//! A file in memory: each call is numbered, takes its time and may fail.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;

use super::disk::InodeRef;
use super::{CallKind, Fault, MemoryIo};
use crate::io::line::{Line, Place, not_begun};
use crate::io::{FlushWrite, FlushWritten, IoFile, is_aligned, put_header};
use crate::types::Position;

/// An open file of a [`MemoryIo`].
#[derive(Clone, Debug)]
pub struct MemoryFile {
    pub(super) io: MemoryIo,
    pub(super) path: PathBuf,
    pub(super) inode: InodeRef,
    pub(super) can_write: bool,
    pub(super) line: Rc<RefCell<FlushLine>>,
}

/// Flushes on their way through a handle: who waits is told up to where all is synced when its turn has come.
pub(super) type FlushLine = Line<oneshot::Sender<Position>>;

fn aligned(position: u64, len: usize) -> io::Result<usize> {
    if is_aligned(position) && is_aligned(len as u64) {
        usize::try_from(position).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

impl MemoryFile {
    /// Lets those flushes begin whose turn it is; those that never will learn it from their places being gone.
    fn advance(&self) {
        let mut line = self.line.borrow_mut();
        while let Some(turn) = line.begin() {
            let _ = turn.job.send(turn.synced_to);
        }
        line.refused().for_each(drop);
    }

    async fn write_and_sync(&self, buffer: Rc<Vec<u8>>, position: u64, sync: bool) -> io::Result<usize> {
        let len = buffer.len();
        let written = self.write_at(buffer, position).await?;
        if sync && written == len {
            self.sync().await?;
        }
        Ok(written)
    }

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

    fn write_flush(
        &self,
        flush: FlushWrite<Vec<u8>>,
    ) -> impl Future<Output = io::Result<FlushWritten<Vec<u8>>>> + use<> + 'static {
        let (place, at) = (Place::of(&flush), flush.at());
        let FlushWrite { mut memory, header, sync, .. } = flush;
        let (turn, begun) = oneshot::channel();
        self.line.borrow_mut().join(place, turn);
        self.advance();
        let this = self.clone();
        async move {
            let synced_to = begun.await.map_err(|_| not_begun())?;
            let durable_to = put_header(header, synced_to, &mut memory);
            let memory = Rc::new(memory);
            let written = this.write_and_sync(Rc::clone(&memory), at, sync).await;
            let is_whole = written.as_ref().is_ok_and(|written| *written == memory.len());
            this.line.borrow_mut().end(place, is_whole);
            this.advance();
            Ok(FlushWritten { bytes: written?, memory, durable_to, took: Duration::ZERO })
        }
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
