//! Writing and syncing on a blocking thread: the way of flushes, which somebody waits for.
//!
//! An asynchronous direct write to ext4 or xfs ends, from Linux 5.5 to 6.18 at least, in a work queue of the CPU that took
//! the device's interrupt (`iomap_dio_complete_work`). Where another process keeps that CPU busy the work waits for its
//! turn, 1 to 3 ms each time; and `io_uring` hands every fdatasync to a kernel thread anyway. A thread that writes and syncs
//! in one go is woken by the interrupt itself: 16 % more messages and 10 % less CPU a flush, measured beside `io_uring` in
//! one run.
//!
//! A thread goes on with the flush whose turn it is without asking the executor: two wake-ups less between two flushes.
//!
//! **Invariant**: the memory of a write that began stays where it is until the thread is done with it, even when the
//! future is dropped before.

use std::fs::File;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use glommio::io::{DmaBuffer, DmaFile};

use super::dma::blocking;
use super::line::{Line, Place, Turn, not_begun};
use super::{FlushWrite, FlushWritten, put_header};
use crate::format::FlushHeader;
use crate::types::Position;

/// Flushes that a thread writes one after the other before it is free for others. Each time the way over the executor costs
/// a pause of the device: with 16 the log alone wrote 374 to 445 MB/s in flushes of 64 KiB one at a time, with 64 441 to
/// 472. Somebody waits for it only where a shard has more than eight logs (`threads.rs`).
const FLUSHES_IN_A_ROW: usize = 64;

/// A second handle of a file, for blocking threads, and the flushes on their way into it.
#[derive(Clone, Debug)]
pub(super) struct FlushFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    line: Mutex<Line<Job>>,
}

/// A flush for a thread.
#[derive(Debug)]
struct Job {
    lent: Lent,
    header: FlushHeader,
    at: u64,
    sync: bool,
    reply: Reply,
}

/// What a thread tells of a flush.
#[derive(Debug)]
struct Outcome {
    written: io::Result<usize>,
    durable_to: Position,
    took: Duration,
}

impl Outcome {
    fn is_whole(&self, len: usize) -> bool {
        self.written.as_ref().is_ok_and(|written| *written == len)
    }

    fn failed(header: &FlushHeader, error: io::Error) -> Self {
        Self { written: Err(error), durable_to: header.durable_to, took: Duration::ZERO }
    }
}

type Reply = oneshot::Sender<Outcome>;

/// Memory that a thread has to itself while its owner waits on another one.
#[derive(Debug)]
struct Lent {
    begin: *mut u8,
    len: usize,
}

/// Keeps lent memory alive: for ever, if the one who waits goes away before it is given back.
struct Lender(ManuallyDrop<DmaBuffer>);

#[expect(unsafe_code, reason = "plain bytes, which nobody else looks at while they are lent")]
// SAFETY: bytes may be used from any thread; that nobody else does, and that they live long enough, is what `Lender` sees to.
unsafe impl Send for Lent {}

impl Lent {
    fn bytes(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "see Lent")]
        // SAFETY: made of a live buffer by `Lender::lend`, which owns it; it is neither freed nor looked at while this is
        // around: `Lender` gives it back only after the thread has told of the end of its work.
        unsafe {
            std::slice::from_raw_parts_mut(self.begin, self.len)
        }
    }
}

impl Lender {
    fn lend(mut buffer: DmaBuffer) -> (Self, Lent) {
        let lent = Lent { begin: buffer.as_mut_ptr(), len: buffer.len() };
        (Self(ManuallyDrop::new(buffer)), lent)
    }

    /// The thread is done.
    fn given_back(self) -> DmaBuffer {
        ManuallyDrop::into_inner(self.0)
    }
}

