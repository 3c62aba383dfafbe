//! One connection: a task that reads whole frames and gives them to a [`Handler`], and a task that writes what is
//! queued.
//!
//! **Invariants**: frames are given to the handler in the order of the stream, each once; what is queued is sent in the
//! order of queueing, or not at all once the connection is closed; reading stops while a limit is reached (unsent
//! answers, bytes held by the server, a pause), so a peer that sends without reading is held by its own TCP window; the
//! first close reason stays.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use thiserror::Error;

use super::connections::ConnectionLimits;
use super::outgoing::Outgoing;
use super::socket::Socket;
use super::wake::Wake;
use crate::frame::{self, Frame, FrameError};

pub use super::outgoing::Shared;

/// Smallest read buffer: what a quiet connection holds.
const READ_BYTES_MIN: usize = 16 << 10;
/// Largest read buffer for frames that fit it; measured best is 64 to 256 KiB, the size of an L2 cache.
const READ_BYTES_MAX: usize = 256 << 10;
/// Less room is not worth a system call, as long as little is copied to make more.
const ROOM_MIN: usize = 4 << 10;
/// A connection that has read or written so much lets the other tasks of its executor run.
const TURN_BYTES_MAX: usize = 256 << 10;
/// Reads in a row that leave three quarters of the buffer empty before the next buffer is smaller.
const SMALL_READS_MAX: u8 = 16;
/// A peer for which this many times `answer_bytes_max` wait unsent is cut off.
const OVERRUN_FACTOR: usize = 4;

/// What serves the requests of one connection.
pub trait Handler: 'static {
    /// The whole frames of one read, in order. Frames left in the list are dropped.
    ///
    /// Runs on the connection's reading task and must not block; what takes time goes to a task of its own, which keeps
    /// the `Rc` and pushes its answer later. What is pushed here is sent after the return, in as few writes as possible.
    fn on_frames(&mut self, connection: &Rc<Connection>, frames: &mut Vec<Frame>);

    /// The connection is over; nothing pushed from now on is sent. Called once, last.
    fn on_close(&mut self, connection: &Rc<Connection>, reason: &CloseReason) {
        let _ = (connection, reason);
    }
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum CloseReason {
    /// The peer ended it between two frames.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer ended it inside a frame.
    #[error("the peer closed the connection {bytes} bytes into a frame")]
    Truncated {
        /// Bytes of the frame that had come.
        bytes: usize,
    },
    /// The bytes are not frames of this protocol.
    #[error("the peer sent bytes that are no frame")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
    /// No Hello in time.
    #[error("the peer did not introduce itself in time")]
    HelloLate,
    /// The peer did not read its answers in time.
    #[error("the peer did not read its answers in time")]
    WriteStalled,
    /// Nothing came in time.
    #[error("the peer was silent for too long")]
    Idle,
    /// Too many answers wait for a peer that does not read.
    #[error("{bytes} bytes of answers wait for a peer that does not read them")]
    Overrun {
        /// Bytes queued.
        bytes: usize,
    },
    /// The handler refuses to go on.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// This server stops.
    #[error("the server stops")]
    Stopped,
}

#[derive(Debug)]
enum State {
    Open,
    /// Reads no more; ends when what is queued is sent.
    Finishing,
    Closed,
}

/// A connection of this executor; shared by its tasks and by whoever answers later.
pub struct Connection {
    socket: Socket,
    peer: SocketAddr,
    limits: Rc<ConnectionLimits>,
    buffer: RefCell<BytesMut>,
    /// Size of the next read buffer.
    read_bytes: Cell<usize>,
    small_reads: Cell<u8>,
    /// Length of the last frame that was larger than every read buffer; 0: none of late.
    large_frame: Cell<usize>,
    outgoing: Outgoing,
    /// Bytes that the server holds for this peer ([`Connection::hold`]).
    held: Cell<usize>,
    paused: Cell<bool>,
    opened: Cell<bool>,
    state: RefCell<(State, Option<CloseReason>)>,
    reader: Wake,
    writer: Wake,
    room: Wake,
    /// When the reading task last read, or a limit last kept it from reading.
    pub(super) last_read: Cell<Instant>,
    /// Since when the socket takes nothing.
    pub(super) blocked_since: Cell<Option<Instant>>,
    pub(super) started: Instant,
}

