//! One server process: started, watched until it is ready, killed or stopped.
//!
//! Its stderr is kept in a file and searched for `ready` and for panics; the JSON object on its stdout tells its real
//! addresses. A child never outlives this process: it is killed when dropped, and by the kernel when this process is
//! killed itself.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Longest line that is looked at as a whole.
const LINE_BYTES_MAX: u64 = 1 << 16;
/// Panics and other alarming lines that are kept.
const ALARMS_MAX: usize = 5;
/// How long a stopped process may go on.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How often a waiting caller looks.
const GLANCE: Duration = Duration::from_millis(2);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// The program.
    pub(crate) binary: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Variables added to its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Its stderr is added to this file.
    pub(crate) log: PathBuf,
}

/// Where a server is reached, as it says itself.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Addresses {
    /// The nameserver, when this process holds one.
    pub(crate) nameserver: Option<SocketAddr>,
    /// The broker, when this process holds one.
    pub(crate) broker: Option<SocketAddr>,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Usage {
    /// Bytes of memory in use.
    pub(crate) resident_bytes: u64,
    /// Open files, sockets and rings.
    pub(crate) descriptors: usize,
}

impl Usage {
    /// The greater of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// What the readers of its output saw.
#[derive(Debug, Default)]
struct Heard {
    addresses: Option<Addresses>,
    ready: Option<Instant>,
    clean: Option<bool>,
    alarms: Vec<String>,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    started: Instant,
    heard: Arc<Mutex<Heard>>,
    log: PathBuf,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Child {
    /// Starts it. Must be called on a thread that lives as long as the child shall.
    pub(crate) fn spawn(spec: &Spec) -> anyhow::Result<Self> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open {}", spec.log.display()))?;
        let mut command = Command::new(&spec.binary);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for this process, which then ends the child in its own way.
            .process_group(0);
        die_with_parent(&mut command);
        let started = Instant::now();
        let mut process =
            command.spawn().with_context(|| format!("cannot start {}", spec.binary.display()))?;
        writeln!(log, "--- process {}: {:?}", process.id(), spec.arguments)
            .context("cannot write the log")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let stdout = process.stdout.take().context("the child has no stdout")?;
        let stderr = process.stderr.take().context("the child has no stderr")?;
        let readers = vec![
            read_lines("child-stdout", stdout, {
                let heard = Arc::clone(&heard);
                move |line| {
                    if let Ok(addresses) = serde_json::from_str(line) {
                        lock(&heard).addresses = Some(addresses);
                    }
                }
            })?,
            read_lines("child-stderr", stderr, {
                let heard = Arc::clone(&heard);
                move |line| {
                    listen(line, &mut lock(&heard));
                    // A log that cannot be written is no reason to fail the run.
                    let _ = writeln!(log, "{line}");
                }
            })?,
        ];
        Ok(Self { process, started, heard, log: spec.log.clone(), readers })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends before, or is not ready in time: with the end of its log.
    pub(crate) async fn ready(&mut self, limit: Duration) -> anyhow::Result<(Addresses, Duration)> {
        loop {
            {
                let heard = lock(&self.heard);
                if let (Some(addresses), Some(ready)) = (&heard.addresses, heard.ready) {
                    return Ok((addresses.clone(), ready - self.started));
                }
            }
            if let Some(status) = self.ended()? {
                self.join_readers();
                bail!("it ended before it was ready: {status}\n{}", self.log_end());
            }
            if self.started.elapsed() > limit {
                bail!("it was not ready within {limit:?}\n{}", self.log_end());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// What it holds now; `None`: it is gone.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let resident_kib: u64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let descriptors = std::fs::read_dir(process.join("fd")).ok()?.count();
        Some(Usage { resident_bytes: resident_kib << 10, descriptors })
    }

    /// Whether it says that the stop before this start was orderly; `None`: it says nothing.
    pub(crate) fn clean(&self) -> Option<bool> {
        lock(&self.heard).clean
    }

    /// Panics that its log told of.
    pub(crate) fn alarms(&self) -> Vec<String> {
        lock(&self.heard).alarms.clone()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.try_wait().context("cannot ask for the state of the child")
    }

    /// Stops it where it is, as SIGSTOP does; ends when none of its threads can do anything any more.
    pub(crate) fn freeze(&mut self) -> anyhow::Result<()> {
        let id = self.process.id();
        let pid = Pid::from_raw(i32::try_from(id).context("an impossible process id")?);
        kill(pid, Signal::SIGSTOP).context("cannot stop the child")?;
        let asked = Instant::now();
        while !is_frozen(id)? {
            if asked.elapsed() > FREEZE_LIMIT {
                bail!("the child does not stand still within {FREEZE_LIMIT:?} of SIGSTOP");
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Kills it without warning and waits until it is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().context("cannot kill the child")?;
        self.process.wait().context("cannot wait for the child")?;
        self.join_readers();
        Ok(())
    }

    /// Asks it to stop in order and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end in time (it is then killed).
    pub(crate) async fn terminate(&mut self, limit: Duration) -> anyhow::Result<(ExitStatus, Duration)> {
        let id = i32::try_from(self.process.id()).context("an impossible process id")?;
        let asked = Instant::now();
        if self.ended()?.is_none() {
            kill(Pid::from_raw(id), Signal::SIGTERM).context("cannot signal the child")?;
        }
        loop {
            if let Some(status) = self.ended()? {
                self.join_readers();
                return Ok((status, asked.elapsed()));
            }
            if asked.elapsed() > limit {
                self.kill()?;
                bail!("it did not stop within {limit:?} of SIGTERM\n{}", self.log_end());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_end(&self) -> String {
        last_lines(&self.log, 12)
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader that panicked has told its story on stderr.
            let _ = reader.join();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
    }
}

/// Whether each thread of a process is stopped. Threads in which the kernel works for its rings run no code of it.
fn is_frozen(id: u32) -> anyhow::Result<bool> {
    let tasks = format!("/proc/{id}/task");
    for task in std::fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
        let path = task.with_context(|| format!("cannot list {tasks}"))?.path().join("stat");
        // One that ended meanwhile does nothing either.
        let Ok(stat) = std::fs::read_to_string(&path) else { continue };
        let (before, after) = stat.rsplit_once(')').context("a stat file without a name")?;
        let is_kernels = before.split_once('(').is_some_and(|(_, name)| name.starts_with("iou-"));
        if !is_kernels && !after.trim_start().starts_with(['T', 't', 'Z', 'X']) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lets the kernel kill the process when the thread that starts it ends.
#[expect(unsafe_code, reason = "only code that runs between fork and exec can ask for the signal")]
pub(crate) fn die_with_parent(command: &mut Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: the closure makes one system call: it neither allocates nor locks, which is all that a child of a
    // process with threads may rely on before exec.
    unsafe {
        command.pre_exec(ask);
    }
}

fn listen(line: &str, heard: &mut Heard) {
    if line == "ready" {
        heard.ready = Some(Instant::now());
    } else if line.contains("panicked at") || line.contains("poisoned") {
        if heard.alarms.len() < ALARMS_MAX {
            heard.alarms.push(line.to_owned());
        }
    } else if let Some(clean) = clean_field(line) {
        // With several logs the stop was orderly when it was so for each.
        heard.clean = Some(heard.clean.unwrap_or(true) && clean);
    }
}

/// The field `clean` of a line of the log in JSON.
fn clean_field(line: &str) -> Option<bool> {
    #[derive(Deserialize)]
    struct Event {
        clean: bool,
    }
    line.contains("\"clean\"")
        .then(|| serde_json::from_str::<Event>(line).ok())
        .flatten()
        .map(|event| event.clean)
}

fn read_lines(
    name: &str,
    from: impl Read + Send + 'static,
    mut each: impl FnMut(&str) + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let read = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => each(String::from_utf8_lossy(&line).trim_end()),
            }
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(read).context("cannot start a thread")
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last lines of a file, as well as they can be read.
fn last_lines(path: &Path, count: usize) -> String {
    use std::io::{Seek as _, SeekFrom};
    let Ok(mut file) = File::open(path) else { return String::new() };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let mut end = Vec::new();
    if file.seek(SeekFrom::Start(len.saturating_sub(8192))).is_err() || file.read_to_end(&mut end).is_err() {
        return String::new();
    }
    let end = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = end.lines().collect();
    let first = lines.len().saturating_sub(count);
    lines.iter().skip(first).map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_is_only_the_whole_word() {
        let mut heard = Heard::default();
        listen("not ready", &mut heard);
        assert!(heard.ready.is_none());
        listen("ready", &mut heard);
        assert!(heard.ready.is_some());
    }

    #[test]
    fn one_log_that_was_not_stopped_in_order_counts() {
        let mut heard = Heard::default();
        listen(r#"{"message":"log opened","log":0,"clean":true}"#, &mut heard);
        assert_eq!(heard.clean, Some(true));
        listen(r#"{"message":"log opened","log":1,"clean":false}"#, &mut heard);
        listen(r#"{"message":"log opened","log":2,"clean":true}"#, &mut heard);
        assert_eq!(heard.clean, Some(false));
    }

    #[test]
    fn panics_are_kept_up_to_a_limit() {
        let mut heard = Heard::default();
        for _ in 0..100 {
            listen("thread 'shard-0' panicked at src/lib.rs:1:1:", &mut heard);
        }
        assert_eq!(heard.alarms.len(), ALARMS_MAX);
    }

    #[tokio::test]
    async fn a_child_that_ends_early_is_told_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let spec = Spec {
            binary: "/bin/sh".into(),
            arguments: ["-c", "echo no way >&2; exit 3"].map(OsString::from).to_vec(),
            environment: Vec::new(),
            log: directory.path().join("log"),
        };
        let error =
            Child::spawn(&spec).unwrap().ready(Duration::from_secs(20)).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no way"), "{error}");
    }

    #[test]
    fn a_frozen_child_does_nothing_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let spec = Spec {
            binary: "/bin/sh".into(),
            arguments: ["-c", "while :; do echo tick >&2; done"].map(OsString::from).to_vec(),
            environment: Vec::new(),
            log: log.clone(),
        };
        let mut child = Child::spawn(&spec).unwrap();
        let len = || std::fs::metadata(&log).unwrap().len();
        let begun = Instant::now();
        while len() < 1000 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(GLANCE);
        }
        child.freeze().unwrap();
        assert!(is_frozen(child.process.id()).unwrap());
        // What it said before is still being read.
        thread::sleep(Duration::from_millis(200));
        let before = len();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(len(), before);
        child.kill().unwrap();
    }

    #[tokio::test]
    async fn a_ready_child_tells_its_addresses_and_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"trap 'exit 0' TERM; echo '{"broker":"127.0.0.1:9","http":null}'; echo ready >&2
            while :; do sleep 0.01; done"#;
        let spec = Spec {
            binary: "/bin/sh".into(),
            arguments: ["-c", script].map(OsString::from).to_vec(),
            environment: Vec::new(),
            log: directory.path().join("log"),
        };
        let mut child = Child::spawn(&spec).unwrap();
        let (addresses, _) = child.ready(Duration::from_secs(20)).await.unwrap();
        let usage = child.usage().unwrap();
        assert!(usage.resident_bytes > 0 && usage.descriptors >= 3, "{usage:?}");
        assert_eq!(addresses.broker, Some("127.0.0.1:9".parse().unwrap()));
        let (status, _) = child.terminate(Duration::from_secs(20)).await.unwrap();
        assert!(status.success());
    }
}
