//! A disk whose power can be cut: a file system in an image, which lies on another file system in an image.
//!
//! There are two ways to lose power, and each finds what the other cannot:
//!
//! - [`Cut::FileSystem`] shuts down the inner file system: metadata that its journal does not hold yet is lost (sizes,
//!   extents, renames). What was written directly to blocks that had been allocated and written before stays, synced
//!   or not, because the loop device keeps it.
//! - [`Cut::Device`] shuts down the outer file system. To the inner one that is a disk with a volatile write cache: all
//!   that the loop device was not told to flush is lost (or, where the kernel wrote it back by itself, kept - page by
//!   page, in no order).

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::mount::{Fs, Mount, copy_image, make_image};

/// Room on the outer file system beside the inner image.
const OUTER_SPARE_BYTES: u64 = 128 << 20;

/// Where the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Above the device: what reached it stays.
    FileSystem,
    /// In the device: its write cache is lost.
    Device,
}

/// The two images; mounted but for the time between a cut and [`PowerImage::heal`].
#[derive(Debug)]
pub(crate) struct PowerImage {
    outer_image: PathBuf,
    outer_directory: PathBuf,
    inner_directory: PathBuf,
    /// Declared, and so dropped, before the one below it.
    inner: Option<Mount>,
    outer: Option<Mount>,
}

impl PowerImage {
    /// Makes both images in `directory` and mounts them.
    pub(crate) fn create(directory: &Path, fs: Fs, bytes: u64) -> anyhow::Result<Self> {
        let mut image = Self {
            outer_image: directory.join("outer.img"),
            outer_directory: directory.join("outer"),
            inner_directory: directory.join("disk"),
            inner: None,
            outer: None,
        };
        make_image(&image.outer_image, Fs::Ext4, bytes + OUTER_SPARE_BYTES)?;
        image.outer = Some(Mount::of(&image.outer_image, &image.outer_directory)?);
        make_image(&image.inner_image(), fs, bytes)?;
        image.heal(None)?;
        Ok(image)
    }

    /// Where the file system under test is mounted.
    pub(crate) fn directory(&self) -> &Path {
        &self.inner_directory
    }

    /// Cuts the power. Processes see I/O errors from here on.
    pub(crate) fn cut(&mut self, cut: Cut) -> anyhow::Result<()> {
        let victim = match cut {
            Cut::FileSystem => &self.inner,
            Cut::Device => &self.outer,
        };
        victim.as_ref().context("the disk is not mounted")?.shut_down()
    }

    /// Takes the disk away. No process may use it any more.
    pub(crate) fn detach(&mut self, cut: Cut) -> anyhow::Result<()> {
        if let Some(inner) = self.inner.take() {
            inner.end()?;
        }
        if cut == Cut::Device
            && let Some(outer) = self.outer.take()
        {
            outer.end()?;
        }
        Ok(())
    }

    /// The power is back: mounts what is not mounted. The image as the cut left it, before its journal is replayed, is
    /// copied to `copy` if asked for.
    pub(crate) fn heal(&mut self, copy: Option<&Path>) -> anyhow::Result<()> {
        if self.outer.is_none() {
            self.outer = Some(Mount::of(&self.outer_image, &self.outer_directory)?);
        }
        if self.inner.is_none() {
            if let Some(copy) = copy {
                copy_image(&self.inner_image(), copy)?;
            }
            self.inner = Some(Mount::of(&self.inner_image(), &self.inner_directory)?);
        }
        Ok(())
    }

    fn inner_image(&self) -> PathBuf {
        self.outer_directory.join("inner.img")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::*;

    const PAGE: [u8; 4096] = [b'x'; 4096];

    /// Writes two files that were filled and synced before, and syncs one of them; gives back what is left of both
    /// after a cut.
    fn left_after(fs: Fs, cut: Cut) -> Option<(bool, bool)> {
        if let Some(reason) = super::super::obstacle(fs) {
            crate::say(&format!("skipped: {reason}"));
            return None;
        }
        // Only this thread moves; the programs that it starts move along.
        super::super::enter_namespace().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut image = PowerImage::create(directory.path(), fs, 320 << 20).unwrap();
        let paths = ["synced", "unsynced"].map(|name| image.directory().join(name));
        for path in &paths {
            std::fs::write(path, [0; 4096]).unwrap();
            std::fs::File::open(path).unwrap().sync_all().unwrap();
        }
        std::fs::File::open(image.directory()).unwrap().sync_all().unwrap();
        for path in &paths {
            let mut file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all(&PAGE).unwrap();
            if path.ends_with("synced") {
                file.sync_data().unwrap();
            }
        }
        image.cut(cut).unwrap();
        let late = OpenOptions::new().write(true).open(&paths[1]);
        assert!(late.and_then(|mut file| file.write_all(&PAGE).and_then(|()| file.sync_data())).is_err());
        image.detach(cut).unwrap();
        image.heal(None).unwrap();
        let [synced, unsynced] = paths.map(|path| std::fs::read(path).unwrap() == PAGE);
        Some((synced, unsynced))
    }

    #[test]
    fn a_file_system_that_goes_down_keeps_what_was_synced() {
        for fs in [Fs::Ext4, Fs::Xfs] {
            if let Some((synced, unsynced)) = left_after(fs, Cut::FileSystem) {
                assert!(synced && !unsynced, "{fs:?}");
            }
        }
    }

    #[test]
    fn a_device_that_goes_down_keeps_what_was_flushed() {
        for fs in [Fs::Ext4, Fs::Xfs] {
            if let Some((synced, unsynced)) = left_after(fs, Cut::Device) {
                assert!(synced && !unsynced, "{fs:?}");
            }
        }
    }
}
