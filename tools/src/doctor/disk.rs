//! The data directory: direct writes and syncs, really done and timed, and free space.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statfs::{self, FsType};
use nix::sys::statvfs::statvfs;

use super::Finding;
use super::limits::bytes_or_unlimited;

/// Direct I/O wants memory, length and position aligned to this.
const ALIGNMENT: usize = 4096;
/// Syncs that are timed, at most.
const SYNCS_MAX: usize = 100;
/// Time that they may take, at most.
const SYNC_TIME_MAX: Duration = Duration::from_secs(2);
/// A sync slower than this makes every acknowledged send slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// A sync faster than this has not been to any device.
const SYNC_UNREAL: Duration = Duration::from_micros(5);
/// A broker lays out its first segments in full.
const FREE_MIN: u64 = 256 << 20;
/// Less than this fills up soon.
const FREE_GOOD: u64 = 4 << 30;

/// Every check of the directory, or of its nearest ancestor while it does not exist.
pub(super) fn findings(data: &Path) -> Vec<Finding> {
    let Some(directory) = nearest_existing(data) else {
        let found = format!("{} has no existing ancestor", data.display());
        return vec![Finding::blocking("data directory", found, "choose another directory with --data")];
    };
    let mut findings = vec![directory_finding(data, &directory), file_system_finding(&directory)];
    findings.push(free_space_finding(&directory));
    findings.extend(direct_io_findings(&directory));
    findings
}

fn nearest_existing(data: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(data).ok()?;
    absolute.ancestors().find(|path| path.is_dir()).map(Path::to_path_buf)
}

fn directory_finding(data: &Path, tried: &Path) -> Finding {
    if data.is_dir() {
        Finding::ok("data directory", data.display().to_string())
    } else if data.exists() {
        let found = format!("{} is no directory", data.display());
        Finding::blocking("data directory", found, "choose another one with --data")
    } else {
        let found =
            format!("{} does not exist yet; {} was tried in its place", data.display(), tried.display());
        Finding::ok("data directory", found)
    }
}

fn file_system_finding(directory: &Path) -> Finding {
    let check = "file system";
    let kind = match statfs::statfs(directory) {
        Ok(stat) => stat.filesystem_type(),
        Err(error) => {
            let remedy = "make the data directory readable for the broker's user";
            return Finding::warning(check, format!("{}: {error}", directory.display()), remedy);
        }
    };
    let name = name_of(kind);
    match kind {
        statfs::EXT4_SUPER_MAGIC | statfs::XFS_SUPER_MAGIC => Finding::ok(check, name),
        statfs::TMPFS_MAGIC => {
            let remedy =
                "messages are lost with the machine: use ext4 or xfs on a disk for anything but tests";
            Finding::warning(check, name, remedy)
        }
        statfs::NFS_SUPER_MAGIC | statfs::SMB_SUPER_MAGIC | statfs::FUSE_SUPER_MAGIC => {
            Finding::warning(check, name, "use ext4 or xfs on a local disk: syncs cross the network here")
        }
        _ => Finding::warning(check, name, "ext4 and xfs are the ones that power cuts are tested on"),
    }
}

fn name_of(kind: FsType) -> String {
    match kind {
        statfs::EXT4_SUPER_MAGIC => "ext4".to_owned(),
        statfs::XFS_SUPER_MAGIC => "xfs".to_owned(),
        statfs::TMPFS_MAGIC => "tmpfs: memory, no disk".to_owned(),
        statfs::NFS_SUPER_MAGIC => "nfs".to_owned(),
        statfs::SMB_SUPER_MAGIC => "smb".to_owned(),
        statfs::FUSE_SUPER_MAGIC => "fuse".to_owned(),
        statfs::BTRFS_SUPER_MAGIC => "btrfs".to_owned(),
        statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs: the writable layer of a container".to_owned(),
        FsType(magic) => format!("type {magic:#x}"),
    }
}

