//! The bytes that wait to be sent on one connection: frames written side by side into chunks, and shared slices that
//! are sent from where they lie.
//!
//! Pure: who writes them is in [`super::connection`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;

/// A chunk that is longer takes no more frames.
const CHUNK_BYTES: usize = 64 << 10;
/// Emptied chunks kept for the next frames.
const SPARE_CHUNKS_MAX: usize = 2;
/// A chunk that has grown past this is not kept.
const SPARE_BYTES_MAX: usize = 256 << 10;
/// Less than this part of a memory is copied. So what a connection holds is at most so many times what it has queued.
const COPIED_PARTS: usize = 16;
/// Slices given to one system call.
pub(super) const SLICES_MAX: usize = 64;

/// A piece of memory that is sent without being copied.
#[derive(Clone)]
pub struct Shared {
    /// The memory.
    pub memory: Rc<dyn AsRef<[u8]>>,
    /// Which bytes of it.
    pub range: Range<usize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Shared {
    fn bytes(&self) -> &[u8] {
        (*self.memory).as_ref().get(self.range.clone()).expect("a shared slice lies within its memory")
    }
}

enum Segment {
    Chunk(Vec<u8>),
    Shared(Shared),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Chunk(bytes) => bytes,
            Self::Shared(shared) => shared.bytes(),
        }
    }
}

/// The queue.
#[derive(Default)]
pub(super) struct Outgoing {
    segments: RefCell<VecDeque<Segment>>,
    /// Bytes of the first segment that are sent.
    sent: Cell<usize>,
    /// Bytes that are not sent.
    queued: Cell<usize>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Outgoing {
    /// Bytes that are not sent.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued.get()
    }

    /// Lets `write` append to the last chunk. It appends nothing when it fails.
    pub(super) fn append<E>(&self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let mut segments = self.segments.borrow_mut();
        if !matches!(segments.back(), Some(Segment::Chunk(chunk)) if chunk.len() < CHUNK_BYTES) {
            let chunk = self.spare.borrow_mut().pop().unwrap_or_default();
            segments.push_back(Segment::Chunk(chunk));
        }
        let Some(Segment::Chunk(chunk)) = segments.back_mut() else { return Ok(()) };
        let before = chunk.len();
        let result = write(chunk);
        match result {
            Ok(()) => self.queued.set(self.queued.get() + (chunk.len() - before)),
            Err(_) => chunk.truncate(before),
        }
        result
    }

    /// Queues memory that is sent from where it lies. A small part of it is copied: it would hold all of the memory until
    /// it is sent, which the limits on queued bytes do not see.
    pub(super) fn share(&self, shared: Shared) {
        let len = shared.bytes().len();
        if len.saturating_mul(COPIED_PARTS) < (*shared.memory).as_ref().len() {
            let copied: Result<(), Infallible> = self.append(|out| {
                out.extend_from_slice(shared.bytes());
                Ok(())
            });
            return copied.unwrap_or_else(|never| match never {});
        }
        if len > 0 {
            self.queued.set(self.queued.get() + len);
            self.segments.borrow_mut().push_back(Segment::Shared(shared));
        }
    }

