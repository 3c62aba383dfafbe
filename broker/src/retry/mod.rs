//! Messages that a group could not handle: what their copies look like, and where they go. Pure; the handler does the I/O.

mod copy;

pub use copy::{COPY_GROWTH, Copied, Failure, Fate, Source, attempt_of, copy, fate};
