//! File systems in image files: mounted where nobody else sees them, shut down like a power cut, filled up.
//!
//! All of it happens in a mount namespace of this process. When the process ends, in whatever way, its mounts end
//! with it, and with them the loop devices, which are set to free themselves.

pub(crate) mod image;
mod mount;

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::Context as _;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

pub(crate) use image::{Cut, PowerImage};
pub(crate) use mount::{Fs, Mount, make_image};

/// Why images cannot be mounted here; `None`: they can.
pub(crate) fn obstacle(fs: Fs) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/loop-control") {
        return Some(format!("no loop devices: /dev/loop-control: {error}"));
    }
    let programs = ["mount", "umount", fs.mkfs(), Fs::Ext4.mkfs()];
    let missing = programs.iter().find(|program| !in_path(program))?;
    Some(format!("the program {missing} is not installed"))
}

/// Moves this process into a mount namespace of its own. To be called before any thread is started.
pub(crate) fn enter_namespace() -> anyhow::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let nothing: Option<&Path> = None;
    nix::mount::mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("cannot make the mount namespace private")
}

fn in_path(program: &str) -> bool {
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(std::path::PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(usual).any(|directory| directory.join(program).is_file())
}
