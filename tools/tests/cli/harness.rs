//! Starts the binary, talks to it, and kills only what it started.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The binary with an environment that holds nothing of the developer's.
pub(crate) fn equeue() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_equeue"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("EQUEUE_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the binary can be run")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs to the end; it must succeed. Gives stdout.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?} ended with {}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Runs to the end; it must fail with this exit code. Gives stderr.
#[track_caller]
pub(crate) fn fail(command: &mut Command, code: i32) -> String {
    let output = run(command);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}: {} {}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stderr)
}

/// Runs with this on stdin.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be run");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the child ends");
    writer.join().expect("the writer ends");
    output
}

/// Each line as JSON.
#[track_caller]
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// Free ports of the system's choice, for broker and nameserver.
pub(crate) fn any_addresses() -> [String; 2] {
    ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()]
}

/// Two addresses for servers that are started again at the same place. Not from the range that the system gives to
/// port 0 and to outgoing connections, where another test could take them in between.
pub(crate) fn lasting_addresses() -> [String; 2] {
    let mut ports = (0..).map(|attempt: u32| 10_000 + (std::process::id() * 7 + attempt * 13) % 20_000);
    let mut free = || {
        let is_free = |address: &String| TcpListener::bind(address).is_ok();
        ports.by_ref().map(|port| format!("127.0.0.1:{port}")).find(is_free).expect("one of 20,000")
    };
    [free(), free()]
}

/// A running server; killed when the test ends.
pub(crate) struct Server {
    pub(crate) child: Child,
    /// What it printed when it was ready.
    pub(crate) announced: Value,
    /// What it said before it was ready.
    pub(crate) said: Vec<String>,
    log: mpsc::Receiver<String>,
}

impl Server {
    /// Starts `equeue standalone` on free ports.
    pub(crate) fn standalone(data: &Path) -> Self {
        Self::standalone_at(data, &any_addresses())
    }

    /// Starts `equeue standalone` with these addresses of broker and nameserver.
    pub(crate) fn standalone_at(data: &Path, addresses: &[String; 2]) -> Self {
        Self::start(&mut Self::standalone_command(data, addresses))
    }

    /// The same, not started yet.
    pub(crate) fn standalone_command(data: &Path, addresses: &[String; 2]) -> Command {
        let [broker, nameserver] = addresses;
        let mut command = equeue();
        command
            .args(["standalone", "--output", "json", "--http-listen", "127.0.0.1:0"])
            .arg("--data")
            .arg(data);
        command.args(["--listen", broker, "--nameserver-listen", nameserver]);
        command
    }

    /// Starts a server and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be run");
        let stderr = child.stderr.take().expect("piped");
        let (tell, log) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
        });
        let mut server = Self { child, announced: Value::Null, said: Vec::new(), log };
        server.said = server.wait_for_line("ready");
        let mut line = String::new();
        BufReader::new(server.child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        server.announced = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        server
    }

    /// Waits for exactly this line in the log; gives those before it.
    #[track_caller]
    fn wait_for_line(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == wanted => return seen,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line {wanted:?} ({error}); the log:\n{}", seen.join("\n")),
            }
        }
    }

    /// Address under this name in what was announced.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> String {
        let address = self.announced.get(name).and_then(Value::as_str);
        address.unwrap_or_else(|| panic!("no {name} in {}", self.announced)).to_owned()
    }

    /// A client command of this cluster.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = equeue();
        command.args(arguments).env("EQUEUE_NAMESERVERS", self.address("nameserver"));
        command
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Waits for its end; gives the exit code.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Option<i32> {
        wait(&mut self.child).code()
    }

    /// Stops it in order.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.end(), Some(0), "an orderly stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A child that has been waited for is left alone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn send_signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), signal).expect("our own child");
}

/// Waits for the end of a child, not for ever.
#[track_caller]
pub(crate) fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        assert!(Instant::now() < deadline, "the process does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A command that runs beside the test; killed when the test ends.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Option<BufReader<std::process::ChildStdout>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary can be run");
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    /// The next line of stdout.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("not closed yet");
        assert_ne!(stdout.read_line(&mut line).expect("readable"), 0, "stdout has ended");
        line.trim_end_matches('\n').to_owned()
    }

    /// What is left of stdout, to its end.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.as_mut().expect("not closed yet").read_to_string(&mut rest).expect("readable");
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