impl Job {
    fn write(&mut self, file: &File, synced_to: Position) -> Outcome {
        let begun = Instant::now();
        let memory = self.lent.bytes();
        let durable_to = put_header(self.header, synced_to, memory);
        let written = file.write_at(memory, self.at).and_then(|written| {
            if self.sync && written == memory.len() {
                file.sync_data()?;
            }
            Ok(written)
        });
        Outcome { written, durable_to, took: begun.elapsed() }
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line<Job>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On a blocking thread: writes a flush, and those after it whose turn comes with its end. The reply to the last one
    /// is given back: the end of the thread's work wakes the executor anyway.
    fn write(&self, mut turn: Turn<Job>) -> (Reply, Outcome) {
        let mut left = FLUSHES_IN_A_ROW;
        loop {
            let Turn { place, mut job, synced_to } = turn;
            let mut outcome = job.write(&self.file, synced_to);
            left -= 1;
            let next = {
                let mut line = self.line();
                let whole = outcome.is_whole(job.lent.len);
                if !line.end(place, whole) && whole {
                    outcome =
                        Outcome::failed(&job.header, io::Error::other("a flush of the same file failed"));
                }
                if left == 0 { None } else { line.begin() }
            };
            let Some(next) = next else { return (job.reply, outcome) };
            // Nobody waits any more: then the executor is gone, and the memory stays for ever.
            let _ = job.reply.send(outcome);
            turn = next;
        }
    }
}

impl FlushFile {
    /// Another handle of the same open file, direct I/O like the first.
    pub(super) fn of(file: &DmaFile) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "glommio's file gives its descriptor only as a number")]
        // SAFETY: `file` is borrowed, so its descriptor is open until this returns.
        let descriptor = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
        let file = File::from(descriptor.try_clone_to_owned()?);
        Ok(Self(Arc::new(Shared { file, line: Mutex::default() })))
    }

    /// Hands a flush over: it is written when its turn has come, then synced if it says so; after a short write there is no
    /// sync.
    pub(super) fn write(
        &self,
        flush: FlushWrite<DmaBuffer>,
    ) -> impl Future<Output = io::Result<FlushWritten<DmaBuffer>>> + use<> + 'static {
        let (place, at) = (Place::of(&flush), flush.at());
        let FlushWrite { memory, header, sync, .. } = flush;
        let (lender, lent) = Lender::lend(memory);
        let len = lent.len;
        let (reply, told) = oneshot::channel();
        self.0.line().join(place, Job { lent, header, at, sync, reply });
        self.advance();
        let this = self.clone();
        async move {
            let outcome = told.await.unwrap_or_else(|_| {
                this.0.line().end(place, false);
                Outcome::failed(&header, io::Error::other("a file system call panicked"))
            });
            if outcome.is_whole(len) {
                // More may begin than the thread that wrote this one took: after one that took longer than the next, say.
                this.advance();
            } else {
                // Told after this one, which says what happened.
                this.refuse();
            }
            let memory = Rc::new(lender.given_back());
            let Outcome { written, durable_to, took } = outcome;
            Ok(FlushWritten { memory, bytes: written?, durable_to, took })
        }
    }

    /// Begins what may begin, each on a thread.
    fn advance(&self) {
        while let Some(turn) = self.begin() {
            let shared = Arc::clone(&self.0);
            glommio::spawn_local(async move {
                // On an error the reply is gone, which says enough.
                if let Ok((reply, outcome)) = blocking(move || Ok(shared.write(turn))).await {
                    let _ = reply.send(outcome);
                }
            })
            .detach();
        }
    }

    /// After a failure: tells those that wait.
    fn refuse(&self) {
        let refused: Vec<Job> = self.0.line().refused().collect();
        for Job { header, reply, .. } in refused {
            let _ = reply.send(Outcome::failed(&header, not_begun()));
        }
    }

    fn begin(&self) -> Option<Turn<Job>> {
        self.0.line().begin()
    }
}

#[cfg(test)]
mod tests {
    use equeue_record::MasterEpoch;
    use futures::future::join_all;

    use super::super::dma::tests::on_executor;
    use super::super::{Access, DmaIo, Io, IoFile as _};
    use super::*;
    use crate::format::{FlushKind, Salt};

    const LEN: u32 = 8192;

    /// The flush at `position` that begins when everything before `after` is synced.
    fn flush(io: &DmaIo, position: u64, after: u64) -> FlushWrite<DmaBuffer> {
        let mut memory = io.allocate(LEN as usize);
        memory.as_mut().fill(position.to_le_bytes()[1]);
        let header = FlushHeader {
            kind: FlushKind::Data,
            epoch: MasterEpoch(1),
            position: Position(position),
            body_len: LEN - 128,
            span: LEN,
            body_crc: 0,
            chain: 0,
            snapshot: None,
            time_ms: 0,
            salt: Salt::from_bits(1),
            durable_to: Position(0),
            next_salt: None,
        };
        FlushWrite { memory, header, segment: Position(0), after: Position(after), sync: true }
    }

    #[test]
    fn flushes_handed_over_ahead_are_written_in_turn() {
        for depth in [1, 2] {
            on_executor(async move |io, dir| {
                let file = io.open(&dir.join(format!("{depth}")), Access::CreateNew).await.unwrap();
                let end = |index: u64| index * u64::from(LEN);
                let flushes =
                    (0..200).map(|index| flush(&io, end(index), end((index + 1).saturating_sub(depth))));
                let written = join_all(flushes.map(|flush| file.write_flush(flush))).await;
                for (index, written) in (0..).zip(written) {
                    let written = written.unwrap();
                    assert_eq!(written.bytes, LEN as usize);
                    let at_least = end((index + 1_u64).saturating_sub(depth));
                    assert!((at_least..=end(index)).contains(&written.durable_to.0), "{written:?}");
                    let read = file.read_at(end(index), LEN as usize).await.unwrap();
                    assert_eq!(read.as_ref(), written.memory.as_ref().as_ref());
                    let header = FlushHeader::decode(read.as_ref()).unwrap();
                    assert_eq!((header.durable_to, header.position.0), (written.durable_to, end(index)));
                    assert_eq!(read.as_ref().last(), Some(&end(index).to_le_bytes()[1]));
                }
                file.close().await.unwrap();
            });
        }
    }

    #[test]
    fn after_a_flush_that_failed_none_is_written() {
        on_executor(async |io, dir| {
            let file = io.open(&dir.join("a"), Access::CreateNew).await.unwrap();
            // Further than a file of ext4 or XFS may reach.
            let positions = [0, 8192, 1 << 62, 16384, 24576];
            let mut after = 0;
            let flushes = positions.map(|position| {
                let next = flush(&io, position, after);
                after = position + u64::from(LEN);
                next
            });
            let mut results = join_all(flushes.map(|flush| file.write_flush(flush))).await.into_iter();
            assert!(results.by_ref().take(2).all(|result| result.is_ok()));
            let error = results.next().unwrap().unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)), "{error}");
            for result in results {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("not begun"), "{error}");
            }
            assert_eq!(file.read_at(0, 65536).await.unwrap().as_ref().len(), 16384);
            file.close().await.unwrap();
        });
    }
}
