//! A file mapped into memory, read-only. The only `unsafe` of this crate.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use super::{OfflineError, failed};

/// A mapped file; an empty file is an empty slice.
pub(super) struct MappedFile(Option<Mmap>);

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self, OfflineError> {
        let file = File::open(path).map_err(failed(path, "opening"))?;
        let bytes = file.metadata().map_err(failed(path, "asking for the length"))?.len();
        if bytes == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the map is private to this process and read-only, and its bytes are only ever read as numbers that
        // are all valid whatever they are: a change made meanwhile by another process gives wrong checksums, no
        // undefined structure. Segments are never made shorter while somebody may read them offline; if somebody
        // does it all the same, the process ends with SIGBUS, which is why no broker uses this.
        #[expect(unsafe_code, reason = "mapping a file is unsafe; see the comment above")]
        let map = unsafe { Mmap::map(&file) }.map_err(failed(path, "mapping"))?;
        // Read once from front to back.
        let _ = map.advise(memmap2::Advice::Sequential);
        Ok(Self(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