impl Connection {
    pub(super) fn adopt(fd: OwnedFd, peer: SocketAddr, limits: Rc<ConnectionLimits>) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            socket: Socket::adopt(fd)?,
            peer,
            limits,
            buffer: RefCell::default(),
            read_bytes: Cell::new(READ_BYTES_MIN),
            small_reads: Cell::new(0),
            large_frame: Cell::new(0),
            outgoing: Outgoing::default(),
            held: Cell::new(0),
            paused: Cell::new(false),
            opened: Cell::new(false),
            state: RefCell::new((State::Open, None)),
            reader: Wake::default(),
            writer: Wake::default(),
            room: Wake::default(),
            last_read: Cell::new(now),
            blocked_since: Cell::new(None),
            started: now,
        })
    }

    /// Where the peer is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The peer has introduced itself: full frames are read from now on, and the Hello deadline is over.
    pub fn set_opened(&self) {
        self.opened.set(true);
    }

    /// Whether [`Connection::set_opened`] was called.
    pub fn is_opened(&self) -> bool {
        self.opened.get()
    }

    /// Whether pushing makes sense still.
    pub fn is_closed(&self) -> bool {
        matches!(self.state.borrow().0, State::Closed)
    }

    /// Bytes queued and not sent.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.queued_bytes()
    }

    /// Whether answers that can wait (fetched data) should be queued now; small answers always may.
    pub fn has_room(&self) -> bool {
        self.queued_bytes() < self.limits.answer_bytes_max
    }

    /// Waits until [`Connection::has_room`], or the connection is closed. One task may wait at a time.
    pub async fn room(&self) {
        poll_fn(|cx| {
            self.room.register(cx);
            if self.has_room() || self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Queues what `write` appends: one or more whole frames (see [`frame::put_frame`]). Nothing is sent before
    /// [`Connection::kick`], which the reading task calls by itself after each [`Handler::on_frames`]. On a closed
    /// connection `write` is not called. It must not push itself.
    ///
    /// # Errors
    /// That of `write`, which then has queued nothing.
    pub fn push<E>(&self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if self.is_closed() {
            return Ok(());
        }
        let result = self.outgoing.append(write);
        self.check_overrun();
        result
    }

    /// Queues memory that is sent from where it lies, behind the frame head just pushed.
    pub fn push_shared(&self, shared: Shared) {
        if !self.is_closed() {
            self.outgoing.share(shared);
            self.check_overrun();
        }
    }

    fn check_overrun(&self) {
        let bytes = self.queued_bytes();
        if bytes > self.limits.answer_bytes_max.saturating_mul(OVERRUN_FACTOR) {
            self.close(CloseReason::Overrun { bytes });
        }
    }

    /// Lets the writing task send what is queued. Once per batch of answers.
    pub fn kick(&self) {
        if self.queued_bytes() > 0 {
            self.writer.wake();
        }
    }

    /// Counts `bytes` of requests as held by the server until the guard is dropped; past `held_bytes_max` the
    /// connection is not read.
    pub fn hold(self: &Rc<Self>, bytes: usize) -> Hold {
        self.held.set(self.held.get().saturating_add(bytes));
        Hold { connection: Rc::clone(self), bytes }
    }

    /// Stops reading, or goes on with it.
    pub fn set_paused(&self, paused: bool) {
        if self.paused.replace(paused) && !paused {
            self.reader.wake();
        }
    }

    /// Ends the connection at once. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        {
            let mut state = self.state.borrow_mut();
            if matches!(state.0, State::Closed) {
                return;
            }
            state.0 = State::Closed;
            state.1.get_or_insert(reason);
        }
        self.socket.shutdown();
        self.reader.wake();
        self.writer.wake();
        self.room.wake();
    }

    /// Reads no more, sends what is queued, then ends the connection.
    pub fn finish(&self, reason: CloseReason) {
        {
            let mut state = self.state.borrow_mut();
            if !matches!(state.0, State::Open) {
                return;
            }
            *state = (State::Finishing, Some(reason));
        }
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether no limit keeps the connection from being read.
    pub(super) fn may_read(&self) -> bool {
        !self.paused.get()
            && self.held.get() < self.limits.held_bytes_max
            && self.queued_bytes() < self.limits.answer_bytes_max
    }

    /// Frees what a quiet connection does not need.
    pub(super) fn trim(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            *buffer = BytesMut::new();
            self.read_bytes.set(READ_BYTES_MIN);
            self.large_frame.set(0);
        }
        self.outgoing.trim();
    }

    /// Reads once. `Ready(None)`: the connection reads no more.
    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.reader.register(cx);
        if !matches!(self.state.borrow().0, State::Open) {
            return Poll::Ready(None);
        }
        if !self.may_read() {
            self.last_read.set(Instant::now());
            return Poll::Pending;
        }
        let mut buffer = self.buffer.borrow_mut();
        let room = buffer.capacity() - buffer.len();
        if room == 0 || (room < ROOM_MIN && buffer.len() < ROOM_MIN) {
            // Where large frames come one after the other, the next fits without being moved while it grows.
            buffer.reserve(self.read_bytes.get().max(self.large_frame.get()));
        }
        let room = buffer.capacity() - buffer.len();
        let result = ready!(self.socket.poll_read(cx, &mut buffer));
        let begun = buffer.len();
        drop(buffer);
        match result {
            Ok(0) if begun == 0 => self.close(CloseReason::PeerClosed),
            Ok(0) => self.close(CloseReason::Truncated { bytes: begun }),
            Err(error) => self.close(CloseReason::Io(error)),
            Ok(read) => {
                self.last_read.set(Instant::now());
                self.adapt(read, room);
                return Poll::Ready(Some(read));
            }
        }
        Poll::Ready(None)
    }

    /// Chooses the size of the next read buffer by how the last reads filled theirs.
    fn adapt(&self, read: usize, room: usize) {
        if read == room && room >= self.read_bytes.get() / 2 {
            self.small_reads.set(0);
            self.read_bytes.set((self.read_bytes.get() * 2).min(READ_BYTES_MAX));
        } else if read >= self.read_bytes.get() / 4 {
            self.small_reads.set(0);
        } else if self.small_reads.get() < SMALL_READS_MAX {
            self.small_reads.set(self.small_reads.get() + 1);
        } else {
            self.small_reads.set(0);
            self.large_frame.set(0);
            self.read_bytes.set((self.read_bytes.get() / 2).max(READ_BYTES_MIN));
        }
    }

    /// Splits the whole frames off the read buffer, and makes room for the rest of the next.
    fn split_frames(&self, frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        let limit =
            if self.opened.get() { self.limits.frame_bytes_max } else { self.limits.hello_frame_bytes_max };
        let mut buffer = self.buffer.borrow_mut();
        let missing = loop {
            match frame::parse_head(&buffer, limit)? {
                None => break frame::FRAME_HEADER_LEN.saturating_sub(buffer.len()),
                Some((head, total)) if total <= buffer.len() => {
                    if total > READ_BYTES_MAX {
                        self.large_frame.set(total);
                    }
                    frames.push(frame::split_frame(&mut buffer, head, total));
                }
                Some((_, total)) => break total - buffer.len(),
            }
        };
        // Of an empty buffer nothing is copied when it grows: that waits until there is something to read.
        if !buffer.is_empty() && buffer.capacity() - buffer.len() < missing {
            buffer.reserve(missing.max(self.read_bytes.get()));
        }
        Ok(())
    }

    /// Writes once. `Ready(None)`: the connection writes no more.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.writer.register(cx);
        if self.is_closed() {
            return Poll::Ready(None);
        }
        let gated = !self.may_read();
        let written = self.outgoing.send(|slices| match self.socket.poll_write(cx, slices) {
            Poll::Ready(Ok(count)) => (Poll::Ready(Ok(count)), count),
            other => (other, 0),
        });
        match written {
            Some(Poll::Ready(Ok(count))) => {
                self.blocked_since.set(None);
                if gated && self.may_read() {
                    self.reader.wake();
                }
                if self.has_room() {
                    self.room.wake();
                }
                Poll::Ready(Some(count))
            }
            Some(Poll::Ready(Err(error))) => {
                self.close(CloseReason::Io(error));
                Poll::Ready(None)
            }
            Some(Poll::Pending) => {
                if self.blocked_since.get().is_none() {
                    self.blocked_since.set(Some(Instant::now()));
                }
                Poll::Pending
            }
            None if matches!(self.state.borrow().0, State::Finishing) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("queued_bytes", &self.queued_bytes())
            .field("held_bytes", &self.held.get())
            .field("state", &self.state.borrow().0)
            .finish_non_exhaustive()
    }
}

