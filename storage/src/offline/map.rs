//! A file mapped into memory, read-only. The only `unsafe` of this crate.
//!
//! Whoever touches a mapped page that the device cannot give is killed by SIGBUS, and nobody learns which file it was. So
//! each window is read with a system call before it is looked at through the map: that fails with an error, and what it
//! read is in memory then.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::read_only::read_up_to;
use super::{OfflineError, failed};
use crate::format::WINDOW_BYTES;
use crate::types::Position;

/// A mapped file; an empty file is an empty slice.
pub(super) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Option<Mmap>,
    /// Position of the first byte.
    begin: Position,
    /// Bytes that could be read: whole windows, one after the other.
    readable: Range<usize>,
    /// What is read is looked at through the map.
    buffer: Vec<u8>,
}

impl MappedFile {
    /// Maps a file whose first byte lies at position `begin`.
    pub(super) fn open(path: &Path, begin: Position) -> Result<Self, OfflineError> {
        let file = File::open(path).map_err(failed(path, "opening"))?;
        let bytes = file.metadata().map_err(failed(path, "asking for the length"))?.len();
        let map = if bytes == 0 { None } else { Some(mapped(&file).map_err(failed(path, "mapping"))?) };
        Ok(Self { path: path.to_owned(), file, map, begin, readable: 0..0, buffer: Vec::new() })
    }

    /// Its length.
    pub(super) fn len(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// The bytes at `position`: `len` of them and perhaps more, fewer at the end of the file.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn at(&mut self, position: Position, len: usize) -> Result<&[u8], OfflineError> {
        let skip = position.0.saturating_sub(self.begin.0);
        let begin = usize::try_from(skip).unwrap_or(usize::MAX).min(self.len());
        let end = begin.saturating_add(len).min(self.len());
        if !self.readable.contains(&begin) && self.readable.end != begin {
            let window = begin - begin % WINDOW_LEN;
            self.readable = window..window;
        }
        while self.readable.end < end {
            self.read_window()?;
        }
        let bytes = self.map.as_deref().unwrap_or_default();
        Ok(bytes.get(begin..self.readable.end.max(begin)).unwrap_or_default())
    }

    /// Reads the window behind those that could be read.
    fn read_window(&mut self) -> Result<(), OfflineError> {
        let at = self.readable.end;
        let len = WINDOW_LEN.min(self.len() - at);
        self.buffer.resize(len, 0);
        let read = read_up_to(&self.file, at as u64, &mut self.buffer).and_then(|read| {
            // Somebody made it shorter since it was mapped.
            if read == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        });
        let position = self.begin.plus(at as u64);
        read.map_err(|source| OfflineError::Unreadable { path: self.path.clone(), position, source })?;
        self.readable.end = at + len;
        Ok(())
    }
}

fn mapped(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is private to this process and read-only, and its bytes are only ever read as numbers that
    // are all valid whatever they are: a change made meanwhile by another process gives wrong checksums, no
    // undefined structure. Segments are never made shorter while somebody may read them offline; if somebody
    // does it all the same behind what was just read, the process ends with SIGBUS, which is why no broker uses this.
    #[expect(unsafe_code, reason = "mapping a file is unsafe; see the comment above")]
    let map = unsafe { Mmap::map(file) }?;
    // Read once from front to back.
    let _ = map.advise(memmap2::Advice::Sequential);
    Ok(map)
}

#[expect(clippy::cast_possible_truncation, reason = "1 MiB")]
const WINDOW_LEN: usize = WINDOW_BYTES as usize;
