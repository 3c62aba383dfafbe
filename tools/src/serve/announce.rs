//! What a server says once it is ready.

use std::net::SocketAddr;
use std::path::PathBuf;

use equeue_broker::{BrokerConfig, BrokerHandle};
use serde::Serialize;

use crate::output::{Format, Output, to_stderr};

/// Where a server is reached and what it runs on.
#[derive(Debug, Serialize)]
pub(super) struct Announcement {
    role: &'static str,
    version: &'static str,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameserver: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage>,
}

#[derive(Debug, Serialize)]
struct Storage {
    data_dir: PathBuf,
    shards: u16,
    sync: String,
}

impl Announcement {
    /// Of a nameserver.
    pub(super) fn of_nameserver() -> Self {
        Self {
            role: "nameserver",
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            nameserver: None,
            broker: None,
            http: None,
            storage: None,
        }
    }

    /// Of a broker with these settings.
    pub(super) fn of_broker(role: &'static str, config: &BrokerConfig) -> Self {
        let data_dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
        let sync = serde_json::to_value(config.storage.sync)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default();
        let storage = Storage { data_dir, shards: config.shard_count(), sync };
        Self { role, storage: Some(storage), ..Self::of_nameserver() }
    }

    /// With the nameserver's real address.
    pub(super) fn nameserver(mut self, address: SocketAddr) -> Self {
        self.nameserver = Some(address);
        self
    }

    /// With the broker's real addresses.
    pub(super) fn broker(mut self, broker: &BrokerHandle) -> Self {
        self.broker = Some(broker.address());
        self.http = broker.http_address();
        self
    }

    /// Prints the addresses to stdout, then `ready` to stderr. That nobody reads stdout is no reason to stop.
    pub(super) fn print(&self, format: Format) {
        let mut output = Output::stdout();
        let printed = match format {
            Format::Json => output.json_line(self),
            Format::Table => self.in_words().iter().try_for_each(|line| output.line(line)),
        };
        if let Err(error) = printed.and_then(|()| output.flush()) {
            tracing::debug!(%error, "the addresses could not be printed");
        }
        to_stderr("ready");
    }

    fn in_words(&self) -> Vec<String> {
        let mut lines = vec![format!("EQueue {} {}, process {}", self.version, self.role, self.pid)];
        for (name, address) in [("nameserver", self.nameserver), ("broker", self.broker), ("http", self.http)]
        {
            lines.extend(address.map(|address| format!("{name:11}{address}")));
        }
        if let Some(storage) = &self.storage {
            lines.push(format!("{:11}{}", "data", storage.data_dir.display()));
            lines.push(format!("{:11}{}", "shards", storage.shards));
            lines.push(format!("{:11}{}", "sync", storage.sync));
        }
        lines
    }
}