/// Bytes counted against a connection until this is dropped.
#[derive(Debug)]
pub struct Hold {
    connection: Rc<Connection>,
    bytes: usize,
}

impl Hold {
    /// The connection.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let connection = &self.connection;
        let before = connection.held.get();
        let after = before.saturating_sub(self.bytes);
        connection.held.set(after);
        let limit = connection.limits.held_bytes_max;
        if before >= limit && after < limit {
            connection.reader.wake();
        }
    }
}

/// Reads until the connection ends; then tells the handler why.
pub(super) async fn read_frames(connection: Rc<Connection>, mut handler: impl Handler) {
    let mut frames = Vec::new();
    let mut turn = 0;
    while let Some(read) = poll_fn(|cx| connection.poll_fill(cx)).await {
        if let Err(error) = connection.split_frames(&mut frames) {
            connection.close(CloseReason::Frame(error));
            break;
        }
        if !frames.is_empty() {
            handler.on_frames(&connection, &mut frames);
            frames.clear();
            connection.kick();
        }
        turn = take_turn(turn + read).await;
    }
    // A connection that finishes is still being written to.
    poll_fn(|cx| {
        connection.reader.register(cx);
        if connection.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    connection.outgoing.clear();
    let reason = connection.state.borrow_mut().1.take().unwrap_or(CloseReason::Stopped);
    handler.on_close(&connection, &reason);
}

/// Writes what is queued until the connection ends.
pub(super) async fn write_queued(connection: Rc<Connection>) {
    let mut turn = 0;
    while let Some(written) = poll_fn(|cx| connection.poll_flush(cx)).await {
        turn = take_turn(turn + written).await;
    }
    // Everything is sent, or nothing can be: the reading task may be waiting for this.
    connection.close(CloseReason::Stopped);
}

/// Lets other tasks run when this one has moved enough bytes; returns what it has moved since.
async fn take_turn(moved: usize) -> usize {
    if moved >= TURN_BYTES_MAX {
        glommio::executor().yield_task_queue_now().await;
        return 0;
    }
    glommio::yield_if_needed().await;
    moved
}
