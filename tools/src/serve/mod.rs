//! The server roles: settings, start-up checks, the ready line, signals, systemd, an orderly stop.
//!
//! Addresses go to stdout (a table, or one JSON object), then the line `ready` to stderr: whoever started the process
//! reads the real ports from there, whatever was asked for.

mod announce;
mod run;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use equeue_broker::BrokerConfig;
use equeue_nameserver::NameserverConfig;

use crate::output::Format;
use crate::settings::{Layers, Values};
use announce::Announcement;
use run::{Running, Server};

/// Options of `equeue standalone`.
#[derive(clap::Args, Debug)]
pub(crate) struct StandaloneArgs {
    /// Data directory, created when missing [default: `equeue` in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where clients connect to the broker; port 0: any free one [default: 127.0.0.1:9494]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where the nameserver listens; port 0: any free one [default: 127.0.0.1:9493]
    #[arg(long, value_name = "ADDR")]
    nameserver_listen: Option<SocketAddr>,
    /// Where metrics and health are served; port 0: any free one; `off`: nowhere [default: 127.0.0.1:9495]
    #[arg(long, value_name = "ADDR", value_parser = http_address)]
    http_listen: Option<String>,
    /// Settings file of the broker
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Options of `equeue broker`.
#[derive(clap::Args, Debug)]
pub(crate) struct BrokerArgs {
    /// Settings file; `equeue config default broker` prints one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory, created when missing
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Name of the broker, unique in its cluster
    #[arg(long)]
    name: Option<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Where clients connect to; port 0: any free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics and health are served; `off`: nowhere
    #[arg(long, value_name = "ADDR", value_parser = http_address)]
    http_listen: Option<String>,
    /// All nameservers of the cluster
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    nameserver: Option<Vec<String>>,
}

/// Options of `equeue nameserver`.
#[derive(clap::Args, Debug)]
pub(crate) struct NameserverArgs {
    /// Settings file; `equeue config default nameserver` prints one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; port 0: any free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

fn http_address(text: &str) -> Result<String, String> {
    if text == "off" {
        return Ok(String::new());
    }
    match text.parse::<SocketAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; give IP:PORT, or `off`")),
    }
}

/// Runs a nameserver and a broker until a signal.
pub(crate) fn standalone(args: &StandaloneArgs, format: Format) -> anyhow::Result<()> {
    let mut defaults = Values::default();
    defaults.set("data_dir", Some(default_data_dir()));
    defaults.set("auto_create_topics", Some(true));
    let mut flags = Values::default();
    flags.set("data_dir", args.data.as_ref());
    flags.set("listen", args.listen.map(|address| address.to_string()));
    flags.set("http_listen", args.http_listen.as_ref());
    let mut config: BrokerConfig = Layers { defaults, file: args.config.as_deref(), flags }.load()?;
    let mut flags = Values::default();
    flags.set("listen", args.nameserver_listen.map(|address| address.to_string()));
    let nameserver_config: NameserverConfig = Layers { flags, ..Layers::default() }.load()?;

    let nameserver = start_nameserver(nameserver_config)?;
    let nameserver_address = nameserver.address();
    config.nameservers = vec![nameserver_address.to_string()];
    let announcement = Announcement::of_broker("standalone", &config);
    let broker = start_broker(config)?;
    let announcement = announcement.nameserver(nameserver_address).broker(&broker);
    // The broker goes first: it takes its leave from the nameserver.
    Running::new(vec![Server::Broker(broker), Server::Nameserver(nameserver)])
        .until_stopped(&announcement, format)
}

/// Runs a broker until a signal.
pub(crate) fn broker(args: &BrokerArgs, format: Format) -> anyhow::Result<()> {
    let mut flags = Values::default();
    flags.set("data_dir", args.data.as_ref());
    flags.set("name", args.name.as_ref());
    flags.set("cluster", args.cluster.as_ref());
    flags.set("listen", args.listen.as_ref());
    flags.set("http_listen", args.http_listen.as_ref());
    flags.set("nameservers", args.nameserver.as_ref());
    let config: BrokerConfig = Layers { file: args.config.as_deref(), flags, ..Layers::default() }.load()?;

    let announcement = Announcement::of_broker("broker", &config);
    let broker = start_broker(config)?;
    let announcement = announcement.broker(&broker);
    Running::new(vec![Server::Broker(broker)]).until_stopped(&announcement, format)
}

/// Runs a nameserver until a signal.
pub(crate) fn nameserver(args: &NameserverArgs, format: Format) -> anyhow::Result<()> {
    let mut flags = Values::default();
    flags.set("listen", args.listen.as_ref());
    let config: NameserverConfig =
        Layers { file: args.config.as_deref(), flags, ..Layers::default() }.load()?;

    let nameserver = start_nameserver(config)?;
    let announcement = Announcement::of_nameserver().nameserver(nameserver.address());
    Running::new(vec![Server::Nameserver(nameserver)]).until_stopped(&announcement, format)
}

fn start_broker(config: BrokerConfig) -> anyhow::Result<equeue_broker::BrokerHandle> {
    let (data, listen) = (config.data_dir.clone(), config.listen.clone());
    equeue_broker::start(config).with_context(|| {
        format!(
            "the broker on {} at {listen} did not start; `equeue doctor --data {}` looks for the cause",
            data.display(),
            data.display()
        )
    })
}

fn start_nameserver(config: NameserverConfig) -> anyhow::Result<equeue_nameserver::NameserverHandle> {
    let listen = config.listen.clone();
    equeue_nameserver::start(config).with_context(|| {
        format!("the nameserver at {listen} did not start; `equeue doctor` looks for the cause")
    })
}

/// `$XDG_DATA_HOME/equeue`, `~/.local/share/equeue`, or `/var/lib/equeue` for a user without a home.
pub(crate) fn default_data_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("equeue")
}
