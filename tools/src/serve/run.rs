//! From ready to stopped: waits for a signal or for a server that ends by itself, then stops all of them in order.

use std::time::Duration;

use anyhow::Context as _;
use equeue_broker::BrokerHandle;
use equeue_nameserver::NameserverHandle;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::announce::Announcement;
use crate::output::Format;
use crate::stop::Stop;

/// How often a server that ended by itself is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One running server.
pub(super) enum Server {
    /// Stores messages.
    Broker(BrokerHandle),
    /// Tells where queues live.
    Nameserver(NameserverHandle),
}

impl Server {
    fn name(&self) -> &'static str {
        match self {
            Self::Broker(_) => "broker",
            Self::Nameserver(_) => "nameserver",
        }
    }

    fn is_finished(&self) -> bool {
        match self {
            Self::Broker(handle) => handle.is_finished(),
            Self::Nameserver(handle) => handle.is_finished(),
        }
    }

    /// Asks it to stop and waits until it has.
    fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Broker(handle) => {
                handle.stop();
                handle.join().context("the broker failed")
            }
            Self::Nameserver(handle) => {
                handle.stop();
                handle.join().context("the nameserver failed")
            }
        }
    }
}

/// The servers of this process, in the order in which they are stopped.
pub(super) struct Running {
    servers: Vec<Server>,
}

impl Running {
    /// Servers that are ready.
    pub(super) fn new(servers: Vec<Server>) -> Self {
        Self { servers }
    }

    /// Says that all is ready, and returns when all have stopped: after the first signal, or because one ended.
    ///
    /// # Errors
    /// The failure of the first server that failed.
    pub(super) fn until_stopped(self, announcement: &Announcement, format: Format) -> anyhow::Result<()> {
        let stop = Stop::listen()?;
        announcement.print(format);
        notify(&[NotifyState::Ready]);
        let outcome = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime that waits for signals")?
            .block_on(self.wait(stop));
        notify(&[NotifyState::Stopping]);
        // One after the other: the broker takes its leave from the nameserver.
        // A server's own failure tells more than that it ended.
        self.servers.into_iter().map(Server::stop).fold(Ok(()), anyhow::Result::and).and(outcome)
    }

    /// Waits for a reason to stop.
    async fn wait(&self, mut stop: Stop) -> anyhow::Result<()> {
        let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut watchdog = watchdog();
        loop {
            tokio::select! {
                name = stop.requested() => {
                    tracing::info!(signal = name, "stopping in order; a second signal stops at once");
                    return Ok(());
                }
                _ = hang_up.recv() => {
                    tracing::info!("SIGHUP: no setting changes while the server runs; restart it to apply new ones");
                }
                _ = look.tick() => {
                    if let Some(ended) = self.servers.iter().find(|server| server.is_finished()) {
                        tracing::error!(server = ended.name(), "a server ended by itself");
                        anyhow::bail!("the {} ended by itself", ended.name());
                    }
                }
                () = tick(&mut watchdog) => notify(&[NotifyState::Watchdog]),
            }
        }
    }
}

/// A tick at half the interval that systemd asks for; none outside systemd.
fn watchdog() -> Option<tokio::time::Interval> {
    let interval = sd_notify::watchdog_enabled()?;
    Some(tokio::time::interval((interval / 2).max(Duration::from_millis(1))))
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
