//! Which sockets of this executor are ready: one edge-triggered epoll set for all of them, so that glommio waits for a
//! single descriptor, the set.
//!
//! glommio 0.9.0 waits for a socket by a one-shot poll of its ring, which it arms after a `recv` of its own has found
//! nothing, and looks by another one afterwards. For a request in a read of its own these are two system calls and one
//! ring entry too many; a set costs one `epoll_wait` for all sockets that became ready since the last.
//!
//! **Invariants**: a side that is not known to be ready has an edge to come, so no wake-up is lost: it is marked by the
//! one whose system call found nothing (or left room), and the set is asked only after that. A descriptor leaves the set
//! before it is closed or handed to another executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures::io::AsyncRead;
use glommio::net::TcpStream;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

use super::wake::Wake;

/// Events taken by one system call.
const EVENTS_MAX: usize = 256;

thread_local! {
    /// The set of the executor that runs on this thread, with that executor's id.
    static OF_EXECUTOR: RefCell<Option<(usize, Rc<Readiness>)>> = const { RefCell::new(None) };
}

/// The set of one executor.
struct Readiness {
    epoll: Epoll,
    watched: RefCell<Slab<Rc<Sides>>>,
}

/// What is known of one descriptor.
#[derive(Default)]
struct Sides {
    readable: Side,
    writable: Side,
    /// The peer sends no more, or the socket has failed: no edge comes after this one.
    ended: Cell<bool>,
}

#[derive(Default)]
struct Side {
    ready: Cell<bool>,
    waits: Wake,
}

impl Side {
    fn set(&self) {
        self.ready.set(true);
        self.waits.wake();
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.ready.get() {
            return Poll::Ready(());
        }
        self.waits.register(cx);
        Poll::Pending
    }
}

/// A descriptor in the set of this executor. One task may wait for each side.
pub(super) struct Watched<F: AsFd> {
    fd: F,
    set: Rc<Readiness>,
    key: usize,
    sides: Rc<Sides>,
}

impl<F: AsFd> Watched<F> {
    /// Watches a descriptor, which must not block. Both sides are taken for ready first.
    pub(super) fn new(fd: F) -> io::Result<Self> {
        let set = Readiness::of_executor()?;
        let sides = Rc::<Sides>::default();
        sides.readable.ready.set(true);
        sides.writable.ready.set(true);
        let key = set.watched.borrow_mut().insert(Rc::clone(&sides));
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if let Err(error) = set.epoll.add(&fd, EpollEvent::new(flags, key as u64)) {
            set.watched.borrow_mut().remove(key);
            return Err(error.into());
        }
        Ok(Self { fd, set, key, sides })
    }

    /// The descriptor.
    pub(super) fn get(&self) -> &F {
        &self.fd
    }

    /// Waits until reading may find something.
    pub(super) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.sides.readable.poll(cx)
    }

    /// A read left room: what comes later is told by an edge.
    pub(super) fn emptied(&self) {
        // The end of a stream may have been told with the bytes that were just read.
        if !self.sides.ended.get() {
            self.unreadable();
        }
    }

    /// A read found nothing.
    pub(super) fn unreadable(&self) {
        self.sides.readable.ready.set(false);
    }

    /// Waits until writing may take something.
    pub(super) fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.sides.writable.poll(cx)
    }

    /// A write took nothing, or a connection is not made yet.
    pub(super) fn unwritable(&self) {
        self.sides.writable.ready.set(false);
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        // Nothing can be done about an error, and an event of a descriptor that is gone is passed over.
        let _ = self.set.epoll.delete(&self.fd);
        self.set.watched.borrow_mut().remove(self.key);
    }
}

impl Readiness {
    /// The set of this executor; made, and asked by a task of its own from then on, when there is none.
    fn of_executor() -> io::Result<Rc<Self>> {
        let id = glommio::executor().id();
        OF_EXECUTOR.with_borrow_mut(|slot| {
            if let Some((of, set)) = slot
                && *of == id
            {
                return Ok(Rc::clone(set));
            }
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let set = Rc::new(Self { epoll, watched: RefCell::default() });
            glommio::spawn_local(Rc::clone(&set).ask()).detach();
            *slot = Some((id, Rc::clone(&set)));
            Ok(set)
        })
    }

    /// Waits until the set has something to tell.
    ///
    /// glommio shows no way to wait for a descriptor, but a stream of its own begins a poll when it is made, and reads
    /// when that has ended; a set refuses to be read, which is the sign.
    #[expect(unsafe_code, reason = "glommio takes descriptors only in their raw form")]
    async fn changed(&self) {
        // SAFETY: the descriptor stays open while the set is there, and is never closed by the stream, which is not
        // dropped; of what it owns besides, only a count of the reactor's references stays behind.
        let mut stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(self.epoll.0.as_raw_fd()) });
        let refused = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut [0])).await;
        debug_assert!(refused.is_err(), "a set cannot be read");
    }

    /// Asks what became ready whenever something did, as long as the executor runs.
    async fn ask(self: Rc<Self>) {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            self.changed().await;
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or_default();
            let watched = self.watched.borrow();
            for event in events.iter().take(count) {
                // A key that was given anew since then: its owner's system call finds nothing.
                let sides = usize::try_from(event.data()).ok().and_then(|key| watched.get(key));
                if let Some(sides) = sides {
                    sides.tell(event.events());
                }
            }
        }
    }
}

impl Sides {
    fn tell(&self, events: EpollFlags) {
        let over = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if events.intersects(over) {
            self.ended.set(true);
        }
        if events.intersects(over | EpollFlags::EPOLLIN) {
            self.readable.set();
        }
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR | EpollFlags::EPOLLOUT) {
            self.writable.set();
        }
    }
}
