//! The connections of one executor: their limits, their deadlines, and their common end.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};
use std::{future::poll_fn, task::Poll};

use slab::Slab;

use super::connection::{CloseReason, Connection, Handler, read_frames, write_queued};
use super::listener::Permit;
use super::wake::Wake;
use crate::frame::FRAME_BYTES_MAX;

/// Limits of each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Largest frame, in bytes.
    pub frame_bytes_max: usize,
    /// Largest frame before the peer has introduced itself.
    pub hello_frame_bytes_max: usize,
    /// Bytes of requests that the server holds ([`Connection::hold`]); past them the connection is not read.
    pub held_bytes_max: usize,
    /// Bytes of unsent answers; past them the connection is not read. Past four times as many it is closed.
    pub answer_bytes_max: usize,
    /// Time until the peer has introduced itself.
    pub hello: Duration,
    /// Time without anything from the peer while it is being read.
    pub idle: Duration,
    /// Time in which the socket takes nothing of what is queued.
    pub write_stall: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX,
            hello_frame_bytes_max: 64 << 10,
            held_bytes_max: 16 << 20,
            answer_bytes_max: 2 << 20,
            hello: Duration::from_secs(5),
            idle: Duration::from_mins(1),
            write_stall: Duration::from_secs(30),
        }
    }
}

/// Longest time between two looks at the deadlines.
const SWEEP_MAX: Duration = Duration::from_secs(1);
/// A connection silent for so long gives its buffers back.
const TRIM_AFTER: Duration = Duration::from_secs(5);

/// The connections that one executor serves.
pub struct Connections {
    limits: Rc<ConnectionLimits>,
    open: RefCell<Slab<Rc<Connection>>>,
    sweeping: Cell<bool>,
    stopping: Cell<bool>,
    drained: Wake,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("open", &self.len()).finish_non_exhaustive()
    }
}

impl Connections {
    /// No connections yet.
    pub fn new(limits: ConnectionLimits) -> Rc<Self> {
        Rc::new(Self {
            limits: Rc::new(limits),
            open: RefCell::default(),
            sweeping: Cell::new(false),
            stopping: Cell::new(false),
            drained: Wake::default(),
        })
    }

    /// Serves an accepted socket on this executor until it ends. `permit` is given back then.
    ///
    /// # Errors
    /// The socket is broken already, or [`Connections::finish_all`] or [`Connections::close_all`] was called. The
    /// socket is closed.
    pub fn serve<H: Handler>(
        self: &Rc<Self>,
        fd: OwnedFd,
        peer: SocketAddr,
        permit: Permit,
        make_handler: impl FnOnce(&Rc<Connection>) -> H,
    ) -> io::Result<Rc<Connection>> {
        if self.stopping.get() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops"));
        }
        let connection = Rc::new(Connection::adopt(fd, peer, Rc::clone(&self.limits))?);
        let key = self.open.borrow_mut().insert(Rc::clone(&connection));
        let handler = make_handler(&connection);
        let (set, reading) = (Rc::clone(self), Rc::clone(&connection));
        glommio::spawn_local(async move {
            read_frames(reading, handler).await;
            set.remove(key);
            drop(permit);
        })
        .detach();
        glommio::spawn_local(write_queued(Rc::clone(&connection))).detach();
        if !self.sweeping.replace(true) {
            glommio::spawn_local(sweep(Rc::downgrade(self), self.sweep_every())).detach();
        }
        Ok(connection)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with each open connection. It may close them.
    pub fn for_each(&self, mut visit: impl FnMut(&Rc<Connection>)) {
        // Closing wakes tasks but removes nothing before they run: the borrow is safe to hold.
        for (_, connection) in self.open.borrow().iter() {
            visit(connection);
        }
    }

    /// Ends every connection, and serves no more: each sends what is queued first.
    pub fn finish_all(&self) {
        self.stopping.set(true);
        self.for_each(|connection| connection.finish(CloseReason::Stopped));
    }

    /// Ends every connection at once, and serves no more.
    pub fn close_all(&self) {
        self.stopping.set(true);
        self.for_each(|connection| connection.close(CloseReason::Stopped));
    }

    /// Waits until none is open. One task may wait at a time.
    pub async fn drained(&self) {
        poll_fn(|cx| {
            self.drained.register(cx);
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn remove(&self, key: usize) {
        self.open.borrow_mut().remove(key);
        if self.is_empty() {
            self.drained.wake();
        }
    }

    fn sweep_every(&self) -> Duration {
        let shortest = self.limits.hello.min(self.limits.idle).min(self.limits.write_stall);
        (shortest / 4).clamp(Duration::from_millis(10), SWEEP_MAX)
    }

    /// Closes what is past a deadline; `late`: for how long this executor did not look.
    fn check_deadlines(&self, now: Instant, late: Duration) {
        self.for_each(|connection| {
            // Nothing is read while a limit forbids it, and what came while this executor (or machine) stood still
            // is not read yet: that time does not count.
            let last_read =
                if connection.may_read() { (connection.last_read.get() + late).min(now) } else { now };
            connection.last_read.set(last_read);
            let silent = now.saturating_duration_since(last_read);
            let blocked = connection
                .blocked_since
                .get()
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since).saturating_sub(late));
            if !connection.is_opened()
                && now.saturating_duration_since(connection.started) > self.limits.hello
            {
                connection.close(CloseReason::HelloLate);
            } else if blocked > self.limits.write_stall {
                connection.close(CloseReason::WriteStalled);
            } else if silent > self.limits.idle {
                connection.close(CloseReason::Idle);
            } else if silent > TRIM_AFTER {
                connection.trim();
            }
        });
    }
}

/// Looks at the deadlines again and again, as long as the set is there.
async fn sweep(set: Weak<Connections>, every: Duration) {
    let mut last = Instant::now();
    loop {
        glommio::timer::sleep(every).await;
        let Some(set) = set.upgrade() else { return };
        let now = Instant::now();
        let late = now.saturating_duration_since(last).saturating_sub(every * 2);
        last = now;
        set.check_deadlines(now, late);
    }
}