    /// Gives the front of the queue to `write` and forgets what it took. `None`: the queue is empty.
    pub(super) fn send<P>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> (P, usize)) -> Option<P> {
        if self.queued.get() == 0 {
            return None;
        }
        let (result, taken) = {
            let segments = self.segments.borrow();
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut skip = self.sent.get();
            for (slot, segment) in slices.iter_mut().zip(segments.iter()) {
                *slot = IoSlice::new(segment.bytes().get(skip..).unwrap_or_default());
                skip = 0;
                count += 1;
            }
            write(slices.get(..count).unwrap_or_default())
        };
        self.advance(taken);
        Some(result)
    }

    /// Forgets `count` bytes at the front.
    fn advance(&self, count: usize) {
        assert!(count <= self.queued.get(), "the socket took more than it was given");
        self.queued.set(self.queued.get() - count);
        let mut segments = self.segments.borrow_mut();
        let mut sent = self.sent.get() + count;
        while let Some(first) = segments.front() {
            let len = first.bytes().len();
            if sent < len {
                break;
            }
            sent -= len;
            if let Some(Segment::Chunk(chunk)) = segments.pop_front() {
                self.keep(chunk);
            }
        }
        self.sent.set(sent);
    }

    fn keep(&self, mut chunk: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_CHUNKS_MAX && chunk.capacity() <= SPARE_BYTES_MAX {
            chunk.clear();
            spare.push(chunk);
        }
    }

    /// Forgets everything: the connection is closed.
    pub(super) fn clear(&self) {
        self.segments.borrow_mut().clear();
        self.spare.borrow_mut().clear();
        self.sent.set(0);
        self.queued.set(0);
    }

    /// Frees the chunks kept for later.
    pub(super) fn trim(&self) {
        self.spare.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn append(queue: &Outgoing, bytes: &[u8]) {
        let done: Result<(), Infallible> = queue.append(|out| {
            out.extend_from_slice(bytes);
            Ok(())
        });
        assert!(done.is_ok());
    }

    /// Takes at most `count` bytes off the queue.
    fn take(queue: &Outgoing, count: usize) -> Vec<u8> {
        let taken = queue.send(|slices| {
            assert!(slices.len() <= SLICES_MAX);
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            assert!(!all.is_empty());
            let taken = all[..count.min(all.len())].to_vec();
            let len = taken.len();
            (taken, len)
        });
        taken.unwrap_or_default()
    }

    #[test]
    fn a_failed_append_leaves_nothing() {
        let queue = Outgoing::default();
        append(&queue, b"ab");
        let failed = queue.append(|out| {
            out.extend_from_slice(b"half a frame");
            Err("no")
        });
        assert_eq!(failed, Err("no"));
        append(&queue, b"cd");
        assert_eq!(take(&queue, 100), b"abcd");
        assert_eq!(queue.queued_bytes(), 0);
        assert!(queue.send(|_| ((), 0)).is_none());
    }

    #[test]
    fn small_frames_share_a_chunk_and_chunks_are_used_again() {
        let queue = Outgoing::default();
        for _ in 0..10 {
            append(&queue, b"0123456789");
        }
        assert_eq!(queue.segments.borrow().len(), 1);
        assert_eq!(take(&queue, 100).len(), 100);
        assert_eq!(queue.spare.borrow().len(), 1);
        append(&queue, b"x");
        assert_eq!(queue.spare.borrow().len(), 0);
    }

    #[test]
    fn a_small_part_of_a_memory_does_not_hold_it() {
        let queue = Outgoing::default();
        let memory: Rc<Vec<u8>> = Rc::new((0..160_u8).collect());
        for (range, holders) in [(3..12, 1), (20..30, 2), (0..0, 2), (150..159, 2)] {
            queue.share(Shared { memory: memory.clone(), range: range.clone() });
            assert_eq!(Rc::strong_count(&memory), holders, "{range:?}");
        }
        let expected: Vec<u8> = (3..12).chain(20..30).chain(150..159).collect();
        assert_eq!(take(&queue, 1_000), expected);
        assert_eq!(Rc::strong_count(&memory), 1);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            pieces in proptest::collection::vec((any::<bool>(), 0_usize..5000), 1..200),
            steps in proptest::collection::vec(1_usize..20_000, 1..50),
        ) {
            let queue = Outgoing::default();
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            let mut steps = steps.iter().cycle();
            for (number, (shared, len)) in pieces.into_iter().enumerate() {
                let bytes = vec![u8::try_from(number % 251).unwrap(); len];
                expected.extend_from_slice(&bytes);
                if shared {
                    let range = 0..bytes.len();
                    queue.share(Shared { memory: Rc::new(bytes), range });
                } else {
                    append(&queue, &bytes);
                }
                if number % 3 == 0 {
                    found.extend(take(&queue, *steps.next().unwrap()));
                }
                prop_assert_eq!(queue.queued_bytes(), expected.len() - found.len());
            }
            while queue.queued_bytes() > 0 {
                found.extend(take(&queue, *steps.next().unwrap()));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
