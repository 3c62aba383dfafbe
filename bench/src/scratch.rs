//! The temporary data directory of a run: on a real disk, removed at the end.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

/// A folder that is removed with everything in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
    in_memory: bool,
}

impl Scratch {
    /// Makes one in `parent`, or else in the first of the system's folders for temporary files that lies on a disk.
    ///
    /// # Errors
    /// When the folder's file system has no direct I/O: nothing measured there would say anything.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(default_parent, Path::to_path_buf);
        let dir = tempfile::Builder::new()
            .prefix("equeue-bench-")
            .tempdir_in(&parent)
            .with_context(|| format!("making a temporary folder in {}", parent.display()))?;
        if let Err(error) = try_direct_io(dir.path()) {
            bail!(
                "{} has no direct I/O ({error}), which the commit log needs; name a folder on a real disk with --data",
                parent.display()
            );
        }
        let in_memory = is_tmpfs(dir.path());
        Ok(Self { dir, in_memory })
    }

    /// The folder.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// It lies in memory, so that syncing costs nothing and the figures say nothing about a disk.
    #[must_use]
    pub(crate) const fn in_memory(&self) -> bool {
        self.in_memory
    }
}

fn default_parent() -> PathBuf {
    let candidates = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    let on_disk = candidates.iter().find(|dir| dir.is_dir() && !is_tmpfs(dir));
    on_disk.cloned().unwrap_or_else(std::env::temp_dir)
}

fn is_tmpfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Alignment of direct I/O, bytes.
const ALIGN: usize = 4096;

/// Writes one aligned block without the page cache.
fn try_direct_io(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe");
    let mut file =
        OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path)?;
    let memory = [0_u8; 2 * ALIGN];
    let skip = memory.as_ptr().align_offset(ALIGN);
    let block = memory.get(skip..skip + ALIGN).ok_or_else(|| io::Error::other("memory cannot be aligned"))?;
    file.write_all(block)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_a_disk_and_removed() {
        let scratch = Scratch::new(None).expect("this machine has a disk");
        let path = scratch.path().to_path_buf();
        std::fs::write(path.join("file"), b"x").expect("writable");
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_without_direct_io_is_refused() {
        let error = Scratch::new(Some(Path::new("/proc"))).expect_err("proc takes no files");
        assert!(error.to_string().contains("/proc"), "{error}");
    }
}
