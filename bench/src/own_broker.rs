//! The standalone broker that a run starts for itself: another process of the same program, so that its CPU time is
//! counted, and its CPUs chosen, apart from the generator's.
//!
//! It is stopped by SIGTERM when the value is dropped, and by the kernel when the generator dies.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{self, process_cpu_ns_of, process_io_of, process_memory_peak_of};
use crate::scratch::Scratch;

/// How long the broker may take until it is ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How long it may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Lines of its log that are kept to explain a failure.
const LINES_KEPT: usize = 20;

/// A standalone broker: one process, or several after another on the same data and addresses.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    launch: Launch,
    child: Child,
    is_ready: Receiver<()>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// It was told to end: that it does is no failure.
    ending: bool,
    /// What processes that have ended used.
    earlier: Used,
    scratch: Scratch,
}

/// How it is set up.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnBrokerOptions {
    /// CPUs of its shards, one each; empty: the broker's choice.
    pub cpus: Vec<usize>,
    /// Limit of its memory, as its configuration writes it; `None`: its default.
    pub memory_limit: Option<String>,
}

/// What each of its processes is started with.
#[derive(Clone, Debug)]
struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    settings: Vec<(&'static str, String)>,
    cpus: Vec<usize>,
    nameserver: String,
}

/// CPU time and bytes read from and written to disk.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_ns: u64,
    disk_bytes: (u64, u64),
}

impl Launch {
    fn new(scratch: &Scratch, options: &OwnBrokerOptions) -> Result<Self> {
        let [nameserver, listen, http] = free_addresses()?;
        let data = scratch.path().join("data");
        let program = std::env::current_exe().context("finding the program to start the broker with")?;
        let mut arguments: Vec<OsString> = vec!["standalone".into(), "--data".into(), data.into()];
        for (name, address) in
            [("--listen", &listen), ("--nameserver-listen", &nameserver), ("--http-listen", &http)]
        {
            arguments.extend([name.into(), address.into()]);
        }
        Ok(Self { program, arguments, settings: settings(options), cpus: options.cpus.clone(), nameserver })
    }

    /// Starts a process; the receiver is told when it is ready.
    fn start(&self, lines: &Arc<Mutex<VecDeque<String>>>) -> Result<(Child, Receiver<()>)> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the generator, which stops the broker when it has its figures.
            .process_group(0);
        let mut child = spawn_on(&mut command, &self.cpus)
            .with_context(|| format!("starting {} standalone", self.program.display()))?;
        let stderr = child.stderr.take().context("the broker has no error stream")?;
        let (ready, is_ready) = sync_channel(1);
        let lines = Arc::clone(lines);
        thread::Builder::new()
            .name("broker-log".to_owned())
            .spawn(move || read_log(stderr, &lines, &ready))
            .context("starting the thread that reads the broker's log")?;
        Ok((child, is_ready))
    }
}

impl OwnBroker {
    /// Starts one with its data in `scratch` and waits until it is ready.
    pub(crate) fn start(scratch: Scratch, options: &OwnBrokerOptions) -> Result<Self> {
        let launch = Launch::new(&scratch, options)?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let (child, is_ready) = launch.start(&last_lines)?;
        let mut broker =
            Self { launch, child, is_ready, last_lines, ending: false, earlier: Used::default(), scratch };
        broker.wait_ready()?;
        Ok(broker)
    }

    /// Tells it to end, or kills it. Does not wait.
    pub(crate) fn end(&mut self, killed: bool) -> Result<()> {
        self.earlier = self.used();
        self.ending = true;
        let signal = if killed { Signal::SIGKILL } else { Signal::SIGTERM };
        kill(self.pid(), signal).with_context(|| format!("sending {signal} to the broker"))
    }

