//! Ctrl-C and SIGTERM: the first one asks the command to end in order, the second one ends the process at once.
//!
//! They are heard by a thread of their own, so that a command that is stuck in a write to a full pipe can still be
//! ended.

use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// As a shell reports a death by SIGINT.
const ABORTED: i32 = 130;

/// The first signal, once it comes.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    heard: watch::Receiver<Option<&'static str>>,
}

impl Stop {
    /// Begins to listen; from here on a signal no longer kills the process by itself.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start the runtime that listens for signals")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
            (interrupt, signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?)
        };
        let (tell, heard) = watch::channel(None);
        let listen = async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                if tell.borrow().is_some() {
                    std::process::exit(ABORTED);
                }
                tell.send_replace(Some(name));
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen))
            .context("cannot start the thread that listens for signals")?;
        Ok(Self { heard })
    }

    /// Resolves with the name of the first signal; at once when it has come already. Cancel safe.
    pub(crate) async fn requested(&mut self) -> &'static str {
        match self.heard.wait_for(Option::is_some).await {
            Ok(name) => name.unwrap_or_default(),
            // The listener never ends.
            Err(_) => std::future::pending().await,
        }
    }
}