fn free_space_finding(directory: &Path) -> Finding {
    let check = "free space";
    let stat = match statvfs(directory) {
        Ok(stat) => stat,
        Err(error) => return Finding::warning(check, error.to_string(), "look at `df`"),
    };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let found = bytes_or_unlimited(free);
    if free < FREE_MIN {
        let remedy = "free at least 256 MiB: below, producers are answered DISK_FULL";
        Finding::blocking(check, found, remedy)
    } else if free < FREE_GOOD {
        Finding::warning(check, found, "give it more: a full disk refuses new messages")
    } else {
        Finding::ok(check, found)
    }
}

fn direct_io_findings(directory: &Path) -> Vec<Finding> {
    match timed_syncs(directory) {
        Ok(times) => vec![Finding::ok("direct I/O", "O_DIRECT writes work"), judge_syncs(&times)],
        Err(Trial::Create(error)) => vec![Finding::blocking(
            "direct I/O",
            format!("no file can be made in {}: {error}", directory.display()),
            "give the directory to the broker's user (`chown`), or choose another with --data",
        )],
        Err(Trial::Direct(error)) => vec![Finding::blocking(
            "direct I/O",
            format!("the file system refuses O_DIRECT: {error}"),
            "use ext4 or xfs; in a container mount a volume there instead of using its own layer",
        )],
        Err(Trial::Sync(error)) => vec![Finding::blocking(
            "sync",
            format!("fdatasync failed: {error}"),
            "the disk does not keep what it is given: replace it",
        )],
    }
}

enum Trial {
    Create(io::Error),
    Direct(io::Error),
    Sync(io::Error),
}

/// Writes one aligned block and syncs it, again and again: what an acknowledgement costs at least.
fn timed_syncs(directory: &Path) -> Result<Vec<Duration>, Trial> {
    let file =
        tempfile::Builder::new().prefix(".equeue-doctor-").tempfile_in(directory).map_err(Trial::Create)?;
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(file.path());
    let direct = direct.map_err(Trial::Direct)?;
    let memory = vec![0x45_u8; 2 * ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let block = memory.get(start..start + ALIGNMENT).expect("twice the alignment holds one aligned block");

    let begun = Instant::now();
    let mut times = Vec::with_capacity(SYNCS_MAX);
    while times.len() < SYNCS_MAX && begun.elapsed() < SYNC_TIME_MAX {
        let one = Instant::now();
        direct.write_all_at(block, 0).map_err(Trial::Direct)?;
        direct.sync_data().map_err(Trial::Sync)?;
        times.push(one.elapsed());
    }
    // The file goes with its handle; a leftover would be told by its name.
    drop(fs::remove_file(file.path()));
    times.sort_unstable();
    Ok(times)
}

fn judge_syncs(sorted: &[Duration]) -> Finding {
    let at = |numerator: usize| sorted.get((sorted.len().saturating_sub(1)) * numerator / 100).copied();
    let (median, high) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
    let found = format!(
        "write + fdatasync of 4 KiB: p50 {} us, p99 {} us ({} tried)",
        median.as_micros(),
        high.as_micros(),
        sorted.len()
    );
    if median > SYNC_SLOW {
        let remedy =
            "every send waits for a sync: use an SSD, one with power-loss protection for best latency";
        Finding::warning("sync", found, remedy)
    } else if median < SYNC_UNREAL {
        let remedy =
            "no device is that fast: this file system does not sync, messages are lost with the power";
        Finding::warning("sync", found, remedy)
    } else {
        Finding::ok("sync", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_is_tried_through_its_ancestor() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let findings = findings(&directory.path().join("not/yet"));
        assert!(findings.iter().any(|finding| finding.check == "sync"), "{findings:?}");
        assert!(!directory.path().join("not").exists(), "the doctor creates nothing");
        let left: Vec<_> = fs::read_dir(directory.path()).expect("readable").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_file_in_place_of_the_directory_blocks() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert_eq!(directory_finding(file.path(), Path::new("/tmp")).severity, Severity::Blocking);
    }

    #[test]
    fn syncs_are_judged_by_their_median() {
        let times = |micros: u64| vec![Duration::from_micros(micros); 10];
        assert_eq!(judge_syncs(&times(300)).severity, Severity::Ok);
        assert_eq!(judge_syncs(&times(50_000)).severity, Severity::Warning);
        assert_eq!(judge_syncs(&times(1)).severity, Severity::Warning);
    }
}
