//! The servers of a life: a nameserver and a broker, in one process or in two, on the same ports after each restart.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::child::{Addresses, Child, Spec};

/// How long a start may take.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// A port of the system's choice.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Which processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// `equeue standalone`: the nameserver goes down together with the broker.
    Standalone,
    /// `equeue nameserver` lives on, `equeue broker` goes down.
    Split,
}

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The release binary `equeue`.
    pub(crate) binary: PathBuf,
    /// Which processes.
    pub(crate) topology: Topology,
    /// The broker's data directory.
    pub(crate) data: PathBuf,
    /// Where the logs of the processes go: outside the data directory.
    pub(crate) logs: PathBuf,
    /// Settings of the broker, as environment variables.
    pub(crate) settings: Vec<(String, String)>,
}

/// The running servers.
#[derive(Debug)]
pub(crate) struct Servers {
    plan: Plan,
    nameserver: Option<Child>,
    broker: Option<Child>,
    nameserver_address: SocketAddr,
    broker_address: SocketAddr,
}

impl Servers {
    /// Starts them for the first time.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut servers = Self {
            plan,
            nameserver: None,
            broker: None,
            nameserver_address: ANY_PORT,
            broker_address: ANY_PORT,
        };
        if servers.plan.topology == Topology::Split {
            let listen = servers.nameserver_address.to_string();
            let spec = servers.spec("nameserver", &["nameserver", "--listen", &listen]);
            let mut child = Child::spawn(&spec)?;
            let (addresses, _) = child.ready(READY_LIMIT).await.context("the nameserver did not start")?;
            servers.learn(&addresses);
            servers.nameserver = Some(child);
        }
        servers.restart().await?;
        Ok(servers)
    }

    /// Starts the broker again; how long it took until it was ready.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        let mut child = self.spawn_broker()?;
        let (addresses, took) = child.ready(READY_LIMIT).await.context("the broker did not start")?;
        self.learn(&addresses);
        self.broker = Some(child);
        Ok(took)
    }

    /// Starts the broker and does not wait for it: it is in the middle of its recovery.
    pub(crate) fn begin_restart(&mut self) -> anyhow::Result<()> {
        self.broker = Some(self.spawn_broker()?);
        Ok(())
    }

    fn spawn_broker(&self) -> anyhow::Result<Child> {
        let (broker, nameserver) = (self.broker_address.to_string(), self.nameserver_address.to_string());
        let mut arguments = match self.plan.topology {
            Topology::Standalone => vec!["standalone", "--nameserver-listen", &nameserver],
            Topology::Split => vec!["broker", "--nameserver", &nameserver],
        };
        arguments.extend(["--listen", &broker, "--http-listen", "off"]);
        let mut spec = self.spec("broker", &arguments);
        spec.arguments.extend([OsString::from("--data"), self.plan.data.clone().into()]);
        spec.environment.clone_from(&self.plan.settings);
        Child::spawn(&spec)
    }

    /// Where clients ask for routes.
    pub(crate) fn nameserver_address(&self) -> SocketAddr {
        self.nameserver_address
    }

    /// The broker's process, while there is one.
    pub(crate) fn broker(&mut self) -> Option<&mut Child> {
        self.broker.as_mut()
    }

    /// Kills the broker; the panics that its log told of.
    pub(crate) fn kill_broker(&mut self) -> anyhow::Result<Vec<String>> {
        let Some(mut child) = self.broker.take() else { return Ok(Vec::new()) };
        child.kill()?;
        Ok(child.alarms())
    }

    /// Stops the broker where it is; it can only be killed afterwards.
    pub(crate) fn freeze_broker(&mut self) -> anyhow::Result<()> {
        self.broker.as_mut().context("there is no broker")?.freeze()
    }

    /// Stops the broker in order; what was not orderly about it, if anything.
    pub(crate) async fn stop_broker(&mut self) -> anyhow::Result<Option<String>> {
        let Some(mut child) = self.broker.take() else { return Ok(None) };
        Ok(match child.terminate(STOP_LIMIT).await {
            Ok((status, _)) if status.success() => None,
            Ok((status, _)) => Some(format!("after SIGTERM it ended with {status}\n{}", child.log_end())),
            Err(error) => Some(error.to_string()),
        })
    }

    fn learn(&mut self, addresses: &Addresses) {
        self.nameserver_address = addresses.nameserver.unwrap_or(self.nameserver_address);
        self.broker_address = addresses.broker.unwrap_or(self.broker_address);
    }

    fn spec(&self, name: &str, arguments: &[&str]) -> Spec {
        let global = ["--output", "json", "--log-format", "json"];
        Spec {
            binary: self.plan.binary.clone(),
            arguments: global.iter().chain(arguments).map(OsString::from).collect(),
            environment: Vec::new(),
            log: self.plan.logs.join(format!("{name}.log")),
        }
    }
}
