//! What it takes to repeat a run, beyond the options: the command line, the machine, and where the data lay.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

/// The block of a result that tells how to repeat it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Environment {
    /// When the run began, UTC.
    pub started_at: String,
    /// As it was typed.
    pub command_line: String,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// How the CPU's speed is governed, where the machine tells.
    pub cpu_governor: Option<String>,
    /// Load of the machine over the last minute when the run began.
    pub load_before: Option<f64>,
    /// Where the own broker's data lay.
    pub data: Option<Mount>,
    /// Settings that the own broker was given beyond its defaults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broker_settings: Vec<String>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where it is mounted.
    pub path: String,
    /// From where.
    pub device: String,
    /// Its kind.
    pub file_system: String,
    /// Its options.
    pub options: String,
}

impl Environment {
    /// Of this process, now.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        Self {
            started_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command_line: command_line(std::env::args_os()),
            memory_bytes: read("/proc/meminfo").as_deref().and_then(memory_bytes).unwrap_or(0),
            cpu_governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .map(|governor| governor.trim().to_owned()),
            load_before: read("/proc/loadavg")
                .and_then(|text| text.split_whitespace().next().and_then(|load| load.parse().ok())),
            data: None,
            broker_settings: Vec::new(),
        }
    }
}

impl Mount {
    /// The file system in which a folder lies.
    #[must_use]
    pub fn of(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        find_mount(&fs::read_to_string("/proc/self/mounts").ok()?, &folder)
    }
}

/// The longest mount point that the path begins with; of equal ones the last, which covers the others.
fn find_mount(mounts: &str, path: &Path) -> Option<Mount> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut next = || fields.next().map(str::to_owned);
        let (device, point, file_system, options) = (next()?, next()?, next()?, next()?);
        // The kernel writes a space in a name as \040.
        let point = point.replace("\\040", " ");
        path.starts_with(&point).then_some(Mount { path: point, device, file_system, options })
    };
    mounts.lines().filter_map(parse).max_by_key(|mount| mount.path.len())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// In a form that a shell takes back.
fn command_line(arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> String {
    let quoted = |argument: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.to_owned()
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    };
    let words: Vec<String> = arguments.map(|argument| quoted(&argument.as_ref().to_string_lossy())).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_can_be_pasted() {
        let arguments = ["equeue", "bench", "--assert", "p99<2000", "it's", "", "a.b,c=/d"];
        assert_eq!(command_line(arguments.iter()), r"equeue bench --assert 'p99<2000' 'it'\''s' '' a.b,c=/d");
    }

    #[test]
    fn the_deepest_mount_is_the_one() {
        let mounts = "/dev/vda / ext4 rw,relatime 0 0\ntmpfs /tmp tmpfs rw 0 0\n\
                      /dev/vdb /tmp/a\\040b xfs rw,noatime 0 0\nproc /proc proc rw 0 0\n";
        let device = |path: &str| find_mount(mounts, Path::new(path)).expect("found").device;
        assert_eq!(device("/var/tmp"), "/dev/vda");
        assert_eq!(device("/tmp/x"), "tmpfs");
        assert_eq!(device("/tmp/a b/c"), "/dev/vdb");
        assert_eq!(device("/tmpfoo"), "/dev/vda", "folders, not letters");
        assert_eq!(find_mount("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_is_described() {
        let here = Environment::here();
        assert!(here.memory_bytes > 1 << 20 && !here.command_line.is_empty(), "{here:?}");
        assert_eq!(memory_bytes("MemTotal:       2 kB\n"), Some(2048));
        assert_eq!(memory_bytes("nothing"), None);
    }
}
