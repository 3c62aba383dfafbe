//! The ballast: a file that keeps the space for the segment that a start after a crash begins with.
//!
//! A log that was not closed in order goes on in a new segment, whatever room is left in its last one; a full disk has no
//! space for it. So each log keeps a file of the size of that segment, empty and reserved, and makes the segment of it
//! when no other space can be had. The rest of the old segment is then given back, which mostly is enough to make the
//! ballast anew.

use std::io;
use std::rc::Rc;

use super::CommitLog;
use super::core::Prepared;
use crate::format::{BALLAST_FILE, FileName, Salt, SegmentHeader};
use crate::io::{Access, FileEntry, Io, IoFile};
use crate::segment::reuse_segment;
use crate::types::Position;

/// Whether there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ballast {
    /// It is to be made when there is space.
    #[default]
    Missing,
    /// A task makes it.
    Making,
    /// There it is.
    There {
        /// Its size.
        bytes: u64,
    },
}

impl Ballast {
    /// What a folder holds; only a whole one of the right size counts.
    pub(super) fn find(entries: &[FileEntry], bytes: u64) -> Self {
        let is_it = |entry: &&FileEntry| FileName::parse(&entry.name) == Some(FileName::Ballast);
        let found = entries.iter().find(is_it).filter(|entry| entry.bytes == bytes && entry.stored >= bytes);
        found.map_or(Self::Missing, |_| Self::There { bytes })
    }

    /// Bytes that it takes on disk.
    pub(super) fn stored_bytes(self) -> u64 {
        if let Self::There { bytes } = self { bytes } else { 0 }
    }
}

impl<I: Io> CommitLog<I> {
    /// Makes the ballast if it is missing and there is space. Not before the log has a segment to write to.
    pub(super) async fn keep_ballast(&self) {
        let bytes = {
            let mut core = self.inner.core.borrow_mut();
            if !core.options.ballast
                || core.ballast != Ballast::Missing
                || core.active.is_none()
                || core.stops()
            {
                return;
            }
            core.ballast = Ballast::Making;
            core.options.segment_bytes_first
        };
        let _busy = self.busy();
        let made = self.make_ballast(bytes).await;
        let mut core = self.inner.core.borrow_mut();
        core.ballast = if made.is_ok() { Ballast::There { bytes } } else { Ballast::Missing };
        if let Err(error) = made {
            tracing::debug!(log = %core.log, bytes, %error, "no space is kept for a start after a crash");
        }
    }

    /// Gives back what a crash left unused, and makes the ballast of it if it is missing.
    pub(super) async fn restore_ballast(self) {
        self.give_back_tails().await;
        self.keep_ballast().await;
    }

    async fn make_ballast(&self, bytes: u64) -> io::Result<()> {
        let Self { inner } = self;
        let path = inner.dir.join(BALLAST_FILE);
        match inner.io.remove(&path).await {
            // One of another size, or one that was not finished.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = inner.io.open(&path, Access::CreateNew).await?;
        let reserved = match file.preallocate(bytes).await {
            Ok(()) => file.sync().await,
            failed => failed,
        };
        let closed = file.close().await;
        if let Err(error) = reserved.and(closed) {
            // The space is wanted back; the first error is what matters.
            let _ = inner.io.remove(&path).await;
            return Err(error);
        }
        inner.io.sync_dir(&inner.dir).await
    }

    /// A log without a segment to write to makes it of the ballast.
    pub(super) async fn use_ballast(&self, position: Position) -> Option<Prepared<I>> {
        let (log, bytes, sync_dir) = {
            let mut core = self.inner.core.borrow_mut();
            let Ballast::There { bytes } = core.ballast else { return None };
            if core.active.is_some() {
                return None;
            }
            core.ballast = Ballast::Missing;
            (core.log, bytes, !core.options.hazards.no_dir_sync)
        };
        let _busy = self.busy();
        let created_ms = self.inner.io.wall_ms();
        let header =
            SegmentHeader { log, position, bytes, salt: Salt::random(), created_ms, has_gaps: false };
        let path = self.inner.dir.join(BALLAST_FILE);
        match reuse_segment(&self.inner.io, &self.inner.dir, &path, &header, sync_dir).await {
            Ok(file) => {
                tracing::warn!(%log, %position, bytes,
                    "the disk is full: the log goes on in the space that it kept for a start after a crash");
                Some(Prepared { header, file: Rc::new(file), late: true })
            }
            Err(error) => {
                tracing::warn!(%log, %error, cause = %error.source, "the space kept for a start after a crash is of no use");
                None
            }
        }
    }
}