    /// Whether a broker that was told to end has done so.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("asking for the broker's state")?.is_some())
    }

    /// Starts the next process on the same data. Must be called by the thread that started the first: a process is
    /// stopped when the thread that started it ends. Does not wait until it is ready.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        (self.child, self.is_ready) = self.launch.start(&self.last_lines)?;
        self.ending = false;
        Ok(())
    }

    /// Whether a broker that was started again is ready.
    pub(crate) fn is_ready(&mut self) -> Result<bool> {
        self.check_alive()?;
        Ok(self.is_ready.try_recv().is_ok())
    }

    /// CPU time so far, ns.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.used().cpu_ns
    }

    /// Bytes read from and written to disk so far.
    pub(crate) fn disk_bytes(&self) -> (u64, u64) {
        self.used().disk_bytes
    }

    /// Most memory that the present process held at once, bytes.
    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        process_memory_peak_of(self.pid())
    }

    fn used(&self) -> Used {
        let Used { cpu_ns, disk_bytes: (read, written) } = self.earlier;
        if self.ending {
            return self.earlier;
        }
        let (more_read, more_written) = process_io_of(self.pid()).unwrap_or_default();
        Used {
            cpu_ns: cpu_ns + process_cpu_ns_of(self.pid()).unwrap_or(0),
            disk_bytes: (read + more_read, written + more_written),
        }
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> &Path {
        self.scratch.path()
    }

    /// What it was set to, beyond its defaults.
    pub(crate) fn settings(&self) -> Vec<String> {
        let shown = |(name, value): &(&str, String)| format!("{name}={value}");
        self.launch.settings.iter().filter(|(name, _)| name.starts_with("EQUEUE")).map(shown).collect()
    }

    /// Address of its nameserver.
    #[must_use]
    pub(crate) fn nameserver(&self) -> &str {
        &self.launch.nameserver
    }

    /// Its process.
    #[must_use]
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Says why, when it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("asking for the broker's state")? {
            None => Ok(()),
            Some(_) if self.ending => Ok(()),
            Some(status) => {
                Err(anyhow!("the broker ended with {status}; its last words:\n{}", self.last_words()))
            }
        }
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.is_ready.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => self.check_alive()?,
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(Duration::from_millis(100));
                    self.check_alive()?;
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the broker was not ready within {READY_WITHIN:?}; its last words:\n{}",
                    self.last_words()
                );
            }
        }
    }

    fn last_words(&self) -> String {
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().fold(String::new(), |text, line| text + "  " + line + "\n")
    }

    fn stop(&mut self) {
        if kill(self.pid(), Signal::SIGTERM).is_ok() {
            let deadline = Instant::now() + STOP_WITHIN;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        tracing::warn!(pid = self.child.id(), "the broker did not stop in order and is killed");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Settings given through the environment, as documented for every server role.
fn settings(options: &OwnBrokerOptions) -> Vec<(&'static str, String)> {
    let mut settings = vec![("NO_COLOR", "1".to_owned())];
    if !options.cpus.is_empty() {
        settings.push(("EQUEUE_BROKER__SHARDS", options.cpus.len().to_string()));
        settings.push(("EQUEUE_BROKER__PIN", format!("{:?}", options.cpus)));
    }
    if let Some(limit) = &options.memory_limit {
        settings.push(("EQUEUE_BROKER__MEMORY__LIMIT", format!("\"{limit}\"")));
    }
    settings
}

/// Starts the process on these CPUs: it inherits them from this thread. It is told to end when this thread does, so
/// that no broker stays behind a generator that was killed.
fn spawn_on(command: &mut Command, cpus: &[usize]) -> Result<Child> {
    let parent = std::process::id();
    let end_with_parent = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        if nix::unistd::getppid().as_raw().cast_unsigned() == parent {
            Ok(())
        } else {
            Err(std::io::Error::other("the generator is gone"))
        }
    };
    #[expect(
        unsafe_code,
        reason = "the only way to be stopped with a parent that cannot stop its child any more"
    )]
    // SAFETY: between fork and exec the closure calls prctl and getppid alone, which are async-signal-safe, and
    // allocates nothing unless the parent is gone and the child is about to end.
    unsafe {
        command.pre_exec(end_with_parent);
    }
    if cpus.is_empty() {
        return Ok(command.spawn()?);
    }
    let before = machine::allowed_cpus()?;
    machine::bind_to(cpus)?;
    let child = command.spawn();
    machine::bind_to(&before)?;
    Ok(child?)
}

/// Reads the log until the process ends, so that it never waits for a reader.
fn read_log(stderr: ChildStderr, lines: &Mutex<VecDeque<String>>, ready: &SyncSender<()>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.trim() == "ready" {
            let _ = ready.try_send(());
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Three addresses on loopback that nobody listens on.
fn free_addresses() -> Result<[String; 3]> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("finding a free port on loopback");
    let listeners = [bind()?, bind()?, bind()?];
    let mut addresses = [const { String::new() }; 3];
    for (address, listener) in addresses.iter_mut().zip(&listeners) {
        *address = listener.local_addr().context("asking for a port")?.to_string();
    }
    Ok(addresses)
}

/// Whether there is room for a broker's data in this folder.
pub(crate) fn check_space(dir: &Path, bytes_wanted: u64) -> Result<()> {
    let found = nix::sys::statvfs::statvfs(dir)
        .with_context(|| format!("asking for the space in {}", dir.display()))?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    if free < bytes_wanted {
        bail!(
            "{} has {} MB free, the run may write {} MB",
            dir.display(),
            free / 1_000_000,
            bytes_wanted / 1_000_000
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ_and_are_free() {
        let addresses = free_addresses().expect("loopback has ports");
        for (index, address) in addresses.iter().enumerate() {
            TcpListener::bind(address).expect("free");
            assert!(!addresses[..index].contains(address));
        }
    }

    #[test]
    fn settings_follow_the_environment_rule() {
        let options = OwnBrokerOptions { cpus: vec![0, 2], memory_limit: Some("256MiB".to_owned()) };
        let settings = settings(&options);
        assert!(settings.contains(&("EQUEUE_BROKER__PIN", "[0, 2]".to_owned())));
        assert!(settings.contains(&("EQUEUE_BROKER__SHARDS", "2".to_owned())));
        assert!(settings.contains(&("EQUEUE_BROKER__MEMORY__LIMIT", "\"256MiB\"".to_owned())));
    }

    #[test]
    fn too_little_space_is_told() {
        check_space(Path::new("/"), 1).expect("there is a byte");
        assert!(check_space(Path::new("/"), u64::MAX).is_err());
    }
}
