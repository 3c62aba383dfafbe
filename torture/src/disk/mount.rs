//! Making, mounting and unmounting of images, through the programs of the system.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a killed process may hold a file system: the kernel ends its `io_uring`s in the background.
const BUSY_LIMIT: Duration = Duration::from_secs(20);

/// File systems under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fs {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Fs {
    /// The program that makes one.
    pub(crate) fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }
}

/// Makes an image of `bytes` that holds an empty file system, and syncs it.
pub(crate) fn make_image(image: &Path, fs: Fs, bytes: u64) -> anyhow::Result<()> {
    let file = File::create(image).with_context(|| format!("cannot create {}", image.display()))?;
    file.set_len(bytes).with_context(|| format!("cannot size {}", image.display()))?;
    let force = match fs {
        Fs::Ext4 => "-F",
        Fs::Xfs => "-f",
    };
    run(fs.mkfs(), &["-q".as_ref(), force.as_ref(), image.as_os_str()])?;
    file.sync_all().with_context(|| format!("cannot sync {}", image.display()))
}

/// Copies an image, without the space that it does not use.
pub(crate) fn copy_image(from: &Path, to: &Path) -> anyhow::Result<()> {
    run("cp", &["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()])
}

/// A mounted image. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    directory: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts an image; the journal of the file system is replayed where needed.
    pub(crate) fn of(image: &Path, directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), directory.as_os_str()])?;
        Ok(Self { directory: directory.to_owned(), mounted: true })
    }

    /// Where.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops the file system at once, as it is on its device: nothing more is written, not even its own log.
    pub(crate) fn shut_down(&self) -> anyhow::Result<()> {
        let directory = File::open(&self.directory)
            .with_context(|| format!("cannot open {}", self.directory.display()))?;
        go_down(&directory).with_context(|| format!("cannot shut down {}", self.directory.display()))
    }

    /// Unmounts it; waits for processes that are just being ended.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = run("umount", &[self.directory.as_os_str()]) {
            if began.elapsed() > BUSY_LIMIT {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // At the latest the end of the namespace unmounts it.
            let _ = run("umount", &["-l".as_ref(), self.directory.as_os_str()]);
        }
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {arguments:?}: {}: {}", output.status, said.trim());
    }
    Ok(())
}

/// `FS_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, which has the same number on XFS.
fn go_down(directory: &File) -> nix::Result<()> {
    const NO_LOG_FLUSH: u32 = 2;
    mod ioctl {
        nix::ioctl_read!(fs_ioc_shutdown, b'X', 125, u32);
    }
    let mut how = NO_LOG_FLUSH;
    #[expect(unsafe_code, reason = "an ioctl without a safe wrapper")]
    // SAFETY: the descriptor is open, and the kernel reads four bytes from a live u32.
    unsafe {
        ioctl::fs_ioc_shutdown(directory.as_raw_fd(), &raw mut how)?;
    }
    Ok(())
}
