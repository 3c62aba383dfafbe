//! A nameserver and a broker inside the test's process.

use equeue_broker::{BrokerConfig, BrokerHandle};
use equeue_nameserver::{NameserverConfig, NameserverHandle};
use tempfile::TempDir;

/// A cluster of one broker with one shard; stopped when dropped.
pub(crate) struct Cluster {
    broker: Option<BrokerHandle>,
    nameserver: Option<NameserverHandle>,
    address: String,
    _data: TempDir,
}

impl Cluster {
    /// Starts one on free ports of loopback, its data on the disk of the build folder.
    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let listen = "127.0.0.1:0".to_owned();
        let config = NameserverConfig { listen: listen.clone(), ..NameserverConfig::default() };
        let nameserver = equeue_nameserver::start(config).expect("a nameserver");
        let address = nameserver.address().to_string();
        let config = BrokerConfig {
            data_dir: data.path().join("broker"),
            listen,
            http_listen: String::new(),
            nameservers: vec![address.clone()],
            shards: 1,
            ..BrokerConfig::default()
        };
        let broker = equeue_broker::start(config).expect("a broker");
        Self { broker: Some(broker), nameserver: Some(nameserver), address, _data: data }
    }

    /// Address of the nameserver.
    pub(crate) fn nameserver(&self) -> &str {
        &self.address
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.stop();
            broker.join().expect("the broker stops in order");
        }
        if let Some(nameserver) = self.nameserver.take() {
            nameserver.stop();
            nameserver.join().expect("the nameserver stops in order");
        }
    }
}
