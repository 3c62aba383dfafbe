//! The servers: a nameserver and two brokers.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use equeue_client::Client;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::time::{sleep, timeout};

use super::watch::{Calm, Cause};
use crate::child::{Child, Spec};

/// How long a start may take.
const READY_LIMIT: Duration = Duration::from_mins(1);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// How long a coordinator that restarted waits for the members of before, and they for the next heartbeat.
const GATHER: Duration = Duration::from_secs(4);
/// How long a broker may be away: what falls to members there is nobody's meanwhile.
const AWAY: Duration = Duration::from_secs(10);

/// Nameserver and brokers.
pub(super) struct Cluster {
    binary: PathBuf,
    directory: PathBuf,
    nameserver: SocketAddr,
    _nameserver: Child,
    brokers: Vec<(Option<Child>, SocketAddr)>,
    /// Of each broker.
    shards: u16,
    calm: Calm,
    pub(super) restarts: u32,
}

impl Cluster {
    pub(super) async fn start(
        binary: PathBuf,
        directory: &Path,
        shards: u16,
        calm: Calm,
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let spec = spec(&binary, directory, "nameserver", &["nameserver", "--listen", &any.to_string()]);
        let mut nameserver = Child::spawn(&spec)?;
        let (addresses, _) = nameserver.ready(READY_LIMIT).await.context("the nameserver did not start")?;
        let address = addresses.nameserver.context("the nameserver tells no address")?;
        let mut cluster = Self {
            binary,
            directory: directory.to_owned(),
            nameserver: address,
            _nameserver: nameserver,
            brokers: vec![(None, any), (None, any)],
            shards,
            calm,
            restarts: 0,
        };
        for index in 0..2 {
            cluster.start_broker(index).await?;
        }
        Ok(cluster)
    }

    pub(super) fn nameserver(&self) -> SocketAddr {
        self.nameserver
    }

    /// A client, once both brokers are known.
    pub(super) async fn client(&self, name: &str) -> anyhow::Result<Client> {
        let client =
            Client::builder().nameservers([self.nameserver.to_string()]).client_id(name).connect().await?;
        let known = async {
            while client.admin().cluster().await.map_or(true, |brokers| brokers.len() < 2) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(READY_LIMIT, known).await.context("the brokers do not register")?;
        Ok(client)
    }

    /// Restarts one of the brokers, killed or stopped in order.
    pub(super) async fn restart(&mut self, random: &mut SmallRng, kills: bool) -> anyhow::Result<()> {
        let index = random.random_range(0..2);
        let (broker, _) = self.brokers.get_mut(index).context("there are two brokers")?;
        self.calm.disturb(Cause::Broker, AWAY);
        if let Some(mut child) = broker.take() {
            if kills {
                child.kill()?;
            } else {
                child.terminate(STOP_LIMIT).await?;
            }
        }
        sleep(Duration::from_millis(random.random_range(0..1500))).await;
        self.restarts += 1;
        self.start_broker(index).await?;
        self.calm.over(Cause::Broker, GATHER);
        Ok(())
    }

    async fn start_broker(&mut self, index: usize) -> anyhow::Result<()> {
        let (slot, address) = self.brokers.get_mut(index).context("there are two brokers")?;
        let name = format!("broker-{index}");
        let (listen, nameserver) = (address.to_string(), self.nameserver.to_string());
        let data = self.directory.join(&name);
        let mut spec = spec(
            &self.binary,
            &self.directory,
            &name,
            &["broker", "--nameserver", &nameserver, "--listen", &listen, "--http-listen", "off"],
        );
        spec.arguments.extend([OsString::from("--data"), data.into()]);
        let shards = self.shards.to_string();
        spec.environment = [("name", name.as_str()), ("shards", &shards), ("memory.limit", "256MiB")]
            .map(|(key, value)| (crate::cli::variable(key), value.to_owned()))
            .to_vec();
        let mut child = Child::spawn(&spec)?;
        let (addresses, _) = child.ready(READY_LIMIT).await.context("a broker did not start")?;
        *address = addresses.broker.unwrap_or(*address);
        *slot = Some(child);
        Ok(())
    }
}

fn spec(binary: &Path, directory: &Path, name: &str, arguments: &[&str]) -> Spec {
    Spec {
        binary: binary.to_owned(),
        arguments: ["--output", "json"].iter().chain(arguments).map(OsString::from).collect(),
        environment: Vec::new(),
        log: directory.join(format!("{name}.log")),
    }
}
