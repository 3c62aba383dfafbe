//! The wish that a run end before its time. The first signal asks for the figures so far, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Shared by who watches for signals and who measures.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopRequest {
    asked: Arc<AtomicBool>,
    measuring: Arc<AtomicBool>,
}

impl StopRequest {
    /// From here on there are figures to show.
    pub(crate) fn measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// Asks for the end.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// The end was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Completes with an error when a run is to end without figures: at the first signal while nothing is measured yet,
    /// or else at the second. The first one while something is measured only asks for the end.
    pub(crate) async fn watch_signals(&self) -> Result<()> {
        let mut signals = Signals::new()?;
        let name = signals.next().await;
        if !self.measuring.load(Ordering::Relaxed) {
            bail!("stopped by {name} before anything was measured");
        }
        self.ask();
        eprintln!("{name}: ending with the figures so far (once more: at once, without them)");
        let name = signals.next().await;
        bail!("stopped by a second {name}")
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
        Ok(Self { interrupt, terminate })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
