//! One TCP socket on this executor: reading into uninitialised memory, vectored writing, waiting for readiness.
//!
//! The system calls are ours (through socket2): glommio 0.9.0 can neither read into uninitialised memory nor write a
//! vector. Which socket is ready is known to the executor's set ([`super::readiness`]).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use socket2::{Domain, Protocol, SockRef, Type};

use super::readiness::Watched;

/// A connected socket, served by the executor that adopted it.
pub(super) struct Socket(Watched<OwnedFd>);

impl Socket {
    /// Takes the descriptor over, which must not block; no delay for small packets. To be called on the executor that
    /// serves it.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        SockRef::from(&fd).set_tcp_nodelay(true)?;
        Ok(Self(Watched::new(fd)?))
    }

    /// Connects to `address`. The system gives up after a minute or two: the caller has a deadline of its own.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let socket = Self::adopt(socket.into())?;
        socket.0.unwritable();
        poll_fn(|cx| socket.0.poll_writable(cx)).await;
        SockRef::from(&socket).take_error()?.map_or(Ok(socket), Err)
    }

    /// Reads what is there into the spare capacity of `buffer` (which is not 0); `Ok(0)`: the peer sends no more.
    pub(super) fn poll_read(&self, cx: &Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let space = buffer.capacity() - buffer.len();
        debug_assert!(space > 0, "a read without room would look like the end of the stream");
        loop {
            ready!(self.0.poll_readable(cx));
            match receive(self, buffer) {
                Ok(read) => {
                    if read < space {
                        self.0.emptied();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.unreadable(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes as much of `slices` (not all empty) as the socket takes.
    pub(super) fn poll_write(&self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            ready!(self.0.poll_writable(cx));
            match SockRef::from(self).send_vectored_with_flags(slices, flags) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.unwritable(),
                result => return Poll::Ready(result),
            }
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
        // The end of the stream goes out before the descriptor is closed.
        self.shutdown();
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.get().as_fd()
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
