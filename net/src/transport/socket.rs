//! One TCP socket on this executor: reading into uninitialised memory, vectored writing, waiting for readiness.
//!
//! glommio 0.9.0 reads by a non-blocking `recv` and waits by a one-shot POLL on its ring; it can neither read into
//! uninitialised memory nor write a vector. So the system calls are ours (through socket2), and glommio's stream on the
//! same descriptor is only asked to wait. Its way of waiting may read one byte, which is kept.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use socket2::SockRef;

/// A connected socket, bound to the executor that adopted it.
pub(super) struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
    /// The next read begins with a `recv` of ours, not with waiting.
    try_first: Cell<bool>,
}

impl Socket {
    /// Takes the descriptor over; no delay for small packets. To be called on the executor that serves it.
    #[expect(unsafe_code, reason = "glommio takes descriptors only in their raw form")]
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        SockRef::from(&fd).set_tcp_nodelay(true)?;
        let fd = fd.into_raw_fd();
        // SAFETY: `fd` was owned and is now owned by the stream alone.
        let stream = unsafe { TcpStream::from_raw_fd(fd) };
        Ok(Self::of(stream))
    }

    /// Wraps a stream of this executor.
    pub(super) fn of(stream: TcpStream) -> Self {
        let fd = stream.as_raw_fd();
        Self { stream: RefCell::new(stream), fd, try_first: Cell::new(true) }
    }

    /// Reads what is there into the spare capacity of `buffer` (which is not 0); `Ok(0)`: the peer sends no more.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let space = buffer.capacity() - buffer.len();
        debug_assert!(space > 0, "a read without room would look like the end of the stream");
        if self.try_first.get() {
            match receive(self, buffer) {
                Ok(read) => {
                    // A read that left room has emptied the socket: wait before the next.
                    self.try_first.set(read == space);
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let mut first = [0_u8; 1];
        let waited = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut first);
        self.try_first.set(true);
        if ready!(waited)? == 0 {
            return Poll::Ready(Ok(0));
        }
        buffer.put_slice(&first);
        if buffer.capacity() == buffer.len() {
            return Poll::Ready(Ok(1));
        }
        match receive(self, buffer) {
            Ok(read) => Poll::Ready(Ok(1 + read)),
            // Nothing more, or an error that the next read will meet again.
            Err(_) => Poll::Ready(Ok(1)),
        }
    }

    /// Writes as much of `slices` (not all empty) as the socket takes.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        match SockRef::from(self).send_vectored_with_flags(slices, flags) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| &**slice);
                Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, first)
            }
            result => Poll::Ready(result),
        }
    }

    /// Ends both directions; tasks that wait are woken by the kernel.
    pub(super) fn shutdown(&self) {
        // An error means that the peer was faster.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The peer learns of it now: after a close alone the ring's poll keeps the socket open for a while.
        self.shutdown();
    }
}

impl AsFd for Socket {
    #[expect(unsafe_code, reason = "glommio's stream gives its descriptor only in its raw form")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream that owns the descriptor lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// One `recv` into the spare capacity of `buffer`, without waiting.
#[expect(unsafe_code, reason = "the kernel initialises the buffer")]
fn receive(fd: &impl AsFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let read = SockRef::from(fd).recv_with_flags(buffer.spare_capacity_mut(), libc::MSG_DONTWAIT)?;
    // SAFETY: the kernel has written `read` bytes at the start of the spare capacity.
    unsafe { buffer.set_len(buffer.len() + read) };
    Ok(read)
}

/// One `recv` of at most `buffer`'s length from a socket that is set not to block.
pub(super) fn receive_into(fd: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    io::Read::read(&mut &*SockRef::from(fd), buffer)
}

/// Waits until a descriptor that stays with the caller is readable; gives the byte that waiting may have read.
///
/// Dropping the future leaves nothing behind: it waits on a duplicate of the descriptor.
#[expect(unsafe_code, reason = "glommio takes descriptors only in their raw form")]
pub(super) async fn readable(fd: &impl AsFd) -> io::Result<Option<u8>> {
    let duplicate = fd.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: the duplicate was owned and is now owned by the stream alone.
    let mut stream = unsafe { TcpStream::from_raw_fd(duplicate) };
    let mut first = [0_u8; 1];
    let read = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut first)).await;
    // An error (a listening socket cannot be read) is readiness too: the caller's own call meets what is wrong.
    let [byte] = first;
    Ok(matches!(read, Ok(1)).then_some(byte))
}
